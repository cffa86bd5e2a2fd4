"""The small protocols that layers share."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple, Protocol, final, runtime_checkable

import torch


@final
@dataclass(frozen=True)
class Batch:
    """Windows that were gathered together.

    Attributes:
        x: past ``[B, L, C]``.
        y: targets ``[B, H, C_out]``.
        x_future: covariates that are known for the steps of ``y``, ``[B, H, F]``; None if there are none.
    """

    x: torch.Tensor
    y: torch.Tensor
    x_future: torch.Tensor | None = None

    @property
    def inputs(self) -> tuple[torch.Tensor, ...]:
        """What a model is called with, ``model(*batch.inputs)``: x, and ``x_future`` where there is one."""
        return (self.x,) if self.x_future is None else (self.x, self.x_future)

    def to(self, device: torch.device | str) -> Batch:
        """Return the batch on another device."""
        future = None if self.x_future is None else self.x_future.to(device)
        return Batch(self.x.to(device), self.y.to(device), future)

    def __len__(self) -> int:
        """Return the number of windows B."""
        return len(self.x)

    def __getitem__(self, rows: slice) -> Batch:
        """Return some of the windows."""
        return Batch(self.x[rows], self.y[rows], None if self.x_future is None else self.x_future[rows])


@runtime_checkable
class WindowSource(Protocol):
    """Random access to forecasting windows; every training and evaluation loop reads through it.

    ``len(source)`` is the number of windows. ``lookback`` is L, ``horizon`` is H, ``channels`` is C.
    """

    @property
    def lookback(self) -> int: ...
    @property
    def horizon(self) -> int: ...
    @property
    def channels(self) -> int: ...

    def __len__(self) -> int: ...

    def gather(self, indices: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return ``x [B, L, C]`` and ``y [B, H, C_out]``, float32, for the windows at ``indices`` (int64 ``[B]``)."""
        ...

    @property
    def starts(self) -> torch.Tensor | None:
        """Row of the series at which each window begins, int64 ``[len]``; None when samples are independent."""
        ...


class Layout(NamedTuple):
    """What a window holds beside L, H and C.

    Attributes:
        future_dim: number of covariates F that are known for the future; 0 for none, None where it is not known yet.
        target_channels: channels of x that y holds, in its order; None for all.
    """

    future_dim: int | None = 0
    target_channels: tuple[int, ...] | None = None


@runtime_checkable
class CovariateSource(Protocol):
    """What a ``WindowSource`` also has if it may know covariates of the future, or forecasts some channels only."""

    def layout(self) -> Layout:
        """Return what its windows hold."""
        ...

    def gather_batch(self, indices: torch.Tensor) -> Batch:
        """Return what ``gather`` does, and ``x_future [B, H, F]`` where F is above 0."""
        ...


def layout_of(source: WindowSource) -> Layout:
    """Return what the windows of a source hold; a plain ``WindowSource`` forecasts every channel from the past."""
    return source.layout() if isinstance(source, CovariateSource) else Layout()


def gather_batch(source: WindowSource, indices: torch.Tensor) -> Batch:
    """Return the windows at ``indices`` with their covariates, if the source has any."""
    return source.gather_batch(indices) if isinstance(source, CovariateSource) else Batch(*source.gather(indices))
