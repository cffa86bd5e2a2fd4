"""``collect_stats=True``: where the time of a search went, and what other numbers of workers would have cost.

Written to ``stats_dir/run_name``: ``stats.json``, ``per_candidate.csv``, ``whatif_parallelism.csv``, after a benchmark
``phase1_benchmark.csv``, and ``final_model_training.pdf`` where matplotlib is installed. Nothing here decides a result.
"""

from __future__ import annotations

import csv
import json
import math
import os
import time
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import torch

from .._core.errors import InvalidArgument, OptionalDependencyError
from .._core.logging import get_logger
from .._core.plain import to_plain
from ..config import MultiFidelitySearchConfig
from ..evaluation.plotting import plot_training_curve
from .executor import Failure, ProcessExecutor, make_executor
from .progress import Progress
from .run_folder import writable_folder
from .settings import SearchSettings, rung_epochs
from .tasks import ScoreTask, score_candidate
from .whatif import mean_std, whatif_estimates

logger = get_logger(__name__)
BENCHMARK_CANDIDATES = 20
DEFAULT_LEVELS = (1, 2, 4, 8)
CANDIDATE_COLUMNS = (
    "run_id", "phase", "candidate_id", "score", "hidden_dim", "num_ops", "phase1_dt_sec", "phase3_total_dt_sec",
    "phase3_train_dt_sec", "phase3_derive_eval_dt_sec", "phase3_val_loss",
)  # fmt: skip
WHATIF_COLUMNS = ("run_id", "phase", "workers", "est_wall_time_sec")
BENCHMARK_COLUMNS = ("run_id", "workers", "ncand", "wall_time_sec", "task_mean_sec", "task_std_sec")


class SearchStatistics:
    """Collects and writes the statistics of one search; made before the search, so that a bad folder costs nothing.

    Args:
        search: ``stats_dir``, ``run_name``, ``parallelism_levels``, the overheads and the benchmark are read.

    Raises:
        InvalidArgument: ``stats_dir`` cannot be written, ``run_name`` is no plain name, or a level is below 1.
    """

    def __init__(self, search: MultiFidelitySearchConfig) -> None:
        self.search = search
        self.levels = parallelism_levels(search.parallelism_levels)
        self.folder = _open_folder(search.stats_dir, search.run_name)
        self.run_id = self.folder.name
        self.benchmark: list[dict[str, Any]] = []

    def run_benchmark(self, tasks: Sequence[ScoreTask]) -> None:
        """Time the screening of the first candidates with each number of ``benchmark_phase1_workers``.

        The wall time includes the start of the worker processes.
        """
        count = self.search.benchmark_phase1_candidates or BENCHMARK_CANDIDATES
        timed = tasks[:count]
        for workers in self.search.benchmark_phase1_workers or ():
            executor = make_executor(workers)
            began = time.perf_counter()
            results = executor.map(score_candidate, timed, _ignore)
            wall = time.perf_counter() - began
            mean, deviation = mean_std([r["phase1_dt"] for r in results if not isinstance(r, Failure)])
            used = executor.workers if isinstance(executor, ProcessExecutor) else 1
            row = {"workers": used, "ncand": len(timed), "wall_time_sec": wall}
            self.benchmark.append({"run_id": self.run_id, **row, "task_mean_sec": mean, "task_std_sec": deviation})

    def write(self, progress: Progress, result: Mapping[str, Any], settings: SearchSettings) -> dict[str, Any]:
        """Write every file and return the content of ``stats.json``."""
        stats = _finite(to_plain(self.collect(progress, result, settings)))
        (self.folder / "stats.json").write_text(json.dumps(stats, indent=2, allow_nan=False) + "\n")
        _write_csv(self.folder / "per_candidate.csv", CANDIDATE_COLUMNS, candidate_rows(self.run_id, progress))
        phases = stats["phase_summary"]
        whatif = [
            {"run_id": self.run_id, "phase": phase, **row}
            for phase in ("phase1", "phase3")
            for row in phases[phase]["whatif_estimates"]
        ]
        _write_csv(self.folder / "whatif_parallelism.csv", WHATIF_COLUMNS, whatif)
        if self.benchmark:
            _write_csv(self.folder / "phase1_benchmark.csv", BENCHMARK_COLUMNS, self.benchmark)
        self._draw_training(result["final_results"])
        return stats

    def collect(self, progress: Progress, result: Mapping[str, Any], settings: SearchSettings) -> dict[str, Any]:
        """Return the documented ``stats`` of a finished search."""
        best = result["best_candidate"]
        record = best["candidate"]
        return {
            "system": self._system(settings),
            "phase_summary": self._phases(progress, settings),
            "phase1_benchmark_results": self.benchmark,
            "top_candidates": [_top(rank, r) for rank, r in enumerate(progress.promoted, start=1)],
            "best_candidate": {
                "candidate_id": record["candidate_id"],
                "val_loss": best["val_loss"],
                "score": record["score"],
                "hidden_dim": record["hidden_dim"],
                "selected_ops": record["selected_ops"],
            },
        }

    def _system(self, settings: SearchSettings) -> dict[str, Any]:
        cuda = torch.cuda.is_available()
        executor = make_executor(self.search.max_workers)
        sizes = ("num_candidates", "search_epochs", "final_epochs", "max_samples", "top_k")
        return {
            "run_id": self.run_id,
            "timestamp_local": datetime.now().astimezone().isoformat(timespec="seconds"),
            "cpu_count_os": os.cpu_count(),
            "torch_num_threads": torch.get_num_threads(),
            "cuda_available": cuda,
            "cuda_device_count": torch.cuda.device_count() if cuda else 0,
            "cuda_device_name": torch.cuda.get_device_name() if cuda else None,
            "parallelism_levels": self.levels,
            "max_workers_used": executor.workers if isinstance(executor, ProcessExecutor) else 1,
            "config": {name: getattr(settings.search, name) for name in sizes},
        }

    def _phases(self, progress: Progress, settings: SearchSettings) -> dict[str, Any]:
        wall = {name: {"wall_time_sec": seconds} for name, seconds in progress.seconds.items()}
        wall["phase1"] |= self._phase1([record["phase1_dt"] for record in progress.records])
        wall["phase2"] |= {"top_k_eff": len(progress.promoted)}
        wall["phase3"] |= self._phase3(progress)
        return {**wall, "total": {"wall_time_sec": sum(progress.seconds.values())}}

    def _phase1(self, seconds: Sequence[float]) -> dict[str, Any]:
        s = self.search
        mean, deviation = mean_std(seconds)
        return {
            "num_success": len(seconds),
            "num_total": s.num_candidates,
            "task_mean_sec": mean,
            "task_std_sec": deviation,
            "task_min_sec": min(seconds),
            "task_max_sec": max(seconds),
            "rescore_mode": s.phase1_rescore_mode,
            "whatif_estimates": whatif_estimates(
                [seconds], self.levels, overhead_per_task=s.est_overhead_per_task,
                fixed_overhead=s.est_fixed_overhead_phase1,
            ),
        }  # fmt: skip

    def _phase3(self, progress: Progress) -> dict[str, Any]:
        s = self.search
        histories = [runner.history for runner in progress.runners if runner.history]
        rungs = rung_epochs(s)
        stages = [
            [row["total_time_sec"] for history in histories for row in history if row["rung"] == number]
            for number in range(len(rungs))
        ]
        summary: dict[str, Any] = {}
        for name, key in (("task", "total"), ("train", "train"), ("derive_eval", "derive_eval")):
            mean, deviation = mean_std([_seconds(history, f"{key}_time_sec") for history in histories])
            summary |= {f"{name}_mean_sec": mean, f"{name}_std_sec": deviation}
        return {
            **summary,
            "rung_epochs": rungs,
            "reduction_factor": max(2, s.phase3_reduction_factor),
            "rounds": progress.rounds,
            "whatif_estimates": whatif_estimates(
                stages, self.levels, overhead_per_task=s.est_overhead_per_task,
                fixed_overhead=s.est_fixed_overhead_phase3,
            ),
        }  # fmt: skip

    def _draw_training(self, final: Mapping[str, Any]) -> None:
        path = self.folder / "final_model_training.pdf"
        title = "Training of the final network"
        try:
            plot_training_curve(final["train_losses"], final["val_losses"], title=title, save_path=str(path))
        except OptionalDependencyError as error:
            logger.warning("%s is left out: %s", path.name, error)


def parallelism_levels(levels: Sequence[int] | None) -> list[int]:
    """Return the numbers of workers to estimate for, ascending; None means 1, 2, 4, 8 and the number of cores.

    Raises:
        InvalidArgument: there is none, or one is below 1.
    """
    chosen = {*DEFAULT_LEVELS, os.cpu_count() or 1} if levels is None else set(levels)
    if not chosen or any(isinstance(n, bool) or not isinstance(n, int) or n < 1 for n in chosen):
        raise InvalidArgument(f"parallelism_levels={levels!r} must be whole numbers of workers, each at least 1.")
    return sorted(chosen)


def candidate_rows(run_id: str, progress: Progress) -> list[dict[str, Any]]:
    """Return a row per scored candidate (``phase1``) and per candidate that trained (``phase3``).

    ``phase3_val_loss`` is the loss of the derived path at the last rung that the candidate reached.
    """
    rows = [
        {**_identity(run_id, "phase1", record), "phase1_dt_sec": record["phase1_dt"]} for record in progress.records
    ]
    for runner in progress.runners:
        if runner.history:
            rows.append(
                {
                    **_identity(run_id, "phase3", runner.record),
                    "phase1_dt_sec": runner.record["phase1_dt"],
                    "phase3_total_dt_sec": _seconds(runner.history, "total_time_sec"),
                    "phase3_train_dt_sec": _seconds(runner.history, "train_time_sec"),
                    "phase3_derive_eval_dt_sec": _seconds(runner.history, "derive_eval_time_sec"),
                    "phase3_val_loss": runner.history[-1]["derived_val_loss"],
                }
            )
    return rows


def _identity(run_id: str, phase: str, record: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "run_id": run_id,
        "phase": phase,
        "candidate_id": record["candidate_id"],
        "score": record["score"],
        "hidden_dim": record["hidden_dim"],
        "num_ops": len(record["selected_ops"]),
    }


def _top(rank: int, record: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "rank": rank,
        "candidate_id": record["candidate_id"],
        "score": record["score"],
        "hidden_dim": record["hidden_dim"],
        "num_ops": len(record["selected_ops"]),
        "arch": f"{record['num_cells']}x{record['num_nodes']}",
        "phase1_dt": record["phase1_dt"],
    }


def _seconds(history: Sequence[Mapping[str, Any]], key: str) -> float:
    return sum(row[key] for row in history)


def _open_folder(stats_dir: str, run_name: str | None) -> Path:
    """Create the folder of the run. A name of our own never meets an older run; a given one replaces its files."""
    root = Path(stats_dir)
    if run_name is not None:
        if run_name in ("", ".", "..") or Path(run_name).name != run_name:
            raise InvalidArgument(f"run_name={run_name!r} must be a plain folder name; the place is stats_dir.")
        return writable_folder("stats_dir", root / run_name)
    stamp = f"multifidelity_{datetime.now():%Y%m%d_%H%M%S}"
    name, number = stamp, 2
    while (root / name).exists():
        name, number = f"{stamp}_{number}", number + 1
    return writable_folder("stats_dir", root / name)


def _write_csv(path: Path, columns: Sequence[str], rows: Sequence[Mapping[str, Any]]) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, columns, restval="")
        writer.writeheader()
        writer.writerows(rows)


def _finite(value: Any) -> Any:
    """Return plain data with None for what JSON has no number for."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    return [_finite(item) for item in value] if isinstance(value, list) else value


def _ignore(position: int, result: Any) -> None:
    """Take a timed result; the real screening reports its own."""
