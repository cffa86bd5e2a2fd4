"""Convex weights of several forecasters, fitted on validation windows."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from .._core.types import WindowSource
from ..data.sources import finite_batch, iter_batches
from ._batches import eval_mode

BLOCKS = 3


class BlendStatistics:
    """Gram matrix of forecast errors, ``G[p, q] = Σ e_p e_q``: all that convex least squares needs."""

    def __init__(self, parts: int) -> None:
        self.gram = torch.zeros(parts, parts, dtype=torch.float64)

    def update(self, predictions: Sequence[Tensor], target: Tensor) -> None:
        """Add a batch: one prediction ``[B, H, C]`` per part, and the target."""
        errors = torch.stack([(p - target).flatten().double() for p in predictions])
        self.gram += errors @ errors.T

    def error(self, weights: Tensor) -> float:
        """Return the summed squared error of a combination whose weights sum to 1."""
        return float(weights @ self.gram @ weights)

    def solve(self) -> Tensor:
        """Return the convex weights with the least squared error, exact: the best face of the simplex.

        On each subset of parts the equality-constrained optimum is a linear solve; the best feasible one wins.
        """
        count = len(self.gram)
        best, least = None, float("inf")
        for size in range(1, count + 1):
            for subset in itertools.combinations(range(count), size):
                weights = self._on_face(subset)
                if weights is not None and self.error(weights) < least:
                    best, least = weights, self.error(weights)
        return best

    def _on_face(self, subset: tuple[int, ...]) -> Tensor | None:
        index = list(subset)
        face = self.gram[index][:, index]
        size = len(index)
        system = torch.ones(size + 1, size + 1, dtype=torch.float64)
        system[:size, :size] = face / face.diagonal().mean().clamp_min(1e-300)
        system[size, size] = 0.0
        right = torch.zeros(size + 1, dtype=torch.float64)
        right[size] = 1.0
        solution = torch.linalg.lstsq(system, right.unsqueeze(1)).solution[:size, 0]
        if (solution < -1e-12).any():
            return None
        weights = torch.zeros(len(self.gram), dtype=torch.float64)
        weights[index] = solution.clamp_min(0.0)
        return weights / weights.sum()


def fit_blend_on(
    parts: Mapping[str, nn.Module],
    val: WindowSource,
    *,
    device: torch.device | str = "cpu",
    batch_size: int = 256,
    cautious: bool = True,
) -> dict[str, float]:
    """Return convex weights by name, fitted on every window of ``val``.

    With ``cautious`` the blend must hold across time: weights fitted on two of three contiguous blocks are tested on
    the third, and unless that beats the first part alone (the linear path) on average, the first part is used alone.
    """
    names = list(parts)
    blocks = [BlendStatistics(len(names)) for _ in range(BLOCKS)]
    with eval_mode(parts.values()), torch.no_grad():
        for block, rows in zip(blocks, torch.arange(len(val)).tensor_split(BLOCKS), strict=True):
            for number, picked in enumerate(iter_batches(len(rows), batch_size)):
                x, y = finite_batch(val, rows[picked], role="validation", batch=number)
                block.update([parts[name](x.to(device)).cpu() for name in names], y)
    total = BlendStatistics(len(names))
    total.gram = torch.stack([block.gram for block in blocks]).sum(0)
    weights = total.solve()
    if cautious and len(names) > 1 and not _holds(blocks, total):
        weights = torch.zeros_like(weights)
        weights[0] = 1.0
    return dict(zip(names, weights.tolist(), strict=True))


def _holds(blocks: Sequence[BlendStatistics], total: BlendStatistics) -> bool:
    first = torch.zeros(len(total.gram), dtype=torch.float64)
    first[0] = 1.0
    blended = alone = 0.0
    for held in blocks:
        rest = BlendStatistics(len(total.gram))
        rest.gram = total.gram - held.gram
        blended += held.error(rest.solve())
        alone += held.error(first)
    return blended < alone
