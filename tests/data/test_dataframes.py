"""Tables of other libraries become series, and forecasts become tables again."""

from __future__ import annotations

import datetime
import re

import numpy as np
import pytest

from foreblocks.darts._core.errors import DataError, OptionalDependencyError
from foreblocks.darts.data import empty_like, prepare, read_table, write_like

pytest.importorskip("narwhals")
pd = pytest.importorskip("pandas")

ROWS = 40
VALUES = np.random.default_rng(0).standard_normal((ROWS, 2))
HOURS = np.datetime64("2024-03-30T00", "us") + np.arange(ROWS) * np.timedelta64(1, "h")


def polars():
    return pytest.importorskip("polars")


def arrow():
    return pytest.importorskip("pyarrow")


def pandas_table(**changes):
    return pd.DataFrame({"a": VALUES[:, 0], "b": VALUES[:, 1]}, **{"index": pd.DatetimeIndex(HOURS), **changes})


def tables():
    """Return the same hours and values as a table of each library."""
    columns = {"when": HOURS, "a": VALUES[:, 0], "b": VALUES[:, 1]}
    return {
        "pandas index": pandas_table(),
        "pandas column": pd.DataFrame(columns),
        "pandas text": pd.DataFrame({**columns, "when": HOURS.astype("datetime64[s]").astype(str)}),
        "polars": polars().DataFrame(columns),
        "pyarrow": arrow().table({name: arrow().array(values) for name, values in columns.items()}),
    }


@pytest.mark.parametrize("kind", ["pandas index", "pandas column", "pandas text", "polars", "pyarrow"])
def test_every_library_gives_the_same_series(kind):
    frame = read_table(tables()[kind])
    assert frame.channels == ["a", "b"]
    np.testing.assert_array_equal(frame.dates, HOURS)
    np.testing.assert_array_equal(frame.values, VALUES)
    assert str(frame.date_step) == "1 hour"
    assert frame.offsets is None


def test_zones_become_utc_with_the_offset_of_each_row():
    local = pd.date_range("2024-03-31", periods=6, freq="h", tz="Europe/Berlin")  # the clock goes forward at 2
    frame = read_table(pd.DataFrame({"a": np.arange(6.0)}, index=local))
    np.testing.assert_array_equal(
        frame.dates, np.datetime64("2024-03-30T23", "us") + np.arange(6) * np.timedelta64(1, "h")
    )
    assert (frame.offsets / np.timedelta64(1, "h")).tolist() == [1, 1, 2, 2, 2, 2]
    assert str(frame.dates_after(1)[0]) == "2024-03-31T05:00:00.000000"


def test_days_periods_integers_and_no_dates():
    days = [datetime.date(2024, 1, day) for day in (1, 2, 3)]
    first = np.datetime64("2024-01-01", "us")
    assert read_table(pd.DataFrame({"d": days, "a": [1, 2, 3]})).dates[0] == first
    assert read_table(polars().DataFrame({"d": days, "a": [1, 2, 3]})).dates[0] == first
    periods = pd.DataFrame({"a": [1, 2, 3]}, index=pd.period_range("2024-01", periods=3, freq="M"))
    assert str(read_table(periods).date_step) == "1 month"
    assert read_table(pd.DataFrame({"n": [5, 6, 7], "a": [1, 2, 3]}), date="n").dates.tolist() == [5, 6, 7]
    assert read_table(pd.DataFrame({"n": [5, 6, 7], "a": [1, 2, 3]})).dates.tolist() == [0, 1, 2]
    assert read_table(pd.DataFrame({"n": [5, 6, 7], "a": [1, 2, 3]})).channels == ["n", "a"]


def test_arrays_and_single_series():
    frame = read_table(VALUES)
    assert (frame.channels, frame.dates[-1]) == (["0", "1"], ROWS - 1)
    np.testing.assert_array_equal(read_table(VALUES[:, 1]).values, VALUES[:, 1:])
    assert read_table(VALUES, columns=["1"]).values[0, 0] == VALUES[0, 1]
    assert read_table(pandas_table()["b"]).channels == ["b"]
    assert read_table(pd.Series([1.0, 2.0])).channels == ["value"]


def test_missing_values_stay_for_prepare_to_fill_or_refuse():
    table = pd.DataFrame({"a": pd.array([1, None, *range(198)], dtype="Int64"), "b": [True, False] * 100})
    frame = read_table(table)
    assert np.isnan(frame.values[1, 0])
    assert frame.values[:2, 1].tolist() == [1.0, 0.0]
    with pytest.raises(DataError, match=r"column 'a'.*row 1"):
        prepare(table, lookback=4, horizon=2)
    assert prepare(table, lookback=4, horizon=2, impute="linear").frame.values[1, 0] == 0.5


def test_prepare_takes_a_table_as_it_takes_a_file(tmp_path):
    table = pandas_table()
    table.to_csv(tmp_path / "x.csv", index_label="date", date_format="%Y-%m-%d %H:%M:%S")
    of_table, of_file = (prepare(data, lookback=3, horizon=1) for data in (table, tmp_path / "x.csv"))
    for left, right in zip(of_table.train[4], of_file.train[4], strict=True):
        np.testing.assert_array_equal(left, right)
    assert of_table.recipe.step == of_file.recipe.step


def test_texts_in_the_index_are_dates_if_they_look_so():
    texts = HOURS.astype("datetime64[s]").astype(str)
    np.testing.assert_array_equal(read_table(pandas_table(index=list(texts))).dates, HOURS)
    days = [datetime.date(2024, 1, 1) + datetime.timedelta(days=k) for k in range(ROWS)]
    assert str(read_table(pandas_table(index=days)).date_step) == "1 day"
    names = [f"row {k}" for k in range(ROWS)]
    np.testing.assert_array_equal(read_table(pandas_table(index=names)).dates, np.arange(ROWS))


def test_columns_may_be_numbers():
    frame = read_table(pd.DataFrame(VALUES))
    assert frame.channels == ["0", "1"]
    np.testing.assert_array_equal(frame.values, VALUES)


def test_only_the_chosen_columns_must_hold_numbers():
    table = pandas_table().assign(note="x")
    with pytest.raises(DataError, match=re.escape("column 'note' is String, not numbers; choose the channels")):
        read_table(table)
    assert read_table(table, columns=["b"]).channels == ["b"]


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ([1.0, 2.0], "a list is no path"),
        (np.array(["x"]), "an array must hold numbers"),
        (np.zeros((2, 2, 2)), "an array must hold numbers"),
        (
            pd.DataFrame({"a": [1.0, 2.0]}, index=pd.to_datetime(["2024-01-02", "2024-01-01"])),
            "row 1: .* is before row 0",
        ),
        (pd.DataFrame({"a": [1.0, 2.0]}, index=pd.to_datetime(["2024-01-02"] * 2)), "is a duplicate of row 0"),
        (pd.DataFrame({"a": [1.0, 2.0]}, index=pd.to_datetime(["2024-01-02", None])), "row 1 has no date"),
        (pd.DataFrame({"a": pd.to_datetime(["2024-01-02"])}), "no column beside its dates"),
        (pd.DataFrame({"a": HOURS, "b": HOURS, "c": 1.0}), r"\['a', 'b'\] all hold dates"),
        (pd.DataFrame({"a": []}, dtype=float), "has no rows"),
        (pd.DataFrame(), "has no column"),
        (pd.DataFrame(VALUES, columns=["a", "a"]), r"two columns share a name; there are \['a', 'a'\]"),
        (pandas_table(index=pd.MultiIndex.from_product([["x"], range(ROWS)])), "index has 2 levels"),
    ],
)
def test_what_cannot_be_a_series_is_named(table, message):
    with pytest.raises(DataError, match=message):
        read_table(table)


def test_a_column_that_is_not_there_and_a_lazy_table():
    with pytest.raises(DataError, match="no column 'd'"):
        read_table(pandas_table(), date="d")
    with pytest.raises(DataError, match="column 'a' is Float64, not dates"):
        read_table(pandas_table(), date="a")
    with pytest.raises(DataError, match="collect a lazy one"):
        read_table(polars().LazyFrame({"a": [1.0]}))


def test_without_narwhals_the_error_says_what_to_install(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "narwhals", None)
    with pytest.raises(OptionalDependencyError, match=r"foreblocks-darts\[frames\]"):
        read_table(pandas_table())
    assert read_table(VALUES).channels == ["0", "1"]


@pytest.mark.parametrize("kind", ["pandas index", "polars", "pyarrow"])
def test_what_is_written_reads_back(kind):
    table = tables()[kind]
    for like in (table, empty_like(table)):
        made = write_like(like, HOURS[:3], ["a", "b"], VALUES[:3])
        assert type(made) is type(table)
        again = read_table(made)
        np.testing.assert_array_equal(again.dates, HOURS[:3])
        np.testing.assert_array_equal(again.values, VALUES[:3])


def test_offsets_are_written_as_a_zone():
    hour = np.timedelta64(3600, "s").astype("timedelta64[us]")
    made = write_like(pandas_table(), HOURS[:2], ["a"], VALUES[:2, :1], hour)
    assert made.index.name == "date"
    assert str(made.index[0]) == "2024-03-30 01:00:00+01:00"
    of_polars = write_like(polars().DataFrame({"a": [1.0]}), HOURS[:2], ["date"], VALUES[:2, :1], hour)
    assert of_polars.columns == ["date_", "date"]
    np.testing.assert_array_equal(read_table(of_polars).dates, HOURS[:2])
    assert read_table(of_polars).offsets.tolist() == [datetime.timedelta()] * 2


def test_an_array_for_an_array():
    assert write_like(VALUES, HOURS[:2], ["a"], VALUES[:2, :1]).tolist() == VALUES[:2, :1].tolist()
    assert empty_like(VALUES).shape == (0, 2)
