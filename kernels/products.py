"""Linear maps and dense convolutions in ``[N, T, D]``: many small products that share one side.

A general matrix product treats each of them as a problem of its own; the compiled form keeps a block of the result in
registers and reads the other side where it lies, transposed or through a window.
"""

from __future__ import annotations

from typing import Any, Literal

import torch.nn.functional as F
from torch import Tensor

from .._core.errors import InvalidArgument, check_choice, check_int
from . import reference
from ._inputs import check_like, check_series, check_shape, check_taps, native_supports, some
from ._library import define, differentiable, second_order
from .dispatch import Implementation, Operation


def time_linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Linear map over time, shared by samples and features: ``y[n] = weight · x[n] + bias``.

    Args:
        x: ``[N, T, D]``.
        weight: ``[O, T]``.
        bias: ``[O]`` or None.

    Returns:
        ``[N, O, D]``, contiguous; no transpose is paid.

    Raises:
        InvalidArgument: shapes or dtypes do not agree.
    """
    check_series("x", x, "[N, T, D]")
    check_shape("weight", weight, (None, x.shape[1]), "[O, T]")
    _check_types(x, weight, bias)
    return _TIME_LINEAR.pick(x, weight)(x, weight, bias)


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Linear map over the features: ``[N, T, I] -> [N, T, O]``, as ``torch.nn.functional.linear``.

    Args:
        x: ``[N, T, I]``.
        weight: ``[O, I]``.
        bias: ``[O]`` or None.

    Raises:
        InvalidArgument: shapes do not agree.
    """
    check_shape("x", x, (None, None, None), "[N, T, I]")
    check_shape("weight", weight, (None, x.shape[2]), "[O, I]")
    _check_types(x, weight, bias)
    return _LINEAR.pick(x, weight)(x, weight, bias)


def conv1d(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    stride: int = 1,
    dilation: int = 1,
    groups: int = 1,
    padding: Literal["same", "causal", "valid"] = "same",
) -> Tensor:
    """Convolution over time in ``[N, T, D]``; compiled for one group and a stride of 1, zero padded.

    Args:
        x: ``[N, T, I]``.
        weight: ``[O, I / groups, W]``.
        bias: ``[O]`` or None.
        stride: steps between two outputs.
        dilation: steps between two taps.
        groups: ``I`` for a depthwise convolution (``depthwise_conv1d`` is faster).
        padding: ``"same"`` pads zeros around a centred window (an even one reaches one step further into the past),
            ``"causal"`` pads on the left only, so that no output sees a later step, ``"valid"`` does not pad.

    Returns:
        ``[N, ceil(T / stride), O]``, or fewer steps if valid; contiguous.

    Raises:
        InvalidArgument: shapes or dtypes do not agree, or a value is out of range.
    """
    check_series("x", x, "[N, T, I]")
    check_shape("weight", weight, (None, x.shape[2] // check_int("groups", groups, low=1), None), "[O, I / groups, W]")
    check_taps(weight)
    _check_types(x, weight, bias)
    if x.shape[2] % groups or weight.shape[0] % groups:
        raise InvalidArgument(f"groups={groups} must divide I = {x.shape[2]} and O = {weight.shape[0]}.")
    reach = (weight.shape[2] - 1) * check_int("dilation", dilation, low=1)
    if check_choice("padding", padding, ("same", "causal", "valid")) == "valid" and reach >= x.shape[1]:
        raise InvalidArgument(f"x has {x.shape[1]} steps; with padding='valid' it needs at least {reach + 1}.")
    check_int("stride", stride, low=1)
    if stride != 1 or groups != 1 or padding == "valid":
        return reference.conv1d(x, weight, bias, stride=stride, dilation=dilation, groups=groups, padding=padding)
    left = reach if padding == "causal" else reach - reach // 2
    return _CONV.pick(x, weight)(x, weight, bias, dilation, left)


def _check_types(x: Tensor, weight: Tensor, bias: Tensor | None) -> None:
    check_like("weight", weight, x)
    if bias is not None:
        check_shape("bias", bias, (weight.shape[0],), "[O]")
        check_like("bias", bias, x)


def _conv_reference(x: Tensor, weight: Tensor, bias: Tensor | None, dilation: int, left: int) -> Tensor:
    causal = left == (weight.shape[2] - 1) * dilation
    return reference.conv1d(x, weight, bias, dilation=dilation, padding="causal" if causal else "same")


def _time_fake(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    return x.new_empty(x.shape[0], weight.shape[0], x.shape[2])


def _conv_fake(x: Tensor, weight: Tensor, bias: Tensor | None, dilation: int, left: int) -> Tensor:
    return x.new_empty(x.shape[0], x.shape[1], weight.shape[0])


def _fake_backward(grad: Tensor, x: Tensor, weight: Tensor, *rest: int) -> tuple[Tensor, Tensor, Tensor]:
    by_x, by_weight = rest[-1] & 1, rest[-1] & 2
    return (
        x.new_empty(x.shape if by_x else 0),
        weight.new_empty(weight.shape if by_weight else 0),
        weight.new_empty(weight.shape[0] if by_weight else 0),
    )


_TIME_FORWARD = define("time_linear(Tensor x, Tensor weight, Tensor? bias) -> Tensor", _time_fake)
_TIME_BACKWARD = define(
    "time_linear_backward(Tensor grad, Tensor x, Tensor weight, int needs) -> (Tensor, Tensor, Tensor)", _fake_backward
)
_CONV_FORWARD = define(
    "step_conv1d(Tensor x, Tensor weight, Tensor? bias, int dilation, int left) -> Tensor", _conv_fake
)
_CONV_BACKWARD = define(
    "step_conv1d_backward(Tensor grad, Tensor x, Tensor weight, int dilation, int left, int needs) "
    "-> (Tensor, Tensor, Tensor)",
    _fake_backward,
)


def _setup(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    x, weight, bias, *ctx.options = inputs
    ctx.biased = bias is not None
    ctx.save_for_backward(x, weight)


def _backward(operator: Any) -> Any:
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        by_x, by_weight, by_bias = ctx.needs[:3]
        needs = by_x | 2 * (by_weight or by_bias)
        grads = operator(grad, *ctx.saved_tensors, *ctx.options, needs)
        return some(grads[0]), some(grads[1]), some(grads[2]) if ctx.biased else None, *[None] * len(ctx.options)

    return backward


def _setup_second(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    grad, x, weight, *ctx.options, ctx.needs = inputs
    ctx.save_for_backward(grad, x, weight)
    ctx.set_materialize_grads(False)


def _backward_second(function: Any) -> Any:
    def backward(ctx: Any, by_x: Tensor | None, by_weight: Tensor | None, by_bias: Tensor | None) -> tuple[Any, ...]:
        grad, x, weight = ctx.saved_tensors
        # The gradient of the bias is a sum of `grad`, as if a bias of zeros had been added.
        zeros = weight.new_zeros(weight.shape[0])
        wanted = [ctx.needs & 1, ctx.needs & 2, ctx.needs & 2]
        directions = [v if want else None for v, want in zip((by_x, by_weight, by_bias), wanted, strict=True)]

        def call(*inputs: Tensor) -> Tensor:
            return function(*inputs, *ctx.options)

        (by_grad,), by_input = second_order(call, [x, weight, zeros], [grad], directions)
        return by_grad, *by_input[:2], *[None] * (len(ctx.options) + 1)

    return backward


_run_time_backward = differentiable(_TIME_BACKWARD, _setup_second, _backward_second(reference.time_linear))
_run_time = differentiable(_TIME_FORWARD, _setup, _backward(_run_time_backward))
_run_conv_backward = differentiable(_CONV_BACKWARD, _setup_second, _backward_second(_conv_reference))
_run_conv = differentiable(_CONV_FORWARD, _setup, _backward(_run_conv_backward))


def _native_linear(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    return _run_conv(x, weight.unsqueeze(2), bias, 1, 0)


_TIME_LINEAR = Operation(
    "time_linear",
    reference.time_linear,
    (Implementation("native", _run_time, native_supports("time_linear")),),
)
_CONV = Operation("conv1d", _conv_reference, (Implementation("native", _run_conv, native_supports("step_conv1d")),))
_LINEAR = Operation("linear", F.linear, (Implementation("native", _native_linear, native_supports("step_conv1d")),))
