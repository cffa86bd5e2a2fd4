"""Scaling by mean and population standard deviation of the train rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self, TypeVar

import numpy as np
import torch

from .._core.errors import DataError

_Array = TypeVar("_Array", np.ndarray, torch.Tensor)
_LARGEST = 1e18  # its square still fits float32, in which networks compute


@dataclass(frozen=True)
class StandardScaler:
    """Per-channel ``(value - mean) / std``, fitted on train rows only.

    Attributes:
        channels: names of the C channels.
        mean: mean of each channel over the train rows.
        std: population standard deviation of each channel over the train rows, above 0.
    """

    channels: tuple[str, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]

    @classmethod
    def fit(cls, values: np.ndarray, channels: Sequence[str] | None = None) -> Self:
        """Fit on ``values`` ``[rows, C]``: pass the train rows and nothing else.

        Raises:
            DataError: no rows, a value that is not finite or too large, or a channel that is constant (named).
        """
        values = np.asarray(values, dtype=np.float64)
        names = tuple(channels) if channels is not None else tuple(str(c) for c in range(values.shape[-1]))
        if values.ndim != 2 or not len(values) or values.shape[1] != len(names):
            raise DataError(f"scaler: values of shape {values.shape} do not fit [rows >= 1, {len(names)} channels].")
        with np.errstate(over="ignore", invalid="ignore"):
            mean, std = values.mean(axis=0), values.std(axis=0)
        for column, channel in enumerate(names):
            if not (np.isfinite(mean[column]) and np.isfinite(std[column])):
                largest = np.abs(values[:, column]).max()
                problem = (
                    f"values up to {largest:g}, too large to scale," if np.isfinite(largest) else "non-finite values"
                )
                raise DataError(f"column {channel!r} has {problem} in its train rows.")
            if np.ptp(values[:, column]) == 0 or std[column] == 0:
                raise DataError(
                    f"column {channel!r} is constant ({values[0, column]:g}) over the {len(values)} train rows: "
                    "it cannot be scaled and there is nothing to forecast. Drop the column."
                )
        return cls(names, tuple(mean.tolist()), tuple(std.tolist()))

    def transform(self, values: _Array) -> _Array:
        """Return ``values`` ``[..., C]`` scaled; same kind, dtype and device."""
        return (values - self._like(self.mean, values)) / self._like(self.std, values)

    def transform_rows(self, values: np.ndarray, where: str, *, first: int = 0) -> np.ndarray:
        """Return finite ``values`` ``[rows, C]`` scaled, as the float32 that a network reads.

        Args:
            values: float64, in the units of the data.
            where: which data these are; the message begins with it.
            first: row of the data that ``values`` begin with, for the message.

        Raises:
            DataError: a value is more than 1e18 deviations away from the train rows.
        """
        with np.errstate(over="ignore", invalid="ignore"):
            scaled = self.transform(values)
        far = np.argwhere(~(np.abs(scaled) <= _LARGEST))
        if len(far):
            row, column = far[0]
            channel, mean, std = self.channels[column], self.mean[column], self.std[column]
            raise DataError(
                f"{where}: column {channel!r}, row {first + row}: {values[row, column]:g} is too far from the rows of "
                f"the scaling (mean {mean:g}, deviation {std:g})."
            )
        return scaled.astype(np.float32)

    def inverse(self, values: _Array) -> _Array:
        """Return scaled ``values`` ``[..., C]`` in the units of the data; same kind, dtype and device."""
        return values * self._like(self.std, values) + self._like(self.mean, values)

    def select(self, channels: Sequence[str]) -> Self:
        """Return the scaler of some channels, in this order.

        Raises:
            DataError: a channel was not fitted.
        """
        missing = [name for name in channels if name not in self.channels]
        if missing:
            raise DataError(f"scaler: {missing} are not among the fitted channels {list(self.channels)}.")
        at = [self.channels.index(name) for name in channels]
        return type(self)(tuple(channels), tuple(self.mean[i] for i in at), tuple(self.std[i] for i in at))

    def to_dict(self) -> dict[str, list[Any]]:
        """Return plain lists: ``channels``, ``mean``, ``std``."""
        return {"channels": list(self.channels), "mean": list(self.mean), "std": list(self.std)}

    @classmethod
    def from_dict(cls, state: Mapping[str, Sequence[Any]]) -> Self:
        """Rebuild from ``to_dict``.

        Raises:
            DataError: a key is missing, the lengths differ, or a deviation is not positive.
        """
        missing = [key for key in ("channels", "mean", "std") if key not in state]
        if missing:
            raise DataError(f"scaler: the saved state lacks {missing}.")
        mean, std = tuple(map(float, state["mean"])), tuple(map(float, state["std"]))
        channels = tuple(map(str, state["channels"]))
        if not len(channels) == len(mean) == len(std):
            raise DataError(f"scaler: {len(channels)} channels, {len(mean)} means and {len(std)} deviations.")
        if not all(np.isfinite(mean)) or not all(0 < s < float("inf") for s in std):
            raise DataError("scaler: means must be finite and deviations positive.")
        return cls(channels, mean, std)

    def _like(self, row: Sequence[float], values: Any) -> Any:
        if values.shape[-1] != len(row):
            raise DataError(f"scaler: last dimension is {values.shape[-1]}, expected the {len(row)} fitted channels.")
        if isinstance(values, torch.Tensor):
            dtype = values.dtype if values.dtype.is_floating_point else torch.get_default_dtype()
            return torch.tensor(row, dtype=dtype, device=values.device)
        kind = values.dtype if np.issubdtype(values.dtype, np.floating) else np.float64
        return np.asarray(row, dtype=kind)
