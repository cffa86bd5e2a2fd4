"""Other weights for the zero-cost metrics, and how much the order of candidates depends on them."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
from numpy.typing import ArrayLike

from .._core.errors import InvalidArgument, check_int, check_real
from .proxies import base_weights

_SUBSETS = {
    "subset_grad": ("grasp", "fisher", "snip", "jacobian", "sensitivity"),
    "subset_act": ("naswot", "activation_diversity", "zennas"),
    "subset_complexity": ("params", "flops", "conditioning"),
    "subset_synflow": ("synflow",),
}


def build_weight_schemes(
    n_random: int = 10, sigma: float = 0.1, seed: int = 0, *, base: Mapping[str, float] | None = None
) -> dict[str, dict[str, float]]:
    """Return scheme → weights (contract 5.5); a metric that a scheme leaves out is absent from its weights.

    ``baseline``, ``uniform`` (±1 by sign), four subsets, ``subset_pos_only`` (positive weights), and
    ``subset_no_penalties`` (without params, flops and conditioning), ``loo_minus_<metric>`` for each metric, and
    ``rand_00``, ... with weights drawn from N(w, sigma·|w|) by ``default_rng(seed + i)``.

    Args:
        n_random: number of random schemes, at least 0.
        sigma: relative spread of the random weights, at least 0.
        seed: seed of the first random scheme, at least 0.
        base: name → weight; None means the weights of the contract.
    """
    check_int("n_random", n_random, low=0)
    check_real("sigma", sigma, low=0.0)
    check_int("seed", seed, low=0)
    weights = dict(base_weights() if base is None else base)
    schemes = {
        "baseline": dict(weights),
        "uniform": {name: math.copysign(1.0, w) for name, w in weights.items() if w != 0.0},
        **{scheme: {n: w for n, w in weights.items() if n in kept} for scheme, kept in _SUBSETS.items()},
        "subset_pos_only": {name: w for name, w in weights.items() if w > 0.0},
        "subset_no_penalties": {n: w for n, w in weights.items() if n not in _SUBSETS["subset_complexity"]},
        **{f"loo_minus_{gone}": {n: w for n, w in weights.items() if n != gone} for gone in weights},
    }
    for index in range(n_random):
        rng = np.random.default_rng(seed + index)
        schemes[f"rand_{index:02d}"] = {n: float(rng.normal(w, sigma * abs(w))) for n, w in weights.items()}
    return schemes


def ranks_desc(scores: ArrayLike) -> np.ndarray:
    """Return ordinal ranks, int64: 1 for the highest score, ties by position, NaN last."""
    values = np.asarray(scores, dtype=float)
    keys = np.where(np.isnan(values), np.inf, -values)
    ranks = np.empty(values.size, dtype=np.int64)
    ranks[np.argsort(keys, kind="stable")] = np.arange(1, values.size + 1)
    return ranks


def spearman_from_scores(a: ArrayLike, b: ArrayLike) -> float:
    """Return Spearman's correlation of two score lists from their ordinal ranks; NaN below two entries.

    Raises:
        InvalidArgument: the lists differ in length.
    """
    first, second = ranks_desc(a), ranks_desc(b)
    if first.size != second.size:
        raise InvalidArgument(f"a has {first.size} scores, but b has {second.size}.")
    count = first.size
    if count < 2:
        return math.nan
    gaps = (first - second).astype(float)
    return float(1.0 - 6.0 * (gaps @ gaps) / (count * (count**2 - 1.0)))


def topk_overlap_from_scores(a: ArrayLike, b: ArrayLike, k: int) -> float:
    """Return |A ∩ B| / k for the k best of each list; k is clipped to the number of scores.

    Raises:
        InvalidArgument: ``k`` is below 1, or the lists differ in length or are empty.
    """
    first, second = ranks_desc(a), ranks_desc(b)
    if first.size != second.size or first.size == 0:
        raise InvalidArgument(f"a has {first.size} scores and b {second.size}; they must be equally many, at least 1.")
    k = min(check_int("k", k, low=1), first.size)
    return float(np.sum((first <= k) & (second <= k)) / k)
