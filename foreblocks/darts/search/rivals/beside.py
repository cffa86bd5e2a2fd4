"""What is trained beside the search to judge it: the best preset as it is, and a rival search."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from torch import nn

from ..._core.errors import SearchFailed
from ..._core.logging import get_logger
from ..._core.types import WindowSource
from ...architecture.derive import derive_spec
from ...data.batches import count_batches
from ...evaluation.baselines import Baselines
from ...evaluation.blend import BlendFit
from ..candidates import CandidateConfig, build_candidate
from ..executor import Executor
from ..finish import Finalist, blend_with_ridge, retrain
from ..halving import Runner
from ..settings import SearchSettings, candidate_seed
from ..store import SearchStore
from ..task_key import TaskKey
from .budget import steps_of_search
from .course import Course, Entrant
from .evolution import evolve
from .random_search import random_search
from .shared_weights import shared_weight_search

logger = get_logger(__name__)

METHODS: dict[str, Callable[[Course], list[Entrant]]] = {
    "random": random_search,
    "random_ws": shared_weight_search,
    "evolution": evolve,
}
PRESET = "best_preset"  # its name among the tested models; those of a rival are its method, alone and with _BLEND
_BLEND = "_blend"


@dataclass
class Rival:
    """A rival search and its outcome.

    Attributes:
        course: the conditions it had and the steps it made.
        found: its best architectures, best first; empty if all of them failed.
        steps_of_search: the steps of the search itself, by kind.
        seconds: wall time of the search and of its final trainings (``search``, ``final``).
        finalists: the retrained ones, best first.
        fit: weights of their blend with the ridges.
    """

    course: Course
    steps_of_search: dict[str, int]
    found: list[Entrant] = field(default_factory=list)
    seconds: dict[str, float] = field(default_factory=dict)
    finalists: list[Finalist] = field(default_factory=list)
    fit: BlendFit | None = None


@dataclass
class Beside:
    """Filled as a search goes.

    Attributes:
        preset: the best preset, unsearched, retrained like the finalists.
        rival: the rival search.
    """

    preset: Finalist | None = None
    rival: Rival | None = None

    def retrain(
        self,
        records: Sequence[Mapping[str, Any]],
        runners: Sequence[Runner],
        train: WindowSource,
        val: WindowSource,
        settings: SearchSettings,
        executor: Executor,
    ) -> None:
        """Train the best preset and the finalists of the rival exactly like the finalists of the search."""
        quiet = replace(settings, callbacks=())

        def trained(survivors: Sequence[Runner], phase: str, failures: dict[int, str]) -> list[Finalist]:
            finalists: list[Finalist] = []
            try:
                retrain(survivors, train, val, quiet, executor, failures, finalists, phase=phase)
            except SearchFailed as error:
                logger.warning("beside the search: %s", error)
            return finalists

        preset = best_preset(records, runners, settings) if settings.best_preset else None
        if preset is not None:
            self.preset = next(iter(trained([preset], "preset_train", {})), None)
        if self.rival is not None:
            began = time.perf_counter()
            found = [entrant.runner() for entrant in self.rival.found]
            self.rival.finalists = (
                trained(found, f"{settings.baseline}_train", self.rival.course.failures) if found else []
            )
            self.rival.seconds["final"] = time.perf_counter() - began

    def is_done_with_states(self, settings: SearchSettings) -> bool:
        """Return whether nothing reads the weights that the rival search has trained, not even when it is resumed.

        A failed architecture is then tried again, from the weights that it had.
        """
        failed = self.rival is not None and self.rival.course.failures
        return settings.search.retrain_final_from_scratch and not failed

    def contenders(
        self, baselines: Baselines, *, val: WindowSource, settings: SearchSettings, store: SearchStore | None
    ) -> dict[str, nn.Module]:
        """Return the models to test: the preset, the best network of the rival, and its blend with the ridges."""
        models: dict[str, nn.Module] = {}
        if self.preset is not None:
            models[PRESET] = self.preset.network
        if self.rival is not None and self.rival.finalists:
            name = str(settings.baseline)
            models[name] = self.rival.finalists[0].network
            models[name + _BLEND], self.rival.fit = blend_with_ridge(
                self.rival.finalists, baselines, val, settings, store, key=TaskKey(name + _BLEND)
            )
        return models

    def report(
        self,
        metrics: Mapping[str, Mapping[str, float]],
        finalists: Sequence[Finalist],
        settings: SearchSettings,
    ) -> dict[str, Any]:
        """Return ``best_preset`` and ``search_baseline`` of the result; None for what was not asked for or failed."""
        return {
            "best_preset": None if self.preset is None else _preset_report(self.preset, metrics),
            "search_baseline": None if self.rival is None else _rival_report(self.rival, metrics, finalists, settings),
        }


def search_rival(
    beside: Beside,
    records: Sequence[Mapping[str, Any]],
    runners: Sequence[Runner],
    train: WindowSource,
    val: WindowSource,
    settings: SearchSettings,
    executor: Executor,
) -> None:
    """Run the rival search that ``settings.baseline`` names, with the steps that the search has made so far.

    If all of its architectures fail, that is logged and said in the result; the search goes on.
    """
    began = time.perf_counter()
    steps = steps_of_search(records, runners, settings)
    course = Course(
        train, val, settings, executor, sum(steps.values()), [(r.candidate, r.seed) for r in runners], steps["trial"]
    )
    beside.rival = Rival(course, steps)
    try:
        beside.rival.found = METHODS[str(settings.baseline)](course)
    except SearchFailed as error:
        logger.warning("baseline=%r: %s", settings.baseline, error)
    beside.rival.seconds["search"] = time.perf_counter() - began


def best_preset(
    records: Sequence[Mapping[str, Any]], runners: Sequence[Runner], settings: SearchSettings
) -> Runner | None:
    """Return the best preset as it was drawn, with the ops that its untouched alphas point to; None without presets.

    The best is the one with the lowest loss of its trial; without trials, that of the search; else by zero-cost rank.
    """
    searched = {r.record["candidate_id"]: r.derived_loss for r in runners if "derived_loss" in r.last}
    presets = [record for record in records if record.get("preset") is not None]
    if not presets:
        logger.info("best_preset=True: there is no preset among the candidates.")
        return None

    def loss(record: Mapping[str, Any]) -> tuple[float, float]:
        trial = record.get("trial") or {}
        return trial.get("val_loss", float("inf")), searched.get(record["candidate_id"], float("inf"))

    record = min(presets, key=loss)
    candidate = CandidateConfig.from_dict(record)
    seed = candidate_seed(settings.limits.seed, record["candidate_id"])
    spec = derive_spec(build_candidate(candidate, seed=seed))
    return Runner(
        dict(record), candidate, seed, last={"spec": spec.to_dict(), "derived_loss": min(loss(record)), "weights": None}
    )


def final_steps(finalists: Sequence[Finalist], windows: int, settings: SearchSettings) -> int:
    """Return the training steps of final trainings."""
    batches = count_batches(windows, settings.limits.batch_size, settings.final_max_train_batches)
    return sum(f.training["training_info"]["epochs_completed"] * batches for f in finalists)


def _preset_report(preset: Finalist, metrics: Mapping[str, Mapping[str, float]]) -> dict[str, Any]:
    return {
        "preset": preset.runner.candidate.preset,
        "candidate_id": preset.runner.record["candidate_id"],
        "val_loss": preset.val_loss,
        "arch_spec": preset.runner.spec,
        **metrics[PRESET],
    }


def _rival_report(
    rival: Rival, metrics: Mapping[str, Mapping[str, float]], finalists: Sequence[Finalist], settings: SearchSettings
) -> dict[str, Any]:
    course = rival.course
    windows = len(course.train)
    report: dict[str, Any] = {
        "method": settings.baseline,
        "tried": course.tried,
        "steps": {"search": course.spent, "final": final_steps(rival.finalists, windows, settings)},
        "steps_of_search": {**rival.steps_of_search, "final": final_steps(finalists, windows, settings)},
        "seconds": dict(rival.seconds),
        "failed": dict(course.failures),
    }
    if rival.finalists and rival.fit is not None:
        best, name = rival.finalists[0], str(settings.baseline)
        report |= {
            "spec": best.runner.spec,
            "val_loss": best.val_loss,
            "network": dict(metrics[name]),
            "blend": {**metrics[name + _BLEND], "weights": dict(rival.fit.weights)},
        }
    return report
