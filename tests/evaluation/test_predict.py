"""One pass over a source for several models."""

from __future__ import annotations

import logging
import math

import pytest
import torch
from torch import nn

from foreblocks.darts._core.errors import DataError, InvalidArgument
from foreblocks.darts._core.seeding import generator
from foreblocks.darts.data import WindowDataset
from foreblocks.darts.evaluation.baselines import LastValue, SeasonalNaive
from foreblocks.darts.evaluation.metrics import compute_metrics
from foreblocks.darts.evaluation.predict import iterate_forecasts, predict_source, score_models

LOOKBACK, HORIZON = 12, 4


def source(rows=230, value=None, at=(0, 0)):
    values = torch.randn(rows, 2, generator=generator("predict"))
    if value is not None:
        values[at] = value
    return WindowDataset(values, LOOKBACK, HORIZON)


class Counting:
    """A source that counts how often each window is gathered."""

    def __init__(self, base):
        self.base = base
        self.lookback, self.horizon, self.channels, self.starts = base.lookback, base.horizon, base.channels, None
        self.gathered = torch.zeros(len(base), dtype=torch.int64)

    def __len__(self):
        return len(self.base)

    def gather(self, indices):
        self.gathered[indices] += 1
        return self.base.gather(indices)


class Broken(nn.Module):
    def forward(self, x):
        return x[:, -HORIZON:] * float("nan")


def test_scores_do_not_depend_on_the_batch_size_and_windows_are_read_once():
    models = {"last": LastValue(HORIZON), "season": SeasonalNaive(6, LOOKBACK, HORIZON)}
    x, y = source().gather(torch.arange(len(source())))
    expected = {name: compute_metrics(model(x).numpy(), y.numpy()) for name, model in models.items()}
    for batch_size in (1, 32, 128, 1000):
        counting = Counting(source())
        found = score_models(models, counting, batch_size=batch_size)
        for name, values in expected.items():
            assert found[name] == pytest.approx(values, rel=1e-9)
        assert counting.gathered.eq(1).all()


def test_detail_adds_channels_and_horizon_parts():
    plain = score_models({"last": LastValue(HORIZON)}, source())["last"]
    full = score_models({"last": LastValue(HORIZON)}, source(), detail=True)["last"]
    assert len(full["mse_by_channel"]) == 2
    assert sum(full["mse_by_horizon"]) / 4 == pytest.approx(plain["mse"])
    assert {name: full[name] for name in plain} == plain


def test_predictions_come_in_window_order():
    forecast, target = predict_source(LastValue(HORIZON), source(), batch_size=50)
    x, y = source().gather(torch.arange(len(source())))
    assert torch.equal(forecast, x[:, -1:].expand(-1, HORIZON, -1))
    assert torch.equal(target, y)


def test_modes_and_gradients_are_the_consumers_own():
    model = nn.Sequential(nn.Dropout(0.5), LastValue(HORIZON)).train()
    model[1].eval()
    iterator = iterate_forecasts({"m": model}, source(), batch_size=64)
    forecasts, target = next(iterator)
    assert torch.is_grad_enabled()
    assert not model.training
    assert torch.equal(forecasts["m"][:, 0], forecasts["m"][:, -1])
    assert target.shape == (64, HORIZON, 2)
    iterator.close()
    assert model.training
    assert model[0].training
    assert not model[1].training


def test_missing_values_are_named_by_role_batch_window_and_channel():
    with pytest.raises(DataError, match=r"test data, batch 2: window 89 .*channel 1"):
        score_models({"last": LastValue(HORIZON)}, source(value=float("nan"), at=(100, 1)), batch_size=32)


def test_a_model_that_breaks_does_not_hide_the_others(caplog):
    with caplog.at_level(logging.WARNING, logger="foreblocks.darts"):
        found = score_models({"broken": Broken(), "last": LastValue(HORIZON)}, source())
    assert math.isnan(found["broken"]["mse"])
    assert math.isfinite(found["last"]["mse"])
    assert "'broken'" in caplog.text


def test_wrong_requests_are_refused():
    with pytest.raises(InvalidArgument, match="'last' returned shape"):
        score_models({"last": LastValue(HORIZON + 1)}, source())
    with pytest.raises(InvalidArgument, match="models is empty"):
        score_models({}, source())
    with pytest.raises(InvalidArgument, match="batch_size=0"):
        score_models({"last": LastValue(HORIZON)}, source(), batch_size=0)
    with pytest.raises(DataError, match="no window"):
        score_models({"last": LastValue(HORIZON)}, source().subset([]))
