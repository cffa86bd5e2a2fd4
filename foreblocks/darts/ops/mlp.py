"""Ops of the family ``mlp`` that act on one step at a time, and the identity."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from .blocks import FeatureDropout, Linear, activated, rms_norm
from .registry import register_op


@register_op("Identity", family="mlp", cost=0.0, causal=True)
class Identity(nn.Module):
    """Return the input: the skip connection of the search space.

    Args:
        dim: D, unused.
        length: T, unused.
        dropout: unused.
    """

    def __init__(self, dim: int, length: int, *, dropout: float = 0.1) -> None:
        super().__init__()

    def forward(self, x: Tensor) -> Tensor:
        """Map ``[N, T, D]`` to itself."""
        return x


@register_op("GRN", family="mlp", cost=0.35, causal=True)
class GRN(nn.Module):
    """Gated residual network, step by step: ``RMSNorm(x + GLU(W₂ ELU(W₁ x)))``.

    Args:
        dim: D.
        length: T, unused.
        dropout: rate before the gate.

    The published block has one more linear map between ELU and gate; two linear maps in a row are one, so it is folded
    into ``W₂``. Source: Lim et al., Temporal Fusion Transformers, 2021, eq. 2-5.
    """

    def __init__(self, dim: int, length: int, *, dropout: float = 0.1) -> None:
        super().__init__()
        self.hidden = Linear(dim, dim)
        self.dropout = FeatureDropout(dropout)
        self.gate = Linear(dim, 2 * dim)
        self.norm = rms_norm(dim)

    def forward(self, x: Tensor) -> Tensor:
        """Map ``[N, T, D]`` to ``[N, T, D]``."""
        hidden = self.dropout(F.elu(self.hidden(x)))
        value, gate = self.gate(hidden).chunk(2, dim=-1)
        return self.norm.join(x, value, gate=gate)


@register_op("ResidualMLP", family="mlp", cost=0.15, causal=True)
class ResidualMLP(nn.Module):
    """Two-layer perceptron on each step with residual: ``RMSNorm(x + W₂ GELU(W₁ x))``, hidden width 2 D.

    Args:
        dim: D.
        length: T, unused.
        dropout: rate on the branch.
    """

    def __init__(self, dim: int, length: int, *, dropout: float = 0.1) -> None:
        super().__init__()
        self.expand = Linear(dim, 2 * dim)
        self.reduce = Linear(2 * dim, dim)
        self.dropout = FeatureDropout(dropout)
        self.norm = rms_norm(dim)

    def forward(self, x: Tensor) -> Tensor:
        """Map ``[N, T, D]`` to ``[N, T, D]``."""
        return self.norm.join(x, self.reduce(activated(self.expand, x, "gelu")), self.dropout)
