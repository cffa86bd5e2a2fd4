"""A run folder read back: forecasts equal the model's own in original units, and what does not fit is refused."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from foreblocks.darts._core.errors import DataError
from foreblocks.darts.architecture.build import build_network
from foreblocks.darts.architecture.linear import fit_ridge_pair
from foreblocks.darts.architecture.spec import ArchSpec, CellSpec, EdgeSpec, Macro, OpSpec
from foreblocks.darts.data import SeriesFrame, prepare
from foreblocks.darts.ops.registry import get_op
from foreblocks.darts.search.run_folder import RunFolder
from foreblocks.darts.search.saved_run import SavedRun, forecast_frame

HOURS = np.datetime64("2024-01-01T00:00:00.000000") + np.arange(300) * np.timedelta64(1, "h")


def series(rows: int = 300, dates=None) -> SeriesFrame:
    t = np.arange(rows)
    noise = 0.1 * np.random.default_rng(0).standard_normal((rows, 2))
    values = np.stack([50 + 10 * np.sin(t / 4), -3 + np.cos(t / 7)], 1) + noise
    return SeriesFrame(HOURS[:rows] if dates is None else dates, ["load", "temp"], values, name="mine")


def save(path: Path, prepared) -> SavedRun:
    """Save a ridge as the model of a run: fitted in no time."""
    ridges, _, _ = fit_ridge_pair(prepared.train, prepared.val)
    RunFolder.open(path).save_model(ridges["shared"], prepared.recipe.to_dict())
    return SavedRun(path)


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> SavedRun:
    return save(tmp_path_factory.mktemp("run"), prepare(series(), lookback=12, horizon=4))


def test_the_forecast_is_the_models_own_in_original_units(run):
    frame = series()
    forecast = forecast_frame(run, frame)
    mean, std = (np.array(part) for part in (run.recipe.scaler.mean, run.recipe.scaler.std))
    window = torch.tensor((frame.values[-12:] - mean) / std, dtype=torch.float32)
    expected = run.load_model()(window[None])[0].double().numpy() * std + mean
    np.testing.assert_allclose(forecast.values, expected, rtol=1e-6)
    assert 35 < forecast.values[:, 0].min() < forecast.values[:, 0].max() < 65
    assert [str(date) for date in forecast.dates[:2]] == ["2024-01-13T12:00:00.000000", "2024-01-13T13:00:00.000000"]
    assert forecast.channels == ("load", "temp")


def test_only_the_last_rows_count_and_channels_go_by_name(run):
    frame = series()
    whole = forecast_frame(run, frame)
    tail = SeriesFrame(frame.dates[-12:], ["temp", "load"], frame.values[-12:, ::-1], name="tail")
    np.testing.assert_array_equal(forecast_frame(run, tail).values, whole.values)
    np.testing.assert_array_equal(forecast_frame(run, tail).dates, whole.dates)


def test_data_that_do_not_fit_are_refused(run):
    frame = series()
    cases = [
        (SeriesFrame(frame.dates, ["load", "wind"], frame.values, name="x"), r"x lacks \['temp'\] and has \['wind'\]"),
        (SeriesFrame(frame.dates, ["load"], frame.values[:, :1], name="x"), r"x lacks \['temp'\]; the channels of the"),
        (SeriesFrame(frame.dates[:5], frame.channels, frame.values[:5], name="x"), "5 rows are too few.*back 12"),
        (series(dates=HOURS[0] + np.arange(300) * np.timedelta64(1, "D")), "step is 1 day; .* a step of 1 hour"),
        (series(dates=np.arange(300)), r"step is 1 \(integer index\); .* a step of 1 hour"),
    ]
    for bad, message in cases:
        with pytest.raises(DataError, match=message):
            forecast_frame(run, bad)
    with pytest.raises(DataError, match="--columns load temp"):
        forecast_frame(run, SeriesFrame(frame.dates, ["load", "temp", "z"], np.ones((300, 3)), name="x"))
    broken = series()
    broken.values[7, 1] = np.nan
    with pytest.raises(DataError, match="column 'temp', row 7"):
        forecast_frame(run, broken)


def test_months_and_weekdays_go_on_even_where_a_file_is_too_short_to_show_them(tmp_path):
    months = (np.arange("1990-01", "2015-01", dtype="datetime64[M]") + 1).astype("datetime64[D]") - 1
    frame = series(300, months.astype("datetime64[us]"))
    run = save(tmp_path / "months", prepare(frame, lookback=12, horizon=4))
    found = forecast_frame(run, frame).dates.astype("datetime64[D]")
    assert [str(day) for day in found] == ["2015-01-31", "2015-02-28", "2015-03-31", "2015-04-30"]
    days = np.busday_offset("2024-01-01", np.arange(300)).astype("datetime64[us]")
    run = save(tmp_path / "weekdays", prepare(series(300, days), lookback=4, horizon=4))
    start = next(
        k for k in range(200, 300) if days[k].astype("datetime64[D]") == np.datetime64("2024-11-12")
    )  # Tuesday
    whole = series(300, days)
    week = SeriesFrame(days[start : start + 4], whole.channels, whole.values[start : start + 4], name="week")
    assert str(week.date_step) == "1 day"
    assert str(forecast_frame(run, week).dates[0].astype("datetime64[D]")) == "2024-11-18"


def test_a_recipe_survives_json_and_old_or_damaged_ones_are_named(run, tmp_path):
    state = json.loads((run.path / "model" / "scaler.json").read_text())
    assert state["channels"] == ["load", "temp"]
    assert (state["lookback"], state["horizon"], state["series"]) == (12, 4, "mine")
    assert run.recipe.to_dict() == state
    (tmp_path / "model").mkdir()
    old = SavedRun(tmp_path)
    with pytest.raises(DataError, match=r"scaler.json is missing.*original units"):
        old.recipe
    file = tmp_path / "model" / "scaler.json"
    for content, message in (
        ("{", "cannot be read as JSON"),
        ("[]", "expected a dict"),
        (json.dumps({k: state[k] for k in ("channels", "mean", "std")}), r"lacks \['lookback'"),
        (json.dumps({**state, "std": [1.0, 0.0]}), "deviations positive"),
        (json.dumps({**state, "lookback": 0}), "lookback=0"),
        (json.dumps({**state, "step": {"kind": "fixed"}}), "kind, count and day"),
        (json.dumps({**state, "step": {"kind": "fixed", "count": 0, "day": 1}}), "count=0"),
        (json.dumps({**state, "mean": ["x", "y"]}), "could not convert"),
        (json.dumps({**state, "format": 9}), "format 9"),
    ):
        file.write_text(content)
        with pytest.raises(DataError, match=message):
            SavedRun(tmp_path).recipe


def test_folders_without_a_run_or_with_a_broken_model_are_refused(run, tmp_path: Path):
    with pytest.raises(DataError, match="no such folder"):
        SavedRun(tmp_path / "none")
    with pytest.raises(DataError, match="no run folder"):
        SavedRun(tmp_path)
    (tmp_path / "candidates.json").write_text("[]")
    with pytest.raises(DataError, match="did not finish"):
        SavedRun(tmp_path).load_model()
    folder = tmp_path / "model"
    folder.mkdir()
    for name in ("arch.json", "model.safetensors"):
        (folder / name).write_bytes((run.path / "model" / name).read_bytes()[:-40])
        with pytest.raises(DataError, match="saved model cannot be read"):
            SavedRun(tmp_path).load_model()
        (folder / name).write_bytes((run.path / "model" / name).read_bytes())
    assert SavedRun(tmp_path).load_model() is not None


def planned(tmp_path: Path) -> SavedRun:
    """A run of a network whose target follows a plan that is known ahead."""
    ready = prepare(series(), lookback=12, horizon=4, targets=["temp"], future_columns=["load"])
    macro = Macro(2, 12, 4, hidden_dim=8, future_dim=1, target_channels=(1,))
    cell = CellSpec(2, (EdgeSpec(0, 1, OpSpec("Identity", get_op("Identity").path)),))
    RunFolder.open(tmp_path).save_model(build_network(ArchSpec(macro, (cell,)), seed=0), ready.recipe.to_dict())
    return SavedRun(tmp_path)


def test_what_is_known_ahead_comes_from_a_second_file(tmp_path: Path):
    run, frame = planned(tmp_path), series()
    dates = HOURS[-1] + np.arange(1, 6) * np.timedelta64(1, "h")
    plan = SeriesFrame(dates, ["wind", "load"], np.arange(10.0).reshape(5, 2), name="plan")
    forecast = forecast_frame(run, frame, future=plan)
    assert (forecast.channels, forecast.values.shape) == (("temp",), (4, 1))
    mean, std = (np.array(part) for part in (run.recipe.scaler.mean, run.recipe.scaler.std))
    window = torch.tensor((frame.values[-12:] - mean) / std, dtype=torch.float32)
    known = torch.tensor((plan.values[:4, 1:] - mean[0]) / std[0], dtype=torch.float32)
    expected = run.load_model()(window[None], known[None])[0].double().detach().numpy() * std[1] + mean[1]
    np.testing.assert_allclose(forecast.values, expected, rtol=1e-5)


def test_a_plan_that_does_not_fit_is_refused(tmp_path: Path, run: SavedRun):
    with_plan, frame = planned(tmp_path), series()
    dates = HOURS[-1] + np.arange(1, 5) * np.timedelta64(1, "h")
    late = SeriesFrame(dates + np.timedelta64(1, "h"), ["load"], np.ones((4, 1)), name="late")
    cases = [
        (with_plan, None, r"trained with \['load'\] known ahead: give them for the 4 rows"),
        (with_plan, SeriesFrame(dates[:3], ["load"], np.ones((3, 1)), name="plan"), "plan: 3 rows are too few"),
        (with_plan, SeriesFrame(dates, ["wind"], np.ones((4, 1)), name="plan"), r"plan: no column \['load'\]"),
        (with_plan, SeriesFrame(dates, ["load"], np.full((4, 1), np.nan), name="plan"), "not a finite number"),
        (with_plan, late, "late: row 0 is of 2024-01-13T13:00:00.000000, but the forecast needs 2024-01-13T12"),
        (run, late, "late: the run was trained without columns that are known ahead"),
    ]
    for saved, future, message in cases:
        with pytest.raises(DataError, match=message):
            forecast_frame(saved, frame, future=future)
