from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from foreblocks.darts._core.errors import DataError
from foreblocks.darts.data.scaling import StandardScaler
from foreblocks.darts.data.splits import Split, standard_split


def test_ett_months():
    assert standard_split("ETTh1", 17420) == Split((0, 8640), (8640, 11520), (11520, 14400))
    assert standard_split("ETTm2", 69680) == Split((0, 34560), (34560, 46080), (46080, 57600))
    with pytest.raises(DataError, match=r"ETTh2 has 14399 rows.*14400"):
        standard_split("ETTh2", 14399)


@pytest.mark.parametrize(
    ("name", "rows", "horizon", "windows"), [("exchange_rate", 7588, 96, 1422), ("ili", 966, 24, 170)]
)
def test_other_files_follow_the_published_counts(name: str, rows: int, horizon: int, windows: int):
    start, stop = standard_split(name, rows).test
    assert stop - start - horizon + 1 == windows


@settings(max_examples=50, deadline=None)
@given(st.integers(5, 200_000))
def test_seventy_ten_twenty_covers_all_rows(rows: int):
    split = standard_split(None, rows)
    assert split.train == (0, int(rows * 0.7))
    assert split.test == (rows - int(rows * 0.2), rows)
    assert split.val == (split.train[1], split.test[0])


def test_names_that_only_resemble_ett_are_other_files():
    assert standard_split("ETTh1_mine", 100).train == (0, 70)


def test_bad_splits():
    with pytest.raises(DataError, match="too few"):
        standard_split("mine", 3)
    with pytest.raises(DataError, match="overlap"):
        Split((0, 10), (9, 12), (12, 14))
    with pytest.raises(DataError, match="start < stop"):
        Split((0, 10), (10, 10), (12, 14))


@pytest.fixture
def values() -> np.ndarray:
    return np.random.default_rng(0).normal(3, 5, (50, 3))


def test_population_deviation_and_round_trip(values: np.ndarray):
    scaler = StandardScaler.fit(values, ["a", "b", "c"])
    scaled = scaler.transform(values)
    np.testing.assert_allclose(scaled.mean(0), 0, atol=1e-12)
    np.testing.assert_allclose((scaled**2).mean(0), 1, rtol=1e-12)
    np.testing.assert_allclose(scaler.inverse(scaled), values, rtol=1e-12)


def test_numpy_and_torch_agree_on_batches(values: np.ndarray):
    scaler = StandardScaler.fit(values)
    batch = values.reshape(5, 10, 3)
    tensor = scaler.transform(torch.from_numpy(batch))
    assert tensor.dtype == torch.float64
    np.testing.assert_allclose(tensor.numpy(), scaler.transform(batch), rtol=1e-12)
    single = scaler.inverse(torch.from_numpy(batch).float())
    assert single.dtype == torch.float32
    assert scaler.transform(batch.astype(np.float32)).dtype == np.float32
    with pytest.raises(DataError, match="last dimension is 2"):
        scaler.transform(batch[..., :2])


def test_state_is_plain_and_complete(values: np.ndarray):
    scaler = StandardScaler.fit(values, ["a", "b", "c"])
    assert StandardScaler.from_dict(json.loads(json.dumps(scaler.to_dict()))) == scaler
    for broken in (
        {"mean": [0.0]},
        {"channels": ["a"], "mean": [0.0], "std": [0.0]},
        {"channels": ["a"], "mean": [], "std": [1]},
    ):
        with pytest.raises(DataError, match="scaler"):
            StandardScaler.from_dict(broken)


@pytest.mark.parametrize("constant", [0.0, 0.1, -9999.0, 1e-300])
def test_constant_channel_is_named(values: np.ndarray, constant: float):
    values[:, 1] = constant
    with pytest.raises(DataError, match="'b' is constant"):
        StandardScaler.fit(values, ["a", "b", "c"])


def test_bad_values_are_refused(values: np.ndarray):
    with pytest.raises(DataError, match="do not fit"):
        StandardScaler.fit(values[:0])
    values[3, 2] = np.inf
    with pytest.raises(DataError, match="'2'"), np.errstate(invalid="ignore"):
        StandardScaler.fit(values)


def test_values_beyond_what_a_network_computes_with_are_named() -> None:
    scaler = StandardScaler.fit(np.array([[0.0, 1.0], [2.0, 3.0]]), ["a", "b"])
    rows = np.array([[1.0, 2.0], [1.0, 1e19]])
    assert scaler.transform_rows(rows[:1], "x").dtype == np.float32
    with pytest.raises(DataError, match=r"x: column 'b', row 6: 1e\+19 is too far .*mean 2, deviation 1"):
        scaler.transform_rows(rows, "x", first=5)


def test_values_too_large_to_scale_are_not_called_infinite() -> None:
    with pytest.raises(DataError, match=r"column 'b' has values up to 1e\+308, too large"):
        StandardScaler.fit(np.array([[0.0, 1e308], [2.0, 1e308]]), ["a", "b"])
    with pytest.raises(DataError, match="column 'a' has non-finite values"):
        StandardScaler.fit(np.array([[0.0], [np.inf]]), ["a"])
