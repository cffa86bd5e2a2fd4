"""Where the tasks of a search run: in this process, or in worker processes. The results are bitwise the same.

A task is a module-level function and one picklable payload. An executor never raises for a task: it returns the
result or a ``Failure``, in the order of the payloads, so that one failing candidate costs only that candidate. A
``DataError`` passes through: data that cannot be used are no candidate's fault, so the search ends at once.
"""

from __future__ import annotations

import os
import signal
import threading
import time
import traceback
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, Protocol

from .._core.device import torch_threads
from .._core.errors import DataError, check_int
from .._core.logging import get_logger
from .._core.memory import keep_freed_memory
from .registered import Registered

logger = get_logger(__name__)


@dataclass(frozen=True)
class Failure:
    """A task that did not finish.

    Attributes:
        reason: error type and message.
        traceback: full traceback text.
    """

    reason: str
    traceback: str = ""


class Executor(Protocol):
    """Runs tasks and gives back their results in order."""

    def map(
        self, task: Callable[[Any], Any], payloads: Sequence[Any], on_result: Callable[[int, Any], None]
    ) -> list[Any]:
        """Run ``task`` on every payload; ``on_result(position, result)`` is called as results become known."""
        ...


class SerialExecutor:
    """Runs tasks here, one after the other, under one torch thread like any worker."""

    def map(
        self, task: Callable[[Any], Any], payloads: Sequence[Any], on_result: Callable[[int, Any], None]
    ) -> list[Any]:
        """Run the tasks in order."""
        results = []
        with torch_threads(1):
            for position, payload in enumerate(payloads):
                results.append(guarded(task, payload))
                on_result(position, results[-1])
        return results


class ProcessExecutor:
    """Runs tasks in ``workers`` processes (joblib's loky: no ``__main__`` guard is needed), one torch thread each.

    A worker that dies takes the pool with it; the unfinished tasks are then run again one at a time in fresh workers,
    and the one that dies again is reported as failed.
    """

    def __init__(self, workers: int) -> None:
        self.workers = check_int("max_workers", workers, low=1)

    def map(
        self, task: Callable[[Any], Any], payloads: Sequence[Any], on_result: Callable[[int, Any], None]
    ) -> list[Any]:
        """Run the tasks in parallel; results come back in the order of the payloads."""
        results: dict[int, Any] = {}
        self._parallel(task, payloads, list(range(len(payloads))), self.workers, results, on_result)
        for position in [p for p in range(len(payloads)) if p not in results]:
            self._parallel(task, payloads, [position], 1, results, on_result)
            if position not in results:
                results[position] = Failure("the worker process died twice (out of memory?)")
                on_result(position, results[position])
        return [results[position] for position in range(len(payloads))]

    def _parallel(
        self,
        task: Callable[[Any], Any],
        payloads: Sequence[Any],
        positions: Sequence[int],
        workers: int,
        results: dict[int, Any],
        on_result: Callable[[int, Any], None],
    ) -> None:
        import joblib
        from joblib.externals.loky.process_executor import TerminatedWorkerError

        # No more than loky's queue holds: its thread fails aloud when tasks that still wait for a place are cancelled.
        dispatched = 2 * workers if workers > 1 else 1
        # With one job joblib runs the tasks in this process, where one that dies ends the search; of two workers that
        # get one task at a time only one is busy.
        pool = joblib.Parallel(n_jobs=max(2, workers), return_as="generator", batch_size=1, pre_dispatch=dispatched)
        registered = Registered.here()
        jobs = (joblib.delayed(_in_worker)(task, payloads[position], registered) for position in positions)
        stream = pool(jobs)
        try:
            for position, result in zip(positions, stream, strict=True):
                results[position] = result
                on_result(position, result)
        except TerminatedWorkerError as error:
            logger.warning("a worker process died: %s", error)
        finally:
            # After an interrupt joblib would warn of the tasks that are cancelled here on purpose.
            with warnings.catch_warnings(action="ignore", category=UserWarning):
                stream.close()


def make_executor(max_workers: int | None) -> SerialExecutor | ProcessExecutor:
    """Return the executor for ``max_workers``: None or 1 means serial."""
    if max_workers is None or check_int("max_workers", max_workers, low=1) == 1:
        return SerialExecutor()
    return ProcessExecutor(min(max_workers, 2 * (os.cpu_count() or 1)))


def guarded(task: Callable[[Any], Any], payload: Any) -> Any:
    """Return the result of a task, or the ``Failure`` it ended in; the failure is logged.

    Raises:
        DataError: the data cannot be used.
    """
    try:
        return task(payload)
    except DataError:
        raise
    except Exception as error:  # noqa: BLE001 - one failing candidate must cost only that candidate
        logger.warning("a task failed: %s: %s", type(error).__name__, error)
        return Failure(f"{type(error).__name__}: {error}", traceback.format_exc())


@cache
def _end_with_parent() -> None:
    """End this process soon after the one that runs the search was killed; loky's workers would wait for it."""
    threading.Thread(target=_await_orphanhood, args=(os.getppid(),), daemon=True).start()


def _await_orphanhood(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(1)
    os._exit(1)


def _in_worker(task: Callable[[Any], Any], payload: Any, registered: Registered) -> Any:
    # A terminal sends Ctrl-C to the workers, too; it is the parent that ends them, in order.
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGINT, signal.SIG_IGN)
    keep_freed_memory()
    _end_with_parent()
    registered.enter()
    with torch_threads(1):
        return guarded(task, payload)
