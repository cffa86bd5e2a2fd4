"""From a file or frame to scaled train, validation and test windows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader

from .._core.errors import DataError, InvalidArgument, check_int
from .._core.seeding import generator
from .csv import read_csv
from .dataframes import read_table
from .frame import SeriesFrame, check_finite, find_columns
from .gaps import fill_gaps
from .recipe import DataRecipe
from .scaling import StandardScaler
from .splits import Split, standard_split
from .windows import Window, WindowDataset, collate_windows

Loaders = tuple[DataLoader[Window], DataLoader[Window], DataLoader[Window]]


@dataclass(frozen=True, eq=False)
class Prepared:
    """Windows of the three parts over one scaled tensor, and what is needed to undo the scaling.

    Attributes:
        train: windows that lie in the train rows.
        val: windows whose targets lie in the validation rows; they look back into the train rows.
        test: windows whose targets lie in the test rows; they look back into the validation rows.
        scaler: fitted on the train rows.
        split: the row borders.
        channels: names of the C channels.
        dates: date of each row, ``[rows]``.
        frame: the series as read.
    """

    train: WindowDataset
    val: WindowDataset
    test: WindowDataset
    scaler: StandardScaler
    split: Split
    channels: list[str]
    dates: np.ndarray
    frame: SeriesFrame

    @property
    def recipe(self) -> DataRecipe:
        """What a model that is trained on these windows needs to know to forecast from another file."""
        windows, names = self.train, self.channels
        targets = None if windows.target_channels is None else tuple(names[c] for c in windows.target_channels)
        return DataRecipe(
            self.scaler, windows.lookback, windows.horizon, self.frame.name, self.frame.date_step, targets,
            tuple(names[c] for c in windows.future_channels),
        )  # fmt: skip

    def loaders(self, batch_size: int = 32, seed: int = 0) -> Loaders:
        """Return the train, validation and test loader; the train one is shuffled, none drops its last batch.

        Args:
            batch_size: windows per batch, at least 1.
            seed: of the order of the train windows.
        """
        check_int("batch_size", batch_size, low=1)
        shuffle = generator("loader", seed)
        train = DataLoader(self.train, batch_size, shuffle=True, generator=shuffle, collate_fn=collate_windows)
        val, test = (DataLoader(part, batch_size, collate_fn=collate_windows) for part in (self.val, self.test))
        return train, val, test


def prepare(
    data: Any,
    *,
    lookback: int,
    horizon: int,
    split: Split | None = None,
    name: str | None = None,
    impute: str | None = None,
    targets: Sequence[str] | None = None,
    future_columns: Sequence[str] = (),
) -> Prepared:
    """Split, scale and window a series.

    Args:
        data: a ``SeriesFrame``, the path of a CSV, or a pandas, polars or pyarrow table or an array (``read_table``).
        lookback: L, at least 1.
        horizon: H, at least 1.
        split: row borders; None means the standard ones of ``name``.
        name: decides the standard split; None means the name of the frame or file.
        impute: ``"linear"`` or ``"ffill"`` fills what is missing and says how much; None refuses it.
        targets: columns to forecast, in this order; None means all but ``future_columns``. The others are input only.
        future_columns: columns whose values are known for the horizon, such as those of the calendar or of a plan. The
            network sees their past in x, and their future as ``x_future``, the third part of a batch.

    Raises:
        DataError: the file or a value cannot be used, a channel is constant over the train rows, or a part has too few
            rows for one window; there is no such column.
        InvalidArgument: a column is both known and a target, none is left to forecast, or ``split`` is no ``Split``.
    """
    check_int("lookback", lookback, low=1)
    check_int("horizon", horizon, low=1)
    frame = as_frame(data, impute=impute)
    check_finite(frame)
    rows = len(frame)
    if split is not None and not isinstance(split, Split):
        raise InvalidArgument(f"split={split!r} must be a Split of row borders, such as Split.from_lengths(...).")
    split = split or standard_split(name or frame.name, rows)
    _check_room(split, rows, lookback, horizon, frame.name)
    scaler = _fit(frame, split)
    used = frame.values[: split.test[1]]
    scaled = torch.from_numpy(scaler.transform_rows(used, frame.name))
    chosen = None if targets is None else find_columns(frame.channels, targets, frame.name, argument="targets")
    known = (
        find_columns(frame.channels, future_columns, frame.name, argument="future_columns") if future_columns else ()
    )
    windows = partial(
        WindowDataset, scaled, lookback, horizon, names=frame.channels, target_channels=chosen, future_channels=known
    )
    train, val, test = (
        windows(first=first, last=stop)
        for first, stop in (split.train, *((start - lookback, stop) for start, stop in (split.val, split.test)))
    )
    return Prepared(train, val, test, scaler, split, frame.channels, frame.dates, frame)


def as_frame(data: Any, *, impute: str | None = None) -> SeriesFrame:
    """Return what ``prepare`` takes as a series, its gaps filled as ``impute`` says; None leaves those of a table."""
    if isinstance(data, str | Path):
        return read_csv(data, impute=impute)
    frame = data if isinstance(data, SeriesFrame) else read_table(data)
    return frame if impute is None else fill_gaps(frame, impute)


def _check_room(split: Split, rows: int, lookback: int, horizon: int, name: str) -> None:
    if split.test[1] > rows:
        raise DataError(f"{name}: the split ends at row {split.test[1]}, there are {rows}.")
    needs = (
        ("train", split.train, lookback + horizon, f"lookback {lookback} + horizon {horizon}"),
        ("validation", split.val, horizon, f"horizon {horizon}"),
        ("test", split.test, horizon, f"horizon {horizon}"),
    )
    for part, (start, stop), needed, why in needs:
        if stop - start < needed:
            raise DataError(
                f"{name}: too few rows: the {part} part has {stop - start} of {rows} (rows {start} to {stop}), "
                f"{why} needs {needed}."
            )


def _fit(frame: SeriesFrame, split: Split) -> StandardScaler:
    start, stop = split.train
    try:
        return StandardScaler.fit(frame.values[start:stop], frame.channels)
    except DataError as error:
        raise DataError(f"{frame.name}, rows {start} to {stop}: {error}") from error


def describe(prepared: Prepared) -> str:
    """Return one line: name, rows, channels, step and the number of windows of each part."""
    frame, parts = prepared.frame, (prepared.train, prepared.val, prepared.test)
    step = f"step {frame.date_step}" if frame.date_step is not None else "a single row"
    windows = " / ".join(str(len(part)) for part in parts)
    recipe = prepared.recipe
    if recipe.targets is not None:
        windows += f"; forecasts {', '.join(recipe.targets)}"
    if recipe.future:
        windows += f"; known ahead {', '.join(recipe.future)}"
    return f"{frame.name}: {len(frame)} rows x {len(frame.channels)} channels, {step}; windows {windows}"
