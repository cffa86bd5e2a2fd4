"""Plain PyTorch forms of the hot-path operations: what everything faster is checked against.

They trace under compile, export, ONNX and functorch, and differentiate twice.
"""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor


def time_linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Plain PyTorch form of ``products.time_linear``."""
    batched = weight.expand(x.shape[0], -1, -1)
    if bias is None:
        return torch.bmm(batched, x)
    return torch.baddbmm(bias.unsqueeze(-1).expand(x.shape[0], -1, 1), batched, x)


def conv1d(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    stride: int = 1,
    dilation: int = 1,
    groups: int = 1,
    padding: Literal["same", "causal", "valid"] = "same",
) -> Tensor:
    """Plain PyTorch form of ``products.conv1d``.

    ``[N, T, D]`` is an image of height 1 in channels-last layout, so a 2-D convolution takes it without a copy.
    """
    reach = 0 if padding == "valid" else (weight.shape[-1] - 1) * dilation
    left = reach if padding == "causal" else reach - reach // 2
    right = reach - left
    symmetric = left == right
    if not symmetric:
        x = F.pad(x, (0, 0, left, right))
    image = x.unsqueeze(1).permute(0, 3, 1, 2)
    out = F.conv2d(
        image,
        weight.unsqueeze(2),
        bias,
        stride=(1, stride),
        padding=(0, left if symmetric else 0),
        dilation=(1, dilation),
        groups=groups,
    )
    return out.permute(0, 2, 3, 1).squeeze(1).contiguous()


def conv_transpose1d(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    length: int,
    stride: int = 2,
    padding: int = 0,
    groups: int = 1,
) -> Tensor:
    """Transposed convolution over time in ``[N, T, D]``.

    Args:
        x: ``[N, T, I]``.
        weight: ``[I, O / groups, W]``.
        bias: ``[O]`` or None.
        length: steps of the output; those beyond the natural length are padded by the operation (fewer than
            ``stride``), those before it are cut.
        stride: steps between two windows.
        padding: steps cut from both ends.
        groups: ``I`` for a depthwise convolution.

    Returns:
        ``[N, length, O]``, contiguous.
    """
    natural = (x.shape[1] - 1) * stride + weight.shape[-1] - 2 * padding
    image = x.unsqueeze(1).permute(0, 3, 1, 2)
    out = F.conv_transpose2d(
        image,
        weight.unsqueeze(2),
        bias,
        stride=(1, stride),
        padding=(0, padding),
        output_padding=(0, max(length - natural, 0)),
        groups=groups,
    )
    return out.permute(0, 2, 3, 1).squeeze(1)[:, :length].contiguous()
