"""A series in memory: dates, channels, values, and the checks that name a bad column and row."""

from __future__ import annotations

import dataclasses
import datetime
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from .._core.errors import DataError
from .steps import DateStep, find_wall_step


@dataclass(frozen=True, eq=False)
class SeriesFrame:
    """A multivariate series as read, unscaled.

    Attributes:
        dates: ``[rows]``, strictly increasing; ``datetime64[us]`` (UTC where the file had offsets), or int64 for a
            plain integer index. Other units and integers are converted.
        channels: names of the C channels.
        values: float64 ``[rows, C]``; other real numbers are converted.
        step: median step between rows; None for an integer index or a single row.
        notes: what was repaired or is known to be odd, one sentence each.
        name: what messages call the series; a file's stem.
        offsets: ``timedelta64[us]`` ``[rows]``, how far ahead of UTC the file wrote each date; None if it did not say.

    Raises:
        DataError: the shapes do not fit together, two channels share a name, the values are no real numbers, or the
            dates are neither ``datetime64`` nor integers.
    """

    dates: np.ndarray
    channels: list[str]
    values: np.ndarray
    step: datetime.timedelta | None = None
    notes: tuple[str, ...] = ()
    name: str = "series"
    offsets: np.ndarray | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "dates", np.asarray(self.dates))
        object.__setattr__(self, "channels", list(self.channels))
        object.__setattr__(self, "values", _plain_values(self.values, self.name))
        if self.values.ndim != 2:
            raise DataError(f"{self.name}: values must be [rows, channels], got shape {tuple(self.values.shape)}.")
        if self.values.shape[1] != len(self.channels):
            raise DataError(f"{self.name}: {len(self.channels)} channel names for {self.values.shape[1]} columns.")
        if len(self.dates) != len(self.values):
            raise DataError(f"{self.name}: {len(self.dates)} dates for {len(self.values)} rows.")
        check_names(self.channels, self.name)
        object.__setattr__(self, "dates", _plain_dates(self.dates, self.name))

    def __len__(self) -> int:
        """Return the number of rows."""
        return len(self.values)

    def select(self, columns: Sequence[str]) -> SeriesFrame:
        """Return the series with these channels only, in this order.

        Raises:
            DataError: none is asked for, one is not there, or one is asked for twice.
        """
        return dataclasses.replace(
            self, channels=list(columns), values=self.values[:, find_columns(self.channels, columns, self.name)]
        )

    @property
    def date_step(self) -> DateStep | None:
        """How the dates go on; None for a single row."""
        return find_wall_step(self.dates, self.offsets)

    def dates_after(self, count: int, step: DateStep | None = None) -> np.ndarray:
        """Return the ``count`` dates that follow the last row, of the kind of ``dates``.

        Steps below a day are taken in UTC, so a change to or from daylight saving time neither repeats nor skips an
        hour. Days, weekdays and months are taken on the clock of the file; where its offset from UTC changed, the
        future keeps that of the last row.

        Args:
            count: at least 1.
            step: None means ``date_step``.

        Raises:
            DataError: a single row and no ``step``, or dates beyond what 64 bits hold.
        """
        step = step or self.date_step
        if step is None:
            raise DataError(f"{self.name}: a single row has no step; its dates cannot be continued.")
        if self.offsets is None or not step.on_the_clock:
            return step.after(self.dates[-1], count)
        return step.after(self.dates[-1] + self.offsets[-1], count) - self.offsets[-1]


def _plain_values(values: Any, name: str) -> np.ndarray:
    """Return numbers as float64; text, complex numbers and rows of different lengths are refused."""
    try:
        plain = np.asarray(values)
        if plain.dtype.kind in "biufO":
            return plain.astype(np.float64, copy=False)
    except (TypeError, ValueError) as error:
        raise DataError(f"{name}: values must be real numbers in [rows, channels] ({error}).") from error
    raise DataError(f"{name}: values must be real numbers in [rows, channels], got {plain.dtype}.")


def _plain_dates(dates: np.ndarray, name: str) -> np.ndarray:
    """Return dates in microseconds, the unit in which steps are counted, or int64."""
    if dates.dtype.kind in "iu":
        return dates.astype(np.int64, copy=False)
    if dates.dtype.kind != "M":
        raise DataError(f"{name}: dates must be datetime64 or integers, got {dates.dtype}.")
    missing = np.flatnonzero(np.isnat(dates))
    if len(missing):
        raise DataError(f"{name}: row {int(missing[0])} has no date (NaT).")
    return dates.astype("datetime64[us]", copy=False)


def check_names(channels: Sequence[str], name: str) -> None:
    """Raise ``DataError`` for an empty or repeated channel name, naming the columns (the date is column 1)."""
    seen: dict[str, int] = {}
    for column, channel in enumerate(channels, start=2):
        if not channel:
            raise DataError(f"{name}: column {column} has no name in the header (line 1).")
        if channel in seen:
            raise DataError(f"{name}: column name {channel!r} appears twice, in columns {seen[channel]} and {column}.")
        seen[channel] = column


def find_columns(channels: Sequence[str], columns: Sequence[str], name: str, *, argument: str = "columns") -> list[int]:
    """Return where each of ``columns`` is among ``channels``; ``DataError`` as ``SeriesFrame.select``."""
    if isinstance(columns, str) or not columns:
        raise DataError(f"{name}: {argument}={columns!r} must be a list of at least one channel of {list(channels)}.")
    repeated = [column for k, column in enumerate(columns) if column in columns[:k]]
    if repeated:
        raise DataError(f"{name}: {argument} names {repeated} twice.")
    missing = [column for column in columns if column not in channels]
    if missing:
        raise DataError(f"{name}: no column {missing} ({argument}); there are {list(channels)}.")
    return [channels.index(column) for column in columns]


def check_finite(frame: SeriesFrame, lines: Sequence[int] | None = None) -> None:
    """Raise ``DataError`` naming column and row of the first value that is NaN or infinite.

    Args:
        frame: the series.
        lines: line of the file of each row; without it the row number (from 0) and its date are named.
    """
    bad = ~np.isfinite(frame.values)
    if not bad.any():
        return
    row, column = (int(k) for k in np.argwhere(bad)[0])
    place = f"line {lines[row]}" if lines is not None else f"row {row} ({frame.dates[row]})"
    raise DataError(
        f"{frame.name}: column {frame.channels[column]!r}, {place}: {frame.values[row, column]} is not a finite number "
        f"({int(bad.sum())} such cells in all). Fill or drop them first, or pass impute='linear' or 'ffill' (--impute)."
    )


def median_step(dates: np.ndarray) -> datetime.timedelta | None:
    """Return the median difference of ``dates`` (``datetime64[us]`` ``[rows]``); None for integers or a single row."""
    if dates.dtype.kind != "M" or len(dates) < 2:
        return None
    micros = np.diff(dates).astype(np.int64)
    return datetime.timedelta(microseconds=int(np.sort(micros)[len(micros) // 2]))
