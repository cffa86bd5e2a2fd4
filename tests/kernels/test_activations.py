"""The activations of the compiled kernels far out, where an approximation ends and an exponential overflows."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from foreblocks.darts import kernels

from .tools import gradients, needs_native

pytestmark = [pytest.mark.kernels, needs_native]


@pytest.mark.parametrize("activation", ["relu", "gelu", "silu"])
@pytest.mark.parametrize("dim", [1, 5, 16, 37])
def test_value_and_slope_everywhere(activation: str, dim: int):
    ends = torch.tensor([5.5, 6.0, 9.0, 50.0, 88.0, 89.0, 1e4, 1e30])
    line = torch.cat([torch.linspace(-12, 12, 24 * dim), ends, -ends, torch.zeros(1)])
    line = torch.cat([line, torch.ones(-len(line) % dim)])
    x = line.view(1, -1, dim).requires_grad_()
    exact = line.double().view(1, -1, dim).requires_grad_()
    # One tap of 1 is the identity, so only the activation is left.
    got = kernels.depthwise_conv1d(x, torch.ones(dim, 1), activation=activation)
    expected = getattr(F, activation)(exact)  # the naive quotients of ``cases`` overflow out there
    size = exact.detach().abs().clamp_min(1.0)
    assert float(((got - expected).detach().abs() / size).max()) < 4e-7
    (by_x,), (by_exact,) = gradients(got, [x]), gradients(expected, [exact])
    assert float((by_x - by_exact).abs().max()) < 1e-6
