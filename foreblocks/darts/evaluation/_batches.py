"""What every evaluation loop shares: eval mode, batches from either kind of source, and their checks."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from .._core.errors import DataError, InvalidArgument
from .._core.logging import get_logger, log_once
from .._core.types import WindowSource

_logger = get_logger(__name__)


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


def unpack_batch(batch: Any, device: torch.device | str) -> tuple[torch.Tensor, torch.Tensor]:
    """Return ``x [B, L, C]`` and ``y [B, H, C]`` of a loader's batch on ``device``.

    Raises:
        DataError: the batch is no list or tuple of at least two tensors.
    """
    if not isinstance(batch, (list, tuple)) or len(batch) < 2:
        raise DataError(f"a batch must be a list or tuple (x, y, ...); got {type(batch).__name__}.")
    if len(batch) > 2:
        log_once(_logger, logging.WARNING, "Batches hold more than (x, y); future covariates are not used yet.")
    return batch[0].to(device), batch[1].to(device)


def source_batches(source: WindowSource, batch_size: int) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Yield ``x [B, L, C], y [B, H, C]`` over all windows in order; the last batch may be short."""
    for indices in torch.arange(len(source)).split(batch_size):
        yield source.gather(indices)


def check_finite(x: torch.Tensor, y: torch.Tensor, *, batch: int, first: int, role: str) -> None:
    """Raise ``DataError`` naming batch, window and channel of the first value that is not finite.

    Args:
        x: inputs ``[B, L, C]``.
        y: targets ``[B, H, C]``.
        batch: number of this batch, from 0.
        first: number of its first window.
        role: which data these are, for the message.
    """
    for part, values in (("input", x), ("target", y)):
        if bool(torch.isfinite(values).all()):
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
