"""What the tests of GPU code need on a machine without a GPU, and a way to say that they must run."""

from __future__ import annotations

import importlib.util
import os
import shutil

import pytest

# A list such as "triton,nvcc": without one of these tools its tests then fail instead of being skipped.
MUST_RUN = "FOREBLOCKS_MUST_RUN"


def nvcc() -> str | None:
    """Return the path of the CUDA compiler or None."""
    return shutil.which("nvcc") or shutil.which("/usr/local/cuda/bin/nvcc")


def need(tool: str) -> None:
    """Skip the test, or fail where ``FOREBLOCKS_MUST_RUN`` names the tool, if ``triton`` or ``nvcc`` is not there."""
    there = nvcc() is not None if tool == "nvcc" else importlib.util.find_spec(tool) is not None
    if there:
        return
    if tool in os.environ.get(MUST_RUN, "").split(","):
        pytest.fail(f"{MUST_RUN} names {tool}, but it is not installed")
    pytest.skip(f"{tool} is not installed")


def interpreted() -> bool:
    """Return True in the process that runs Triton's interpreter."""
    return os.environ.get("TRITON_INTERPRET") == "1"
