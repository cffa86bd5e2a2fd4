"""From raw metrics to an order of candidates: by rank, by the contract's weights, or by z-scores over a pool.

Nothing here changes what it is given; every function returns new lists and dictionaries.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any, TypeGuard, TypeVar

import numpy as np

from .._core.errors import check_choice, check_int
from ..architecture.spec import Macro
from .proxies import base_weights, get_proxy, normalize_value

DIVERSITY_BONUS = 0.12
Z_CLIP = 3.0
RANK_METHODS = ("vote", "log_rank")
#: The default: Spearman with the trained networks of TSNAS (docs/tsnas.md) is .82 and .80, for the vote .77 and .74.
RANK_METHOD = "log_rank"
ALIASES = {"zennas": "activation_diversity"}

Candidate = Mapping[str, Any]
C = TypeVar("C", bound=Candidate)

_SIGNATURE_KEYS = (
    "arch_mode",
    "hidden_dim",
    "num_cells",
    "num_nodes",
    "transformer_self_attention_type",
    "transformer_ffn_variant",
    "transformer_use_moe",
    "loss_type",
    *(f.name for f in dataclasses.fields(Macro) if f.name not in ("arch_mode", "hidden_dim")),
)


def normalize_metric_value(name: str, value: float) -> float:
    """Return a raw metric squashed as contract 5.1 says; ``zennas`` means ``activation_diversity``.

    Raises:
        InvalidArgument: an unknown metric.
    """
    return normalize_value(float(value), get_proxy(ALIASES.get(name, name)).norm)


def score_from_metrics(metrics: Mapping[str, float], weights: Mapping[str, float] | None = None) -> float:
    """Return Σ w·normalised / max(Σ|w|, 1) over the metrics that are present and finite; higher is better.

    Args:
        metrics: name → raw value.
        weights: name → weight; None means the weights of the contract.
    """
    weights = base_weights() if weights is None else weights
    values = {ALIASES.get(name, name): value for name, value in metrics.items()}
    used = {ALIASES.get(name, name): weight for name, weight in weights.items()}
    terms = [(used[n], normalize_metric_value(n, v)) for n, v in values.items() if n in used and _finite(v)]
    return sum(w * v for w, v in terms) / max(sum(abs(w) for w, _ in terms), 1.0)


def normalize_metric_for_pool(name: str, values: Sequence[float | None]) -> list[float | None]:
    """Return the z-scores over a pool of the normalised values of one metric, clipped to ±3.

    A constant metric gives 0 everywhere; missing and non-finite values stay None and do not count.
    """
    squashed = [normalize_metric_value(name, v) if _finite(v) else None for v in values]
    present = np.array([v for v in squashed if v is not None])
    if present.size == 0:
        return squashed
    mean, deviation = float(present.mean()), float(present.std())
    if deviation <= 1e-12 * max(1.0, abs(mean)):
        return [None if v is None else 0.0 for v in squashed]
    return [None if v is None else float(np.clip((v - mean) / deviation, -Z_CLIP, Z_CLIP)) for v in squashed]


def rescore_candidates_poolwise(
    candidates: Sequence[Candidate], weights: Mapping[str, float] | None = None
) -> list[dict[str, Any]]:
    """Return copies of the candidates, in the same order, scored by z-scores over the pool (contract 5.4).

    Each gets ``score_raw`` (the score it came with), ``aggregate_score_pool`` and ``score``, the pool score plus its
    ``diversity_bonus``. A metric that a candidate lacks counts neither for nor against it.
    """
    weights = base_weights() if weights is None else weights
    pool = [metric_values(candidate) for candidate in candidates]
    scaled = {name: normalize_metric_for_pool(name, [values.get(name) for values in pool]) for name in weights}
    rescored = []
    for index, candidate in enumerate(candidates):
        terms = [(weights[name], z) for name, column in scaled.items() if (z := column[index]) is not None]
        score = sum(w * z for w, z in terms) / max(sum(abs(w) for w, _ in terms), 1.0)
        rescored.append(
            {
                **candidate,
                "score_raw": candidate.get("score"),
                "aggregate_score_pool": score,
                "score": score + float(candidate.get("diversity_bonus") or 0.0),
            }
        )
    return rescored


def candidate_diversity_bonus(ops: Sequence[str], all_ops: Sequence[str]) -> float:
    """Return 0.12 × (unique ops other than Identity) / (number of all ops − 1), at most 0.12."""
    unique = len(set(ops) - {"Identity"})
    return min(DIVERSITY_BONUS, DIVERSITY_BONUS * unique / max(len(all_ops) - 1, 1))


def candidate_signature(config: Any) -> tuple[Any, ...]:
    """Return what makes two candidates the same network: ops, size, mode, attention, feed-forward, every macro choice.

    Args:
        config: a mapping or dataclass with the keys of a candidate; macro choices may also stand in a nested
            ``macro``. What describes no network (scores, ids, seeds) is not looked at.
    """
    flat = _as_mapping(config)
    flat = {**flat, **_as_mapping(flat.get("macro") or {})}
    ops = tuple(sorted(set(flat.get("selected_ops") or ())))
    return (ops, *(_hashable(flat.get(key)) for key in _SIGNATURE_KEYS))


def deduplicate_candidates(candidates: Sequence[C]) -> list[C]:
    """Return the candidates without those whose signature an earlier one has."""
    first: dict[tuple[Any, ...], C] = {}
    for candidate in candidates:
        first.setdefault(candidate_signature(candidate), candidate)
    return list(first.values())


def select_top_candidates(candidates: Sequence[C], top_k: int) -> list[C]:
    """Return the ``top_k`` candidates of highest ``score``, best first; ties go by ``candidate_id``, no score is last.

    Raises:
        InvalidArgument: ``top_k`` is below 1.
    """
    check_int("top_k", top_k, low=1)
    return _best_first(candidates, [candidate.get("score") for candidate in candidates])[:top_k]


def rank_scores(
    candidates: Sequence[Candidate], weights: Mapping[str, float] | None = None, *, method: str = RANK_METHOD
) -> list[float]:
    """Return a score per candidate from its ranks over the positively weighted metrics, higher is better.

    ``vote`` is the mean of the ranks, which run from 0 (worst) to 1 (best) (Abdelfattah et al., ICLR 2021, with mean
    ranks instead of a majority). ``log_rank`` is the mean of log(rank / N), the best of N having rank N (Lee and Ham,
    AZ-NAS, CVPR 2024): being among the last by one metric weighs more than being the first by another.

    Ranks are averaged over ties. A metric that a candidate lacks puts it last for that metric, below every value; a
    metric that none has is left out.

    Raises:
        InvalidArgument: an unknown method or metric.
    """
    check_choice("method", method, RANK_METHODS)
    weights = base_weights() if weights is None else weights
    pool = [metric_values(candidate) for candidate in candidates]
    columns = []
    for name in (name for name, weight in weights.items() if weight > 0):
        key = ALIASES.get(name, name)
        column = [values.get(key) for values in pool]
        if any(_finite(value) for value in column):
            direction = get_proxy(key).direction
            columns.append(_mean_ranks([direction * v if _finite(v) else -math.inf for v in column]))
    if not columns:
        return [0.0] * len(candidates)
    ranks = np.array(columns)
    if method == "log_rank":
        ranks = np.log((ranks * (len(pool) - 1) + 1.0) / len(pool))
    return [float(value) for value in ranks.mean(axis=0)]


def order_by_rank(
    candidates: Sequence[Candidate], weights: Mapping[str, float] | None = None, *, method: str = RANK_METHOD
) -> list[dict[str, Any]]:
    """Return copies of the candidates with ``rank_score`` of ``rank_scores``, best first; ties by ``candidate_id``."""
    scores = rank_scores(candidates, weights, method=method)
    scored = [{**candidate, "rank_score": score} for candidate, score in zip(candidates, scores, strict=True)]
    return _best_first(scored, scores)


def metric_values(candidate: Candidate) -> dict[str, float]:
    """Return name → value of a candidate: its ``metrics``, which may be the full zero-cost result around them."""
    metrics: Mapping[str, Any] = candidate.get("metrics") or {}
    inner = metrics.get("metrics", metrics)
    return {ALIASES.get(name, name): value for name, value in inner.items()}


def _best_first(candidates: Sequence[Any], scores: Sequence[float | None]) -> list[Any]:
    def key(index: int) -> tuple[Any, ...]:
        score = scores[index]
        place = -float(score) if _known(score) else math.inf
        identity = candidates[index].get("candidate_id", index)
        # Numbers before text, so that mixed ids compare.
        return (place, isinstance(identity, str), identity)

    return [candidates[index] for index in sorted(range(len(candidates)), key=key)]


def _mean_ranks(values: Sequence[float]) -> np.ndarray:
    """Return ranks in [0, 1], 1 for the largest, equal for equal values."""
    array = np.asarray(values, dtype=float)
    _, inverse, counts = np.unique(array, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    mean = last - (counts + 1) / 2.0  # mean 0-based position of each group of equals
    return mean[inverse] / max(len(array) - 1, 1)


def _finite(value: Any) -> TypeGuard[float]:
    return isinstance(value, (int, float, np.floating, np.integer)) and math.isfinite(value)


def _known(value: Any) -> TypeGuard[float]:
    return isinstance(value, (int, float, np.floating, np.integer)) and not math.isnan(value)


def _as_mapping(config: Any) -> Mapping[str, Any]:
    if dataclasses.is_dataclass(config) and not isinstance(config, type):
        return dataclasses.asdict(config)
    return config


def _hashable(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value
