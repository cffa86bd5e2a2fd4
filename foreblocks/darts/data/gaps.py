"""Fill the gaps of a series, and say how many there were."""

from __future__ import annotations

import dataclasses

import numpy as np

from .._core.errors import DataError, check_choice
from .._core.logging import get_logger
from ..config import IMPUTE_METHODS
from .frame import SeriesFrame

_LOG = get_logger(__name__)


def fill_gaps(frame: SeriesFrame, method: str) -> SeriesFrame:
    """Return the series with every NaN filled; a note and a warning in the log say how many cells of which channel.

    Filling happens before the split into parts, so with ``linear`` a gap that crosses a border is filled from both
    sides of it.

    Args:
        frame: the series; infinite values stay as they are.
        method: ``linear`` (straight lines in time between the known neighbours, by rows where the dates are not in
            order; before the first and after the last known value the nearest one) or ``ffill`` (the last known value).

    Raises:
        InvalidArgument: another method.
        DataError: a channel without any value, or with ``ffill`` one that begins with a gap.
    """
    check_choice("impute", method, IMPUTE_METHODS)
    gaps = np.isnan(frame.values)
    if not gaps.any():
        return frame
    values = frame.values.copy()
    time = frame.dates.astype(np.int64)
    if (np.diff(time) <= 0).any():  # dates that are wrong (``read_csv(ordered=False)``): the rows are in order
        time = np.arange(len(time))
    for column in np.flatnonzero(gaps.any(axis=0)):
        channel, known = frame.channels[column], ~gaps[:, column]
        if not known.any():
            raise DataError(f"{frame.name}: column {channel!r} has no value at all; nothing can be filled.")
        if method == "linear":
            elapsed = (time - time[0]).astype(np.float64)
            values[~known, column] = np.interp(elapsed[~known], elapsed[known], values[known, column])
            continue
        if not known[0]:
            lead = int(np.argmax(known))
            raise DataError(
                f"{frame.name}: column {channel!r} begins with {lead} empty row{'s' if lead > 1 else ''} (to "
                f"{frame.dates[lead - 1]}): impute='ffill' has nothing to carry forward. Use impute='linear', drop "
                "these rows or the column."
            )
        values[:, column] = values[np.maximum.accumulate(np.where(known, np.arange(len(values)), 0)), column]
    note = _note(frame, gaps, method)
    _LOG.warning("%s: %s", frame.name, note)
    return dataclasses.replace(frame, values=values, notes=(*frame.notes, note))


def _note(frame: SeriesFrame, gaps: np.ndarray, method: str) -> str:
    counts = {channel: int(count) for channel, count in zip(frame.channels, gaps.sum(axis=0), strict=True) if count}
    each = ", ".join(f"{channel} {count}" for channel, count in counts.items())
    how = "linear interpolation" if method == "linear" else "the last known value"
    return f"filled {int(gaps.sum())} of {gaps.size} cells by {how} ({each})"
