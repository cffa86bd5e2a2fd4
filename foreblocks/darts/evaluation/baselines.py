"""Forecasts that a search has to beat: last value, seasonal naive, and closed-form ridge."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from .._core.errors import InvalidArgument, check_int
from .._core.logging import get_logger, log_once
from .._core.types import WindowSource, layout_of
from ..architecture.linear import LinearForecaster, RidgeStatistics, fit_ridge_pair

_logger = get_logger(__name__)


class LastValue(nn.Module):
    """Repeats the last value of each channel: ``x [B, L, C] -> [B, horizon, C_out]``.

    Args:
        horizon: forecast steps H, at least 1.
        target_channels: channels that are forecast; None for all.
    """

    def __init__(self, horizon: int, target_channels: tuple[int, ...] | None = None) -> None:
        super().__init__()
        self.horizon = check_int("horizon", horizon, low=1)
        self.target_channels = target_channels

    def forward(self, x: torch.Tensor, x_future: torch.Tensor | None = None) -> torch.Tensor:
        """Return ``[B, H, C_out]``; ``x_future`` has no part in it."""
        return _picked(x, self.target_channels)[:, -1:, :].expand(-1, self.horizon, -1)


class SeasonalNaive(nn.Module):
    """Repeats the last whole period of each channel: ``x [B, L, C] -> [B, horizon, C_out]``.

    Args:
        period: steps of a season, 1 to ``seq_length``.
        seq_length: lookback L.
        horizon: forecast steps H.
        target_channels: channels that are forecast; None for all.

    Raises:
        InvalidArgument: the lookback does not hold one period.
    """

    steps: torch.Tensor

    def __init__(
        self, period: int, seq_length: int, horizon: int, target_channels: tuple[int, ...] | None = None
    ) -> None:
        super().__init__()
        self.target_channels = target_channels
        check_int("seq_length", seq_length, low=1)
        check_int("horizon", horizon, low=1)
        self.period = check_int("period", period, low=1)
        if period > seq_length:
            raise InvalidArgument(
                f"period={period} is longer than seq_length={seq_length}; a seasonal naive needs one."
            )
        steps = seq_length - period + torch.arange(horizon) % period
        self.register_buffer("steps", steps, persistent=False)

    def forward(self, x: torch.Tensor, x_future: torch.Tensor | None = None) -> torch.Tensor:
        """Return ``[B, H, C_out]``; ``x_future`` has no part in it."""
        return _picked(x, self.target_channels).index_select(1, self.steps)


def _picked(x: torch.Tensor, channels: tuple[int, ...] | None) -> torch.Tensor:
    return x if channels is None else x[..., channels]


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

    They forecast from the past of each target channel alone: covariates of the future are not used, which is logged.

    Args:
        train: train windows, or their ridge statistics.
        val: validation windows, or their ridge statistics.
        period: steps of a season; None, or longer than the lookback (said in the log), leaves the seasonal naive out.
        centre: as in ``fit_ridge``.

    Raises:
        DataError, InvalidArgument: as ``fit_ridge``.
    """
    if not isinstance(train, RidgeStatistics) and layout_of(train).future_dim:
        log_once(_logger, logging.INFO, "The baselines, ridge among them, do not use x_future: the past alone counts.")
    ridges, info, star = fit_ridge_pair(train, val, centre=centre)
    sizes = ridges["shared"].spec
    models: dict[str, nn.Module] = {"last_value": LastValue(sizes.horizon, sizes.target_channels)}
    if period is not None and check_int("period", period, low=1) <= sizes.seq_length:
        models["seasonal_naive"] = SeasonalNaive(period, sizes.seq_length, sizes.horizon, sizes.target_channels)
    elif period is not None:
        _logger.info("No seasonal naive: period %d is longer than the lookback %d.", period, sizes.seq_length)
    models |= {f"ridge_{mode}": model for mode, model in ridges.items()}
    return Baselines(models, f"ridge_{star}", {f"ridge_{mode}": found for mode, found in info.items()})
