"""Saving a model so that it can be rebuilt: plain data and tensors, never pickled objects."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import nn

from .._core.ambient import usual_torch
from .._core.errors import DataError, InvalidArgument
from .._core.plain import to_plain
from ..architecture.blend import BlendedForecaster
from ..architecture.build import ForecastNetwork, build_network
from ..architecture.linear import LinearForecaster, LinearSpec
from ..architecture.network import TimeSeriesDARTS
from ..architecture.spec import ArchSpec

WEIGHTS_FILE = "model.safetensors"
ARCH_FILE = "arch.json"
SCALER_FILE = "scaler.json"


def describe_model(model: nn.Module) -> dict[str, Any]:
    """Return plain data from which ``build_described`` makes the same module with fresh weights.

    Raises:
        InvalidArgument: a module of a class that this package does not build.
    """
    if isinstance(model, ForecastNetwork):
        return {"kind": "network", "spec": model.spec.to_dict()}
    if isinstance(model, LinearForecaster):
        return {"kind": "linear", "spec": to_plain(model.spec.to_dict())}
    if isinstance(model, BlendedForecaster):
        # A list: the order of the parts is the order of the weights.
        return {"kind": "blend", "parts": [[name, describe_model(part)] for name, part in model.parts.items()]}
    if isinstance(model, TimeSeriesDARTS):
        return {"kind": "searched", "config": to_plain(model.get_config()), "temperature": model.temperature}
    raise InvalidArgument(f"a {type(model).__name__} cannot be saved: it has no description to rebuild it from.")


@usual_torch()
def build_described(description: dict[str, Any]) -> nn.Module:
    """Inverse of ``describe_model``; the weights are fresh."""
    kind = description["kind"]
    if kind == "network":
        return build_network(ArchSpec.from_dict(description["spec"]), seed=0)
    if kind == "linear":
        return LinearForecaster(LinearSpec.from_dict(description["spec"]))
    if kind == "blend":
        return BlendedForecaster({name: build_described(part) for name, part in description["parts"]})
    if kind == "searched":
        model = TimeSeriesDARTS.from_config(description["config"])
        model.set_temperature(description.get("temperature", model.temperature))  # older files do not have it
        return model
    raise DataError(f"the file describes a model of kind {kind!r}, which this version does not know.")


def network_of(model: nn.Module) -> ForecastNetwork | None:
    """Return the discrete network inside a model: itself, or a part of a blend."""
    if isinstance(model, ForecastNetwork):
        return model
    if isinstance(model, BlendedForecaster):
        return next((network for part in model.parts.values() if (network := network_of(part)) is not None), None)
    return None


def save_model(
    model: nn.Module,
    filepath: str,
    *,
    final_metrics: dict[str, float] | None = None,
    training_info: dict[str, Any] | None = None,
    search_config: dict[str, Any] | None = None,
) -> None:
    """Write one file with the weights, the architecture and the figures; it loads with ``weights_only=True``."""
    network = network_of(model)
    content = {
        "model_state_dict": model.state_dict(),
        "final_metrics": final_metrics or {},
        "training_info": training_info or {},
        "search_config": search_config or {},
        "arch_spec": None if network is None else network.spec.to_dict(),
        "model_description": describe_model(model),
    }
    torch.save(to_plain(content, tensors=True), filepath)


def load_model_checkpoint(filepath: str, device: str = "cpu") -> dict[str, Any]:
    """Return the raw dictionary of a file written by ``save_model``; nothing is unpickled.

    Raises:
        DataError: the file is no such checkpoint, or damaged.
        OSError: there is no such file, or it cannot be read.
    """
    try:
        content = torch.load(filepath, map_location=device, weights_only=True)
    except OSError:
        raise
    except Exception as error:  # what torch raises depends on the bytes that it finds
        # What torch says is long, and advises to load what may run code.
        raise DataError(f"{filepath} is no checkpoint of plain tensors and data ({type(error).__name__}).") from error
    if not isinstance(content, dict) or "model_state_dict" not in content:
        raise DataError(f"{filepath} is no checkpoint: it has no 'model_state_dict'.")
    return content


def rebuild_model(checkpoint: dict[str, Any], device: torch.device | str = "cpu") -> nn.Module:
    """Return the working model of a checkpoint, in eval mode.

    Raises:
        DataError: the checkpoint holds weights but no architecture (a file of another program).
    """
    if "model_description" not in checkpoint:
        raise DataError("the checkpoint has no 'model_description': its model cannot be rebuilt from the file.")
    model = build_described(checkpoint["model_description"])
    model.load_state_dict(checkpoint["model_state_dict"])
    return model.to(device).eval()


def check_sizes(model: nn.Module, filepath: str, wanted: Mapping[str, int]) -> None:
    """Raise unless a loaded model is made for the sizes of a trainer.

    Args:
        model: what ``rebuild_model`` returned.
        filepath: where it came from, for the message.
        wanted: ``input_dim``, ``seq_length`` and ``forecast_horizon`` of the trainer.

    Raises:
        InvalidArgument: they differ; the message has both.
    """
    found = dict(zip(("input_dim", "seq_length", "forecast_horizon"), _sizes(model), strict=True))
    if found != wanted:
        texts = [", ".join(f"{name}={sizes[name]}" for name in found) for sizes in (found, wanted)]
        raise InvalidArgument(f"{filepath} holds a model for {texts[0]}, but this trainer has {texts[1]}.")


def _sizes(model: nn.Module) -> tuple[int, int, int]:
    """Return input channels C, lookback L and horizon H of a model that ``build_described`` makes."""
    if isinstance(model, BlendedForecaster):
        return _sizes(next(iter(model.parts.values())))  # all parts forecast the same
    if isinstance(model, LinearForecaster):
        return model.spec.input_dim, model.spec.seq_length, model.spec.horizon
    if isinstance(model, (ForecastNetwork, TimeSeriesDARTS)):
        macro = model.macro if isinstance(model, TimeSeriesDARTS) else model.spec.macro
        return macro.input_dim, macro.seq_length, macro.horizon
    raise InvalidArgument(f"a {type(model).__name__} does not say its sizes.")


def save_folder(model: nn.Module, folder: Path, *, scaler: dict[str, Any] | None = None) -> None:
    """Write ``model.safetensors``, ``arch.json`` and, when given, ``scaler.json`` into ``folder``."""
    folder.mkdir(parents=True, exist_ok=True)
    state = {name: value.detach().cpu().contiguous().clone() for name, value in model.state_dict().items()}
    save_file(state, folder / WEIGHTS_FILE)
    (folder / ARCH_FILE).write_text(json.dumps(describe_model(model), indent=2, sort_keys=True) + "\n")
    if scaler is not None:
        (folder / SCALER_FILE).write_text(json.dumps(to_plain(scaler), indent=2) + "\n")


def load_folder(folder: str | Path, device: torch.device | str = "cpu") -> nn.Module:
    """Return the working model that ``save_folder`` wrote, in eval mode."""
    folder = Path(folder)
    if not (folder / ARCH_FILE).is_file():
        raise DataError(f"{folder} holds no saved model: {ARCH_FILE} is missing.")
    model = build_described(json.loads((folder / ARCH_FILE).read_text()))
    model.load_state_dict(load_file(folder / WEIGHTS_FILE))
    return model.to(device).eval()
