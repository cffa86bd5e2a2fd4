"""Filling gaps: equal to a naive fill, counted in the log, refused where nothing can be known."""

from __future__ import annotations

import logging

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from foreblocks.darts._core.errors import DataError, InvalidArgument
from foreblocks.darts.data import SeriesFrame, fill_gaps, prepare
from foreblocks.darts.data.csv import parse_csv

CSV = "date,a,b\n2024-01-01,1,\n2024-01-02,NA,2\n2024-01-03,nan,3\n2024-01-06,6,NULL\n"


def frame(values, dates=None) -> SeriesFrame:
    values = np.asarray(values, dtype=np.float64)
    if values.ndim == 1:
        values = values[:, None]
    dates = np.arange(len(values)) if dates is None else dates
    return SeriesFrame(dates, [f"c{k}" for k in range(values.shape[1])], values, name="mine")


def test_linear_is_straight_in_time_and_says_how_many(caplog):
    with caplog.at_level(logging.WARNING, "foreblocks.darts"):
        filled = parse_csv(CSV.encode(), "mine", impute="linear")
    assert filled.values.tolist() == [[1, 2], [2, 2], [3, 3], [6, 3]]
    note = "filled 4 of 8 cells by linear interpolation (a 2, b 2)"
    assert filled.notes == (note,)
    assert f"mine: {note}" in caplog.text


def test_ffill_carries_forward_and_refuses_a_leading_gap():
    assert fill_gaps(frame([1, np.nan, np.nan, 4, np.nan]), "ffill").values[:, 0].tolist() == [1, 1, 1, 4, 4]
    with pytest.raises(DataError, match=r"column 'b' begins with 1 empty row .*nothing to carry forward.*linear"):
        parse_csv(CSV.encode(), "mine", impute="ffill")


def test_what_is_whole_stays_and_says_nothing(caplog):
    whole = frame([1.0, 2.0])
    with caplog.at_level(logging.DEBUG, "foreblocks.darts"):
        assert fill_gaps(whole, "linear") is whole
    assert not caplog.records


def test_what_cannot_be_filled_is_refused():
    with pytest.raises(DataError, match="'c1' has no value at all"):
        fill_gaps(frame([[1, np.nan], [2, np.nan]]), "linear")
    with pytest.raises(InvalidArgument, match="impute='mean' is not allowed"):
        fill_gaps(frame([1.0]), "mean")
    with pytest.raises(InvalidArgument, match="impute='mean' is not allowed"):
        parse_csv(CSV.encode(), "mine", impute="mean")
    with pytest.raises(DataError, match="inf is not a finite number"):
        parse_csv(b"date,a\n0,1\n1,inf\n2,\n", "mine", impute="linear")
    with pytest.raises(DataError, match=r"column 'b', line 2: the cell is empty .*--impute"):
        parse_csv(CSV.encode(), "mine")
    with pytest.raises(DataError, match="'oops' is not a number"):
        parse_csv(b"date,a\n0,1\n1,oops\n", "mine", impute="linear")


@settings(max_examples=80, deadline=None)
@given(st.lists(st.one_of(st.none(), st.floats(-1e3, 1e3)), min_size=1, max_size=30), st.data())
def test_fills_equal_a_naive_walk(cells, data):
    gaps = data.draw(st.lists(st.integers(1, 9), min_size=len(cells), max_size=len(cells)))
    dates = np.cumsum(gaps)
    known = [k for k, cell in enumerate(cells) if cell is not None]
    if not known:
        return
    series = frame([np.nan if cell is None else cell for cell in cells], dates)
    linear = fill_gaps(series, "linear").values[:, 0]
    for k in range(len(cells)):
        left = max((j for j in known if j <= k), default=known[0])
        right = min((j for j in known if j >= k), default=known[-1])
        share = 0.0 if left >= right else (dates[k] - dates[left]) / (dates[right] - dates[left])
        expected = cells[left] + share * (cells[right] - cells[left])
        assert linear[k] == pytest.approx(expected, rel=1e-9, abs=1e-9)
    if known[0] == 0:
        forward = fill_gaps(series, "ffill").values[:, 0]
        assert forward.tolist() == [cells[max(j for j in known if j <= k)] for k in range(len(cells))]


def test_prepare_fills_a_frame():
    values = np.sin(np.arange(200.0))
    values[[50, 150]] = np.nan
    with pytest.raises(DataError, match="not a finite number"):
        prepare(frame(values), lookback=5, horizon=2)
    prepared = prepare(frame(values), lookback=5, horizon=2, impute="linear")
    assert prepared.frame.values[50, 0] == pytest.approx((values[49] + values[51]) / 2)


def test_chosen_columns_are_read_in_their_order_and_the_rest_may_hold_anything():
    text = b"date,a,note,b\n0,1,x,2\n1,3,,4\n"
    assert parse_csv(text, "mine", columns=["b", "a"]).values.tolist() == [[2, 1], [4, 3]]
    whole = parse_csv(b"date,a,b\n0,1,2\n", "mine")
    assert whole.select(["b"]).values.tolist() == [[2]]
    for bad, message in ((["c"], r"no column \['c'\]"), (["a", "a"], "twice"), ([], "at least one"), ("a", "at least")):
        with pytest.raises(DataError, match=message):
            parse_csv(text, "mine", columns=bad)
        with pytest.raises(DataError, match=message):
            whole.select(bad)


def test_linear_goes_by_rows_where_the_dates_are_out_of_order():
    text = b"date,a\n2024-01-03,1\n2024-01-01,NA\n2024-01-01,3\n2024-01-02,\n2024-01-09,7\n"
    assert parse_csv(text, "mine", ordered=False, impute="linear").values[:, 0].tolist() == [1, 2, 3, 5, 7]
