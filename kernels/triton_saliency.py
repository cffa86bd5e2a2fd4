"""``saliency`` in Triton: sixteen weights in one launch, each summed by the same number of programs.

Partial sums have a place of their own and are added in float64, in order.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from ._triton import Config, blocks, device_of

# By the number of elements of the largest weight of a launch.
CONFIGS: tuple[tuple[int | None, Config], ...] = (
    (1 << 14, Config(block=512, warps=2)),
    (None, Config(block=2048, warps=4)),
)
GROUP = 16  # weights of one launch; a shorter list is filled up, so that one compilation serves all
_PROGRAMS = 64  # at most, for each weight


def choose(largest: int) -> Config:
    """Return the configuration for weights of up to ``largest`` elements."""
    return next(config for limit, config in CONFIGS if limit is None or largest <= limit)


@triton.jit
def _sums(w, g, size, to, WIDE: tl.constexpr, BLOCK: tl.constexpr):
    signed = tl.zeros((BLOCK,), WIDE)
    product = tl.zeros((BLOCK,), WIDE)
    square = tl.zeros((BLOCK,), WIDE)
    plain = tl.zeros((BLOCK,), WIDE)
    for first in range(tl.program_id(0) * BLOCK, size, tl.num_programs(0) * BLOCK):
        at = first + tl.arange(0, BLOCK)
        x = tl.load(w + at, mask=at < size, other=0.0).to(WIDE)
        y = tl.load(g + at, mask=at < size, other=0.0).to(WIDE)
        product += tl.abs(x * y)
        signed += x * y
        square += y * y
        plain += tl.abs(y)
    # The columns of the result: Σ|w·g|, Σ w·g, Σ g², Σ|g|.
    tl.store(to, tl.sum(product, axis=0))
    tl.store(to + 1, tl.sum(signed, axis=0))
    tl.store(to + 2, tl.sum(square, axis=0))
    tl.store(to + 3, tl.sum(plain, axis=0))


@triton.jit
def sums(params, grads, sizes, partial, GROUP: tl.constexpr, WIDE: tl.constexpr, BLOCK: tl.constexpr):
    """Write four sums for each program and each weight of a group: ``partial`` is ``[GROUP, programs, 4]``."""
    mine = tl.program_id(1)
    size = tl.load(sizes + mine)
    to = partial + (mine * tl.num_programs(0) + tl.program_id(0)) * 4
    for k in tl.static_range(GROUP):
        if mine == k:
            _sums(params[k], grads[k], size, to, WIDE, BLOCK)


KERNELS = (sums,)


def forward(params: list[Tensor], grads: list[Tensor]) -> Tensor:
    """Run the operator ``triton_saliency``."""
    result = params[0].new_empty(len(params), 4, dtype=torch.float64)
    for first in range(0, len(params), GROUP):
        part = slice(first, first + GROUP)
        result[part] = _group([w.contiguous() for w in params[part]], [g.contiguous() for g in grads[part]])
    return result


def _group(params: list[Tensor], grads: list[Tensor]) -> Tensor:
    count, largest = len(params), max(w.numel() for w in params)
    missing = GROUP - count
    lengths = [w.numel() for w in params] + [0] * missing
    if largest == 0:
        return params[0].new_zeros(count, 4, dtype=torch.float64)
    config = choose(largest)
    programs = min(blocks(largest, config.block), _PROGRAMS)
    double = params[0].dtype == torch.float64
    sizes = torch.tensor(lengths, dtype=torch.int64, device=params[0].device)
    partial = params[0].new_empty(GROUP, programs, 4, dtype=torch.float64 if double else torch.float32)
    with device_of(params[0]):
        sums[(programs, GROUP)](
            (*params, *params[:1] * missing), (*grads, *grads[:1] * missing), sizes, partial,
            GROUP=GROUP, WIDE=tl.float64 if double else tl.float32, BLOCK=config.block, **config.options,
        )  # fmt: skip
    return partial[:count].sum(dim=1, dtype=torch.float64)
