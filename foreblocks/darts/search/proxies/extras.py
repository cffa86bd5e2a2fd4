"""Further proxies, computed when they are named: ZiCo, the three of AZ-NAS, MeCo and GradSign."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import final

import torch
from torch import Tensor

from .passes import Passes
from .registry import register_proxy

_ENTROPY_FLOOR = 1e-8
_SINGULAR_FLOOR = 1e-6


@register_proxy("zico", norm="signed_log1p", default=False)
@final
class ZiCo:
    """Σ over weight tensors of log Σ mean|g| / std(g), over two batches: the halves of the windows.

    Weights whose gradient is the same in both are left out. Source: Li et al., ICLR 2023.
    """

    def compute(self, passes: Passes) -> float:
        """Return the sum; raises ``ValueError`` with one window, or if no gradient differs between the halves."""
        terms = []
        for first, second in passes.half_gradients:
            pair = torch.stack([first, second]).double()
            deviation = pair.std(dim=0, correction=0)
            moving = deviation > 0
            total = float((pair.abs().mean(dim=0)[moving] / deviation[moving]).sum())
            if total > 0.0:
                terms.append(math.log(total))
        if not terms:
            raise ValueError("no gradient differs between the two halves of the windows")
        return sum(terms)


@register_proxy("grad_sign", default=False)
@final
class GradSign:
    """Σ over weights of |Σ over samples of sign g_n| (Zhang and Jia, ICLR 2022).

    It needs a backward pass for each window and costs several times as much as all the default proxies together.
    """

    def compute(self, passes: Passes) -> float:
        """Return the sum, at least 0."""
        return float(sum(signs.abs().sum(dtype=torch.float64) for signs in passes.gradient_signs))


@register_proxy("meco", default=False)
@final
class MeCo:
    """Σ over layers of the smallest eigenvalue of the correlation of their channels, for one window.

    A layer with as many channels as positions, or more, has a singular correlation: its term is 0. One with a constant
    channel has none and is left out. Source: Jiang et al., NeurIPS 2023.
    """

    def compute(self, passes: Passes) -> float:
        """Return the sum; raises ``ValueError`` if no layer has a regular correlation."""
        terms = [value for value in map(_least_correlation, passes.feature_maps.values()) if value is not None]
        if not terms:
            raise ValueError("no layer has more positions than channels, all of them varying")
        return sum(terms)


@register_proxy("expressivity", default=False)
@final
class Expressivity:
    """Σ over blocks of the entropy of the normalised PCA spectrum of their features.

    Source: Lee and Ham, AZ-NAS, CVPR 2024.
    """

    def compute(self, passes: Passes) -> float:
        """Return the sum, at least 0; raises ``ValueError`` without blocks or with constant features."""
        return sum(_entropies(passes))


@register_proxy("progressivity", norm="signed_log1p", default=False)
@final
class Progressivity:
    """Smallest step in expressivity from one block to the next (Lee and Ham, AZ-NAS, CVPR 2024)."""

    def compute(self, passes: Passes) -> float:
        """Return the step, of either sign; raises ``ValueError`` with fewer than two blocks."""
        values = _entropies(passes)
        if len(values) < 2:
            raise ValueError("progressivity needs two blocks or more")
        return min(after - before for before, after in pairwise(values))


@register_proxy("trainability", norm="signed_log1p", default=False)
@final
class Trainability:
    """Mean over blocks of 2 − s − 1/s, s the largest singular value of the block's mean Jacobian.

    The Jacobian is estimated by one Rademacher probe. Source: Lee and Ham, AZ-NAS, CVPR 2024.
    """

    def compute(self, passes: Passes) -> float:
        """Return the mean, at most 0; raises ``ValueError`` without blocks that keep their shape."""
        jacobians = passes.block_jacobians
        if not jacobians:
            raise ValueError("no block has an input and an output of the same shape")
        peaks = [float(torch.linalg.matrix_norm(j, ord=2)) for j in jacobians]
        return sum(2.0 - s - 1.0 / (s + _SINGULAR_FLOOR) for s in peaks) / len(peaks)


def _entropies(passes: Passes) -> list[float]:
    blocks = passes.blocks
    if not blocks:
        raise ValueError("the network has no registered block (register_block)")
    return [_spectrum_entropy(block.features) for block in blocks]


def _spectrum_entropy(rows: Tensor) -> float:
    centred = rows - rows.mean(dim=0)
    spectrum = torch.linalg.eigvalsh(centred.T @ centred / rows.shape[0]).clamp_min(0.0)
    total = spectrum.sum()
    if float(total) <= 0.0:
        raise ValueError("the features of a block are constant")
    share = spectrum / total
    return -float((share * (share + _ENTROPY_FLOOR).log()).sum())


def _least_correlation(features: Tensor) -> float | None:
    """Return the smallest eigenvalue for ``[channels, positions]``; None if it is 0 by rank or undefined."""
    channels, positions = features.shape
    centred = features - features.mean(dim=1, keepdim=True)
    norms = centred.norm(dim=1, keepdim=True)
    if channels < 2 or positions <= channels or not bool((norms > 0).all()):
        return None
    rows = centred / norms
    return max(float(torch.linalg.eigvalsh(rows @ rows.T)[0]), 0.0)
