"""The staged search: sample, screen, search, derive, retrain, and one look at the test set."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from .._core.errors import SearchFailed
from .._core.logging import get_logger
from .._core.types import WindowSource
from ..training.events import Event, emit
from .candidates import CandidateConfig, make_candidates
from .executor import Failure, ProcessExecutor, SerialExecutor, make_executor
from .finish import Finished, finish
from .halving import Halving, Runner, run_halving
from .results import assemble
from .run_folder import RunFolder
from .scoring import candidate_diversity_bonus, order_by_rank, rescore_candidates_poolwise
from .settings import SearchSettings, candidate_seed
from .statistics import SearchStatistics
from .tasks import ScoreTask, score_candidate
from .trials import promote
from .zero_cost import screening_windows

logger = get_logger(__name__)


@dataclass
class Progress:
    """What a search has so far; readable after an interrupt.

    Attributes:
        records: scored candidates, best first once phase 1 is over.
        promoted: the records that go into phase 3.
        halving: result of phase 3.
        finished: result of phases 4 and 5.
        failures: candidate id → reason.
        seconds: phase → wall time.
    """

    records: list[dict[str, Any]] = field(default_factory=list)
    promoted: list[dict[str, Any]] = field(default_factory=list)
    halving: Halving | None = None
    finished: Finished | None = None
    failures: dict[int, str] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)


def run_multi_fidelity_search(
    train: WindowSource,
    val: WindowSource,
    test: WindowSource,
    settings: SearchSettings,
    *,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Run every phase and return the documented result (``DARTSTrainer.multi_fidelity_search``).

    The test source is not touched before the last step. ``progress`` is filled as the search goes, so that whoever
    passed it still has the finished parts after an exception.

    Raises:
        SearchFailed: no candidate could be scored, or every promoted one failed.
        DataError: a batch is not finite.
        InvalidArgument: the run folder or ``stats_dir`` cannot be written (before any work).
    """
    progress = Progress() if progress is None else progress
    folder = RunFolder.open(settings.run_dir) if settings.run_dir is not None else None
    statistics = SearchStatistics(settings.search) if settings.search.collect_stats else None
    executor = make_executor(settings.search.max_workers)
    if statistics is not None and settings.search.benchmark_phase1_workers:
        statistics.run_benchmark(score_tasks(train, settings))
    with _phase("phase1", progress, settings):
        progress.records = screen(train, settings, executor, progress.failures)
        if folder is not None:
            folder.write_json("candidates.json", progress.records)
    with _phase("phase2", progress, settings):
        seeds = {r["candidate_id"]: weight_seed(settings, r["candidate_id"]) for r in progress.records}
        progress.promoted = promote(progress.records, train, val, settings, executor, progress.failures, seeds)
        if folder is not None:
            folder.write_json("candidates.json", progress.records)  # again, with the trials
    with _phase("phase3", progress, settings):
        runners = [
            Runner(record, CandidateConfig.from_dict(record), seeds[record["candidate_id"]])
            for record in progress.promoted
        ]
        progress.halving = run_halving(runners, train, val, settings, executor)
        progress.failures.update(progress.halving.failures)
        if folder is not None:
            folder.write_json("rungs.json", progress.halving.rounds)
    with _phase("phase4", progress, settings):
        survivors = sorted(progress.halving.survivors, key=lambda r: (r.derived_loss, r.record["candidate_id"]))
    with _phase("phase5", progress, settings):
        progress.finished = finish(survivors, train, val, test, settings, folder, executor)
        progress.failures.update(progress.finished.failures)
    result = assemble(progress, settings)
    if folder is not None:
        folder.write_summary(result)
    if statistics is not None:
        result |= {"stats": statistics.write(progress, result, settings), "stats_dir": str(statistics.folder)}
    return result


def screen(
    train: WindowSource,
    settings: SearchSettings,
    executor: SerialExecutor | ProcessExecutor,
    failures: dict[int, str],
) -> list[dict[str, Any]]:
    """Phase 1: score every candidate at initialisation on the same spread training windows, best first.

    The order is the mean rank over the metrics (``rank_score``); the weighted score of the pool is kept as ``score``.

    Raises:
        SearchFailed: no candidate could be scored.
    """
    tasks = score_tasks(train, settings)
    records: list[dict[str, Any]] = []

    def record(index: int, result: Any) -> None:
        if isinstance(result, Failure):
            failures[index] = result.reason
            emit(settings.callbacks, Event.CANDIDATE_FAILED, candidate_id=index, phase="phase1", reason=result.reason)
            return
        records.append(_record(index, tasks[index].candidate, result, settings))
        emit(settings.callbacks, Event.CANDIDATE_SCORED, candidate_id=index, score=records[-1]["score"])

    executor.map(score_candidate, tasks, record)
    if not records:
        reasons = "; ".join(f"candidate {key}: {reason}" for key, reason in failures.items())
        raise SearchFailed(f"no candidate could be scored: {reasons}")
    if settings.search.phase1_rescore_mode == "pool":
        records = rescore_candidates_poolwise(records)
    return order_by_rank(records)


def score_tasks(train: WindowSource, settings: SearchSettings) -> list[ScoreTask]:
    """Return the task of each candidate of phase 1, all on the same windows."""
    candidates = make_candidates(settings.space, settings.limits.seed, settings.search.num_candidates)
    x, y = screening_windows(train, settings.screening_windows, settings.limits.seed)
    return [
        ScoreTask(c, weight_seed(settings, i), x, y, "mse", settings.limits.device) for i, c in enumerate(candidates)
    ]


def weight_seed(settings: SearchSettings, candidate_id: int) -> int:
    """Return the seed of a candidate's initial weights."""
    return candidate_seed(settings.limits.seed, candidate_id)


def _record(index: int, candidate: CandidateConfig, result: dict[str, Any], settings: SearchSettings) -> dict[str, Any]:
    base = result["metrics"]["aggregate_score"]
    bonus = candidate_diversity_bonus(candidate.selected_ops, settings.space.ops)
    return {
        "candidate_id": index,
        "model": None,
        "metrics": result["metrics"],
        "base_score": base,
        "diversity_bonus": bonus,
        "score": base + bonus,
        "success": True,
        "phase1_dt": result["phase1_dt"],
        **candidate.to_dict(),
    }


@contextmanager
def _phase(name: str, progress: Progress, settings: SearchSettings) -> Iterator[None]:
    began = time.perf_counter()
    emit(settings.callbacks, Event.PHASE_START, phase=name)
    logger.info("%s starts", name)
    try:
        yield
    finally:
        progress.seconds[name] = time.perf_counter() - began
        emit(settings.callbacks, Event.PHASE_END, phase=name, seconds=progress.seconds[name])
        logger.info("%s took %.1f s", name, progress.seconds[name])
