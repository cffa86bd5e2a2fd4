"""The selective scan in Triton, time in the second dimension: one program for each (sample, block of channels).

A program walks through the steps with the states of its channels in registers and leaves behind the states at the start
of every chunk. The backward computes a chunk again from there, parks its states in scratch memory that stays in the
cache, and walks it in reverse. What several programs add to (A, D and delta_bias over samples, B and C over blocks of
channels) has a place of its own for each and is added in order: results repeat bit by bit.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from ._triton import Config, blocks, device_of, power_of_two, rows_of, whole
from .scan import GPU_CHUNK as CHUNK

# By the number of states of a channel, padded to a power of two: some 512 values for a program.
CONFIGS: tuple[tuple[int | None, Config], ...] = (
    (8, Config(block=64, warps=2)),
    (16, Config(block=32, warps=2)),
    (32, Config(block=16, warps=2)),
    (64, Config(block=8, warps=2)),
    (None, Config(block=8, warps=4)),
)


def choose(states: int) -> Config:
    """Return the configuration for ``states`` states of a channel."""
    return next(config for limit, config in CONFIGS if limit is None or states <= limit)


@triton.jit
def _sigmoid(x):
    return 1.0 / (1.0 + tl.exp(-x))


@triton.jit
def _place(dim, states, groups, BLOCK: tl.constexpr, STATES: tl.constexpr):
    """Return the group of this program, its channels and states and which exist; no block reaches into a next group."""
    width = dim // groups
    tiles = tl.cdiv(width, BLOCK)
    within = (tl.program_id(1) % tiles) * BLOCK + tl.arange(0, BLOCK)
    group = tl.program_id(1) // tiles
    state = tl.arange(0, STATES)
    return group, group * width + within, within < width, state, state < states


@triton.jit
def _vector(x, channel, there, WIDE: tl.constexpr):
    return tl.load(x + channel, mask=there, other=0.0).to(WIDE)


@triton.jit
def _step_size(delta, at, channel, bias, there, SOFTPLUS: tl.constexpr, WIDE: tl.constexpr):
    """Return the step size and its derivative by the raw value."""
    raw = _vector(delta + at, channel, there, WIDE)
    if bias is not None:
        raw += _vector(bias, channel, there, WIDE)
    slope = tl.full(raw.shape, 1.0, WIDE)
    if SOFTPLUS:
        slope = _sigmoid(raw)
        # log(1 + e) · e / ((1 + e) - 1) keeps all digits where e is small (Kahan).
        e = tl.exp(-tl.abs(raw))
        grown = 1.0 + e
        rest = tl.where(grown == 1.0, e, tl.log(grown) * (e / tl.where(grown == 1.0, 1.0, grown - 1.0)))
        raw = tl.where(raw > 0.0, raw, 0.0) + rest
    return raw, slope


@triton.jit
def _decay(step, rate):
    return tl.exp2(step[:, None] * (rate * 1.4426950408889634))


@triton.jit
def _next(h, x, step, rate, into):
    """Return the state after a step from the one before it."""
    return _decay(step, rate) * h + (step * x)[:, None] * into[None, :]


@triton.jit
def _previous(g, x, step, slope, rate, into, onto, before, carry):
    """Return the gradients of u, delta, a and b at a step, and of the state before it."""
    carry += g[:, None] * onto[None, :]
    by_drive = tl.sum(carry * into[None, :], axis=1)
    by_b = tl.sum(carry * (step * x)[:, None], axis=0)
    carry *= _decay(step, rate)
    by_exponent = carry * before
    by_delta = (tl.sum(by_exponent * rate, axis=1) + by_drive * x) * slope
    return by_drive * step, by_delta, by_exponent * step[:, None], by_b, carry


@triton.jit
def _through_gate(g, y, gate):
    """Return the gradients of the gate and of the output before it."""
    opened = _sigmoid(gate)
    return g * y * opened * (1.0 + gate * (1.0 - opened)), g * gate * opened


@triton.jit
def scan(
    u, delta, a, b, c, skip, z, bias, out, last, chunks,
    steps, dim, states, groups, u_stride, delta_stride, z_stride, b_stride, c_stride,
    SOFTPLUS: tl.constexpr, CHUNK: tl.constexpr, WIDE: tl.constexpr, BLOCK: tl.constexpr, STATES: tl.constexpr,
):  # fmt: skip
    """Write the output, the last state and, where ``chunks`` is given, the states at the start of every chunk."""
    sample = tl.program_id(0).to(tl.int64)
    group, channel, there, state, known = _place(dim, states, groups, BLOCK, STATES)
    both = there[:, None] & known[None, :]
    rate = tl.load(a + channel[:, None] * states + state[None, :], mask=both, other=0.0).to(WIDE)
    h = tl.zeros((BLOCK, STATES), WIDE)
    count = tl.cdiv(steps, CHUNK)
    for chunk in range(count):
        if chunks is not None:
            to = ((sample * count + chunk) * states + state[None, :]) * dim + channel[:, None]
            tl.store(chunks + to, h.to(chunks.dtype.element_ty), mask=both)
        for t in range(chunk * CHUNK, tl.minimum(chunk * CHUNK + CHUNK, steps)):
            row = sample * steps + t
            x = _vector(u + row * u_stride, channel, there, WIDE)
            step, _ = _step_size(delta, row * delta_stride, channel, bias, there, SOFTPLUS, WIDE)
            into = _vector(b + (row * groups + group) * b_stride, state, known, WIDE)
            onto = _vector(c + (row * groups + group) * c_stride, state, known, WIDE)
            h = _next(h, x, step, rate, into)
            y = tl.sum(h * onto[None, :], axis=1)
            if skip is not None:
                y += _vector(skip, channel, there, WIDE) * x
            if z is not None:
                gate = _vector(z + row * z_stride, channel, there, WIDE)
                y *= gate * _sigmoid(gate)
            tl.store(out + row * dim + channel, y.to(out.dtype.element_ty), mask=there)
    to = (sample * dim + channel[:, None]) * states + state[None, :]
    tl.store(last + to, h.to(last.dtype.element_ty), mask=both)


@triton.jit
def _park(
    h, parked, u, delta, b, bias, rate, first, stop,
    channel, there, state, known, groups, u_stride, delta_stride, b_stride,
    SOFTPLUS: tl.constexpr, WIDE: tl.constexpr, EACH: tl.constexpr,
):  # fmt: skip
    """Write the state before every row from ``first`` up to ``stop``, beginning with ``h``."""
    for row in range(first, stop):
        tl.store(parked + (row - first) * EACH, h)
        x = _vector(u + row * u_stride, channel, there, WIDE)
        step, _ = _step_size(delta, row * delta_stride, channel, bias, there, SOFTPLUS, WIDE)
        h = _next(h, x, step, rate, _vector(b + row * groups * b_stride, state, known, WIDE))
    tl.debug_barrier()  # another thread may have written what this one reads


@triton.jit
def scan_backward(
    grad, chunks, u, delta, a, b, c, skip, z, bias, scratch,
    by_u, by_delta, by_a, by_b, by_c, by_skip, by_z, by_bias,
    steps, dim, states, groups, u_stride, delta_stride, z_stride, b_stride, c_stride,
    SOFTPLUS: tl.constexpr, CHUNK: tl.constexpr, WIDE: tl.constexpr, BLOCK: tl.constexpr, STATES: tl.constexpr,
):  # fmt: skip
    """Write all gradients; of a, skip and bias by sample, of b and c by block of channels (outermost)."""
    sample = tl.program_id(0).to(tl.int64)
    group, channel, there, state, known = _place(dim, states, groups, BLOCK, STATES)
    tiles = tl.cdiv(dim // groups, BLOCK)
    part = (tl.program_id(1) % tiles).to(tl.int64) * tl.num_programs(0) * steps * groups
    both = there[:, None] & known[None, :]
    rate = tl.load(a + channel[:, None] * states + state[None, :], mask=both, other=0.0).to(WIDE)
    parked = scratch + (sample * tl.num_programs(1) + tl.program_id(1)) * CHUNK * BLOCK * STATES
    parked += tl.arange(0, BLOCK)[:, None] * STATES + state[None, :]
    carry = tl.zeros((BLOCK, STATES), WIDE)
    sum_a = tl.zeros((BLOCK, STATES), WIDE)
    sum_skip = tl.zeros((BLOCK,), WIDE)
    sum_bias = tl.zeros((BLOCK,), WIDE)
    passing = tl.zeros((BLOCK,), WIDE)
    if skip is not None:
        passing = _vector(skip, channel, there, WIDE)
    b += group * b_stride
    c += group * c_stride
    count = tl.cdiv(steps, CHUNK)
    for back in range(count):
        chunk = count - 1 - back
        first = sample * steps + chunk * CHUNK
        stop = sample * steps + tl.minimum(chunk * CHUNK + CHUNK, steps)
        start = ((sample * count + chunk) * states + state[None, :]) * dim + channel[:, None]
        _park(
            tl.load(chunks + start, mask=both, other=0.0).to(WIDE), parked, u, delta, b, bias, rate, first, stop,
            channel, there, state, known, groups, u_stride, delta_stride, b_stride, SOFTPLUS, WIDE, BLOCK * STATES,
        )  # fmt: skip
        for ahead in range(stop - first):
            row = stop - 1 - ahead
            x = _vector(u + row * u_stride, channel, there, WIDE)
            step, slope = _step_size(delta, row * delta_stride, channel, bias, there, SOFTPLUS, WIDE)
            into = _vector(b + row * groups * b_stride, state, known, WIDE)
            onto = _vector(c + row * groups * c_stride, state, known, WIDE)
            before = tl.load(parked + (row - first) * BLOCK * STATES)
            h = _next(before, x, step, rate, into)
            g = _vector(grad + row * dim, channel, there, WIDE)
            if z is not None:
                y = tl.sum(h * onto[None, :], axis=1) + passing * x
                g_gate, g = _through_gate(g, y, _vector(z + row * z_stride, channel, there, WIDE))
                tl.store(by_z + row * dim + channel, g_gate.to(by_z.dtype.element_ty), mask=there)
            g_u, g_step, g_a, g_b, carry = _previous(g, x, step, slope, rate, into, onto, before, carry)
            place = (part + row * groups + group) * states + state
            tl.store(by_b + place, g_b, mask=known)
            tl.store(by_c + place, tl.sum(g[:, None] * h, axis=0), mask=known)
            tl.store(by_delta + row * dim + channel, g_step.to(by_delta.dtype.element_ty), mask=there)
            tl.store(by_u + row * dim + channel, (g_u + g * passing).to(by_u.dtype.element_ty), mask=there)
            sum_a += g_a
            sum_bias += g_step
            sum_skip += g * x
        tl.debug_barrier()  # the next chunk is parked in the same place
    tl.store(by_a + (sample * dim + channel[:, None]) * states + state[None, :], sum_a, mask=both)
    tl.store(by_skip + sample * dim + channel, sum_skip, mask=there)
    tl.store(by_bias + sample * dim + channel, sum_bias, mask=there)


KERNELS = (scan, scan_backward)


def _prepared(inputs: tuple[Any, ...]) -> tuple[list[Tensor | None], list[int]]:
    """Return the eight tensors as the kernels take them and the numbers that follow the outputs."""
    u, delta, a, b, c, skip, z, bias = inputs
    dim, states = a.shape
    u, u_stride = rows_of(u, dim)
    delta, delta_stride = rows_of(delta, dim)
    z, z_stride = rows_of(z, dim)
    groups = b.shape[2]
    b, b_stride = rows_of(b, states)
    c, c_stride = rows_of(c, states)
    tensors = [u, delta, a.contiguous(), b, c, whole(skip), z, whole(bias)]
    return tensors, [dim, states, groups, u_stride, delta_stride, z_stride, b_stride, c_stride]


def _constants(x: Tensor, config: Config, states: int, softplus: bool) -> dict[str, Any]:
    wide = tl.float64 if x.dtype == torch.float64 else tl.float32
    sizes = {"CHUNK": CHUNK, "WIDE": wide, "BLOCK": config.block, "STATES": power_of_two(states)}
    return {"SOFTPLUS": softplus, **sizes, **config.options}


def forward(*arguments: Any) -> tuple[Tensor, Tensor, Tensor]:
    """Run the operator ``triton_selective_scan``; arguments as in its schema."""
    *inputs, softplus, keep = arguments
    u, _, a, b, *_ = inputs
    batch, steps, dim = u.shape
    states, groups = a.shape[1], b.shape[2]
    tensors, sizes = _prepared(tuple(inputs))
    out, last = u.new_empty(u.shape), u.new_empty(batch, dim, states)
    chunks = u.new_empty((batch, blocks(steps, CHUNK), states, dim) if keep else 0)
    config = choose(states)
    if out.numel():
        with device_of(u):
            grid = (batch, groups * blocks(dim // groups, config.block))
            scan[grid](
                *tensors, out, last, chunks if keep else None, steps, *sizes,
                **_constants(u, config, states, softplus),
            )  # fmt: skip
    return out, last, chunks


def backward(grad: Tensor, chunks: Tensor, *arguments: Any) -> tuple[Tensor, ...]:
    """Run the operator ``triton_selective_scan_backward``; arguments as in its schema."""
    *inputs, softplus = arguments
    u, _, a, b, _, skip, z, bias = inputs
    batch, steps, dim = u.shape
    states, groups = a.shape[1], b.shape[2]
    tensors, sizes = _prepared(tuple(inputs))
    config = choose(states)
    tiles = blocks(dim // groups, config.block)
    wide = torch.float64 if u.dtype == torch.float64 else torch.float32
    parked = batch * groups * tiles * CHUNK * config.block * power_of_two(states)
    by_u, by_delta = u.new_empty(u.shape), u.new_empty(u.shape)
    by_z = None if z is None else u.new_empty(u.shape)
    by_a = u.new_empty(batch, dim, states, dtype=wide)
    by_b, by_c = (u.new_empty(tiles, batch, steps, groups, states, dtype=wide) for _ in range(2))
    by_skip, by_bias = (u.new_empty(batch, dim, dtype=wide) for _ in range(2))
    given = grad.contiguous()
    if u.numel():
        with device_of(u):
            scan_backward[(batch, groups * tiles)](
                given, chunks, *tensors, u.new_empty(parked, dtype=wide),
                by_u, by_delta, by_a, by_b, by_c, by_skip, by_z, by_bias, steps, *sizes,
                **_constants(u, config, states, softplus),
            )  # fmt: skip
    by_a, by_b, by_c, by_skip, by_bias = (x.sum(dim=0).to(u.dtype) for x in (by_a, by_b, by_c, by_skip, by_bias))
    nothing = u.new_empty(0)
    by_skip, by_bias = nothing if skip is None else by_skip, nothing if bias is None else by_bias
    return by_u, by_delta, by_a, by_b, by_c, by_skip, nothing if by_z is None else by_z, by_bias
