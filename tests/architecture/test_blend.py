"""The blended module: weights, names, state."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from foreblocks.darts._core.errors import InvalidArgument
from foreblocks.darts.architecture.blend import BlendedForecaster


class Times(nn.Module):
    def __init__(self, factor):
        super().__init__()
        self.factor = nn.Parameter(torch.tensor(float(factor)))

    def forward(self, x):
        return self.factor * x[:, -2:]


def blend(weights=(0.25, 0.75)):
    return BlendedForecaster({"ridge": Times(1.0), "network": Times(3.0)}, weights)


def test_the_forecast_is_the_weighted_sum():
    x = torch.randn(4, 6, 3, generator=torch.Generator().manual_seed(0))
    assert torch.allclose(blend()(x), 2.5 * x[:, -2:])
    assert torch.allclose(blend(None)(x), 2.0 * x[:, -2:])
    assert torch.equal(blend((1.0, 0.0))(x), x[:, -2:])


def test_the_state_dict_holds_parts_and_weights():
    first, second = blend((0.1, 0.9)), BlendedForecaster({"ridge": Times(7.0), "network": Times(8.0)})
    second.load_state_dict(first.state_dict())
    x = torch.ones(1, 3, 1)
    assert torch.equal(first(x), second(x))
    assert set(first.state_dict()) == {"weights", "parts.ridge.factor", "parts.network.factor"}
    assert second.weight_of() == pytest.approx({"ridge": 0.1, "network": 0.9})


def test_weights_by_name_do_not_depend_on_their_order():
    model = blend()
    model.set_weights({"network": 0.6, "ridge": 0.4})
    assert model.weight_of() == pytest.approx({"ridge": 0.4, "network": 0.6})
    assert model.names == ("ridge", "network")
    assert isinstance(model.parts["ridge"], Times)


def test_gradients_reach_the_parts():
    model = blend()
    model(torch.ones(1, 3, 1)).sum().backward()
    assert model.parts["ridge"].factor.grad.item() == pytest.approx(0.5)
    assert model.parts["network"].factor.grad.item() == pytest.approx(1.5)


def test_exports_with_a_dynamic_batch():
    model = blend()
    x = torch.arange(12.0).reshape(2, 3, 2)
    program = torch.export.export(model, (x,), dynamic_shapes=({0: torch.export.Dim("batch")},))
    more = torch.arange(30.0).reshape(5, 3, 2)
    assert torch.allclose(program.module()(more), model(more))


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ((0.5, 0.6), "must sum to 1"),
        ((-0.5, 1.5), r"weights\[0\]"),
        ((1.0,), "2 parts"),
        ({"ridge": 1.0}, "the parts are"),
        ((float("nan"), 1.0), "finite"),
    ],
)
def test_weights_that_are_not_convex_are_refused(weights, message):
    model = blend()
    with pytest.raises(InvalidArgument, match=message):
        model.set_weights(weights)
    assert model.weight_of() == pytest.approx({"ridge": 0.25, "network": 0.75})


def test_a_blend_of_nothing_is_refused():
    with pytest.raises(InvalidArgument, match="at least one"):
        BlendedForecaster({})
