"""What every evaluation loop shares: eval mode, batches from either kind of source, and their checks."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from .._core.errors import DataError, InvalidArgument
from .._core.types import Batch
from ..data.batch_protocol import unpack_forecasting_batch


@contextmanager
def eval_mode(models: Iterable[nn.Module]) -> Iterator[None]:
    """Put models into eval mode and give every submodule its own mode back afterwards."""
    modules = {module: module.training for model in models for module in model.modules()}
    for module in modules:
        module.training = False
    try:
        yield
    finally:
        for module, training in modules.items():
            module.training = training


def unpack_batch(batch: Any, device: torch.device | str, dtype: torch.dtype | None = None) -> Batch:
    """Return a loader's batch on ``device``, the inputs as ``dtype`` (None keeps theirs).

    Raises:
        DataError: as ``unpack_forecasting_batch``.
    """
    x, y, extra = unpack_forecasting_batch(batch, device)
    future = extra.get("x_future")
    if dtype is not None:
        x, future = x.to(dtype), None if future is None else future.to(dtype)
    return Batch(x, y, future)


def dtype_of(model: nn.Module) -> torch.dtype:
    """Return the dtype of a model's weights, in which it is given its input; float32 for a model without any."""
    return next((p.dtype for p in model.parameters() if p.is_floating_point()), torch.float32)


def check_finite(windows: Batch, *, batch: int, first: int, role: str) -> None:
    """Raise ``DataError`` naming batch, window and channel of the first value that is not finite.

    Args:
        windows: the batch.
        batch: number of this batch, from 0.
        first: number of its first window.
        role: which data these are, for the message.
    """
    for part, values in (("input", windows.x), ("target", windows.y), ("x_future", windows.x_future)):
        if values is None or bool(torch.isfinite(values).all()):
            continue
        window, _, channel = (int(v) for v in (~torch.isfinite(values)).nonzero()[0])
        raise DataError(
            f"{role} data: the {part} of window {first + window} (batch {batch}) has a value that is not finite "
            f"in channel {channel}."
        )


def check_forecast(name: str, pred: torch.Tensor, target: torch.Tensor) -> None:
    """Raise ``InvalidArgument`` if a forecast has another shape than its target."""
    if pred.shape != target.shape:
        raise InvalidArgument(
            f"{name} returned shape {tuple(pred.shape)}, but the targets are {tuple(target.shape)} ([B, H, C])."
        )
