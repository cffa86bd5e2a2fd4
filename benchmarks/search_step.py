"""What one step of a search costs, and what would make it cheaper.

    python benchmarks/search_step.py [--rounds 30] [--default-malloc] [--trials]

A candidate of 2 cells with 4 nodes and the ops Identity, TimeConv, TCN, DLinear, Fourier; batch 32, lookback 96, 7
channels, width 32. A step is forward, backward, clipping and optimizer. All figures are the least CPU time of one
thread, in ms, over interleaved rounds; memory is kept as in a worker process (``_core.memory``), unless
``--default-malloc`` is given. ``stated`` are the times of the package that this one replaces, on the same shapes.

``--trials`` times ways to save work that are not, or not always, in use: a ratio above 1 means that the way wins.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial

import racing
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from foreblocks.darts import kernels
from foreblocks.darts._core.memory import keep_freed_memory
from foreblocks.darts._core.types import Batch
from foreblocks.darts.architecture.build import build_network
from foreblocks.darts.architecture.compiled import compiled_edges, edge_function, edge_tensors
from foreblocks.darts.architecture.derive import derive_spec
from foreblocks.darts.architecture.mixed_op import EdgeMix
from foreblocks.darts.architecture.network import TimeSeriesDARTS
from foreblocks.darts.config import DARTSTrainConfig
from foreblocks.darts.evaluation.losses import get_loss_function
from foreblocks.darts.ops.conv import TimeConv
from foreblocks.darts.ops.decomposition import DLinear
from foreblocks.darts.ops.mlp import ResidualMLP
from foreblocks.darts.training.bilevel import WEIGHT_CLIP, BilevelStepper, SearchPlan, new_state
from foreblocks.darts.training.loop import LoopLimits

OPS = ("Identity", "TimeConv", "TCN", "DLinear", "Fourier")
BATCH, LOOKBACK, HORIZON, CHANNELS, WIDTH = 32, 96, 24, 7, 32
STATED = {"encoder_only": 450, "decoder_only": 1300, "encoder_decoder": 1600, "mamba": None}  # ms
GROUP_LENGTHS = (12, 42, 96)
Call = Callable[[], object]


def least_ms(calls: dict[str, Call], rounds: int) -> dict[str, float]:
    """Return the least ms of each."""
    return {name: 1e3 * seconds for name, seconds in racing.race(calls, rounds).items()}


def batch() -> Batch:
    made = torch.Generator().manual_seed(1)
    x = torch.randn(BATCH, LOOKBACK, CHANNELS, generator=made)
    return Batch(x, torch.randn(BATCH, HORIZON, CHANNELS, generator=made))


def network(mode: str, relaxation: str = "softmax") -> TimeSeriesDARTS:
    torch.manual_seed(0)
    return TimeSeriesDARTS(
        CHANNELS, WIDTH, WIDTH, HORIZON, LOOKBACK, selected_ops=list(OPS), arch_mode=mode, relaxation=relaxation
    ).train()


def stepper(mode: str, relaxation: str = "softmax") -> BilevelStepper:
    config = DARTSTrainConfig()
    state, loss = new_state(network(mode, relaxation), config), get_loss_function(config.loss_type)
    return BilevelStepper(state, config, SearchPlan(10, 100), LoopLimits(batch_size=BATCH), loss)


def searched(mode: str, relaxation: str) -> tuple[Call, Call]:
    """Return a weight step and an alpha step."""
    made = stepper(mode, relaxation)
    return partial(made.weight_step, batch()), partial(made.alpha_step, batch())


def fixed(mode: str) -> Call:
    """Return a step of a network that a search derives."""
    model = build_network(derive_spec(network(mode)), seed=0).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, fused=True)
    loss, data = get_loss_function(DARTSTrainConfig().loss_type), batch()

    def step() -> None:
        loss(model(*data.inputs), data.y).backward()
        nn.utils.clip_grad_norm_(model.parameters(), WEIGHT_CLIP)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return step


def both(function: Callable[..., Tensor], x: Tensor, parameters: Sequence[Tensor] = ()) -> Call:
    """Return a forward and backward pass to ``x`` and the parameters."""
    inputs = [x, *parameters]
    with torch.no_grad():
        cotangent = torch.randn_like(function(x))
    return lambda: torch.autograd.grad(function(x), inputs, cotangent)


def tokens(length: int = LOOKBACK) -> Tensor:
    return torch.randn(BATCH, length, WIDTH).requires_grad_()


def steps_table(rounds: int) -> list[str]:
    """Return ms of each kind of step in each mode, and the ratios to what is stated."""
    head = f"{'':16} {'dense':>6} {'alphas':>6} {'GDAS':>6} {'fixed':>6}"
    rows = [f"{head} {'GDAS/fixed':>11} {'stated/dense':>13} {'/GDAS':>6}"]
    for mode, stated in STATED.items():
        weights, alphas = searched(mode, "softmax")
        sampled, _ = searched(mode, "gdas")
        ms = least_ms({"dense": weights, "alphas": alphas, "GDAS": sampled, "fixed": fixed(mode)}, rounds)
        gain = [f"{stated / ms[kind]:.1f}" if stated else "-" for kind in ("dense", "GDAS")]
        times = " ".join(f"{value:6.1f}" for value in ms.values())
        rows.append(f"{mode:16} {times} {ms['GDAS'] / ms['fixed']:11.2f} {gain[0]:>13} {gain[1]:>6}")
    return rows


def parts_table(rounds: int) -> list[str]:
    """Return what a dense step consists of: the ops alone, the cells, everything outside them, the optimizer."""
    model = network("encoder_only")
    for alpha in model.arch_parameters():
        alpha.requires_grad_(False)
    x, data = tokens(), batch()
    calls: dict[str, Call] = {}
    for number, edge in enumerate(model.edges):
        for name, op in edge.ops.items():
            if name != "Identity":  # costs nothing by itself
                calls[f"{name} {number}"] = both(op, x, list(op.parameters()))
    op_names = list(calls)
    for number, cell in enumerate(model.cells):
        calls[f"cell {number}"] = both(cell, x, [p for p in cell.parameters() if p.requires_grad])
    weights = list(model.weight_parameters())
    outside = list(model.skeleton.parameters())
    calls["outside"] = both(lambda _: model.skeleton(data.x, []), outside[0], outside[1:])
    calls["network"] = both(lambda _: model(data.x), weights[0], weights[1:])
    calls["step"], _ = searched("encoder_only", "softmax")
    ms = least_ms(calls, rounds)
    ops = sum(ms[name] for name in op_names)
    cells = sum(ms[f"cell {number}"] for number in range(len(model.cells)))
    each = {name: sum(ms[key] for key in op_names if key.startswith(f"{name} ")) for name in OPS[1:]}
    return [
        "ops alone: " + ", ".join(f"{name} {value:.1f}" for name, value in each.items()) + f"; sum {ops:.1f}",
        f"cells {cells:.1f} = {cells / ops:.2f} x their ops; outside the cells {ms['outside']:.1f}",
        f"forward and backward {ms['network']:.1f} = {ms['network'] / (ops + ms['outside']):.2f} x (ops + outside)",
        f"whole step {ms['step']:.1f} = {ms['step'] / (ops + ms['outside']):.2f} x (ops + outside)",
    ]


# Trials ------------------------------------------------------------------------------------------------------------


def group_norm(x: Tensor, y: Tensor, ops: Sequence[nn.Module], mask: Tensor | None, activation: str = "none") -> Tensor:
    """Return the last lines of k equal ops: ``y [k, N, T, D]``, residual ``x [N, T, D]``, and the sum over the ops."""
    y = {"none": lambda z: z, "gelu": F.gelu}[activation](y)
    y = y if mask is None else y * mask
    scale = torch.stack([op.norm.weight for op in ops])[:, None, None]
    return (F.rms_norm(x + y, x.shape[-1:], eps=1e-6) * scale).sum(dim=0)


def stacked(ops: Sequence[nn.Module], name: str) -> tuple[Tensor, Tensor]:
    """Return ``weightᵀ [k, I, O]`` and ``bias [k, 1, O]`` of a Linear of each op."""
    layers = [op.get_submodule(name) for op in ops]
    weight = torch.stack([layer.weight for layer in layers]).transpose(1, 2)
    return weight, torch.stack([layer.bias for layer in layers]).unsqueeze(1)


def grouped_mlp(x: Tensor, ops: Sequence[nn.Module], mask: Tensor | None) -> Tensor:
    flat = x.flatten(0, 1).expand(len(ops), -1, -1)
    (w1, b1), (w2, b2) = stacked(ops, "expand"), stacked(ops, "reduce")
    y = torch.baddbmm(b2, F.gelu(torch.baddbmm(b1, flat, w1)), w2)
    return group_norm(x, y.view(len(ops), *x.shape), ops, mask)


def grouped_time_conv(x: Tensor, ops: Sequence[nn.Module], mask: Tensor | None) -> Tensor:
    taps = torch.cat([op.depthwise.weight.squeeze(1) for op in ops])
    bias = torch.cat([op.depthwise.bias for op in ops])
    wide = kernels.depthwise_conv1d(x.repeat(1, 1, len(ops)), taps, bias, causal=True)
    flat = wide.view(-1, len(ops), x.shape[-1]).transpose(0, 1)
    weight, shift = stacked(ops, "pointwise")
    return group_norm(x, torch.baddbmm(shift, flat, weight).view(len(ops), *x.shape), ops, mask, "gelu")


def grouped_dlinear(x: Tensor, ops: Sequence[nn.Module], mask: Tensor | None) -> Tensor:
    eye = torch.eye(x.shape[1]).unsqueeze(0)
    remainder, trend = ops[0].split(eye)
    by_remainder, by_trend = torch.cat([op.remainder for op in ops]), torch.cat([op.trend for op in ops])
    weight = torch.addmm(by_remainder @ remainder[0], by_trend, trend[0])
    y = kernels.time_linear(x, weight, torch.cat([op.bias for op in ops]))
    return group_norm(x, y.view(x.shape[0], len(ops), *x.shape[1:]).transpose(0, 1), ops, mask)


GROUPED = {TimeConv: grouped_time_conv, ResidualMLP: grouped_mlp, DLinear: grouped_dlinear}


def grouping(rounds: int) -> list[str]:
    """Return separate over grouped for k equal ops that read one tensor."""
    rows = ["equal ops on k edges in one call (separate / grouped):"]
    for length in GROUP_LENGTHS:
        cells = []
        for cls, together in GROUPED.items():
            for count in (3, 6):
                ops = [cls(WIDTH, length, dropout=0.0) for _ in range(count)]
                x, parameters = tokens(length), [p for op in ops for p in op.parameters()]
                apart = lambda z, ops=ops: sum(op(z) for op in ops)  # noqa: E731
                joined = lambda z, ops=ops, together=together: together(z, ops, None)  # noqa: E731
                torch.testing.assert_close(joined(x), apart(x), rtol=1e-4, atol=1e-4)
                ms = least_ms({"apart": both(apart, x, parameters), "joined": both(joined, x, parameters)}, 4 * rounds)
                cells.append(f"{cls.__name__} k={count} {ms['apart'] / ms['joined']:.2f}")
        rows.append(f"  T={length}: " + ", ".join(cells))
    return rows


def sharing(rounds: int) -> list[str]:
    """Return separate over shared for what three edges that leave one node do first."""
    model = network("encoder_only")
    fouriers = [edge.ops["Fourier"] for edge in model.edges[:3]]
    x = tokens()
    forth = fouriers[0].forth
    convs = [torch.randn(WIDTH, WIDTH, 3).requires_grad_() for _ in range(3)]
    factors = torch.randn(3, 1)
    spectra = {
        "apart": both(lambda z: sum(f * kernels.time_linear(z, forth) for f in factors), x),
        "joined": both(
            lambda z: sum(f * s for f, s in zip(factors, [kernels.time_linear(z, forth)] * 3, strict=True)), x
        ),
    }
    products = {
        "apart": both(lambda z: sum(kernels.conv1d(z, w, padding="causal") for w in convs), x, convs),
        "joined": both(
            lambda z: sum(part for part in kernels.conv1d(z, torch.cat(convs), padding="causal").split(WIDTH, dim=2)),
            x,
            convs,
        ),
    }
    rows = ["first work of three edges from one node (separate / shared; ms saved):"]
    for name, calls in (("spectrum of Fourier", spectra), ("first convolution of TCN", products)):
        ms = least_ms(calls, 4 * rounds)
        rows.append(f"  {name}: {ms['apart'] / ms['joined']:.2f}; {ms['apart'] - ms['joined']:+.2f}")
    return rows


def compiling(rounds: int) -> list[str]:
    """Return eager over compiled for an edge by itself, and for both steps of a search with ``compile="edge"``."""
    (eager_weights, eager_alphas), made = searched("encoder_only", "softmax"), stepper("encoder_only")
    edge, x = network("encoder_only").edges[0], tokens()
    weights, parameters = torch.softmax(torch.randn(len(OPS)), dim=0), list(edge.ops.parameters())
    mix = EdgeMix(weights, list(range(len(OPS))))
    function = edge_function(edge.names, edge.dim, edge.length, edge.dropout)
    began = time.perf_counter()
    with compiled_edges(made.state.model.edges, partial(made.rehearse, batch(), batch())):
        seconds = time.perf_counter() - began
        calls = {
            "edge": both(lambda z: edge(z, mix), x, parameters),
            "compiled edge": both(lambda z: function(z, weights, *edge_tensors(edge.ops)), x, parameters),
            "weight step": eager_weights,
            "compiled weight step": partial(made.weight_step, batch()),
            "alpha step": eager_alphas,
            "compiled alpha step": partial(made.alpha_step, batch()),
        }
        ms = least_ms(calls, rounds)
    rows = [f"compile='edge' (eager / compiled), after {seconds:.0f} s of compiling:"]
    for name in ("edge", "weight step", "alpha step"):
        eager, compiled = ms[name], ms[f"compiled {name}"]
        rows.append(f"  {name}: {eager:.1f} / {compiled:.1f} = {eager / compiled:.2f}")
    return rows


def usual(calls: Sequence[Call], rounds: int) -> float:
    """Return the median ms of one call of each in turn: a lucky heap has no page faults, the usual one has."""
    times = []
    for _ in range(rounds + 2):
        start = time.thread_time()
        for call in calls:
            call()
        times.append(1e3 * (time.thread_time() - start))
    return statistics.median(times[2:])


def allocating(rounds: int) -> list[str]:
    """Return default over kept memory for a weight and an alpha step, each in a process of its own, taking turns."""
    rows = ["memory kept between steps, weight and alpha step in turn, medians (default malloc / kept):"]
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("MALLOC_", "GLIBC_"))}
    for relaxation in ("softmax", "gdas"):
        found: dict[str, list[float]] = {"--default-malloc": [], "--kept": []}
        for _ in range(5):
            for how, medians in found.items():
                command = [sys.executable, __file__, "--step", relaxation, "--rounds", str(rounds)]
                command += [how] if how == "--default-malloc" else []
                done = subprocess.run(command, env=clean, capture_output=True, text=True, check=True)
                medians.append(float(done.stdout))
        default, kept = map(statistics.median, found.values())
        rows.append(f"  {relaxation}: {default:.1f} / {kept:.1f} = {default / kept:.2f}")
    return rows


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--default-malloc", action="store_true", help="leave glibc's allocator as it is")
    parser.add_argument("--trials", action="store_true", help="also time what is not in use")
    parser.add_argument("--step", help=argparse.SUPPRESS)  # softmax or gdas: print the ms of its steps only
    a = parser.parse_args()
    torch.set_num_threads(1)
    if not a.default_malloc:
        keep_freed_memory()
    if a.step:
        print(usual(searched("encoder_only", a.step), a.rounds))
        return
    tables: list[Callable[[int], list[str]]] = [steps_table, parts_table]
    if a.trials:
        tables += [grouping, sharing, allocating, compiling]
    for table in tables:
        print("\n".join(table(a.rounds)), flush=True)


if __name__ == "__main__":
    main()
