"""Training steps: how many a search has made, and how a rival spends as many."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from ...architecture.cell import KEPT_INPUTS
from ..candidates import CandidateConfig
from ..halving import Runner
from ..settings import SearchSettings


def steps_of_search(
    records: Iterable[Mapping[str, Any]], runners: Iterable[Runner], settings: SearchSettings
) -> dict[str, int]:
    """Return the steps of phases 2 to 4: ``trial``, ``weight``, ``alpha``, ``extra``, ``tuning`` and ``duel``.

    A step is one training batch forward and backward, whatever the network: a mixed network pays more for it than a
    fixed one, which is why wall times are reported beside. ``extra`` are those that no batch of weights or alphas asks
    for by itself (``SearchState.extra_passes``); a rival gets as many more. What is not training counts on neither
    side: zero-cost scores, looks at the curvature, evaluations on validation.
    """
    runners = [runner for runner in runners if runner.last]
    passes = {kind: sum(runner.last["passes"][kind] for runner in runners) for kind in ("weight", "alpha", "extra")}
    return {
        "trial": sum(record["trial"]["steps"] for record in records if "trial" in record),
        **passes,
        "tuning": sum(_tuning_steps(runner, settings) for runner in runners),
        "duel": sum(runner.duel["steps"] for runner in runners if runner.duel is not None),
    }


def _tuning_steps(runner: Runner, settings: SearchSettings) -> int:
    derivation = runner.last.get("derivation")
    if settings.derive.is_plain or derivation is None:
        return 0
    return len(derivation["contenders"]) * _decisions(runner.candidate) * settings.derive.tune_steps


def _decisions(candidate: CandidateConfig) -> int:
    """Decisions that make a candidate discrete: the op of each edge, and the inputs of nodes that have a choice."""
    nodes = candidate.num_nodes
    return candidate.num_cells * (nodes * (nodes - 1) // 2 + max(0, nodes - 1 - KEPT_INPUTS))


def in_epochs(steps: int, batches: int) -> tuple[int, int]:
    """Return ``(epochs, batches in each)`` that make ``steps`` steps, or a few less, of epochs of up to ``batches``."""
    epochs = -(-steps // batches)
    return epochs, steps // epochs


def halving_counts(count: int, keep: int) -> list[int]:
    """Return how many of ``count`` architectures train in each rung: half of them each time, down to ``keep``."""
    counts = [count]
    while counts[-1] > keep:
        counts.append(max(keep, -(-counts[-1] // 2)))
    return counts


def halving_plan(budget: int, count: int, keep: int) -> list[tuple[int, int]]:
    """Return ``(architectures, steps of each)`` of every rung, within ``budget`` steps; each rung is twice as long.

    What division leaves goes to the last rung. Where the budget is too small for ``count``, fewer take part.
    """
    while True:
        counts = halving_counts(count, keep)
        unit = budget // sum(number * 2**rung for rung, number in enumerate(counts))
        if unit or count == 1:
            break
        count -= 1
    plan = [(number, max(1, unit * 2**rung)) for rung, number in enumerate(counts)]
    rest = max(0, budget - sum(number * steps for number, steps in plan))
    last, steps = plan[-1]
    return [*plan[:-1], (last, steps + rest // last)]


def affordable_count(budget: int, first: int, keep: int) -> int:
    """Return the largest number of architectures whose first rung in ``halving_plan`` has ``first`` steps or more."""
    count = 1
    while halving_plan(budget, count + 1, keep)[0] >= (count + 1, first):
        count += 1
    return count
