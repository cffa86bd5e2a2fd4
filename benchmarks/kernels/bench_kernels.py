"""Ratios of plain PyTorch over the compiled kernels, interleaved in one process, by the CPU time of one thread.

``python benchmarks/kernels/bench_kernels.py`` prints the table; under pytest-benchmark the same contests are recorded.
A contest whose results differ is not timed.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parent))

from contests import Contest, contests

ROUNDS = 40
SECONDS = 4.0  # at most, for one contest


def passes(function: Callable[..., Tensor], inputs: list[Tensor]) -> tuple[Callable[[], object], Callable[[], object]]:
    """Return a forward pass without graph, and a forward and backward pass."""
    fixed = [x.detach() for x in inputs]
    wanted = [x for x in inputs if x.requires_grad]
    with torch.no_grad():
        cotangent = torch.randn_like(function(*fixed))

    def forward() -> Tensor:
        with torch.no_grad():
            return function(*fixed)

    def both() -> tuple[Tensor, ...]:
        return torch.autograd.grad(function(*inputs), wanted, cotangent, allow_unused=True) if wanted else ()

    return forward, both


def check(contest: Contest) -> None:
    """Raise unless all forms agree."""
    ours = contest.ours(*contest.inputs)
    for name, function in contest.plain.items():
        torch.testing.assert_close(
            ours,
            function(*contest.inputs),
            rtol=1e-3,
            atol=1e-3,
            msg=lambda text, name=name: f"{contest.name}, {name}: {text}",
        )


def race(functions: dict[str, Callable[[], object]]) -> dict[str, float]:
    """Return the least seconds of each, one call of each in turn."""
    best = dict.fromkeys(functions, float("inf"))
    for function in functions.values():
        function()
    began = time.perf_counter()
    for _ in range(ROUNDS):
        for name, function in functions.items():
            start = time.thread_time()
            function()
            best[name] = min(best[name], time.thread_time() - start)
        if time.perf_counter() - began > SECONDS:
            break
    return best


def measure(contest: Contest) -> dict[str, dict[str, float]]:
    """Return seconds by pass (``forward``, ``both``) and form."""
    check(contest)
    made = {
        name: passes(function, contest.inputs) for name, function in {"ours": contest.ours, **contest.plain}.items()
    }
    result = {"forward": race({name: pair[0] for name, pair in made.items()})}
    if any(x.requires_grad for x in contest.inputs):
        result["both"] = race({name: pair[1] for name, pair in made.items()})
    return result


def peaks() -> tuple[float, float]:
    """Return bytes per second of a copy of 4 MB (read and written) and FLOP per second of a matrix product."""
    x, y = torch.randn(1 << 20), torch.empty(1 << 20)
    a, b, c = torch.randn(1024, 1024), torch.randn(1024, 1024), torch.empty(1024, 1024)
    times = race({"copy": lambda: y.copy_(x), "product": lambda: torch.mm(a, b, out=c)})
    return 8 * x.numel() / times["copy"], 2 * 1024**3 / times["product"]


def lines() -> list[str]:
    """Return the table."""
    copy, product = peaks()
    head = f"{'':44} {'forward µs':>10} {'ratio':>6} {'f+b µs':>8} {'ratio':>6}  {'of peak':>7}  best plain form"
    rows = [f"one thread; copy {copy / 1e9:.0f} GB/s, matrix product of torch {product / 1e9:.0f} GFLOP/s", head]
    for contest in contests():
        times = measure(contest)
        cells, names = [], []
        for kind in ("forward", "both"):
            found = dict(times.get(kind, {}))
            if not found:
                cells.append(f"{'-':>10} {'-':>6}" if kind == "forward" else f"{'-':>8} {'-':>6}")
                continue
            ours = found.pop("ours")
            name = min(found, key=lambda key: found[key])
            names.append(name)
            cells.append(f"{1e6 * ours:>{10 if kind == 'forward' else 8}.0f} {found[name] / ours:>6.2f}")
        share = (
            contest.bytes_moved / times["forward"]["ours"] / copy or contest.flops / times["forward"]["ours"] / product
        )
        rows.append(
            f"{contest.name[:44]:44} {' '.join(cells)}  {f'{share:.0%}' if share else '-':>7}  {', '.join(names)}"
        )
    return rows


@pytest.mark.parametrize("contest", contests(), ids=lambda contest: contest.name)
def test_kernel(contest: Contest, benchmark: Callable[..., object]) -> None:
    """Time ours with pytest-benchmark, and keep the ratios beside it."""
    torch.set_num_threads(1)
    for kind, found in measure(contest).items():
        ours = found.pop("ours")
        benchmark.extra_info[f"{kind}_ratio"] = min(found.values()) / ours
    benchmark(passes(contest.ours, contest.inputs)[0])


if __name__ == "__main__":
    torch.set_num_threads(1)
    print("\n".join(lines()))
