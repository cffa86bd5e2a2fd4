"""The weighted sum of a mixture of operations."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Literal, overload

import torch
from torch import Tensor

from .._core.errors import InvalidArgument
from . import _triton
from ._inputs import native_supports
from ._library import define, differentiable_by, second_order
from .dispatch import Implementation, Operation, autocasting


@overload
def mixed_sum(
    xs: Sequence[Tensor], weights: Tensor, *, normalize: bool = False, mean_squares: Literal[False] = False
) -> Tensor: ...
@overload
def mixed_sum(
    xs: Sequence[Tensor], weights: Tensor, *, normalize: bool = False, mean_squares: Literal[True]
) -> tuple[Tensor, Tensor]: ...
def mixed_sum(
    xs: Sequence[Tensor], weights: Tensor, *, normalize: bool = False, mean_squares: bool = False
) -> Tensor | tuple[Tensor, Tensor]:
    """Return ``Σ_k weights[k] · xs[k]`` in one pass, without stacking.

    Args:
        xs: K tensors of one shape and dtype, such as ``[N, T, D]``.
        weights: ``[K]``, of the same dtype, on the same device.
        normalize: divide the weights by their sum.
        mean_squares: also return the mean square of every ``xs[k]``, ``[K]``, without gradient.

    Raises:
        InvalidArgument: the lengths, shapes, dtypes or devices do not agree.
    """
    _check(xs, weights)
    run = _MIXED_SUM.pick(weights, *xs)
    total, squares = run(list(xs), weights, normalize, mean_squares)
    return (total, squares) if mean_squares else total


def _check(xs: Sequence[Tensor], weights: Tensor) -> None:
    if len(xs) == 0 or weights.dim() != 1 or len(xs) != weights.shape[0]:
        raise InvalidArgument(f"xs has {len(xs)} tensors, but weights has shape {tuple(weights.shape)}, not [K].")
    shape, dtype, device = xs[0].shape, weights.dtype, weights.device
    for k, x in enumerate(xs):
        if x.shape != shape:
            raise InvalidArgument(f"xs[{k}] has shape {tuple(x.shape)}, but xs[0] has {tuple(shape)}.")
        if x.dtype != dtype and not autocasting():
            raise InvalidArgument(f"xs[{k}] has dtype {x.dtype}, but weights has {dtype}.")
        if x.device != device:
            raise InvalidArgument(f"xs[{k}] is on {x.device}, but weights is on {device}.")


def reference(
    xs: Sequence[Tensor], weights: Tensor, normalize: bool = False, mean_squares: bool = False
) -> tuple[Tensor, Tensor]:
    """Plain PyTorch form; the second result is empty without ``mean_squares``."""
    if normalize:
        weights = weights / weights.sum()
    total = xs[0] * weights[0]
    for x, w in zip(xs[1:], weights[1:].unbind(), strict=True):
        total = torch.addcmul(total, x, w)
    squares = torch.stack([x.detach().square().mean() for x in xs]) if mean_squares else weights.new_empty(0)
    return total, squares


def _reference_backward(
    grad: Tensor, xs: list[Tensor], weights: Tensor, normalize: bool, wanted: list[int]
) -> tuple[list[Tensor], Tensor]:
    total = weights.sum() if normalize else weights.new_ones(())
    shares = weights / total
    grads = [grad * shares[k] for k in wanted]
    if not xs:
        return grads, weights.new_empty(0)
    dots = torch.stack([(grad * x).sum() for x in xs])
    return grads, ((dots - (shares * dots).sum()) / total if normalize else dots)


def _fake(xs: list[Tensor], weights: Tensor, normalize: bool, mean_squares: bool) -> tuple[Tensor, Tensor]:
    return xs[0].new_empty(xs[0].shape), weights.new_empty(weights.shape[0] if mean_squares else 0)


def _fake_backward(
    grad: Tensor, xs: list[Tensor], weights: Tensor, normalize: bool, wanted: list[int]
) -> tuple[list[Tensor], Tensor]:
    return [grad.new_empty(grad.shape) for _ in wanted], weights.new_empty(weights.shape[0] if xs else 0)


class _Sum(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, operator: Any, run: Any, normalize: bool, mean_squares: bool, weights: Tensor, *xs: Tensor
    ) -> Any:
        total, squares = run(list(xs), weights, normalize, mean_squares)
        _, _, _, _, need_weights, *need_xs = ctx.needs_input_grad
        ctx.operator = operator
        ctx.wanted = [k for k, need in enumerate(need_xs) if need]
        ctx.normalize, ctx.count = normalize, len(xs)
        ctx.save_for_backward(weights, *(xs if need_weights else ()))
        ctx.mark_non_differentiable(squares)
        ctx.set_materialize_grads(False)
        return total, squares

    @staticmethod
    def backward(ctx: Any, grad: Tensor | None, _squares: Any) -> Any:
        by_input: list[Tensor | None] = [None] * ctx.count
        if grad is None:
            return None, None, None, None, None, *by_input
        weights, *xs = ctx.saved_tensors
        # Of many gradients in one pass torch can make single calls of any operator, but not of one with lists.
        many = torch._C._are_functorch_transforms_active() or torch._C._functorch.is_legacy_batchedtensor(grad)
        operator = _reference_backward if many else ctx.operator
        grads, grad_weights = operator(grad, xs, weights, ctx.normalize, ctx.wanted)
        for k, value in zip(ctx.wanted, grads, strict=True):
            by_input[k] = value
        return None, None, None, None, grad_weights if xs else None, *by_input


class _SumBackward(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, run: Any, normalize: bool, wanted: list[int], grad: Tensor, weights: Tensor, *xs: Tensor
    ) -> Any:
        grads, grad_weights = run(grad, list(xs), weights, normalize, wanted)
        ctx.normalize, ctx.wanted = normalize, wanted
        ctx.save_for_backward(grad, weights, *xs)
        ctx.set_materialize_grads(False)
        return grad_weights, *grads

    @staticmethod
    def backward(ctx: Any, towards_weights: Tensor | None, *towards: Tensor | None) -> Any:
        grad, weights, *xs = ctx.saved_tensors
        count = weights.shape[0]
        # Without the inputs only their own gradients were asked for, and those do not depend on them.
        data = xs if xs else [torch.zeros_like(grad) for _ in range(count)]
        directions: list[Tensor | None] = [None] * count
        for k, value in zip(ctx.wanted, towards, strict=True):
            directions[k] = value
        directions.append(towards_weights if xs else None)

        def function(*inputs: Tensor) -> Tensor:
            return reference(inputs[:-1], inputs[-1], ctx.normalize)[0]

        (by_grad,), by_input = second_order(function, [*data, weights], [grad], directions)
        return None, None, None, by_grad, by_input[-1], *(by_input[:-1] if xs else ())


def _apply(
    operator: Any, run: Any, xs: list[Tensor], weights: Tensor, normalize: bool, mean_squares: bool
) -> tuple[Tensor, Tensor]:
    return _Sum.apply(operator, run, normalize, mean_squares, weights, *xs)


def _apply_backward(
    run: Any, grad: Tensor, xs: list[Tensor], weights: Tensor, normalize: bool, wanted: list[int]
) -> tuple[list[Tensor], Tensor]:
    grad_weights, *grads = _SumBackward.apply(run, normalize, wanted, grad, weights, *xs)
    return grads, grad_weights


def _operators(prefix: str, forward: Any = None, backward: Any = None) -> tuple[Any, Any, Callable[..., Any]]:
    """Define the forward and the backward operator of one form; the third is the short way to the first."""
    run = define(
        f"{prefix}mixed_sum(Tensor[] xs, Tensor weights, bool normalize, bool mean_squares) -> (Tensor, Tensor)",
        _fake,
        forward,
    )
    # `xs` is empty when the weights need no gradient: then nothing has to be kept of them.
    run_backward = define(
        f"{prefix}mixed_sum_backward(Tensor grad, Tensor[] xs, Tensor weights, bool normalize, int[] wanted) "
        "-> (Tensor[], Tensor)",
        _fake_backward,
        backward,
    )
    call_backward = differentiable_by(run_backward, _apply_backward)
    return run, run_backward, differentiable_by(run, partial(_apply, call_backward))


_FORWARD, _BACKWARD, _run = _operators("")
_TRITON, _, _run_triton = _operators("triton_", *_triton.late_pair("triton_mixture"))

_MIXED_SUM = Operation(
    "mixed_sum",
    reference,
    (
        Implementation("native", _run, native_supports("mixed_sum", half=True)),
        Implementation("triton", _run_triton, _triton.supports),
    ),
)
