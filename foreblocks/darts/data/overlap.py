"""Find out whether samples are stride-1 windows of one series, from the samples alone."""

from __future__ import annotations

from collections.abc import Callable

import torch

_PROBES = 8
_MAX_SEAM_SHARE = 0.05


def tensor_starts(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor | None:
    """Return the row at which each sample begins, or None when the samples are no stride-1 windows.

    Neighbours must share all rows but one, which is tested on the last rows of every pair and on whole windows of a few
    spread pairs. A few seams (several series one after the other) are allowed: each moves the rows on by L + H.

    Args:
        x: ``[N, L, C]``.
        y: ``[N, H, C_out]``; x alone decides where y has fewer channels.

    Returns:
        int64 ``[N]`` or None.
    """
    count, width = len(x), x.shape[1] + y.shape[1]
    if x.shape[2] != y.shape[2]:
        y = x[:, :0]
    if count < 2 or not x.dtype.is_floating_point or x.shape[1] + y.shape[1] < 2:
        return None
    last, before = (_step(x, y, step) for step in (-1, -2))
    seams = ~_same(before[1:], last[:-1]).all(dim=-1)
    if int(seams.sum()) > _MAX_SEAM_SHARE * count:
        return None
    pairs = torch.nonzero(~seams).flatten()
    chosen = pairs[_spread(len(pairs))]
    if not _overlap(torch.cat([x[chosen], y[chosen]], 1), torch.cat([x[chosen + 1], y[chosen + 1]], 1)):
        return None
    shift = torch.cat([seams.new_zeros(1), seams]).cumsum(0) * width
    return torch.arange(count, device="cpu") + shift.cpu()


def sampled_starts(
    count: int, gather: Callable[[torch.Tensor], tuple[torch.Tensor, torch.Tensor]]
) -> torch.Tensor | None:
    """As ``tensor_starts`` for samples that can only be fetched: a few spread pairs decide.

    Args:
        count: number of samples N.
        gather: returns x ``[B, L, C]`` and y ``[B, H, C_out]`` for int64 indices.
    """
    if count < 2:
        return None
    chosen = _spread(count - 1)
    (x, y), (next_x, next_y) = (gather(chosen + step) for step in (0, 1))
    alike = x.shape[2] == y.shape[2]
    first, second = (torch.cat([x, y], 1), torch.cat([next_x, next_y], 1)) if alike else (x, next_x)
    return torch.arange(count) if _overlap(first, second) else None


def _spread(count: int) -> torch.Tensor:
    return torch.linspace(0, count - 1, min(count, _PROBES)).round().long().unique()


def _step(x: torch.Tensor, y: torch.Tensor, step: int) -> torch.Tensor:
    """Return a step of the windows ``(x, y)`` counted from their end, ``[N, C]``."""
    return y[:, step] if y.shape[1] >= -step else x[:, step + y.shape[1]]


def _same(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    return (a == b) | (a.isnan() & b.isnan())


def _overlap(first: torch.Tensor, second: torch.Tensor) -> bool:
    """Say whether ``second`` is ``first`` one row later; windows that stand still prove nothing."""
    shifted = bool(_same(second[:, :-1], first[:, 1:]).all())
    return shifted and bool((first[:, 1:] != first[:, :-1]).any())
