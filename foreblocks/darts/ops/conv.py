"""Ops of the family ``conv``: convolutions over time."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .._core.modules import ModuleList
from ..kernels import depthwise_conv1d, residual_convs
from .blocks import FeatureDropout, Linear, StepConv, StepConvTranspose, check_length, rms_norm
from .registry import register_op

_MULTI_SCALE_KERNELS = (1, 3, 5, 7)
_PYRAMID_DEPTH = 3


@register_op("TimeConv", family="conv", cost=0.25, causal=True)
class TimeConv(nn.Module):
    """Causal depthwise convolution of three taps, then a pointwise map: ``RMSNorm(x + GELU(W conv(x)))``.

    Args:
        dim: D.
        length: T, unused.
        dropout: rate on the branch.
    """

    def __init__(self, dim: int, length: int, *, dropout: float = 0.1) -> None:
        super().__init__()
        self.depthwise = StepConv(dim, dim, 3, causal=True, depthwise=True)
        self.pointwise = Linear(dim, dim)
        self.dropout = FeatureDropout(dropout)
        self.norm = rms_norm(dim)

    def forward(self, x: Tensor) -> Tensor:
        """Map ``[N, T, D]`` to ``[N, T, D]``."""
        return self.norm.join(x, self.pointwise(self.depthwise(x)), self.dropout, activation="gelu")


@register_op("TCN", family="conv", cost=0.5, causal=True)
class TCN(nn.Module):
    """Temporal convolutional network: residual blocks of causal convolutions with dilations 1, 2 and 4.

    Args:
        dim: D.
        length: T, unused.
        dropout: rate after the last block.

    Each block is ``ReLU(x + ReLU(conv(x)))`` with three taps, full over the features; the last ReLU gives way to
    ``RMSNorm``. One convolution a block instead of two: 15 steps of sight at half the cost. Source: Bai, Kolter and
    Koltun, 2018.
    """

    def __init__(self, dim: int, length: int, *, dropout: float = 0.1) -> None:
        super().__init__()
        self.blocks = ModuleList(StepConv(dim, dim, 3, dilation=rate, causal=True) for rate in (1, 2, 4))
        self.dropout = FeatureDropout(dropout)
        self.norm = rms_norm(dim)

    def forward(self, x: Tensor) -> Tensor:
        """Map ``[N, T, D]`` to ``[N, T, D]``."""
        if any(block._forward_hooks for block in self.blocks):
            y = self._by_block(x)
        else:
            weight = torch.stack([block.weight for block in self.blocks])
            y = residual_convs(x, weight, torch.stack([block.bias for block in self.blocks]))
        return self.norm.join(x, y, self.dropout, activation="relu")

    def _by_block(self, x: Tensor) -> Tensor:
        """Return what ``residual_convs`` does, by calls of the blocks, where something watches what they return."""
        first, *inner, last = self.blocks
        y = F.relu(x + F.relu(first(x)))
        for block in inner:
            y = y + F.relu(block(y))
        return last(y)


@register_op("ConvMixer", family="conv", cost=0.45)
class ConvMixer(nn.Module):
    """Depthwise convolution of nine taps mixes the steps, a pointwise map mixes the features.

    Args:
        dim: D.
        length: T, unused.
        dropout: rate on the pointwise branch.

    ``h = x + RMSNorm(GELU(depthwise(x)))``, output ``RMSNorm(h + GELU(W h))``. Source: Trockman and Kolter, 2022; the
    second residual is ours, as every op of a cell has one.
    """

    def __init__(self, dim: int, length: int, *, dropout: float = 0.1) -> None:
        super().__init__()
        self.depthwise = StepConv(dim, dim, 9, depthwise=True)
        self.inner_norm = rms_norm(dim)
        self.pointwise = Linear(dim, dim)
        self.dropout = FeatureDropout(dropout)
        self.norm = rms_norm(dim)

    def forward(self, x: Tensor) -> Tensor:
        """Map ``[N, T, D]`` to ``[N, T, D]``."""
        mixed = x + self.depthwise.into(self.inner_norm, x, activation="gelu")
        return self.norm.join(mixed, self.pointwise(mixed), self.dropout, activation="gelu")


@register_op("MultiScaleConv", family="conv", cost=0.7)
class MultiScaleConv(nn.Module):
    """Kernels of 1, 3, 5 and 7 taps side by side, weighed at every step by a softmax gate.

    Args:
        dim: D; the scales share the features evenly (with fewer than four features, only the first scales exist).
        length: T, unused.
        dropout: rate on the branch.

    Features are mixed, each quarter is convolved at its own scale, the gate (a function of the input step) weighs the
    scales, and the result is mixed again. All scales run as one depthwise convolution whose short kernels are padded
    with zeros. Source of the mixed kernels: Tan and Le, MixConv, 2019.
    """

    spread: Tensor

    def __init__(self, dim: int, length: int, *, dropout: float = 0.1) -> None:
        super().__init__()
        kernels = _MULTI_SCALE_KERNELS[:dim]
        sizes = [len(part) for part in torch.arange(dim).tensor_split(len(kernels))]
        self.entry = Linear(dim, dim)
        self.taps = nn.ParameterList(
            torch.empty(size, kernel).uniform_(-1.0, 1.0) / math.sqrt(kernel)
            for size, kernel in zip(sizes, kernels, strict=True)
        )
        self.gate = Linear(dim, len(kernels))
        scale_of = torch.repeat_interleave(torch.arange(len(kernels)), torch.tensor(sizes))
        # [D, S], S times a one-hot row: spreads the gate over the features and keeps its mean at 1.
        self.register_buffer("spread", F.one_hot(scale_of, len(kernels)).float() * len(kernels), persistent=False)
        self.exit = Linear(dim, dim)
        self.dropout = FeatureDropout(dropout)
        self.norm = rms_norm(dim)

    def forward(self, x: Tensor) -> Tensor:
        """Map ``[N, T, D]`` to ``[N, T, D]``."""
        widest = self.taps[-1].shape[1]
        pads = [(widest - taps.shape[1]) // 2 for taps in self.taps]
        weight = torch.cat([F.pad(taps, (pad, pad)) for taps, pad in zip(self.taps, pads, strict=True)])
        scales = depthwise_conv1d(self.entry(x), weight, activation="gelu")
        gate = F.linear(torch.softmax(self.gate(x), dim=-1), self.spread)
        return self.norm.join(x, self.exit(scales * gate), self.dropout)


@register_op("PyramidConv", family="conv", cost=0.8)
class PyramidConv(nn.Module):
    """U-shaped path: three convolutions of stride 2 down, three transposed ones up, with skips between equal lengths.

    Args:
        dim: D, the width at every level.
        length: T.
        dropout: rate on the branch.

    Raises:
        InvalidArgument: the input of ``forward`` has another T.

    Source of the shape: Ronneberger et al., U-Net, 2015, with sums instead of concatenations.
    """

    def __init__(self, dim: int, length: int, *, dropout: float = 0.1) -> None:
        super().__init__()
        self.length = length
        lengths = [length]
        for _ in range(_PYRAMID_DEPTH):
            lengths.append(-(-lengths[-1] // 2))
        self.down = ModuleList(StepConv(dim, dim, 3, stride=2) for _ in range(_PYRAMID_DEPTH))
        self.up = ModuleList(StepConvTranspose(dim, dim, steps) for steps in reversed(lengths[:-1]))
        self.dropout = FeatureDropout(dropout)
        self.norm = rms_norm(dim)

    def forward(self, x: Tensor) -> Tensor:
        """Map ``[N, T, D]`` to ``[N, T, D]``."""
        check_length("PyramidConv", x, self.length)
        levels = []
        y = x
        for down in self.down:
            levels.append(y)
            y = F.gelu(down(y))
        *inner, last = self.up
        for up in inner:
            y = F.gelu(levels.pop() + up(y))
        return self.norm.join(x, last(y), self.dropout)
