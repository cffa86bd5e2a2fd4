"""The tasks that a search sends to an executor: plain data in, plain data out.

Each has a ``key``, its place in the store of a run; None is not kept.
"""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass
from typing import Any, final

import torch
from torch import Tensor

from .._core.device import torch_threads
from .._core.types import Batch, WindowSource
from ..architecture.build import build_network
from ..architecture.derive import derive_spec
from ..architecture.spec import ArchSpec
from ..config import DARTSTrainConfig, FinalTrainConfig
from ..data.batches import count_batches
from ..training.bilevel import SearchState, new_state
from ..training.darts_loop import SearchData, derived_loss, search_epochs
from ..training.events import Event
from ..training.final_trainer import train_final_model
from ..training.loop import LoopLimits, cpu_state
from ..training.select import DeriveSettings, select_architecture
from ..training.state_file import StateFile
from .candidates import CandidateConfig, build_candidate, searched_candidate
from .op_scoring import start_alphas
from .task_key import TaskKey
from .zero_cost import score_batch


@dataclass(frozen=True)
class ScoreTask:
    """Score one candidate at initialisation on some windows."""

    candidate: CandidateConfig
    seed: int
    windows: Batch
    loss_type: str
    device: torch.device
    key: TaskKey | None = None


def score_candidate(task: ScoreTask) -> dict[str, Any]:
    """Return the zero-cost result of a candidate, its ``config`` as a dict, and the seconds it took."""
    began = time.perf_counter()
    model = build_candidate(task.candidate, seed=task.seed, device=task.device)
    windows = task.windows.to(task.device)
    metrics = score_batch(model, windows.x, windows.y, loss_type=task.loss_type, x_future=windows.x_future)
    metrics["config"] = asdict(metrics["config"])
    return {"metrics": metrics, "phase1_dt": time.perf_counter() - began}


@dataclass(frozen=True)
class RungTask:
    """Advance one candidate's search to ``until`` epochs, from ``state`` or from the start.

    ``border`` gets the state after each epoch; one that an earlier run left there is taken up.
    """

    candidate: CandidateConfig
    seed: int
    train: WindowSource
    val: WindowSource
    config: DARTSTrainConfig
    limits: LoopLimits
    until: int
    state: dict[str, Any] | None
    key: TaskKey | None = None
    border: StateFile | None = None


def train_rung(task: RungTask) -> dict[str, Any]:
    """Return the candidate's new state (plain data), its losses, and the architecture that its alphas point to.

    After the last epoch the state is only what is read of it then (``SearchState.outcome``).
    ``derived_loss`` is the validation loss of the derived path: what promotion goes by, since the mixture is not what
    is kept in the end.
    """
    began = time.perf_counter()
    model = build_candidate(
        task.candidate, seed=task.seed, relaxation=task.config.chosen_relaxation, device=task.limits.device
    )
    limits = task.limits.with_batch(task.candidate.search_batch(task.limits.batch_size))
    data = SearchData.split(task.train, task.val, task.config, batch_size=limits.batch_size)
    start, before = _where_to_start(task)
    if start is None:
        start_alphas(model, task.train, task.config, limits.seed)
    state = new_state(model, task.config)
    if start is not None:
        state.load_dict(start)
    keeper = [] if task.border is None else [_BorderKeeper(state, task.border, began - before)]
    search_epochs(state, data, task.config, limits, until=task.until, callbacks=keeper)
    result = {
        "state": state.to_dict() if task.until < task.config.epochs else state.outcome(),
        "mixed_val_loss": state.best_val_loss,
        "epochs": state.epoch,
        "passes": {"weight": state.weight_batches, "alpha": state.alpha_steps, "extra": state.extra_passes},
        "alpha_steps": state.alpha_steps,
        "train_seconds": before + time.perf_counter() - began,
    }
    began = time.perf_counter()
    state.load_best()
    result["derived_loss"] = derived_loss(model, task.val, task.limits)
    result["spec"] = derive_spec(model).to_dict()
    result["derive_seconds"] = time.perf_counter() - began
    return result


def _where_to_start(task: RungTask) -> tuple[dict[str, Any] | None, float]:
    """Return the latest state that there is, and the seconds that this rung has already cost."""
    done = 0 if task.state is None else task.state["epoch"]
    kept = None if task.border is None else task.border.load()
    if kept is None or not done < kept["state"]["epoch"] <= task.until:
        return task.state, 0.0
    return kept["state"], kept["seconds"]


@final
class _BorderKeeper:
    """Writes the state of a search at the end of each epoch."""

    def __init__(self, state: SearchState, file: StateFile, began: float) -> None:
        self._state, self._file, self._began = state, file, began

    def on_event(self, event: Event, payload: dict[str, Any]) -> None:
        """Write at an epoch border."""
        if event is Event.EPOCH_END:
            self._file.save({"state": self._state.to_dict(), "seconds": time.perf_counter() - self._began})


@dataclass(frozen=True)
class SelectTask:
    """Turn a searched candidate, given the ``state`` of its last rung, into one architecture."""

    candidate: CandidateConfig
    seed: int
    train: WindowSource
    val: WindowSource
    config: DARTSTrainConfig
    limits: LoopLimits
    state: dict[str, Any]
    settings: DeriveSettings
    key: TaskKey | None = None


def select_candidate(task: SelectTask) -> dict[str, Any]:
    """Return ``{spec, derived_loss, weights, derivation}``: what was chosen, the weights it inherits, and the race."""
    model = searched_candidate(
        task.candidate, task.state, seed=task.seed, relaxation=task.config.chosen_relaxation, device=task.limits.device
    )
    limits = task.limits.with_batch(task.candidate.search_batch(task.limits.batch_size))
    data = SearchData.split(task.train, task.val, task.config, batch_size=limits.batch_size)
    selection = select_architecture(model, data, task.config, limits, task.settings)
    return {
        "spec": selection.chosen.spec.to_dict(),
        "derived_loss": selection.chosen.loss,
        "weights": selection.chosen.state,
        "derivation": selection.to_dict(),
    }


@dataclass(frozen=True)
class TrainTask:
    """Train the fixed network of ``spec``, its weights drawn from ``seed`` or given as ``weights``.

    ``threads`` are the torch threads of this one task; the figures depend on them in the last digits. ``border`` gets
    the state after each epoch; one that an earlier run left there is taken up.
    """

    spec: dict[str, Any]
    seed: int
    train: WindowSource
    val: WindowSource
    config: FinalTrainConfig
    limits: LoopLimits
    weights: dict[str, Tensor] | None = None
    threads: int = 1
    key: TaskKey | None = None
    border: StateFile | None = None


def train_network(task: TrainTask) -> dict[str, Any]:
    """Return what ``train_final_model`` returns, with the trained weights as ``state`` in place of the model."""
    network = build_network(ArchSpec.from_dict(task.spec), seed=task.seed)
    if task.weights is not None:
        network.load_state_dict(task.weights)
    with torch_threads(task.threads):
        result = train_final_model(network, task.train, task.val, task.config, task.limits, border=task.border)
    return {**{key: value for key, value in result.items() if key != "model"}, "state": cpu_state(network)}


@dataclass(frozen=True)
class TrialTask:
    """Train a candidate's network for some steps, with the ops of ``spec``.

    None takes those that its untouched alphas point to: random ones of its space.
    """

    candidate: CandidateConfig
    seed: int
    train: WindowSource
    val: WindowSource
    config: FinalTrainConfig
    limits: LoopLimits
    key: TaskKey | None = None
    spec: dict[str, Any] | None = None


def run_trial(task: TrialTask) -> dict[str, Any]:
    """Return ``{val_loss, steps, seconds, spec}`` of a short training from scratch."""
    began = time.perf_counter()
    spec = task.spec or derive_spec(build_candidate(task.candidate, seed=task.seed)).to_dict()
    limits = task.limits.with_batch(task.candidate.search_batch(task.limits.batch_size))
    trained = train_network(TrainTask(spec, task.seed, task.train, task.val, task.config, limits))
    loss = trained["training_info"]["best_val_loss"]
    steps = count_batches(len(task.train), limits.batch_size, limits.max_train_batches)
    return {"val_loss": loss, "steps": steps, "seconds": time.perf_counter() - began, "spec": spec}
