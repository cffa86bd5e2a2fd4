"""Forecasting windows as views of one shared tensor, gathered batch by batch."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from typing import Self

import torch
from torch.utils.data import Dataset, default_collate

from .._core.errors import DataError, check_int

Window = tuple[torch.Tensor, torch.Tensor]


class WindowDataset(Dataset[Window]):
    """Windows of L past and H future rows over a series; a map-style dataset and a ``WindowSource``.

    Window ``i`` begins at row ``window_starts[i]``: x are its first L rows, y the next H. Nothing is copied until
    windows are gathered, so many datasets may share one tensor.

    Args:
        values: the scaled series, ``[rows, C]``; stored as contiguous float32 (the same storage if it already is).
        lookback: L, at least 1.
        horizon: H, at least 1.
        first: row at which the first window begins. For windows that look back across a border this is ``border - L``.
        last: row after the last one that a window may hold; None means all rows.
        stride: rows between the beginnings of two windows.
        names: channel names for messages.

    Raises:
        DataError: ``values`` is not 2-D, or there is no room for one window.
        InvalidArgument: a size or a row is out of range.
    """

    def __init__(
        self,
        values: torch.Tensor,
        lookback: int,
        horizon: int,
        *,
        first: int = 0,
        last: int | None = None,
        stride: int = 1,
        names: Sequence[str] | None = None,
    ) -> None:
        if values.dim() != 2:
            raise DataError(f"values must be [rows, channels], got shape {tuple(values.shape)}.")
        self.values = values.to(torch.float32).contiguous()
        self.lookback = check_int("lookback", lookback, low=1)
        self.horizon = check_int("horizon", horizon, low=1)
        self.names = tuple(names) if names is not None else tuple(str(c) for c in range(values.shape[1]))
        rows = values.shape[0]
        stop = rows if last is None else check_int("last", last, low=0, high=rows)
        first = check_int("first", first, low=0, high=rows)
        stride = check_int("stride", stride, low=1)
        starts = (
            torch.arange(first, stop - lookback - horizon + 1, stride) if stop - first >= lookback + horizon else None
        )
        if starts is None:
            raise DataError(
                f"rows {first} to {stop} hold no window: lookback {lookback} + horizon {horizon} needs "
                f"{lookback + horizon} rows, there are {max(stop - first, 0)}."
            )
        self._starts = starts

    @property
    def channels(self) -> int:
        """Number of channels C."""
        return self.values.shape[1]

    @property
    def window_starts(self) -> torch.Tensor:
        """Row at which each window begins, int64 ``[len]``."""
        return self._starts

    @property
    def starts(self) -> torch.Tensor:
        """The same as ``window_starts``, under the name of the ``WindowSource`` protocol."""
        return self._starts

    def __len__(self) -> int:
        """Return the number of windows."""
        return len(self._starts)

    def __getitem__(self, index: int) -> Window:
        """Return views x ``[L, C]`` and y ``[H, C]``; negative indices count from the end."""
        start = int(self._starts[index])
        border = start + self.lookback
        return self.values[start:border], self.values[border : border + self.horizon]

    def __getitems__(self, indices: Sequence[int]) -> GatheredWindows:
        """Return the windows of a batch, already gathered; torch's loaders call this when it exists."""
        return GatheredWindows(*self.gather(torch.as_tensor(indices, dtype=torch.int64)))

    def gather(self, indices: torch.Tensor) -> Window:
        """Return ``x [B, L, C]`` and ``y [B, H, C]`` of the windows at ``indices`` (int64 ``[B]``).

        A window is a run of contiguous numbers in the flattened series, so a batch is two row selections of
        overlapping views: one copy, no index arithmetic per row.
        """
        width, flat = self.channels, self.values.view(-1)
        starts = self._starts.index_select(0, indices)
        past, future = self.lookback * width, self.horizon * width
        x = flat.unfold(0, past, width).index_select(0, starts)
        y = flat[past:].unfold(0, future, width).index_select(0, starts)
        return x.view(-1, self.lookback, width), y.view(-1, self.horizon, width)

    def subset(self, indices: torch.Tensor | Sequence[int]) -> Self:
        """Return a dataset of the windows at ``indices`` only, in that order, over the same values."""
        chosen = torch.as_tensor(indices, dtype=torch.int64)
        clone = copy.copy(self)
        clone._starts = self._starts.index_select(0, chosen)
        return clone


class GatheredWindows(Sequence[Window]):
    """A batch that still looks like a sequence of samples, so that any collate function accepts it.

    Attributes:
        x: ``[B, L, C]``.
        y: ``[B, H, C]``.
    """

    def __init__(self, x: torch.Tensor, y: torch.Tensor) -> None:
        self.x = x
        self.y = y

    def __len__(self) -> int:
        """Return the number of samples B."""
        return len(self.x)

    def __getitem__(self, index: int) -> Window:
        """Return one sample as views ``[L, C]``, ``[H, C]``."""
        return self.x[index], self.y[index]

    def __iter__(self) -> Iterator[Window]:
        """Iterate over the samples."""
        return zip(self.x, self.y, strict=True)


def collate_windows(samples: Sequence[Window]) -> Window:
    """Collate for ``DataLoader``: a gathered batch passes as it is, anything else is stacked."""
    if isinstance(samples, GatheredWindows):
        return samples.x, samples.y
    x, y = default_collate(list(samples))
    return x, y
