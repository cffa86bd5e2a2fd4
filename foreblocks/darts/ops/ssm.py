"""A selective state-space block: a recurrence whose step size, input and output maps depend on the input."""

from __future__ import annotations

import math
from typing import final

import torch
from torch import Tensor, nn

from .._core.errors import check_int
from ..kernels import causal_conv1d_steps, linear, selective_scan_steps
from .blocks import FeatureDropout, Linear

SHORTEST_STEP = 1e-3
LONGEST_STEP = 1e-1


@final
class SelectiveSSM(nn.Module):
    """The Mamba block (Gu and Dao, 2023, section 3.4), causal.

    ``u`` and a gate are projected from the input; ``u`` passes a short causal depthwise convolution and SiLU; from it
    come the step size Δ (through a bottleneck of rank ``⌈D / 16⌉``), B and C of the scan ``h_t = exp(Δ_t A) h_{t-1} +
    Δ_t B_t u_t``, ``y_t = C_t h_t + skip · u_t``; the result is gated and projected back.

    Args:
        dim: D.
        state: states of a channel, at least 1. The published 16 doubles the time of the scan for little at this size.
        expand: inner width over D, at least 1. The published 2 also doubles it.
        conv: taps of the convolution, at least 1.
        dropout: rate on whole output features, in [0, 1).

    Raises:
        InvalidArgument: a value is out of range.

    A starts at -1 .. -``state`` in every channel (S4D-real), and Δ of a zero input log-uniformly in [0.001, 0.1].
    """

    def __init__(self, dim: int, *, state: int = 8, expand: int = 1, conv: int = 4, dropout: float = 0.0) -> None:
        super().__init__()
        self.state = check_int("state", state, low=1)
        self.rank = math.ceil(dim / 16)
        inner = check_int("expand", expand, low=1) * dim
        bound = 1.0 / math.sqrt(check_int("conv", conv, low=1))
        self.inward = Linear(dim, 2 * inner, bias=False)
        self.conv_weight = nn.Parameter(torch.empty(inner, conv).uniform_(-bound, bound))
        self.conv_bias = nn.Parameter(torch.empty(inner).uniform_(-bound, bound))
        self.select = Linear(inner, self.rank + 2 * state, bias=False)
        self.step = Linear(self.rank, inner)
        self.log_decay = nn.Parameter(torch.arange(1.0, state + 1.0).log().repeat(inner, 1))
        self.skip = nn.Parameter(torch.ones(inner))
        self.outward = Linear(inner, dim, bias=False)
        self.dropout = FeatureDropout(dropout)
        low, high = math.log(SHORTEST_STEP), math.log(LONGEST_STEP)
        with torch.no_grad():
            start = torch.empty(inner).uniform_(low, high).exp()
            self.step.bias.copy_(start + torch.log(-torch.expm1(-start)))  # the inverse of softplus
            self.step.weight.uniform_(-(self.rank**-0.5), self.rank**-0.5)

    def forward(self, x: Tensor) -> Tensor:
        """Map ``[N, T, D]`` to ``[N, T, D]``; step t sees steps up to t only."""
        u, gate = self.inward(x).chunk(2, dim=-1)  # [N, T, inner] each
        u = causal_conv1d_steps(u, self.conv_weight, self.conv_bias, activation="silu")
        raw, b, c = self.select(u).split([self.rank, self.state, self.state], dim=-1)
        delta = linear(raw, self.step.weight)
        decay = -torch.exp(self.log_decay)
        y = selective_scan_steps(u, delta, decay, b, c, self.skip, gate, self.step.bias, delta_softplus=True)
        return self.dropout(self.outward(y))
