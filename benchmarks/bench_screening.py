"""Screening under pytest-benchmark: all default metrics of a candidate, and their ratio to a forward and backward pass.

The ratios are measured in turn, in the same process (``racing.race``), and kept beside the timing.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent))

from racing import race
from screening import ROUNDS, example, one_by_one, one_pass

from foreblocks.darts.architecture.spec import ARCH_MODES
from foreblocks.darts.search.proxies.evaluate import evaluate_proxies


@pytest.mark.parametrize("mode", ARCH_MODES)
def test_metrics_of_a_candidate(mode: str, benchmark: Callable[..., object]) -> None:
    """Time ours; ``pass_ratio`` is in forward and backward passes, ``one_by_one_ratio`` what sharing passes saves."""
    torch.set_num_threads(1)
    model, x, y = example(mode, 32)
    times = race(
        {
            "pass": lambda: one_pass(model, x, y),
            "all": lambda: evaluate_proxies(model, x, y),
            "single": lambda: one_by_one(model, x, y),
        },
        ROUNDS,
    )
    benchmark.extra_info["pass_ratio"] = times["all"] / times["pass"]
    benchmark.extra_info["one_by_one_ratio"] = times["single"] / times["all"]
    benchmark(evaluate_proxies, model, x, y)
