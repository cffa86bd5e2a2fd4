"""Baselines: what they forecast, and the published figures of the ETT files."""

from __future__ import annotations

import logging

import pytest
import torch
from torch.utils.data import Dataset

from foreblocks.darts._core.errors import InvalidArgument
from foreblocks.darts._core.seeding import generator
from foreblocks.darts.architecture.linear import LinearForecaster
from foreblocks.darts.data import WindowDataset, load_dataset, prepare
from foreblocks.darts.data.sources import as_source
from foreblocks.darts.evaluation.baselines import LastValue, SeasonalNaive, build_baselines
from foreblocks.darts.evaluation.predict import score_models


def parts(lookback=12, horizon=5):
    values = torch.randn(400, 2, generator=generator("baselines")).cumsum(0)
    return WindowDataset(values, lookback, horizon, last=250), WindowDataset(values, lookback, horizon, first=250)


def test_naive_forecasts():
    x = torch.arange(20.0).reshape(2, 5, 2)
    assert torch.equal(LastValue(3)(x), x[:, [-1, -1, -1]])
    assert torch.equal(SeasonalNaive(2, 5, 5)(x), x[:, [3, 4, 3, 4, 3]])
    assert torch.equal(SeasonalNaive(5, 5, 3)(x), x[:, [0, 1, 2]])


def test_a_season_longer_than_the_lookback_is_refused_or_left_out(caplog):
    with pytest.raises(InvalidArgument, match="period=13 is longer than seq_length=12"):
        SeasonalNaive(13, 12, 5)
    with caplog.at_level(logging.INFO, logger="foreblocks.darts"):
        found = build_baselines(*parts(), period=13)
    assert set(found.models) == {"last_value", "ridge_shared", "ridge_per_channel"}
    assert "No seasonal naive" in caplog.text


def test_the_ridge_star_is_the_better_one_on_validation():
    train, val = parts()
    found = build_baselines(train, val, period=6)
    assert list(found.models) == ["last_value", "seasonal_naive", "ridge_shared", "ridge_per_channel"]
    scores = score_models(found.models, val)
    ridges = {name: scores[name]["mse"] for name in ("ridge_shared", "ridge_per_channel")}
    assert found.ridge_star == min(ridges, key=ridges.get)
    for name, mse in ridges.items():
        assert found.ridge_info[name]["val_mse"] == pytest.approx(mse, rel=1e-5)
    assert found.ridge() is found.models[found.ridge_star]
    assert isinstance(found.ridge("shared"), LinearForecaster)
    assert found.ridge("per_channel").spec.mode == "per_channel"
    with pytest.raises(InvalidArgument, match="linear_path='none'"):
        found.ridge("none")


def ett(real_data_dir, name, lookback):
    prepared = prepare(load_dataset(name, real_data_dir), lookback=lookback, horizon=96)
    found = build_baselines(prepared.train, prepared.val, period=24 if name == "ETTh1" else 96)
    return prepared, found, score_models(found.models, prepared.test, batch_size=512)


@pytest.mark.real_data
def test_published_figures_of_etth1(real_data_dir):
    prepared, found, scores = ett(real_data_dir, "ETTh1", 336)
    assert (len(prepared.train), len(prepared.val), len(prepared.test)) == (8640 - 336 - 95, 2785, 2785)
    assert (scores["last_value"]["mse"], scores["last_value"]["mae"]) == pytest.approx((1.2944, 0.7132), abs=1e-4)
    seasonal = scores["seasonal_naive"]
    assert (seasonal["mse"], seasonal["mae"]) == pytest.approx((0.5122, 0.4333), abs=1e-4)
    assert scores["ridge_shared"]["mse"] == pytest.approx(0.3698, abs=3e-4)
    assert found.ridge_star == "ridge_shared"


@pytest.mark.real_data
def test_published_figures_of_etth1_with_a_short_lookback(real_data_dir):
    _, _, scores = ett(real_data_dir, "ETTh1", 96)
    assert (scores["last_value"]["mse"], scores["last_value"]["mae"]) == pytest.approx((1.2944, 0.7132), abs=1e-4)
    assert scores["ridge_shared"]["mse"] == pytest.approx(0.3831, abs=3e-4)


@pytest.mark.real_data
def test_published_figures_of_ettm1(real_data_dir):
    prepared, found, scores = ett(real_data_dir, "ETTm1", 336)
    assert len(prepared.test) == 11425
    assert (scores["last_value"]["mse"], scores["last_value"]["mae"]) == pytest.approx((1.2139, 0.6648), abs=1e-4)
    seasonal = scores["seasonal_naive"]
    assert (seasonal["mse"], seasonal["mae"]) == pytest.approx((0.4227, 0.3865), abs=1e-4)
    assert scores["ridge_shared"]["mse"] == pytest.approx(0.3004, abs=3e-4)
    assert 0.2872 <= scores["ridge_per_channel"]["mse"] <= 0.2882
    assert found.ridge_star == "ridge_per_channel"


class Map(Dataset):
    """A map-style data set of the user's own."""

    def __init__(self, data):
        self.data = data

    def __len__(self):
        return len(self.data)

    def __getitem__(self, index):
        return self.data[index]


def test_ridge_of_a_data_set_of_the_users_own_is_the_same():
    train, val = parts()
    own = [as_source(Map(part), role=role) for part, role in ((train, "train"), (val, "val"))]
    expected, found = build_baselines(train, val), build_baselines(*own)
    assert found.ridge_info == expected.ridge_info
    nothing = own[0].gather(torch.zeros(0, dtype=torch.int64))
    assert [part.shape for part in nothing] == [(0, 12, 2), (0, 5, 2)]
