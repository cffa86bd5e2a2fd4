"""Depthwise convolution over time in ``[N, T, D]``, centred or causal."""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor

from .._core.errors import check_int
from . import rivals
from ._inputs import check_like, check_series, check_shape, check_taps, native_supports, some
from ._library import define, differentiable, second_order
from .activations import Activation, activate, activation_code
from .dispatch import Implementation, Operation
from .reference import conv1d


def depthwise_conv1d(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    dilation: int = 1,
    causal: bool = False,
    activation: Activation = "none",
) -> Tensor:
    """Convolve each feature over time with its own taps, zero padded: ``[N, T, D] -> [N, T, D]``.

    Args:
        x: ``[N, T, D]``, T at least 1.
        weight: ``[D, W]``, W at least 1; the last tap multiplies the latest step.
        bias: ``[D]`` or None.
        dilation: steps between two taps, at least 1.
        causal: no output sees a later step; otherwise the window is centred, and an even one reaches one step further
            into the past.
        activation: applied to the result.

    Raises:
        InvalidArgument: shapes or dtypes do not agree, or a value is out of range.
    """
    check_series("x", x, "[N, T, D]")
    check_shape("weight", weight, (x.shape[2], None), "[D, W]")
    check_taps(weight)
    check_like("weight", weight, x)
    if bias is not None:
        check_shape("bias", bias, (x.shape[2],), "[D]")
        check_like("bias", bias, x)
    reach = (weight.shape[1] - 1) * check_int("dilation", dilation, low=1)
    run = _DEPTHWISE.pick(x, weight) if bias is None else _DEPTHWISE.pick(x, weight, bias)
    left = reach if causal else reach - reach // 2
    return run(x, weight, bias, dilation, left, activation_code("activation", activation))


def reference(x: Tensor, weight: Tensor, bias: Tensor | None, dilation: int, left: int, activation: int) -> Tensor:
    """Plain PyTorch form: a convolution whose padding is all on the left or centred."""
    causal = left == (weight.shape[1] - 1) * dilation
    padding: Literal["causal", "same"] = "causal" if causal else "same"
    y = conv1d(x, weight.unsqueeze(1), bias, dilation=dilation, groups=x.shape[-1], padding=padding)
    return activate(y, activation)


def _fake(x: Tensor, weight: Tensor, bias: Tensor | None, dilation: int, left: int, activation: int) -> Tensor:
    return x.new_empty(x.shape)


def _fake_backward(
    grad: Tensor, x: Tensor, weight: Tensor, bias: Tensor | None, *options: Any
) -> tuple[Tensor, Tensor, Tensor]:
    need_x = options[-1]
    by_bias = weight.new_empty(0 if bias is None else bias.shape)
    return x.new_empty(x.shape if need_x else 0), weight.new_empty(weight.shape), by_bias


_OPTIONS = "int dilation, int left, int activation"
_FORWARD = define(f"depthwise_conv1d(Tensor x, Tensor weight, Tensor? bias, {_OPTIONS}) -> Tensor", _fake)
_BACKWARD = define(
    f"depthwise_conv1d_backward(Tensor grad, Tensor x, Tensor weight, Tensor? bias, {_OPTIONS}, bool need_x) "
    "-> (Tensor, Tensor, Tensor)",
    _fake_backward,
)


def _setup(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    ctx.options = inputs[3:]
    ctx.save_for_backward(*inputs[:3])


def _backward(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
    by_x, by_weight, by_bias = _run_backward(grad, *ctx.saved_tensors, *ctx.options, ctx.needs[0])
    return some(by_x), by_weight, some(by_bias), None, None, None


def _setup_second(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    *ctx.options, ctx.need_x = inputs[4:]
    ctx.save_for_backward(*inputs[:4])
    ctx.set_materialize_grads(False)


def _backward_second(ctx: Any, by_x: Tensor | None, *towards: Tensor | None) -> tuple[Any, ...]:
    grad, *tensors = ctx.saved_tensors
    directions = [by_x if ctx.need_x else None, *towards]

    def function(*inputs: Any) -> Tensor:
        return reference(*inputs, *ctx.options)

    (by_grad,), by_input = second_order(function, tensors, [grad], directions)
    return by_grad, *by_input, None, None, None, None


_run = differentiable(_FORWARD, _setup, _backward)
_run_backward = differentiable(_BACKWARD, _setup_second, _backward_second)


def _borrowed(x: Tensor, weight: Tensor, bias: Tensor | None, dilation: int, left: int, activation: int) -> Tensor:
    """Run causal-conv1d where the window is one of its own, else the reference."""
    dim, width = weight.shape
    fits = dilation == 1 and 2 <= width <= 4 and left == width - 1 and dim % 8 == 0 and activation in (0, 3)
    if not fits:
        return reference(x, weight, bias, dilation, left, activation)
    function, _ = rivals.causal_conv()
    assert function is not None, "picked only where rivals.supports found it"

    def run(x: Tensor, weight: Tensor, bias: Tensor | None) -> tuple[Tensor]:
        # It takes [B, D, L] with the channels innermost in memory, which is our layout.
        y = function(x.contiguous().transpose(1, 2), weight, bias, activation="silu" if activation else None)
        return (y.transpose(1, 2),)

    def plain(x: Tensor, weight: Tensor, bias: Tensor | None) -> tuple[Tensor]:
        return (reference(x, weight, bias, dilation, left, activation),)

    return rivals.Borrowed.apply(run, plain, x, weight, bias)[0]


_CONV_DTYPES = (torch.float32, torch.float16, torch.bfloat16)
_DEPTHWISE = Operation(
    "depthwise_conv1d",
    reference,
    (
        Implementation("native", _run, native_supports("depthwise_conv1d", half=True)),
        Implementation("causal_conv1d", _borrowed, rivals.supports(rivals.causal_conv, _CONV_DTYPES), operator=False),
    ),
)
