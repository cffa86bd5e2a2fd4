"""The baselines that stand beside every result."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from .._core.errors import InvalidArgument, check_int
from .._core.logging import get_logger
from .._core.types import WindowSource
from ..architecture.linear import fit_ridge_pair

logger = get_logger(__name__)


class LastValue(nn.Module):
    """Repeats the last value of each channel, ``[B, L, C] -> [B, H, C]``."""

    def __init__(self, horizon: int) -> None:
        super().__init__()
        self.horizon = check_int("horizon", horizon, low=1)

    def forward(self, x: Tensor) -> Tensor:
        """Return the forecast ``[B, H, C]``."""
        return x[:, -1:].expand(-1, self.horizon, -1)


class SeasonalNaive(nn.Module):
    """Repeats the last ``period`` steps, ``[B, L, C] -> [B, H, C]``.

    Raises:
        InvalidArgument: ``period`` is below 1 or above the lookback.
    """

    def __init__(self, period: int, seq_length: int, horizon: int) -> None:
        super().__init__()
        check_int("horizon", horizon, low=1)
        if check_int("period", period, low=1) > seq_length:
            raise InvalidArgument(f"period={period} must not exceed seq_length={seq_length}.")
        steps = seq_length - period + torch.arange(horizon) % period
        self.register_buffer("steps", steps, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """Return the forecast ``[B, H, C]``."""
        return x[:, self.steps]


@dataclass(frozen=True)
class Baselines:
    """Fitted baselines.

    Attributes:
        models: name → module: ``last_value``, ``seasonal_naive`` (with a period), ``ridge_shared``,
            ``ridge_per_channel``.
        ridge_star: name of the ridge with the lower validation error.
        info: penalties and validation errors of the ridges.
    """

    models: dict[str, nn.Module]
    ridge_star: str
    info: dict[str, Any]


def fit_baselines(train: WindowSource, val: WindowSource, *, period: int | None = None) -> Baselines:
    """Fit every baseline on ``train``; penalties, the centring and ``ridge_star`` are chosen on ``val``."""
    models: dict[str, nn.Module] = {"last_value": LastValue(train.horizon)}
    if period is not None and period <= train.lookback:
        models["seasonal_naive"] = SeasonalNaive(period, train.lookback, train.horizon)
    elif period is not None:
        logger.warning("period=%d is longer than the lookback %d: no seasonal baseline.", period, train.lookback)
    ridges, info, star = fit_ridge_pair(train, val, centre="last")
    models.update({f"ridge_{mode}": model for mode, model in ridges.items()})
    return Baselines(models, f"ridge_{star}", info)
