"""Phase 3: successive halving over searches that carry their state from rung to rung."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from .._core.errors import SearchFailed
from .._core.logging import get_logger
from .._core.types import WindowSource
from ..architecture.spec import ArchSpec
from ..config import DARTSTrainConfig
from ..training.events import Event, emit
from .candidates import CandidateConfig
from .executor import Executor
from .failures import has_failed, reasons
from .settings import SearchSettings, rung_epochs
from .task_key import TaskKey, border_file
from .tasks import RungTask, train_rung

logger = get_logger(__name__)


@dataclass
class Runner:
    """A promoted candidate on its way through the rungs.

    Attributes:
        record: its record of phase 1.
        candidate: its configuration.
        seed: seed of its weights.
        state: state of its search, plain data; None before the first rung, and of one that did not survive a finished
            phase 3 and was read back.
        last: what the last rung returned, without the state.
        history: one entry per rung, with the documented keys.
        duel: how a short training of the architecture found went against one of the drawn one (``search.duel``).
        drawn: the drawn architecture where it won.
    """

    record: dict[str, Any]
    candidate: CandidateConfig
    seed: int
    state: dict[str, Any] | None = None
    last: dict[str, Any] = field(default_factory=dict)
    history: list[dict[str, Any]] = field(default_factory=list)
    duel: dict[str, Any] | None = None
    drawn: dict[str, Any] | None = None

    @property
    def searched(self) -> dict[str, Any]:
        """``state``, which it has from its first rung on."""
        assert self.state is not None, "no rung was made, or its state is gone"
        return self.state

    @property
    def spec(self) -> ArchSpec:
        """The architecture that its alphas point to."""
        return ArchSpec.from_dict(self.last["spec"])

    @property
    def final_spec(self) -> ArchSpec:
        """The architecture that is retrained."""
        return self.spec if self.drawn is None else ArchSpec.from_dict(self.drawn)

    @property
    def derived_loss(self) -> float:
        """Validation loss of the derived path after the last rung."""
        return float(self.last["derived_loss"])


@dataclass
class Halving:
    """Phase 3, filled rung by rung.

    Attributes:
        runners: all promoted candidates.
        survivors: those that went through the last finished rung, best first.
        rounds: a row per finished rung.
    """

    runners: list[Runner]
    survivors: list[Runner] = field(default_factory=list)
    rounds: list[dict[str, Any]] = field(default_factory=list)


def run_halving(
    halving: Halving,
    train: WindowSource,
    val: WindowSource,
    settings: SearchSettings,
    executor: Executor,
    failures: dict[int, str],
) -> None:
    """Train the runners rung by rung; after each, the best ceil(n / factor) by derived loss go on,
    though never fewer than there are to be finalists.

    ``halving`` is filled on the way and ``failures`` receives candidate id → reason, so that an interrupt keeps both.

    Raises:
        SearchFailed: every candidate failed; the message has each reason.
    """
    config = replace(settings.train, epochs=settings.search.search_epochs)
    rungs = rung_epochs(settings.search)
    factor = max(2, settings.search.phase3_reduction_factor)
    live = list(halving.runners)
    for number, budget in enumerate(rungs):
        tasks = [_task(r, number, budget, train, val, config, settings) for r in live]
        before = list(live)

        def record(
            position: int, result: Any, before: list[Runner] = before, rung: int = number, end: int = budget
        ) -> None:
            _record(before[position], result, rung, end, failures, settings)

        executor.map(train_rung, tasks, record)
        live = [r for r in live if r.record["candidate_id"] not in failures]
        if not live:
            raise SearchFailed(f"every promoted candidate failed: {reasons(failures)}")
        live.sort(key=lambda r: (r.derived_loss, r.record["candidate_id"]))
        kept = len(live) if number == len(rungs) - 1 else max(math.ceil(len(live) / factor), settings.finalists)
        halving.rounds.append(_round(number, budget, live, min(kept, len(live))))
        live = live[:kept]
        halving.survivors = live


def _task(
    runner: Runner,
    rung: int,
    until: int,
    train: WindowSource,
    val: WindowSource,
    config: DARTSTrainConfig,
    settings: SearchSettings,
) -> RungTask:
    key = TaskKey("rung", runner.record["candidate_id"], rung)
    return RungTask(
        runner.candidate, runner.seed, train, val, config, settings.limits, until, runner.state, key,
        border_file(settings, key),
    )  # fmt: skip


def _record(
    runner: Runner, result: Any, rung: int, budget: int, failures: dict[int, str], settings: SearchSettings
) -> None:
    identity = runner.record["candidate_id"]
    if has_failed(result, identity, "phase3", failures, settings):
        return
    done = runner.history[-1]["epochs"] if runner.history else 0
    runner.state = result.pop("state")
    runner.last = result
    runner.history.append(
        {
            "rung": rung,
            "epoch_budget": budget,
            "epochs": result["epochs"],
            "delta_epochs": result["epochs"] - done,
            "mixed_val_loss": result["mixed_val_loss"],
            "derived_val_loss": result["derived_loss"],
            "alpha_steps": result["alpha_steps"],
            "train_time_sec": result["train_seconds"],
            "derive_eval_time_sec": result["derive_seconds"],
            "total_time_sec": result["train_seconds"] + result["derive_seconds"],
        }
    )
    emit(
        settings.callbacks, Event.RUNG_END, candidate_id=identity, rung=rung, epochs=result["epochs"],
        val_loss=result["derived_loss"],
    )  # fmt: skip


def _round(number: int, budget: int, ranked: Sequence[Runner], kept: int) -> dict[str, Any]:
    return {
        "rung_index": number,
        "epoch_budget": budget,
        "num_candidates": len(ranked),
        "num_promoted": kept,
        "results": [
            {"candidate_id": r.record["candidate_id"], "val_loss": r.derived_loss, **r.history[-1]} for r in ranked
        ],
        "promoted_candidate_ids": [r.record["candidate_id"] for r in ranked[:kept]],
    }
