"""Correlations with intervals and p-values that know how many were looked at.

Pearson's r has the interval of Fisher's z (Biometrika 10, 1915) and the p-value of Student's t. Spearman's rho is r of
mean ranks; its interval uses the standard error sqrt((1 + rho²/2) / (n - 3)) of Bonett and Wright (Psychometrika 65,
2000). p-values are corrected by Holm (Scand. J. Statist. 6, 1979), valid under any dependence, or by Benjamini and
Hochberg (J. R. Statist. Soc. B 57, 1995), which bounds the share of false discoveries and is less strict.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any

import numpy as np

from ..._core.errors import InvalidArgument, check_choice, check_real

METHODS = ("pearson", "spearman")
CORRECTIONS = ("holm", "benjamini-hochberg")
MIN_POINTS = 4  # Fisher's z has the standard error 1 / sqrt(n - 3)
INTERVALS = {"pearson": "Fisher z", "spearman": "Fisher z, Bonett-Wright"}


@dataclass(frozen=True)
class Correlation:
    """One correlation.

    Attributes:
        value: r or rho, in [-1, 1].
        low: lower end of the interval.
        high: upper end.
        p_value: two-sided, for the hypothesis of none.
        count: points.
    """

    value: float
    low: float
    high: float
    p_value: float
    count: int

    @property
    def excludes_zero(self) -> bool:
        """Whether the interval lies on one side of zero."""
        return self.low > 0 or self.high < 0


def correlation(
    x: Sequence[float | None], y: Sequence[float | None], *, method: str = "pearson", level: float = 0.95
) -> Correlation | None:
    """Return the correlation over the pairs that are both finite.

    None when fewer than ``MIN_POINTS`` pairs are left or one side is constant: then there is nothing to tell.

    Args:
        x: values; None and non-finite ones are left out, together with their partners.
        y: values, as many.
        method: ``"pearson"`` or ``"spearman"``.
        level: of the interval, in (0, 1).
    """
    check_choice("method", method, METHODS)
    if not 0.0 < check_real("level", level) < 1.0:
        raise InvalidArgument(f"level={level} must be between 0 and 1.")
    if len(x) != len(y):
        raise InvalidArgument(f"x has {len(x)} values and y {len(y)}; they must be pairs.")
    pairs = np.array([(_number(a), _number(b)) for a, b in zip(x, y, strict=True)], dtype=float).reshape(-1, 2)
    pairs = pairs[np.isfinite(pairs).all(axis=1)]
    count = len(pairs)
    if count < MIN_POINTS:
        return None
    first, second = pairs.T if method == "pearson" else (mean_ranks(pairs[:, 0]), mean_ranks(pairs[:, 1]))
    value = _pearson(first, second)
    if value is None:
        return None
    variance = 1.0 if method == "pearson" else 1.0 + value * value / 2.0
    low, high = _interval(value, math.sqrt(variance / (count - 3)), level)
    return Correlation(value, low, high, student_p_value(value, count), count)


def mean_ranks(values: Sequence[float] | np.ndarray) -> np.ndarray:
    """Return ranks from 1, equal values sharing the mean of theirs."""
    _, inverse, counts = np.unique(np.asarray(values, dtype=float), return_inverse=True, return_counts=True)
    return (np.cumsum(counts) - (counts - 1) / 2.0)[inverse]


def student_p_value(value: float, count: int) -> float:
    """Return the two-sided p-value of a correlation of ``count`` points: Student's t with n - 2 degrees of freedom.

    The distribution function is the finite trigonometric sum of Abramowitz and Stegun 26.7.3 and 26.7.4, in which
    sin θ = |r| and cos θ = sqrt(1 - r²).
    """
    freedom = count - 2
    sine = min(1.0, abs(value))
    cosine = math.sqrt((1.0 - sine) * (1.0 + sine))
    if freedom % 2:
        term, total = cosine, cosine if freedom > 1 else 0.0
        for k in range(3, freedom - 1, 2):
            term *= cosine * cosine * (k - 1) / k
            total += term
        inside = 2.0 / math.pi * (math.asin(sine) + sine * total)
    else:
        term = total = 1.0
        for k in range(2, freedom - 1, 2):
            term *= cosine * cosine * (k - 1) / k
            total += term
        inside = sine * total
    return min(1.0, max(0.0, 1.0 - inside))


def holm(p_values: Sequence[float]) -> list[float]:
    """Return Holm's adjusted p-values, in the given order."""
    count = len(p_values)
    adjusted, running = [0.0] * count, 0.0
    for place, index in enumerate(np.argsort(p_values, kind="stable")):
        running = max(running, min(1.0, (count - place) * p_values[index]))
        adjusted[index] = running
    return adjusted


def benjamini_hochberg(p_values: Sequence[float]) -> list[float]:
    """Return the adjusted p-values of Benjamini and Hochberg, in the given order."""
    count = len(p_values)
    adjusted, running = [0.0] * count, 1.0
    for place, index in reversed(list(enumerate(np.argsort(p_values, kind="stable"), start=1))):
        running = min(running, count / place * p_values[index])
        adjusted[index] = running
    return adjusted


def correlation_table(
    rows: Sequence[Mapping[str, Any]],
    features: Iterable[str],
    metrics: Iterable[str],
    *,
    method: str = "pearson",
    correction: str = "holm",
    level: float = 0.95,
) -> list[dict[str, Any]]:
    """Return a row per pair of feature and metric that has a correlation, smallest p-value first.

    The correction counts every row of the table. ``significant`` means a corrected p-value below 1 - ``level``.

    Args:
        rows: candidates, one mapping each; a missing value leaves the candidate out of that pair.
        features: keys of ``rows``.
        metrics: keys of ``rows``.
        method: ``"pearson"`` or ``"spearman"``.
        correction: ``"holm"`` or ``"benjamini-hochberg"``.
        level: of the intervals.
    """
    check_choice("correction", correction, CORRECTIONS)
    found = []
    targets = list(metrics)
    for feature in features:
        x = [row.get(feature) for row in rows]
        for metric in targets:
            result = correlation(x, [row.get(metric) for row in rows], method=method, level=level)
            if result is not None and feature != metric:
                found.append((feature, metric, result))
    adjust = holm if correction == "holm" else benjamini_hochberg
    corrected = adjust([result.p_value for _, _, result in found])
    table = [
        {
            "architectural_feature": feature,
            "performance_metric": metric,
            "correlation": result.value,
            "p_value": result.p_value,
            "significant": p < 1.0 - level,
            "sample_size": result.count,
            "p_value_corrected": p,
            "ci_low": result.low,
            "ci_high": result.high,
            "method": method,
            "interval": f"{INTERVALS[method]}, {100 * level:g} %",
            "correction": correction,
        }
        for (feature, metric, result), p in zip(found, corrected, strict=True)
    ]
    return sorted(table, key=lambda row: (row["p_value"], row["performance_metric"], row["architectural_feature"]))


def _pearson(x: np.ndarray, y: np.ndarray) -> float | None:
    dx, dy = x - x.mean(), y - y.mean()
    scale = math.sqrt(float(dx @ dx)) * math.sqrt(float(dy @ dy))
    # A constant column leaves rounding noise of the size of its mean.
    if np.ptp(x) <= 1e-12 * np.abs(x).max() or np.ptp(y) <= 1e-12 * np.abs(y).max() or scale == 0.0:
        return None
    return float(np.clip(dx @ dy / scale, -1.0, 1.0))


def _interval(value: float, error: float, level: float) -> tuple[float, float]:
    if abs(value) >= 1.0:
        return value, value
    reach = NormalDist().inv_cdf(0.5 + level / 2.0) * error
    return math.tanh(math.atanh(value) - reach), math.tanh(math.atanh(value) + reach)


def _number(value: Any) -> float:
    return float(value) if isinstance(value, (int, float, np.floating, np.integer)) else math.nan
