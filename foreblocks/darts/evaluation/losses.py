"""Training losses by name, over the whole horizon."""

from __future__ import annotations

from collections.abc import Callable

import torch.nn.functional as F
from torch import Tensor

from .._core.errors import InvalidArgument, check_choice

LossFunction = Callable[[Tensor, Tensor], Tensor]
HUBER_DELTA = 0.1


def _huber(prediction: Tensor, target: Tensor) -> Tensor:
    return F.huber_loss(prediction, target, delta=HUBER_DELTA)


_LOSSES: dict[str, LossFunction] = {
    "huber": _huber,
    "mse": F.mse_loss,
    "mae": F.l1_loss,
    "smooth_l1": F.smooth_l1_loss,
}


def get_loss_function(name: str) -> LossFunction:
    """Return ``loss(prediction, target) -> scalar``, the mean over ``[B, H, C]``.

    ``huber`` has delta 0.1. An unknown name raises ``InvalidArgument`` with the nearest one.
    """
    return _LOSSES[check_choice("loss_type", name, _LOSSES)]


def register_loss(name: str, fn: LossFunction) -> None:
    """Add a loss under ``name``; replacing one of another function raises ``InvalidArgument``."""
    if not callable(fn):
        raise InvalidArgument(f"fn={fn!r} of loss {name!r} must be callable.")
    if _LOSSES.get(name, fn) is not fn:
        raise InvalidArgument(f"loss {name!r} is already registered.")
    _LOSSES[name] = fn


def loss_names() -> list[str]:
    """Return the registered names."""
    return list(_LOSSES)
