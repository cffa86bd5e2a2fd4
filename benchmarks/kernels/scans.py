"""The selective scan against other ways to run it on a CPU, in one process: time of one thread, and memory kept.

``python benchmarks/kernels/scans.py`` checks that all agree, values and gradients, and prints the table of
``docs/kernels.md``. mambapy's parallel scan takes part if it is installed (``pip install --no-deps mambapy``).
Compiling takes some minutes; ``--no-compile`` leaves those rows out.
"""

from __future__ import annotations

import argparse
import importlib.util
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parent))

from bench_kernels import least, passes

from foreblocks.darts import kernels
from foreblocks.darts.kernels import scan

SHAPES = ((32, 96, 128, 16), (8, 1024, 128, 16))  # batch, steps, channels, states
UNROLLED = 96  # steps that the compiler takes in at once; it needs a minute for them
CHUNK = 32
Form = Callable[..., Tensor]


def example(shape: tuple[int, int, int, int]) -> list[Tensor]:
    """Return u, delta, A, B and C, as leaves."""
    batch, steps, dim, states = shape
    torch.manual_seed(0)
    sides = [torch.randn(batch, steps, states) for _ in range(2)]
    rates = -1 - 15 * torch.rand(dim, states)
    tensors = [torch.randn(batch, steps, dim), 0.1 * torch.rand(batch, steps, dim), rates, *sides]
    return [x.requires_grad_() for x in tensors]


def ours(*tensors: Tensor) -> Tensor:
    return kernels.selective_scan_steps(*tensors)


def unbind(u: Tensor, delta: Tensor, rates: Tensor, b: Tensor, c: Tensor) -> Tensor:
    return scan.reference(u, delta, rates, b.unsqueeze(2), c.unsqueeze(2), None, None, None, False)[0]


def mambapy(u: Tensor, delta: Tensor, rates: Tensor, b: Tensor, c: Tensor) -> Tensor:
    from mambapy.pscan import pscan

    decay = torch.exp(delta.unsqueeze(-1) * rates)
    states = pscan(decay, (delta * u).unsqueeze(-1) * b.unsqueeze(2))
    return (states @ c.unsqueeze(-1)).squeeze(-1)


def _chunk(h: Tensor, u: Tensor, delta: Tensor, rates: Tensor, b: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
    decay = torch.exp(delta.unsqueeze(-1) * rates)
    drive = (delta * u).unsqueeze(-1) * b.unsqueeze(2)
    states = []
    for decay_t, drive_t in zip(decay.unbind(1), drive.unbind(1), strict=True):
        h = torch.addcmul(drive_t, decay_t, h)
        states.append(h)
    return torch.stack(states, dim=1).matmul(c.unsqueeze(-1)).squeeze(-1), h


def in_chunks(chunk: Callable[..., tuple[Tensor, Tensor]]) -> Form:
    """Run the scan by calls of ``chunk``, each for some steps; no length unrolls further."""

    def run(u: Tensor, delta: Tensor, rates: Tensor, b: Tensor, c: Tensor) -> Tensor:
        h = u.new_zeros(u.shape[0], u.shape[2], rates.shape[1])
        parts = []
        for piece in zip(*(x.split(CHUNK, dim=1) for x in (u, delta, b, c)), strict=True):
            y, h = chunk(h, *piece[:2], rates, *piece[2:])
            parts.append(y)
        return torch.cat(parts, dim=1)

    return run


def forms(steps: int, *, compiling: bool) -> Iterator[tuple[str, Form | str]]:
    """Yield each form, or the reason why it does not take part."""
    yield "ours", ours
    yield "unbind, plain PyTorch", unbind
    there = importlib.util.find_spec("mambapy") is not None
    yield "mambapy, parallel scan", mambapy if there else "not installed: pip install --no-deps mambapy"
    if not compiling:
        yield "torch.compile", "left out by --no-compile"
        return
    too_long = f"not tried: {steps} steps would unroll"
    yield "torch.compile of the unbind loop", torch.compile(unbind) if steps <= UNROLLED else too_long
    yield f"torch.compile, {CHUNK} steps a call", in_chunks(torch.compile(_chunk))


def kept(form: Form, inputs: list[Tensor]) -> int:
    """Return the bytes that a forward pass keeps for its backward pass, inputs included, each storage once."""
    storages: dict[int, int] = {}

    def note(x: Tensor) -> Tensor:
        storages[x.untyped_storage().data_ptr()] = x.untyped_storage().nbytes()
        return x

    with torch.autograd.graph.saved_tensors_hooks(note, lambda x: x):
        result = form(*inputs)
    del result
    return sum(storages.values())


def check(name: str, form: Form, inputs: list[Tensor], expected: list[Tensor]) -> None:
    """Raise unless values and gradients are those of our form."""
    for got, want in zip(outcome(form, inputs), expected, strict=True):
        scale = float(want.abs().max())
        torch.testing.assert_close(got, want, rtol=1e-3, atol=1e-4 * scale, msg=lambda text: f"{name}: {text}")


def outcome(form: Form, inputs: list[Tensor]) -> list[Tensor]:
    out = form(*inputs)
    cotangent = torch.randn(out.shape, generator=torch.Generator().manual_seed(1))
    return [out.detach(), *torch.autograd.grad(out, inputs, cotangent)]


def rows(shape: tuple[int, int, int, int], *, compiling: bool) -> Iterator[str]:
    """Yield the lines of one shape."""
    inputs = example(shape)
    expected = outcome(ours, inputs)
    taking_part, absent = {}, {}
    for name, form in forms(shape[1], compiling=compiling):
        if isinstance(form, str):
            absent[name] = form
        else:
            check(name, form, inputs, expected)
            taking_part[name] = form
    memory = {name: kept(form, inputs) for name, form in taking_part.items() if "compile" not in name}
    made = {name: passes(form, inputs) for name, form in taking_part.items()}
    forward = least({name: pair[0] for name, pair in made.items()})
    both = least({name: pair[1] for name, pair in made.items()})
    for name in taking_part:
        times = [f"{1e3 * found[name]:.1f} | {found[name] / found['ours']:.1f}" for found in (forward, both)]
        room = f"{memory[name] / 1e6:.1f} | {memory[name] / memory['ours']:.1f}" if name in memory else "- | -"
        yield f"| {shape} | {name} | {times[0]} | {times[1]} | {room} |"
    for name, reason in absent.items():
        yield f"| {shape} | {name} | {reason} | | | | | |"


def main() -> None:
    """Print the table in Markdown."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--no-compile", action="store_true", help="leave out the rows of torch.compile")
    compiling = not parser.parse_args().no_compile
    torch.set_num_threads(1)
    print("| shape | form | forward ms | ratio | forward + backward ms | ratio | kept MB | ratio |")
    print("|---|---|---|---|---|---|---|---|")
    for shape in SHAPES:
        for line in rows(shape, compiling=compiling):
            print(line, flush=True)


if __name__ == "__main__":
    main()
