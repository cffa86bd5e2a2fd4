"""The small protocols that layers share."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

import torch


@runtime_checkable
class WindowSource(Protocol):
    """Random access to forecasting windows; every training and evaluation loop reads through it.

    ``len(source)`` is the number of windows. ``lookback`` is L, ``horizon`` is H, ``channels`` is C.
    """

    lookback: int
    horizon: int
    channels: int

    def __len__(self) -> int: ...

    def gather(self, indices: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return ``x [B, L, C]`` and ``y [B, H, C]``, float32, for the windows at ``indices`` (int64 ``[B]``)."""
        ...

    @property
    def starts(self) -> torch.Tensor | None:
        """Row of the series at which each window begins, int64 ``[len]``; None when samples are independent."""
        ...
