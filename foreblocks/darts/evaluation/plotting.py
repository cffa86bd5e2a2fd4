"""Forecasts over a stretch of windows, and the figures."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from .._core.errors import DataError, check_int


def batched_forecast(model: nn.Module, X_val: Tensor, *, batch_size: int = 256) -> Tensor:
    """Return one forecast of the series behind consecutive windows, averaged where their horizons overlap.

    Args:
        model: maps ``[B, L, C]`` to ``[B, H, C]``; it is run in eval mode, which is undone afterwards.
        X_val: windows ``[N, L, C]``, each one step after the one before.
        batch_size: windows in one call of the model.

    Returns:
        ``[N + H - 1, C]`` on the CPU. Row t is the mean over the windows n with n <= t < n + H of their step t - n.

    Raises:
        DataError: ``X_val`` is not 3-D or holds no window, or the model's output does not fit.
    """
    check_int("batch_size", batch_size, low=1)
    if X_val.ndim != 3 or not len(X_val):
        raise DataError(f"X_val must be [N, L, C] with at least one window, got shape {tuple(X_val.shape)}.")
    forecasts = _forecasts(model, X_val, batch_size)
    count, horizon, channels = forecasts.shape
    total = torch.zeros(count + horizon - 1, channels, dtype=torch.float64)
    for step in range(horizon):  # slices in a fixed order: the sum does not depend on the batches
        total[step : step + count] += forecasts[:, step]
    rows = torch.arange(len(total))
    seen = torch.minimum(rows, torch.tensor(count - 1)) - torch.clamp(rows - horizon + 1, min=0) + 1
    return (total / seen[:, None]).to(forecasts.dtype)


def plot_training_curve(
    train_losses: list[float],
    val_losses: list[float],
    *,
    title: str = "Training Progress",
    save_path: str | None = None,
) -> Any:
    """Plot the losses of a training."""
    raise NotImplementedError("plot_training_curve is not built yet")


def plot_alpha_evolution(alpha_values: list, *, save_path: str = "alpha_evolution.png") -> None:
    """Plot how the architecture weights moved in a search."""
    raise NotImplementedError("plot_alpha_evolution is not built yet")


def plot_prediction(
    model: nn.Module,
    X_val: torch.Tensor,
    y_val: torch.Tensor,
    *,
    full_series: torch.Tensor | None = None,
    offset: int = 0,
    figsize: tuple[int, int] = (12, 4),
    show: bool = False,
    device: torch.device | None = None,
    names: list[str] | None = None,
    batch_size: int = 256,
) -> Any:
    """Plot the overlap-averaged forecast over a series."""
    raise NotImplementedError("plot_prediction is not built yet")


@torch.no_grad()
def _forecasts(model: nn.Module, windows: Tensor, batch_size: int) -> Tensor:
    device = next((p.device for p in model.parameters()), windows.device)
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        parts = [model(batch.to(device)).float().cpu() for batch in windows.split(batch_size)]
    finally:
        for module, training in modes:
            module.training = training
    for part, batch in zip(parts, windows.split(batch_size), strict=True):
        if part.ndim != 3 or len(part) != len(batch):
            raise DataError(f"the model returned {tuple(part.shape)} for {len(batch)} windows; expected [B, H, C].")
    return torch.cat(parts)
