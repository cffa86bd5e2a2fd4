"""Sizes of windows, found in batches and compared with what was asked for."""

from __future__ import annotations

from typing import NamedTuple

import torch

from .._core.errors import DataError


class WindowShape(NamedTuple):
    """Sizes of a window: L past steps, H future steps, C channels of x, those of y, F covariates."""

    lookback: int
    horizon: int
    channels: int
    outputs: int
    future_dim: int | None = 0


def window_shape(x: torch.Tensor, y: torch.Tensor, future: torch.Tensor | None, role: str) -> WindowShape:
    """Return the window sizes of a batch.

    Raises:
        DataError: not three dimensions each, different batch sizes, an empty window, or more channels in y than in x.
    """
    for part, name, sizes in ((x, "x", "[B, L, C]"), (y, "y", "[B, H, C]")):
        if part.ndim != 3:
            raise DataError(f"{role} data: {name} must be {sizes}, got shape {tuple(part.shape)}.")
        if min(part.shape[1:]) < 1:
            raise DataError(f"{role} data: {name} of shape {tuple(part.shape)} has an empty time or channel dimension.")
    if len(x) != len(y):
        raise DataError(f"{role} data: x holds {len(x)} samples and y {len(y)}.")
    if y.shape[2] > x.shape[2]:
        raise DataError(
            f"{role} data: y has {y.shape[2]} channels but x has {x.shape[2]}; what is forecast must be in x."
        )
    return WindowShape(x.shape[1], y.shape[1], x.shape[2], y.shape[2], 0 if future is None else future.shape[2])


def check_shape(found: WindowShape, expected: WindowShape, role: str) -> None:
    """Raise ``DataError`` naming the first size that is not as expected; ``future_dim=None`` expects any."""
    named = {
        "channels": "input_dim", "lookback": "seq_length", "horizon": "forecast_horizon", "future_dim": "future_dim",
    }  # fmt: skip
    for field, argument in named.items():
        got, wanted = found._asdict()[field], expected._asdict()[field]
        if got != wanted and wanted is not None:
            raise DataError(f"{role} data: windows have {field}={got}, but {argument}={wanted} was asked for.")


def selected(y: torch.Tensor, channels: int, targets: tuple[int, ...] | None, role: str) -> torch.Tensor:
    """Return the target channels of ``y``, which holds either them or every channel of x.

    Raises:
        DataError: it holds another number of channels.
    """
    wanted = channels if targets is None else len(targets)
    if y.shape[2] == wanted:
        return y
    if targets is None:
        raise DataError(
            f"{role} data: y has {y.shape[2]} channel(s) but x has {channels}; say which of them y holds with "
            "target_channels."
        )
    if y.shape[2] != channels:
        raise DataError(
            f"{role} data: y has {y.shape[2]} channel(s); target_channels={list(targets)} needs these {wanted}, "
            f"or all {channels}."
        )
    return y[..., targets]
