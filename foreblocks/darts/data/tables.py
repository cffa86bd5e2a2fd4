"""Write a series as CSV or Parquet, whole or not at all."""

from __future__ import annotations

import csv
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np

from .._core.errors import InvalidArgument
from .._core.optional import require

TABLE_SUFFIXES = (".csv", ".parquet")


def check_table_path(path: str | Path, *, argument: str = "path") -> Path:
    """Return the path of a table to write, after every check that needs no data.

    Raises:
        InvalidArgument: another suffix than ``.csv`` and ``.parquet``, a folder, or one that does not exist or cannot
            be written.
        OptionalDependencyError: a ``.parquet`` without pyarrow.
    """
    path = Path(path)
    if path.suffix.lower() not in TABLE_SUFFIXES:
        raise InvalidArgument(f"{argument}={str(path)!r} must end in {' or '.join(TABLE_SUFFIXES)}.")
    if path.is_dir():
        raise InvalidArgument(f"{argument}={str(path)!r} is a folder.")
    if not path.parent.is_dir() or not os.access(path.parent, os.W_OK):
        raise InvalidArgument(f"{argument}={str(path)!r}: the folder {str(path.parent)!r} is missing or read-only.")
    if path.suffix.lower() == ".parquet":
        require("pyarrow.parquet", extra="parquet", feature=f"writing {path.name}")
    return path


def write_table(
    path: str | Path,
    dates: np.ndarray,
    channels: Sequence[str],
    values: np.ndarray,
    *,
    date_column: str = "date",
    offset: np.timedelta64 | None = None,
) -> None:
    """Write dates and values; an existing file is replaced only when the new one is complete.

    A CSV has ISO dates, without the time where all are midnight, and the shortest numbers that read
    back the same. A Parquet file has a timestamp column (in UTC where there is an ``offset``) and columns of the type
    of ``values``.

    Args:
        path: the file, ``.csv`` or ``.parquet``.
        dates: ``[rows]``, ``datetime64[us]`` or int64; in UTC where there is an ``offset``.
        channels: names of the C columns.
        values: floats ``[rows, C]``.
        date_column: name of the first column.
        offset: how far ahead of UTC a CSV writes the dates; None for dates without an offset.

    Raises:
        InvalidArgument: as ``check_table_path``, or a channel has the name of the date column.
        OptionalDependencyError: as ``check_table_path``.
        OSError: the file cannot be written.
    """
    path = check_table_path(path)
    if date_column in channels:
        raise InvalidArgument(f"date_column={date_column!r} is a channel too; channels={list(channels)}.")
    partial = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        if path.suffix.lower() == ".parquet":
            _write_parquet(partial, dates, channels, values, date_column, in_utc=offset is not None)
        else:
            _write_csv(partial, format_dates(dates, offset), channels, values, date_column)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def format_dates(dates: np.ndarray, offset: np.timedelta64 | None = None) -> list[str]:
    """Return ISO texts of dates (``datetime64[us]``) or integers; arguments as ``write_table``."""
    if dates.dtype.kind != "M":
        return [str(int(date)) for date in dates]
    wall: np.ndarray = dates if offset is None else dates + offset
    if offset is None and (wall == wall.astype("datetime64[D]")).all():
        return [str(day) for day in wall.astype("datetime64[D]")]
    unit: Literal["us", "s"] = "us" if (wall != wall.astype("datetime64[s]")).any() else "s"
    return [str(text).replace("T", " ") + _zone(offset) for text in np.datetime_as_string(wall, unit=unit)]


def _zone(offset: np.timedelta64 | None) -> str:
    if offset is None:
        return ""
    minutes = int(offset.astype("timedelta64[s]").astype(np.int64)) // 60
    return f"{'-' if minutes < 0 else '+'}{abs(minutes) // 60:02d}:{abs(minutes) % 60:02d}"


def _write_csv(path: Path, dates: Sequence[str], channels: Sequence[str], values: np.ndarray, date_column: str) -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow([date_column, *channels])
        writer.writerows([date, *map(str, row)] for date, row in zip(dates, values, strict=True))


def _write_parquet(
    path: Path, dates: np.ndarray, channels: Sequence[str], values: np.ndarray, date_column: str, *, in_utc: bool
) -> None:
    arrow = require("pyarrow", extra="parquet", feature="writing Parquet")
    parquet = require("pyarrow.parquet", extra="parquet", feature="writing Parquet")
    first = arrow.array(dates)
    if in_utc:
        first = first.cast(arrow.timestamp("us", tz="UTC"))
    columns = {date_column: first, **{name: arrow.array(values[:, c]) for c, name in enumerate(channels)}}
    parquet.write_table(arrow.table(columns), path)
