"""A worker process that dies costs its own task, never the process that runs the search."""

from __future__ import annotations

import os
import signal
from typing import Any

import pytest

from foreblocks.darts.search.executor import Failure, ProcessExecutor


@pytest.mark.parametrize("workers", [1, 2])
def test_a_worker_that_dies_twice_fails_its_own_task_only(workers: int) -> None:
    parent, before = os.getpid(), signal.getsignal(signal.SIGINT)

    def task(payload: str) -> Any:
        if os.getpid() == parent:
            return "ran in the parent"
        if payload == "dies":
            os._exit(9)
        return payload

    told: list[tuple[int, Any]] = []
    found = ProcessExecutor(workers).map(task, ["a", "dies", "b"], lambda *result: told.append(result))
    assert [found[0], found[2]] == ["a", "b"]
    assert isinstance(found[1], Failure)
    assert "died twice" in found[1].reason
    assert told == list(enumerate(found))
    assert signal.getsignal(signal.SIGINT) is before
