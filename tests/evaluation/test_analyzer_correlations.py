"""Correlations, their intervals and p-values, against the textbook in plain float64."""

from __future__ import annotations

import math
import random

import numpy as np
import pytest

from foreblocks.darts._core.errors import InvalidArgument
from foreblocks.darts.evaluation.analysis.correlations import (
    benjamini_hochberg,
    correlation,
    correlation_table,
    holm,
    mean_ranks,
    student_p_value,
)
from foreblocks.darts.evaluation.analysis.insights import sign_test


def naive_pearson(x: list[float], y: list[float]) -> float:
    mx, my = sum(x) / len(x), sum(y) / len(y)
    top = sum((a - mx) * (b - my) for a, b in zip(x, y, strict=True))
    return top / math.sqrt(sum((a - mx) ** 2 for a in x) * sum((b - my) ** 2 for b in y))


def naive_ranks(values: list[float]) -> list[float]:
    return [1 + sum(v < w for v in values) + (sum(v == w for v in values) - 1) / 2 for w in values]


def naive_p(r: float, n: int) -> float:
    """Two-sided p-value: the density of r without correlation, (1 - r²)^((n - 4)/2), integrated by Simpson's rule.

    With r = sin θ the integrand is cos(θ)^(n - 3), which is smooth.
    """
    theta = np.linspace(-math.pi / 2, math.pi / 2, 20001)
    density = np.cos(theta) ** (n - 3)
    cut = np.linspace(math.asin(abs(r)), math.pi / 2, 20001)
    return 2 * simpson(np.cos(cut) ** (n - 3), cut) / simpson(density, theta)


def simpson(y: np.ndarray, x: np.ndarray) -> float:
    h = x[1] - x[0]
    return float(h / 3 * (y[0] + y[-1] + 4 * y[1:-1:2].sum() + 2 * y[2:-1:2].sum()))


def sample(n: int, seed: int) -> tuple[list[float], list[float]]:
    rng = random.Random(seed)
    x = [rng.gauss(0, 1) for _ in range(n)]
    return x, [0.6 * a + rng.gauss(0, 1) for a in x]


@pytest.mark.parametrize("n", [4, 5, 6, 7, 12, 31, 100])
def test_pearson_and_its_p_value(n: int) -> None:
    x, y = sample(n, n)
    found = correlation(x, y)
    assert found is not None
    assert found.value == pytest.approx(naive_pearson(x, y), abs=1e-12)
    assert found.p_value == pytest.approx(naive_p(found.value, n), abs=1e-9)
    assert found.count == n


@pytest.mark.parametrize("n", [5, 8, 20])
def test_spearman_shares_ranks_of_equal_values(n: int) -> None:
    x, y = sample(n, n)
    x = [round(value) for value in x]
    assert list(mean_ranks(x)) == naive_ranks(x)
    found = correlation(x, y, method="spearman")
    assert found is not None
    assert found.value == pytest.approx(naive_pearson(naive_ranks(x), naive_ranks(y)), abs=1e-12)


def test_published_figures() -> None:
    # t tables: with 10 points r = 0.6319 is the two-sided 5 % limit, with 30 points r = 0.3610.
    assert student_p_value(0.6319, 10) == pytest.approx(0.05, abs=2e-5)
    assert student_p_value(0.3610, 30) == pytest.approx(0.05, abs=1e-4)
    assert student_p_value(0.0, 9) == 1.0
    assert student_p_value(1.0, 9) == 0.0


@pytest.mark.parametrize("method", ["pearson", "spearman"])
def test_intervals_cover_as_often_as_they_say(method: str) -> None:
    """Of 600 samples with rho = 0.6, about 95 % of the intervals hold the value of a very large sample."""
    rng = np.random.default_rng(3)
    truth = 0.6 if method == "pearson" else 6 / math.pi * math.asin(0.6 / 2)
    inside = 0
    for _ in range(600):
        x = rng.standard_normal(25)
        y = 0.6 * x + 0.8 * rng.standard_normal(25)
        found = correlation(list(x), list(y), method=method)
        assert found is not None
        inside += found.low <= truth <= found.high
    assert 0.92 <= inside / 600 <= 0.98


def test_fisher_interval_of_a_textbook_case() -> None:
    # r = 0.5 of 28 points: tanh(0.54931 ± 1.95996 / 5).
    x = [float(k % 2) for k in range(28)]
    y = [a if k % 4 < 3 or k % 8 == 3 else 1 - a for k, a in enumerate(x)]
    found = correlation(x, y)
    assert found is not None
    low, high = (math.tanh(math.atanh(found.value) + s * 1.959964 / 5) for s in (-1, 1))
    assert (found.low, found.high) == pytest.approx((low, high), abs=1e-6)


@pytest.mark.parametrize(
    ("x", "y"),
    [
        ([1, 2, 3], [1, 2, 3]),
        ([1, 1, 1, 1, 1], [1, 2, 3, 4, 5]),
        ([0.1 + 0.2, 0.3, 0.3, 0.3], [1, 2, 3, 4]),
        ([1, 2, 3, None, math.nan], [1, 2, 3, 4, 5]),
        ([], []),
    ],
)
def test_what_cannot_be_told_is_none(x: list, y: list) -> None:
    assert correlation(x, y) is None


def test_pairs_with_a_gap_are_left_out() -> None:
    x, y = sample(9, 1)
    found = correlation([*x, None, 5.0], [*y, 4.0, math.inf])
    assert found == correlation(x, y)


def test_a_perfect_correlation_has_no_width() -> None:
    found = correlation([1, 2, 3, 4], [2, 4, 6, 8])
    assert found is not None
    assert (found.value, found.low, found.high) == pytest.approx((1.0, 1.0, 1.0))


def naive_holm(p: list[float]) -> list[float]:
    order = sorted(range(len(p)), key=lambda k: p[k])
    return [
        min(1.0, max((len(p) - j) * p[order[j]] for j in range(order.index(k) + 1))) for k in range(len(p))
    ]  # fmt: skip


def naive_bh(p: list[float]) -> list[float]:
    order = sorted(range(len(p)), key=lambda k: p[k])
    return [
        min(1.0, *(len(p) / (j + 1) * p[order[j]] for j in range(order.index(k), len(p)))) for k in range(len(p))
    ]  # fmt: skip


def test_corrections() -> None:
    rng = random.Random(0)
    for _ in range(30):
        p = [rng.random() ** 3 for _ in range(rng.randint(1, 9))]
        assert holm(p) == pytest.approx(naive_holm(p))
        assert benjamini_hochberg(p) == pytest.approx(naive_bh(p))
    # The example of Holm's procedure: 0.01, 0.02, 0.03, 0.04, 0.05 times 5, 4, 3, ... made monotone.
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([]) == benjamini_hochberg([]) == []


def test_a_planted_correlation_is_found_among_noise() -> None:
    rng = np.random.default_rng(0)
    rows = []
    for _ in range(40):
        row = {f"noise{k}": float(v) for k, v in enumerate(rng.standard_normal(30))}
        rows.append({**row, "real": float(rng.standard_normal())})
    for row in rows:
        row["loss"] = -2.0 * row["real"] + float(rng.standard_normal())
    names = [name for name in rows[0] if name != "loss"]
    for correction in ("holm", "benjamini-hochberg"):
        table = correlation_table(rows, names, ["loss"], correction=correction)
        assert [row["architectural_feature"] for row in table if row["significant"]] == ["real"]
        assert table[0]["ci_high"] < 0
        assert (table[0]["correction"], table[0]["interval"]) == (correction, "Fisher z, 95 %")
    uncorrected = [row for row in table if row["p_value"] < 0.05]
    assert len(uncorrected) > 1, "noise that is significant before the correction is what the test is about"


def test_bad_arguments() -> None:
    with pytest.raises(InvalidArgument, match="method='kendal'"):
        correlation([1, 2, 3, 4], [1, 2, 3, 4], method="kendal")
    with pytest.raises(InvalidArgument, match="level"):
        correlation([1, 2, 3, 4], [1, 2, 3, 4], level=1.0)
    with pytest.raises(InvalidArgument, match="pairs"):
        correlation([1, 2], [1])
    with pytest.raises(InvalidArgument, match="correction='none'"):
        correlation_table([], [], [], correction="none")


def test_sign_test() -> None:
    assert sign_test(6, 6) == pytest.approx(2 / 64)
    assert sign_test(0, 5) == pytest.approx(2 / 32)
    assert sign_test(3, 6) == 1.0
    assert sign_test(1, 8) == pytest.approx(2 * 9 / 256)
