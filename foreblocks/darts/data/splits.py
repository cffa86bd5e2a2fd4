"""Which rows are for training, validation and test."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Self

from .._core.errors import DataError

_ETT = re.compile(r"ETT([hm])\d+", re.IGNORECASE)
_MONTH = 30 * 24


@dataclass(frozen=True)
class Split:
    """Half-open row ranges ``(start, stop)`` in order of time, touching each other.

    Raises:
        DataError: a range is empty or the ranges overlap.
    """

    train: tuple[int, int]
    val: tuple[int, int]
    test: tuple[int, int]

    def __post_init__(self) -> None:
        borders = (*self.train, *self.val, *self.test)
        if borders[0] < 0 or any(start >= stop for start, stop in (self.train, self.val, self.test)):
            raise DataError(f"Split{borders}: each part needs start < stop, from row 0 on.")
        if self.val[0] < self.train[1] or self.test[0] < self.val[1]:
            raise DataError(f"Split{borders}: the parts overlap or are not in order of time.")

    @classmethod
    def from_lengths(cls, train: int, val: int, test: int) -> Self:
        """Return the split whose parts follow one another from row 0."""
        return cls((0, train), (train, train + val), (train + val, train + val + test))


def standard_split(name: str | None, rows: int) -> Split:
    """Return the split that the field uses.

    ETTh1, ETTh2: 12/4/4 months of 30 days of hours (8640/2880/2880 rows). ETTm1, ETTm2: four times that. The rest of
    those files is unused. Any other name or None: ``int(0.7 * rows)`` for training, ``int(0.2 * rows)`` for test, the
    rows between for validation.

    Args:
        name: name of the data set (a file name without ``.csv``).
        rows: number of rows in the file.

    Raises:
        DataError: the file is too short.
    """
    match = _ETT.fullmatch(name or "")
    if match:
        month = _MONTH * (4 if match[1].lower() == "m" else 1)
        split = Split.from_lengths(12 * month, 4 * month, 4 * month)
        if rows < split.test[1]:
            raise DataError(f"{name} has {rows} rows; its standard split (12/4/4 months) needs {split.test[1]}.")
        return split
    train, test = int(rows * 0.7), int(rows * 0.2)
    if min(train, rows - train - test, test) < 1:
        raise DataError(f"{name or 'series'} has {rows} rows: too few for a split of 70/10/20 %.")
    return Split.from_lengths(train, rows - train - test, test)
