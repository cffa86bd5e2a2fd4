"""Causal convolutions with residuals, one behind the other, in one pass over a sample: a temporal convolutional net."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from .._core.errors import InvalidArgument
from . import reference as plain
from ._inputs import check_like, check_series, check_shape, check_taps, native_supports, some
from ._library import define, differentiable, second_order
from .dispatch import Implementation, Operation


def residual_convs(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Run K dense causal convolutions over time, of dilations 1, 2, 4, ..., each added to its input.

    With ``y_0 = x``: ``y_1 = relu(x + relu(conv_0(x)))``, then ``y_{k+1} = y_k + relu(conv_k(y_k))``, which no ReLU
    would cut; the result is ``conv_{K-1}(y_{K-1})``, without activation and residual.

    Args:
        x: ``[N, T, D]``, T at least 1.
        weight: ``[K, D, D, W]``, K at least 1; each as of ``torch.nn.functional.conv1d``.
        bias: ``[K, D]``.

    Returns:
        ``[N, T, D]``, contiguous.

    Source: Bai, Kolter and Koltun, 2018.

    Raises:
        InvalidArgument: shapes or dtypes do not agree.
    """
    check_series("x", x, "[N, T, D]")
    dim = x.shape[2]
    check_shape("weight", weight, (None, dim, dim, None), "[K, D, D, W]")
    check_taps(weight)
    if weight.shape[0] == 0:
        raise InvalidArgument("weight has no convolution: K must be at least 1.")
    check_shape("bias", bias, (weight.shape[0], dim), "[K, D]")
    for name, each in (("weight", weight), ("bias", bias)):
        check_like(name, each, x)
    return _RESIDUAL.pick(x, weight, bias)(x, weight, bias)


def reference(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Plain PyTorch form."""
    y, last = x, weight.shape[0] - 1
    for k in range(last):
        y = y + F.relu(plain.conv1d(y, weight[k], bias[k], dilation=2**k, padding="causal"))
        y = y if k else F.relu(y)
    return plain.conv1d(y, weight[last], bias[last], dilation=2**last, padding="causal")


def _fake(x: Tensor, weight: Tensor, bias: Tensor, keep: bool) -> tuple[Tensor, Tensor]:
    kept = (x.shape[0], 2, weight.shape[0] - 1, *x.shape[1:]) if keep else (0,)
    return x.new_empty(x.shape), x.new_empty(kept)


def _fake_backward(grad: Tensor, kept: Tensor, x: Tensor, *rest: Any) -> tuple[Tensor, ...]:
    weight, bias, needs = rest
    return x.new_empty(x.shape if needs & 1 else 0), *(p.new_empty(p.shape if needs & 2 else 0) for p in (weight, bias))


_FORWARD = define("residual_convs(Tensor x, Tensor weight, Tensor bias, bool keep) -> (Tensor, Tensor)", _fake)
_BACKWARD = define(
    "residual_convs_backward(Tensor grad, Tensor kept, Tensor x, Tensor weight, Tensor bias, int needs) "
    "-> (Tensor, Tensor, Tensor)",
    _fake_backward,
)


def _setup(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    ctx.save_for_backward(output[1], *inputs[:-1])
    ctx.mark_non_differentiable(output[1])
    ctx.set_materialize_grads(False)


def _backward(ctx: Any, grad: Tensor | None, _kept: Any) -> tuple[Tensor | None, ...]:
    if grad is None:
        return (None,) * 4
    needs = ctx.needs[0] | 2 * any(ctx.needs[1:3])
    return *map(some, _run_backward(grad, *ctx.saved_tensors, needs)), None


def _setup_second(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    grad, _, *tensors, ctx.needs = inputs
    ctx.save_for_backward(grad, *tensors)
    ctx.set_materialize_grads(False)


def _backward_second(ctx: Any, *towards: Tensor | None) -> tuple[Tensor | None, ...]:
    grad, *tensors = ctx.saved_tensors
    wanted = (ctx.needs & 1, ctx.needs & 2, ctx.needs & 2)
    directions = [value if want else None for value, want in zip(towards, wanted, strict=True)]
    (by_grad,), by_input = second_order(reference, tensors, [grad], directions)
    return by_grad, None, *by_input, None


_run = differentiable(_FORWARD, _setup, _backward)
_run_backward = differentiable(_BACKWARD, _setup_second, _backward_second)


def _native(*tensors: Tensor) -> Tensor:
    return _run(*tensors, torch.is_grad_enabled() and torch._C._any_requires_grad(*tensors))[0]


_RESIDUAL = Operation(
    "residual_convs", reference, (Implementation("native", _native, native_supports("residual_convs")),)
)
