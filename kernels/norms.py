"""A norm over the features with everything an op does around it."""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import partial
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from .._core.errors import InvalidArgument, check_choice
from .._core.logging import get_logger, log_once
from . import _triton
from ._inputs import check_like, check_shape, computed, native_supports, some
from ._library import define, differentiable, second_order
from .activations import Activation, activate, activation_code
from .dispatch import Implementation, Operation

_WIDEST = 1 << 14  # features; the Triton form holds a row in registers
_logger = get_logger("foreblocks.darts.kernels")


def norm_act(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    residual: Tensor | None = None,
    gate: Tensor | None = None,
    scale: Tensor | None = None,
    kind: Literal["rms", "layer"] = "rms",
    eps: float = 1e-6,
    before: Activation = "none",
    after: Activation = "none",
) -> Tensor:
    """Return ``after(norm(residual + before(x) · sigmoid(gate) · scale) · weight + bias)`` in one pass.

    Args:
        x: ``[..., D]``; a half of a ``chunk`` over the features is taken without a copy.
        weight: ``[D]``.
        bias: ``[D]`` or None.
        residual: like ``x``, or None.
        gate: like ``x``, before its sigmoid, or None.
        scale: ``[N, 1, D]`` with ``x`` ``[N, T, D]``, or None; a dropout mask. It gets no gradient.
        kind: ``"rms"`` (Zhang and Sennrich, 2019) or ``"layer"`` (Ba et al., 2016).
        eps: added to the mean square, or to the variance.
        before: activation of the branch: ``none``, ``relu``, ``gelu`` (exact) or ``silu``.
        after: activation of the result, one of the same.

    Raises:
        InvalidArgument: shapes or dtypes do not agree, or a name is unknown.
    """
    _check(x, weight, bias, residual, gate, scale)
    run = _NORM_ACT.pick(x, *(each for each in (weight, bias, residual, gate) if each is not None))
    centre = check_choice("kind", kind, ("rms", "layer")) == "layer"
    codes = activation_code("before", before), activation_code("after", after)
    return run(x, weight, bias, residual, gate, scale, centre, eps, *codes)


def _check(
    x: Tensor, weight: Tensor, bias: Tensor | None, residual: Tensor | None, gate: Tensor | None, scale: Tensor | None
) -> None:
    if x.dim() == 0:
        raise InvalidArgument("x is a single number; it must be [..., D].")
    dim = x.shape[-1]
    check_shape("weight", weight, (dim,), "[D]")
    if bias is not None:
        check_shape("bias", bias, (dim,), "[D]")
    if residual is not None:
        check_shape("residual", residual, tuple(x.shape), "like x")
    if gate is not None:
        check_shape("gate", gate, tuple(x.shape), "like x")
    if scale is not None:
        check_shape("scale", scale, (x.shape[0], 1, dim), "[N, 1, D]")
        if x.dim() != 3:
            raise InvalidArgument(f"scale needs x of shape [N, T, D], not {tuple(x.shape)}.")
    for name, each in (("weight", weight), ("bias", bias), ("residual", residual), ("gate", gate), ("scale", scale)):
        if each is not None:
            check_like(name, each, x)


def reference(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    residual: Tensor | None,
    gate: Tensor | None,
    scale: Tensor | None,
    centre: bool,
    eps: float,
    before: int,
    after: int,
) -> Tensor:
    """Plain PyTorch form."""
    branch = activate(x, before)
    if gate is not None:
        branch = branch * torch.sigmoid(gate)
    if scale is not None:
        branch = branch * scale.detach()
    if residual is not None:
        branch = residual + branch
    if centre:
        y = F.layer_norm(branch, weight.shape, weight, bias, eps)
    else:
        y = F.rms_norm(branch, weight.shape, weight, eps)
        y = y if bias is None else y + bias
    return activate(y, after)


def _fake(x: Tensor, weight: Tensor, *rest: Any) -> tuple[Tensor, Tensor]:
    return x.new_empty(x.shape), x.new_empty(x.numel() // x.shape[-1], 2, dtype=computed(x.dtype))


def _fake_backward(
    grad: Tensor, stats: Tensor, x: Tensor, weight: Tensor, bias: Tensor | None, *rest: Any
) -> tuple[Tensor, ...]:
    needs = rest[-1]
    fresh = [x.new_empty(x.shape if needs & bit else 0) for bit in (1, 4, 8)]
    by_weight = weight.new_empty(weight.shape if needs & 2 else 0)
    by_bias = weight.new_empty(weight.shape if needs & 2 and bias is not None else 0)
    return fresh[0], by_weight, by_bias, fresh[1], fresh[2]


_OPTIONS = "Tensor? bias, Tensor? residual, Tensor? gate, Tensor? scale, bool centre, float eps, int before, int after"


def _setup(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    *tensors, ctx.centre, ctx.eps, ctx.before, ctx.after = inputs
    ctx.save_for_backward(output[1], *tensors)
    ctx.mark_non_differentiable(output[1])
    ctx.set_materialize_grads(False)


def _backward(operator: Any, ctx: Any, grad: Tensor | None, _stats: Tensor | None) -> tuple[Tensor | None, ...]:
    if grad is None:
        return (None,) * 10
    stats, *tensors = ctx.saved_tensors
    x, weight, bias, residual, gate, _ = ctx.needs[:6]
    needs = x | 2 * (weight or bias) | 4 * residual | 8 * gate
    options = ctx.centre, ctx.eps, ctx.before, ctx.after
    by_x, by_weight, by_bias, by_residual, by_gate = map(some, operator(grad, stats, *tensors, *options, needs))
    return by_x, by_weight, by_bias, by_residual, by_gate, None, None, None, None, None


def _setup_second(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    grad, _, *tensors, ctx.centre, ctx.eps, ctx.before, ctx.after, ctx.needs = inputs
    ctx.save_for_backward(grad, *tensors)
    ctx.set_materialize_grads(False)


def _backward_second(ctx: Any, *towards: Tensor | None) -> tuple[Tensor | None, ...]:
    grad, *tensors, scale = ctx.saved_tensors
    wanted = [ctx.needs & 1, ctx.needs & 2, ctx.needs & 2, ctx.needs & 4, ctx.needs & 8]
    directions = [value if want else None for value, want in zip(towards, wanted, strict=True)]

    def function(
        x: Tensor, weight: Tensor, bias: Tensor | None, residual: Tensor | None, gate: Tensor | None
    ) -> Tensor:
        return reference(x, weight, bias, residual, gate, scale, ctx.centre, ctx.eps, ctx.before, ctx.after)

    (by_grad,), by_input = second_order(function, tensors, [grad], directions)
    return by_grad, None, *by_input, None, None, None, None, None, None


def _operators(prefix: str, forward: Any = None, backward: Any = None) -> tuple[Any, Any, Callable[..., Any]]:
    """Define the forward and the backward operator of one form; the third is the short way to the first."""
    run = define(f"{prefix}norm_act(Tensor x, Tensor weight, {_OPTIONS}) -> (Tensor, Tensor)", _fake, forward)
    run_backward = define(
        f"{prefix}norm_act_backward(Tensor grad, Tensor stats, Tensor x, Tensor weight, {_OPTIONS}, int needs) "
        "-> (Tensor, Tensor, Tensor, Tensor, Tensor)",
        _fake_backward,
        backward,
    )
    call_backward = differentiable(run_backward, _setup_second, _backward_second)
    return run, run_backward, differentiable(run, _setup, partial(_backward, call_backward))


_FORWARD, _BACKWARD, _run = _operators("")
_TRITON, _, _run_triton = _operators("triton_", *_triton.late_pair("triton_norm"))


def _native(*arguments: Any) -> Tensor:
    return _run(*arguments)[0]


def _in_triton(x: Tensor, *arguments: Any) -> Tensor:
    if x.shape[-1] > _WIDEST:
        log_once(_logger, logging.INFO, f"norm_act of more than {_WIDEST} features runs as plain PyTorch on a GPU")
        return reference(x, *arguments)
    return _run_triton(x, *arguments)[0]


_NORM_ACT = Operation(
    "norm_act",
    reference,
    (
        Implementation("native", _native, native_supports("norm_act", half=True)),
        Implementation("triton", _in_triton, _triton.supports),
    ),
)
