"""What another number of workers would have cost: the measured tasks, packed anew."""

from __future__ import annotations

import heapq
import statistics
from collections.abc import Iterable, Sequence
from typing import Any

from .._core.errors import check_int, check_real


def lpt_estimate(durations: Iterable[float], workers: int) -> float:
    """Return the seconds in which ``workers`` finish the tasks when a free one takes the longest task left.

    Longest processing time first (Graham, SIAM J. Appl. Math. 17, 1969): at most 4/3 - 1/(3·workers) times the
    optimum. Workers are taken to be as fast side by side as alone.

    Args:
        durations: seconds of each task, none negative.
        workers: at least 1.
    """
    loads = [0.0] * check_int("workers", workers, low=1)
    for seconds in sorted((check_real("durations", value, low=0.0) for value in durations), reverse=True):
        heapq.heappush(loads, heapq.heappop(loads) + seconds)
    return max(loads)


def whatif_estimates(
    stages: Sequence[Sequence[float]],
    levels: Sequence[int],
    *,
    overhead_per_task: float = 0.0,
    fixed_overhead: float = 0.0,
) -> list[dict[str, Any]]:
    """Return ``[{workers, est_wall_time_sec}]`` for a phase of one or more stages.

    Args:
        stages: seconds of the tasks of each stage. A stage starts when the one before is finished, as a rung does.
        levels: numbers of workers.
        overhead_per_task: seconds added to every task.
        fixed_overhead: seconds added once.
    """
    estimates = []
    for workers in levels:
        packed = (lpt_estimate([seconds + overhead_per_task for seconds in stage], workers) for stage in stages)
        estimates.append({"workers": workers, "est_wall_time_sec": fixed_overhead + sum(packed)})
    return estimates


def mean_std(values: Sequence[float]) -> tuple[float | None, float | None]:
    """Return mean and standard deviation (of the values themselves, n in the denominator); None without values."""
    if not values:
        return None, None
    return statistics.fmean(values), statistics.pstdev(values)
