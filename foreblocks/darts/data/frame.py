"""A series in memory: dates, channels, values, and the checks that name a bad column and row."""

from __future__ import annotations

import datetime
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from .._core.errors import DataError


@dataclass(frozen=True, eq=False)
class SeriesFrame:
    """A multivariate series as read, unscaled.

    Attributes:
        dates: ``[rows]``, strictly increasing; ``datetime64[us]`` (UTC where the file had offsets), or int64 for a
            plain integer index.
        channels: names of the C channels.
        values: float64 ``[rows, C]``.
        step: median step between rows; None for an integer index or a single row.
        notes: what was repaired or is known to be odd, one sentence each.
        name: what messages call the series; a file's stem.

    Raises:
        DataError: the shapes do not fit together or two channels share a name.
    """

    dates: np.ndarray
    channels: list[str]
    values: np.ndarray
    step: datetime.timedelta | None = None
    notes: tuple[str, ...] = ()
    name: str = "series"

    def __post_init__(self) -> None:
        if self.values.ndim != 2:
            raise DataError(f"{self.name}: values must be [rows, channels], got shape {tuple(self.values.shape)}.")
        if self.values.shape[1] != len(self.channels):
            raise DataError(f"{self.name}: {len(self.channels)} channel names for {self.values.shape[1]} columns.")
        if len(self.dates) != len(self.values):
            raise DataError(f"{self.name}: {len(self.dates)} dates for {len(self.values)} rows.")
        check_names(self.channels, self.name)

    def __len__(self) -> int:
        """Return the number of rows."""
        return len(self.values)


def check_names(channels: Sequence[str], name: str) -> None:
    """Raise ``DataError`` for an empty or repeated channel name, naming the columns (the date is column 1)."""
    seen: dict[str, int] = {}
    for column, channel in enumerate(channels, start=2):
        if not channel:
            raise DataError(f"{name}: column {column} has no name in the header (line 1).")
        if channel in seen:
            raise DataError(f"{name}: column name {channel!r} appears twice, in columns {seen[channel]} and {column}.")
        seen[channel] = column


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
        f"({int(bad.sum())} such cells in all). Fill or drop them first."
    )


def median_step(dates: np.ndarray) -> datetime.timedelta | None:
    """Return the median difference of ``dates`` (``datetime64[us]`` ``[rows]``); None for integers or a single row."""
    if dates.dtype.kind != "M" or len(dates) < 2:
        return None
    micros = np.diff(dates).astype(np.int64)
    return datetime.timedelta(microseconds=int(np.sort(micros)[len(micros) // 2]))
