"""Phase 2: which candidates are searched. Zero-cost ranks drop the worst half, a short training orders the rest.

A rank at initialisation tells hopeless networks from the others, but not the best from the good. What a network's
fixed choices are worth (channel mode, normalisation, patches) shows after some dozens of training steps, at a small
part of the cost of a search.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from .._core.logging import get_logger
from .._core.types import WindowSource
from ..config import FinalTrainConfig
from ..training.events import Event, emit
from ..training.loop import LoopLimits
from .candidates import CandidateConfig
from .executor import Executor
from .failures import has_failed
from .scoring import deduplicate_candidates
from .settings import SearchSettings
from .task_key import TaskKey
from .tasks import TrialTask, run_trial

logger = get_logger(__name__)
TRIAL_RATE = 2e-3  # peak rate of the short training
TRIAL_VALIDATION_WINDOWS = 1024


def promote(
    records: list[dict[str, Any]],
    train: WindowSource,
    val: WindowSource,
    settings: SearchSettings,
    executor: Executor,
    failures: dict[int, str],
    seeds: dict[int, int],
) -> list[dict[str, Any]]:
    """Return the ``top_k`` distinct candidates to search, best first; fewer are all taken, with a warning.

    With ``trial_steps`` those that ``screened`` keeps are trained for so many steps, and the validation loss decides,
    in turns of the channel modes; a candidate that fails costs only itself. Each record tried gets ``trial``:
    ``{val_loss, steps, seconds}``. Without, the zero-cost rank decides.

    Args:
        records: scored candidates, best first.
        train: training windows.
        val: validation windows.
        settings: of the search.
        executor: runs the trials.
        failures: receives candidate id → reason.
        seeds: candidate id → seed of its weights.
    """
    distinct = deduplicate_candidates(records)
    wanted = settings.search.top_k
    if len(distinct) < wanted:
        logger.warning("top_k=%d, but only %d distinct candidates are left: all go on.", wanted, len(distinct))
    kept = screened(distinct, wanted)
    if len(kept) <= wanted or not settings.trial_steps:
        return kept[:wanted]
    limits = trial_limits(settings)
    final = trial_config(settings)
    tasks = [
        TrialTask(CandidateConfig.from_dict(r), seeds[number], train, val, final, limits, TaskKey("trial", number))
        for r in kept
        for number in [r["candidate_id"]]
    ]

    def record(position: int, result: Any) -> None:
        _record(kept[position], result, settings, failures)

    executor.map(run_trial, tasks, record)
    tried = [r for r in kept if "trial" in r]
    if not tried:
        logger.warning("every short training failed; the zero-cost rank decides.")
        return kept[:wanted]
    return in_turns(sorted(tried, key=lambda r: (r["trial"]["val_loss"], r["candidate_id"])))[:wanted]


def screened(ranked: list[dict[str, Any]], least: int) -> list[dict[str, Any]]:
    """Return the presets and the better half of the drawn candidates, at least ``least``, in their order.

    A preset is known to work somewhere; what is screened are the drawn ones.
    """
    drawn = [r for r in ranked if r.get("preset") is None]
    half = {r["candidate_id"] for r in drawn[: -(-len(drawn) // 2)]}
    kept = [r for r in ranked if r.get("preset") is not None or r["candidate_id"] in half]
    return kept if len(kept) >= least else ranked[:least]


def in_turns(ranked: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the candidates in turns of the channel modes: the best of each mode, then the second best.

    Networks that treat channels alike err alike: on validation one mode may fill all places by a hair, and neither the
    blend nor a later rung could make up for that. The overall best stays first.
    """
    places: dict[str, int] = {}
    turns = []
    for position, record in enumerate(ranked):
        mode = record["macro"]["channel_mode"]
        places[mode] = places.get(mode, 0) + 1
        turns.append((places[mode], position))
    return [ranked[position] for _, position in sorted(turns)]


def trial_config(settings: SearchSettings) -> FinalTrainConfig:
    """Return the settings of a short training: one epoch, and a rate that rises and falls within it."""
    return replace(
        settings.final, epochs=1, patience=1, learning_rate=TRIAL_RATE, use_onecycle=True, swa_start_ratio=1.0
    )


def trial_limits(settings: SearchSettings) -> LoopLimits:
    """Return the limits of a short training: its steps, and a seeded part of the validation windows."""
    windows = settings.limits.val_windows or TRIAL_VALIDATION_WINDOWS
    return replace(
        settings.limits,
        max_train_batches=settings.trial_steps,
        max_val_windows=min(windows, TRIAL_VALIDATION_WINDOWS),
    )


def _record(record: dict[str, Any], result: Any, settings: SearchSettings, failures: dict[int, str]) -> None:
    identity = record["candidate_id"]
    if has_failed(result, identity, "phase2", failures, settings):
        return
    record["trial"] = {
        "val_loss": result["val_loss"], "steps": result["steps"], "seconds": result["seconds"],
    }  # fmt: skip
    emit(settings.callbacks, Event.CANDIDATE_TRIED, candidate_id=identity, val_loss=result["val_loss"])
