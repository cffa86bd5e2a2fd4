"""A large batch is taken apart where gradients are not needed."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from foreblocks.darts.architecture import skeleton
from foreblocks.darts.architecture.blend import BlendedForecaster
from foreblocks.darts.architecture.network import TimeSeriesDARTS
from foreblocks.darts.architecture.spec import Macro


def network(mode: str, future_dim: int = 0) -> TimeSeriesDARTS:
    torch.manual_seed(0)
    macro = Macro(3, seq_length=24, horizon=4, hidden_dim=8, channel_mode=mode, future_dim=future_dim)
    return TimeSeriesDARTS.from_macro(macro, selected_ops=["Identity", "TCN"], num_cells=1, num_nodes=2).eval()


@pytest.mark.parametrize(("mode", "series"), [("independent", 3), ("mixed", 1)])
def test_a_batch_in_parts_has_the_same_forecasts(mode: str, series: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(skeleton, "EVAL_TOKENS", 5 * 24 * series + 7)
    model, known = network(mode, future_dim=2), torch.randn(13, 4, 2)
    sizes: list[int] = []
    model.register_forward_pre_hook(lambda _, inputs: sizes.append(len(inputs[0])))
    x = torch.randn(13, 24, 3)
    with torch.no_grad():
        torch.testing.assert_close(skeleton.forward_in_parts(model)(x, known), model(x, known))
    assert sizes == [5, 5, 3, 13]


def test_the_largest_network_of_a_blend_decides(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(skeleton, "EVAL_TOKENS", 1)
    blend = BlendedForecaster({"a": network("mixed"), "b": network("independent")}, [0.25, 0.75])
    x = torch.randn(3, 24, 3)
    with torch.no_grad():
        torch.testing.assert_close(skeleton.forward_in_parts(blend)(x), blend(x))


def test_another_model_is_called_once() -> None:
    sizes: list[int] = []
    model = nn.Linear(2, 2)
    model.register_forward_pre_hook(lambda _, inputs: sizes.append(len(inputs[0])))
    skeleton.forward_in_parts(model)(torch.zeros(100_000, 2))
    assert sizes == [100_000]
