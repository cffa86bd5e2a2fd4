"""``mixed_sum`` in Triton: one pass over a tuple of tensors, no stack.

Sums are taken in float32 (float64 for float64). Partial sums have a place of their own for each block and are added in
order, so results repeat bit by bit.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from ._triton import Config, blocks, device_of

# By the largest number of elements for which each is meant: small tensors need many small blocks to fill a device.
CONFIGS: tuple[tuple[int | None, Config], ...] = (
    (1 << 18, Config(block=256, warps=2)),
    (1 << 22, Config(block=1024, warps=4)),
    (None, Config(block=2048, warps=4)),
)


def choose(total: int) -> Config:
    """Return the configuration for tensors of ``total`` elements."""
    return next(config for limit, config in CONFIGS if limit is None or total <= limit)


@triton.jit
def _total(weights, COUNT: tl.constexpr, WIDE: tl.constexpr):
    total = tl.load(weights).to(WIDE)
    for k in tl.static_range(1, COUNT):
        total += tl.load(weights + k).to(WIDE)
    return total


@triton.jit
def mix(
    xs, weights, out, squares, total,
    COUNT: tl.constexpr, NORMALIZE: tl.constexpr, SQUARES: tl.constexpr, WIDE: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Write ``Σ_k weights[k] · xs[k]`` and, for each block, the sum of squares of every ``xs[k]``."""
    block = tl.program_id(0)
    at = block.to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = at < total
    scale = 1.0
    if NORMALIZE:
        scale = 1.0 / _total(weights, COUNT, WIDE)
    result = tl.zeros((BLOCK,), WIDE)
    for k in tl.static_range(COUNT):
        x = tl.load(xs[k] + at, mask=inside, other=0.0).to(WIDE)
        result += x * (tl.load(weights + k).to(WIDE) * scale)
        if SQUARES:
            tl.store(squares + k * tl.num_programs(0) + block, tl.sum(x * x, axis=0))
    tl.store(out + at, result.to(out.dtype.element_ty), mask=inside)


@triton.jit
def mix_backward(
    grad, xs, weights, grads, dots, total,
    COUNT: tl.constexpr, GIVEN: tl.constexpr, NORMALIZE: tl.constexpr, WIDE: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Write ``weights[k] · grad`` where ``grads[k]`` is given and, for each block, ``Σ grad · xs[k]``."""
    block = tl.program_id(0)
    at = block.to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = at < total
    g = tl.load(grad + at, mask=inside, other=0.0).to(WIDE)
    scale = 1.0
    if NORMALIZE:
        scale = 1.0 / _total(weights, COUNT, WIDE)
    for k in tl.static_range(COUNT):
        if grads[k] is not None:
            value = g * (tl.load(weights + k).to(WIDE) * scale)
            tl.store(grads[k] + at, value.to(grads[k].dtype.element_ty), mask=inside)
        if GIVEN:
            x = tl.load(xs[k] + at, mask=inside, other=0.0).to(WIDE)
            tl.store(dots + k * tl.num_programs(0) + block, tl.sum(x * g, axis=0))


def forward(xs: list[Tensor], weights: Tensor, normalize: bool, mean_squares: bool) -> tuple[Tensor, Tensor]:
    """Run the operator ``triton_mixed_sum``."""
    xs, weights = [x.contiguous() for x in xs], weights.contiguous()
    total = xs[0].numel()
    config, wide = choose(total), _wide(weights)
    count, grid = len(xs), blocks(total, config.block)
    out = torch.empty_like(xs[0])
    partial = weights.new_empty((count, grid) if mean_squares else 0, dtype=wide)
    if grid:
        with device_of(weights):
            mix[(grid,)](
                tuple(xs), weights, out, partial, total,
                COUNT=count, NORMALIZE=normalize, SQUARES=mean_squares, WIDE=_WIDE[wide], BLOCK=config.block,
                **config.options,
            )  # fmt: skip
    if not mean_squares:
        return out, weights.new_empty(0)
    return out, (partial.sum(dim=1) / total).to(weights.dtype)


def backward(
    grad: Tensor, xs: list[Tensor], weights: Tensor, normalize: bool, wanted: list[int]
) -> tuple[list[Tensor], Tensor]:
    """Run the operator ``triton_mixed_sum_backward``; ``xs`` is empty if the weights need no gradient."""
    grad, xs, weights = grad.contiguous(), [x.contiguous() for x in xs], weights.contiguous()
    count, total = weights.shape[0], grad.numel()
    config, wide = choose(total), _wide(weights)
    grid = blocks(total, config.block)
    grads = {k: torch.empty_like(grad) for k in wanted}
    partial = weights.new_empty((count, grid) if xs else 0, dtype=wide)
    if grid and (xs or wanted):
        with device_of(weights):
            mix_backward[(grid,)](
                grad, tuple(xs) or (None,) * count, weights, tuple(grads.get(k) for k in range(count)), partial, total,
                COUNT=count, GIVEN=bool(xs), NORMALIZE=normalize, WIDE=_WIDE[wide], BLOCK=config.block,
                **config.options,
            )  # fmt: skip
    if not xs:
        return list(grads.values()), weights.new_empty(0)
    dots = partial.sum(dim=1)
    if normalize:
        # Of w / Σ w: what every weight loses because the sum grows.
        share = weights.to(wide) / weights.to(wide).sum()
        dots = (dots - (share * dots).sum()) / weights.to(wide).sum()
    return list(grads.values()), dots.to(weights.dtype)


_WIDE = {torch.float32: tl.float32, torch.float64: tl.float64}


def _wide(x: Tensor) -> torch.dtype:
    return torch.float64 if x.dtype == torch.float64 else torch.float32


KERNELS = (mix, mix_backward)
