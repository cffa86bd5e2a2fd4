"""Exported files: they forecast what the model does, without it, and say what they are."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from foreblocks.darts._core.errors import InvalidArgument, OptionalDependencyError
from foreblocks.darts.architecture.blend import BlendedForecaster
from foreblocks.darts.architecture.build import build_network
from foreblocks.darts.architecture.linear import LinearForecaster, LinearSpec
from foreblocks.darts.architecture.network import TimeSeriesDARTS
from foreblocks.darts.architecture.spec import ArchSpec, CellSpec, EdgeSpec, Macro, OpSpec
from foreblocks.darts.data.recipe import DataRecipe
from foreblocks.darts.data.scaling import StandardScaler
from foreblocks.darts.integrations import export
from foreblocks.darts.integrations.export import METADATA, ExportError, export_model
from foreblocks.darts.ops.registry import get_op, op_names

L, C, H, F = 16, 3, 4, 2


def network(*ops: str, **choices):
    """Return a network with one chain of ops, its weights far from their start."""
    cells = []
    for first in range(0, len(ops), 4):
        names = ops[first : first + 4]
        edges = [EdgeSpec(i, i + 1, OpSpec(name, get_op(name).path)) for i, name in enumerate(names)]
        cells.append(CellSpec(len(names) + 1, tuple(edges)))
    macro = Macro(C, L, H, hidden_dim=8, **choices)
    return build_network(ArchSpec(macro, tuple(cells)), seed=1).eval()


def network_size(model) -> int:
    return sum(4 * each.numel() for each in model.parameters())


def linear(**choices):
    spec = LinearSpec("shared", "last", C, L, H, **choices)
    return LinearForecaster.from_weight(spec, torch.randn(H, L, generator=torch.Generator().manual_seed(3)))


def recipe(future=(), targets=None, lookback=L):
    channels = ("load", "wind", "sun")
    scaler = StandardScaler(channels, (5000.0, -3.0, 1e-6), (120.0, 2.0, 1e-7))
    return DataRecipe(scaler, lookback, H, "grid", None, targets, future)


def inputs(batch: int, dtype=torch.float32, scale: StandardScaler | None = None):
    x = torch.randn(batch, L, C, generator=torch.Generator().manual_seed(batch), dtype=torch.float64)
    return (x if scale is None else scale.inverse(x)).to(dtype)


def run_onnx(path: Path, *arrays: torch.Tensor) -> torch.Tensor:
    session = pytest.importorskip("onnxruntime").InferenceSession(str(path))
    feed = {each.name: array.numpy() for each, array in zip(session.get_inputs(), arrays, strict=True)}
    return torch.from_numpy(session.run(["forecast"], feed)[0])


def test_a_pt2_file_forecasts_in_the_units_of_the_data(tmp_path):
    model, made = BlendedForecaster({"ridge": linear(), "network": network("TCN", "DLinear")}, (0.4, 0.6)), recipe()
    written = export_model(model, tmp_path / "m.pt2", recipe=made)
    x = inputs(7, torch.float64, made.scaler)
    found = torch.export.load(tmp_path / "m.pt2").module()(x)
    with torch.no_grad():
        wanted = made.scaler.inverse(model(made.scaler.transform(x).float()).double())
    # Float32 alone could not hold the third channel beside the first.
    torch.testing.assert_close(
        (found - wanted) / torch.tensor(made.scaler.std), torch.zeros(7, H, C).double(), atol=1e-5, rtol=0
    )
    assert found.dtype == torch.float64
    assert (written.kind, written.dtype, written.inputs, written.output) == (
        "pt2", "float64", {"x": ("batch", L, C)}, ("batch", H, C),
    )  # fmt: skip
    assert written.size == (tmp_path / "m.pt2").stat().st_size
    assert written.difference < 1e-5
    assert [each.name for each in tmp_path.iterdir()] == ["m.pt2"]


def test_without_a_recipe_it_reads_scaled_values(tmp_path):
    model = linear()
    written = export_model(model, tmp_path / "m.pt2")
    x = inputs(6)
    torch.testing.assert_close(torch.export.load(tmp_path / "m.pt2").module()(x), model(x))
    assert written.dtype == "float32"


def test_covariates_and_targets(tmp_path):
    model = network("TimeConv", "Fourier", future_dim=F, target_channels=(2, 0))
    made = recipe(future=("wind", "sun"), targets=("sun", "load"))
    written = export_model(model, tmp_path / "m.pt2", recipe=made)
    assert written.inputs == {"x": ("batch", L, C), "x_future": ("batch", H, F)}
    x, known = inputs(2, torch.float64, made.scaler), torch.randn(2, H, F).double()
    scales = made.scaler.select(made.future), made.scaler.select(made.outputs)
    found = torch.export.load(tmp_path / "m.pt2").module()(x, scales[0].inverse(known))
    with torch.no_grad():
        wanted = scales[1].inverse(model(made.scaler.transform(x).float(), known.float()).double())
    torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-9)


def test_the_file_says_what_it_is(tmp_path):
    export_model(linear(), tmp_path / "m.pt2", recipe=recipe())
    files = {METADATA: ""}
    torch.export.load(tmp_path / "m.pt2", extra_files=files)
    said = json.loads(files[METADATA])
    assert said["inputs"] == {"x": [L, C]}
    assert said["channels"] == said["outputs"] == ["load", "wind", "sun"]
    assert (said["units"], said["series"]) == ("data", "grid")


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["encoder_only", "decoder_only", "encoder_decoder", "mamba"])
def test_every_op_and_mode_runs_in_onnx_runtime(tmp_path, mode):
    pytest.importorskip("onnxscript")
    names = op_names()
    quarter = ["encoder_only", "decoder_only", "encoder_decoder", "mamba"].index(mode)
    model = network(
        *names[quarter::4], arch_mode=mode, channel_mode=("mixed", "independent", "variate", "mixed")[quarter]
    )
    written = export_model(model, tmp_path / "m.onnx")
    for batch in (1, 6):
        found = run_onnx(tmp_path / "m.onnx", inputs(batch))
        with torch.no_grad():
            torch.testing.assert_close(found, model(inputs(batch)), rtol=1e-4, atol=1e-5)
    assert written.kind == "onnx"


def test_onnx_has_names_units_and_metadata(tmp_path):
    onnx = pytest.importorskip("onnx")
    pytest.importorskip("onnxscript")
    made = recipe()
    model = linear()
    export_model(model, tmp_path / "m.onnx", recipe=made)
    file = onnx.load(tmp_path / "m.onnx")
    assert [each.name for each in file.graph.input] == ["x"]
    assert [each.name for each in file.graph.output] == ["forecast"]
    sizes = [[d.dim_param or d.dim_value for d in each.type.tensor_type.shape.dim] for each in file.graph.input]
    assert sizes == [["batch", L, C]]
    assert json.loads({p.key: p.value for p in file.metadata_props}[METADATA])["channels"] == list(made.channels)
    x = inputs(9, torch.float64, made.scaler)
    wanted = made.scaler.inverse(model(made.scaler.transform(x).float()).double())
    found = run_onnx(tmp_path / "m.onnx", x)
    torch.testing.assert_close(made.scaler.transform(found), made.scaler.transform(wanted), rtol=1e-5, atol=1e-5)


def test_onnx_takes_covariates(tmp_path):
    pytest.importorskip("onnxscript")
    model = BlendedForecaster({"ridge": linear(), "network": network("TimeConv", future_dim=F)})
    export_model(model, tmp_path / "m.onnx")
    known = torch.randn(5, H, F)
    with torch.no_grad():
        torch.testing.assert_close(
            run_onnx(tmp_path / "m.onnx", inputs(5), known), model(inputs(5), known), rtol=1e-4, atol=1e-5
        )


@pytest.mark.slow
def test_a_compiled_library_forecasts_the_same(tmp_path):
    model = network("TCN", "GRN")
    written = export_model(model, tmp_path / "m.pt2", kind="aoti")
    package = torch._inductor.aoti_load_package(str(tmp_path / "m.pt2"))
    with torch.no_grad():
        torch.testing.assert_close(package(inputs(4)), model(inputs(4)), rtol=1e-4, atol=1e-5)
    assert written.kind == "aoti"


def test_what_the_caller_has_set_changes_nothing(tmp_path):
    model = network("TCN", "Fourier")
    plain = export_model(model, tmp_path / "plain.pt2", recipe=recipe())
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        with torch.inference_mode(), torch.device("meta"):
            written = export_model(model, tmp_path / "m.pt2", recipe=recipe())
        assert torch.get_default_dtype() == torch.float64
    finally:
        torch.set_default_dtype(before)
    assert (written.inputs, written.dtype, written.difference) == (plain.inputs, plain.dtype, plain.difference)


def test_idle_parts_are_left_out(tmp_path):
    idle, used = network("TCN", "TimesNet", "GRN", "TCN"), linear()
    model = BlendedForecaster({"ridge": used, "network": idle}, (1.0, 0.0))
    written = export_model(model, tmp_path / "m.pt2")
    alone = export_model(used, tmp_path / "alone.pt2")
    assert written.size - alone.size < 8_000 < network_size(idle)
    assert model.names == ("ridge", "network")


def test_the_model_stays_as_it_was(tmp_path):
    model = network("TCN", "GRN").train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    torch.manual_seed(5)
    state = torch.get_rng_state()
    export_model(model, tmp_path / "m.pt2")
    assert model.training
    assert all(p.requires_grad for p in model.parameters())
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert torch.equal(torch.get_rng_state(), state)


def test_another_file_is_replaced_only_by_a_good_one(tmp_path, monkeypatch):
    path = tmp_path / "m.pt2"
    path.write_text("mine")

    def wrong(_path):
        return lambda given: given[0][:, :H] + 1.0

    monkeypatch.setitem(export._LOADERS, "pt2", wrong)
    with pytest.raises(ExportError, match="differs from the model by"):
        export_model(linear(), path)
    monkeypatch.setitem(export._LOADERS, "pt2", lambda _path: lambda given: given[0])
    with pytest.raises(ExportError, match="gives"):
        export_model(linear(), path)
    monkeypatch.setattr(torch.export, "export", lambda *_, **__: 1 / 0)
    with pytest.raises(ExportError, match="ZeroDivisionError"):
        export_model(linear(), path)
    assert path.read_text() == "mine"
    assert list(tmp_path.iterdir()) == [path]


def test_a_forecast_that_is_not_a_number_is_refused(tmp_path):
    broken = linear()
    broken.weight[0, 0] = float("nan")
    with pytest.raises(ExportError, match="nan"):
        export_model(broken, tmp_path / "m.pt2")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"model": nn.Linear(2, 2)}, "model is a Linear"),
        ({"path": "m.pth"}, r"must end in one of \['.onnx', '.pt2'\]"),
        ({"path": "m.onnx", "kind": "aoti"}, r"must end in '.pt2' for kind='aoti'"),
        ({"kind": "torchscript"}, "kind='torchscript' is not allowed"),
        ({"recipe": recipe(lookback=L + 1)}, f"'lookback': {L + 1}.*'lookback': {L},"),
        ({"recipe": recipe(targets=("sun",))}, "'outputs': 1.*'outputs': 3"),
    ],
)
def test_refused(tmp_path, arguments, message):
    given = {"model": linear(), "path": "m.pt2", **arguments}
    with pytest.raises(InvalidArgument, match=message):
        export_model(given.pop("model"), tmp_path / given.pop("path"), **given)
    assert not list(tmp_path.iterdir())


def test_a_searched_network_is_refused_with_the_way_out(tmp_path):
    model = TimeSeriesDARTS(C, 8, 8, H, L, selected_ops=["Identity", "TCN"])
    with pytest.raises(InvalidArgument, match="derive_final_architecture"):
        export_model(model, tmp_path / "m.pt2")


def test_a_missing_folder_and_a_missing_package(tmp_path, monkeypatch):
    with pytest.raises(FileNotFoundError, match="does not exist"):
        export_model(linear(), tmp_path / "no" / "m.pt2")
    monkeypatch.setitem(__import__("sys").modules, "onnxscript", None)
    with pytest.raises(OptionalDependencyError, match=r"foreblocks-darts\[export\]"):
        export_model(linear(), tmp_path / "m.onnx")


def test_large_values_that_differ_little(tmp_path):
    """Values near 1e9 that differ by ones: float32 would read them all alike."""
    scaler = StandardScaler(("a", "b", "c"), (1e9,) * 3, (1.0,) * 3)
    made = DataRecipe(scaler, L, H, "big", None)
    model = linear()
    export_model(model, tmp_path / "m.pt2", recipe=made)
    x = inputs(3, torch.float64, scaler)
    found = torch.export.load(tmp_path / "m.pt2").module()(x)
    wanted = model(scaler.transform(x).float()).double() + 1e9
    np.testing.assert_allclose(found.numpy() - 1e9, wanted.numpy() - 1e9, atol=1e-4)
