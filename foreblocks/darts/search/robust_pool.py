"""Candidates that stay good whatever subset of ops is allowed (contract 2.13).

Each pool allows some ops only and ranks candidates of its own. What ends up near the top of many pools does so because
of its size and ops, not because of one lucky list of rivals.
"""

from __future__ import annotations

import math
import random
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import torch

from .._core.errors import SearchFailed, check_range
from .._core.logging import get_logger
from .._core.seeding import derive_seed
from .._core.types import WindowSource
from ..config import RobustPoolSearchConfig
from .candidates import CandidateConfig, SearchSpace, make_candidates
from .executor import make_executor
from .measure import measure_candidates
from .scoring import rank_scores, score_from_metrics
from .weight_schemes import build_weight_schemes, ranks_desc, spearman_from_scores

logger = get_logger(__name__)
Signature = tuple[tuple[str, ...], int, int, int]


@dataclass(frozen=True)
class Pool:
    """One pool after measuring.

    Attributes:
        index: number of the pool.
        ops: ops that it allows.
        records: its candidates that have metrics, best first.
        failures: ``{candidate_id, error}`` of the others.
    """

    index: int
    ops: tuple[str, ...]
    records: Sequence[Mapping[str, Any]]
    failures: Sequence[Mapping[str, Any]]


def robust_initial_pool_over_op_pools(
    source: WindowSource,
    space: SearchSpace,
    config: RobustPoolSearchConfig,
    *,
    device: torch.device | str = "cpu",
) -> dict[str, Any]:
    """Rank candidates inside many pools of ops and join the tops (``DARTSTrainer.robust_initial_pool_over_op_pools``).

    Inside a pool the order is that of a search (``scoring.rank_scores``); with ``use_weight_schemes`` it is the mean
    rank over the weight schemes. Rows are signatures: sorted ops, width, cells and nodes. ``robustness_mode``
    orders them, ties by the further columns:

    * ``topk_freq``: share of the pools that have it among their ``top_k``, then mean score;
    * ``avg_rank``: mean of its ranks in those pools;
    * ``worst_rank``: the worst of them;
    * ``spearman``: how far those pools order their candidates as all pools together do, a mean of Spearman's
      correlation.

    Args:
        source: windows to measure on.
        space: what candidates are made of; each pool takes a part of its ops.
        config: sizes, seeds and mode.
        device: where to compute.

    Returns:
        The documented dictionary: ``selected, robustness_table, pool_results, op_pools, config``. Candidates that
        could not be measured stand in ``failed_candidates`` of their pool.

    Raises:
        InvalidArgument: a size is out of range.
        SearchFailed: no candidate of any pool could be measured.
    """
    op_pools = sample_op_pools(space.ops, config)
    pools = _measure_pools(source, space, config, op_pools, device)
    alive = [pool for pool in pools if pool.records]
    if not alive:
        reasons = sorted({str(f["error"]) for pool in pools for f in pool.failures})
        raise SearchFailed(f"no candidate of any pool could be measured: {'; '.join(reasons)}")
    table = robustness_table(alive, config)
    return {
        "selected": table[: config.top_k],
        "robustness_table": table,
        "pool_results": [_pool_result(pool, config) for pool in pools],
        "op_pools": [list(ops) for ops in op_pools],
        "config": asdict(config),
    }


def sample_op_pools(ops: Sequence[str], config: RobustPoolSearchConfig) -> list[tuple[str, ...]]:
    """Return ``config.n_pools`` distinct subsets of ``ops``, their sizes uniform in ``config.pool_size_range``.

    Identity is in each and counts when it is required and allowed. If there are fewer subsets than asked for, all of
    them are returned, with a warning. The order of ``ops`` is kept inside a subset.
    """
    rng = random.Random(config.pool_seed)
    fixed = ("Identity",) if config.require_identity and "Identity" in ops else ()
    free = [op for op in ops if op not in fixed]
    low, high = check_range("pool_size_range", config.pool_size_range, low=1)
    largest = len(free) + len(fixed)
    sizes = range(min(low, largest) - len(fixed), min(high, largest) - len(fixed) + 1)
    left = {size: math.comb(len(free), size) for size in sizes}
    wanted = min(config.n_pools, sum(left.values()))
    if wanted < config.n_pools:
        logger.warning(
            "n_pools=%d, but %d ops have only %d distinct subsets of %d to %d: all are used.",
            config.n_pools, len(ops), wanted, sizes.start + len(fixed), sizes.stop - 1 + len(fixed),
        )  # fmt: skip
    found: dict[tuple[str, ...], None] = {}
    while len(found) < wanted:
        # Sizes that are used up are never drawn again, so an attempt finds a new subset with probability 1/wanted
        # at least.
        size = rng.choice([size for size in sizes if left[size]])
        chosen = set(rng.sample(free, size))
        subset = fixed + tuple(op for op in free if op in chosen)
        if subset not in found:
            found[subset] = None
            left[size] -= 1
    return list(found)


def candidate_row_signature(record: Mapping[str, Any]) -> Signature:
    """Return what makes two candidates one row: ``(sorted ops, hidden_dim, num_cells, num_nodes)``."""
    ops = tuple(sorted(record["selected_ops"]))
    return ops, record["hidden_dim"], record["num_cells"], record["num_nodes"]


def robustness_table(pools: Sequence[Pool], config: RobustPoolSearchConfig) -> list[dict[str, Any]]:
    """Return one row a signature that some pool has among its ``top_k``, best first by ``config.robustness_mode``."""
    agreement = _agreement(pools)
    seen: dict[Signature, list[tuple[Pool, int, Mapping[str, Any]]]] = defaultdict(list)
    for pool in pools:
        best: dict[Signature, tuple[Pool, int, Mapping[str, Any]]] = {}
        for rank, record in enumerate(pool.records[: config.top_k], start=1):
            best.setdefault(candidate_row_signature(record), (pool, rank, record))
        for signature, entry in best.items():
            seen[signature].append(entry)
    rows = []
    for signature, entries in seen.items():
        ranks = [rank for _, rank, _ in entries]
        scores = [record["baseline_score"] for _, _, record in entries]
        rows.append(
            {
                "signature": signature,
                "topk_freq": len(entries) / len(pools),
                "avg_rank": float(np.mean(ranks)),
                "worst_rank": max(ranks),
                "avg_score": float(np.mean(scores)),
                "score_std": float(np.std(scores)),
                "example_selected_ops": list(entries[0][2]["selected_ops"]),
                "example_hidden_dim": signature[1],
                "example_num_cells": signature[2],
                "example_num_nodes": signature[3],
                "spearman": float(np.mean([agreement[pool.index] for pool, _, _ in entries])),
            }
        )
    return sorted(rows, key=lambda row: _order(row, config.robustness_mode))


def _order(row: Mapping[str, Any], mode: str) -> tuple[Any, ...]:
    ties = (-row["topk_freq"], -row["avg_score"], row["signature"])
    first = {
        "topk_freq": (),
        "avg_rank": (row["avg_rank"],),
        "worst_rank": (row["worst_rank"], row["avg_rank"]),
        "spearman": (-row["spearman"],),
    }
    return (*first[mode], *ties)


def _agreement(pools: Sequence[Pool]) -> dict[int, float]:
    """Return pool → Spearman's correlation of its own order with that of all pools ranked together.

    A pool of one candidate has no order; it counts 0.
    """
    overall = iter(rank_scores([{"metrics": r["raw_metrics"]} for pool in pools for r in pool.records]))
    result = {}
    for pool in pools:
        own = [-float(place) for place in range(len(pool.records))]
        value = spearman_from_scores(own, [next(overall) for _ in own])
        result[pool.index] = 0.0 if math.isnan(value) else value
    return result


def _measure_pools(
    source: WindowSource,
    space: SearchSpace,
    config: RobustPoolSearchConfig,
    op_pools: Sequence[tuple[str, ...]],
    device: torch.device | str,
) -> list[Pool]:
    """Measure all candidates of all pools in one go, so that parallel workers stay busy to the end."""
    drawn: list[list[CandidateConfig]] = [
        make_candidates(replace(space, ops=ops), config.seed + index, config.num_candidates)
        for index, ops in enumerate(op_pools)
    ]
    flat = [candidate for pool in drawn for candidate in pool]
    measured = measure_candidates(
        flat,
        # By content: a candidate that several pools draw is the same network in all of them.
        [derive_seed("robust_pool", config.seed, candidate) for candidate in flat],
        source,
        make_executor(config.max_workers),
        max_samples=config.max_samples,
        num_batches=config.num_batches,
        seed=config.seed,
        device=device,
    )
    rows = iter(measured)
    schemes = build_weight_schemes(config.n_random, config.random_sigma, config.seed)
    pools = []
    for index, (ops, candidates) in enumerate(zip(op_pools, drawn, strict=True)):
        records = [{"candidate_id": number, **next(rows)} for number in range(len(candidates))]
        ordered = _ranked([r for r in records if r["success"]], schemes if config.use_weight_schemes else None)
        failures = [
            {"candidate_id": r["candidate_id"], "error": r["errors"]["_global"]} for r in records if not r["success"]
        ]
        if failures:
            logger.warning("pool %d: %d of %d candidates are left out.", index, len(failures), len(records))
        pools.append(Pool(index, ops, ordered, failures))
    return pools


def _ranked(
    records: Sequence[Mapping[str, Any]], schemes: Mapping[str, Mapping[str, float]] | None
) -> list[dict[str, Any]]:
    if not records:
        return []
    if schemes is None:
        order: Iterable[float] = [-score for score in rank_scores([{"metrics": r["raw_metrics"]} for r in records])]
    else:
        scores = [[score_from_metrics(r["raw_metrics"], weights) for r in records] for weights in schemes.values()]
        order = np.mean([ranks_desc(column) for column in scores], axis=0).tolist()
    ranked = sorted(zip(order, records, strict=True), key=lambda pair: (pair[0], pair[1]["candidate_id"]))
    return [{**record, "baseline_score": score_from_metrics(record["raw_metrics"])} for _, record in ranked]


def _pool_result(pool: Pool, config: RobustPoolSearchConfig) -> dict[str, Any]:
    head = {"pool_idx": pool.index, "allowed_ops": list(pool.ops), "success": bool(pool.records)}
    if not pool.records:
        reasons = sorted({str(f["error"]) for f in pool.failures})
        return {**head, "error": "; ".join(reasons), "failed_candidates": list(pool.failures)}
    names = build_weight_schemes(config.n_random, config.random_sigma, config.seed) if config.use_weight_schemes else {}
    topk = [
        {
            "pool_idx": pool.index,
            "allowed_ops": list(pool.ops),
            "signature": candidate_row_signature(record),
            "baseline_score": record["baseline_score"],
            "rank_in_pool": rank,
            **{key: record[key] for key in ("selected_ops", "hidden_dim", "num_cells", "num_nodes")},
            "candidate": {key: value for key, value in record.items() if key in _CANDIDATE_KEYS},
        }
        for rank, record in enumerate(pool.records[: config.top_k], start=1)
    ]
    return {
        **head, "topk": topk, "scheme_names": list(names) or ["baseline"], "failed_candidates": list(pool.failures),
    }  # fmt: skip


# Enough for ``DARTSTrainer.build_candidate``.
_CANDIDATE_KEYS = ("macro", "selected_ops", "num_cells", "num_nodes", "selected_families", "preset")
