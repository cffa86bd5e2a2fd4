"""How benchmarks compare: calls in turn, in one process, by the CPU time of one thread."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping


def race(
    calls: Mapping[str, Callable[[], object]], rounds: int, *, burst: int = 1, seconds: float = math.inf
) -> dict[str, float]:
    """Return the least thread seconds of each call, after two to warm up.

    Args:
        calls: by name.
        rounds: in each, every call has its turn, in every second one in reverse.
        burst: calls in a turn, so that more than the first finds its own data in the cache.
        seconds: wall time after which no further round begins.
    """
    best = dict.fromkeys(calls, math.inf)
    for call in calls.values():
        call()
        call()
    began = time.perf_counter()
    for number in range(rounds):
        for name in list(calls) if number % 2 else reversed(calls):
            for _ in range(burst):
                start = time.thread_time()
                calls[name]()
                best[name] = min(best[name], time.thread_time() - start)
        if time.perf_counter() - began > seconds:
            break
    return best
