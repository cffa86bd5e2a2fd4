"""The staged search: sample, screen, search, derive, retrain, and one look at the test set."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import Any

from .._core.errors import SearchFailed
from .._core.logging import get_logger
from .._core.types import WindowSource
from ..architecture.compiled import check_compiler
from ..training.events import Event, emit
from .candidates import CandidateConfig, make_candidates, report_misfits
from .derivation import derive_survivors
from .duel import hold_duels
from .executor import Executor, make_executor
from .failures import has_failed, reasons
from .finish import finish, retrain
from .halving import Halving, Runner, run_halving
from .identity import search_identity
from .lr_sensitivity import bilevel_lr_sensitivity as bilevel_lr_sensitivity  # its documented place
from .nas_metrics import Config
from .progress import Progress
from .results import assemble
from .rivals.beside import search_rival
from .run_folder import EventFile, RunFolder
from .run_page import write_page
from .scoring import candidate_diversity_bonus, order_by_rank, rescore_candidates_poolwise
from .settings import SearchSettings, candidate_seed, screening_count
from .statistics import SearchStatistics
from .store import SearchStore, StoredExecutor, refuse_existing
from .task_key import TaskKey
from .tasks import ScoreTask, score_candidate
from .trials import promote
from .zero_cost import screening_windows

logger = get_logger(__name__)


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
    passed it still has the finished parts after an exception; the run folder has them too. With ``settings.resume`` it
    goes on with what the folder has and gives, times apart, what it would have given without a break.

    Raises:
        SearchFailed: no candidate could be scored, or every promoted one failed.
        DataError: a batch is not finite, or the database of the run folder is damaged.
        InvalidArgument: the run folder or ``stats_dir`` cannot be written, or the folder holds a search that is not to
            be resumed, is another one, or is running (before any work); ``compile="edge"`` without a compiler.
    """
    if settings.train.compile != "none":
        check_compiler(settings.limits.device)
    progress = Progress() if progress is None else progress
    statistics = SearchStatistics(settings.search) if settings.search.collect_stats else None
    if settings.run_dir is None:
        return _run(train, val, test, settings, progress, statistics, None, None)
    folder = RunFolder.open(settings.run_dir)
    if not settings.resume:
        refuse_existing(folder.path)
    with SearchStore(folder.path, search_identity(train, val, settings), resume=settings.resume) as store:
        settings = replace(settings, callbacks=[*settings.callbacks, EventFile(folder)])
        if len(store):
            logger.info("resumed: %d tasks are finished in %s.", len(store), folder.path)
            emit(settings.callbacks, Event.SEARCH_RESUMED, tasks=len(store))
        return _run(train, val, test, settings, progress, statistics, folder, store)


def _run(
    train: WindowSource,
    val: WindowSource,
    test: WindowSource,
    settings: SearchSettings,
    progress: Progress,
    statistics: SearchStatistics | None,
    folder: RunFolder | None,
    store: SearchStore | None,
) -> dict[str, Any]:
    executor: Executor = make_executor(settings.search.max_workers)
    if store is not None:
        executor = StoredExecutor(executor, store)
    phase = partial(_phase, progress=progress, settings=settings, folder=folder, store=store)
    if statistics is not None and settings.search.benchmark_phase1_workers:
        statistics.run_benchmark(score_tasks(train, settings))
    with phase("phase1"):
        screen(train, settings, executor, progress.failures, progress.records)
    with phase("phase2"):
        seeds = {i: candidate_seed(settings.limits.seed, i) for i in (r["candidate_id"] for r in progress.records)}
        progress.promoted = promote(progress.records, train, val, settings, executor, progress.failures, seeds)
    with phase("phase3"):
        runners = [
            Runner(record, CandidateConfig.from_dict(record), seeds[record["candidate_id"]])
            for record in progress.promoted
        ]
        progress.halving = Halving(runners)
        run_halving(progress.halving, train, val, settings, executor, progress.failures)
        if store is not None:
            _drop_rungs(store, progress.halving)
    with phase("phase4"):
        found = progress.halving.survivors
        survivors = derive_survivors(found, train, val, settings, executor, progress.failures)
        hold_duels(survivors, train, val, settings, executor)
    if settings.baseline is not None:
        with phase("baseline"):
            search_rival(progress.beside, progress.records, runners, train, val, settings, executor)
            if store is not None and progress.beside.is_done_with_states(settings):
                store.drop_states(settings.baseline)
    with phase("phase5"):
        retrain(survivors, train, val, settings, executor, progress.failures, progress.finalists)
        progress.beside.retrain(progress.records, runners, train, val, settings, executor)
        contenders = partial(progress.beside.contenders, val=val, settings=settings, store=store)
        progress.finished = finish(progress.finalists, train, val, test, settings, folder, store, contenders)
    result = assemble(progress, settings)
    if folder is not None:
        folder.write_summary(result)
        _write_page(folder)
    if statistics is not None:
        result |= {"stats": statistics.write(progress, result, settings), "stats_dir": str(statistics.folder)}
    return result


def screen(
    train: WindowSource,
    settings: SearchSettings,
    executor: Executor,
    failures: dict[int, str],
    records: list[dict[str, Any]],
) -> None:
    """Phase 1: score every candidate at initialisation on the same spread training windows.

    ``records`` receives each as soon as it is scored, and has them best first in the end: by their ranks over the
    metrics (``rank_score``); the weighted score of the pool is kept as ``score``.

    Raises:
        SearchFailed: no candidate could be scored.
    """
    report_misfits(settings.space, settings.search.num_candidates)
    tasks = score_tasks(train, settings)

    def record(index: int, result: Any) -> None:
        if has_failed(result, index, "phase1", failures, settings):
            return
        records.append(_record(index, tasks[index].candidate, result, settings))
        emit(settings.callbacks, Event.CANDIDATE_SCORED, candidate_id=index, score=records[-1]["score"])

    executor.map(score_candidate, tasks, record)
    if not records:
        raise SearchFailed(f"no candidate could be scored: {reasons(failures)}")
    pool = settings.search.phase1_rescore_mode == "pool"
    records[:] = order_by_rank(rescore_candidates_poolwise(records) if pool else records, method=settings.rank_method)


def score_tasks(train: WindowSource, settings: SearchSettings) -> list[ScoreTask]:
    """Return the task of each candidate of phase 1, all on the same windows."""
    seed = settings.limits.seed
    candidates = make_candidates(settings.space, seed, settings.search.num_candidates)
    count = screening_count(settings.search.max_samples, settings.num_batches, (c.macro for c in candidates))
    windows = screening_windows(train, count, seed)
    return [
        ScoreTask(c, candidate_seed(seed, i), windows, "mse", settings.limits.device, TaskKey("score", i))
        for i, c in enumerate(candidates)
    ]


def _record(index: int, candidate: CandidateConfig, result: dict[str, Any], settings: SearchSettings) -> dict[str, Any]:
    metrics = {**result["metrics"], "config": Config(**result["metrics"]["config"])}
    base = metrics["aggregate_score"]
    bonus = candidate_diversity_bonus(candidate.selected_ops, settings.space.ops)
    return {
        "candidate_id": index,
        "model": None,
        "metrics": metrics,
        "base_score": base,
        "diversity_bonus": bonus,
        "score": base + bonus,
        "success": True,
        "phase1_dt": result["phase1_dt"],
        **candidate.to_dict(),
    }


def _drop_rungs(store: SearchStore, halving: Halving) -> None:
    """Drop the states of a finished phase 3, but for the last ones of the survivors.

    Where one is asked for after all, by a candidate that failed or for a damaged file, the candidate is searched again
    from its first epoch, to the same bits.
    """
    last = len(halving.rounds) - 1
    store.drop_states("rung", keep=[TaskKey("rung", r.record["candidate_id"], last) for r in halving.survivors])


def _write_page(folder: RunFolder) -> None:
    """Write the page of a run. It is made from what is saved, so without it only the page is missing."""
    try:
        write_page(folder.path)
    except Exception as error:  # noqa: BLE001 - a finished search must not be lost for its page
        logger.warning("the page of the run was not written: %s: %s", type(error).__name__, error)


@contextmanager
def _phase(
    name: str, progress: Progress, settings: SearchSettings, folder: RunFolder | None, store: SearchStore | None
) -> Iterator[None]:
    """Time a phase, over all runs of a resumed search, and write what there is at its end, however it ends."""
    began = time.perf_counter()
    emit(settings.callbacks, Event.PHASE_START, phase=name)
    logger.info("%s starts", name)
    try:
        yield
    finally:
        seconds = time.perf_counter() - began
        progress.seconds[name] = seconds if store is None else store.add_seconds(name, seconds)
        if folder is not None:
            progress.save(folder, settings.scaler)
        emit(settings.callbacks, Event.PHASE_END, phase=name, seconds=progress.seconds[name])
        logger.info("%s took %.1f s", name, progress.seconds[name])
