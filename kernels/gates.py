"""The product of two halves of the features, one of them activated: the middle of a gated feed-forward block."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from .._core.errors import InvalidArgument
from ._inputs import native_supports
from ._library import define, differentiable, second_order
from .activations import Activation, activate, activation_code
from .dispatch import Implementation, Operation


def gated_act(x: Tensor, *, activation: Activation = "silu") -> Tensor:
    """Return ``activation(gate) · value`` of ``x = [gate, value]``: ``[..., 2 W] -> [..., W]``.

    Args:
        x: ``[..., 2 W]``, the gate before the value. Neither is copied, and their gradient is one tensor.
        activation: ``"silu"`` makes a SwiGLU of it, ``"gelu"`` a GeGLU (Shazeer, "GLU variants", 2020).

    Raises:
        InvalidArgument: the last dimension of x is odd or missing, or the activation is unknown.
    """
    if x.dim() == 0 or x.shape[-1] % 2:
        raise InvalidArgument(f"x has shape {tuple(x.shape)}; it must be [..., 2 W], two halves of one width.")
    return _GATED.pick(x)(x, activation_code("activation", activation))


def reference(x: Tensor, activation: int) -> Tensor:
    """Plain PyTorch form."""
    gate, value = x.chunk(2, dim=-1)
    return activate(gate, activation) * value


def _fake(x: Tensor, activation: int) -> Tensor:
    return x.new_empty(*x.shape[:-1], x.shape[-1] // 2)


def _fake_backward(grad: Tensor, x: Tensor, activation: int) -> Tensor:
    return x.new_empty(x.shape)


_FORWARD = define("gated_act(Tensor x, int activation) -> Tensor", _fake)
_BACKWARD = define("gated_act_backward(Tensor grad, Tensor x, int activation) -> Tensor", _fake_backward)


def _setup(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    x, ctx.activation = inputs
    ctx.save_for_backward(x)


def _backward(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
    return _run_backward(grad, *ctx.saved_tensors, ctx.activation), None


def _setup_second(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    grad, x, ctx.activation = inputs
    ctx.save_for_backward(grad, x)


def _backward_second(ctx: Any, towards: Tensor) -> tuple[Any, ...]:
    grad, x = ctx.saved_tensors
    (by_grad,), (by_x,) = second_order(lambda inner: reference(inner, ctx.activation), [x], [grad], [towards])
    return by_grad, by_x, None


_run = differentiable(_FORWARD, _setup, _backward)
_run_backward = differentiable(_BACKWARD, _setup_second, _backward_second)

_GATED = Operation("gated_act", reference, (Implementation("native", _run, native_supports("gated_act", half=True)),))
