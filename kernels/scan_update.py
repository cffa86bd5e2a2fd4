"""One step of the selective state-space scan of Mamba (Gu and Dao, 2023)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from ._inputs import check_device, check_shape


def selective_state_update(
    state: Tensor,
    x: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None = None,
    z: Tensor | None = None,
    dt_bias: Tensor | None = None,
    dt_softplus: bool = False,
) -> tuple[Tensor, Tensor]:
    """Advance the scan by one step: ``(y [B, D], the new state [B, D, N])``; nothing is changed in place.

    Args:
        state: ``[B, D, N]``, zeros at the start.
        x: input ``[B, D]``.
        dt: step sizes ``[B, D]``.
        A: ``[D, N]``.
        B: ``[B, N]``.
        C: ``[B, N]``.
        D: ``[D]`` or None.
        z: gate ``[B, D]`` or None.
        dt_bias: ``[D]`` or None.
        dt_softplus: apply softplus to ``dt + dt_bias``.

    Raises:
        InvalidArgument: shapes or devices do not agree.
    """
    check_shape("state", state, (None, None, None), "[B, D, N]")
    batch, dim, states = state.shape
    for name, each, shape, letters in (
        ("x", x, (batch, dim), "[B, D]"), ("dt", dt, (batch, dim), "[B, D]"), ("A", A, (dim, states), "[D, N]"),
        ("B", B, (batch, states), "[B, N]"), ("C", C, (batch, states), "[B, N]"), ("D", D, (dim,), "[D]"),
        ("z", z, (batch, dim), "[B, D]"), ("dt_bias", dt_bias, (dim,), "[D]"),
    ):  # fmt: skip
        if each is not None:
            check_shape(name, each, shape, letters)
            check_device(name, each, state)
    dt = dt if dt_bias is None else dt + dt_bias
    dt = F.softplus(dt) if dt_softplus else dt
    state = torch.exp(dt.unsqueeze(-1) * A) * state + (dt * x).unsqueeze(-1) * B.unsqueeze(1)
    y = (state * C.unsqueeze(1)).sum(dim=-1)
    y = y if D is None else y + D * x
    return (y if z is None else y * F.silu(z)), state
