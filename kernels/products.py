"""Linear maps and dense convolutions in ``[N, T, D]``: many small products that share one side.

A general matrix product treats each of them as a problem of its own; the compiled form keeps a block of the result in
registers and reads the other side where it lies, transposed or through a window. An activation is applied to a sample
while it still lies in the first cache.
"""

from __future__ import annotations

from functools import partial
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from .._core.errors import InvalidArgument, check_choice, check_int
from . import reference
from ._inputs import check_like, check_series, check_shape, check_taps, native_supports, some
from ._library import define, differentiable, second_order
from .activations import Activation, activate, activation_code
from .dispatch import Implementation, Operation


def time_linear(x: Tensor, weight: Tensor, bias: Tensor | None = None, *, activation: Activation = "none") -> Tensor:
    """Linear map over time, shared by samples and features: ``y[n] = activation(weight · x[n] + bias)``.

    Args:
        x: ``[N, T, D]``.
        weight: ``[O, T]``.
        bias: ``[O]`` or None.
        activation: applied to the result.

    Returns:
        ``[N, O, D]``, contiguous; no transpose is paid.

    Raises:
        InvalidArgument: shapes or dtypes do not agree, or the activation is unknown.
    """
    check_series("x", x, "[N, T, D]")
    check_shape("weight", weight, (None, x.shape[1]), "[O, T]")
    _check_types(x, weight, bias)
    code = activation_code("activation", activation)
    return _TIME_LINEAR.pick(x, weight)(x, weight, bias, code)


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None, *, activation: Activation = "none") -> Tensor:
    """Linear map over the features: ``[N, T, I] -> [N, T, O]``, as ``torch.nn.functional.linear`` and an activation.

    Args:
        x: ``[N, T, I]``.
        weight: ``[O, I]``.
        bias: ``[O]`` or None.
        activation: applied to the result.

    Raises:
        InvalidArgument: shapes or dtypes do not agree, or the activation is unknown.
    """
    check_shape("x", x, (None, None, None), "[N, T, I]")
    check_shape("weight", weight, (None, x.shape[2]), "[O, I]")
    _check_types(x, weight, bias)
    return _LINEAR.pick(x, weight)(x, weight, bias, activation_code("activation", activation))


def conv1d(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    stride: int = 1,
    dilation: int = 1,
    groups: int = 1,
    padding: Literal["same", "causal", "valid"] = "same",
    activation: Activation = "none",
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
        activation: applied to the result.

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
    code = activation_code("activation", activation)
    if stride != 1 or groups != 1 or padding == "valid":
        y = reference.conv1d(x, weight, bias, stride=stride, dilation=dilation, groups=groups, padding=padding)
        return activate(y, code)
    left = reach if padding == "causal" else reach - reach // 2
    return _CONV.pick(x, weight)(x, weight, bias, dilation, left, code)


def _check_types(x: Tensor, weight: Tensor, bias: Tensor | None) -> None:
    check_like("weight", weight, x)
    if bias is not None:
        check_shape("bias", bias, (weight.shape[0],), "[O]")
        check_like("bias", bias, x)


def _time_reference(x: Tensor, weight: Tensor, bias: Tensor | None, activation: int) -> Tensor:
    return activate(reference.time_linear(x, weight, bias), activation)


def _conv_reference(
    x: Tensor, weight: Tensor, bias: Tensor | None, dilation: int, left: int, activation: int
) -> Tensor:
    causal = left == (weight.shape[2] - 1) * dilation
    y = reference.conv1d(x, weight, bias, dilation=dilation, padding="causal" if causal else "same")
    return activate(y, activation)


def _linear_reference(x: Tensor, weight: Tensor, bias: Tensor | None, activation: int) -> Tensor:
    return activate(F.linear(x, weight, bias), activation)


def _time_fake(x: Tensor, weight: Tensor, *rest: Any) -> tuple[Tensor, Tensor]:
    return _pair(x, (x.shape[0], weight.shape[0], x.shape[2]), rest[-1])


def _conv_fake(x: Tensor, weight: Tensor, *rest: Any) -> tuple[Tensor, Tensor]:
    return _pair(x, (x.shape[0], x.shape[1], weight.shape[0]), rest[-1])


def _pair(x: Tensor, shape: tuple[int, ...], keep: bool) -> tuple[Tensor, Tensor]:
    return x.new_empty(shape), x.new_empty(shape if keep else 0)


def _fake_backward(
    grad: Tensor, kept: Tensor | None, x: Tensor, weight: Tensor, *rest: Any
) -> tuple[Tensor, Tensor, Tensor]:
    by_x, by_weight = rest[-1] & 1, rest[-1] & 2
    return (
        x.new_empty(x.shape if by_x else 0),
        weight.new_empty(weight.shape if by_weight else 0),
        weight.new_empty(weight.shape[0] if by_weight else 0),
    )


def _setup(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    x, weight, bias, *ctx.options, _ = inputs
    ctx.biased = bias is not None
    activation = ctx.options[-1]
    # A bias counts for the slopes only, and they for the second derivative only.
    kept = (None, output[0], output[1], output[1])[activation]
    ctx.save_for_backward(kept, x, weight, bias if activation else None)
    ctx.mark_non_differentiable(output[1])
    ctx.set_materialize_grads(False)


def _backward(operator: Any, ctx: Any, grad: Tensor | None, _kept: None) -> tuple[Tensor | None, ...]:
    rest = [None] * (len(ctx.options) + 1)
    if grad is None:
        return None, None, None, *rest
    by_x, by_weight, by_bias = ctx.needs[:3]
    needs = by_x | 2 * (by_weight or by_bias)
    grads = operator(grad, *ctx.saved_tensors, *ctx.options, needs)
    return some(grads[0]), some(grads[1]), some(grads[2]) if ctx.biased else None, *rest


def _setup_second(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    grad, _, x, weight, bias, *ctx.options, ctx.needs = inputs
    ctx.biased = bias is not None
    ctx.save_for_backward(grad, x, weight, bias)
    ctx.set_materialize_grads(False)


def _backward_second(function: Any, ctx: Any, *towards: Tensor | None) -> tuple[Any, ...]:
    grad, x, weight, bias = ctx.saved_tensors
    # Without a bias too, its gradient is that of a bias of zeros.
    bias = weight.new_zeros(weight.shape[0]) if bias is None else bias
    wanted = [ctx.needs & 1, ctx.needs & 2, ctx.needs & 2]
    directions = [v if want else None for v, want in zip(towards, wanted, strict=True)]

    def call(*inputs: Tensor) -> Tensor:
        return function(*inputs, *ctx.options)

    (by_grad,), by_input = second_order(call, [x, weight, bias], [grad], directions)
    by_bias = by_input[2] if ctx.biased else None
    return by_grad, None, *by_input[:2], by_bias, *[None] * (len(ctx.options) + 1)


def _operators(name: str, options: str, fake: Any, function: Any) -> tuple[Any, Any, Any]:
    """Define the forward and the backward operator of one form; the third is the short way to the first."""
    inputs = f"Tensor x, Tensor weight, Tensor? bias, {options}"
    run = define(f"{name}({inputs}, bool keep) -> (Tensor, Tensor)", fake)
    run_backward = define(
        f"{name}_backward(Tensor grad, Tensor? kept, {inputs}, int needs) -> (Tensor, Tensor, Tensor)", _fake_backward
    )
    call_backward = differentiable(run_backward, _setup_second, partial(_backward_second, function))
    return run, run_backward, differentiable(run, _setup, partial(_backward, call_backward))


_TIME_FORWARD, _TIME_BACKWARD, _run_time = _operators("time_linear", "int activation", _time_fake, _time_reference)
_CONV_FORWARD, _CONV_BACKWARD, _run_conv = _operators(
    "step_conv1d", "int dilation, int left, int activation", _conv_fake, _conv_reference
)


def _keep(activation: int, *tensors: Tensor | None) -> bool:
    """Return whether the activation has to keep what it is given for the gradient; ReLU keeps its result."""
    return activation > 1 and torch.is_grad_enabled() and torch._C._any_requires_grad(*tensors)


def _native_time(x: Tensor, weight: Tensor, bias: Tensor | None, activation: int) -> Tensor:
    return _run_time(x, weight, bias, activation, _keep(activation, x, weight, bias))[0]


def _native_conv(x: Tensor, weight: Tensor, bias: Tensor | None, dilation: int, left: int, activation: int) -> Tensor:
    return _run_conv(x, weight, bias, dilation, left, activation, _keep(activation, x, weight, bias))[0]


def _native_linear(x: Tensor, weight: Tensor, bias: Tensor | None, activation: int) -> Tensor:
    return _native_conv(x, weight.unsqueeze(2), bias, 1, 0, activation)


_TIME_LINEAR = Operation(
    "time_linear",
    _time_reference,
    (Implementation("native", _native_time, native_supports("time_linear")),),
)
_CONV = Operation("conv1d", _conv_reference, (Implementation("native", _native_conv, native_supports("step_conv1d")),))
_LINEAR = Operation(
    "linear", _linear_reference, (Implementation("native", _native_linear, native_supports("step_conv1d")),)
)
