"""The fitted combiner: planted answers, an honest leave-one-out, and what it refuses."""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
import pytest

from foreblocks.darts._core.errors import InvalidArgument, OptionalDependencyError
from foreblocks.darts.search.combiner import (
    MIN_TRAINED,
    PENALTIES,
    _ridge,
    fit_combiner,
    screening_report,
    trained_candidates,
)
from foreblocks.darts.search.weight_schemes import spearman_from_scores

NAMES = ("snip", "synflow", "naswot", "params")


def study(count: int, seed: int = 0, noise: float = 0.1) -> tuple[list[dict[str, Any]], np.ndarray]:
    """Losses follow a hidden mix of squashed metrics: much snip is bad here, much naswot good."""
    rng = np.random.default_rng(seed)
    hidden = rng.standard_normal((count, len(NAMES)))
    records = [
        {"candidate_id": i, "metrics": {"metrics": dict(zip(NAMES, np.expm1(row + 5.0).tolist(), strict=True))}}
        for i, row in enumerate(hidden)
    ]
    return records, hidden[:, 0] - 0.7 * hidden[:, 2] + noise * rng.standard_normal(count)


def test_ridge_finds_the_planted_mix_and_beats_the_vote() -> None:
    records, losses = study(60)
    combiner = fit_combiner(records[:30], losses[:30])
    assert combiner.loo_spearman > 0.85
    assert combiner.vote_spearman < 0.5
    assert combiner.helps
    assert combiner.trained == 30
    assert combiner.names == tuple(sorted(NAMES))
    unseen = combiner.scores(records[30:])
    assert spearman_from_scores(unseen, -losses[30:]) > 0.9
    order = combiner.order(records[30:])
    assert [c["combiner_score"] for c in order] == sorted(unseen, reverse=True)
    assert "combiner_score" not in records[30]
    assert combiner.scores([]) == []


def test_noise_is_not_taken_for_signal() -> None:
    """Losses that have nothing to do with the metrics: the leave-one-out must say so, whatever the fit itself says."""
    found = []
    for seed in range(8):
        records, _ = study(30, seed)
        found.append(fit_combiner(records, np.random.default_rng(100 + seed).standard_normal(30)).loo_spearman)
    assert np.mean(found) < 0.2


def test_leave_one_out_predicts_with_a_fit_that_has_not_seen_the_candidate() -> None:
    records, losses = study(MIN_TRAINED, noise=1.0)
    combiner = fit_combiner(records, losses)
    places = np.argsort(np.argsort(-losses)) / (len(losses) - 1)
    raw = [[r["metrics"]["metrics"][name] for name in sorted(NAMES)] for r in records]
    predicted = []
    for row in range(len(records)):
        kept = [i for i in range(len(records)) if i != row]
        shares = [naive_shares([raw[i] for i in kept], raw[j]) for j in kept]
        predicted.append(naive_ridge(np.array(shares), places[kept], naive_shares([raw[i] for i in kept], raw[row])))
    assert combiner.loo_spearman == pytest.approx(spearman_from_scores(predicted, places))


def naive_shares(reference: list[list[float]], row: list[float]) -> np.ndarray:
    """For each metric, the share of the others that it is above; itself and equals count half."""
    columns = list(zip(*reference, strict=True))
    return np.array([np.mean([(o < v) + (o == v) / 2 for o in c]) for c, v in zip(columns, row, strict=True)])


def naive_ridge(x: np.ndarray, y: np.ndarray, point: np.ndarray) -> float:
    """Every penalty tried by refitting without each row in turn, normal equations with an explicit intercept."""
    z, q = (x - x.mean(axis=0)) / x.std(axis=0), (point - x.mean(axis=0)) / x.std(axis=0)

    def solve(a: np.ndarray, b: np.ndarray, penalty: float) -> np.ndarray:
        design = np.column_stack([np.ones(len(a)), a])
        ridge = penalty * np.diag([0.0] + [1.0] * a.shape[1])
        return np.linalg.solve(design.T @ design + ridge, design.T @ b)

    errors = []
    for penalty in PENALTIES:
        rows = [np.arange(len(z)) != i for i in range(len(z))]
        fits = [solve(z[kept], y[kept], penalty) for kept in rows]
        errors.append(sum((y[i] - f[0] - z[i] @ f[1:]) ** 2 for i, f in enumerate(fits)))
    best = solve(z, y, PENALTIES[int(np.argmin(errors))])
    return float(best[0] + q @ best[1:])


def test_the_shortcut_of_the_penalty_equals_refitting() -> None:
    rng = np.random.default_rng(3)
    x, y, point = rng.standard_normal((25, 4)), rng.standard_normal(25), rng.standard_normal((1, 4))
    assert float(_ridge(x, y)(point)[0]) == pytest.approx(naive_ridge(x, y, point[0]), rel=1e-9)


def test_missing_and_constant_metrics() -> None:
    records, losses = study(30)
    for record in records[:5]:
        del record["metrics"]["metrics"]["naswot"]
    for record in records:
        record["metrics"]["metrics"]["flops"] = 7.0
        record["metrics"]["extras"] = {"zico": record["metrics"]["metrics"]["snip"]}
    combiner = fit_combiner(records, losses)
    assert combiner.names == ("naswot", "params", "snip", "synflow", "zico")
    assert np.isfinite(combiner.scores(records)).all()


@pytest.mark.parametrize("kind", ["ridge", "boosted"])
def test_only_the_order_of_a_metric_counts(kind: str) -> None:
    if kind == "boosted":
        pytest.importorskip("sklearn")
    records, losses = study(30)
    stretched = [
        {"metrics": {"metrics": {n: np.log(v) if n == "snip" else v**3 for n, v in r["metrics"]["metrics"].items()}}}
        for r in records
    ]
    stretched[7]["metrics"]["metrics"]["params"] = max(r["metrics"]["metrics"]["params"] for r in stretched)
    records[7]["metrics"]["metrics"]["params"] = max(r["metrics"]["metrics"]["params"] for r in records)
    first, second = fit_combiner(records, losses, kind=kind), fit_combiner(stretched, losses, kind=kind)
    assert first.loo_spearman == second.loo_spearman
    assert first.scores(records) == second.scores(stretched)


def test_boosted_trees() -> None:
    pytest.importorskip("sklearn")
    records, losses = study(60)
    combiner = fit_combiner(records[:40], losses[:40], kind="boosted", seed=1)
    assert combiner.loo_spearman > 0.6
    assert combiner.scores(records) == fit_combiner(records[:40], losses[:40], kind="boosted", seed=1).scores(records)


def test_what_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    records, losses = study(MIN_TRAINED)
    with pytest.raises(InvalidArgument, match=f"needs {MIN_TRAINED}"):
        fit_combiner(records[1:], losses[1:])
    with pytest.raises(InvalidArgument, match="losses has 19 values for 20"):
        fit_combiner(records, losses[1:])
    with pytest.raises(InvalidArgument, match="finite"):
        fit_combiner(records, [np.nan, *losses[1:]])
    with pytest.raises(InvalidArgument, match="Did you mean 'ridge'"):
        fit_combiner(records, losses, kind="rigde")
    with pytest.raises(InvalidArgument, match="no metric"):
        fit_combiner([records[0]] * MIN_TRAINED, losses)
    for name in ["sklearn", *(m for m in sys.modules if m.startswith("sklearn."))]:
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(OptionalDependencyError, match=r"foreblocks-darts\[sklearn\]"):
        fit_combiner(records, losses, kind="boosted")


def test_trained_candidates_of_a_search() -> None:
    records, _ = study(3)
    records[1]["trial"] = {"val_loss": 0.5, "steps": 10, "seconds": 1.0}
    assert trained_candidates(records) == ([records[1]], [0.5])


@pytest.mark.parametrize("count", [0, 2, 3, MIN_TRAINED - 1, MIN_TRAINED])
def test_screening_report_says_what_it_can(count: int) -> None:
    records, losses = study(MIN_TRAINED + 2)
    for record, loss in zip(records[:count], losses, strict=False):
        record["trial"] = {"val_loss": float(loss)}
    records[-1]["trial"] = {"val_loss": float("nan")}
    report = screening_report(records)
    assert report["trained"] == count
    assert (report["vote_spearman"] is None) is (count < 3)
    assert (report["combiner_spearman"] is None) is (count < MIN_TRAINED)
    if count == MIN_TRAINED:
        combiner = fit_combiner(records[:count], losses[:count])
        assert report["combiner_spearman"] == combiner.loo_spearman
        assert report["vote_spearman"] == pytest.approx(combiner.vote_spearman)
