"""Read any CSV with a date in the first column and channels in the rest; refuse bad cells by column and line."""

from __future__ import annotations

import csv
import dataclasses
import gzip
import io
import os
import re
import zlib
from collections.abc import Sequence
from itertools import chain
from pathlib import Path

import numpy as np

from .._core.errors import DataError, check_choice
from ..config import DECIMAL_MARKS, IMPUTE_METHODS
from .dates import check_dates, looks_like_date, parse_dates, parse_offsets
from .frame import SeriesFrame, check_finite, check_names, find_columns, median_step
from .gaps import fill_gaps

_SEPARATORS = (",", ";", "\t")
_NO_VALUE = frozenset({"", "na", "n/a", "nan", "null", "none"})
_DECIMAL_COMMA = re.compile(r"[+-]?\d*,\d+([eE][+-]?\d+)?")
_SWAPPED = str.maketrans(",.", ".,")


def read_csv(
    path: str | Path,
    *,
    encoding: str = "utf-8",
    ordered: bool = True,
    columns: Sequence[str] | None = None,
    impute: str | None = None,
    decimal: str = ".",
) -> SeriesFrame:
    """Read a ``.csv`` or ``.csv.gz``: a header line, then a date and the channel values per line.

    The separator is the comma, semicolon or tab that the header has first, quoted names apart. Blank lines are skipped.
    Irregular steps are allowed and logged once as a warning.

    Args:
        path: the file.
        encoding: of the text; files from Windows often need ``"latin-1"``.
        ordered: refuse duplicate and unsorted dates. Switch it off only for a file whose rows are known to be in order
            although its dates are wrong.
        columns: channels to read, in this order; the others may hold anything. None reads all.
        impute: ``"linear"`` or ``"ffill"`` fills empty cells and those that say NA, NaN, null or none; the log says how
            many. None refuses them.
        decimal: what marks the fraction of a number, ``"."`` or ``","``; thousands are never separated.

    Returns:
        The series, unscaled; its name is the file name without ``.csv``.

    Raises:
        InvalidArgument: ``impute`` or ``decimal`` is none of these.
        DataError: no such file; or it is empty, badly encoded, has no header or no channel, a repeated column name, a
            ragged row, a cell that is empty or no finite number, an asked column that is not there, a date that cannot
            be read, is repeated or goes back. The message names column and line (from 1).
    """
    path = Path(path)
    name = _stem(path)
    return parse_csv(
        read_bytes(path), name, encoding=encoding, ordered=ordered, columns=columns, impute=impute, decimal=decimal
    )


def read_channels(path: str | Path, *, encoding: str = "utf-8") -> list[str]:
    """Return the channel names of a CSV without reading its values; arguments and errors as ``read_csv``."""
    path = Path(path)
    name = _stem(path)
    header, _, _ = _split(_decode(read_bytes(path), name, encoding), name)
    _check_header(header, name)
    return header[1:]


def _stem(path: Path) -> str:
    """Return the file name without suffix; bytes in it that are no UTF-8 are replaced, so that it can be written."""
    return os.fsencode(path.name.removesuffix(".gz").removesuffix(".csv")).decode("utf-8", "replace")


def read_bytes(path: Path) -> bytes:
    """Return the bytes of a file, unpacked if it ends in ``.gz``.

    Raises:
        DataError: the file cannot be read or is no gzip file.
    """
    try:
        raw = path.read_bytes()
        return gzip.decompress(raw) if path.suffix == ".gz" else raw
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path}: cannot be read ({error}).") from error


def parse_csv(
    raw: bytes,
    name: str,
    *,
    encoding: str = "utf-8",
    ordered: bool = True,
    columns: Sequence[str] | None = None,
    impute: str | None = None,
    decimal: str = ".",
) -> SeriesFrame:
    """Parse the bytes of a CSV; arguments and errors as ``read_csv``."""
    if impute is not None:
        check_choice("impute", impute, IMPUTE_METHODS)
    check_choice("decimal", decimal, DECIMAL_MARKS)
    header, rows, lines = _split(_decode(raw, name, encoding), name)
    column, channels = header[0] or "date", header[1:]
    _check_header(header, name)
    _check_widths(rows, lines, header, name)
    if not rows:
        raise DataError(f"{name}: no rows below the header.")
    cells = [row[0].strip() for row in rows]
    dates, offsets = parse_dates(cells, lines, column=column, name=name), parse_offsets(cells)
    if columns is not None:
        picked = find_columns(channels, columns, name)
        channels, rows = list(columns), [[row[0], *(row[k + 1] for k in picked)] for row in rows]
    values = _parse_values(rows, lines, channels, name, gaps=impute is not None, decimal=decimal)
    frame = SeriesFrame(dates, channels, values, name=name, offsets=offsets)
    if ordered:
        check_dates(dates, lines, column=column, name=name, offsets=offsets)
    if impute is not None:
        frame = fill_gaps(frame, impute)
    check_finite(frame, lines)
    return dataclasses.replace(frame, step=median_step(dates))


def _decode(raw: bytes, name: str, encoding: str) -> str:
    try:
        text = raw.decode("utf-8-sig" if encoding.lower().replace("-", "") == "utf8" else encoding)
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        raise DataError(
            f"{name}: line {line}: byte 0x{raw[error.start]:02x} at position {error.start} is no {encoding}. "
            "Save the file as UTF-8 or pass encoding='latin-1'."
        ) from error
    except LookupError as error:
        raise DataError(f"{name}: encoding={encoding!r} is unknown.") from error
    if not text.strip():
        raise DataError(f"{name}: the file is empty.")
    return text


def _split(text: str, name: str) -> tuple[list[str], list[list[str]], list[int]]:
    """Return the header cells, the cells of each row, and the line of the file at which each row ends."""
    separator = _separator(text)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator, strict=True)
    header: list[str] = []
    rows: list[list[str]] = []
    lines: list[int] = []
    try:
        for row in reader:
            if not row or (len(row) == 1 and not row[0].strip()):
                continue
            if not header:
                header = [cell.strip() for cell in row]
                continue
            rows.append(row)
            lines.append(reader.line_num)
    except csv.Error as error:
        raise DataError(f"{name}: line {reader.line_num}: no valid CSV ({error}).") from error
    return header, rows, lines


def _separator(text: str) -> str:
    """Return the first separator of the header that stands outside quotes; a later one is part of a name."""
    quoted = False
    for letter in text.lstrip():
        if letter == '"':
            quoted = not quoted
        elif not quoted and letter in _SEPARATORS:
            return letter
        elif not quoted and letter in "\r\n":
            break
    return ","


def _check_header(header: Sequence[str], name: str) -> None:
    if looks_like_date(header[0]):
        raise DataError(f"{name}: line 1 starts with {header[0]!r}: a header line with the column names is missing.")
    if len(header) < 2:
        raise DataError(
            f"{name}: the header (line 1) has only the column {header[0]!r}; channels must follow the date."
        )
    check_names(header[1:], name)


def _check_widths(rows: Sequence[Sequence[str]], lines: Sequence[int], header: Sequence[str], name: str) -> None:
    width = len(header)
    row = next((k for k, cells in enumerate(rows) if len(cells) != width), None)
    if row is None:
        return
    found = len(rows[row])
    where = f"column {header[found]!r} is the first missing" if found < width else f"{found - width} more than columns"
    raise DataError(f"{name}: line {lines[row]} has {found} cells, the header {width} ({where}).")


def _parse_values(
    rows: list[list[str]], lines: Sequence[int], channels: Sequence[str], name: str, *, gaps: bool, decimal: str
) -> np.ndarray:
    """Return float64 ``[rows, C]``; Python's float also takes ``1_0``, which is no number in a CSV.

    With ``gaps`` a cell without a value is NaN.
    """
    written = cells = list(chain.from_iterable(row[1:] for row in rows))
    if decimal == ",":
        cells = [cell.translate(_SWAPPED) for cell in cells]  # a point becomes a comma, so it is refused
    if gaps:
        cells = ["nan" if cell.strip().lower() in _NO_VALUE else cell for cell in cells]
    try:
        values = np.array(list(map(float, cells)), dtype=np.float64)
    except ValueError:
        values = None
    if values is None or "_" in "".join(cells):
        position = next(k for k, cell in enumerate(cells) if not _is_number(cell))
        row, column = divmod(position, len(channels))
        problem = _problem(written[position].strip(), decimal)
        raise DataError(f"{name}: column {channels[column]!r}, line {lines[row]}: {problem}.")
    return values.reshape(len(rows), len(channels))


def _problem(cell: str, decimal: str) -> str:
    """Say what is wrong with a cell that is no number, and what helps."""
    if not cell:
        return "the cell is empty (impute='linear' or 'ffill', --impute, fills it)"
    if decimal == "." and _DECIMAL_COMMA.fullmatch(cell):
        return (
            f"{cell!r} is not a number with a decimal point. If its comma is a decimal comma, read the file with "
            "decimal=',' (read_csv) or --decimal ,"
        )
    if looks_like_date(cell):
        return (
            f"{cell!r} is a date, but the dates are read from the first column. If that holds row numbers, save the "
            "file without them (pandas: to_csv(..., index=False))"
        )
    if decimal == "," and _is_number(cell):
        return f"{cell!r} is not a number with a decimal comma (decimal=',', --decimal ,)"
    return f"{cell!r} is not a number"


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return "_" not in cell
