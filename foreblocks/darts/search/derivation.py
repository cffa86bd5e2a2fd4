"""Phase 4: every survivor becomes one architecture."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from .._core.errors import SearchFailed
from .._core.types import WindowSource
from ..training.events import Event, emit
from .executor import Executor
from .failures import has_failed, reasons
from .halving import Runner
from .settings import SearchSettings
from .task_key import TaskKey
from .tasks import SelectTask, select_candidate


def derive_survivors(
    survivors: Sequence[Runner],
    train: WindowSource,
    val: WindowSource,
    settings: SearchSettings,
    executor: Executor,
    failures: dict[int, str],
) -> list[Runner]:
    """Choose an architecture for each survivor as ``settings.derive`` says; return them best first.

    ``runner.last`` gets the chosen ``spec`` and ``derived_loss``, the inherited ``weights``, and ``derivation``: the
    contenders of the race and the discretisation gap.

    Raises:
        SearchFailed: it failed for every survivor; the message has each reason.
    """
    config = replace(settings.train, epochs=settings.search.search_epochs)
    tasks = [
        SelectTask(
            r.candidate, r.seed, train, val, config, settings.limits, r.searched, settings.derive,
            TaskKey("derive", r.record["candidate_id"]),
        )
        for r in survivors
    ]  # fmt: skip
    done: list[Runner] = []

    def record(position: int, result: Any) -> None:
        runner = survivors[position]
        identity = runner.record["candidate_id"]
        if has_failed(result, identity, "phase4", failures, settings):
            return
        runner.last = {**runner.last, **result}
        done.append(runner)
        emit(
            settings.callbacks, Event.CANDIDATE_DERIVED, candidate_id=identity, rule=result["derivation"]["chosen"],
            val_loss=result["derived_loss"],
        )  # fmt: skip

    executor.map(select_candidate, tasks, record)
    if not done:
        raise SearchFailed(f"no survivor could be derived: {reasons(failures)}")
    return sorted(done, key=lambda r: (r.derived_loss, r.record["candidate_id"]))
