"""The step from one date to the next, found in a series and continued beyond its end."""

from __future__ import annotations

import datetime
from dataclasses import dataclass
from typing import Any, Self

import numpy as np

from .._core.errors import DataError, check_choice, check_int

KINDS = ("index", "fixed", "weekdays", "months")
_DAY = 86_400_000_000  # microseconds
_UNITS = ((7 * _DAY, "week"), (_DAY, "day"), (_DAY // 24, "hour"), (60_000_000, "minute"), (1_000_000, "second"))
_PERIODS = {_DAY: 7, 7 * _DAY: 52}


@dataclass(frozen=True)
class DateStep:
    """How dates go on.

    Attributes:
        kind: ``fixed`` (a number of microseconds), ``weekdays`` (the next of Monday to Friday), ``months`` (calendar
            months, so 12 is a year) or ``index`` (integers instead of dates).
        count: microseconds, weekdays, months or integers in a step; at least 1.
        day: with ``months`` the day of the month, 31 for its last day; a shorter month takes its last day.
    """

    kind: str
    count: int
    day: int = 1

    def __post_init__(self) -> None:
        check_choice("kind", self.kind, KINDS)
        check_int("count", self.count, low=1)
        check_int("day", self.day, low=1, high=31)

    def after(self, last: np.generic, count: int) -> np.ndarray:
        """Return the ``count`` dates that follow ``last``.

        Args:
            last: ``datetime64[us]``, or ``int64`` with ``index``.
            count: at least 1.

        Raises:
            DataError: the dates leave the range of datetime64[us] or of int64.
        """
        steps = np.arange(1, check_int("count", count, low=1) + 1) * self.count
        if self.kind in ("index", "fixed") and abs(int(last.astype(np.int64))) + int(steps[-1]) >= 2**63:
            raise DataError(f"the dates cannot go on from {last} by {self}: they leave the range of 64 bits.")
        return self._moved(last, steps)

    def is_even(self, dates: np.ndarray) -> np.ndarray:
        """Say of each date of ``[rows]`` but the first whether it is one step after the one before it."""
        return self._moved(dates[:-1], np.int64(self.count)) == dates[1:]

    def _moved(self, dates: Any, steps: Any) -> np.ndarray:
        if self.kind == "index":
            return dates + steps
        stamps = dates.astype("datetime64[us]")
        if self.kind == "fixed":
            return stamps + steps.astype("timedelta64[us]")
        days = stamps.astype("datetime64[D]")
        clock = stamps - days
        if self.kind == "weekdays":
            moved = np.busday_offset(days, steps, roll="backward")
        else:
            moved = _month_days(stamps.astype("datetime64[M]") + steps.astype("timedelta64[M]"), self.day)
        return moved.astype("datetime64[us]") + clock

    def fits(self, other: DateStep) -> bool:
        """Say whether data with ``other`` may go into a model of this step.

        Steps of a file too short to show weekends or the day of the month pass: a day fits weekdays, 28 to 31 days
        fit a month.
        """
        if self.kind == other.kind:
            return self.count == other.count
        kinds = {self.kind: self.count, other.kind: other.count}
        if set(kinds) == {"fixed", "weekdays"}:
            return kinds["fixed"] == kinds["weekdays"] * _DAY
        if set(kinds) == {"fixed", "months"}:
            return 28 * kinds["months"] * _DAY <= kinds["fixed"] <= 31 * kinds["months"] * _DAY
        return False

    @property
    def on_the_clock(self) -> bool:
        """Whether the step is one of the local clock (days, weekdays, months), not of elapsed time."""
        return self.kind in ("weekdays", "months") or (self.kind == "fixed" and self.count % _DAY == 0)

    @property
    def period(self) -> int | None:
        """Steps of the usual season: a day, a week of days, a year of weeks or months; None where there is none."""
        if self.kind == "months":
            return 12 // self.count if 12 % self.count == 0 and self.count < 12 else None
        if self.kind == "weekdays":
            return 5 if self.count == 1 else None
        if self.kind == "index":
            return None
        if self.count < _DAY:
            return round(_DAY / self.count)
        return _PERIODS.get(self.count)

    def __str__(self) -> str:
        if self.kind == "index":
            return f"{self.count} (integer index)"
        if self.kind == "weekdays":
            return "1 weekday" if self.count == 1 else f"{self.count} weekdays"
        if self.kind == "months":
            count, unit = (self.count // 12, "year") if self.count % 12 == 0 else (self.count, "month")
            return f"{count} {unit}{'s' if count > 1 else ''}"
        for size, unit in _UNITS:
            if self.count % size == 0:
                count = self.count // size
                return f"{count} {unit}{'s' if count > 1 else ''}"
        return str(datetime.timedelta(microseconds=self.count))

    def to_dict(self) -> dict[str, Any]:
        """Return plain data: ``kind``, ``count``, ``day``."""
        return {"kind": self.kind, "count": self.count, "day": self.day}

    @classmethod
    def from_dict(cls, state: Any) -> Self:
        """Rebuild from ``to_dict``.

        Raises:
            DataError: other keys.
        """
        if not isinstance(state, dict) or set(state) != {"kind", "count", "day"}:
            raise DataError(f"date step: expected the keys kind, count and day, got {state!r}.")
        return cls(state["kind"], state["count"], state["day"])


def find_step(dates: np.ndarray) -> DateStep | None:
    """Return the step of sorted dates ``[rows]`` (``datetime64[us]`` or integers); None for fewer than two.

    Calendar months need every date on the same day of its month (or the last one, where the month is shorter) at the
    same time of the day; weekdays need a step of one day, no date on a weekend and a weekend in between. Everything
    else is the median distance.
    """
    if len(dates) < 2:
        return None
    gaps = np.sort(np.diff(dates).astype(np.int64))
    median = max(1, int(gaps[len(gaps) // 2]))
    if dates.dtype.kind != "M":
        return DateStep("index", median)
    if median >= 28 * _DAY:
        return _month_step(dates) or DateStep("fixed", median)
    if median == _DAY and int(gaps[-1]) > _DAY and np.is_busday(dates.astype("datetime64[D]")).all():
        clocks = dates - dates.astype("datetime64[D]")
        if (clocks == clocks[0]).all():
            return DateStep("weekdays", 1)
    return DateStep("fixed", median)


def find_wall_step(dates: np.ndarray, offsets: np.ndarray | None) -> DateStep | None:
    """As ``find_step``; days, weekdays and months are looked for on the clock that the file was written with.

    Args:
        dates: in UTC where there are offsets.
        offsets: ``timedelta64[us]`` ``[rows]`` ahead of UTC, or None.
    """
    if offsets is None:
        return find_step(dates)
    wall = find_step(dates + offsets)
    return wall if wall is not None and wall.on_the_clock else find_step(dates)


def _month_step(dates: np.ndarray) -> DateStep | None:
    days = dates.astype("datetime64[D]")
    months = dates.astype("datetime64[M]")
    clocks = dates - days
    steps = np.sort(np.diff(months).astype(np.int64))
    numbers = (days - months.astype("datetime64[D]")).astype(np.int64) + 1
    ends = _month_days(months, 31) == days
    day = 31 if ends.all() else int(numbers.max())
    if (clocks != clocks[0]).any() or (_month_days(months, day) != days).any() or steps[0] < 1:
        return None
    return DateStep("months", int(steps[len(steps) // 2]), day)


def _month_days(months: np.ndarray, day: int) -> np.ndarray:
    """Return that day of each month, or its last one (``datetime64[D]``)."""
    last = (months + np.timedelta64(1, "M")).astype("datetime64[D]") - np.timedelta64(1, "D")
    return np.minimum(months.astype("datetime64[D]") + np.timedelta64(day - 1, "D"), last)
