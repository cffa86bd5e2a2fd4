"""Steps of dates: found in a series, continued over calendar borders, and never off by an hour."""

from __future__ import annotations

import datetime
import json
import logging

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from foreblocks.darts._core.errors import DataError
from foreblocks.darts.data.csv import parse_csv
from foreblocks.darts.data.steps import DateStep, find_step
from foreblocks.darts.data.tables import format_dates

HOUR = 3_600_000_000


def series(*cells: str):
    text = "\n".join(["date,a", *(f"{cell},{k}" for k, cell in enumerate(cells))])
    return parse_csv(text.encode(), "mine")


def continued(frame, count: int) -> list[str]:
    offset = None if frame.offsets is None else frame.offsets[-1]
    return format_dates(frame.dates_after(count), offset)


@pytest.mark.parametrize(
    ("cells", "step", "future"),
    [
        (
            ("2024-02-28 22:00", "2024-02-28 23:00", "2024-02-29 00:00"),
            "1 hour",
            ["2024-02-29 01:00:00", "2024-02-29 02:00:00"],
        ),
        (("2023-12-31 23:30", "2023-12-31 23:45"), "15 minutes", ["2024-01-01 00:00:00", "2024-01-01 00:15:00"]),
        (("2024-02-27", "2024-02-28"), "1 day", ["2024-02-29", "2024-03-01"]),
        (("2024-01-01", "2024-02-01", "2024-03-01"), "1 month", ["2024-04-01", "2024-05-01"]),
        (("2023-11-30", "2023-12-31", "2024-01-31"), "1 month", ["2024-02-29", "2024-03-31"]),
        (("2024-01-30", "2024-02-29", "2024-03-30"), "1 month", ["2024-04-30", "2024-05-30"]),
        (("2023-06-30", "2023-09-30", "2023-12-31"), "3 months", ["2024-03-31", "2024-06-30"]),
        (("2022-07-01", "2023-07-01"), "1 year", ["2024-07-01", "2025-07-01"]),
        (("2020-02-29", "2021-02-28", "2022-02-28"), "1 year", ["2023-02-28", "2024-02-29"]),
        (("2024-01-03", "2024-01-10", "2024-01-17"), "1 week", ["2024-01-24", "2024-01-31"]),
        (
            ("2024-01-04", "2024-01-05", "2024-01-08", "2024-01-09", "2024-01-10", "2024-01-11", "2024-01-12"),
            "1 weekday",
            ["2024-01-15", "2024-01-16"],
        ),
        (("0", "2", "4"), "2 (integer index)", ["6", "8"]),
        (("2024-01-01T00:00:00.250", "2024-01-01T00:00:00.500"), "0:00:00.250000", None),
    ],
)
def test_the_step_of_the_file_goes_on(cells, step, future):
    frame = series(*cells)
    assert str(frame.date_step) == step
    if future is not None:
        assert continued(frame, 2) == future


def test_an_hour_is_neither_lost_nor_repeated_when_clocks_change():
    frame = series("2024-03-31T00:00:00+01:00", "2024-03-31T01:00:00+01:00", "2024-03-31T03:00:00+02:00")
    assert frame.date_step == DateStep("fixed", HOUR)
    assert continued(frame, 2) == ["2024-03-31 04:00:00+02:00", "2024-03-31 05:00:00+02:00"]
    autumn = series("2024-10-27T02:00:00+02:00", "2024-10-27T02:00:00+01:00", "2024-10-27T03:00:00+01:00")
    assert continued(autumn, 1) == ["2024-10-27 04:00:00+01:00"]


def test_days_and_months_follow_the_clock_of_the_file(caplog):
    with caplog.at_level(logging.WARNING):
        days = series("2024-03-30T00:00:00+01:00", "2024-03-31T00:00:00+01:00", "2024-04-01T00:00:00+02:00")
        months = series("2024-02-01T00:00:00+01:00", "2024-03-01T00:00:00+01:00", "2024-04-01T00:00:00+02:00")
    assert not caplog.records  # 23 hours and 29 to 31 days are regular steps of these clocks
    assert (str(days.date_step), str(months.date_step)) == ("1 day", "1 month")
    assert continued(days, 2) == ["2024-04-02 00:00:00+02:00", "2024-04-03 00:00:00+02:00"]
    assert continued(months, 2) == ["2024-05-01 00:00:00+02:00", "2024-06-01 00:00:00+02:00"]
    west = series("2024-01-01T00:00:00-05:30", "2024-01-02T00:00:00-05:30")
    assert west.dates[0] == np.datetime64("2024-01-01T05:30")
    assert continued(west, 1) == ["2024-01-03 00:00:00-05:30"]


def test_calendar_steps_are_no_irregular_steps_but_gaps_are(caplog):
    with caplog.at_level(logging.WARNING):
        series("2024-01-01", "2024-02-01", "2024-03-01")
        assert not caplog.records
        frame = series("2024-01-01", "2024-02-01", "2024-04-01", "2024-05-01")
    assert "irregular steps: 1 of 3 differ from the usual 1 month, the first at line 4" in caplog.text
    assert continued(frame, 1) == ["2024-06-01"]


@settings(max_examples=60, deadline=None)
@given(
    year=st.integers(1980, 2060), month=st.integers(1, 12), day=st.integers(1, 31), count=st.integers(1, 14),
    rows=st.integers(13, 30),
)  # fmt: skip
def test_months_equal_a_naive_calendar(year, month, day, count, rows):
    def date(k):
        index = year * 12 + month - 1 + k * count
        first = datetime.date(index // 12, index % 12 + 1, 1)
        following = datetime.date((index + 1) // 12, (index + 1) % 12 + 1, 1)
        return min(first + datetime.timedelta(days=day - 1), following - datetime.timedelta(days=1))

    every = np.array([date(k) for k in range(rows + 5)], dtype="datetime64[us]")
    step = find_step(every[:rows])
    assert step is not None
    assert (step.kind, step.count) == ("months", count)
    assert step.is_even(every[:rows]).all()
    # A day above 27 may be the last one of every month seen: then the last day goes on.
    assert step.day == day or day > 27
    if step.day == day:
        np.testing.assert_array_equal(step.after(every[rows - 1], 5), every[rows:])


@settings(max_examples=40, deadline=None)
@given(start=st.integers(0, 20_000), rows=st.integers(6, 40))
def test_weekdays_equal_a_naive_walk(start, rows):
    day = datetime.date(1990, 1, 1) + datetime.timedelta(days=start)
    every = []
    while len(every) < rows + 12:
        if day.weekday() < 5:
            every.append(day)
        day += datetime.timedelta(days=1)
    dates = np.array(every, dtype="datetime64[us]")
    step = find_step(dates[:rows])
    assert step == DateStep("weekdays", 1)
    np.testing.assert_array_equal(step.after(dates[rows - 1], 12), dates[rows:])


@pytest.mark.parametrize(
    ("step", "period"),
    [
        (DateStep("fixed", HOUR), 24), (DateStep("fixed", HOUR // 4), 96), (DateStep("fixed", 24 * HOUR), 7),
        (DateStep("fixed", 7 * 24 * HOUR), 52), (DateStep("months", 1), 12), (DateStep("months", 3), 4),
        (DateStep("months", 12), None), (DateStep("weekdays", 1), 5), (DateStep("index", 1), None),
    ],
)  # fmt: skip
def test_the_usual_season(step, period):
    assert step.period == period


def test_what_fits_a_run():
    day, month = DateStep("fixed", 24 * HOUR), DateStep("months", 1, 31)
    assert DateStep("weekdays", 1).fits(day)
    assert day.fits(DateStep("weekdays", 1))
    assert month.fits(DateStep("fixed", 30 * 24 * HOUR))
    assert month.fits(DateStep("months", 1, 1))
    assert not month.fits(DateStep("fixed", 27 * 24 * HOUR))
    assert not day.fits(DateStep("fixed", HOUR))
    assert not day.fits(DateStep("index", 24 * HOUR))


def test_a_step_survives_json_and_refuses_other_keys():
    step = DateStep("months", 3, 31)
    assert DateStep.from_dict(json.loads(json.dumps(step.to_dict()))) == step
    with pytest.raises(DataError, match="kind, count and day"):
        DateStep.from_dict({"kind": "fixed"})


def test_dates_without_an_end_are_refused():
    with pytest.raises(DataError, match="64 bits"):
        DateStep("index", 2**61).after(np.int64(2**62), 3)
    with pytest.raises(DataError, match="single row"):
        series("2024-01-01").dates_after(2)
