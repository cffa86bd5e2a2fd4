"""Series from and to the tables of other libraries: pandas, polars, pyarrow (through narwhals), and plain arrays."""

from __future__ import annotations

import datetime
from collections.abc import Sequence
from typing import Any

import numpy as np

from .._core.errors import DataError
from .._core.optional import require
from .dates import check_dates, looks_like_date, parse_dates, parse_offsets
from .frame import SeriesFrame, find_columns, median_step

DATE = "date"
VALUE = "value"  # the channel of a series without a name
_FEATURE = "reading a data frame"


def read_table(
    data: Any, *, date: str | None = None, columns: Sequence[str] | None = None, name: str = "series"
) -> SeriesFrame:
    """Return a data frame or array as a series, unscaled; values that are missing stay NaN.

    Args:
        data: an eager pandas, polars or pyarrow table or series, or an array ``[rows, C]`` or ``[rows]``, whose
            channels are called ``"0"``, ``"1"``, ... .
        date: the column with the dates or integers. None takes the index of a pandas frame if that holds dates (also
            as texts), else the only column of dates, else a first column of texts that are dates; without any, rows
            are counted from 0.
        columns: channels to read, in this order; the others may hold anything. None reads all.
        name: what messages call the series.

    Raises:
        OptionalDependencyError: a data frame without narwhals.
        DataError: no table, no channel, a column that holds no numbers, or dates that are missing, repeated, not sorted
            or in several columns. The message names column and row (from 0).
    """
    if isinstance(data, np.ndarray):
        return _of_array(data, columns, name)
    nw = require("narwhals", extra="frames", feature=_FEATURE)
    try:
        table = nw.from_native(data, eager_only=True, allow_series=True)
    except TypeError as error:
        raise DataError(
            f"{name}: a {type(data).__name__} is no path, SeriesFrame, array or eager data frame (collect a lazy one)."
        ) from error
    except nw.exceptions.DuplicateError as error:
        raise DataError(
            f"{name}: two columns share a name; there are {[str(each) for each in data.columns]}."
        ) from error
    if isinstance(table, nw.Series):
        table = table.alias(table.name or VALUE).to_frame()
    column, series = _dates_of(nw, table, date, name)
    channels = [each for each in table.columns if each != column]
    if columns is not None:
        picked = find_columns(channels, columns, name)
        channels = [channels[k] for k in picked]
    if not channels:
        raise DataError(f"{name}: the table has no column beside its dates.")
    if not len(table):
        raise DataError(f"{name}: the table has no rows.")
    values = np.stack([_numbers(nw, table.get_column(each), each, name) for each in channels], axis=1)
    label = column or "index"
    dates, offsets = _as_dates(nw, series, label, name) if series is not None else (np.arange(len(table)), None)
    # Built first: it names a row without a date.
    frame = SeriesFrame(dates, [str(each) for each in channels], values, median_step(dates), (), name, offsets)
    check_dates(frame.dates, range(len(table)), column=str(label), name=name, offsets=offsets, unit="row")
    return frame


def _of_array(values: np.ndarray, columns: Sequence[str] | None, name: str) -> SeriesFrame:
    if values.dtype.kind not in "fiub" or values.ndim not in (1, 2) or not values.size:
        raise DataError(f"{name}: an array must hold numbers in [rows, C], got {values.dtype} {values.shape}.")
    rows = values.reshape(len(values), -1).astype(np.float64)
    frame = SeriesFrame(np.arange(len(rows)), [str(c) for c in range(rows.shape[1])], rows, name=name)
    return frame if columns is None else frame.select(columns)


def _dates_of(nw: Any, table: Any, date: str | None, name: str) -> tuple[Any, Any]:
    """Return the name of the column with the dates (None for an index) and its series; both None without dates."""
    if date is not None:
        if date not in table.columns:
            raise DataError(f"{name}: no column {date!r} (date); there are {list(table.columns)}.")
        return date, table.get_column(date)
    index = nw.maybe_get_index(table)
    if index is not None:
        if index.nlevels > 1:
            raise DataError(f"{name}: the index has {index.nlevels} levels; pass one series at a time.")
        kind = str(index.dtype)
        if kind.startswith(("datetime64", "period")):
            stamps = index.to_timestamp() if kind.startswith("period") else index
            return None, nw.from_native(stamps.to_series(), series_only=True)
        if kind in ("object", "str", "string") and len(index) and looks_like_date(str(index[0])):
            return None, nw.from_native(index.to_series(), series_only=True)
    found = [each for each in table.columns if isinstance(table.schema[each], (nw.Datetime, nw.Date))]
    if len(found) > 1:
        raise DataError(f"{name}: {found} all hold dates; name the one to use (date=...).")
    if found:
        return found[0], table.get_column(found[0])
    first = table.columns[0] if table.columns else None
    if (
        first is not None
        and len(table)
        and _is_text(nw, table.get_column(first))
        and looks_like_date(str(table.get_column(first)[0]))
    ):
        return first, table.get_column(first)
    return None, None


def _is_text(nw: Any, series: Any) -> bool:
    return isinstance(series.dtype, (nw.String, nw.Object))


def _as_dates(nw: Any, series: Any, column: Any, name: str) -> tuple[np.ndarray, np.ndarray | None]:
    """Return dates in UTC, or integers, and how far ahead of UTC each was written; None if that is not known."""
    if _is_text(nw, series):
        cells = [str(cell).strip() for cell in series.to_list()]
        return parse_dates(cells, range(len(cells)), column=str(column), name=name), parse_offsets(cells)
    if series.dtype.is_integer():
        return series.to_numpy(), None
    if not isinstance(series.dtype, (nw.Datetime, nw.Date)):
        raise DataError(f"{name}: column {column!r} is {series.dtype}, not dates or integers.")
    if isinstance(series.dtype, nw.Date) or series.dtype.time_zone is None:
        return _stamps(nw, series), None
    in_utc = _stamps(nw, series.dt.convert_time_zone("UTC").dt.replace_time_zone(None))
    return in_utc, _stamps(nw, series.dt.replace_time_zone(None)) - in_utc


def _stamps(nw: Any, series: Any) -> np.ndarray:
    return series.cast(nw.Datetime("us")).to_numpy().astype("datetime64[us]")


def _numbers(nw: Any, series: Any, column: Any, name: str) -> np.ndarray:
    if not (series.dtype.is_numeric() or isinstance(series.dtype, nw.Boolean)):
        raise DataError(f"{name}: column {column!r} is {series.dtype}, not numbers; choose the channels (columns=...).")
    return np.asarray(series.cast(nw.Float64).fill_null(float("nan")).to_numpy(), dtype=np.float64)


def empty_like(data: Any) -> Any:
    """Return a table or array of the same kind without rows, as ``write_like`` wants it."""
    if isinstance(data, np.ndarray):
        return data[:0]
    nw = require("narwhals", extra="frames", feature=_FEATURE)
    return nw.from_native(data, eager_only=True, allow_series=True).head(0).to_native()


def write_like(
    like: Any, dates: np.ndarray, channels: Sequence[str], values: np.ndarray, offset: np.timedelta64 | None = None
) -> Any:
    """Return rows in the kind of table that ``like`` is: of the same library, an array for an array.

    Args:
        like: what ``read_table`` takes.
        dates: ``[rows]``, ``datetime64[us]`` (in UTC where there is an ``offset``) or int64. They become the index of a
            pandas frame, in the fixed zone of ``offset``, and a first column ``date`` of others, in UTC.
        channels: names of the C columns.
        values: ``[rows, C]``.
        offset: how far ahead of UTC the dates are shown; None for dates without a zone.
    """
    if isinstance(like, np.ndarray):
        return values
    nw = require("narwhals", extra="frames", feature="writing a data frame")
    columns = {channel: values[:, c] for c, channel in enumerate(channels)}
    backend = nw.get_native_namespace(nw.from_native(like, eager_only=True, allow_series=True))
    if nw.Implementation.from_native_namespace(backend).is_pandas():
        index = backend.Index(dates, name=DATE)
        if offset is not None:
            zone = offset.astype("timedelta64[us]").astype(object)
            index = index.tz_localize("UTC").tz_convert(datetime.timezone(zone))
        return backend.DataFrame(columns, index=index)
    label = DATE
    while label in columns:
        label += "_"
    made = nw.from_dict({label: dates, **columns}, backend=backend)
    if offset is not None:
        made = made.with_columns(nw.col(label).dt.replace_time_zone("UTC"))
    return made.to_native()
