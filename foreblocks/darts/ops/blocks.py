"""The few building blocks that the ops share; all of them keep ``[N, T, D]`` contiguous."""

from __future__ import annotations

import math
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .._core.errors import InvalidArgument
from ..kernels import (
    conv1d,
    conv_transpose1d,
    depthwise_conv1d,
    depthwise_norm_act,
    linear,
    moving_average,
    norm_act,
    time_linear,
)
from ..kernels.activations import Activation, activate, activation_code

NORM_EPS = 1e-6


class FeatureNorm(nn.RMSNorm):
    """RMSNorm over the D features (Zhang and Sennrich, 2019), alone or with the end of an op in one pass.

    Args:
        dim: D.
    """

    def __init__(self, dim: int) -> None:
        super().__init__(dim, eps=NORM_EPS)

    def forward(self, x: Tensor) -> Tensor:
        """Normalise ``[N, T, D]``."""
        return norm_act(x, self.weight, eps=NORM_EPS)

    def join(
        self,
        x: Tensor | None,
        branch: Tensor,
        dropout: FeatureDropout | None = None,
        *,
        activation: Activation = "none",
        gate: Tensor | None = None,
    ) -> Tensor:
        """Return ``norm(x + dropout(activation(branch) · sigmoid(gate)))``: the last lines of nearly every op.

        Args:
            x: the residual ``[N, T, D]``, or None.
            branch: ``[N, T, D]``.
            dropout: whose mask falls on the branch.
            activation: of the branch.
            gate: ``[N, T, D]`` before its sigmoid, or None.
        """
        mask = None if dropout is None else dropout.mask(branch)
        return norm_act(branch, self.weight, residual=x, gate=gate, scale=mask, eps=NORM_EPS, before=activation)


def rms_norm(dim: int) -> FeatureNorm:
    """Return the normalisation that ends an op."""
    return FeatureNorm(dim)


def odd_kernel(length: int, largest: int = 25) -> int:
    """Return the largest odd window that is at most ``largest`` and fits into ``length`` steps."""
    kernel = min(length, largest)
    return kernel if kernel % 2 else kernel - 1


def check_length(op: str, x: Tensor, length: int) -> None:
    """Raise ``InvalidArgument`` unless ``x`` ``[N, T, D]`` has the T that the op was built for."""
    if x.shape[1] != length:
        raise InvalidArgument(f"{op} was built for length={length} steps, but its input has {x.shape[1]}.")


def pad_steps(x: Tensor, left: int, right: int) -> Tensor:
    """Repeat the first and the last step of ``[N, T, D]``: ``[N, left + T + right, D]``."""
    if left == 0 and right == 0:
        return x
    return torch.cat([x[:, :1].expand(-1, left, -1), x, x[:, -1:].expand(-1, right, -1)], dim=1)


class FeatureDropout(nn.Module):
    """Drop whole features of a sample, for all its steps at once.

    Args:
        rate: probability of a feature to be dropped, ``0 <= rate < 1``.

    Neighbouring steps carry nearly the same values, so dropping single elements hides little; and ``N · D`` random
    draws instead of ``N · T · D`` make the mask practically free. Source: Tompson et al., CVPR 2015; TCNs use the same
    (Bai et al., 2018).

    Raises:
        InvalidArgument: the rate is out of range.
    """

    def __init__(self, rate: float) -> None:
        super().__init__()
        if not 0.0 <= rate < 1.0:
            raise InvalidArgument(f"dropout={rate!r} must be at least 0 and below 1.")
        self.rate = float(rate)

    def forward(self, x: Tensor) -> Tensor:
        """Map ``[N, T, D]`` to ``[N, T, D]``; the identity in eval mode and at rate 0."""
        mask = self.mask(x)
        return x if mask is None else x * mask

    def mask(self, x: Tensor) -> Tensor | None:
        """Return the factors ``[N, 1, D]`` for ``x`` ``[N, T, D]``: 0 or 1 / (1 - rate); None where nothing drops."""
        if not self.training or self.rate == 0.0:
            return None
        keep = 1.0 - self.rate
        return x.new_empty(x.shape[0], 1, x.shape[2]).bernoulli_(keep).div_(keep)

    def extra_repr(self) -> str:
        """Show the rate."""
        return f"rate={self.rate}"


class Dropout(nn.Dropout):
    """Drop single elements, like ``torch.nn.Dropout`` with the multiple of 2⁻¹⁶ that is nearest to the given rate.

    On a CPU four elements share one draw of the generator, 16 bits each: a third of the time of ``bernoulli_``, which
    is what dropout costs. Everywhere else it is PyTorch's own.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Map a tensor of any shape to its like; the identity in eval mode and at rate 0."""
        if not self.training or self.p == 0.0:
            return x
        elsewhere = torch.compiler.is_compiling() or torch._C._are_functorch_transforms_active()
        dropped = round(self.p * 2**16)
        if x.device.type != "cpu" or elsewhere or dropped == 2**16:
            return super().forward(x)
        bits = torch.empty(-(-x.numel() // 4), dtype=torch.int64).random_(-(2**63), None).view(torch.int16)
        keep = bits[: x.numel()].view(x.shape) >= dropped - 2**15
        return x * keep.to(x.dtype).mul_(2**16 / (2**16 - dropped))


class Linear(nn.Linear):
    """``torch.nn.Linear`` over the features of ``[N, T, D]``, on the product that suits small widths."""

    def forward(self, x: Tensor, activation: Activation = "none") -> Tensor:
        """Map ``[..., I]`` to ``activation(W x + b)``, ``[..., O]``."""
        if x.dim() == 3:
            return linear(x, self.weight, self.bias, activation=activation)
        return activate(F.linear(x, self.weight, self.bias), activation_code("activation", activation))


class TimeLinear(nn.Module):
    """Linear map over time, shared by all features.

    Args:
        steps_in: T of the input.
        steps_out: T of the output.

    ``weight`` is ``[steps_out, steps_in]`` and ``bias`` ``[steps_out]``, initialised as in ``nn.Linear``.
    """

    def __init__(self, steps_in: int, steps_out: int) -> None:
        super().__init__()
        bound = 1.0 / math.sqrt(steps_in)
        self.weight = nn.Parameter(torch.empty(steps_out, steps_in).uniform_(-bound, bound))
        self.bias = nn.Parameter(torch.empty(steps_out).uniform_(-bound, bound))

    def forward(self, x: Tensor, activation: Activation = "none") -> Tensor:
        """Map ``[N, steps_in, D]`` to ``activation(W x + b)``, ``[N, steps_out, D]``."""
        return time_linear(x, self.weight, self.bias, activation=activation)


class StepConv(nn.Module):
    """Convolution over time of ``[N, T, D]``, zero padded.

    Args:
        dim_in: features of the input.
        dim_out: features of the output.
        kernel: number of taps.
        stride: steps between two outputs.
        dilation: steps between two taps.
        causal: no output sees a later step.
        depthwise: each feature has its own taps and sees no other one (needs ``dim_in == dim_out``).

    ``weight`` is ``[dim_out, dim_in, kernel]``, or ``[dim, 1, kernel]`` if depthwise.
    """

    def __init__(
        self,
        dim_in: int,
        dim_out: int,
        kernel: int,
        *,
        stride: int = 1,
        dilation: int = 1,
        causal: bool = False,
        depthwise: bool = False,
    ) -> None:
        super().__init__()
        self.stride, self.dilation = stride, dilation
        self.padding: Literal["same", "causal"] = "causal" if causal else "same"
        self.groups = dim_in if depthwise else 1
        fan_in = dim_in // self.groups * kernel
        bound = 1.0 / math.sqrt(fan_in)
        self.weight = nn.Parameter(torch.empty(dim_out, dim_in // self.groups, kernel).uniform_(-bound, bound))
        self.bias = nn.Parameter(torch.empty(dim_out).uniform_(-bound, bound))

    def into(self, norm: FeatureNorm, x: Tensor, *, activation: Activation) -> Tensor:
        """Return ``norm(activation(self(x)))`` in one pass; for a depthwise convolution of stride 1."""
        causal = self.padding == "causal"
        taps = self.weight.squeeze(1)
        return depthwise_norm_act(
            x, taps, norm.weight, self.bias, dilation=self.dilation, causal=causal, eps=NORM_EPS, before=activation
        )

    def forward(self, x: Tensor, activation: Activation = "none") -> Tensor:
        """Map ``[N, T, dim_in]`` to ``[N, ceil(T / stride), dim_out]``."""
        if self.weight.shape[1] == 1 and self.groups == x.shape[-1] and self.stride == 1:
            causal, taps = self.padding == "causal", self.weight.squeeze(1)
            return depthwise_conv1d(x, taps, self.bias, dilation=self.dilation, causal=causal, activation=activation)
        return conv1d(
            x,
            self.weight,
            self.bias,
            stride=self.stride,
            dilation=self.dilation,
            groups=self.groups,
            padding=self.padding,
            activation=activation,
        )


def activated(layer: Linear | TimeLinear | StepConv, x: Tensor, activation: Activation) -> Tensor:
    """Return ``activation(layer(x))``, in one pass unless a forward hook watches what the layer itself returns."""
    if layer._forward_hooks:
        return activate(layer(x), activation_code("activation", activation))
    return layer(x, activation)


class StepConvTranspose(nn.Module):
    """Transposed convolution of stride 2 with three taps: undoes the length of ``StepConv(kernel=3, stride=2)``.

    Args:
        dim_in: features of the input.
        dim_out: features of the output.
        length: steps of the output; the input has ``ceil(length / 2)``.
    """

    def __init__(self, dim_in: int, dim_out: int, length: int) -> None:
        super().__init__()
        self.length = length
        bound = 1.0 / math.sqrt(1.5 * dim_in)  # an output step meets one or two of the three taps
        self.weight = nn.Parameter(torch.empty(dim_in, dim_out, 3).uniform_(-bound, bound))
        self.bias = nn.Parameter(torch.empty(dim_out).uniform_(-bound, bound))

    def forward(self, x: Tensor) -> Tensor:
        """Map ``[N, ceil(length / 2), dim_in]`` to ``[N, length, dim_out]``."""
        return conv_transpose1d(x, self.weight, self.bias, length=self.length, padding=1)


class SeriesDecomposition(nn.Module):
    """Split a series into trend (moving average, edges repeated) and remainder.

    Args:
        kernel: odd window of the moving average.

    A module and not a function, so that scores which need a network without cancellation, such as SynFlow, can put
    something else in its place. Source: Zeng et al., AAAI 2023.
    """

    def __init__(self, kernel: int) -> None:
        super().__init__()
        self.kernel = kernel

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Map ``[N, T, D]`` to ``(remainder, trend)``, both ``[N, T, D]``."""
        trend = moving_average(x, self.kernel)
        return x - trend, trend
