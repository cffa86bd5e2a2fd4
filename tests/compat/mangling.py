"""Mangled CSVs: a good table, then some of the things that happen to tables on their way."""

from __future__ import annotations

import gzip
from collections.abc import Callable
from typing import Any

import numpy as np
from hypothesis import strategies as st

CELLS = [
    "", " ", "NA", "nan", "NULL", "inf", "-inf", "1e999", "1e308", "-1e308", "3.5e38", "1e-320", "1,5", "1_0", "0x10",
    "１２", "٣", "−1", "½", "abc", "1.5e", "#REF!", "true", "\x00", '"', '""', "1 000", "€5", "+", "--1", " 7 ", "1d5",
    "9" * 400, "2024-01-01", "=1+1", "1\n2", "\u200b1", "0", "-0.0", "1e20", "1e-30",
]  # fmt: skip
DATES = [
    "", "2024-02-30", "2024-13-01", "24:00", "2024-01-01T25:00", "0001-01-01", "9999-12-31T23:59:59", "10000-01-01",
    "1/2/2024", "31/12/24", "2024-01-01T00:00:00+99:00", "2024-01-01T00:00Z", "2024-01-01T00:00+02:00", "now", "1e9",
    "9" * 20, "-5", "7", "2024-W01-1", "12:00", "2024-01-01T00:00:00.123456789", "Jan 1 2024", "1677-01-01",
    "2262-04-12", "0000-01-01", "2024-03-31T02:30", "１/１/2024", "01.02.2024 3:00 PM", "1/1/0", "\x00",
]  # fmt: skip
NAMES = ["", "a", "b", "date", "1", "nan", "2024-01-01", "a b", '"', "ä", "a\nb", "x" * 300, " b ", "\u200b", "\x00"]
STEPS: dict[str, Callable[[int], str]] = {
    "hour": lambda i: str(np.datetime64("2024-01-01T00") + np.timedelta64(i, "h")),
    "zulu": lambda i: f"{np.datetime64('2024-01-01T00:00') + np.timedelta64(i, 'h')}Z",
    "offset": lambda i: f"{np.datetime64('2024-03-30T00:00') + np.timedelta64(i, 'h')}+0{1 + (i > 25)}:00",
    "day": lambda i: str(np.datetime64("2024-01-01") + np.timedelta64(i, "D")),
    "month": lambda i: f"{np.datetime64('2020-01') + np.timedelta64(i, 'M')}-01",
    "year": lambda i: f"{1900 + i}-12-31",
    "day first": lambda i: "{2}/{1}/{0}".format(*str(np.datetime64("2024-01-01") + np.timedelta64(i, "D")).split("-")),
    "microsecond": lambda i: str(np.datetime64("2024-01-01T00:00:00.000000") + np.timedelta64(i, "us")),
    "ancient": lambda i: f"0001-01-01T{i % 24:02d}:00",
    "end of time": lambda i: str(np.datetime64("9999-12-28T00") + np.timedelta64(i, "h")),
    "integer": str,
    "huge integer": lambda i: str(10**17 * (i % 9) + i),
    "negative": lambda i: str(-i),
    "equal": lambda i: "2024-01-01",
    "irregular": lambda i: str(np.datetime64("2024-01-01T00") + np.timedelta64(i * i, "s")),
}
Table = list[list[str]]


def good_table(rows: int, step: str) -> Table:
    """Return header and rows of two channels."""
    return [
        ["date", "a", "b"],
        *([STEPS[step](i), f"{np.sin(i / 4.0):.4f}", f"{(i * 7919) % 101 / 7.0:.4f}"] for i in range(rows)),
    ]


def _cell(t: Table, i: int, j: int, k: int) -> None:
    row = t[i % len(t)]
    if row:
        row[j % len(row)] = CELLS[k % len(CELLS)]


def _date(t: Table, i: int, j: int, k: int) -> None:
    t[i % len(t)][:1] = [DATES[k % len(DATES)]]


def _gap(t: Table, i: int, j: int, k: int) -> None:
    for row in t[1 + i % len(t) :][: 1 + k % 5]:
        row[-1:] = [""]


def _column(t: Table, i: int, j: int, k: int) -> None:
    for row in t[1:]:
        row[-1:] = [CELLS[k % len(CELLS)]]


def _scale(t: Table, i: int, j: int, k: int) -> None:
    for row in t[1:]:
        row[-1:] = [f"{cell}e{(k % 700) - 350}" for cell in row[-1:]]


def _drop(t: Table, i: int, j: int, k: int) -> None:
    del t[i % len(t)]
    if not t:
        t.append([""])


def _repeat(t: Table, i: int, j: int, k: int) -> None:
    t.insert(k % (len(t) + 1), list(t[i % len(t)]))


def _swap(t: Table, i: int, j: int, k: int) -> None:
    t[i % len(t)], t[k % len(t)] = t[k % len(t)], t[i % len(t)]


def _reverse(t: Table, i: int, j: int, k: int) -> None:
    t[1:] = t[:0:-1]


def _shorten(t: Table, i: int, j: int, k: int) -> None:
    del t[i % len(t)][-1:]


def _widen(t: Table, i: int, j: int, k: int) -> None:
    t[i % len(t)].append(CELLS[k % len(CELLS)])


def _name(t: Table, i: int, j: int, k: int) -> None:
    if t[0]:
        t[0][j % len(t[0])] = NAMES[k % len(NAMES)]


def _new_column(t: Table, i: int, j: int, k: int) -> None:
    for number, row in enumerate(t):
        row.append("c" if number == 0 else CELLS[k % len(CELLS)] if k % 2 else str(number % 5))


def _less_columns(t: Table, i: int, j: int, k: int) -> None:
    for row in t:
        del row[-1:]


def _one_row(t: Table, i: int, j: int, k: int) -> None:
    del t[2 + k % 3 :]


def _empty_row(t: Table, i: int, j: int, k: int) -> None:
    t.insert(i % (len(t) + 1), [] if k % 2 else ["", "", ""])


IN_TABLE = [
    _cell, _date, _gap, _column, _scale, _drop, _repeat, _swap, _reverse, _shorten, _widen, _name, _new_column,
    _less_columns, _one_row, _empty_row,
]  # fmt: skip
IN_TEXT: dict[str, Callable[[str, int], str]] = {
    "semicolons": lambda s, k: s.replace(",", ";"),
    "tabs": lambda s, k: s.replace(",", "\t"),
    "pipes": lambda s, k: s.replace(",", "|"),
    "quoted": lambda s, k: "\n".join(",".join(f'"{c}"' for c in line.split(",")) for line in s.split("\n")),
    "windows": lambda s, k: s.replace("\n", "\r\n"),
    "old mac": lambda s, k: s.replace("\n", "\r"),
    "mark": lambda s, k: "\ufeff" + s,
    "open quote": lambda s, k: s[: k % (len(s) + 1)] + '"' + s[k % (len(s) + 1) :],
    "cut": lambda s, k: s[: k % (len(s) + 1)],
    "comment": lambda s, k: "# made by hand\n" + s,
    "no header": lambda s, k: s.partition("\n")[2],
    "twice": lambda s, k: s + "\n" + s,
    "noise": lambda s, k: s[: k % (len(s) + 1)] + chr(k % 0xD7FF) + s[k % (len(s) + 1) :],
    "decimal comma": lambda s, k: s.replace(",", ";").replace(".", ","),
    "blank lines": lambda s, k: s.replace("\n", "\n\n"),
    "page": lambda s, k: f"<html><body>{s}</body></html>",
}
IN_BYTES: dict[str, Callable[[bytes, int], bytes]] = {
    "byte": lambda b, k: b[: k % (len(b) + 1)] + bytes([k % 256]) + b[k % (len(b) + 1) :],
    "wide": lambda b, k: b.decode(errors="ignore").encode("utf-16"),
    "latin": lambda b, k: b.decode(errors="ignore").encode("latin-1", "replace") + b"\xe9",
    "zip": lambda b, k: gzip.compress(b),
    "nothing": lambda b, k: b"",
    "zeros": lambda b, k: bytes(k % 64),
}
_NUMBER = st.integers(0, 2000)


@st.composite
def mangled(draw: Any) -> tuple[bytes, str]:
    """Draw the bytes of a file and its suffix; most had a few accidents, few are beyond hope."""
    steps = [*STEPS, *["hour"] * len(STEPS)]
    table = good_table(draw(st.sampled_from([0, 1, 2, 9, 30, 60, 60, 60, 90, 90])), draw(st.sampled_from(steps)))
    for change in draw(st.lists(st.sampled_from(IN_TABLE), max_size=3)):
        change(table, draw(_NUMBER), draw(_NUMBER), draw(_NUMBER))
    text = "\n".join(",".join(row) for row in table) + "\n"
    for name in draw(st.lists(st.sampled_from(list(IN_TEXT)), max_size=1)):
        text = IN_TEXT[name](text, draw(_NUMBER))
    raw = text.encode()
    if draw(st.integers(0, 9)) == 0:
        raw = IN_BYTES[draw(st.sampled_from(list(IN_BYTES)))](raw, draw(_NUMBER))
    suffix = draw(st.sampled_from([".csv", ".csv", ".csv", ".csv", ".csv.gz"]))
    if suffix == ".csv.gz" and draw(st.booleans()):
        raw = gzip.compress(raw)
        raw = raw if draw(st.booleans()) else raw[: draw(_NUMBER) % (len(raw) + 1)]
    return raw, suffix
