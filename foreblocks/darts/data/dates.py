"""Dates of a CSV: ISO forms, year-first, day-first and month-first forms, and plain integers."""

from __future__ import annotations

import datetime
import re
from collections.abc import Sequence

import numpy as np

from .._core.errors import DataError
from .._core.logging import get_logger
from .steps import find_wall_step

_LOG = get_logger(__name__)
_INTEGER = re.compile(r"[+-]?\d{1,18}", re.ASCII)
_PARTS = re.compile(
    r"(\d{1,4})[/.-](\d{1,2})[/.-](\d{1,4})(?:[ T,]+(\d{1,2}):(\d{2})(?::(\d{2})(?:[.,](\d{1,6}))?)?\s*([AaPp][Mm])?)?",
    re.ASCII,
)
_ORDERS = {"year-month-day": (0, 1, 2), "month/day/year": (2, 0, 1), "day/month/year": (2, 1, 0)}
_Stamp = datetime.datetime


def looks_like_date(cell: str) -> bool:
    """Say whether one cell could stand in the date column; a header cell cannot."""
    if _INTEGER.fullmatch(cell) or _iso(cell) is not None:
        return True
    return any(_by_order(cell, order) is not None for order in _ORDERS.values())


def parse_dates(cells: Sequence[str], lines: Sequence[int], *, column: str, name: str) -> np.ndarray:
    """Parse the date column.

    Args:
        cells: text of each row, stripped.
        lines: line of the file of each row (from 1), for messages.
        column: name of the date column.
        name: name of the series.

    Returns:
        ``datetime64[us]`` ``[rows]`` (offsets turned into UTC), or int64 ``[rows]`` if every cell is an integer.

    Raises:
        DataError: a cell is no date, or only some have an offset; column and line are named.
    """
    if all(map(_INTEGER.fullmatch, cells)):
        return _parse_integers(cells)
    stamps = _parse_iso(cells)
    if stamps is not None:
        _check_zones(cells, stamps, lines, column=column, name=name)
        stamps = _in_utc(stamps)
    if stamps is None:
        stamps = _parse_ordered(cells, lines, column=column, name=name)
    return np.array(stamps, dtype="datetime64[us]")


def parse_offsets(cells: Sequence[str]) -> np.ndarray | None:
    """Return what each ISO date is ahead of UTC (``timedelta64[us]`` ``[rows]``); None if none of them says so.

    Args:
        cells: text of each row, stripped, of which ``parse_dates`` made dates.
    """
    if _offset(cells[0]) is None and _offset(cells[-1]) is None:
        return None
    return np.array([_offset(cell) or datetime.timedelta() for cell in cells], dtype="timedelta64[us]")


def _offset(cell: str) -> datetime.timedelta | None:
    try:
        return _Stamp.fromisoformat(cell).utcoffset()
    except ValueError:  # another form of date, which has no offset
        return None


def check_dates(
    dates: np.ndarray,
    lines: Sequence[int],
    *,
    column: str,
    name: str,
    offsets: np.ndarray | None = None,
    unit: str = "line",
) -> None:
    """Refuse repeated and unsorted dates; warn once about an irregular step, naming the first such line (``unit``).

    Calendar months and weekdays are regular, also on a clock with daylight saving time (``offsets``).

    Raises:
        DataError: the first date that repeats an earlier one or goes back in time.
    """
    steps = np.diff(dates).astype(np.int64)
    wrong = np.flatnonzero(steps <= 0)
    if len(wrong):
        row = int(wrong[0]) + 1
        earlier = np.flatnonzero(dates[:row] == dates[row])
        place = f"{name}: column {column!r}, {unit} {lines[row]}: date {dates[row]}"
        if len(earlier):
            raise DataError(f"{place} is a duplicate of {unit} {lines[int(earlier[0])]}.")
        raise DataError(f"{place} is before {unit} {lines[row - 1]} ({dates[row - 1]}): the dates are not sorted.")
    step = find_wall_step(dates, offsets)
    if step is None:
        return
    odd = np.flatnonzero(~step.is_even(dates if offsets is None or not step.on_the_clock else dates + offsets))
    if len(odd):
        row = int(odd[0]) + 1
        _LOG.warning(
            "%s: column %r has irregular steps: %d of %d differ from the usual %s, the first at %s %s (%s). "
            "Rows are used one after the other, as if evenly spaced.",
            *(name, column, len(odd), len(steps), step, unit, lines[row], dates[row]),
        )


def _parse_integers(cells: Sequence[str]) -> np.ndarray:
    """Integers are an index, unless every one of them is a date written as YYYYMMDD."""
    if all(len(cell) == 8 and cell[:2] in ("19", "20") for cell in cells):
        stamps = _parse_iso(cells)
        if stamps is not None:
            return np.array(stamps, dtype="datetime64[us]")
    return np.array([int(cell) for cell in cells], dtype=np.int64)


def _utc(stamp: _Stamp) -> _Stamp:
    if stamp.tzinfo is None:
        return stamp
    return stamp.astimezone(datetime.UTC).replace(tzinfo=None)


def _in_utc(stamps: Sequence[_Stamp]) -> list[_Stamp] | None:
    try:
        return list(map(_utc, stamps))
    except OverflowError:  # in UTC before the year 1 or after 9999
        return None


def _iso(cell: str) -> _Stamp | None:
    try:
        return _utc(_stamp(cell))
    except (ValueError, OverflowError):
        return None


def _stamp(cell: str) -> _Stamp:
    """Return the date of an ISO text; a month such as ``1949-01`` stands for its first day."""
    return _Stamp.fromisoformat(f"{cell}-01" if len(cell) == 7 and cell[4] == "-" else cell)


def _parse_iso(cells: Sequence[str]) -> list[_Stamp] | None:
    try:
        return list(map(_stamp, cells))
    except ValueError:
        return None


def _check_zones(
    cells: Sequence[str], stamps: Sequence[_Stamp], lines: Sequence[int], *, column: str, name: str
) -> None:
    """Refuse a date without an offset from UTC among dates that have one: when it is, nobody knows."""
    zoned = [stamp.tzinfo is not None for stamp in stamps]
    if any(zoned) and not all(zoned):
        row = zoned.index(not zoned[0])
        said, not_said = (row, 0) if zoned[row] else (0, row)
        raise DataError(
            f"{name}: column {column!r}: {cells[said]!r} (line {lines[said]}) has an offset from UTC, "
            f"{cells[not_said]!r} (line {lines[not_said]}) has none: write all dates in one way."
        )


def _by_order(cell: str, order: tuple[int, int, int]) -> _Stamp | None:
    """Parse ``cell`` with year, month and day at the given positions; None if that is no date."""
    match = _PARTS.fullmatch(cell)
    if match is None or len(match[order[0] + 1]) != 4:
        return None
    year, month, day = (int(match[position + 1]) for position in order)
    hour, minute, second = (int(match[group] or 0) for group in (4, 5, 6))
    if match[8]:
        if not 1 <= hour <= 12:
            return None
        hour = hour % 12 + (12 if match[8].lower() == "pm" else 0)
    try:
        return _Stamp(year, month, day, hour, minute, second, int((match[7] or "0").ljust(6, "0")))
    except ValueError:
        return None


def _parse_ordered(cells: Sequence[str], lines: Sequence[int], *, column: str, name: str) -> list[_Stamp]:
    """Try each order of year, month and day; of several that fit, take the one with the evenest steps."""
    fitting: dict[str, list[_Stamp]] = {}
    furthest = 0
    for order_name, order in _ORDERS.items():
        stamps: list[_Stamp] = []
        for cell in cells:
            stamp = _iso(cell) if order_name == "year-month-day" else None
            stamp = stamp or _by_order(cell, order)
            if stamp is None:
                break
            stamps.append(stamp)
        if len(stamps) == len(cells):
            fitting[order_name] = stamps
        furthest = max(furthest, len(stamps))
    if not fitting:
        raise DataError(
            f"{name}: column {column!r}, line {lines[furthest]}: {cells[furthest]!r} is no date, or not in the form of "
            "the rows before it. Use ISO dates such as 2016-07-01 13:00:00 in the first column."
        )
    if len(fitting) == 1:
        return next(iter(fitting.values()))
    chosen = min(fitting, key=lambda key: _unevenness(fitting[key]))
    _LOG.warning("%s: column %r can be read as %s; taken as %s.", name, column, " or ".join(fitting), chosen)
    return fitting[chosen]


def _unevenness(stamps: Sequence[_Stamp]) -> float:
    """Spread of the steps relative to their mean; infinite when dates go back or repeat."""
    steps = np.diff(np.array(stamps, dtype="datetime64[us]")).astype(np.float64)
    if not len(steps) or (steps <= 0).any():
        return float("inf")
    return float(steps.std() / steps.mean())
