"""Training losses by name, and a place to register more."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import TypeAlias

import torch
from torch.nn import functional as F

from .._core.errors import InvalidArgument, nearest

Loss: TypeAlias = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]

HUBER_DELTA = 0.1


def _checked(function: Loss, pred: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    # Broadcasting a [B, H, 1] target over all channels would train towards the wrong values without a word.
    if pred.shape != target.shape:
        raise InvalidArgument(
            f"the forecast has shape {tuple(pred.shape)}, the target {tuple(target.shape)}; they must agree."
        )
    return function(pred, target)


_LOSSES: dict[str, Loss] = {
    "huber": partial(_checked, partial(F.huber_loss, delta=HUBER_DELTA)),
    "mse": partial(_checked, F.mse_loss),
    "mae": partial(_checked, F.l1_loss),
    "smooth_l1": partial(_checked, F.smooth_l1_loss),
}
_BUILT_IN = frozenset(_LOSSES)


def get_loss_function(name: str) -> Loss:
    """Return the loss ``(pred, target) -> scalar`` of that name; the built-in ones can be pickled.

    Args:
        name: ``huber`` (delta 0.1: quadratic below it, linear above), ``mse``, ``mae``, ``smooth_l1`` (beta 1), each a
            mean over all values, or a name given to ``register_loss``.

    Raises:
        InvalidArgument: an unknown name; the message has the nearest one. A built-in loss raises it when forecast
            and target differ in shape.
    """
    if name not in _LOSSES:
        raise InvalidArgument(f"loss={name!r} is not known; choose one of {loss_names()}.{nearest(name, loss_names())}")
    return _LOSSES[name]


def register_loss(name: str, fn: Loss) -> None:
    """Add a loss of your own, or replace one that was added before.

    Args:
        name: how ``get_loss_function`` and the configurations call it.
        fn: ``(pred [B, H, C], target [B, H, C]) -> scalar``; worker processes get it by value.

    Raises:
        InvalidArgument: the name of a built-in loss, an empty name, or ``fn`` cannot be called.
    """
    if not name or name in _BUILT_IN:
        raise InvalidArgument(f"name={name!r} cannot be registered: empty or one of the built-in {sorted(_BUILT_IN)}.")
    if not callable(fn):
        raise InvalidArgument(f"fn={fn!r} must be callable as fn(pred, target).")
    _LOSSES[name] = fn


def own_losses() -> dict[str, Loss]:
    """Return the losses that were registered, by name."""
    return {name: fn for name, fn in _LOSSES.items() if name not in _BUILT_IN}


def set_own_losses(losses: Mapping[str, Loss]) -> None:
    """Know the built-in losses and these, which ``own_losses`` returned in another process."""
    for name in own_losses():
        del _LOSSES[name]
    _LOSSES.update(losses)


def loss_names() -> list[str]:
    """Return the names that ``get_loss_function`` knows, sorted."""
    return sorted(_LOSSES)
