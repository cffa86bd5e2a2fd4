"""Forecasts that a search has to beat: last value, seasonal naive, and closed-form ridge."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from .._core.errors import InvalidArgument, check_int
from .._core.logging import get_logger
from .._core.types import WindowSource
from ..architecture.linear import LinearForecaster, RidgeStatistics, fit_ridge_pair

_logger = get_logger(__name__)


class LastValue(nn.Module):
    """Repeats the last value of each channel: ``x [B, L, C] -> [B, horizon, C]``.

    Args:
        horizon: forecast steps H, at least 1.
    """

    def __init__(self, horizon: int) -> None:
        super().__init__()
        self.horizon = check_int("horizon", horizon, low=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return ``[B, H, C]``."""
        return x[:, -1:, :].expand(-1, self.horizon, -1)


class SeasonalNaive(nn.Module):
    """Repeats the last whole period of each channel: ``x [B, L, C] -> [B, horizon, C]``.

    Args:
        period: steps of a season, 1 to ``seq_length``.
        seq_length: lookback L.
        horizon: forecast steps H.

    Raises:
        InvalidArgument: the lookback does not hold one period.
    """

    steps: torch.Tensor

    def __init__(self, period: int, seq_length: int, horizon: int) -> None:
        super().__init__()
        check_int("seq_length", seq_length, low=1)
        check_int("horizon", horizon, low=1)
        self.period = check_int("period", period, low=1)
        if period > seq_length:
            raise InvalidArgument(
                f"period={period} is longer than seq_length={seq_length}; a seasonal naive needs one."
            )
        steps = seq_length - period + torch.arange(horizon) % period
        self.register_buffer("steps", steps, persistent=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return ``[B, H, C]``."""
        return x.index_select(1, self.steps)


@dataclass(frozen=True)
class Baselines:
    """The baselines of a data set, fitted on its train windows.

    Attributes:
        models: name → module, among ``last_value``, ``seasonal_naive``, ``ridge_shared``, ``ridge_per_channel``.
        ridge_star: name of the ridge with the lower validation error.
        ridge_info: name of a ridge → ``{"mode", "centre", "penalty", "val_mse"}``.
    """

    models: Mapping[str, nn.Module]
    ridge_star: str
    ridge_info: Mapping[str, dict[str, Any]] = field(default_factory=dict)

    def ridge(self, linear_path: str = "auto") -> LinearForecaster:
        """Return the ridge for a ``linear_path``: ``shared``, ``per_channel``, or ``auto`` for ``ridge_star``."""
        name = self.ridge_star if linear_path == "auto" else f"ridge_{linear_path}"
        model = self.models.get(name)
        if not isinstance(model, LinearForecaster):
            raise InvalidArgument(f"linear_path={linear_path!r} has no ridge; choose auto, shared or per_channel.")
        return model


def build_baselines(
    train: WindowSource | RidgeStatistics,
    val: WindowSource | RidgeStatistics,
    *,
    period: int | None = None,
    centre: str = "last",
) -> Baselines:
    """Fit and collect the baselines; all train windows count, and validation chooses penalties and ``ridge_star``.

    Args:
        train: train windows, or their ridge statistics.
        val: validation windows, or their ridge statistics.
        period: steps of a season; None, or longer than the lookback (said in the log), leaves the seasonal naive out.
        centre: as in ``fit_ridge``.

    Raises:
        DataError, InvalidArgument: as ``fit_ridge``.
    """
    ridges, info, star = fit_ridge_pair(train, val, centre=centre)
    sizes = ridges["shared"].spec
    models: dict[str, nn.Module] = {"last_value": LastValue(sizes.horizon)}
    if period is not None and check_int("period", period, low=1) <= sizes.seq_length:
        models["seasonal_naive"] = SeasonalNaive(period, sizes.seq_length, sizes.horizon)
    elif period is not None:
        _logger.info("No seasonal naive: period %d is longer than the lookback %d.", period, sizes.seq_length)
    models |= {f"ridge_{mode}": model for mode, model in ridges.items()}
    return Baselines(models, f"ridge_{star}", {f"ridge_{mode}": found for mode, found in info.items()})
