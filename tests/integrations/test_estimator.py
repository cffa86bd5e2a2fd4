"""The forecaster that fits in a line: tables in, tables out, the same search as elsewhere."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
import torch

from foreblocks.darts._core.errors import DataError, InvalidArgument
from foreblocks.darts.data import prepare, read_csv
from foreblocks.darts.integrations.estimator import DARTSForecaster
from foreblocks.darts.search.saved_run import Forecast, SavedRun, forecast_frame

L, H, ROWS = 24, 4, 300
TINY = {
    "num_candidates": 2, "top_k": 1, "finalists": 1, "trial_steps": 2, "search_epochs": 1, "final_epochs": 1,
    "max_train_batches": 2, "max_val_batches": 2, "final_max_train_batches": 3,
}  # fmt: skip


def values() -> np.ndarray:
    t = np.arange(ROWS)
    noise = np.random.default_rng(0).standard_normal((ROWS, 2))
    return np.stack([np.sin(t / 4.0), 1000.0 + 50.0 * np.cos(t / 7.0)], 1) + noise * (0.1, 3.0)


def forecaster(**changes) -> DARTSForecaster:
    return DARTSForecaster(L, H, hidden_dims=(8,), search=TINY, device="cpu", **changes)


@pytest.fixture(scope="module")
def fitted(tmp_path_factory):
    """A forecaster of a table with a run folder, and the table."""
    pd = pytest.importorskip("pandas")
    pytest.importorskip("narwhals")
    table = pd.DataFrame(values(), columns=["a", "b"], index=pd.date_range("2024-01-01", periods=ROWS, freq="h"))
    folder = tmp_path_factory.mktemp("estimator") / "run"
    return forecaster(run_dir=folder).fit(table), table


def test_a_table_gives_a_table_that_goes_on(fitted):
    model, table = fitted
    found = model.predict()
    assert type(found) is type(table)
    assert found.columns.tolist() == ["a", "b"]
    assert found.index[0] - table.index[-1] == table.index[1] - table.index[0]
    assert len(found) == H
    assert (found["b"] > 500).all()
    assert "baseline" in model.verdict_
    assert model.feature_names_in_.tolist() == ["a", "b"]


def test_the_forecast_is_that_of_the_model_by_hand(fitted):
    model, table = fitted
    scaler = model.recipe_.scaler
    window = torch.tensor((table.to_numpy()[100 : 100 + L] - scaler.mean) / scaler.std).float()
    with torch.no_grad():
        by_hand = model.model_(window[None])[0].numpy() * scaler.std + scaler.mean
    # Columns in another order, and a column that was not fitted, change nothing.
    given = table.iloc[: 100 + L][["b", "a"]]
    np.testing.assert_allclose(model.predict(given)[["a", "b"]], by_hand, rtol=1e-4)
    with pytest.raises(DataError, match=r"has \['c'\]"):
        model.predict(given.assign(c=1.0))


def test_array_path_and_table_agree(fitted, tmp_path):
    model, table = fitted
    table.to_csv(tmp_path / "x.csv", index_label="date")
    by_path = model.predict(tmp_path / "x.csv")
    assert isinstance(by_path, Forecast)
    np.testing.assert_array_equal(by_path.values, model.predict().to_numpy())
    of_array = forecaster().fit(values())
    found = of_array.predict()
    assert isinstance(found, np.ndarray)
    np.testing.assert_array_equal(found, by_path.values)  # the same seed, the same search


def test_a_run_folder_and_a_pickle_hold_it(fitted):
    model, table = fitted
    again = DARTSForecaster.from_run(model.run_dir, device="cpu")
    assert again.predict(table).equals(model.predict())
    assert (again.verdict_, again.lookback, again.horizon) == (model.verdict_, L, H)
    with pytest.raises(DataError, match=r"predict\(X\) needs it"):
        again.predict()
    assert pickle.loads(pickle.dumps(model)).predict().equals(model.predict())
    frame = prepare(table, lookback=L, horizon=H).frame
    np.testing.assert_array_equal(forecast_frame(SavedRun(model.run_dir), frame).values, model.predict().to_numpy())


def test_it_exports_what_it_forecasts(fitted, tmp_path):
    model, table = fitted
    assert model.export(tmp_path / "m.pt2").inputs == {"x": ("batch", L, 2)}
    found = torch.export.load(tmp_path / "m.pt2").module()(torch.from_numpy(table.to_numpy()[None, -L:].copy()))
    np.testing.assert_allclose(found[0].numpy(), model.predict().to_numpy(), rtol=1e-5, atol=1e-5)
    with pytest.raises(DataError, match="not fitted"):
        DARTSForecaster().export(tmp_path / "n.pt2")


def test_targets_and_covariates():
    rows = np.concatenate([values(), np.arange(ROWS)[:, None] % 24], axis=1)
    model = forecaster(targets=["1"], future_columns=["2"]).fit(rows)
    with pytest.raises(DataError, match="known ahead"):
        model.predict()
    coming = np.zeros((H, 3))
    coming[:, 2] = (ROWS + np.arange(H)) % 24
    with pytest.raises(DataError, match="row 0 is of 0, but the forecast needs 300"):
        model.predict(future=coming)


def test_arguments_are_those_of_an_estimator(fitted):
    clone = pytest.importorskip("sklearn.base").clone
    model, _ = fitted
    copy = clone(model)
    assert copy.get_params() == model.get_params()
    with pytest.raises(DataError, match="not fitted"):
        copy.predict()
    assert copy.set_params(seed=3).seed == 3
    assert "seed=3" in repr(copy)
    assert repr(DARTSForecaster()) == "DARTSForecaster()"
    with pytest.raises(InvalidArgument, match="Did you mean 'lookback'"):
        copy.set_params(look_back=3)


@pytest.mark.parametrize(
    ("changes", "kind", "message"),
    [
        ({"lookback": 0}, InvalidArgument, "lookback=0"),
        ({"targets": ["x"]}, DataError, "targets"),
        ({"search": {"num_candidate": 3}}, TypeError, "num_candidates"),
        ({"device": "tpu"}, Exception, "tpu"),
        ({"hidden_dims": (0,)}, InvalidArgument, "0"),
    ],
)
def test_fit_refuses(changes, kind, message):
    with pytest.raises(kind, match=message):
        forecaster().set_params(**changes).fit(values())


def test_gaps_are_filled_only_where_that_is_asked(tmp_path):
    holes = values()
    holes[50:53, 0] = np.nan
    with pytest.raises(DataError, match="column '0'"):
        forecaster().fit(holes)
    model = forecaster(impute="linear").fit(holes)
    holes[-2, 1] = np.nan
    assert np.isfinite(model.predict(holes)).all()
    with pytest.raises(InvalidArgument, match="y is given"):
        forecaster().fit(holes, holes)


def test_it_is_the_search_of_the_command_line(fitted, tmp_path):
    """Same data, sizes and seed: the same forecast as ``search`` and ``predict``."""
    from foreblocks.darts.cli import main

    model, table = fitted
    table.to_csv(tmp_path / "x.csv", index_label="date")
    size = "--candidates 2 --top-k 1 --finalists 1 --trial-steps 2 --search-epochs 1 --final-epochs 1 --workers 1"
    size += " --max-train-batches 2 --final-max-train-batches 3 --hidden-dims 8 --device cpu"
    window = ["--lookback", str(L), "--horizon", str(H), "--run-dir", str(tmp_path / "run")]
    assert main(["search", "--data", str(tmp_path / "x.csv"), *window, *size.split()]) == 0
    found = forecast_frame(SavedRun(tmp_path / "run"), read_csv(tmp_path / "x.csv"))
    np.testing.assert_array_equal(found.values, model.predict().to_numpy())
