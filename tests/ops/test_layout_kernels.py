"""The reference kernels that the ops run on, against the operations of PyTorch in their own layout."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from foreblocks.darts import kernels
from foreblocks.darts.ops.blocks import Linear, StepConv, TimeLinear, activated

DTYPES = [torch.float32, torch.float64]


def noise(*shape: int, dtype: torch.dtype, seed: int = 1) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(("stride", "dilation", "groups"), [(1, 1, 1), (2, 1, 1), (1, 3, 6), (2, 2, 2)])
@pytest.mark.parametrize("padding", ["same", "causal", "valid"])
@pytest.mark.parametrize("length", [7, 8, 17])
def test_conv1d(dtype: torch.dtype, stride: int, dilation: int, groups: int, padding: str, length: int):
    for taps in (1, 2, 3):
        x, weight = noise(2, length, 6, dtype=dtype), noise(6, 6 // groups, taps, dtype=dtype, seed=2)
        bias = noise(6, dtype=dtype, seed=3)
        reach = (taps - 1) * dilation
        left = {"same": reach - reach // 2, "causal": reach, "valid": 0}[padding]
        right = 0 if padding == "valid" else reach - left
        expected = F.conv1d(
            F.pad(x.mT, (left, right)), weight, bias, stride=stride, dilation=dilation, groups=groups
        ).mT
        got = kernels.conv1d(x, weight, bias, stride=stride, dilation=dilation, groups=groups, padding=padding)
        torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-5)
        assert got.is_contiguous()
        rectified = kernels.conv1d(
            x, weight, bias, stride=stride, dilation=dilation, groups=groups, padding=padding, activation="relu"
        )
        torch.testing.assert_close(rectified, expected.relu(), rtol=1e-5, atol=1e-5)
        assert padding == "valid" or got.shape[1] == -(-length // stride)


@pytest.mark.parametrize("groups", [1, 6])
@pytest.mark.parametrize("length", [1, 2, 7, 12, 13])
def test_transposed_convolution_undoes_the_length(length: int, groups: int):
    short = -(-length // 2)
    x, weight = noise(2, short, 6, dtype=torch.float32), noise(6, 6 // groups, 3, dtype=torch.float32, seed=2)
    got = kernels.conv_transpose1d(x, weight, length=length, padding=1, groups=groups)
    expected = F.conv_transpose1d(x.mT, weight, stride=2, padding=1, output_padding=1 - length % 2, groups=groups).mT
    torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-5)
    assert got.is_contiguous()


def test_depthwise_convolutions_are_centred_or_causal():
    x, weight = noise(2, 9, 4, dtype=torch.float64), noise(4, 3, dtype=torch.float64, seed=2)
    zero = torch.zeros(2, 1, 4, dtype=torch.float64)
    before, after = torch.cat([zero, x[:, :-1]], dim=1), torch.cat([x[:, 1:], zero], dim=1)
    torch.testing.assert_close(
        kernels.depthwise_conv1d(x, weight), before * weight[:, 0] + x * weight[:, 1] + after * weight[:, 2]
    )
    earlier = torch.cat([zero, before[:, :-1]], dim=1)
    torch.testing.assert_close(
        kernels.causal_conv1d_steps(x, weight), earlier * weight[:, 0] + before * weight[:, 1] + x * weight[:, 2]
    )


@pytest.mark.parametrize("bias", [True, False])
def test_time_linear(bias: bool):
    x, weight = noise(3, 9, 4, dtype=torch.float32), noise(5, 9, dtype=torch.float32, seed=2)
    offset = noise(5, dtype=torch.float32, seed=3) if bias else None
    got = kernels.time_linear(x, weight, offset)
    torch.testing.assert_close(got, F.linear(x.mT, weight, offset).mT, rtol=1e-5, atol=1e-5)
    assert got.is_contiguous()


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("kernel", [1, 2, 3, 25, 40])
@pytest.mark.parametrize("length", [1, 7, 30])
def test_moving_average_repeats_the_edges(dtype: torch.dtype, kernel: int, length: int):
    x = noise(2, length, 3, dtype=dtype)
    left = kernel // 2
    padded = torch.cat([x[:, :1]] * left + [x] + [x[:, -1:]] * (kernel - 1 - left), dim=1)
    got = kernels.moving_average(x, kernel)
    torch.testing.assert_close(got, padded.unfold(1, kernel, 1).mean(dim=-1), rtol=1e-5, atol=1e-5)
    assert got.is_contiguous()


@pytest.mark.parametrize(
    "layer", [Linear(4, 3), TimeLinear(5, 2), StepConv(4, 3, 3, dilation=2), StepConv(4, 4, 3, depthwise=True)]
)
@pytest.mark.parametrize("activation", ["none", "relu", "gelu", "silu"])
def test_a_hook_sees_what_the_layer_returns_before_its_activation(layer: torch.nn.Module, activation: str):
    x = noise(2, 5, 4, dtype=torch.float32)
    expected = {"none": lambda y: y, "relu": F.relu, "gelu": F.gelu, "silu": F.silu}[activation](layer(x))
    torch.testing.assert_close(activated(layer, x, activation), expected)
    seen: list[Tensor] = []
    handle = layer.register_forward_hook(lambda module, inputs, output: seen.append(output))
    torch.testing.assert_close(activated(layer, x, activation), expected)
    handle.remove()
    torch.testing.assert_close(seen, [layer(x)])


def test_a_linear_map_of_any_number_of_dimensions_has_its_activation():
    layer, x = Linear(4, 3), noise(2, 3, 5, 4, dtype=torch.float32)
    torch.testing.assert_close(activated(layer, x, "gelu"), F.gelu(F.linear(x, layer.weight, layer.bias)))
