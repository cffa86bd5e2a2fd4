"""The figures of a training, a search and a forecast, and the averaged forecast that the last one draws."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from .._core.errors import DataError, InvalidArgument, check_int
from .._core.logging import get_logger
from .alpha_plot import plot_alpha_evolution
from .batches import dtype_of, eval_mode
from .figures import (
    BLUE,
    GREEN,
    INK,
    MUTED,
    ORANGE,
    finish_figure,
    new_figure,
    tidy_axes,
    title_axes,
)

__all__ = ["batched_forecast", "plot_alpha_evolution", "plot_prediction", "plot_training_curve"]

_logger = get_logger(__name__)

_CHANNEL_HEIGHT = 1.6
_Stretch = tuple[int, np.ndarray]  # the first row and the values from there on


def batched_forecast(
    model: nn.Module, X_val: Tensor, *, batch_size: int = 256, x_future: Tensor | None = None
) -> Tensor:
    """Return one forecast of the series behind consecutive windows, averaged where their horizons overlap.

    Args:
        model: maps ``[B, L, C]`` to ``[B, H, C]``; it is run in eval mode, which is undone afterwards.
        X_val: windows ``[N, L, C]``, each one step after the one before; a numpy array will do, here and below.
        batch_size: windows in one call of the model.
        x_future: covariates of the same windows, ``[N, H, F]``, for a model that takes them.

    Returns:
        ``[N + H - 1, C]`` on the CPU. Row t is the mean over the windows n with n <= t < n + H of their step t - n.

    Raises:
        DataError: ``X_val`` is not 3-D or holds no window, or the model's output does not fit.
    """
    check_int("batch_size", batch_size, low=1)
    X_val = torch.as_tensor(X_val)
    x_future = None if x_future is None else torch.as_tensor(x_future)
    if X_val.ndim != 3 or not len(X_val):
        raise DataError(f"X_val must be [N, L, C] with at least one window, got shape {tuple(X_val.shape)}.")
    if x_future is not None and (x_future.ndim != 3 or len(x_future) != len(X_val)):
        raise DataError(f"x_future must be [N={len(X_val)}, H, F], got shape {tuple(x_future.shape)}.")
    inputs = (X_val,) if x_future is None else (X_val, x_future)
    return _overlap_mean(_forecasts(model, inputs, batch_size))


def plot_training_curve(
    train_losses: list[float],
    val_losses: list[float],
    *,
    title: str = "Training Progress",
    save_path: str | None = None,
) -> Any:
    """Plot training and validation loss per epoch; the epoch with the lowest validation loss is marked.

    The losses are on a log scale when they are positive and span more than a factor of ten.

    Args:
        train_losses: one per epoch, from epoch 1; values that are not finite leave a gap.
        val_losses: the same for validation; may be empty or of another length.
        title: above the figure.
        save_path: file to write (png, pdf, svg, …); None writes nothing.

    Returns:
        The ``matplotlib.figure.Figure``.

    Raises:
        InvalidArgument: no loss at all, or ``save_path`` cannot be written.
        OptionalDependencyError: matplotlib is not installed.
    """
    curves = {"train": _losses("train_losses", train_losses), "validation": _losses("val_losses", val_losses)}
    if not any(len(values) for values in curves.values()):
        raise InvalidArgument("train_losses and val_losses are both empty; there is nothing to plot.")
    figure = new_figure((8, 4.5), feature="plot_training_curve")
    axes = figure.add_subplot()
    tidy_axes(axes)
    for (name, values), colour in zip(curves.items(), (BLUE, ORANGE), strict=True):
        if len(values):
            axes.plot(
                range(1, len(values) + 1), values, color=colour, label=name, linewidth=1.8, marker="o",
                markersize=4 if len(values) <= 30 else 0,
            )  # fmt: skip
    _mark_best(axes, curves["validation"])
    seen = np.concatenate([values[np.isfinite(values)] for values in curves.values()])
    if len(seen) and seen.min() > 0 and seen.max() > 10 * seen.min():
        axes.set_yscale("log")
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.set_xlim(0.5, max(len(values) for values in curves.values()) + 0.5)
    axes.set_xlabel("epoch", color=MUTED, fontsize=9)
    axes.set_ylabel("loss", color=MUTED, fontsize=9)
    axes.set_title(title, loc="left", fontsize=12, color=INK)
    axes.legend(frameon=False, fontsize=9, labelcolor=INK)
    return finish_figure(figure, save_path=save_path)


def plot_prediction(
    model: nn.Module,
    X_val: torch.Tensor,
    y_val: torch.Tensor | None,
    *,
    full_series: torch.Tensor | None = None,
    offset: int = 0,
    figsize: tuple[int, int] = (12, 4),
    show: bool = False,
    device: torch.device | str | None = None,
    names: list[str] | None = None,
    batch_size: int = 256,
    save_path: str | None = None,
    x_future: torch.Tensor | None = None,
) -> Any:
    """Plot the overlap-averaged forecast of consecutive windows over what really happened, one panel a channel.

    Args:
        model: maps ``[B, L, C]`` to ``[B, H, C]``.
        X_val: windows ``[N, L, C]``, each one step after the one before; a numpy array will do, here and below.
        y_val: their targets ``[N, H, C]``: what is drawn as actual without ``full_series``; None if that is given.
        full_series: the series ``[rows, C]`` in the units of the windows; its rows near the forecast are drawn.
        offset: row of ``full_series`` (or number on the axis) at which the first window begins; its forecast starts
            ``L`` rows later. A warning says when the first window is not found there.
        figsize: inches; the height grows where the channels need more.
        show: open a window; the trainer's method does by default.
        device: where the model is moved to and run; None leaves it.
        names: of the C channels.
        batch_size: windows in one call of the model.
        save_path: file to write; None writes nothing.
        x_future: covariates of the windows, ``[N, H, F]``, for a model that takes them.

    Returns:
        The ``matplotlib.figure.Figure``.

    Raises:
        DataError: shapes that do not fit each other.
        InvalidArgument: neither ``y_val`` nor ``full_series``, a bad ``names``, ``offset`` or ``save_path``.
        OptionalDependencyError: matplotlib is not installed.
    """
    if device is not None:
        model.to(device)
    check_int("offset", offset, low=0)
    forecast = batched_forecast(model, X_val, batch_size=batch_size, x_future=x_future)
    first = offset + X_val.shape[1]
    actual, begins = _actual(X_val, y_val, full_series, forecast, offset)
    # A long series would shrink the forecast to a dot: as much context as forecast, and no less than a window.
    context = max(len(forecast), X_val.shape[1])
    skipped = max(0, first - context - begins)
    actual, begins = actual[skipped : first + len(forecast) + context - begins], begins + skipped
    labels = _channel_names(names, forecast.shape[1])
    needed = _CHANNEL_HEIGHT * len(labels) + 0.6
    figure = new_figure(figsize, feature="plot_prediction", show=show, min_height=needed)
    panels = figure.subplots(len(labels), 1, squeeze=False, sharex=True)[:, 0]
    for channel, axes in enumerate(panels):
        _draw_channel(axes, labels[channel], (begins, actual[:, channel]), (first, forecast[:, channel].numpy()))
    panels[-1].set_xlabel("row", color=MUTED, fontsize=9)
    above = {"loc": "lower right", "bbox_to_anchor": (1.0, 1.0), "borderaxespad": 0}
    panels[0].legend(frameon=False, fontsize=8, labelcolor=INK, ncols=2, **above)
    return finish_figure(figure, save_path=save_path, show=show)


# ---- forecasts ---------------------------------------------------------------------------------------------------


@torch.no_grad()
def _forecasts(model: nn.Module, inputs: tuple[Tensor, ...], batch_size: int) -> Tensor:
    device, dtype = next((p.device for p in model.parameters()), inputs[0].device), dtype_of(model)
    batches = list(zip(*(part.split(batch_size) for part in inputs), strict=True))
    with eval_mode([model]):
        parts = [model(*(item.to(device, dtype) for item in batch)).float().cpu() for batch in batches]
    for part, (batch, *_) in zip(parts, batches, strict=True):
        if part.ndim != 3 or len(part) != len(batch):
            raise DataError(f"the model returned {tuple(part.shape)} for {len(batch)} windows; expected [B, H, C].")
    return torch.cat(parts)


def _overlap_mean(values: Tensor) -> Tensor:
    """Average ``[N, H, C]`` of consecutive windows to ``[N + H - 1, C]``; exact float64 sums in a fixed order."""
    count, horizon, channels = values.shape
    total = values.new_zeros(count + horizon - 1, channels, dtype=torch.float64)
    for step in range(horizon):  # whole slices, one per step of the horizon: no loop over windows
        total[step : step + count] += values[:, step]
    rows = torch.arange(len(total), device=values.device)
    seen = rows.clamp(max=count - 1) - (rows - horizon + 1).clamp(min=0) + 1
    return (total / seen[:, None]).to(values.dtype)


def _actual(
    x: Tensor, y: Tensor | None, series: Tensor | None, forecast: Tensor, offset: int
) -> tuple[np.ndarray, int]:
    """Return what happened, ``[rows, C]``, and the row at which it begins on the axis."""
    channels, x = forecast.shape[1], torch.as_tensor(x)
    if series is not None:
        values = torch.as_tensor(series).detach().cpu()
        if values.ndim != 2 or values.shape[1] != channels:
            raise DataError(f"full_series must be [rows, {channels}], got shape {tuple(values.shape)}.")
        _check_place(x, values, offset)
        return values.numpy(), 0
    if y is None:
        raise InvalidArgument("y_val=None needs full_series: there is nothing to compare the forecast with.")
    y = torch.as_tensor(y)
    if tuple(y.shape) != (len(x), len(forecast) - len(x) + 1, channels):
        raise DataError(
            f"y_val must be {(len(x), len(forecast) - len(x) + 1, channels)} as the forecasts, got {tuple(y.shape)}."
        )
    past = [x[0].detach().cpu().float()] if x.shape[2] == channels else []
    return torch.cat([*past, _overlap_mean(y.detach().cpu().float())]).numpy(), offset + (0 if past else x.shape[1])


def _check_place(x: Tensor, series: Tensor, offset: int) -> None:
    """Say when the first window is not where ``offset`` puts it; a model of fewer targets cannot be checked."""
    if x.shape[2] != series.shape[1]:
        return
    first, found = x[0].detach().cpu().double(), series[offset : offset + x.shape[1]].double()
    if found.shape != first.shape or not torch.allclose(found, first, rtol=1e-4, atol=1e-4):
        _logger.warning(
            "The first window is not at row offset=%d of full_series: the forecast may be drawn at a wrong place or in "
            "other units.",
            offset,
        )


def _draw_channel(axes: Any, label: str, actual: _Stretch, forecast: _Stretch) -> None:
    """Draw what happened and what was forecast; the title has the mean absolute error over the rows of both."""
    tidy_axes(axes)
    (begins, seen), (first, foretold) = actual, forecast
    axes.axvspan(first, first + len(foretold) - 1, color=ORANGE, alpha=0.06, linewidth=0)
    axes.plot(range(begins, begins + len(seen)), seen, color=INK, linewidth=1.1, alpha=0.8, label="actual")
    marker = "o" if len(foretold) == 1 else None
    axes.plot(
        range(first, first + len(foretold)), foretold, color=ORANGE, linewidth=1.6, label="forecast", marker=marker
    )
    start, stop = max(begins, first), min(begins + len(seen), first + len(foretold))
    if start < stop:
        error = np.abs(seen[start - begins : stop - begins] - foretold[start - first : stop - first]).mean()
        label = f"{label}   MAE {error:.4g}"
    title_axes(axes, label)


def _channel_names(names: Sequence[str] | None, channels: int) -> list[str]:
    if names is None:
        return [f"channel {c}" for c in range(channels)]
    if isinstance(names, str) or len(names) != channels:
        raise InvalidArgument(f"names={names!r} must be {channels} names, one per channel.")
    return [str(name) for name in names]


# ---- losses ------------------------------------------------------------------------------------------------------


def _losses(argument: str, values: Sequence[float]) -> np.ndarray:
    try:
        losses = np.asarray(list(values), dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise InvalidArgument(f"{argument} must be a list of numbers.") from error
    if losses.ndim != 1:
        raise InvalidArgument(f"{argument} must be a list of numbers, got shape {losses.shape}.")
    return np.where(np.isfinite(losses), losses, np.nan)


def _mark_best(axes: Any, val: np.ndarray) -> None:
    if not np.isfinite(val).any():
        return
    best = int(np.nanargmin(val))
    axes.axvline(best + 1, color=GREEN, linewidth=0.9, linestyle=(0, (4, 3)))
    axes.plot(
        [best + 1], [val[best]], linestyle="none", marker="o", markersize=8, markerfacecolor="none",
        markeredgecolor=GREEN, markeredgewidth=1.6, label=f"best: {val[best]:.4g} in epoch {best + 1}",
    )  # fmt: skip
