"""Softmax attention of several heads in ``[N, T, D]``, with rotary positions and a range of keys for each query."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from .._core.errors import InvalidArgument, check_int
from ._inputs import check_device, check_like, check_series, check_shape, native_supports, some
from ._library import define, differentiable, second_order
from .dispatch import Implementation, Operation, observed

ROPE_BASE = 10000.0


def softmax_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    heads: int,
    *,
    scale: float | None = None,
    rotary: bool = False,
    first: Tensor | None = None,
    last: Tensor | None = None,
) -> Tensor:
    """Return ``softmax(scale · q kᵀ) v`` for each head (scaled dot-product attention, Vaswani et al., 2017).

    Args:
        q: queries ``[N, T, D]``; head h has features ``h · E`` to ``(h + 1) · E - 1``, ``E = D / heads``.
        k: keys ``[N, S, D]``, S at least 1.
        v: values ``[N, S, D]``.
        heads: at least 1; divides D.
        scale: ``E ** -0.5`` if None.
        rotary: turn queries and keys by their step first (see ``rotate``); needs T = S.
        first: ``[T]``, int64: query t sees the keys from ``first[t]``, within 0 .. S, ...
        last: ``[T]``, int64: ... up to, and without, ``last[t]``; both or none. A query that sees none gets NaN.

    Returns:
        ``[N, T, D]``, contiguous. The compiled form keeps no ``[T, S]`` matrix: its backward pass makes it anew.

    Raises:
        InvalidArgument: shapes, dtypes or devices do not agree, or a value is out of range.
    """
    check_series("q", q, "[N, T, D]")
    batch, steps, dim = q.shape
    check_series("k", k, "[N, S, D]")
    check_shape("k", k, (batch, None, dim), "[N, S, D]")
    check_shape("v", v, tuple(k.shape), "like k")
    check_like("k", k, q)
    check_like("v", v, q)
    if dim % check_int("heads", heads, low=1):
        raise InvalidArgument(f"heads={heads} must divide D = {dim}.")
    if rotary and k.shape[1] != steps:
        raise InvalidArgument(f"rotary=True needs as many keys as queries; k has {k.shape[1]}, q has {steps} steps.")
    if (first is None) != (last is None):
        raise InvalidArgument("first and last must both be given, or neither.")
    for name, bound in (("first", first), ("last", last)):
        if bound is None:
            continue
        check_shape(name, bound, (steps,), "[T]")
        check_device(name, bound, q)
        if bound.dtype != torch.int64:
            raise InvalidArgument(f"{name} is {bound.dtype}; it must be torch.int64.")
    scale = (dim // heads) ** -0.5 if scale is None else scale
    return _ATTENTION.pick(q, k, v)(q, k, v, first, last, heads, scale, rotary)


def split_heads(x: Tensor, heads: int) -> Tensor:
    """Map ``[N, T, D]`` to ``[N, heads, T, D / heads]``, without a copy."""
    return x.unflatten(-1, (heads, -1)).transpose(1, 2)


def merge_heads(x: Tensor) -> Tensor:
    """Map ``[N, heads, T, E]`` to ``[N, T, heads · E]``."""
    return x.transpose(1, 2).flatten(2)


def rotate(x: Tensor) -> Tensor:
    """Turn pairs of features by an angle that grows with the step: rotary position embedding.

    Args:
        x: queries or keys ``[N, heads, T, E]``. Features i and i + E // 2 are a pair; of an odd E the last one stays.

    Returns:
        ``[N, heads, T, E]``. The product of a rotated query and a rotated key depends on their distance only.

    The angles are made for the T at hand and kept nowhere: nothing to store, cast or move. Source: Su et al.,
    RoFormer, 2021, base 10000.
    """
    half = x.shape[-1] // 2
    if half == 0:
        return x
    # At least float32: bfloat16 holds an angle of 300 to the nearest 2 only.
    exact = torch.promote_types(x.dtype, torch.float32)
    rate = torch.pow(ROPE_BASE, -torch.arange(half, dtype=exact, device=x.device) / half)
    angle = torch.arange(x.shape[2], dtype=exact, device=x.device).unsqueeze(-1) * rate  # [T, E // 2]
    cos, sin = angle.cos().to(x.dtype), angle.sin().to(x.dtype)
    pairs = x[..., : 2 * half]
    # Rolling by a half swaps the halves in one copy; slices would each fill a gradient of the full size.
    turned = torch.addcmul(pairs * torch.cat([cos, cos], -1), pairs.roll(half, -1), torch.cat([-sin, sin], -1))
    return turned if x.shape[-1] == 2 * half else torch.cat([turned, x[..., 2 * half :]], dim=-1)


def reference(
    q: Tensor, k: Tensor, v: Tensor, first: Tensor | None, last: Tensor | None, heads: int, scale: float, rotary: bool
) -> Tensor:
    """Plain PyTorch form; on a CPU with the products turned so that they are quick."""
    q, k, v = (split_heads(x, heads) for x in (q, k, v))
    if rotary:
        q, k = rotate(q), rotate(k)
    # Where something looks into the graph it has to see plain products, and the compiler makes its own choice.
    turn = q.device.type == "cpu" and not torch.compiler.is_compiling() and not observed()
    scores = _Score.apply(q * scale, k) if turn else torch.matmul(q * scale, k.transpose(-1, -2))
    if first is not None and last is not None:
        step = torch.arange(k.shape[2], device=q.device)
        hidden = (step < first.unsqueeze(-1)) | (step >= last.unsqueeze(-1))  # [T, S]
        scores = scores.masked_fill(hidden, -math.inf)
    shares = torch.softmax(scores, dim=-1)
    return merge_heads(_Mix.apply(shares, v) if turn else torch.matmul(shares, v))


def _turned(a: Tensor, b: Tensor) -> Tensor:
    """Return ``a b`` as ``(bᵀ aᵀ)ᵀ``: with few columns in ``b`` a batched product is three times as fast this way."""
    return torch.matmul(b.transpose(-1, -2), a.transpose(-1, -2)).transpose(-1, -2)


class _Score(torch.autograd.Function):
    """``q kᵀ``, ``[N, heads, T, E]`` by ``[N, heads, S, E]``; both gradients as turned products."""

    @staticmethod
    def forward(q: Tensor, k: Tensor) -> Tensor:
        return torch.matmul(q, k.transpose(-1, -2))

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor], output: Tensor) -> None:
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor]:
        q, k = ctx.saved_tensors
        return _turned(grad, k), _turned(grad.transpose(-1, -2), q)


class _Mix(torch.autograd.Function):
    """``a v``, ``[N, heads, T, S]`` by ``[N, heads, S, E]``, and the gradient of ``v`` as turned products."""

    @staticmethod
    def forward(a: Tensor, v: Tensor) -> Tensor:
        return _turned(a, v)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor], output: Tensor) -> None:
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor]:
        a, v = ctx.saved_tensors
        # Not turned: the softmax before it reads this gradient row by row.
        return torch.matmul(grad, v.transpose(-1, -2)), _turned(a.transpose(-1, -2), grad)


def _fake(q: Tensor, k: Tensor, v: Tensor, first: Any, last: Any, heads: int, *options: Any) -> tuple[Tensor, Tensor]:
    return q.new_empty(q.shape), q.new_empty(q.shape[0], heads, 2, q.shape[1])


def _fake_backward(grad: Tensor, q: Tensor, k: Tensor, v: Tensor, *rest: Any) -> tuple[Tensor, Tensor, Tensor]:
    by_q, by_kv = rest[-1] & 1, rest[-1] & 2
    return (
        q.new_empty(q.shape if by_q else 0),
        k.new_empty(k.shape if by_kv else 0),
        v.new_empty(v.shape if by_kv else 0),
    )


_INPUTS = "Tensor q, Tensor k, Tensor v, Tensor? first, Tensor? last"
_OPTIONS = "int heads, float scale, bool rotary"
# The second result is what the backward pass needs: of each query the largest score, and 1 / Σ exp(score - largest).
_FORWARD = define(f"softmax_attention({_INPUTS}, {_OPTIONS}) -> (Tensor, Tensor)", _fake)
_BACKWARD = define(
    f"softmax_attention_backward(Tensor grad, {_INPUTS}, Tensor stats, {_OPTIONS}, int needs) "
    "-> (Tensor, Tensor, Tensor)",
    _fake_backward,
)


def _setup(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    *tensors, ctx.heads, ctx.scale, ctx.rotary = inputs
    ctx.save_for_backward(*tensors, output[1])
    ctx.mark_non_differentiable(output[1])
    ctx.set_materialize_grads(False)


def _backward(ctx: Any, grad: Tensor | None, _stats: Any) -> tuple[Tensor | None, ...]:
    if grad is None:
        return (None,) * 8
    by_q, *by_kv = ctx.needs[:3]
    needs = by_q | 2 * any(by_kv)
    grads = _run_backward(grad, *ctx.saved_tensors, ctx.heads, ctx.scale, ctx.rotary, needs)
    return *map(some, grads), None, None, None, None, None


def _setup_second(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    grad, *tensors, _, ctx.heads, ctx.scale, ctx.rotary, ctx.needs = inputs
    ctx.save_for_backward(grad, *tensors)
    ctx.set_materialize_grads(False)


def _backward_second(ctx: Any, *towards: Tensor | None) -> tuple[Tensor | None, ...]:
    grad, q, k, v, first, last = ctx.saved_tensors
    wanted = (ctx.needs & 1, ctx.needs & 2, ctx.needs & 2)
    directions = [value if want else None for value, want in zip(towards, wanted, strict=True)]

    def function(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return reference(q, k, v, first, last, ctx.heads, ctx.scale, ctx.rotary)

    (by_grad,), by_input = second_order(function, [q, k, v], [grad], directions)
    return by_grad, *by_input, None, None, None, None, None, None, None


_run_backward = differentiable(_BACKWARD, _setup_second, _backward_second)
_run = differentiable(_FORWARD, _setup, _backward)


def _native(*arguments: Any) -> Tensor:
    return _run(*arguments)[0]


_ATTENTION = Operation(
    "softmax_attention",
    reference,
    (Implementation("native", _native, native_supports("softmax_attention")),),
    compiled="operator",
)
