"""Moving average over time with the edge values repeated."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .._core.errors import check_int
from ._inputs import check_series, native_supports
from ._library import define, differentiable
from .dispatch import Implementation, Operation
from .reference import conv1d


def moving_average(x: Tensor, kernel: int) -> Tensor:
    """Return the centred moving average over time with the edge values repeated as padding.

    Args:
        x: ``[N, T, D]``, T at least 1.
        kernel: window length, at least 1; an even one reaches one step further into the past.

    Source: the trend extraction of Autoformer and DLinear (Zeng et al., AAAI 2023).

    Raises:
        InvalidArgument: a shape or the window is not allowed.
    """
    check_series("x", x, "[N, T, D]")
    if check_int("kernel", kernel, low=1) == 1:
        return x
    return _AVERAGE.pick(x)(x, kernel, kernel // 2)


def reference(x: Tensor, kernel: int, left: int) -> Tensor:
    """Plain PyTorch form: a depthwise convolution with equal taps."""
    padded = torch.cat([x[:, :1].expand(-1, left, -1), x, x[:, -1:].expand(-1, kernel - 1 - left, -1)], dim=1)
    # For windows of some dozens of steps this beats a running sum threefold.
    taps = x.new_full((x.shape[-1], 1, kernel), 1.0 / kernel)
    return conv1d(padded, taps, groups=x.shape[-1], padding="valid")


def _fake(x: Tensor, kernel: int, left: int) -> Tensor:
    return x.new_empty(x.shape)


_FORWARD = define("moving_average(Tensor x, int kernel, int left) -> Tensor", _fake)
_BACKWARD = define("moving_average_backward(Tensor grad, int kernel, int left) -> Tensor", _fake)


def _setup(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    _, ctx.kernel, ctx.left = inputs


def _backward(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
    return _run_backward(grad, ctx.kernel, ctx.left), None, None


def _backward_second(ctx: Any, towards: Tensor) -> tuple[Any, ...]:
    # The map is linear: the gradient of its adjoint is the map itself.
    return _run(towards, ctx.kernel, ctx.left), None, None


_run = differentiable(_FORWARD, _setup, _backward)
_run_backward = differentiable(_BACKWARD, _setup, _backward_second)

_AVERAGE = Operation(
    "moving_average", reference, (Implementation("native", _run, native_supports("moving_average", half=True)),)
)
