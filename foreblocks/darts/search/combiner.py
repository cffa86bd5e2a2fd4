"""Join zero-cost metrics by a small regression, once some candidates of the same study are trained.

Fixed weights know nothing of the data at hand; a fit to a few dozen trained candidates does (White et al., "How
powerful are performance predictors in neural architecture search?", NeurIPS 2021). Whether it helps is reported: each
trained candidate is predicted by a fit that has not seen it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from .._core.errors import InvalidArgument, check_choice, check_int
from .._core.optional import require
from .scoring import metric_values, rank_scores
from .weight_schemes import spearman_from_scores

KINDS = ("ridge", "boosted")
MIN_TRAINED = 20
MIN_COMPARED = 3
PENALTIES = np.logspace(-2, 4, 13)
Candidate = Mapping[str, Any]
Predict = Callable[[np.ndarray], np.ndarray]
Fit = Callable[[np.ndarray, np.ndarray], Predict]


@dataclass(frozen=True)
class FittedCombiner:
    """A regression from zero-cost metrics to the place among trained candidates.

    Attributes:
        kind: ``ridge`` or ``boosted``.
        names: metrics that it reads.
        trained: number of candidates that it was fitted to.
        loo_spearman: Spearman's correlation of what each of them was predicted without it, with its true place.
        vote_spearman: the same for the unfitted vote over the metrics (``rank_scores``): the one to beat.
    """

    kind: str
    names: tuple[str, ...]
    trained: int
    loo_spearman: float
    vote_spearman: float
    _predict: Predict

    @property
    def helps(self) -> bool:
        """Whether it orders candidates that it has not seen better than the vote."""
        return self.loo_spearman > self.vote_spearman

    def scores(self, candidates: Sequence[Candidate]) -> list[float]:
        """Return the predicted place of each candidate: about 0 for the worst, about 1 for the best."""
        if not candidates:
            return []
        return [float(v) for v in self._predict(_features(candidates, self.names))]

    def order(self, candidates: Sequence[Candidate]) -> list[dict[str, Any]]:
        """Return copies of the candidates with ``combiner_score``, best first; ties keep their order."""
        scored = [{**c, "combiner_score": s} for c, s in zip(candidates, self.scores(candidates), strict=True)]
        return sorted(scored, key=lambda candidate: -candidate["combiner_score"])


def fit_combiner(
    candidates: Sequence[Candidate], losses: Sequence[float], *, kind: str = "ridge", seed: int = 0
) -> FittedCombiner:
    """Fit a combiner to trained candidates.

    Both sides are ranks, so an outlier counts as one place: the target is the place by loss, a feature the share of the
    trained candidates that a metric is above. A metric that a candidate lacks puts it in the middle.

    Args:
        candidates: records with ``metrics`` (values outside the contract, in ``extras``, are read as well).
        losses: validation loss of each after some training; finite.
        kind: ``ridge`` (penalty by leave-one-out, inside each fit) or ``boosted`` (gradient-boosted trees of
            scikit-learn).
        seed: of the trees.

    Raises:
        InvalidArgument: unequal lengths, fewer than ``MIN_TRAINED`` candidates, a loss that is not finite, or no
            metric that tells two of them apart.
        OptionalDependencyError: scikit-learn is missing.
    """
    check_choice("kind", kind, KINDS)
    check_int("seed", seed, low=0)
    loss = np.asarray(losses, dtype=np.float64)
    if len(candidates) != loss.size:
        raise InvalidArgument(f"losses has {loss.size} values for {len(candidates)} candidates.")
    if loss.size < MIN_TRAINED:
        raise InvalidArgument(f"candidates has {loss.size} trained entries; a fit needs {MIN_TRAINED} at least.")
    if not np.isfinite(loss).all():
        raise InvalidArgument("losses must be finite; leave candidates out that failed.")
    fit = _ridge if kind == "ridge" else _boosted(seed)
    names = _varying(candidates)
    if not names:
        raise InvalidArgument("candidates have no metric that tells two of them apart.")
    raw, y = _features(candidates, names), _places(loss)
    predicted = [float(_on_ranks(fit, *_without(raw, y, i))(raw[i : i + 1])[0]) for i in range(len(y))]
    return FittedCombiner(
        kind=kind,
        names=names,
        trained=len(y),
        loo_spearman=spearman_from_scores(predicted, y),
        vote_spearman=spearman_from_scores(rank_scores(candidates, method="vote"), y),
        _predict=_on_ranks(fit, raw, y),
    )


def trained_candidates(records: Sequence[Candidate]) -> tuple[list[Candidate], list[float]]:
    """Return the candidates of a search result that had a short training, and their validation losses."""
    tried = [record for record in records if "trial" in record]
    return tried, [float(record["trial"]["val_loss"]) for record in tried]


def screening_report(records: Sequence[Candidate]) -> dict[str, Any]:
    """Return how far the zero-cost metrics foretold the short trainings of a search.

    Returns:
        ``trained``: candidates with a short training; ``vote_spearman``: correlation of the vote over the metrics with
        their order (the trainings are of the better half by that vote, so this is a part of the range only);
        ``combiner_spearman``: leave-one-out correlation of a ridge fitted to them. None stands for too few candidates
        (fewer than 3, or than ``MIN_TRAINED``) or none that differ.
    """
    tried, losses = trained_candidates(records)
    finite = [(c, loss) for c, loss in zip(tried, losses, strict=True) if math.isfinite(loss)]
    tried, losses = [c for c, _ in finite], [loss for _, loss in finite]
    report: dict[str, Any] = {"trained": len(tried), "vote_spearman": None, "combiner_spearman": None}
    if len(tried) >= MIN_COMPARED:
        report["vote_spearman"] = spearman_from_scores(rank_scores(tried, method="vote"), [-loss for loss in losses])
    if len(tried) >= MIN_TRAINED and _varying(tried):
        report["combiner_spearman"] = fit_combiner(tried, losses).loo_spearman
    return report


def _values(candidate: Candidate) -> dict[str, float]:
    metrics = candidate.get("metrics") or {}
    return {**metric_values(candidate), **(metrics.get("extras") or {})}


def _features(candidates: Sequence[Candidate], names: Sequence[str]) -> np.ndarray:
    """Return metrics ``[N, M]``, NaN where there is none."""
    rows = []
    for candidate in candidates:
        values = _values(candidate)
        rows.append([values.get(name, math.nan) for name in names])
    features = np.array(rows, dtype=np.float64).reshape(len(candidates), len(names))
    return np.where(np.isfinite(features), features, math.nan)


def _varying(candidates: Sequence[Candidate]) -> tuple[str, ...]:
    """Return the metrics that have two different values at least."""
    names = sorted({name for candidate in candidates for name in _values(candidate)})
    columns = _features(candidates, names)
    kept = [name for name, column in zip(names, columns.T, strict=True) if len(set(column[~np.isnan(column)])) > 1]
    return tuple(kept)


def _on_ranks(fit: Fit, raw: np.ndarray, y: np.ndarray) -> Predict:
    """Fit to the places that the metrics of the rows have among them; others are placed among the same rows."""
    predict = fit(_shares(raw, raw), y)
    return lambda rows: predict(_shares(raw, rows))


def _shares(reference: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Return the share of the reference that each value is above, equals counting half: in [0, 1], NaN is 1/2."""
    below = (reference[None] < rows[:, None]).sum(axis=1) + 0.5 * (reference[None] == rows[:, None]).sum(axis=1)
    known = np.isfinite(reference).sum(axis=0)
    return np.where(np.isnan(rows), 0.5, below / np.maximum(known, 1))


def _places(loss: np.ndarray) -> np.ndarray:
    """Return 1 for the lowest loss down to 0 for the highest, equal losses alike."""
    below = (loss[:, None] > loss[None, :]).sum(axis=1)
    equal = (loss[:, None] == loss[None, :]).sum(axis=1) - 1
    return 1.0 - (below + equal / 2.0) / (loss.size - 1)


def _without(x: np.ndarray, y: np.ndarray, row: int) -> tuple[np.ndarray, np.ndarray]:
    return np.delete(x, row, axis=0), np.delete(y, row)


def _ridge(x: np.ndarray, y: np.ndarray) -> Predict:
    """Fit a ridge on standardised columns; the penalty with the least leave-one-out error is taken."""
    centre, scale = x.mean(axis=0), x.std(axis=0)
    scale = np.where(scale > 0, scale, 1.0)
    z, mean = (x - centre) / scale, y.mean()
    u, s, vt = np.linalg.svd(z, full_matrices=False)
    along = u.T @ (y - mean)
    best, chosen = math.inf, PENALTIES[-1]
    for penalty in PENALTIES:
        shrink = s**2 / (s**2 + penalty)
        leverage = (u**2 @ shrink) + 1.0 / len(y)  # of the intercept as well
        residual = (y - mean - u @ (shrink * along)) / np.maximum(1.0 - leverage, 1e-9)
        error = float((residual**2).mean())
        if error < best:
            best, chosen = error, penalty
    coefficients = vt.T @ (s / (s**2 + chosen) * along)
    return lambda rows: mean + (rows - centre) / scale @ coefficients


def _boosted(seed: int) -> Fit:
    ensemble = require("sklearn.ensemble", extra="sklearn", feature="fit_combiner(kind='boosted')")

    def fit(x: np.ndarray, y: np.ndarray) -> Predict:
        trees = ensemble.GradientBoostingRegressor(
            n_estimators=100, learning_rate=0.1, max_depth=2, subsample=0.8, random_state=seed
        )
        return trees.fit(x, y).predict

    return fit
