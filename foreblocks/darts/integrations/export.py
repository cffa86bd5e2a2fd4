"""A model as one file that runs without this package: ONNX, ``torch.export`` or a compiled library.

Sources: the exporters of PyTorch (``torch.export``, ``torch.onnx.export(dynamo=True)``, AOTInductor) and ONNX Runtime.
Whatever the kind, the graph holds plain PyTorch operations: no compiled kernel of this package has to be there.
"""

from __future__ import annotations

import copy
import json
import logging
import os
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple, cast, final, get_args

import torch
from torch import Tensor, nn

from .._core.ambient import usual_torch
from .._core.errors import DartsError, InvalidArgument, check_choice
from .._core.optional import require
from ..architecture.blend import BlendedForecaster
from ..architecture.build import ForecastNetwork
from ..architecture.linear import LinearForecaster
from ..data.recipe import DataRecipe
from ..data.scaling import StandardScaler

_Forecaster = ForecastNetwork | LinearForecaster | BlendedForecaster

Kind = Literal["onnx", "pt2", "aoti"]
KINDS: tuple[Kind, ...] = get_args(Kind)
# The first kind of a suffix is the one that it means.
SUFFIXES: Mapping[Kind, str] = {"onnx": ".onnx", "pt2": ".pt2", "aoti": ".pt2"}
METADATA = "foreblocks_darts.json"
# In deviations of the data. Float32 in another order differs by 1e-6; a wrong graph by far more than this.
TOLERANCE = 1e-4
_BATCHES = (1, 5)  # other than the 3 that is traced
_TRACED = 3  # 1 would be taken for a constant


class ExportError(DartsError, RuntimeError):
    """A model could not be exported, or what was written forecasts something else."""


@dataclass(frozen=True)
class Export:
    """What was written.

    Attributes:
        path: the file.
        kind: ``onnx``, ``pt2`` or ``aoti``.
        inputs: name → shape, ``"batch"`` for the free size, in the order of the call.
        output: shape of the forecast, ``("batch", H, C_out)``.
        dtype: of inputs and output: ``float64`` in the units of the data, else that of the model.
        difference: largest one between the file's forecasts and the model's, in deviations of the data.
        size: bytes.
        seconds: time that it took.
    """

    path: Path
    kind: Kind
    inputs: dict[str, tuple[int | str, ...]]
    output: tuple[int | str, ...]
    dtype: str
    difference: float
    size: int
    seconds: float


@usual_torch()
def export_model(
    model: nn.Module, path: str | os.PathLike[str], *, kind: Kind | None = None, recipe: DataRecipe | None = None
) -> Export:
    """Write a model as one file that runs without this package, for any batch size.

    Parts of a blend whose weight is 0 are left out. The file is loaded again and must forecast what the model does
    before it takes the place of ``path``; the model itself stays as it is.

    Args:
        model: a network, linear forecaster or blend, such as ``results["final_model"]`` or ``SavedRun.load_model()``.
        path: the file; its suffix decides the kind where that is not given.
        kind: ``"onnx"``: for ONNX Runtime and others. ``"pt2"``: for ``torch.export.load(path).module()``. ``"aoti"``:
            machine code for this processor, for ``torch._inductor.aoti_load_package(path)``; needs a C++ compiler
            here, not where it runs.
        recipe: how the data were made, such as ``prepared.recipe`` or ``SavedRun.recipe``. With it the file reads and
            forecasts float64 in the units of the data; without it, scaled values as the model does.

    Raises:
        InvalidArgument: a model that is not derived, sizes that differ from the recipe, an unknown kind or suffix.
        OptionalDependencyError: ONNX needs ``pip install 'foreblocks-darts[export]'``.
        ExportError: the exporter failed, or the file forecasts something else than the model.
        OSError: the folder cannot be written.
    """
    began = time.perf_counter()
    target, kind = check_export_path(path, kind)
    if kind == "onnx":
        for package in ("onnx", "onnxscript", "onnxruntime"):
            require(package, extra="export", feature="export to ONNX")
    if not target.parent.is_dir():
        raise FileNotFoundError(f"path={str(target)!r}: the folder {str(target.parent)!r} does not exist.")
    call = _standalone(model, recipe)
    if kind == "onnx":
        call = call.cpu()  # the format knows no device
    with tempfile.TemporaryDirectory(prefix=f".{target.stem}-", dir=target.parent) as folder:
        written = Path(folder) / f"model{SUFFIXES[kind]}"
        with _quiet():
            try:
                _WRITERS[kind](call, written, _metadata(call, recipe))
                run = _LOADERS[kind](written)
            except Exception as error:  # whatever an exporter or a compiler raises
                raise ExportError(f"export of the model as {kind} failed: {type(error).__name__}: {error}") from error
            difference = _compare(call, run)
        size = written.stat().st_size
        os.replace(written, target)
    inputs: dict[str, tuple[int | str, ...]] = {name: ("batch", *shape) for name, shape in call.inputs.items()}
    output = ("batch", call.sizes.horizon, call.sizes.outputs)
    dtype = str(call.dtype).removeprefix("torch.")
    return Export(target, kind, inputs, output, dtype, difference, size, time.perf_counter() - began)


def check_export_path(
    path: str | os.PathLike[str], kind: Kind | None = None, *, argument: str = "path"
) -> tuple[Path, Kind]:
    """Return the file and the kind to write; raise ``InvalidArgument`` unless they fit each other."""
    target = Path(path)
    if kind is None:
        found: Kind | None = next((name for name, suffix in SUFFIXES.items() if suffix == target.suffix), None)
        if found is None:
            raise InvalidArgument(f"{argument}={str(path)!r} must end in one of {sorted(set(SUFFIXES.values()))}.")
        return target, found
    suffix = SUFFIXES[check_choice("kind", kind, KINDS)]
    if target.suffix != suffix:
        raise InvalidArgument(f"{argument}={str(path)!r} must end in {suffix!r} for kind={kind!r}.")
    return target, kind


class _Sizes(NamedTuple):
    lookback: int
    channels: int
    horizon: int
    outputs: int
    future: int


@final
class _Scale(nn.Module):
    """Mean and deviation of some channels, in float64."""

    mean: Tensor
    std: Tensor

    def __init__(self, scaler: StandardScaler) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor(scaler.mean, dtype=torch.float64))
        self.register_buffer("std", torch.tensor(scaler.std, dtype=torch.float64))

    def down(self, values: Tensor) -> Tensor:
        """Return values in the units of the data as what the model reads."""
        return (values - self.mean) / self.std

    def up(self, values: Tensor) -> Tensor:
        """Return what the model gives in the units of the data."""
        return values.double() * self.std + self.mean


@final
class _Standalone(nn.Module):
    """A model in eval mode with its scaling: all that goes into the file.

    Args:
        model: a copy that belongs to this module.
        recipe: see ``export_model``.
    """

    def __init__(self, model: _Forecaster, recipe: DataRecipe | None) -> None:
        super().__init__()
        self.sizes = _sizes(model)
        tensor = next(iter(model.state_dict().values()))
        self.inner, device = tensor.dtype, tensor.device
        self.dtype = self.inner if recipe is None else torch.float64
        self.model = model.eval().requires_grad_(False)
        self.scales = nn.ModuleDict()
        if recipe is not None:
            names = {"x": recipe.channels, "x_future": recipe.future, "forecast": recipe.outputs}
            scales = {name: _Scale(recipe.scaler.select(channels)) for name, channels in names.items()}
            self.scales.update({name: scale.to(device) for name, scale in scales.items()})

    @property
    def inputs(self) -> dict[str, tuple[int, int]]:
        """Name → shape of each input without the batch, in the order of the call."""
        shapes = {"x": (self.sizes.lookback, self.sizes.channels)}
        return {**shapes, "x_future": (self.sizes.horizon, self.sizes.future)} if self.sizes.future else shapes

    def forward(self, x: Tensor, x_future: Tensor | None = None) -> Tensor:
        """Return the forecast ``[B, H, C_out]`` of ``x [B, L, C]`` and ``x_future [B, H, F]``."""
        inputs = [x] if x_future is None else [x, x_future]
        if not self.scales:
            return self.model(*inputs)
        scaled = [self._scale(name).down(value).to(self.inner) for name, value in zip(self.inputs, inputs, strict=True)]
        return self._scale("forecast").up(self.model(*scaled))

    def example(self, batch: int) -> tuple[Tensor, ...]:
        """Return inputs of a batch, of the size that they have on the train rows."""
        noise = torch.Generator().manual_seed(batch)
        device = next(iter(self.model.state_dict().values())).device
        inputs = []
        for name, shape in self.inputs.items():
            value = torch.randn(batch, *shape, generator=noise, dtype=torch.float64).to(device)
            inputs.append((self._scale(name).up(value) if self.scales else value).to(self.dtype))
        return tuple(inputs)

    def _scale(self, name: str) -> _Scale:
        return cast("_Scale", self.scales[name])


def _standalone(model: nn.Module, recipe: DataRecipe | None) -> _Standalone:
    if not isinstance(model, (ForecastNetwork, LinearForecaster, BlendedForecaster)):
        raise InvalidArgument(
            f"model is a {type(model).__name__}; a ForecastNetwork, LinearForecaster or BlendedForecaster can be "
            "exported. derive_final_architecture makes the first of a searched network."
        )
    own = copy.deepcopy(model)
    call = _Standalone(own.without_idle_parts() if isinstance(own, BlendedForecaster) else own, recipe)
    if recipe is not None:
        future = len(recipe.future) if call.sizes.future else 0
        given = _Sizes(recipe.lookback, len(recipe.channels), recipe.horizon, len(recipe.outputs), future)
        if given != call.sizes:
            raise InvalidArgument(
                f"recipe is of data with {given._asdict()}, but the model has {call.sizes._asdict()}."
            )
    return call


def _sizes(model: nn.Module) -> _Sizes:
    if isinstance(model, BlendedForecaster):
        parts = [_sizes(part) for part in model.parts.values()]
        return parts[0]._replace(future=max(part.future for part in parts))
    if isinstance(model, LinearForecaster):
        spec = model.spec
        return _Sizes(spec.seq_length, spec.input_dim, spec.horizon, spec.output_dim, 0)
    if isinstance(model, ForecastNetwork):
        macro = model.spec.macro
        return _Sizes(macro.seq_length, macro.input_dim, macro.horizon, macro.output_dim, macro.future_dim)
    raise InvalidArgument(f"model has a part of class {type(model).__name__}, which does not say its sizes.")


def _metadata(call: _Standalone, recipe: DataRecipe | None) -> str:
    """Return what a user of the file has to know, as JSON."""
    known: dict[str, Any] = {"inputs": call.inputs, "units": "scaled" if recipe is None else "data"}
    if recipe is not None:
        known |= {
            "series": recipe.series, "step": None if recipe.step is None else str(recipe.step),
            "channels": recipe.channels, "outputs": recipe.outputs, "future": recipe.future,
        }  # fmt: skip
    return json.dumps(known)


def _traced(call: _Standalone) -> torch.export.ExportedProgram:
    with torch.no_grad():
        return torch.export.export(call, call.example(_TRACED), dynamic_shapes=_shapes(call))


def _shapes(call: _Standalone) -> tuple[dict[int, torch.export.Dim], ...]:
    """Say that the first size of each input is free: the same one for all."""
    batch = torch.export.Dim("batch")
    return tuple({0: batch} for _ in call.inputs)


def _write_pt2(call: _Standalone, path: Path, metadata: str) -> None:
    torch.export.save(_traced(call), path, extra_files={METADATA: metadata})


def _write_aoti(call: _Standalone, path: Path, metadata: str) -> None:
    options = {"aot_inductor.metadata": {METADATA: metadata}}
    torch._inductor.aoti_compile_and_package(_traced(call), package_path=str(path), inductor_configs=options)


def _write_onnx(call: _Standalone, path: Path, metadata: str) -> None:
    program = torch.onnx.export(
        call, call.example(_TRACED), dynamic_shapes=_shapes(call), dynamo=True, verbose=False,
        input_names=list(call.inputs), output_names=["forecast"],
    )  # fmt: skip
    assert program is not None, "dynamo=True returns a program"
    program.model.metadata_props[METADATA] = metadata
    program.save(str(path), external_data=False)


_Run = Callable[[tuple[Tensor, ...]], Tensor]


def _load_pt2(path: Path) -> _Run:
    module = torch.export.load(path).module()
    return lambda inputs: module(*inputs)


def _load_aoti(path: Path) -> _Run:
    package = torch._inductor.aoti_load_package(str(path))
    return lambda inputs: package(*inputs)


def _load_onnx(path: Path) -> _Run:
    session = require("onnxruntime", extra="export", feature="export to ONNX").InferenceSession(str(path))
    names = [each.name for each in session.get_inputs()]

    def run(inputs: tuple[Tensor, ...]) -> Tensor:
        feed = {name: value.numpy() for name, value in zip(names, inputs, strict=True)}
        return torch.from_numpy(session.run(None, feed)[0])

    return run


_WRITERS: Mapping[Kind, Callable[[_Standalone, Path, str], None]] = {
    "onnx": _write_onnx, "pt2": _write_pt2, "aoti": _write_aoti,
}  # fmt: skip
_LOADERS: Mapping[Kind, Callable[[Path], _Run]] = {"onnx": _load_onnx, "pt2": _load_pt2, "aoti": _load_aoti}


def _compare(call: _Standalone, run: _Run) -> float:
    """Return the largest difference of a file's forecasts, in deviations of the data; raise if it is too large."""
    largest = []
    for batch in _BATCHES:
        inputs = call.example(batch)
        with torch.no_grad():
            wanted, found = call(*inputs), run(inputs)
        if found.shape != wanted.shape:
            raise ExportError(f"the exported model gives {tuple(found.shape)}, the model {tuple(wanted.shape)}.")
        deviations = found - wanted
        if call.scales:
            deviations = deviations / call.scales["forecast"].std
        largest.append(deviations.abs().max())
    worst = float(torch.stack(largest).max())  # NaN if one of them is
    if not worst <= TOLERANCE:
        raise ExportError(
            f"the exported model differs from the model by {worst:.2g} deviations, more than {TOLERANCE}."
        )
    return worst


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep the exporters' remarks from the user: on packages that no forecast needs, on optimizations left out."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript", "onnx_ir")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(action="ignore"):
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
