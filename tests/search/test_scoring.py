"""Orders of candidates: the contract's weighted score, pool z-scores, votes, signatures, weight schemes."""

import copy
import math

import numpy as np
import pytest

from foreblocks.darts._core.errors import InvalidArgument
from foreblocks.darts.architecture.spec import Macro
from foreblocks.darts.search.proxies import base_weights
from foreblocks.darts.search.scoring import (
    candidate_diversity_bonus,
    candidate_signature,
    deduplicate_candidates,
    normalize_metric_for_pool,
    normalize_metric_value,
    order_by_rank,
    rank_scores,
    rescore_candidates_poolwise,
    score_from_metrics,
    select_top_candidates,
)
from foreblocks.darts.search.weight_schemes import (
    build_weight_schemes,
    ranks_desc,
    spearman_from_scores,
    topk_overlap_from_scores,
)

CONFIG = {
    "selected_ops": ["Identity", "TCN", "GRN"],
    "hidden_dim": 32,
    "num_cells": 1,
    "num_nodes": 3,
    "arch_mode": "encoder_only",
    "transformer_self_attention_type": "sdp",
    "transformer_ffn_variant": "swiglu",
    "transformer_use_moe": False,
    "series_norm": "revin",
    "channel_mode": "mixed",
    "patch_len": 1,
    "head": "flatten",
}


def candidate(identity, score=None, **metrics):
    record = {**CONFIG, "candidate_id": identity, "metrics": {"metrics": metrics}, "diversity_bonus": 0.05}
    return record if score is None else {**record, "score": score}


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("synflow", 3.0, math.log(4.0)),
        ("synflow", -3.0, 0.0),
        ("grasp", -3.0, -math.log(4.0)),
        ("naswot", 3.0, math.log(4.0)),
        ("conditioning", 15.0, 0.5),
        ("conditioning", 99.0, 1.0),
        ("zennas", 1.0, math.log(2.0)),
        ("params", 99.0, math.log(100.0)),
    ],
)
def test_normalisation(name, value, expected):
    assert normalize_metric_value(name, value) == pytest.approx(expected)


def test_score_is_the_contract_formula():
    metrics = {"synflow": 3.0, "jacobian": -7.0, "params": 100.0, "conditioning": 15.0}
    expected = 0.25 * math.log(4) - 0.15 * math.log(8) - 0.05 * math.log(101) - 0.10 * 0.5
    assert score_from_metrics(metrics) == pytest.approx(expected / 1.0)  # Σ|w| = 0.55 is raised to 1
    weights = {"synflow": 2.0, "jacobian": -1.0}
    assert score_from_metrics(metrics, weights) == pytest.approx((2 * math.log(4) + math.log(8)) / 3)
    assert score_from_metrics({**metrics, "snip": math.nan}) == score_from_metrics(metrics)
    assert score_from_metrics({"grad_norm": 5.0}) == 0.0
    assert score_from_metrics({"zennas": 1.0}) == score_from_metrics({"activation_diversity": 1.0}) > 0


def test_pool_z_scores():
    values = [1.0, 10.0, None, 100.0, math.nan]
    got = normalize_metric_for_pool("snip", values)
    logs = np.log1p([1.0, 10.0, 100.0])
    expected = (logs - logs.mean()) / logs.std()
    assert got[2] is None
    assert got[4] is None
    assert [got[0], got[1], got[3]] == pytest.approx(expected)
    assert normalize_metric_for_pool("snip", [2.0, 2.0, None]) == [0.0, 0.0, None]
    assert normalize_metric_for_pool("snip", [None]) == [None]
    assert max(normalize_metric_for_pool("snip", [0.0] * 50 + [9.0])) == 3.0


def test_rescoring_over_the_pool_copies():
    pool = [candidate(i, score=float(i), snip=v, params=10.0) for i, v in enumerate([1.0, 2.0, 3.0])]
    before = copy.deepcopy(pool)
    rescored = rescore_candidates_poolwise(pool)
    assert pool == before
    z = normalize_metric_for_pool("snip", [1.0, 2.0, 3.0])
    for row, old, value in zip(rescored, pool, z, strict=True):
        assert row["score_raw"] == old["score"]
        assert row["aggregate_score_pool"] == pytest.approx(0.15 * value)
        assert row["score"] == pytest.approx(0.15 * value + 0.05)


def test_diversity_bonus():
    ops = ["Identity", "a", "b", "c", "d"]
    assert candidate_diversity_bonus(["Identity"], ops) == 0.0
    assert candidate_diversity_bonus(["Identity", "a", "a", "b"], ops) == pytest.approx(0.06)
    assert candidate_diversity_bonus(ops, ops) == pytest.approx(0.12)
    assert candidate_diversity_bonus(["a", "b", "c"], ["a", "b"]) == pytest.approx(0.12)
    assert candidate_diversity_bonus(["Identity"], ["Identity"]) == 0.0


@pytest.mark.parametrize(
    "change",
    [
        {"selected_ops": ["Identity", "TCN"]},
        {"hidden_dim": 64},
        {"num_cells": 2},
        {"num_nodes": 4},
        {"arch_mode": "mamba"},
        {"transformer_self_attention_type": "linear"},
        {"transformer_ffn_variant": "moe"},
        {"series_norm": "last"},
        {"channel_mode": "independent"},
        {"patch_len": 8},
        {"head": "last"},
        {"linear_path": "shared"},
        {"num_layers": 2},
    ],
    ids=lambda change: next(iter(change)),
)
def test_signature_tells_networks_apart(change):
    assert candidate_signature({**CONFIG, **change}) != candidate_signature(CONFIG)


def test_signature_reads_nested_macros_and_ignores_the_record():
    record = {**CONFIG, "candidate_id": 7, "score": 1.0, "metrics": {}, "selected_ops": ["TCN", "GRN", "Identity"]}
    assert candidate_signature(record) == candidate_signature(CONFIG)
    nested = {"selected_ops": ["TCN"], "macro": Macro(3, 48, 24, patch_len=8)}
    flat = {"selected_ops": ["TCN"], **{k: getattr(nested["macro"], k) for k in Macro.__dataclass_fields__}}
    assert candidate_signature(nested) == candidate_signature(flat)
    hash(candidate_signature({**CONFIG, "patch_len": [1, 8]}))


def test_deduplication_keeps_the_first():
    rows = [candidate(0), candidate(1), {**candidate(2), "head": "last"}]
    assert [row["candidate_id"] for row in deduplicate_candidates(rows)] == [0, 2]


def test_selection_does_not_mutate_and_puts_unknown_scores_last():
    rows = [candidate(3, 1.0), candidate(1, math.nan), candidate(0, 2.0), candidate(2, 1.0), candidate(4)]
    before = copy.copy(rows)
    assert [row["candidate_id"] for row in select_top_candidates(rows, 3)] == [0, 2, 3]
    assert [row["candidate_id"] for row in select_top_candidates(rows, 99)] == [0, 2, 3, 1, 4]
    assert all(a is b for a, b in zip(rows, before, strict=True))
    with pytest.raises(InvalidArgument, match="top_k=0"):
        select_top_candidates(rows, 0)


def test_votes_use_ranks_of_positive_metrics_only():
    rows = [
        candidate(0, synflow=1.0, snip=1e9, params=1.0),
        candidate(1, synflow=2.0, snip=2e9, params=5.0),
        candidate(2, synflow=3.0, snip=0.0, params=9.0),
    ]
    assert rank_scores(rows, method="vote") == pytest.approx([0.25, 0.75, 0.5])
    assert [row["candidate_id"] for row in order_by_rank(rows, method="vote")] == [1, 2, 0]
    assert "rank_score" not in rows[0]


def test_votes_put_missing_values_last():
    rows = [candidate(0, naswot=math.nan), candidate(1), candidate(2, naswot=-900.0), candidate(3, naswot=5.0)]
    assert rank_scores(rows, method="vote") == pytest.approx([1 / 6, 1 / 6, 2 / 3, 1.0])
    assert [row["candidate_id"] for row in order_by_rank(rows, method="vote")] == [3, 2, 0, 1]
    assert rank_scores([candidate(0), candidate(1)], method="vote") == [0.0, 0.0]
    assert rank_scores([], method="vote") == []
    ties = [candidate(i, snip=1.0) for i in (2, 0, 1)]
    assert [row["candidate_id"] for row in order_by_rank(ties, method="vote")] == [0, 1, 2]


def test_weight_schemes():
    with pytest.raises(InvalidArgument, match="seed=-1 must be at least 0"):
        build_weight_schemes(2, 0.1, -1)
    schemes = build_weight_schemes(2, 0.1, 0)
    base = base_weights()
    assert len(schemes) == 21
    assert list(schemes)[:8] == [
        "baseline", "uniform", "subset_grad", "subset_act", "subset_complexity", "subset_synflow", "subset_pos_only",
        "subset_no_penalties",
    ]  # fmt: skip
    assert schemes["baseline"] == base
    assert set(schemes["uniform"].values()) == {1.0, -1.0}
    assert schemes["uniform"]["params"] == -1.0
    assert set(schemes["subset_grad"]) == {"grasp", "fisher", "snip", "jacobian", "sensitivity"}
    assert min(schemes["subset_pos_only"].values()) > 0
    assert set(base) - set(schemes["loo_minus_snip"]) == {"snip"}
    assert schemes["rand_00"] != schemes["rand_01"]
    assert schemes["rand_01"] == build_weight_schemes(1, 0.1, 1)["rand_00"]
    assert build_weight_schemes(1, 0.0, 3)["rand_00"] == base
    with pytest.raises(InvalidArgument, match="n_random=-1"):
        build_weight_schemes(-1, 0.1, 0)


def test_rank_statistics():
    assert ranks_desc([0.5, math.nan, 2.0, 0.5]).tolist() == [2, 4, 1, 3]
    assert spearman_from_scores([1, 2, 3, 4], [10, 20, 30, 40]) == pytest.approx(1.0)
    assert spearman_from_scores([1, 2, 3, 4], [4, 3, 2, 1]) == pytest.approx(-1.0)
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=20), rng.normal(size=20)
    ranks = [np.argsort(np.argsort(-v)) for v in (a, b)]
    assert spearman_from_scores(a, b) == pytest.approx(np.corrcoef(*ranks)[0, 1])
    assert math.isnan(spearman_from_scores([1.0], [1.0]))
    assert topk_overlap_from_scores([3, 2, 1, 0], [3, 0, 2, 1], 2) == 0.5
    assert topk_overlap_from_scores([3, 2], [2, 3], 9) == 1.0
    with pytest.raises(InvalidArgument, match="k=0"):
        topk_overlap_from_scores([1], [1], 0)
    with pytest.raises(InvalidArgument, match="3 scores"):
        spearman_from_scores([1, 2, 3], [1, 2])


def test_log_rank_is_the_formula_and_punishes_a_last_place():
    pool = [
        candidate(0, snip=3.0, synflow=1.0),
        candidate(1, snip=2.0, synflow=2.0),
        candidate(2, snip=1.0, synflow=3.0),
    ]
    found = rank_scores(pool, {"snip": 1.0, "synflow": 1.0, "params": -1.0}, method="log_rank")
    ends, middle = (math.log(3 / 3) + math.log(1 / 3)) / 2, math.log(2 / 3)
    assert found == pytest.approx([ends, middle, ends])
    assert rank_scores(pool, {"snip": 1.0, "synflow": 1.0}, method="vote") == pytest.approx([0.5, 0.5, 0.5])
    assert order_by_rank(pool, {"snip": 1.0, "synflow": 1.0}, method="log_rank")[0]["candidate_id"] == 1
    with pytest.raises(InvalidArgument, match="method='borda'"):
        rank_scores(pool, method="borda")
