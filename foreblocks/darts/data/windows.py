"""Forecasting windows as views of one shared tensor, gathered batch by batch."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from typing import Self, overload

import torch
from torch.utils.data import Dataset, default_collate

from .._core.errors import DataError, InvalidArgument, check_channels, check_int
from .._core.types import Batch, Layout

Window = tuple[torch.Tensor, ...]  # (x, y) or (x, y, x_future)


class WindowDataset(Dataset[Window]):
    """Windows of L past and H future rows over a series; a map-style dataset and a ``WindowSource``.

    Window ``i`` begins at row ``window_starts[i]``: x are its first L rows, y the next H. Nothing is copied until
    windows are gathered, so many datasets may share one tensor. With ``future_channels`` a sample has a third part,
    ``x_future [H, F]``: these channels over the rows of y.

    Args:
        values: the scaled series, ``[rows, C]``; stored as contiguous float32 (the same storage if it already is).
        lookback: L, at least 1.
        horizon: H, at least 1.
        first: row at which the first window begins. For windows that look back across a border this is ``border - L``.
        last: row after the last one that a window may hold; None means all rows.
        stride: rows between the beginnings of two windows.
        names: channel names for messages.
        target_channels: channels that y holds, in this order; None means all but ``future_channels``.
        future_channels: channels whose values are known ahead, such as those of the calendar. They stay in x.

    Raises:
        DataError: ``values`` is not 2-D, or there is no room for one window.
        InvalidArgument: a size, a row or a channel is out of range, or no channel is left to forecast.
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
        target_channels: Sequence[int] | None = None,
        future_channels: Sequence[int] = (),
    ) -> None:
        if values.dim() != 2:
            raise DataError(f"values must be [rows, channels], got shape {tuple(values.shape)}.")
        self.values = values.to(torch.float32).contiguous()
        self.lookback = check_int("lookback", lookback, low=1)
        self.horizon = check_int("horizon", horizon, low=1)
        self.names = tuple(names) if names is not None else tuple(str(c) for c in range(values.shape[1]))
        self.target_channels, self.future_channels = split_channels(target_channels, future_channels, values.shape[1])
        rows = values.shape[0]
        stop = rows if last is None else check_int("last", last, low=0, high=rows)
        first = check_int("first", first, low=0, high=rows)
        stride = check_int("stride", stride, low=1)
        if stop - first < lookback + horizon:
            raise DataError(
                f"rows {first} to {stop} hold no window: lookback {lookback} + horizon {horizon} needs "
                f"{lookback + horizon} rows, there are {max(stop - first, 0)}."
            )
        self._starts = torch.arange(first, stop - lookback - horizon + 1, stride, device="cpu")

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

    def layout(self) -> Layout:
        """Return how many covariates a window has, and which channels are forecast."""
        return Layout(len(self.future_channels), self.target_channels)

    def __getitem__(self, index: int) -> Window:
        """Return x ``[L, C]``, y ``[H, C_out]`` and, if there are any, the covariates ``[H, F]``.

        Views where all channels are taken; negative indices count from the end.
        """
        start = int(self._starts[index])
        border = start + self.lookback
        future = self.values[border : border + self.horizon]
        y = future if self.target_channels is None else future[:, self.target_channels]
        extra = (future[:, self.future_channels],) if self.future_channels else ()
        return (self.values[start:border], y, *extra)

    def __getitems__(self, indices: Sequence[int]) -> GatheredWindows:
        """Return the windows of a batch, already gathered; torch's loaders call this when it exists."""
        return GatheredWindows(self.gather_batch(torch.as_tensor(indices, dtype=torch.int64, device="cpu")))

    def gather(self, indices: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return ``x [B, L, C]`` and ``y [B, H, C_out]`` of the windows at ``indices`` (int64 ``[B]``)."""
        batch = self.gather_batch(indices)
        return batch.x, batch.y

    def gather_batch(self, indices: torch.Tensor) -> Batch:
        """Return the windows at ``indices`` (int64 ``[B]``) with their covariates.

        A window is a run of contiguous numbers in the flattened series, so a batch is two row selections of
        overlapping views: one copy, no index arithmetic per row.
        """
        width, flat = self.channels, self.values.view(-1)
        starts = self._starts.index_select(0, indices)
        past, future = self.lookback * width, self.horizon * width
        x = flat.unfold(0, past, width).index_select(0, starts).view(-1, self.lookback, width)
        y = flat[past:].unfold(0, future, width).index_select(0, starts).view(-1, self.horizon, width)
        known = y[..., self.future_channels] if self.future_channels else None
        return Batch(x, y if self.target_channels is None else y[..., self.target_channels], known)

    def forecasting(self, target_channels: Sequence[int] | None) -> Self:
        """Return the same windows with other targets (channels of x; None as in the constructor)."""
        clone = copy.copy(self)
        clone.target_channels, _ = split_channels(target_channels, self.future_channels, self.channels)
        return clone

    def subset(self, indices: torch.Tensor | Sequence[int]) -> Self:
        """Return a dataset of the windows at ``indices`` only, in that order, over the same values."""
        chosen = torch.as_tensor(indices, dtype=torch.int64, device="cpu")
        clone = copy.copy(self)
        clone._starts = self._starts.index_select(0, chosen)
        return clone


class GatheredWindows(Sequence[Window]):
    """A batch that still looks like a sequence of samples, so that any collate function accepts it.

    ``batch`` is the ``Batch``.
    """

    def __init__(self, batch: Batch) -> None:
        self.batch = batch

    @property
    def parts(self) -> Window:
        """``(x, y)`` or ``(x, y, x_future)``, each with the samples in its first dimension."""
        batch = self.batch
        return (batch.x, batch.y) if batch.x_future is None else (batch.x, batch.y, batch.x_future)

    def __len__(self) -> int:
        """Return the number of samples B."""
        return len(self.batch)

    @overload
    def __getitem__(self, index: int) -> Window: ...
    @overload
    def __getitem__(self, index: slice) -> GatheredWindows: ...
    def __getitem__(self, index: int | slice) -> Window | GatheredWindows:
        """Return one sample as views ``[L, C]``, ``[H, C_out]`` and perhaps ``[H, F]``, or some samples."""
        if isinstance(index, slice):
            return GatheredWindows(self.batch[index])
        return tuple(part[index] for part in self.parts)

    def __iter__(self) -> Iterator[Window]:
        """Iterate over the samples."""
        return zip(*self.parts, strict=True)


def collate_windows(samples: Sequence[Window]) -> Window:
    """Collate for ``DataLoader``: a gathered batch passes as it is, anything else is stacked."""
    return samples.parts if isinstance(samples, GatheredWindows) else tuple(default_collate(list(samples)))


def split_channels(
    targets: Sequence[int] | None, future: Sequence[int], channels: int
) -> tuple[tuple[int, ...] | None, tuple[int, ...]]:
    """Return the channels to forecast (None for all, in order) and those that are known ahead.

    Raises:
        InvalidArgument: one is out of range, named twice or both known and a target, or none is left to forecast.
    """
    known = check_channels("future_channels", future, channels)
    rest = [channel for channel in range(channels) if channel not in known]
    if not rest:
        raise InvalidArgument(f"future_channels={list(future)} are all the {channels} channels: none is to forecast.")
    chosen = check_channels("target_channels", rest if targets is None else targets, channels, empty=False)
    both = [channel for channel in chosen if channel in known]
    if both:
        raise InvalidArgument(f"target_channels={list(chosen)}: {both} are in future_channels, thus known already.")
    return (None if chosen == tuple(range(channels)) else chosen), known
