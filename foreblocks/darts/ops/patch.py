"""Ops of the family ``attention``: patches, and attention between the features."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..kernels import time_linear
from .blocks import FeatureDropout, Linear, TimeLinear, activated, check_length, pad_steps, rms_norm
from .registry import register_op

_PATCH = 16


@register_op("PatchEmbed", family="attention", cost=0.35)
class PatchEmbed(nn.Module):
    """Embed overlapping patches, run an MLP over them, spread them over the steps again.

    Args:
        dim: D.
        length: T; patches have 16 steps, or about T if T is shorter, and start every half patch.
        dropout: rate on the branch.

    The MLP mixes features and patches; the way back is linear interpolation between the centres of the patches.

    Raises:
        InvalidArgument: the input of ``forward`` has another T.

    Source of the patches: Nie et al., PatchTST, 2023.
    """

    spread: Tensor

    def __init__(self, dim: int, length: int, *, dropout: float = 0.1) -> None:
        super().__init__()
        self.length = length
        self.stride = _PATCH // 2 if length >= _PATCH else max(length // 2, 1)
        blocks = max(-(-length // self.stride), 2)
        self.padding = blocks * self.stride - length
        patches = blocks - 1
        # A patch is two neighbouring blocks: one product embeds each block as first and as second half.
        self.embed = Linear(self.stride * dim, 2 * dim)
        self.features = Linear(dim, dim)
        self.patches = TimeLinear(patches, patches)
        self.dropout = FeatureDropout(dropout)
        self.norm = rms_norm(dim)
        self.register_buffer("spread", _interpolation(length, patches, self.stride), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """Map ``[N, T, D]`` to ``[N, T, D]``."""
        check_length("PatchEmbed", x, self.length)
        dim = x.shape[-1]
        blocks = pad_steps(x, 0, self.padding).reshape(x.shape[0], -1, self.stride * dim)
        halves = self.embed(blocks)
        hidden = F.gelu(halves[:, :-1, :dim] + halves[:, 1:, dim:])
        hidden = self.features(hidden) + self.patches(hidden)
        return self.norm.join(x, time_linear(hidden, self.spread), self.dropout)


@register_op("InvertedAttention", family="attention", cost=0.65)
class InvertedAttention(nn.Module):
    """Attention between the D features: a feature's course over time is its token.

    Args:
        dim: D, the number of tokens.
        length: T; tokens are embedded in ``min(T, 32)`` numbers, the feed-forward net has twice as many.
        dropout: rate on the branch of the feed-forward net.

    ``h = RMSNorm(x + attention(x))``, output ``RMSNorm(h + FFN(h))``, both over time. The softmax is written out since
    the fused attention of PyTorch has no second derivative on the CPU.

    Raises:
        InvalidArgument: the input of ``forward`` has another T.

    Source: Liu et al., iTransformer, 2024.
    """

    def __init__(self, dim: int, length: int, *, dropout: float = 0.1) -> None:
        super().__init__()
        self.length = length
        self.width = min(length, 32)
        self.project = TimeLinear(length, 3 * self.width)
        self.merge = TimeLinear(self.width, length)
        self.attention_norm = rms_norm(dim)
        self.expand = TimeLinear(length, 2 * self.width)
        self.reduce = TimeLinear(2 * self.width, length)
        self.dropout = FeatureDropout(dropout)
        self.norm = rms_norm(dim)

    def forward(self, x: Tensor) -> Tensor:
        """Map ``[N, T, D]`` to ``[N, T, D]``."""
        check_length("InvertedAttention", x, self.length)
        query, key, value = self.project(x).split(self.width, dim=1)  # each [N, E, D]
        scores = torch.bmm(key.transpose(1, 2), query) / math.sqrt(self.width)  # [N, from, to]
        mixed = torch.bmm(value, torch.softmax(scores, dim=1))  # [N, E, D]
        hidden = self.attention_norm(x + self.merge(mixed))
        return self.norm.join(hidden, self.reduce(activated(self.expand, hidden, "gelu")), self.dropout)


def _interpolation(length: int, patches: int, stride: int) -> Tensor:
    """Return ``[T, P]``: linear interpolation between patch centres, constant beyond the outer ones."""
    centre = stride - 0.5  # a patch has 2 · stride steps
    position = ((torch.arange(length) - centre) / stride).clamp(0, patches - 1)
    return (1 - (position[:, None] - torch.arange(patches)).abs()).clamp(min=0)
