"""Schedules as plain functions of the step: nothing to save, nothing to restore."""

from __future__ import annotations

import math

from torch.optim import Optimizer


def one_cycle(
    step: int, total: int, peak: float, *, rise: float = 0.3, div: float = 25.0, final_div: float = 1e3
) -> float:
    """Return the learning rate of the 1cycle policy (Smith and Topin, 2018) with cosine arms.

    Args:
        step: from 0.
        total: number of steps.
        peak: largest rate.
        rise: share of the steps that climb to ``peak``.
        div: ``peak`` over the first rate.
        final_div: the first rate over the last one.
    """
    start, end = peak / div, peak / div / final_div
    top = max(1.0, rise * (total - 1))
    if step <= top:
        return _cosine(start, peak, step / top)
    return _cosine(peak, end, min(1.0, (step - top) / max(1.0, total - 1 - top)))


def cosine(step: int, total: int, peak: float, *, final: float = 0.01) -> float:
    """Return a rate that falls from ``peak`` to ``final · peak`` along half a cosine."""
    return _cosine(peak, final * peak, min(1.0, step / max(1, total - 1)))


def _cosine(start: float, end: float, progress: float) -> float:
    return end + 0.5 * (start - end) * (1.0 + math.cos(math.pi * progress))


def set_rate(optimizer: Optimizer, rate: float) -> None:
    """Set the learning rate of every parameter group of an optimizer."""
    for group in optimizer.param_groups:
        group["lr"] = rate * group.get("rate_scale", 1.0)
