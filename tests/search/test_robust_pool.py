"""Pools of ops: distinct subsets without a loop, every mode against a planted answer, failures, processes."""

from __future__ import annotations

import logging
from typing import Any

import numpy as np
import pytest
import torch

from foreblocks.darts import DARTSConfig, DARTSTrainer, RobustPoolSearchConfig
from foreblocks.darts._core.errors import InvalidArgument, SearchFailed
from foreblocks.darts.config import ROBUSTNESS_MODES
from foreblocks.darts.data.windows import WindowDataset
from foreblocks.darts.search import measure
from foreblocks.darts.search.robust_pool import Pool, robustness_table, sample_op_pools

L, H, C = 16, 2, 2
OPS = ["Identity", "TimeConv", "GRN", "ResidualMLP", "DLinear"]
SMALL = {"n_pools": 3, "pool_size_range": (2, 4), "num_candidates": 3, "top_k": 2, "n_random": 2}


def source() -> WindowDataset:
    return WindowDataset(torch.randn(120, C, generator=torch.Generator().manual_seed(0)), L, H, first=0, last=120)


def trainer(**changes: Any) -> DARTSTrainer:
    return DARTSTrainer(
        **{
            "input_dim": C, "hidden_dims": [4, 8], "forecast_horizon": H, "seq_length": L, "device": "cpu",
            "all_ops": OPS, **changes,
        }
    )  # fmt: skip


def search(**changes: Any) -> dict[str, Any]:
    return trainer().robust_initial_pool_over_op_pools(val_loader=source(), **{**SMALL, **changes})


@pytest.fixture(scope="module")
def result() -> dict[str, Any]:
    return search()


def test_documented_keys(result: dict[str, Any]) -> None:
    assert set(result) == {"selected", "robustness_table", "pool_results", "op_pools", "config"}
    assert {
        "signature", "topk_freq", "avg_rank", "worst_rank", "avg_score", "score_std", "example_selected_ops",
        "example_hidden_dim", "example_num_cells", "example_num_nodes",
    } <= set(result["robustness_table"][0])  # fmt: skip
    assert result["selected"] == result["robustness_table"][:2]
    assert len(result["pool_results"]) == len(result["op_pools"]) == 3
    for pool, ops in zip(result["pool_results"], result["op_pools"], strict=True):
        assert {"pool_idx", "allowed_ops", "success", "topk", "scheme_names"} <= set(pool)
        assert pool["allowed_ops"] == ops
        assert [row["rank_in_pool"] for row in pool["topk"]] == [1, 2]
        for row in pool["topk"]:
            assert {
                "pool_idx", "allowed_ops", "signature", "baseline_score", "rank_in_pool", "selected_ops", "hidden_dim",
                "num_cells", "num_nodes",
            } <= set(row)  # fmt: skip
            assert set(row["selected_ops"]) <= set(ops)


def test_a_row_can_be_built(result: dict[str, Any]) -> None:
    model = trainer().build_candidate(result["pool_results"][0]["topk"][0]["candidate"])
    assert model(torch.randn(2, L, C)).shape == (2, H, C)


def test_same_seed_same_result_in_one_process_or_two(result: dict[str, Any]) -> None:
    other = search(max_workers=2)
    assert {k: v for k, v in other.items() if k != "config"} == {k: v for k, v in result.items() if k != "config"}
    assert search(pool_seed=1)["op_pools"] != result["op_pools"]


@pytest.mark.parametrize("mode", ROBUSTNESS_MODES)
def test_every_mode_is_legal(mode: str, result: dict[str, Any]) -> None:
    found = search(robustness_mode=mode)
    assert sorted(r["signature"] for r in found["robustness_table"]) == sorted(
        r["signature"] for r in result["robustness_table"]
    )


def test_a_wrong_mode_is_said_before_any_work(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measure, "score_candidate", lambda task: pytest.fail("work has started"))
    with pytest.raises(InvalidArgument, match=r"robustness_mode='spearmen'.*Did you mean 'spearman'"):
        search(robustness_mode="spearmen")


def test_the_defaults_of_the_configuration_are_legal() -> None:
    config = DARTSConfig(
        input_dim=C, seq_length=L, forecast_horizon=H, device="cpu", robust_pool=RobustPoolSearchConfig()
    )
    config.space.hidden_dims = [4]
    found = DARTSTrainer(config=config).robust_initial_pool_over_op_pools(
        val_loader=source(), n_pools=2, num_candidates=2
    )
    assert found["config"]["robustness_mode"] == "spearman"
    assert found["config"]["pool_size_range"] == (4, 10)


def test_schemes_change_how_a_pool_is_ranked(result: dict[str, Any]) -> None:
    found = search(use_weight_schemes=True)
    names = found["pool_results"][0]["scheme_names"]
    assert {"baseline", "uniform", "rand_01"} <= set(names)
    assert result["pool_results"][0]["scheme_names"] == ["baseline"]
    scores = {r["signature"]: r["baseline_score"] for p in result["pool_results"] for r in p["topk"]}
    again = {r["signature"]: r["baseline_score"] for p in found["pool_results"] for r in p["topk"]}
    assert all(again[key] == scores[key] for key in scores.keys() & again.keys())


@pytest.mark.parametrize("identity", [True, False])
def test_pools_are_distinct_and_of_the_size_asked_for(identity: bool) -> None:
    config = RobustPoolSearchConfig(n_pools=12, pool_size_range=(2, 4), require_identity=identity)
    pools = sample_op_pools(OPS, config)
    assert len(set(pools)) == 12
    assert {len(pool) for pool in pools} == {2, 3, 4}
    assert all("Identity" in pool for pool in pools) is identity
    assert pools == sample_op_pools(OPS, config)


def test_more_pools_than_exist_end_with_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "foreblocks.darts"):
        pools = sample_op_pools(OPS, RobustPoolSearchConfig(n_pools=1000, pool_size_range=(2, 4)))
    # Identity and 1, 2 or 3 of the other four.
    assert len(set(pools)) == 4 + 6 + 4
    assert "only 14 distinct subsets" in caplog.text
    caplog.clear()
    with caplog.at_level(logging.WARNING, "foreblocks.darts"):
        assert sample_op_pools(["Identity", "GRN"], RobustPoolSearchConfig(n_pools=3)) == [("Identity", "GRN")]
    assert "only 1 distinct" in caplog.text


def test_equal_candidates_are_evaluated_once(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    real = measure.score_candidate
    monkeypatch.setattr(measure, "score_candidate", lambda task: calls.append(task.candidate) or real(task))
    small = trainer(all_ops=["Identity", "GRN"], hidden_dims=[4])
    found = small.robust_initial_pool_over_op_pools(
        val_loader=source(), n_pools=1, num_candidates=3, top_k=3, use_weight_schemes=True, n_random=40
    )
    assert len(calls) == len(set(calls)) <= 3
    assert found["pool_results"][0]["success"]


def test_failures_are_listed_not_fatal(monkeypatch: pytest.MonkeyPatch, result: dict[str, Any]) -> None:
    real = measure.score_candidate
    seen: list[Any] = []

    def fail(task: Any) -> Any:
        seen.append(task)
        if len(seen) <= 4:  # the whole first pool, and one of the second
            raise RuntimeError("no memory")
        return real(task)

    monkeypatch.setattr(measure, "score_candidate", fail)
    found = search()
    first, second, third = found["pool_results"]
    assert first["success"] is False
    assert "no memory" in first["error"]
    assert [f["candidate_id"] for f in second["failed_candidates"]] == [0]
    assert third["topk"] == result["pool_results"][2]["topk"]
    monkeypatch.setattr(measure, "score_candidate", lambda task: 1 / 0)
    with pytest.raises(SearchFailed, match="ZeroDivisionError"):
        search()


def planted_record(name: str, value: float) -> dict[str, Any]:
    return {
        "candidate_id": 0, "selected_ops": [name], "hidden_dim": 4, "num_cells": 1, "num_nodes": 2,
        "raw_metrics": {"snip": value}, "baseline_score": value,
    }  # fmt: skip


PLANTED = {  # pools of (name, snip), best first as each pool sees it
    0: [("a", 5.0), ("b", 4.0), ("c", 3.0)],
    1: [("a", 5.0), ("b", 4.0), ("d", 2.0)],
    2: [("c", 3.0), ("a", 5.0), ("e", 4.5)],
    3: [("e", 4.5), ("b", 4.0), ("a", 5.0)],
}


def planted(mode: str, top_k: int = 2) -> list[str]:
    pools = [Pool(i, (), [planted_record(n, v) for n, v in rows], []) for i, rows in PLANTED.items()]
    table = robustness_table(pools, RobustPoolSearchConfig(robustness_mode=mode, top_k=top_k))
    return [row["signature"][0][0] for row in table]


def test_modes_give_the_planted_orders() -> None:
    # Ranks within the two best: a 1, 1, 2; b 2, 2, 2; c 1; e 1. Means: a 4/3, b 2, c 1, e 1.
    assert planted("topk_freq") == ["a", "b", "e", "c"]  # 3/4, 3/4 with less score, 1/4, 1/4 with less score
    assert planted("avg_rank") == ["e", "c", "a", "b"]
    assert planted("worst_rank") == ["e", "c", "a", "b"]
    # All pools together order by snip: pools 0 and 1 agree (1, 1), pool 2 has -0.5, pool 3 -0.5.
    rows = robustness_table(
        [Pool(i, (), [planted_record(n, v) for n, v in rows], []) for i, rows in PLANTED.items()],
        RobustPoolSearchConfig(robustness_mode="spearman", top_k=2),
    )
    by_name = {row["signature"][0][0]: row["spearman"] for row in rows}
    assert by_name["a"] == pytest.approx(np.mean([1.0, 1.0, -0.5]))
    assert by_name["b"] == pytest.approx(np.mean([1.0, 1.0, by_name["e"]]))
    assert rows[0]["spearman"] == max(by_name.values())
    assert rows[-1]["spearman"] == min(by_name.values())
