"""``norm_act`` in Triton: a row stays in registers from the branch to the activation; the backward computes it again.

The weight and bias gradients have partial sums of their own for each program, added in order.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from ._inputs import computed
from ._triton import Config, blocks, device_of, rows_of, whole

# By the width of a row, padded to a power of two: some 2,048 elements in flight, and a warp for every 512 of them.
CONFIGS: tuple[tuple[int, Config], ...] = (
    (32, Config(block=32, warps=4, rows=32)),
    (64, Config(block=64, warps=4, rows=16)),
    (128, Config(block=128, warps=4, rows=8)),
    (256, Config(block=256, warps=4, rows=4)),
    (512, Config(block=512, warps=4, rows=2)),
    (2048, Config(block=2048, warps=4)),
    (4096, Config(block=4096, warps=8)),
    (16384, Config(block=16384, warps=16)),
)
_PROGRAMS = 512  # at most, in the backward, where each leaves partial sums behind


def choose(dim: int) -> Config:
    """Return the configuration for rows of ``dim`` features."""
    return next(config for limit, config in CONFIGS if dim <= limit)


@triton.jit
def _activate(x, CODE: tl.constexpr):
    if CODE == 1:
        x = tl.where(x < 0.0, 0.0, x)  # and not maximum: it would lose a NaN
    if CODE == 2:
        x = 0.5 * x * (1.0 + tl.erf(x * 0.7071067811865476))
    if CODE == 3:
        x = x / (1.0 + tl.exp(-x))
    return x


@triton.jit
def _slope(x, CODE: tl.constexpr):
    slope = tl.full(x.shape, 1.0, x.dtype)
    if CODE == 1:
        slope = tl.where(x > 0.0, 1.0, 0.0).to(x.dtype)
    if CODE == 2:
        slope = 0.5 * (1.0 + tl.erf(x * 0.7071067811865476)) + x * tl.exp(-0.5 * x * x) * 0.3989422804014327
    if CODE == 3:
        s = 1.0 / (1.0 + tl.exp(-x))
        slope = s * (1.0 + x * (1.0 - s))
    return slope


@triton.jit
def _tile(x, row, column, stride, mask, WIDE: tl.constexpr):
    return tl.load(x + row[:, None].to(tl.int64) * stride + column[None, :], mask=mask, other=0.0).to(WIDE)


@triton.jit
def _row_of(x, column, dim, WIDE: tl.constexpr):
    return tl.load(x + column, mask=column < dim, other=0.0).to(WIDE)[None, :]


@triton.jit
def _branch(
    x, residual, gate, scale, row, column, mask, x_stride, residual_stride, gate_stride, dim, steps,
    BEFORE: tl.constexpr, WIDE: tl.constexpr,
):  # fmt: skip
    """Return the raw x, the factor behind its activation, the sigmoid of the gate and what is normalised."""
    raw = _tile(x, row, column, x_stride, mask, WIDE)
    factor = tl.full(raw.shape, 1.0, WIDE)
    opened = factor
    if gate is not None:
        opened = 1.0 / (1.0 + tl.exp(-_tile(gate, row, column, gate_stride, mask, WIDE)))
    if scale is not None:
        factor = _tile(scale, row // steps, column, dim, mask, WIDE)
    value = _activate(raw, BEFORE) * opened * factor
    if residual is not None:
        value += _tile(residual, row, column, residual_stride, mask, WIDE)
    return raw, factor, opened, value


@triton.jit
def _moments(value, mask, dim, EPS: tl.constexpr, CENTRE: tl.constexpr, WIDE: tl.constexpr):
    """Return the normalised rows, their means and the reciprocals of their deviations."""
    mean = tl.zeros((value.shape[0],), WIDE)
    if CENTRE:
        mean = tl.sum(value, axis=1) / dim
    centred = tl.where(mask, value - mean[:, None], 0.0)
    inverse = 1.0 / tl.sqrt(tl.sum(centred * centred, axis=1) / dim + EPS)
    return centred * inverse[:, None], mean, inverse


@triton.jit
def norm(
    x, weight, bias, residual, gate, scale, out, stats,
    rows, dim, steps, x_stride, residual_stride, gate_stride,
    EPS: tl.constexpr, CENTRE: tl.constexpr, BEFORE: tl.constexpr, AFTER: tl.constexpr, WIDE: tl.constexpr,
    ROWS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Write ``after(norm(residual + before(x) · sigmoid(gate) · scale) · weight + bias)`` and the moments."""
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    column = tl.arange(0, BLOCK)
    mask = (row < rows)[:, None] & (column < dim)[None, :]
    _, _, _, value = _branch(
        x, residual, gate, scale, row, column, mask, x_stride, residual_stride, gate_stride, dim, steps, BEFORE, WIDE
    )
    y, mean, inverse = _moments(value, mask, dim, EPS, CENTRE, WIDE)
    y = y * _row_of(weight, column, dim, WIDE)
    if bias is not None:
        y += _row_of(bias, column, dim, WIDE)
    y = _activate(y, AFTER).to(out.dtype.element_ty)
    tl.store(out + row[:, None].to(tl.int64) * dim + column[None, :], y, mask=mask)
    tl.store(stats + row.to(tl.int64) * 2, mean.to(stats.dtype.element_ty), mask=row < rows)
    tl.store(stats + row.to(tl.int64) * 2 + 1, inverse.to(stats.dtype.element_ty), mask=row < rows)


@triton.jit
def norm_backward(
    grad, x, weight, bias, residual, gate, scale, grad_x, grad_residual, grad_gate, partial,
    rows, dim, steps, x_stride, residual_stride, gate_stride,
    EPS: tl.constexpr, CENTRE: tl.constexpr, BEFORE: tl.constexpr, AFTER: tl.constexpr, WIDE: tl.constexpr,
    ROWS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Write the wanted gradients; ``partial`` gets one row of weight and one of bias gradients for each program."""
    column = tl.arange(0, BLOCK)
    w = _row_of(weight, column, dim, WIDE)
    by_weight = tl.zeros((BLOCK,), WIDE)
    by_bias = tl.zeros((BLOCK,), WIDE)
    for first in range(tl.program_id(0) * ROWS, rows, tl.num_programs(0) * ROWS):
        row = first + tl.arange(0, ROWS)
        mask = (row < rows)[:, None] & (column < dim)[None, :]
        raw, factor, opened, value = _branch(
            x, residual, gate, scale, row, column, mask, x_stride, residual_stride, gate_stride, dim, steps,
            BEFORE, WIDE,
        )  # fmt: skip
        y, _, inverse = _moments(value, mask, dim, EPS, CENTRE, WIDE)
        g = _tile(grad, row, column, dim, mask, WIDE)
        if AFTER != 0:
            inner = y * w
            if bias is not None:
                inner += _row_of(bias, column, dim, WIDE)
            g = g * _slope(inner, AFTER)
        by_weight += tl.sum(g * y, axis=0)
        by_bias += tl.sum(g, axis=0)
        g = g * w
        g_value = g - y * (tl.sum(g * y, axis=1) / dim)[:, None]
        if CENTRE:
            g_value -= (tl.sum(g, axis=1) / dim)[:, None]
        g_value *= inverse[:, None]
        to = row[:, None].to(tl.int64) * dim + column[None, :]
        if grad_residual is not None:
            tl.store(grad_residual + to, g_value.to(grad_residual.dtype.element_ty), mask=mask)
        if grad_x is not None:
            g_x = g_value * opened * factor * _slope(raw, BEFORE)
            tl.store(grad_x + to, g_x.to(grad_x.dtype.element_ty), mask=mask)
        if grad_gate is not None:
            g_gate = g_value * _activate(raw, BEFORE) * factor * opened * (1.0 - opened)
            tl.store(grad_gate + to, g_gate.to(grad_gate.dtype.element_ty), mask=mask)
    if partial is not None:
        tl.store(partial + tl.program_id(0) * 2 * dim + column, by_weight, mask=column < dim)
        tl.store(partial + (tl.program_id(0) * 2 + 1) * dim + column, by_bias, mask=column < dim)


def _sizes(x: Tensor, inputs: tuple[Tensor | None, ...]) -> tuple[list[Tensor | None], list[Any]]:
    """Return the six tensors as the kernels take them and the numbers that follow the outputs."""
    dim = x.shape[-1]
    weight, bias, residual, gate, scale = inputs
    flat, x_stride = rows_of(x, dim)
    residual, residual_stride = rows_of(residual, dim)
    gate, gate_stride = rows_of(gate, dim)
    steps = max(x.shape[1], 1) if x.dim() == 3 else 1
    tensors = [flat, whole(weight), whole(bias), residual, gate, whole(scale)]
    return tensors, [x.numel() // dim, dim, steps, x_stride, residual_stride, gate_stride]


def _constants(x: Tensor, config: Config, eps: float, centre: bool, before: int, after: int) -> dict[str, Any]:
    wide = tl.float64 if x.dtype == torch.float64 else tl.float32
    codes = {"EPS": eps, "CENTRE": centre, "BEFORE": before, "AFTER": after}
    return {**codes, "WIDE": wide, "ROWS": config.rows, "BLOCK": config.block, **config.options}


def forward(
    x: Tensor, weight: Tensor, bias: Tensor | None, residual: Tensor | None, gate: Tensor | None, scale: Tensor | None,
    centre: bool, eps: float, before: int, after: int,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """Run the operator ``triton_norm_act``."""
    dim = x.shape[-1]
    tensors, sizes = _sizes(x, (weight, bias, residual, gate, scale))
    out, stats = x.new_empty(x.shape), x.new_empty(sizes[0], 2, dtype=computed(x.dtype))
    config = choose(dim)
    if out.numel():
        with device_of(x):
            grid = (blocks(sizes[0], config.rows),)
            norm[grid](*tensors, out, stats, *sizes, **_constants(x, config, eps, centre, before, after))
    return out, stats


def backward(
    grad: Tensor, stats: Tensor, x: Tensor, weight: Tensor, bias: Tensor | None, residual: Tensor | None,
    gate: Tensor | None, scale: Tensor | None, centre: bool, eps: float, before: int, after: int, needs: int,
) -> tuple[Tensor, ...]:  # fmt: skip
    """Run the operator ``triton_norm_act_backward``; what ``needs`` does not ask for comes back empty.

    ``stats`` is not read: in half precision it would be too coarse, and the row is at hand anyway.
    """
    dim = x.shape[-1]
    tensors, sizes = _sizes(x, (weight, bias, residual, gate, scale))
    config = choose(dim)
    programs = min(blocks(sizes[0], config.rows), _PROGRAMS)
    fresh = [x.new_empty(x.shape) if needs & bit else None for bit in (1, 4, 8)]
    wide = torch.float64 if x.dtype == torch.float64 else torch.float32
    partial = x.new_empty((programs, 2, dim), dtype=wide) if needs & 2 else None
    if grad.numel():
        with device_of(x):
            norm_backward[(programs,)](
                grad.contiguous(),
                *tensors,
                *fresh,
                partial,
                *sizes,
                **_constants(x, config, eps, centre, before, after),
            )
    nothing = x.new_empty(0)
    by_x, by_residual, by_gate = (nothing if each is None else each for each in fresh)
    by_weight = by_bias = nothing
    if partial is not None:
        by_weight, by_bias = partial.sum(dim=0).to(weight.dtype).unbind()
        by_weight, by_bias = by_weight.clone(), nothing if bias is None else by_bias.clone()
    return by_x, by_weight, by_bias, by_residual, by_gate


KERNELS = (norm, norm_backward)
