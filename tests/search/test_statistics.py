"""``collect_stats=True``: the files, their columns and keys, and the what-if estimates."""

from __future__ import annotations

import csv
import itertools
import json
import math
import random
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch

from foreblocks.darts import DARTSTrainer
from foreblocks.darts._core.errors import InvalidArgument, OptionalDependencyError
from foreblocks.darts.data.windows import WindowDataset
from foreblocks.darts.search.statistics import parallelism_levels
from foreblocks.darts.search.whatif import lpt_estimate, mean_std, whatif_estimates

L, H, C = 16, 4, 2
SMALL = {
    "num_candidates": 5, "top_k": 2, "search_epochs": 3, "final_epochs": 1, "max_samples": 8, "max_train_batches": 2,
    "max_val_batches": 1, "trial_steps": 2, "final_max_train_batches": 2, "finalists": 1,
}  # fmt: skip


def sources() -> list[WindowDataset]:
    t = torch.arange(500.0)[:, None]
    noise = torch.randn(500, C, generator=torch.Generator().manual_seed(0))
    series = torch.sin(t / torch.tensor([4.0, 7.0])) + 0.3 * noise
    return [WindowDataset(series, L, H, first=a, last=b) for a, b in ((0, 300), (284, 400), (384, 500))]


def search(**options) -> dict:
    trainer = DARTSTrainer(input_dim=C, hidden_dims=[8], forecast_horizon=H, seq_length=L, device="cpu")
    return trainer.multi_fidelity_search(*sources(), **{**SMALL, **options})


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict, Path]:
    root = tmp_path_factory.mktemp("stats")
    result = search(
        collect_stats=True, stats_dir=str(root), run_name="small", parallelism_levels=[2, 1], est_overhead_per_task=0.5,
        est_fixed_overhead_phase3=7.0, benchmark_phase1_workers=[1], benchmark_phase1_candidates=2,
    )  # fmt: skip
    return result, root / "small"


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_the_files_are_there_and_nothing_else(run: tuple[dict, Path]) -> None:
    result, folder = run
    assert result["stats_dir"] == str(folder)
    tables = {"stats.json", "per_candidate.csv", "whatif_parallelism.csv", "phase1_benchmark.csv"}
    drawn = {"final_model_training.pdf"} if find_spec("matplotlib") else set()
    assert {path.name for path in folder.iterdir()} == tables | drawn
    assert [path.name for path in folder.parent.iterdir()] == ["small"]


def test_stats_json_has_the_documented_keys(run: tuple[dict, Path]) -> None:
    result, folder = run
    stats = json.loads((folder / "stats.json").read_text())
    assert stats == result["stats"]
    assert list(stats) == ["system", "phase_summary", "phase1_benchmark_results", "top_candidates", "best_candidate"]
    assert set(stats["system"]) == {
        "run_id", "timestamp_local", "cpu_count_os", "torch_num_threads", "cuda_available", "cuda_device_count",
        "cuda_device_name", "parallelism_levels", "max_workers_used", "config",
    }  # fmt: skip
    assert stats["system"]["config"] == {
        "num_candidates": 5, "search_epochs": 3, "final_epochs": 1, "max_samples": 8, "top_k": 2,
    }  # fmt: skip
    phases = stats["phase_summary"]
    assert list(phases) == ["phase1", "phase2", "phase3", "phase4", "phase5", "total"]
    assert set(phases["phase1"]) == {
        "wall_time_sec", "num_success", "num_total", "task_mean_sec", "task_std_sec", "task_min_sec", "task_max_sec",
        "rescore_mode", "whatif_estimates",
    }  # fmt: skip
    assert set(phases["phase3"]) == {
        "wall_time_sec", "task_mean_sec", "task_std_sec", "train_mean_sec", "train_std_sec", "derive_eval_mean_sec",
        "derive_eval_std_sec", "rung_epochs", "reduction_factor", "rounds", "whatif_estimates",
    }  # fmt: skip
    assert set(phases["phase2"]) == {"wall_time_sec", "top_k_eff"}
    walls = [phases[f"phase{k}"]["wall_time_sec"] for k in range(1, 6)]
    assert phases["total"]["wall_time_sec"] == pytest.approx(sum(walls))
    for number, row in enumerate(phases["phase3"]["rounds"]):
        assert row["rung_index"] == number
        assert {"epoch_budget", "num_candidates", "num_promoted", "results", "promoted_candidate_ids"} <= set(row)
    top = stats["top_candidates"]
    assert [row["candidate_id"] for row in top] == [r["candidate_id"] for r in _promoted(result)]
    assert set(top[0]) == {"rank", "candidate_id", "score", "hidden_dim", "num_ops", "arch", "phase1_dt"}
    assert stats["best_candidate"]["candidate_id"] == result["best_candidate"]["candidate"]["candidate_id"]


def _promoted(result: dict) -> list[dict]:
    """Promoted candidates in the order of promotion: by the short training."""
    return sorted(result["top_candidates"], key=lambda r: (r["trial"]["val_loss"], r["candidate_id"]))


def test_per_candidate_rows_hold_the_times_of_the_result(run: tuple[dict, Path]) -> None:
    result, folder = run
    table = rows(folder / "per_candidate.csv")
    assert list(table[0]) == [
        "run_id", "phase", "candidate_id", "score", "hidden_dim", "num_ops", "phase1_dt_sec", "phase3_total_dt_sec",
        "phase3_train_dt_sec", "phase3_derive_eval_dt_sec", "phase3_val_loss",
    ]  # fmt: skip
    first = [row for row in table if row["phase"] == "phase1"]
    assert {int(row["candidate_id"]) for row in first} == {r["candidate_id"] for r in result["candidates"]}
    third = {int(row["candidate_id"]): row for row in table if row["phase"] == "phase3"}
    assert set(third) == {r["candidate_id"] for r in result["top_candidates"]}
    for trained in result["trained_candidates"]:
        row = third[trained["candidate"]["candidate_id"]]
        history = trained["phase3_round_history"]
        assert float(row["phase3_val_loss"]) == trained["val_loss"]
        assert float(row["phase3_total_dt_sec"]) == pytest.approx(sum(r["total_time_sec"] for r in history))


def test_whatif_rows_wait_for_each_rung(run: tuple[dict, Path]) -> None:
    result, folder = run
    table = rows(folder / "whatif_parallelism.csv")
    assert list(table[0]) == ["run_id", "phase", "workers", "est_wall_time_sec"]
    assert [(row["phase"], row["workers"]) for row in table] == [
        ("phase1", "1"), ("phase1", "2"), ("phase3", "1"), ("phase3", "2"),
    ]  # fmt: skip
    serial = sum(r["phase1_dt"] + 0.5 for r in result["candidates"])
    assert float(table[0]["est_wall_time_sec"]) == pytest.approx(serial)
    rungs = [[r["total_time_sec"] + 0.5 for r in row["results"]] for row in result["rungs"]]
    assert float(table[2]["est_wall_time_sec"]) == pytest.approx(7.0 + sum(sum(rung) for rung in rungs))
    assert float(table[3]["est_wall_time_sec"]) == pytest.approx(7.0 + sum(lpt_estimate(rung, 2) for rung in rungs))


def test_the_benchmark_is_written(run: tuple[dict, Path]) -> None:
    result, folder = run
    (row,) = rows(folder / "phase1_benchmark.csv")
    assert list(row) == ["run_id", "workers", "ncand", "wall_time_sec", "task_mean_sec", "task_std_sec"]
    assert (row["run_id"], row["workers"], row["ncand"]) == ("small", "1", "2")
    assert float(row["wall_time_sec"]) >= 2 * float(row["task_mean_sec"]) > 0
    assert len(result["stats"]["phase1_benchmark_results"]) == 1


def test_statistics_change_nothing_and_need_no_name(
    run: tuple[dict, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    plain = search()
    assert list(tmp_path.iterdir()) == []
    assert "stats" not in plain
    assert plain["final_results"]["final_metrics"] == run[0]["final_results"]["final_metrics"]


def test_a_run_without_a_name_never_meets_another(tmp_path: Path) -> None:
    from foreblocks.darts.config import MultiFidelitySearchConfig
    from foreblocks.darts.search.statistics import SearchStatistics

    config = MultiFidelitySearchConfig(stats_dir=str(tmp_path))
    names = [SearchStatistics(config).run_id for _ in range(3)]
    assert len(set(names)) == 3
    assert all(name.startswith("multifidelity_") for name in names)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"run_name": "a/b"}, "run_name='a/b'"),
        ({"run_name": ".."}, r"run_name='\.\.'"),
        ({"parallelism_levels": [0]}, "parallelism_levels"),
        ({"stats_dir": "taken"}, "stats_dir"),
    ],
)
def test_bad_options_end_before_the_search(
    options: dict, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "taken").write_text("a file")
    monkeypatch.setattr("foreblocks.darts.search.multi_fidelity.screen", lambda *args: pytest.fail("work was done"))
    with pytest.raises(InvalidArgument, match=message):
        search(collect_stats=True, **options)


def test_levels() -> None:
    assert {1, 2, 4, 8} <= set(parallelism_levels(None))
    assert parallelism_levels([4, 1, 4]) == [1, 4]
    with pytest.raises(InvalidArgument, match="at least 1"):
        parallelism_levels([])


def best_makespan(durations: list[float], workers: int) -> float:
    """The shortest possible makespan, by trying every assignment."""
    assignments = itertools.product(range(workers), repeat=len(durations))
    return min(
        max(sum(d for d, w in zip(durations, chosen, strict=True) if w == k) for k in range(workers))
        for chosen in assignments
    )


@pytest.mark.parametrize("workers", [1, 2, 3])
def test_packing_is_within_grahams_bound_of_the_optimum(workers: int) -> None:
    rng = random.Random(workers)
    for _ in range(20):
        durations = [rng.uniform(0.1, 3.0) for _ in range(6)]
        packed, best = lpt_estimate(durations, workers), best_makespan(durations, workers)
        assert best - 1e-9 <= packed <= best * (4 / 3 - 1 / (3 * workers)) + 1e-9


def test_packing_of_a_published_case() -> None:
    # Graham's worst case for two workers: LPT 7, optimum 6.
    assert lpt_estimate([3, 3, 2, 2, 2], 2) == 7.0
    assert lpt_estimate([], 3) == 0.0
    with pytest.raises(InvalidArgument, match="durations"):
        lpt_estimate([math.nan], 2)


def test_stages_and_overheads_add_up() -> None:
    estimates = whatif_estimates([[1.0, 1.0], [4.0]], [1, 2], overhead_per_task=0.25, fixed_overhead=10.0)
    assert estimates == [
        {"workers": 1, "est_wall_time_sec": 10.0 + 2.5 + 4.25},
        {"workers": 2, "est_wall_time_sec": 10.0 + 1.25 + 4.25},
    ]


def test_mean_and_deviation() -> None:
    assert mean_std([1.0, 3.0]) == (2.0, 1.0)
    assert mean_std([]) == (None, None)


def test_the_figure_is_left_out_aloud_without_matplotlib(
    run: tuple[dict, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(*args: object, **options: object) -> None:
        raise OptionalDependencyError("drawing needs the package 'matplotlib'")

    monkeypatch.setattr("foreblocks.darts.search.statistics.plot_training_curve", refuse)
    search(collect_stats=True, stats_dir=str(tmp_path), run_name="plain")
    assert "final_model_training.pdf is left out: drawing needs the package 'matplotlib'" in caplog.text
    assert {"stats.json", "per_candidate.csv", "whatif_parallelism.csv"} == {
        p.name for p in (tmp_path / "plain").iterdir()
    }
