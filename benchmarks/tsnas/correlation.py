"""How far a score orders architectures as their trained losses do. All losses: lower is better; scores: higher."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

RESAMPLES = 1000
Array = np.ndarray


@dataclass(frozen=True)
class Interval:
    """A value and its 95 % bootstrap interval over architectures."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.value:+.2f} [{self.low:+.2f}, {self.high:+.2f}]"


def spearman(a: Array, b: Array) -> float:
    """Return Spearman's correlation with mean ranks for ties; 0 if one side is constant, which orders nothing."""
    return float(_correlations(a, b, np.ones((1, len(a))))[0])


def partial_spearman(a: Array, b: Array, given: Array) -> float:
    """Return the correlation of the ranks of a and b that is left when that of both with ``given`` is taken out.

    0 where a says nothing beyond ``given``.
    """
    return float(_partial(a, b, given, np.ones((1, len(a))))[0])


def spearman_interval(a: Array, b: Array) -> Interval:
    """Return ``spearman`` with its percentile interval over resampled architectures."""
    return _interval(spearman(a, b), _correlations(a, b, _resamples(len(a))))


def partial_interval(a: Array, b: Array, given: Array) -> Interval:
    """Return ``partial_spearman`` with its percentile interval over resampled architectures."""
    return _interval(partial_spearman(a, b, given), _partial(a, b, given, _resamples(len(a))))


def difference_interval(a: Array, b: Array, target: Array) -> Interval:
    """Return how much better a is correlated with ``target`` than b, both on the same resamples."""
    weights = _resamples(len(a))
    value = spearman(a, target) - spearman(b, target)
    return _interval(value, _correlations(a, target, weights) - _correlations(b, target, weights))


def _resamples(count: int, seed: int = 0) -> Array:
    """Return how often each of ``count`` rows is in each resample, ``[RESAMPLES, count]``."""
    if not count:
        return np.ones((1, 0))
    return np.random.default_rng(seed).multinomial(count, np.full(count, 1.0 / count), RESAMPLES).astype(float)


def _correlations(a: Array, b: Array, weights: Array) -> Array:
    """Return Spearman's correlation for each row of ``weights [R, N]``, which say how often each point counts."""
    first, second = _centred_ranks(a, weights), _centred_ranks(b, weights)
    products = [(weights * x * y).sum(axis=1) for x, y in ((first, second), (first, first), (second, second))]
    scale = np.sqrt(products[1] * products[2])
    return np.divide(products[0], scale, out=np.zeros_like(scale), where=scale > 0)


def _centred_ranks(values: Array, weights: Array) -> Array:
    """Return the mean rank of each point among all copies of all points, less the middle rank: ``[R, N]``.

    A point is behind all smaller ones and half of its equals, so one product with a matrix of comparisons ranks every
    resample at once.
    """
    below = (values[None, :] < values[:, None]) + 0.5 * (values[None, :] == values[:, None])
    return weights @ below.T - weights.sum(axis=1, keepdims=True) / 2.0


def _partial(a: Array, b: Array, given: Array, weights: Array) -> Array:
    ab, ag, bg = (_correlations(x, y, weights) for x, y in ((a, b), (a, given), (b, given)))
    scale = np.sqrt(np.clip(1.0 - ag * ag, 0.0, None) * np.clip(1.0 - bg * bg, 0.0, None))
    return np.divide(ab - ag * bg, scale, out=np.zeros_like(scale), where=scale > 1e-6)


def _interval(value: float, draws: Array) -> Interval:
    low, high = np.quantile(draws, [0.025, 0.975])
    return Interval(value, float(low), float(high))


def better_half(loss: Array) -> Array:
    """Return which architectures are among the better half by their loss."""
    return loss <= np.median(loss)


def regret(score: Array, loss: Array, k: int) -> float:
    """Return how much worse than the best of all the best of the ``k`` highest scores is, in per cent.

    Equal scores share their places: what they lose is the mean over 200 seeded orders of them.
    """
    rng = np.random.default_rng(k)
    found = []
    for _ in range(200 if len(np.unique(score)) < len(score) else 1):
        order = np.lexsort((rng.random(len(score)), -score))
        found.append(loss[order[:k]].min())
    return _percent(float(np.mean(found)), loss)


def random_regret(loss: Array, k: int) -> float:
    """Return the expected regret of ``k`` architectures drawn without regard to anything, in per cent."""
    ordered, n = np.sort(loss), len(loss)
    left, expected = 1.0, 0.0
    for place, value in enumerate(ordered):
        # The best of the draw is at this place: nothing before it was drawn, and it is.
        chance = min(1.0, k / (n - place))
        expected += left * chance * value
        left *= 1.0 - chance
    return _percent(expected, loss)


def affordable(short: Array, loss: Array, *, tried: int, kept: int, seed: int = 0, draws: int = 2000) -> float:
    """Return the expected regret of trying ``tried`` random architectures shortly and keeping the best ``kept``.

    In per cent. This is a bracket of successive halving: what is kept is then trained fully.
    """
    rng = np.random.default_rng(seed)
    tried = max(1, min(tried, len(loss)))
    total = 0.0
    for _ in range(draws):
        rows = rng.permutation(len(loss))[:tried]
        total += loss[rows[np.argsort(short[rows], kind="stable")[: max(1, kept)]]].min()
    return _percent(total / draws, loss)


def _percent(found: float, loss: Array) -> float:
    return max(0.0, 100.0 * (found / float(loss.min()) - 1.0))


def finite(rows: Sequence[float]) -> Array:
    """Return float64 values with the lowest finite one, less one, where there is none: no score is last."""
    values = np.asarray(rows, dtype=float)
    known = np.isfinite(values)
    return np.where(known, values, (values[known].min() if known.any() else 0.0) - 1.0)
