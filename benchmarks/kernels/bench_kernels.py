"""Ratios of plain PyTorch over the compiled kernels, interleaved in one process, by the CPU time of one thread.

``python benchmarks/kernels/bench_kernels.py`` prints the table, ``--check`` also compares it with the floors that stand
in ``contests``; under pytest-benchmark the same contests are recorded.
A contest whose results differ is not timed.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pytest
import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).parents[1]))

from contests import Contest, contests
from racing import race

ROUNDS = 40
BURST = 5
SECONDS = 4.0  # at most, for one contest
least = partial(race, rounds=ROUNDS, burst=BURST, seconds=SECONDS)


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


def measure(contest: Contest) -> dict[str, dict[str, float]]:
    """Return seconds by pass (``forward``, ``both``) and form."""
    check(contest)
    made = {
        name: passes(function, contest.inputs) for name, function in {"ours": contest.ours, **contest.plain}.items()
    }
    result = {"forward": least({name: pair[0] for name, pair in made.items()})}
    if any(x.requires_grad for x in contest.inputs):
        result["both"] = least({name: pair[1] for name, pair in made.items()})
    return result


def peaks() -> tuple[float, float]:
    """Return bytes per second of a copy of 4 MB (read and written) and FLOP per second of a matrix product."""
    x, y = torch.randn(1 << 20), torch.empty(1 << 20)
    a, b, c = torch.randn(1024, 1024), torch.randn(1024, 1024), torch.empty(1024, 1024)
    times = least({"copy": lambda: y.copy_(x), "product": lambda: torch.mm(a, b, out=c)})
    return 8 * x.numel() / times["copy"], 2 * 1024**3 / times["product"]


@dataclass(frozen=True)
class Ratios:
    """One pass of one contest: seconds of ours, how often it fits into the best plain form, and into the usual one."""

    ours: float
    best: float
    usual: float
    best_name: str


def ratios(contest: Contest, times: dict[str, dict[str, float]]) -> dict[str, Ratios]:
    """Return the ratios by pass."""
    result = {}
    for kind, found in times.items():
        ours, plain = found["ours"], {name: value for name, value in found.items() if name != "ours"}
        name = min(plain, key=lambda key: plain[key])
        result[kind] = Ratios(ours, plain[name] / ours, plain[contest.usual] / ours, name)
    return result


def below(contest: Contest, found: dict[str, Ratios]) -> list[str]:
    """Return a line for every ratio of this contest that is under its floor."""
    rows = []
    for title, floors, which in (("best plain", contest.floors, "best"), ("usual", contest.usual_floors, "usual")):
        for kind, floor in zip(("forward", "both"), floors, strict=True):
            if floor is not None and getattr(found[kind], which) < floor:
                rows.append(
                    f"{contest.name}, {kind}: {getattr(found[kind], which):.2f} over the {title} form, floor {floor}"
                )
    return rows


def table() -> tuple[list[str], list[str]]:
    """Return the table, and what is under its floor."""
    copy, product = peaks()
    columns = f"{'forward µs':>10} {'best':>5} {'usual':>5} {'f+b µs':>7} {'best':>5} {'usual':>5} {'peak':>5}"
    rows = [
        f"one thread; copy {copy / 1e9:.0f} GB/s, matrix product of torch {product / 1e9:.0f} GFLOP/s",
        "best, usual: the time of the best and of the usual plain form over ours; peak: share of either peak, forward",
        f"{'':44} {columns}  best, usual",
    ]
    failures = []
    for contest in contests():
        found = ratios(contest, measure(contest))
        failures += below(contest, found)
        cells = []
        for kind, width in (("forward", 10), ("both", 7)):
            each = found.get(kind)
            numbers = (
                ("-",) * 3 if each is None else (f"{1e6 * each.ours:.0f}", f"{each.best:.2f}", f"{each.usual:.2f}")
            )
            cells.append(f"{numbers[0]:>{width}} {numbers[1]:>5} {numbers[2]:>5}")
        seconds = found["forward"].ours
        share = contest.bytes_moved / seconds / copy or contest.flops / seconds / product
        names = ", ".join(dict.fromkeys([*(each.best_name for each in found.values()), contest.usual]))
        rows.append(f"{contest.name[:44]:44} {' '.join(cells)} {f'{share:.0%}' if share else '-':>5}  {names}")
    return rows, failures


@pytest.mark.parametrize("contest", contests(), ids=lambda contest: contest.name)
def test_kernel(contest: Contest, benchmark: Callable[..., object]) -> None:
    """Time ours with pytest-benchmark, and keep the ratios beside it."""
    torch.set_num_threads(1)
    for kind, found in ratios(contest, measure(contest)).items():
        benchmark.extra_info |= {f"{kind}_over_best": found.best, f"{kind}_over_usual": found.usual}
    benchmark(passes(contest.ours, contest.inputs)[0])


def main() -> int:
    """Print the table; with ``--check`` return 1 when a ratio is under its floor."""
    parser = argparse.ArgumentParser(description="Time the compiled kernels against plain PyTorch.")
    parser.add_argument("--check", action="store_true", help="exit with 1 when a ratio is under its floor")
    options = parser.parse_args()
    torch.set_num_threads(1)
    rows, failures = table()
    print("\n".join(rows))
    if options.check and failures:
        print("\nunder its floor:", *failures, sep="\n  ", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
