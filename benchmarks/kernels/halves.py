"""bfloat16 and float16 on a CPU: our compiled forms against plain PyTorch in the same dtype, by the time of one thread.

``python benchmarks/kernels/halves.py`` prints the ratios plain / ours, forward and forward + backward.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parent))

from bench_kernels import least, passes
from contests import Function, forced

from foreblocks.darts import kernels


def contenders(dtype: torch.dtype) -> Iterator[tuple[str, Function, list[Tensor]]]:
    """Yield name, operation and leaves."""

    def leaf(*shape: int) -> Tensor:
        return torch.randn(*shape).to(dtype).requires_grad_()

    x, taps, row = leaf(32, 96, 32), leaf(32, 3), leaf(32)
    yield "mixed_sum, K = 8", lambda w, *xs: kernels.mixed_sum(xs, w), [leaf(8), *[leaf(32, 96, 64) for _ in range(8)]]
    yield "norm_act, GELU", lambda x, w: kernels.norm_act(x, w, after="gelu"), [x, row]
    yield "depthwise_conv1d, 3 taps", lambda x, w: kernels.depthwise_conv1d(x, w, causal=True), [x, taps]
    yield "depthwise_norm_act", lambda x, w, s: kernels.depthwise_norm_act(x, w, s, after="gelu"), [x, taps, row]
    yield "moving_average of 25", lambda x: kernels.moving_average(x, 25), [x]
    delta = (0.1 * torch.rand(32, 96, 128)).to(dtype).requires_grad_()
    rates = (-1 - 15 * torch.rand(128, 16)).requires_grad_()
    series = [leaf(32, 96, 128), delta, rates, leaf(32, 96, 16), leaf(32, 96, 16)]
    yield "selective_scan (32, 96, 128, 16)", kernels.selective_scan_steps, series


def main() -> None:
    """Print the table in Markdown."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    print("| dtype | operation | forward µs | ratio | forward + backward µs | ratio |\n|---|---|---|---|---|---|")
    for dtype in (torch.bfloat16, torch.float16):
        for name, function, inputs in contenders(dtype):
            runs = passes(function, inputs)
            ours = [least({"": run})[""] for run in runs]
            with forced("reference"):
                plain = [least({"": run})[""] for run in runs]
            cells = " | ".join(f"{1e6 * a:.0f} | {b / a:.1f}" for a, b in zip(ours, plain, strict=True))
            print(f"| {str(dtype).removeprefix('torch.')} | {name} | {cells} |", flush=True)


if __name__ == "__main__":
    main()
