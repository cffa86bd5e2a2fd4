"""Everything that puts the architectures of one data set in an order before they are trained. Higher is better."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from foreblocks.darts.benchmarks import TsnasEntry
from foreblocks.darts.search.combiner import MIN_TRAINED, fit_combiner
from foreblocks.darts.search.proxies import get_proxy, proxy_names
from foreblocks.darts.search.scoring import rank_scores, rescore_candidates_poolwise, score_from_metrics

from .correlation import Array, finite, spearman

RIVALS = ("params", "flops")
AZ_NAS = ("expressivity", "progressivity", "trainability")
FOLDS = 10
Record = dict[str, Any]


def records(entries: Sequence[TsnasEntry]) -> list[Record]:
    """Return the entries in the shape of the candidates of a search."""
    contract = set(proxy_names(contract=True))
    return [
        {
            "candidate_id": entry.arch,
            "metrics": {
                "metrics": {n: v for n, v in entry.proxies.items() if n in contract},
                "extras": {n: v for n, v in entry.proxies.items() if n not in contract},
            },
        }
        for entry in entries
    ]


def proxy_scores(entries: Sequence[TsnasEntry]) -> dict[str, Array]:
    """Return each proxy in its registered direction; params and flops are rivals and left out."""
    return {
        name: finite([get_proxy(name).direction * entry.proxies.get(name, np.nan) for entry in entries])
        for name in sorted(proxy_names())
        if name not in RIVALS
    }


def rival_scores(entries: Sequence[TsnasEntry]) -> dict[str, Array]:
    """Return the sizes, larger first."""
    return {f"more {name}": np.array([entry.proxies[name] for entry in entries]) for name in RIVALS}


def aggregate_scores(entries: Sequence[TsnasEntry]) -> dict[str, Array]:
    """Return the orders that join proxies without having seen a trained network."""
    pool = records(entries)
    flat = [{"metrics": dict(entry.proxies)} for entry in entries]
    weighted = [score_from_metrics(record["metrics"]["metrics"]) for record in pool]
    extras = {name: 1.0 for name in proxy_names() if name not in RIVALS}
    scores = {
        "vote": rank_scores(pool, method="vote"),
        "log_rank": rank_scores(pool, method="log_rank"),
        "weighted score": weighted,
        "pool z-score": [record["aggregate_score_pool"] for record in rescore_candidates_poolwise(pool)],
        "vote of all": rank_scores(flat, extras, method="vote"),
        "log_rank of all": rank_scores(flat, extras, method="log_rank"),
        "AZ-NAS trio": rank_scores(flat, dict.fromkeys(AZ_NAS, 1.0), method="log_rank"),
    }
    return {name: np.array(values) for name, values in scores.items()}


def transferred(entries: Sequence[TsnasEntry], others: Sequence[TsnasEntry]) -> Array | None:
    """Return what a ridge says that was fitted on the other data set, to other architectures (ten folds).

    None where too few are trained.
    """
    scores = np.full(len(entries), np.nan)
    for fold in range(FOLDS):
        fitted = [other for other in others if other.arch % FOLDS != fold]
        rows = [index for index, entry in enumerate(entries) if entry.arch % FOLDS == fold]
        if len(fitted) < MIN_TRAINED:
            return None
        combiner = fit_combiner(records(fitted), [other.mean_val_mse for other in fitted])
        scores[rows] = combiner.scores(records([entries[index] for index in rows]))
    return scores


def fitted_after(entries: Sequence[TsnasEntry], loss: Array, trained: int, *, draws: int = 20) -> float:
    """Return the mean correlation, on the rest, of a ridge that is fitted to ``trained`` random architectures."""
    rng = np.random.default_rng(trained)
    found = []
    for _ in range(draws):
        order = rng.permutation(len(entries))
        first, rest = order[:trained], order[trained:]
        combiner = fit_combiner(records([entries[i] for i in first]), [float(loss[i]) for i in first])
        found.append(spearman(np.array(combiner.scores(records([entries[i] for i in rest]))), -loss[rest]))
    return float(np.mean(found))
