"""Depthwise convolution, activation, norm and activation in one pass over ``[N, T, D]``."""

from __future__ import annotations

from typing import Any, Literal

from torch import Tensor

from .._core.errors import check_choice, check_int
from . import depthwise, norms
from ._inputs import check_like, check_series, check_shape, check_taps, computed, native_supports, some
from ._library import define, differentiable, second_order
from .activations import Activation, activation_code
from .dispatch import Implementation, Operation


def depthwise_norm_act(
    x: Tensor,
    weight: Tensor,
    norm_weight: Tensor,
    bias: Tensor | None = None,
    norm_bias: Tensor | None = None,
    *,
    dilation: int = 1,
    causal: bool = False,
    kind: Literal["rms", "layer"] = "rms",
    eps: float = 1e-6,
    before: Activation = "none",
    after: Activation = "none",
) -> Tensor:
    """Return ``after(norm(before(depthwise(x))))``; what lies between is never written to memory.

    Args:
        x: ``[N, T, D]``, T at least 1.
        weight: taps ``[D, W]``, see ``depthwise_conv1d``.
        norm_weight: ``[D]``.
        bias: of the convolution, ``[D]`` or None.
        norm_bias: ``[D]`` or None.
        dilation: steps between two taps.
        causal: no output sees a later step.
        kind: ``"rms"`` or ``"layer"``.
        eps: added to the mean square, or to the variance.
        before: activation between convolution and norm.
        after: activation of the result.

    Raises:
        InvalidArgument: shapes or dtypes do not agree, or a value is not allowed.
    """
    check_series("x", x, "[N, T, D]")
    check_shape("weight", weight, (x.shape[2], None), "[D, W]")
    check_taps(weight)
    check_like("weight", weight, x)
    for name, each in (("norm_weight", norm_weight), ("bias", bias), ("norm_bias", norm_bias)):
        if each is not None:
            check_shape(name, each, (x.shape[2],), "[D]")
            check_like(name, each, x)
    reach = (weight.shape[1] - 1) * check_int("dilation", dilation, low=1)
    left = reach if causal else reach - reach // 2
    centre = check_choice("kind", kind, ("rms", "layer")) == "layer"
    codes = activation_code("before", before), activation_code("after", after)
    tensors = [each for each in (bias, norm_bias) if each is not None]
    run = _BOTH.pick(x, weight, norm_weight, *tensors)
    return run(x, weight, bias, norm_weight, norm_bias, dilation, left, centre, eps, *codes)


def reference(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    scale: Tensor,
    offset: Tensor | None,
    dilation: int,
    left: int,
    centre: bool,
    eps: float,
    before: int,
    after: int,
) -> Tensor:
    """Plain PyTorch form."""
    middle = depthwise.reference(x, weight, bias, dilation, left, 0)
    return norms.reference(middle, scale, offset, None, None, None, centre, eps, before, after)


def _fake(x: Tensor, *rest: Any) -> tuple[Tensor, Tensor]:
    return x.new_empty(x.shape), x.new_empty(x.shape[0] * x.shape[1], 2, dtype=computed(x.dtype))


def _fake_backward(grad: Tensor, stats: Tensor, x: Tensor, *rest: Any) -> tuple[Tensor, ...]:
    made = [x.new_empty(0 if each is None else each.shape) for each in rest[:4]]
    return x.new_empty(x.shape if rest[-1] else 0), *made


_OPTIONS = (
    "Tensor x, Tensor weight, Tensor? bias, Tensor scale, Tensor? offset, int dilation, int left, bool centre, "
    "float eps, int before, int after"
)
_FORWARD = define(f"depthwise_norm({_OPTIONS}) -> (Tensor, Tensor)", _fake)
_BACKWARD = define(
    f"depthwise_norm_backward(Tensor grad, Tensor stats, {_OPTIONS}, bool need_x) "
    "-> (Tensor, Tensor, Tensor, Tensor, Tensor)",
    _fake_backward,
)


def _setup(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    ctx.options = inputs[5:]
    ctx.save_for_backward(output[1], *inputs[:5])
    ctx.mark_non_differentiable(output[1])
    ctx.set_materialize_grads(False)


def _backward(ctx: Any, grad: Tensor | None, _stats: Tensor | None) -> tuple[Tensor | None, ...]:
    if grad is None:
        return (None,) * 11
    stats, *tensors = ctx.saved_tensors
    grads = _run_backward(grad, stats, *tensors, *ctx.options, ctx.needs[0])
    return *map(some, grads), None, None, None, None, None, None


def _setup_second(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    grad, _, *tensors = inputs[:7]
    *ctx.options, ctx.need_x = inputs[7:]
    ctx.save_for_backward(grad, *tensors)
    ctx.set_materialize_grads(False)


def _backward_second(ctx: Any, by_x: Tensor | None, *towards: Tensor | None) -> tuple[Tensor | None, ...]:
    grad, *tensors = ctx.saved_tensors
    directions = [by_x if ctx.need_x else None, *towards]
    (by_grad,), by_input = second_order(lambda *inputs: reference(*inputs, *ctx.options), tensors, [grad], directions)
    return by_grad, None, *by_input, *[None] * 7


_run = differentiable(_FORWARD, _setup, _backward)
_run_backward = differentiable(_BACKWARD, _setup_second, _backward_second)


def _native(*arguments: Any) -> Tensor:
    return _run(*arguments)[0]


_BOTH = Operation(
    "depthwise_norm_act", reference, (Implementation("native", _native, native_supports("depthwise_norm", half=True)),)
)
