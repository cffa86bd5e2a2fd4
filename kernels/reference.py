"""Plain PyTorch forms of the hot-path operations: what everything faster is checked against.

They trace under compile, export, ONNX and functorch, and differentiate twice.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor


def mixed_sum(xs: Sequence[Tensor], weights: Tensor) -> Tensor:
    """Return ``Σ_k weights[k] · xs[k]`` without stacking.

    Args:
        xs: K tensors of one shape ``[N, T, D]``.
        weights: ``[K]``.
    """
    if len(xs) != weights.shape[0]:
        raise ValueError(f"xs has {len(xs)} tensors, but weights has {weights.shape[0]} entries.")
    total = xs[0] * weights[0]
    for x, w in zip(xs[1:], weights[1:].unbind(), strict=True):
        total = torch.addcmul(total, x, w)
    return total


def moving_average(x: Tensor, kernel: int) -> Tensor:
    """Return the centred moving average over time with the edge values repeated as padding.

    Args:
        x: ``[N, T, D]``.
        kernel: window length, at least 1; an even one reaches one step further into the past.

    Source: the trend extraction of Autoformer and DLinear (Zeng et al., AAAI 2023).
    """
    if kernel == 1:
        return x
    left = kernel // 2
    right = kernel - 1 - left
    length = x.shape[1]
    padded = torch.cat([x[:, :1].expand(-1, left, -1), x, x[:, -1:].expand(-1, right, -1)], dim=1)
    # Differences of a running sum: O(T) whatever the kernel. Centring keeps float32 sums small.
    centre = padded.mean(dim=1, keepdim=True)
    sums = F.pad((padded - centre).cumsum(dim=1), (0, 0, 1, 0))
    return (sums[:, kernel:] - sums[:, :length]) / kernel + centre


def causal_conv1d(x: Tensor, weight: Tensor, bias: Tensor | None = None, *, dilation: int = 1) -> Tensor:
    """Depthwise convolution over time that sees no later step.

    Args:
        x: ``[N, T, D]``.
        weight: ``[D, W]``; ``weight[:, -1]`` multiplies the current step.
        bias: ``[D]`` or None.
        dilation: steps between two taps.

    Written as W shifted multiply-adds: ``[N, T, D]`` stays contiguous, so no transpose is paid.
    """
    length = x.shape[1]
    taps = weight.shape[1]
    padded = F.pad(x, (0, 0, (taps - 1) * dilation, 0))
    out = padded[:, :length] * weight[:, 0]
    for tap in range(1, taps):
        out = torch.addcmul(out, padded[:, tap * dilation : tap * dilation + length], weight[:, tap])
    return out if bias is None else out + bias


def selective_scan(u: Tensor, delta: Tensor, a: Tensor, b: Tensor, c: Tensor, d: Tensor | None = None) -> Tensor:
    """Selective state-space scan (Gu and Dao, Mamba, 2023), time in the second dimension.

    ``h_t = exp(delta_t · a) h_{t-1} + delta_t · b_t · u_t`` and ``y_t = c_t · h_t + d · u_t``.

    Args:
        u: input ``[N, T, D]``.
        delta: step sizes ``[N, T, D]``, positive.
        a: state matrix ``[D, S]``, negative.
        b: input projection ``[N, T, S]``.
        c: output projection ``[N, T, S]``.
        d: skip ``[D]`` or None.

    Returns:
        ``[N, T, D]``.

    ``unbind`` and not indexing per step: the backward of an index writes a full zero tensor each time.
    """
    decay = torch.exp(delta.unsqueeze(-1) * a)  # [N, T, D, S]
    drive = (delta * u).unsqueeze(-1) * b.unsqueeze(2)  # [N, T, D, S]
    states = []
    h = torch.zeros_like(drive[:, 0])
    for decay_t, drive_t in zip(decay.unbind(1), drive.unbind(1), strict=True):
        h = torch.addcmul(drive_t, decay_t, h)
        states.append(h)
    y = torch.einsum("ntds,nts->ntd", torch.stack(states, dim=1), c)
    return y if d is None else torch.addcmul(y, u, d)
