"""Registration of operators with ``torch.library``: schema, fake and gradient on the forward and the backward form.

A gradient on the forward operator alone would make double backward silently wrong, so the backward operator has one
too: ``second_order`` differentiates the gradient of the reference.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from . import _native

# FRAGMENT and not DEF: other files may add operators of their own to the namespace.
LIBRARY = torch.library.Library(_native.NAMESPACE, "FRAGMENT")
_TAGS = (torch.Tag.needs_contiguous_strides, torch.Tag.pt2_compliant_tag)


def define(schema: str, fake: Callable[..., Any], run: Callable[..., Any] | None = None) -> torch._ops.OpOverload:
    """Define an operator and what it does to shapes; return it.

    Args:
        schema: such as ``"moving_average(Tensor x, int kernel) -> Tensor"``.
        fake: the same signature on tensors without data.
        run: the same signature; computes it on every device. None where a compiled library registers its own.
    """
    LIBRARY.define(schema, tags=_TAGS)
    name = schema.partition("(")[0]
    torch.library.register_fake(f"{_native.NAMESPACE}::{name}", fake, lib=LIBRARY)
    if run is not None:
        LIBRARY.impl(name, run, "CompositeExplicitAutograd")
    return getattr(getattr(torch.ops, _native.NAMESPACE), name).default


def differentiable(
    operator: torch._ops.OpOverload, setup: Callable[..., None], backward: Callable[..., Any]
) -> Callable[..., Any]:
    """Give an operator its gradient; return what calls it the short way.

    ``torch.library.register_autograd`` would do, but its layers cost more than the arithmetic of a small call: 32 µs
    against 21 µs for the moving average of 64 numbers with its gradient.

    Args:
        operator: takes no list of tensors.
        setup: called as ``setup(ctx, inputs, output)``; ``ctx.needs`` says which inputs need a gradient.
        backward: called as ``backward(ctx, *grads)``; returns one gradient for each input, or None.
    """

    class Gradient(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, run: Any, *inputs: Any) -> Any:
            output = run(*inputs)
            ctx.needs = ctx.needs_input_grad[1:]
            setup(ctx, inputs, output)
            return output

        @staticmethod
        def backward(ctx: Any, *grads: Tensor | None) -> Any:
            return None, *backward(ctx, *grads)

    return differentiable_by(operator, Gradient.apply)


def differentiable_by(operator: torch._ops.OpOverload, apply: Callable[..., Any]) -> Callable[..., Any]:
    """Give an operator its gradient by an ``autograd.Function``; return what calls it the short way.

    Args:
        operator: may take lists of tensors, for which torch's own way, through pytrees, costs 60 µs a call.
        apply: called as ``apply(run, *args)`` when a gradient is needed; calls the ``autograd.Function``, any lists
            flattened, in which ``run(*args)`` calls the operator below autograd.

    Returns:
        A function like ``operator`` that spares a run in eager mode the way through its Autograd key.
    """

    def kernel(keyset: Any, *args: Any) -> Any:
        def run(*inner: Any) -> Any:
            with torch._C._AutoDispatchBelowAutograd():
                return operator.redispatch(keyset & torch._C._after_autograd_keyset, *inner)

        if torch.is_grad_enabled() and torch._C._any_requires_grad(*args):
            return apply(run, *args)
        return run(*args)

    def below(*args: Any) -> Any:
        with torch._C._AutoDispatchBelowAutograd():
            return operator(*args)

    def call(*args: Any) -> Any:
        if torch.compiler.is_compiling():
            return operator(*args)
        if torch.is_grad_enabled() and torch._C._any_requires_grad(*args):
            return apply(below, *args)
        return below(*args)

    LIBRARY.impl(operator._schema.name, kernel, "Autograd", with_keyset=True)
    return call


def second_order(
    function: Callable[..., Tensor | tuple[Tensor, ...]],
    inputs: Sequence[Tensor | None],
    cotangents: Sequence[Tensor],
    directions: Sequence[Tensor | None],
) -> tuple[list[Tensor | None], list[Tensor | None]]:
    """Differentiate the gradient of ``function``: ``d <directions, VJP(inputs, cotangents)>``.

    Args:
        function: the reference, called with ``inputs``; returns as many tensors as there are ``cotangents``.
        inputs: its tensors, None where one is left out.
        cotangents: the gradients of its outputs, as the backward operator got them.
        directions: one for each input, the gradient of the backward operator's output; None where that is not used.

    Returns:
        The gradients for ``cotangents`` and for ``inputs``, with a graph of their own if one is being recorded.
    """
    keep = torch.is_grad_enabled()
    with torch.enable_grad():
        # Aliases, so that a cotangent which was itself computed from an input counts as independent of it here.
        primal = [None if x is None else _alias(x) for x in inputs]
        asked = [(x, v) for x, v in zip(primal, directions, strict=True) if x is not None and v is not None]
        if not asked:
            return [None] * len(cotangents), [None] * len(inputs)
        dual = [_alias(g) for g in cotangents]
        outputs = function(*primal)
        outputs = outputs if isinstance(outputs, tuple) else (outputs,)
        first = torch.autograd.grad(
            outputs, [x for x, _ in asked], dual, create_graph=True, allow_unused=True, materialize_grads=True
        )
        terms = [(grad * v).sum() for grad, (_, v) in zip(first, asked, strict=True)]
        total = sum(terms[1:], terms[0])
        leaves = [*dual, *(x for x in primal if x is not None)]
        if not total.requires_grad:
            return [None] * len(dual), [None] * len(inputs)
        second: list[Tensor | None] = list(torch.autograd.grad(total, leaves, create_graph=keep, allow_unused=True))
    by_input = iter(second[len(dual) :])
    return second[: len(dual)], [None if x is None else next(by_input) for x in primal]


def _alias(x: Tensor) -> Tensor:
    return x.view_as(x) if x.requires_grad else x.detach().requires_grad_()
