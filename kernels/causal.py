"""Causal depthwise convolution with a memory, over a series and one step at a time."""

from __future__ import annotations

from typing import Literal, overload

import torch
from torch import Tensor

from ._inputs import check_like, check_shape, check_taps
from .activations import activate, activation_code
from .depthwise import depthwise_conv1d

Activation = Literal["none", "silu", "swish"] | None


@overload
def causal_conv1d(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    initial_states: Tensor | None = None,
    return_final_states: Literal[False] = False,
    activation: Activation = None,
) -> Tensor: ...
@overload
def causal_conv1d(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    initial_states: Tensor | None = None,
    *,
    return_final_states: Literal[True],
    activation: Activation = None,
) -> tuple[Tensor, Tensor]: ...
def causal_conv1d(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    initial_states: Tensor | None = None,
    return_final_states: bool = False,
    activation: Activation = None,
) -> Tensor | tuple[Tensor, Tensor]:
    """Convolve with time in the last dimension: the arguments of ``causal_conv1d_fn`` of causal-conv1d.

    Args:
        x: ``[B, D, L]``.
        weight: ``[D, W]``; ``weight[:, -1]`` multiplies the current step. Any W; 2, 3 and 4 are fastest.
        bias: ``[D]`` or None.
        initial_states: the W - 1 steps before the first, ``[B, D, W - 1]``; None means zeros.
        return_final_states: also return the last W - 1 steps, ``[B, D, W - 1]``.
        activation: None, ``silu`` or ``swish``, which is the same.

    Returns:
        ``[B, D, L]``; ``causal_conv1d_steps`` is the same on ``[B, L, D]`` and transposes nothing.

    Raises:
        InvalidArgument: shapes or dtypes do not agree.
    """
    check_shape("x", x, (None, None, None), "[B, D, L]")
    before = None if initial_states is None else initial_states.transpose(1, 2)
    out, after = _run(x.transpose(1, 2), weight, bias, before, activation)
    return (out.transpose(1, 2), after.transpose(1, 2)) if return_final_states else out.transpose(1, 2)


@overload
def causal_conv1d_steps(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    initial_states: Tensor | None = None,
    return_final_states: Literal[False] = False,
    activation: Activation = None,
) -> Tensor: ...
@overload
def causal_conv1d_steps(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    initial_states: Tensor | None = None,
    *,
    return_final_states: Literal[True],
    activation: Activation = None,
) -> tuple[Tensor, Tensor]: ...
def causal_conv1d_steps(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    initial_states: Tensor | None = None,
    return_final_states: bool = False,
    activation: Activation = None,
) -> Tensor | tuple[Tensor, Tensor]:
    """Convolve with time in the second dimension, the layout of the ops.

    Args:
        x: ``[B, L, D]``.
        weight: ``[D, W]``; ``weight[:, -1]`` multiplies the current step.
        bias: ``[D]`` or None.
        initial_states: the W - 1 steps before the first, ``[B, W - 1, D]``; None means zeros.
        return_final_states: also return the last W - 1 steps, ``[B, W - 1, D]``.
        activation: None, ``silu`` or ``swish``.

    Raises:
        InvalidArgument: shapes or dtypes do not agree.
    """
    out, after = _run(x, weight, bias, initial_states, activation)
    return (out, after) if return_final_states else out


def causal_conv1d_update(
    x: Tensor, conv_state: Tensor, weight: Tensor, bias: Tensor | None = None, activation: Activation = None
) -> tuple[Tensor, Tensor]:
    """Advance the convolution by one step: ``(y [B, D], the new state)``; nothing is changed in place.

    Args:
        x: the new step ``[B, D]``.
        conv_state: the W - 1 steps before, ``[B, D, W - 1]``, the latest last.
        weight: ``[D, W]``.
        bias: ``[D]`` or None.
        activation: None, ``silu`` or ``swish``.

    Raises:
        InvalidArgument: shapes or dtypes do not agree.
    """
    check_shape("x", x, (None, None), "[B, D]")
    check_shape("weight", weight, (x.shape[1], None), "[D, W]")
    check_taps(weight)
    check_shape("conv_state", conv_state, (*x.shape, weight.shape[1] - 1), "[B, D, W - 1]")
    if bias is not None:
        check_shape("bias", bias, (x.shape[1],), "[D]")
    for name, each in (("conv_state", conv_state), ("weight", weight), ("bias", bias)):
        if each is not None:
            check_like(name, each, x)
    window = torch.cat([conv_state, x.unsqueeze(-1)], dim=-1)
    y = (window * weight).sum(dim=-1)
    y = y if bias is None else y + bias
    return activate(y, activation_code("activation", _known(activation))), window[..., 1:]


def _run(
    x: Tensor, weight: Tensor, bias: Tensor | None, before: Tensor | None, activation: Activation
) -> tuple[Tensor, Tensor]:
    check_shape("x", x, (None, None, None), "[B, L, D]")
    check_shape("weight", weight, (x.shape[2], None), "[D, W]")
    memory = weight.shape[1] - 1
    extended = x
    if before is not None:
        check_shape("initial_states", before, (x.shape[0], memory, x.shape[2]), "[B, W - 1, D]")
        check_like("initial_states", before, x)
        extended = torch.cat([before, x], dim=1)
    out = depthwise_conv1d(extended, weight, bias, causal=True, activation=_known(activation))
    missing = memory - extended.shape[1]
    after = extended.new_zeros(x.shape[0], missing, x.shape[2]) if missing > 0 else extended[:, :0]
    after = torch.cat([after, extended[:, max(extended.shape[1] - memory, 0) :]], dim=1)
    return (out if before is None else out[:, memory:]), after


def _known(activation: Activation) -> Literal["none", "silu"]:
    return "silu" if activation == "swish" else activation or "none"
