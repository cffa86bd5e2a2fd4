"""The last check of phase 4: do the operations that a search found train better than those drawn by chance?

Differentiable search can end in operations that are no better than random ones of the same space (Yu et al.,
"Evaluating the search phase of neural architecture search", ICLR 2020; Yang et al., "NAS evaluation is frustratingly
hard", ICLR 2020). A candidate was promoted by a short training with the operations that its untouched alphas point to
(``search.trials``). The architecture found gets the same training: as many steps, the same windows, weights of the same
seed. Where it does not come out ahead, the drawn one is what is retrained.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from .._core.logging import get_logger
from .._core.types import WindowSource
from ..architecture.derive import derive_spec
from .candidates import build_candidate
from .executor import Executor, Failure
from .halving import Runner
from .settings import SearchSettings
from .task_key import TaskKey
from .tasks import TrialTask, run_trial
from .trials import trial_config, trial_limits

logger = get_logger(__name__)


def hold_duels(
    survivors: Sequence[Runner], train: WindowSource, val: WindowSource, settings: SearchSettings, executor: Executor
) -> None:
    """Give each survivor that will be retrained its ``duel``, and the ``drawn`` architecture where that one won.

    ``duel`` is ``{found, drawn, steps}``: two validation losses, and the training steps that the first one cost; None
    where there was no trial, where both architectures are the same, or where the final training goes on from the
    weights of the search. A short training that fails has lost, with None for ``found``.
    """
    if not settings.duel or not settings.search.retrain_final_from_scratch:
        return
    drawn = {
        runner.record["candidate_id"]: derive_spec(build_candidate(runner.candidate, seed=runner.seed))
        for runner in survivors[: settings.finalists]
        if "trial" in runner.record
    }
    fighting = [r for r in survivors if r.record["candidate_id"] in drawn and r.spec != drawn[r.record["candidate_id"]]]
    config, limits = trial_config(settings), trial_limits(settings)
    keys = [TaskKey("duel", runner.record["candidate_id"]) for runner in fighting]
    tasks = [
        TrialTask(r.candidate, r.seed, train, val, config, limits, key, r.last["spec"])
        for r, key in zip(fighting, keys, strict=True)
    ]

    def record(position: int, result: Any) -> None:
        runner = fighting[position]
        _settle(runner, drawn[runner.record["candidate_id"]].to_dict(), result)

    executor.map(run_trial, tasks, record)


def _settle(runner: Runner, drawn: dict[str, Any], result: Any) -> None:
    identity, trial = runner.record["candidate_id"], runner.record["trial"]
    if isinstance(result, Failure):
        runner.duel, runner.drawn = {"found": None, "drawn": trial["val_loss"], "steps": trial["steps"]}, drawn
        logger.info("candidate %d: the drawn operations are retrained; those found failed: %s", identity, result.reason)
        return
    found = float(result["val_loss"])
    runner.duel = {"found": found, "drawn": trial["val_loss"], "steps": trial["steps"]}
    if found <= trial["val_loss"]:
        return
    runner.drawn = drawn
    logger.info(
        "candidate %d: after %d steps the operations found have a validation loss of %.4f, those drawn by chance %.4f; "
        "the latter are retrained.",
        identity, trial["steps"], found, trial["val_loss"],
    )  # fmt: skip


def tally(runners: Sequence[Runner]) -> dict[str, int] | None:
    """Return ``{won, of}``: how many duels the operations found have won; None if there was none."""
    duels = [runner for runner in runners if runner.duel is not None]
    return {"won": sum(runner.drawn is None for runner in duels), "of": len(duels)} if duels else None
