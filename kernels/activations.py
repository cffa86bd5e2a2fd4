"""The activations that an operation applies in the same pass, by name and by the code that the compiled forms take."""

from __future__ import annotations

from typing import Literal, get_args

import torch.nn.functional as F
from torch import Tensor

from .._core.errors import check_choice

# The order is that of csrc/core/args.h.
Activation = Literal["none", "relu", "gelu", "silu"]
ACTIVATIONS: tuple[Activation, ...] = get_args(Activation)


def activation_code(name: str, value: str | None) -> int:
    """Return the code of an activation, 0 for None.

    Args:
        name: of the argument, for the error.
        value: the activation.

    Raises:
        InvalidArgument: ``value`` is none of ``ACTIVATIONS``.
    """
    return ACTIVATIONS.index(check_choice(name, value or "none", ACTIVATIONS))


def activate(x: Tensor, code: int) -> Tensor:
    """Apply an activation by its code."""
    if code == 0:
        return x
    return (F.relu, F.gelu, F.silu)[code - 1](x)
