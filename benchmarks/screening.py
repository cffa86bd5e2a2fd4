"""What screening costs: candidates a second, memory over many candidates, and scores against a training step.

    python benchmarks/screening.py [--candidates 60] [--workers 2] [--part rate|memory|cost]

``rate`` scores candidates of all ops and modes at quick-start size (L 48, C 5, hidden 32, 64 windows) in worker
processes. ``memory`` scores as many in this process and prints its resident memory on the way. ``cost`` compares all
default metrics with one plain forward and backward pass of the same network, and with the same metrics computed one by
one (batch 32, L 96, C 7), interleaved on one thread; and the eleven schemes of an ablation with one evaluation.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from racing import race

from foreblocks.darts import DARTSSearchSpaceConfig, DARTSTrainer, TimeSeriesDARTS
from foreblocks.darts._core.types import Batch
from foreblocks.darts.architecture.spec import ARCH_MODES
from foreblocks.darts.config import DEFAULT_OPS
from foreblocks.darts.search.candidates import SearchSpace, make_candidates
from foreblocks.darts.search.executor import Failure, make_executor
from foreblocks.darts.search.proxies.evaluate import evaluate_proxies, resolve_proxies
from foreblocks.darts.search.tasks import ScoreTask, score_candidate

WINDOWS, LOOKBACK, HORIZON, CHANNELS = 64, 48, 12, 5
ROUNDS = 7


def tasks(count: int) -> list[ScoreTask]:
    """Return the scoring tasks of ``count`` candidates on the same windows."""
    space = SearchSpace(CHANNELS, LOOKBACK, HORIZON, tuple(DEFAULT_OPS), DARTSSearchSpaceConfig(hidden_dims=[32]))
    torch.manual_seed(0)
    series = torch.randn(WINDOWS, LOOKBACK + HORIZON, CHANNELS).cumsum(1)
    windows = Batch(series[:, :LOOKBACK], series[:, LOOKBACK:], None)
    candidates = make_candidates(space, 0, count)
    return [ScoreTask(c, i, windows, "mse", torch.device("cpu")) for i, c in enumerate(candidates)]


def rate(count: int, workers: int) -> None:
    """Print candidates a second, the start of the workers left out."""
    executor, failed = make_executor(workers), 0
    executor.map(score_candidate, tasks(2 * workers), lambda index, result: None)

    def record(index: int, result: object) -> None:
        nonlocal failed
        failed += isinstance(result, Failure)

    began = time.perf_counter()
    executor.map(score_candidate, tasks(count), record)
    seconds = time.perf_counter() - began
    print(f"{count} candidates, {workers} workers: {count / seconds:.1f} a second, {failed} failed")


def memory(count: int) -> None:
    """Print the resident memory while candidates are scored one after the other."""
    marks = {max(1, count * share // 100) for share in (10, 25, 50, 75, 100)}
    for number, task in enumerate(tasks(count), 1):
        score_candidate(task)
        if number in marks:
            print(f"after {number} candidates: {resident():.0f} MB", flush=True)


def resident() -> float:
    """Return the megabytes that this process holds now (Linux)."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * 4096 / 1e6


def cost() -> None:
    """Print the table of costs."""
    torch.set_num_threads(1)
    print(f"{'':24} {'pass ms':>8} {'all / pass':>10} {'one by one / pass':>18} {'ablation / plain':>17}")
    for mode in ARCH_MODES:
        for hidden in (32, 64):
            model, x, y = example(mode, hidden)
            times = race(
                {
                    "pass": lambda m=model, x=x, y=y: one_pass(m, x, y),
                    "all": lambda m=model, x=x, y=y: evaluate_proxies(m, x, y),
                    "single": lambda m=model, x=x, y=y: one_by_one(m, x, y),
                    **studies(model, x, y),
                },
                ROUNDS,
            )
            one = times["pass"]
            print(
                f"{mode + f', D {hidden}':24} {1e3 * one:>8.1f} {times['all'] / one:>10.1f} "
                f"{times['single'] / one:>18.1f} {times['ablation'] / times['plain']:>17.2f}",
                flush=True,
            )


def example(mode: str, hidden: int) -> tuple[TimeSeriesDARTS, torch.Tensor, torch.Tensor]:
    """Return a network of five ops, and a batch."""
    torch.manual_seed(0)
    ops = ["Identity", "TimeConv", "TCN", "DLinear", "Fourier"]
    model = TimeSeriesDARTS(7, hidden, latent_dim=hidden, forecast_horizon=24, seq_length=96, num_cells=2, num_nodes=4,
                            selected_ops=ops, arch_mode=mode)  # fmt: skip
    return model, torch.randn(32, 96, 7), torch.randn(32, 24, 7)


def one_pass(model: TimeSeriesDARTS, x: torch.Tensor, y: torch.Tensor) -> None:
    """Run forward and backward over all parameters."""
    loss = torch.nn.functional.mse_loss(model(x), y)
    torch.autograd.grad(loss, list(model.parameters()), allow_unused=True)


def one_by_one(model: TimeSeriesDARTS, x: torch.Tensor, y: torch.Tensor) -> None:
    """Compute the default metrics without sharing any pass."""
    for name in resolve_proxies(None):
        evaluate_proxies(model, x, y, names=[name])


def studies(model: TimeSeriesDARTS, x: torch.Tensor, y: torch.Tensor) -> dict[str, Callable[[], object]]:
    """Return an evaluation alone and with the ablation of its weights."""
    trainer = DARTSTrainer(7, [32], 24, 96, "cpu")
    loader = [(x, y)]
    return {
        "plain": lambda: trainer.evaluate_zero_cost_metrics(model, loader),
        "ablation": lambda: trainer.evaluate_zero_cost_metrics(model, loader, ablation=True),
    }


def main(argv: list[str]) -> None:
    """Run the parts that were asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--candidates", type=int, default=60)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--part", choices=("rate", "memory", "cost"), nargs="+", default=("rate", "memory", "cost"))
    a = parser.parse_args(argv)
    if "rate" in a.part:
        rate(a.candidates, a.workers)
    if "memory" in a.part:
        memory(a.candidates)
    if "cost" in a.part:
        cost()


if __name__ == "__main__":
    main(sys.argv[1:])
