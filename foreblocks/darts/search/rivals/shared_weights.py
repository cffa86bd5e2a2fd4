"""Random search with shared weights (Li and Talwalkar, UAI 2019): random paths of a network that trains all its ops."""

from __future__ import annotations

import random
import time
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from ..._core.seeding import derive_seed, generator, seeded
from ..._core.types import WindowSource
from ...architecture.derive import Choice, derive_network, derived_path, spec_of
from ...architecture.network import TimeSeriesDARTS
from ...architecture.sequence import moe_balance_loss
from ...architecture.spec import ArchSpec
from ...config import FinalTrainConfig
from ...data.sources import iter_batches, read_batch
from ...evaluation.losses import get_loss_function
from ...training.adamw import ClippedAdamW
from ...training.final_trainer import MOE_BALANCE
from ...training.loop import LoopLimits, autocast, check_finite_loss, cpu_state, mean_loss, validation_batches
from ...training.schedules import one_cycle, set_rate
from ..candidates import CandidateConfig, build_candidate
from ..task_key import TaskKey
from ..trials import trial_config, trial_limits
from .architectures import random_choice
from .budget import halving_plan
from .course import Course, Entrant, ranked

PATHS = 32  # random paths that meet on few windows
SHORTLIST = 4  # the best of them meet on all validation windows of a trial
FIRST_WINDOWS = 128


@dataclass(frozen=True)
class SharedTask:
    """Train the mixed network of ``candidate`` for ``steps`` steps, from ``state`` or ``seed``; race random paths."""

    candidate: CandidateConfig
    seed: int
    train: WindowSource
    val: WindowSource
    config: FinalTrainConfig
    limits: LoopLimits
    steps: int
    state: dict[str, Tensor] | None = None
    key: TaskKey | None = None


def shared_weight_search(course: Course) -> list[Entrant]:
    """Train the mixed networks of the promoted candidates on random paths; return each with its best path, best first.

    The candidates are those that the search promoted, so the steps of its trials count as spent here too. The rest of
    the budget goes to them by successive halving, ranked by their best random path.
    """
    course.spent += course.trial_steps
    entrants = [Entrant(n, candidate, seed) for n, (candidate, seed) in enumerate(course.promoted)]
    plan = halving_plan(course.budget - course.spent, len(entrants), course.settings.finalists)
    alive = entrants
    for rung, (size, steps) in enumerate(plan):
        alive = _train(course, ranked(alive)[:size], steps, rung)
    return ranked(alive)


def _train(course: Course, entrants: list[Entrant], steps: int, rung: int) -> list[Entrant]:
    limits = trial_limits(course.settings)
    limits = replace(limits, seed=derive_seed("rival", limits.seed, rung))
    tasks = [
        SharedTask(
            entrant.candidate, entrant.seed, course.train, course.val, trial_config(course.settings),
            limits.with_batch(entrant.candidate.search_batch(limits.batch_size)), steps, entrant.state,
            TaskKey(str(course.settings.baseline), entrant.number, rung),
        )
        for entrant in entrants
    ]  # fmt: skip

    def record(entrant: Entrant, result: dict[str, Any]) -> None:
        entrant.val_loss, entrant.state, entrant.weights = result["val_loss"], result["state"], result["weights"]
        entrant.spec = ArchSpec.from_dict(result["spec"])

    course.tried += PATHS * len(tasks)
    return course.run(train_shared, tasks, entrants, [steps] * len(tasks), record)


def train_shared(task: SharedTask) -> dict[str, Any]:
    """Return ``{spec, val_loss, weights, state, seconds}``.

    ``spec`` is the best random path and ``weights`` what it inherits; ``state`` are the weights of the whole network.
    """
    began = time.perf_counter()
    model = build_candidate(task.candidate, seed=task.seed, device=task.limits.device)
    if task.state is not None:
        model.load_state_dict(task.state)
    train_paths(model, task)
    choice, loss = race_paths(model, task)
    spec = spec_of(model, choice)
    return {
        "spec": spec.to_dict(),
        "val_loss": loss,
        "weights": cpu_state(derive_network(model, spec)),
        "state": cpu_state(model),
        "seconds": time.perf_counter() - began,
    }


def train_paths(model: TimeSeriesDARTS, task: SharedTask) -> None:
    """Train the weights; each step runs one path, drawn uniformly (Guo et al., Single Path One-Shot NAS, ECCV 2020).

    Raises:
        DivergedError: the loss stopped being finite.
    """
    config, limits = task.config, task.limits
    loss_fn = get_loss_function(config.loss_type)
    weights = list(model.weight_parameters())
    optimizer = ClippedAdamW(weights, weight_decay=config.weight_decay)
    rng = random.Random(f"path:{limits.seed}")
    total = torch.zeros((), dtype=torch.float64, device=limits.device)
    model.train()
    step = 0
    while step < task.steps:
        order = generator("batches", limits.seed, step)
        for indices in iter_batches(len(task.train), limits.batch_size, generator=order, max_batches=task.steps - step):
            set_rate(optimizer, one_cycle(step, task.steps, config.learning_rate))
            batch = read_batch(task.train, indices, role="train", batch=step).to(limits.device)
            with derived_path(model, _draw(model, rng)), seeded("path", limits.seed, step), autocast(limits):
                loss = loss_fn(model(*batch.inputs), batch.y)
                (loss + MOE_BALANCE * moe_balance_loss(model)).backward()
            optimizer.step_clipped(config.grad_clip_norm)
            optimizer.zero_grad(set_to_none=True)
            total += loss.detach()
            step += 1
    model.eval()
    check_finite_loss(total, "the training of shared weights")


def race_paths(model: TimeSeriesDARTS, task: SharedTask) -> tuple[Choice, float]:
    """Return the best of ``PATHS`` random paths with inherited weights, and its validation loss."""
    loss_fn = get_loss_function(task.config.loss_type)
    rng = random.Random(f"race:{task.limits.seed}")

    def loss_on(choice: Choice, limits: LoopLimits) -> float:
        with derived_path(model, choice):
            batches = validation_batches(task.val, limits)
            return mean_loss(model, task.val, batches, loss_fn, limits=limits, role="validation")

    few = replace(task.limits, max_val_windows=FIRST_WINDOWS)
    paths = [_draw(model, rng) for _ in range(PATHS)]
    losses = [loss_on(path, few) for path in paths]
    best = sorted(range(PATHS), key=lambda place: losses[place])[:SHORTLIST]
    loss, place = min((loss_on(paths[place], task.limits), place) for place in best)
    return paths[place], loss


def _draw(model: TimeSeriesDARTS, rng: random.Random) -> Choice:
    first = model.cells[0]
    return random_choice(len(model.cells), first.num_nodes, len(first.edges[0].names), rng)
