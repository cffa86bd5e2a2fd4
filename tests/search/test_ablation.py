"""The study of weight schemes: one evaluation a candidate, documented keys, honest failures, the same in processes."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from foreblocks.darts import AblationSearchConfig, DARTSConfig, DARTSTrainer
from foreblocks.darts._core.errors import InvalidArgument, OptionalDependencyError, SearchFailed
from foreblocks.darts.data.windows import WindowDataset
from foreblocks.darts.search import measure
from foreblocks.darts.search.ablation import Scores, random_analysis, study_tables
from foreblocks.darts.search.scoring import score_from_metrics
from foreblocks.darts.search.weight_schemes import build_weight_schemes

pytest.importorskip("pandas")
L, H, C = 16, 2, 2
SMALL = {"num_candidates": 5, "n_random": 4, "top_k": 2, "save_plots": False, "save_csv": False}


def source(seed: int = 0) -> WindowDataset:
    g = torch.Generator().manual_seed(seed)
    return WindowDataset(torch.randn(120, C, generator=g), L, H, first=0, last=120)


def trainer(**changes: Any) -> DARTSTrainer:
    return DARTSTrainer(
        **{"input_dim": C, "hidden_dims": [4, 8], "forecast_horizon": H, "seq_length": L, "device": "cpu", **changes}
    )


def study(**changes: Any) -> dict[str, Any]:
    return trainer().ablation_weight_search(source(), None, **{**SMALL, **changes})


@pytest.fixture(scope="module")
def result() -> dict[str, Any]:
    return study()


def test_documented_keys(result: dict[str, Any]) -> None:
    assert {
        "candidates", "scheme_names", "schemes", "score_matrix", "rank_matrix", "tables", "random_analysis",
        "artifacts", "config",
    } <= set(result)  # fmt: skip
    assert {
        "candidate_id", "success", "raw_metrics", "success_rates", "errors", "base_weights", "scheme_scores",
        "selected_ops", "hidden_dim", "num_cells", "num_nodes", "arch_mode",
    } <= set(result["candidates"][0])  # fmt: skip
    columns = {name: list(frame.columns) for name, frame in result["tables"].items()}
    agreement = ["spearman_vs_baseline", "topk_overlap_vs_baseline"]
    assert columns == {
        "stability": ["scheme", *agreement],
        "top_candidates": [
            "candidate_id", "baseline_rank", "hidden_dim", "num_cells", "num_nodes", "num_ops", "selected_ops",
            "baseline_score", "uniform_score",
        ],
        "loo_importance": ["metric_removed", *agreement, "importance_spearman_drop", "importance_topk_drop"],
    }  # fmt: skip
    assert set(result["artifacts"]) == {
        "rank_heatmap", "winner_rank_hist", "topk_freq", "loo_importance", "stability_csv", "top_candidates_csv",
        "loo_csv",
    }  # fmt: skip
    assert set(result["artifacts"].values()) == {None}


def test_scores_are_those_of_the_schemes(result: dict[str, Any]) -> None:
    schemes = build_weight_schemes(4, 0.25, 0)
    assert result["scheme_names"] == list(schemes)
    assert result["score_matrix"].shape == result["rank_matrix"].shape == (5, len(schemes))
    for row, candidate in zip(result["score_matrix"], result["candidates"], strict=True):
        expected = [score_from_metrics(candidate["raw_metrics"], weights) for weights in schemes.values()]
        assert row.tolist() == expected == list(candidate["scheme_scores"].values())
    best = result["tables"]["top_candidates"]["candidate_id"].tolist()
    order = np.argsort(-result["score_matrix"][:, 0])
    assert best == [result["candidates"][i]["candidate_id"] for i in order[:2]]
    assert result["random_analysis"]["baseline_winner_candidate_id"] == best[0]


def test_the_candidates_and_scores_are_those_of_a_search(result: dict[str, Any]) -> None:
    found = trainer().multi_fidelity_search(
        source(), source(1), source(2), num_candidates=2, top_k=1, search_epochs=1, final_epochs=1, trial_steps=0,
        max_train_batches=1, max_val_batches=1, node_range=(2, 4),
    )  # fmt: skip
    for record in found["candidates"]:
        assert record["metrics"]["metrics"] == result["candidates"][record["candidate_id"]]["raw_metrics"]


def _same(a: Any, b: Any) -> bool:
    return (
        a["candidates"] == b["candidates"]
        and np.array_equal(a["score_matrix"], b["score_matrix"])
        and a["random_analysis"] == b["random_analysis"]
        and all(a["tables"][name].equals(b["tables"][name]) for name in a["tables"])
    )


def test_same_seed_same_result_in_one_process_or_two(result: dict[str, Any]) -> None:
    assert _same(result, study(max_workers=2))
    assert not _same(result, study(seed=1))


def test_each_candidate_is_evaluated_once_however_many_schemes(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    real = measure.score_candidate
    monkeypatch.setattr(measure, "score_candidate", lambda task: calls.append(task.candidate) or real(task))
    study(num_candidates=3, n_random=200)
    assert len(calls) == len(set(calls)) == 3


def test_a_failing_candidate_is_listed_not_fatal(monkeypatch: pytest.MonkeyPatch, result: dict[str, Any]) -> None:
    real = measure.score_candidate
    bad = result["candidates"][1]

    def fail(task: Any) -> Any:
        if list(task.candidate.selected_ops) == bad["selected_ops"]:
            raise RuntimeError("no memory")
        return real(task)

    monkeypatch.setattr(measure, "score_candidate", fail)
    left = study()
    assert [c["candidate_id"] for c in left["candidates"]] == [0, 2, 3, 4]
    assert left["score_matrix"].shape[0] == 4
    assert [c["candidate_id"] for c in left["failed_candidates"]] == [1]
    assert "no memory" in left["failed_candidates"][0]["errors"]["_global"]
    monkeypatch.setattr(measure, "score_candidate", lambda task: 1 / 0)
    with pytest.raises(SearchFailed, match="candidate 0: ZeroDivisionError"):
        study()


def test_importance_finds_the_metric_that_decides() -> None:
    """Planted: params differ by orders, snip the other way round by little; every other metric is equal."""
    records = [
        {"candidate_id": i, "raw_metrics": {"params": 10.0**i, "snip": 1.0 + 0.01 * i}, "selected_ops": [],
         "hidden_dim": 4, "num_cells": 1, "num_nodes": 2} for i in range(5)
    ]  # fmt: skip
    table = Scores.of(records, build_weight_schemes(3, 0.1, 0), 2)
    rows = study_tables(table)
    assert rows["loo_importance"][0]["metric_removed"] == "params"
    assert rows["loo_importance"][0]["importance_spearman_drop"] == pytest.approx(2.0)
    assert rows["loo_importance"][0]["importance_topk_drop"] == pytest.approx(1.0)
    assert all(row["importance_spearman_drop"] == 0.0 for row in rows["loo_importance"][1:])
    assert [row["candidate_id"] for row in rows["top_candidates"]] == [0, 1]
    drawn = random_analysis(table)
    assert drawn["baseline_winner_rank_under_random"] == [1, 1, 1]
    assert drawn["topk_frequency_under_random"] == [1.0, 1.0, 0.0, 0.0, 0.0]
    assert random_analysis(Scores.of(records, build_weight_schemes(0), 2))["topk_frequency_under_random"] == []


def test_tables_are_written_where_the_caller_says(tmp_path: Path) -> None:
    import pandas as pd

    result = study(save_csv=True, output_dir=str(tmp_path / "out"), run_id="first", num_candidates=2)
    written = {Path(p) for p in result["artifacts"].values() if p}
    assert written == set((tmp_path / "out" / "first").iterdir())
    assert len(written) == 3
    again = pd.read_csv(result["artifacts"]["loo_csv"])
    assert again["metric_removed"].tolist() == result["tables"]["loo_importance"]["metric_removed"].tolist()


def test_pictures(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    result = study(save_plots=True, output_dir=str(tmp_path), num_candidates=3)
    for name in ("rank_heatmap", "winner_rank_hist", "topk_freq", "loo_importance"):
        assert Path(result["artifacts"][name]).read_bytes().startswith(b"\x89PNG")
    without = study(save_plots=True, output_dir=str(tmp_path), num_candidates=2, n_random=0)
    assert without["artifacts"]["topk_freq"] is None
    assert without["artifacts"]["rank_heatmap"] is not None


@pytest.mark.parametrize("package", ["pandas", "matplotlib"])
def test_a_missing_package_is_said_before_any_work(
    package: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name in [package, *(m for m in sys.modules if m.startswith(f"{package}."))]:
        monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.setattr(measure, "score_candidate", lambda task: pytest.fail("work has started"))
    with pytest.raises(OptionalDependencyError, match=f"'{package}'"):
        study(save_plots=True, output_dir=str(tmp_path / "out"))
    assert not (tmp_path / "out").exists()


def test_a_folder_that_cannot_be_written_is_said_before_any_work(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setattr(measure, "score_candidate", lambda task: pytest.fail("work has started"))
    with pytest.raises(InvalidArgument, match="output_dir="):
        study(save_csv=True, output_dir=str(tmp_path / "file"))


def test_a_configuration_decides_what_no_keyword_says(tmp_path: Path) -> None:
    config = DARTSConfig(
        input_dim=C, seq_length=L, forecast_horizon=H, device="cpu",
        ablation=AblationSearchConfig(num_candidates=2, n_random=1, save_dir=str(tmp_path), save_prefix="mine"),
    )  # fmt: skip
    config.space.hidden_dims = [4]
    config.space.cell_range = (1, 1)
    result = DARTSTrainer(config=config).ablation_weight_search(source(), None, save_plots=False, max_samples=8)
    assert len(result["candidates"]) == 2
    assert {c["num_cells"] for c in result["candidates"]} == {1}
    assert Path(result["artifacts"]["stability_csv"]) == tmp_path / "mine_stability.csv"
    assert result["config"]["max_samples"] == 8
