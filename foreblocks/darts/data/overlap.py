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
        y: ``[N, H, C]``.

    Returns:
        int64 ``[N]`` or None.
    """
    count = len(x)
    if count < 2 or not x.dtype.is_floating_point or x.shape[2] != y.shape[2]:
        return None
    before_last = y[1:, -2] if y.shape[1] > 1 else x[1:, -1]
    seams = ~_same(before_last, y[:-1, -1]).all(dim=-1)
    if int(seams.sum()) > _MAX_SEAM_SHARE * count:
        return None
    pairs = torch.nonzero(~seams).flatten()
    chosen = pairs[_spread(len(pairs))]
    if not _overlap(torch.cat([x[chosen], y[chosen]], 1), torch.cat([x[chosen + 1], y[chosen + 1]], 1)):
        return None
    shift = torch.cat([seams.new_zeros(1), seams]).cumsum(0) * (x.shape[1] + y.shape[1])
    return torch.arange(count, device="cpu") + shift.cpu()


def sampled_starts(
    count: int, gather: Callable[[torch.Tensor], tuple[torch.Tensor, torch.Tensor]]
) -> torch.Tensor | None:
    """As ``tensor_starts`` for samples that can only be fetched: a few spread pairs decide.

    Args:
        count: number of samples N.
        gather: returns x ``[B, L, C]`` and y ``[B, H, C]`` for int64 indices.
    """
    if count < 2:
        return None
    chosen = _spread(count - 1)
    first, second = (torch.cat(gather(chosen + step), dim=1) for step in (0, 1))
    return torch.arange(count) if _overlap(first, second) else None


def _spread(count: int) -> torch.Tensor:
    return torch.linspace(0, count - 1, min(count, _PROBES)).round().long().unique()


def _same(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    return (a == b) | (a.isnan() & b.isnan())


def _overlap(first: torch.Tensor, second: torch.Tensor) -> bool:
    """Say whether ``second`` is ``first`` one row later; windows that stand still prove nothing."""
    shifted = bool(_same(second[:, :-1], first[:, 1:]).all())
    return shifted and bool((first[:, 1:] != first[:, :-1]).any())
