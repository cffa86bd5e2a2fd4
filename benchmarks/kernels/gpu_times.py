"""Time every GPU form of every operation as a fraction of the bandwidth of this device; see scripts/gpu_check.sh.

The bandwidth is that of a copy of 256 MiB in the same run. A fraction counts the bytes that a perfect kernel moves.
"""

from __future__ import annotations

import datetime
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from foreblocks.darts.kernels import dispatch

ROUNDS = 50
Function = Callable[..., object]


@dataclass(frozen=True)
class Trial:
    """One operation at one size: its raw arguments, and the bytes that a forward pass has to move."""

    operation: str
    size: str
    arguments: tuple[object, ...]
    bytes_moved: int

    def leaves(self) -> list[Tensor]:
        parts = [part for each in self.arguments for part in (each if isinstance(each, list) else [each])]
        return [x for x in parts if isinstance(x, Tensor) and x.requires_grad]


def leaf(*shape: int) -> Tensor:
    return torch.randn(*shape, device="cuda").requires_grad_()


def trials() -> Iterator[Trial]:
    for batch, steps, dim, states in ((32, 96, 128, 16), (8, 1024, 128, 16), (64, 1024, 512, 16)):
        inner, side = (batch, steps, dim), (batch, steps, 1, states)
        decay = -torch.rand(dim, states, device="cuda")
        tensors = (
            leaf(*inner),
            leaf(*inner),
            decay.requires_grad_(),
            leaf(*side),
            leaf(*side),
            leaf(dim),
            leaf(*inner),
        )
        moved = 4 * (4 * batch * steps * dim + 2 * batch * steps * states)
        yield Trial("selective_scan", f"{batch}, {steps}, {dim}, {states}", (*tensors, leaf(dim), True), moved)
    for count, shape in ((8, (32, 96, 64)), (8, (256, 336, 128))):
        xs = [leaf(*shape) for _ in range(count)]
        moved = 4 * (count + 1) * xs[0].numel()
        yield Trial("mixed_sum", f"K = {count}, {shape}", (xs, leaf(count), False, False), moved)
    for shape in ((32, 96, 32), (256, 336, 128)):
        x = leaf(*shape)
        arguments = (x, leaf(shape[-1]), None, leaf(*shape), None, None, False, 1e-6, 2, 0)
        yield Trial("norm_act", f"{shape}", arguments, 12 * x.numel())
        yield Trial("depthwise_conv1d", f"{shape}, 4 taps", (x, leaf(shape[-1], 4), None, 1, 3, 3), 8 * x.numel())
    params = [torch.randn(64, 1 + 37 * k, device="cuda") for k in range(120)]
    yield Trial("saliency", "120 weights", (params, params), 8 * sum(w.numel() for w in params))


def seconds(function: Callable[[], object]) -> float:
    """Return the median time of a call on the device, its launches included."""
    for _ in range(5):
        function()
    times = []
    for _ in range(ROUNDS):
        start, stop = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        function()
        stop.record()
        stop.synchronize()
        times.append(start.elapsed_time(stop) / 1e3)
    return sorted(times)[ROUNDS // 2]


def bandwidth() -> float:
    """Return bytes a second of a copy, read and written."""
    x = torch.empty(1 << 26, device="cuda")
    y = torch.empty_like(x)
    return 2 * 4 * x.numel() / seconds(lambda: y.copy_(x))


def forms(trial: Trial) -> Iterator[tuple[str, Function, str | None]]:
    """Yield name, function and the reason against each form; the reference also under ``torch.compile``."""
    operation = dispatch.OPERATIONS[trial.operation]
    reasons = operation.reasons(torch.empty(0, device="cuda"))
    for each in operation.implementations:
        yield each.name, each.run, reasons[each.name]
    yield "compiled", torch.compile(operation.reference.run), compile_reason(trial)


def compile_reason(trial: Trial) -> str | None:
    """Return why the reference is not compiled: its loop over more than 96 steps would unroll for minutes."""
    long = trial.operation == "selective_scan" and trial.arguments[0].shape[1] > 96
    return "its steps would unroll" if long else None


def first(result: object) -> Tensor:
    return result if isinstance(result, Tensor) else result[0]


def row(trial: Trial, name: str, function: Function, rate: float) -> str:
    def forward() -> object:
        with torch.no_grad():
            return function(*trial.arguments)

    forward_time = seconds(forward)
    share = f"{100 * trial.bytes_moved / rate / forward_time:6.1f} %"
    leaves, both = trial.leaves(), "-"
    if leaves:
        cotangent = torch.ones_like(first(forward()))
        both = f"{1e6 * seconds(lambda: torch.autograd.grad(first(function(*trial.arguments)), leaves, cotangent)):.0f}"
    return f"| {trial.operation} | {trial.size} | {name} | {1e6 * forward_time:.0f} | {share} | {both} |"


def main() -> None:
    """Print the table, in Markdown, for docs/kernels.md."""
    rate = bandwidth()
    device = torch.cuda.get_device_name()
    today = datetime.datetime.now(tz=datetime.UTC).date()
    print(f"{today}, {device}, torch {torch.__version__}, copy {rate / 1e9:.0f} GB/s\n")
    print("| operation | size | form | forward µs | of bandwidth | forward + backward µs |\n|---|---|---|---|---|---|")
    for trial in trials():
        for name, function, reason in forms(trial):
            if reason is None:
                print(row(trial, name, function, rate), flush=True)
            else:
                print(f"| {trial.operation} | {trial.size} | {name} | - | {reason} | - |")


if __name__ == "__main__":
    main()
