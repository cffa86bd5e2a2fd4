"""The activations of the compiled kernels far out, where an approximation ends and an exponential overflows."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from foreblocks.darts import kernels
from foreblocks.darts.kernels import products

from .tools import gradients, needs_native, noise

pytestmark = [pytest.mark.kernels, needs_native]


# Each with a weight that is the identity, or a gate for ones, so only the activation is left.
IDENTITIES: dict[str, Callable[[Tensor, str], Tensor]] = {
    "depthwise": lambda x, a: kernels.depthwise_conv1d(x, torch.ones(x.shape[2], 1), activation=a),
    "linear": lambda x, a: kernels.linear(x, torch.eye(x.shape[2]), activation=a),
    "conv1d": lambda x, a: kernels.conv1d(x, torch.eye(x.shape[2]).unsqueeze(2), activation=a),
    "time_linear": lambda x, a: kernels.time_linear(x, torch.eye(x.shape[1]), activation=a),
    "gated_act": lambda x, a: kernels.gated_act(torch.cat([x, torch.ones_like(x)], dim=2), activation=a),
}
PRODUCTS = ["linear", "conv1d", "time_linear"]


@pytest.mark.parametrize("name", IDENTITIES)
@pytest.mark.parametrize("activation", ["relu", "gelu", "silu"])
@pytest.mark.parametrize("dim", [1, 5, 16, 37])
def test_value_and_slope_everywhere(name: str, activation: str, dim: int):
    ends = torch.tensor([5.5, 6.0, 9.0, 50.0, 88.0, 89.0, 1e4, 1e30])
    line = torch.cat([torch.linspace(-12, 12, 24 * dim), ends, -ends, torch.zeros(1)])
    line = torch.cat([line, torch.ones(-len(line) % dim)])
    x = line.view(1, -1, dim).requires_grad_()
    exact = line.double().view(1, -1, dim).requires_grad_()
    got = IDENTITIES[name](x, activation)
    expected = getattr(F, activation)(exact)  # the naive quotients of ``cases`` overflow out there
    size = exact.detach().abs().clamp_min(1.0)
    assert float(((got - expected).detach().abs() / size).max()) < 4e-7
    (by_x,), (by_exact,) = gradients(got, [x]), gradients(expected, [exact])
    assert float((by_x - by_exact).abs().max()) < 1e-6


@pytest.mark.parametrize("name", [*PRODUCTS, "gated_act"])
@pytest.mark.parametrize("activation", ["relu", "gelu", "silu"])
def test_what_is_not_a_number_has_the_slope_of_torch(name: str, activation: str):
    nan = float("nan")
    x = torch.tensor([nan, nan, 1.0, 0.0, -0.0, -1.0]).view(6, 1, 1).requires_grad_()
    cotangent = torch.tensor([2.0, 0.0, nan, 3.0, 3.0, nan]).view(6, 1, 1)
    got, expected = IDENTITIES[name](x, activation), getattr(F, activation)(x)
    torch.testing.assert_close(got, expected, equal_nan=True)
    torch.testing.assert_close(gradients(got, [x], cotangent), gradients(expected, [x], cotangent), equal_nan=True)


@pytest.mark.parametrize("name", [*PRODUCTS, "gated_act"])
def test_relu_stops_an_infinite_gradient(name: str):
    x = torch.tensor([-1.0, 0.0, 2.0]).view(3, 1, 1).requires_grad_()
    (got,) = gradients(IDENTITIES[name](x, "relu"), [x], torch.full((3, 1, 1), float("inf")))
    assert got.flatten().tolist() == [0.0, 0.0, float("inf")]


@pytest.mark.parametrize(("activation", "tensors"), [("none", 2), ("relu", 3), ("gelu", 3), ("silu", 3)])
def test_what_waits_for_the_gradient(activation: str, tensors: int):
    x, weight = noise(2, 5, 6), noise(4, 6, 3).requires_grad_()
    kept: list[Tensor] = []
    with torch.autograd.graph.saved_tensors_hooks(kept.append, lambda _: None):
        y = kernels.conv1d(x, weight, activation=activation)
    assert len(kept) == tensors
    # ReLU keeps its result, which is there anyway.
    assert any(each.data_ptr() == y.data_ptr() for each in kept) == (activation == "relu")
    without = products._CONV_FORWARD(x, weight.detach(), None, 1, 1, 2, False)[1]
    assert without.numel() == 0


@pytest.mark.parametrize("name", PRODUCTS)
@pytest.mark.parametrize("activation", ["none", "gelu", "silu"])
def test_second_derivatives_without_a_bias(name: str, activation: str):
    weight = {"linear": (3, 4), "conv1d": (3, 4, 2), "time_linear": (2, 5)}[name]
    inputs = [noise(2, 5, 4, dtype=torch.float64).requires_grad_(), noise(*weight, seed=2, dtype=torch.float64)]
    inputs[1].requires_grad_()
    function = getattr(kernels, name)
    assert torch.autograd.gradgradcheck(lambda x, w: function(x, w, activation=activation), inputs)


def test_a_kept_value_of_another_size_or_an_unknown_code_is_refused():
    x, weight = noise(2, 5, 6), noise(4, 6, 3)
    grad = noise(2, 5, 4)
    for kept in (None, grad[:1]):
        with pytest.raises(RuntimeError, match="kept is not of the size of grad"):
            products._CONV_BACKWARD(grad, kept, x, weight, None, 1, 1, 1, 3)
    with pytest.raises(RuntimeError, match="kept has another dtype"):
        products._TIME_BACKWARD(noise(2, 4, 6), noise(2, 4, 6).double(), x, noise(4, 5), None, 2, 3)
    with pytest.raises(RuntimeError, match="nothing to keep"):
        products._TIME_FORWARD(x, noise(4, 5), None, 0, True)
    with pytest.raises(RuntimeError, match="unknown code"):
        products._CONV_FORWARD(x, weight, None, 1, 1, 4, False)
