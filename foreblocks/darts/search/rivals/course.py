"""What every rival works with: data, settings and budget; and the training that its architectures get."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from torch import Tensor

from ..._core.errors import SearchFailed
from ..._core.seeding import derive_seed
from ..._core.types import WindowSource
from ...architecture.spec import ArchSpec
from ...data.batches import count_batches
from ..candidates import CandidateConfig
from ..executor import Executor, Failure
from ..halving import Runner
from ..settings import SearchSettings
from ..task_key import TaskKey, border_file
from ..tasks import TrainTask, train_network
from ..trials import trial_config, trial_limits
from .budget import in_epochs

FIRST_RUNG = 100  # steps of the first look at an architecture, where the search itself takes none


@dataclass
class Entrant:
    """An architecture in a rival search.

    Attributes:
        number: its place in the order of entry.
        candidate: the candidate that it belongs to.
        seed: seed of its weights.
        spec: the architecture; for shared weights the best path so far.
        val_loss: validation loss after its last training.
        state: weights of the network in training, if it goes on from them.
        weights: weights of the network of ``spec``.
    """

    number: int
    candidate: CandidateConfig
    seed: int
    spec: ArchSpec | None = None
    val_loss: float = float("inf")
    state: dict[str, Tensor] | None = None
    weights: dict[str, Tensor] | None = None

    @property
    def architecture(self) -> ArchSpec:
        """``spec``, which it has from its first training on at the latest."""
        assert self.spec is not None, "no path was chosen yet"
        return self.spec

    def runner(self) -> Runner:
        """Return it in the form in which the survivors of the search are retrained."""
        last = {"spec": self.architecture.to_dict(), "derived_loss": self.val_loss, "weights": self.weights}
        return Runner({"candidate_id": self.number, **self.candidate.to_dict()}, self.candidate, self.seed, last=last)


@dataclass
class Course:
    """The conditions of a rival search, and what it has spent.

    Attributes:
        train: training windows.
        val: validation windows: every choice is made on them.
        settings: those of the search.
        executor: runs the trainings.
        budget: steps that the search made.
        promoted: the candidates that the search promoted, best first, with the seeds of their weights.
        trial_steps: the part of the budget that went into their promotion.
        spent: steps made so far.
        tried: architectures trained so far.
        failures: number of an architecture → reason.
    """

    train: WindowSource
    val: WindowSource
    settings: SearchSettings
    executor: Executor
    budget: int
    promoted: Sequence[tuple[CandidateConfig, int]]
    trial_steps: int = 0
    spent: int = 0
    tried: int = 0
    failures: dict[int, str] = field(default_factory=dict)

    @property
    def first_rung(self) -> int:
        """Steps of the first look at an architecture: those of a trial of the search."""
        return self.settings.trial_steps or FIRST_RUNG

    def fit(self, entrants: Sequence[Entrant], steps: int, rung: int) -> list[Entrant]:
        """Train networks for ``steps`` steps each, from the weights they have; return those that did not fail.

        Each gets its validation loss and its weights.
        """
        tasks, made = [], []
        config = trial_config(self.settings)
        for entrant in entrants:
            batch = entrant.candidate.search_batch(self.settings.limits.batch_size)
            limits = trial_limits(self.settings).with_batch(batch)
            epochs, batches = in_epochs(steps, count_batches(len(self.train), batch))
            limits = replace(limits, max_train_batches=batches, seed=derive_seed("rival", limits.seed, rung))
            final = replace(config, epochs=epochs, patience=epochs)
            made.append(epochs * batches)
            key = TaskKey(str(self.settings.baseline), entrant.number, rung, entrant.architecture.digest)
            tasks.append(
                TrainTask(
                    entrant.architecture.to_dict(), entrant.seed, self.train, self.val, final, limits, entrant.state,
                    key=key, border=border_file(self.settings, key),
                )
            )  # fmt: skip

        def record(entrant: Entrant, result: dict[str, Any]) -> None:
            entrant.val_loss = result["training_info"]["best_val_loss"]
            entrant.state = entrant.weights = result["state"]

        return self.run(train_network, tasks, entrants, made, record)

    def run(
        self, task: Any, payloads: Sequence[Any], entrants: Sequence[Entrant], steps: Sequence[int], record: Any
    ) -> list[Entrant]:
        """Run a task for each entrant, count its steps and enter what it found; return those that did not fail.

        Raises:
            SearchFailed: all of them failed.
        """
        alive: list[Entrant] = []

        def on_result(position: int, result: Any) -> None:
            entrant = entrants[position]
            self.spent += steps[position]
            if isinstance(result, Failure):
                self.failures[entrant.number] = result.reason
                return
            record(entrant, result)
            alive.append(entrant)

        self.executor.map(task, payloads, on_result)
        if not alive:
            raise SearchFailed(f"no architecture could be trained: {'; '.join(self.failures.values())}")
        return alive


def ranked(entrants: Sequence[Entrant]) -> list[Entrant]:
    """Return the entrants by validation loss, the earlier one first where it is equal."""
    return sorted(entrants, key=lambda entrant: (entrant.val_loss, entrant.number))
