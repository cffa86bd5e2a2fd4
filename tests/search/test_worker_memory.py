"""What a worker process does with the memory that it frees."""

from __future__ import annotations

import os
import platform
import subprocess
import sys

import pytest

from foreblocks.darts import cli
from foreblocks.darts._core.memory import keep_freed_memory
from foreblocks.darts.search.executor import ProcessExecutor, SerialExecutor

pytestmark = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc is tuned")

# Frees and takes 160 MB in blocks of 8 MB, like the activations of a step, and prints the page faults of the last ten.
STEPS = """
import resource, sys
from foreblocks.darts import cli
from foreblocks.darts._core.memory import keep_freed_memory
print(keep_freed_memory() if sys.argv[1] == "keep" else None)
for number in range(12):
    if number == 2:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    blocks = [bytearray(8 << 20) for _ in range(20)]
    del blocks
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def steps(how: str, **environment: str) -> tuple[str, int]:
    """Run ``STEPS`` in a process of its own; return what keep_freed_memory said and the page faults."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("MALLOC_", "GLIBC_"))}
    done = subprocess.run(
        [sys.executable, "-c", STEPS, how], env={**clean, **environment}, capture_output=True, text=True, check=True
    )
    said, faults = done.stdout.split()
    return said, int(faults)


def test_freed_memory_is_used_again() -> None:
    _, usual = steps("leave")
    said, kept = steps("keep")
    assert said == "True"
    assert kept < usual / 10, f"{kept} page faults with kept memory, {usual} without"


def test_an_allocator_that_the_user_tunes_is_left_alone() -> None:
    assert steps("keep", MALLOC_TRIM_THRESHOLD_="1048576")[0] == "False"


def _kept(_payload: int) -> bool:
    return keep_freed_memory.cache_info().currsize == 1


def test_only_worker_processes_are_tuned() -> None:
    keep_freed_memory.cache_clear()
    assert SerialExecutor().map(_kept, [0], lambda *_: None) == [False]
    assert ProcessExecutor(2).map(_kept, [0, 1], lambda *_: None) == [True, True]


def test_the_command_line_tunes_its_own_process(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[bool] = []
    monkeypatch.setattr(cli, "keep_freed_memory", lambda: calls.append(True))
    assert cli.main(["search", "--data", "no such file.csv"]) == 2
    assert calls == [True]
