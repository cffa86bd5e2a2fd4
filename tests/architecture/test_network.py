"""The searched network, its derivation, and the discrete network of a spec."""

from __future__ import annotations

import copy
import json
import pickle

import numpy as np
import pytest
import torch

from foreblocks.darts import TimeSeriesDARTS
from foreblocks.darts._core.errors import DataError, InvalidArgument
from foreblocks.darts.architecture.build import build_network
from foreblocks.darts.architecture.derive import derive_final_architecture, derive_network, derive_spec, derived_path
from foreblocks.darts.architecture.spec import ARCH_MODES, ArchSpec, Macro
from foreblocks.darts.training.checkpoint import build_described, describe_model

OPS = ["Identity", "TimeConv", "GRN", "DLinear", "Fourier"]
LAYOUTS = [("mixed", 1), ("mixed", 8), ("independent", 8), ("variate", 1)]


def network(**changes) -> TimeSeriesDARTS:
    torch.manual_seed(0)
    settings = {
        "input_dim": 3, "hidden_dim": 8, "latent_dim": 8, "forecast_horizon": 5, "seq_length": 24, "num_cells": 1,
        "num_nodes": 4, "selected_ops": OPS, "arch_mode": "encoder_only",
    }  # fmt: skip
    return TimeSeriesDARTS(**{**settings, **changes})


@pytest.mark.parametrize("mode", ARCH_MODES)
@pytest.mark.parametrize(("channel_mode", "patch_len"), LAYOUTS)
@pytest.mark.parametrize("head", ["flatten", "factorised", "last"])
def test_every_parameter_gets_a_gradient(mode: str, channel_mode: str, patch_len: int, head: str) -> None:
    model = network(arch_mode=mode, channel_mode=channel_mode, patch_len=patch_len, head=head)
    y = model(torch.randn(4, 24, 3))
    assert y.shape == (4, 5, 3)
    y.square().mean().backward()
    assert [name for name, p in model.named_parameters() if p.grad is None] == []
    assert all(torch.isfinite(p.grad).all() for p in model.parameters())


@pytest.mark.parametrize("mode", ARCH_MODES)
@pytest.mark.parametrize(("channel_mode", "patch_len"), LAYOUTS)
def test_derived_network_equals_the_derived_path(mode: str, channel_mode: str, patch_len: int) -> None:
    model = network(arch_mode=mode, channel_mode=channel_mode, patch_len=patch_len).eval()
    with torch.no_grad():
        for alpha in model.arch_parameters():
            alpha.normal_()
    x = torch.randn(4, 24, 3)
    before = model(x)
    fixed = derive_network(model)
    with derived_path(model):
        torch.testing.assert_close(model(x), fixed(x), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(model(x), before)
    assert sum(p.numel() for p in fixed.parameters()) < sum(p.numel() for p in model.parameters())


def test_spec_survives_json_and_rebuilds_the_same_network() -> None:
    model = network()
    spec = derive_spec(model)
    again = ArchSpec.from_json(spec.to_json())
    assert again == spec
    assert hash(again) == hash(spec)
    assert again.diff(spec) == []
    fixed, rebuilt = derive_network(model), build_network(again)
    rebuilt.load_state_dict(fixed.state_dict())
    x = torch.randn(2, 24, 3)
    torch.testing.assert_close(rebuilt.eval()(x), fixed(x), rtol=0, atol=0)


def test_equal_specs_have_one_text_whatever_kind_of_number_they_came_as() -> None:
    plain = ArchSpec(Macro(3, 16, 4, dropout=0.0), ())
    other = ArchSpec(Macro(np.int64(3), 16, np.int32(4), dropout=0), ())
    assert plain == other
    assert (plain.to_json(), hash(plain), plain.digest) == (other.to_json(), hash(other), other.digest)


@pytest.mark.parametrize(
    ("path", "named"),
    [
        (("cells",), "ArchSpec.*cells"),
        (("macro", "horizon"), "Macro.*horizon"),
        (("cells", 0, "edges"), "CellSpec.*edges"),
        (("cells", 0, "edges", 0, "op"), "EdgeSpec.*op"),
        (("cells", 0, "edges", 0, "op", "path"), "OpSpec.*path"),
    ],
)
def test_a_field_that_a_spec_lacks_or_does_not_know_is_named(path: tuple, named: str) -> None:
    whole = derive_spec(network()).to_dict()
    lacking, strange = copy.deepcopy(whole), copy.deepcopy(whole)
    place, other = lacking, strange
    for key in path[:-1]:
        place, other = place[key], other[key]
    del place[path[-1]]
    other["colour"] = 1
    with pytest.raises(InvalidArgument, match=named):
        ArchSpec.from_dict(lacking)
    with pytest.raises(InvalidArgument, match="colour"):
        ArchSpec.from_dict(strange)


def test_two_inputs_a_node_are_kept() -> None:
    spec = derive_spec(network(num_nodes=4))
    counts = [sum(e.target == node for e in spec.cells[0].edges) for node in (1, 2, 3)]
    assert counts == [1, 2, 2]


def test_gdas_runs_one_op_and_its_gradient_reaches_every_logit() -> None:
    model = network(use_gdas=True, num_nodes=2).train()
    edge = model.cells[0].edges[0]
    ran: list[str] = []
    for name, op in edge.ops.items():
        op.register_forward_hook(lambda *_a, name=name: ran.append(name))
    model(torch.randn(2, 24, 3)).square().mean().backward()
    assert len(ran) == 1
    assert (edge.op_logits.grad != 0).all()


def test_relaxation_can_be_switched() -> None:
    model = network(num_nodes=2)
    model.set_relaxation("gdas")
    assert model.cells[0].edges[0].relaxation.name == "gdas"
    assert model.get_config()["use_gdas"] is True


def test_new_ops_are_in_the_mode_of_the_network() -> None:
    model = network(num_nodes=2).eval()
    model.set_relaxation("pc")
    assert not any(part.training for part in model.modules())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_a_searched_network_forecasts_in_half_precision(dtype: torch.dtype) -> None:
    model = network(num_nodes=3).eval()
    model.cells[0].edges[0].keep_only(torch.tensor([True, True, False, True, True]))
    x = torch.randn(2, 24, 3).to(dtype)
    wanted = model(x.float())
    found = copy.deepcopy(model).to(dtype)(x)
    assert found.dtype == dtype
    torch.testing.assert_close(found.float(), wanted, atol=0.1, rtol=0.05)


def test_a_rebuilt_searched_network_forecasts_the_same() -> None:
    model = network().eval()
    with torch.no_grad():
        for alpha in model.arch_parameters():
            alpha.normal_()
    model.set_temperature(0.4)
    again = build_described(json.loads(json.dumps(describe_model(model))))
    again.load_state_dict(model.state_dict())
    x = torch.randn(2, 24, 3)
    torch.testing.assert_close(again.eval()(x), model(x))


def test_pruned_ops_never_run_again_and_probabilities_stay_valid() -> None:
    model = network(num_nodes=2)
    edge = model.cells[0].edges[0]
    with torch.no_grad():
        edge.op_logits.copy_(torch.tensor([0.0, 5.0, 0.0, 0.0, 0.0]))
    report = model.prune_weak_operations(0.5)
    assert report["operations_pruned"] > 0
    assert float(edge.probabilities().sum()) == pytest.approx(1.0)
    model(torch.randn(2, 24, 3)).square().mean().backward()
    assert torch.isfinite(edge.op_logits.grad).all()
    pruned = [name for name in edge.names if name not in edge.running]
    assert all(p.grad is None for name in pruned for p in edge.ops[name].parameters())


def test_config_round_trip_profiles_and_pickle() -> None:
    model = network()
    again = TimeSeriesDARTS.from_config(model.get_config())
    again.load_state_dict(model.state_dict())
    x = torch.randn(2, 24, 3)
    torch.testing.assert_close(again.eval()(x), model.eval()(x))
    assert TimeSeriesDARTS.with_search_profile("aggressive", selected_ops=["Identity", "GRN"]).macro.horizon == 24
    torch.testing.assert_close(pickle.loads(pickle.dumps(model))(x), model(x))


@pytest.mark.parametrize(
    "macro",
    [
        Macro(3, 24, 5, hidden_dim=16, arch_mode="mamba", series_norm="last", patch_len=8, head="last", num_layers=2),
        Macro(2, 9, 4, hidden_dim=12, attention="linear", ffn="moe", num_heads=3, dropout=0.2, channel_mode="variate"),
    ],
)
def test_a_network_is_built_around_its_macro(macro: Macro) -> None:
    model = TimeSeriesDARTS.from_macro(macro, num_cells=1, num_nodes=2, selected_ops=["Identity", "GRN"])
    assert model.macro == macro
    assert TimeSeriesDARTS.from_config(model.get_config()).macro == macro
    assert len(model.edges) == 1
    with pytest.raises(TypeError, match=r"num_node.*num_nodes"):
        TimeSeriesDARTS.from_macro(macro, num_node=3)


def test_exports_with_a_dynamic_batch() -> None:
    fixed = derive_network(network(channel_mode="independent", patch_len=8))
    batch = torch.export.Dim("batch", min=2, max=64)
    program = torch.export.export(fixed, (torch.randn(4, 24, 3),), dynamic_shapes={"x": {0: batch}})
    x = torch.randn(7, 24, 3)
    torch.testing.assert_close(program.module()(x), fixed(x), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"hidden_dim": 10, "num_heads": 4, "latent_dim": 10}, "num_heads"),
        ({"patch_len": 48}, "patch_len"),
        ({"arch_mode": "rnn"}, "arch_mode"),
        ({"selected_ops": ["TimeConvv"]}, "TimeConv"),
        ({"latent_dim": 16}, "latent_dim"),
        ({"num_cells": 0}, "num_cells"),
        ({"selected_ops": []}, "leaves no op"),
        ({"final_temperature": 0.0, "temperature_schedule": "exponential"}, "final_temperature"),
        ({"temperature_warmup_epochs": -1}, "temperature_warmup_epochs"),
    ],
)
def test_bad_arguments_are_named(changes: dict, named: str) -> None:
    with pytest.raises(InvalidArgument, match=named):
        network(**changes)


def test_short_and_long_sizes_work() -> None:
    assert network(seq_length=1)(torch.randn(2, 1, 3)).shape == (2, 5, 3)
    assert network(seq_length=4, forecast_horizon=30)(torch.randn(2, 4, 3)).shape == (2, 30, 3)
    with pytest.raises(DataError, match="24"):
        network()(torch.randn(2, 23, 3))


def test_discrete_network_is_returned_as_a_copy() -> None:
    fixed = derive_network(network())
    copy = derive_final_architecture(fixed)
    assert copy is not fixed
    x = torch.randn(2, 24, 3)
    torch.testing.assert_close(copy(x), fixed(x))
