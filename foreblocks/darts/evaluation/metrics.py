"""Forecast metrics as float64 sums over all windows, so that no batch size changes them."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from .._core.errors import DataError

MAPE_FLOOR = 1e-2


class MetricAccumulator:
    """Adds up mse, rmse, mae, mape and r2_score batch by batch.

    ``mape`` is ``100 · mean(|e| / max(|y|, 0.01))``: targets nearer to zero than 0.01 (on scaled data, a hundredth of
    a standard deviation) count as 0.01, so that they cannot decide the figure. ``r2_score`` is over all flattened
    values; it is NaN when the targets are constant.
    """

    def __init__(self) -> None:
        self.count = 0
        self._squared = self._absolute = self._relative = self._sum = self._sum_squared = 0.0

    def update(self, prediction: Tensor, target: Tensor) -> None:
        """Add a batch of equal shapes; any device and dtype.

        Raises:
            DataError: the shapes differ.
        """
        if prediction.shape != target.shape:
            raise DataError(f"prediction has shape {tuple(prediction.shape)}, target {tuple(target.shape)}.")
        p, y = prediction.detach().double(), target.detach().double()
        error = p - y
        self.count += error.numel()
        self._squared += float(error.square().sum())
        self._absolute += float(error.abs().sum())
        self._relative += float((error.abs() / y.abs().clamp_min(MAPE_FLOOR)).sum())
        self._sum += float(y.sum())
        self._sum_squared += float(y.square().sum())

    def compute(self) -> dict[str, float]:
        """Return ``{mse, rmse, mae, mape, r2_score}``.

        Raises:
            DataError: nothing was added.
        """
        if not self.count:
            raise DataError("no values to compute metrics from: the loader is empty.")
        mse = self._squared / self.count
        spread = self._sum_squared - self._sum**2 / self.count
        return {
            "mse": mse,
            "rmse": math.sqrt(mse),
            "mae": self._absolute / self.count,
            "mape": 100.0 * self._relative / self.count,
            "r2_score": 1.0 - self._squared / spread if spread > 0 else float("nan"),
        }


def compute_metrics(preds: np.ndarray, targets: np.ndarray) -> dict[str, float]:
    """Return ``{mse, rmse, mae, mape, r2_score}`` over all values of two arrays of one shape."""
    accumulator = MetricAccumulator()
    accumulator.update(torch.as_tensor(np.asarray(preds)), torch.as_tensor(np.asarray(targets)))
    return accumulator.compute()


def compute_final_metrics(
    model: nn.Module,
    val_loader: Any,
    device: str,
    *,
    autocast_ctx: Callable[[], Any] | None = None,
    progress_fn: Callable[[Any], Any] | None = None,
) -> dict[str, float]:
    """Return the metrics of ``model`` over every window of a loader; its mode is restored.

    Args:
        model: maps ``[B, L, C]`` to ``[B, H, C]``.
        val_loader: yields ``(x, y)``.
        device: where ``model`` is.
        autocast_ctx: makes the context of each forward pass.
        progress_fn: wraps the loader, for a progress bar.
    """
    from .predict import score_loader

    return score_loader(model, val_loader, device, autocast_ctx=autocast_ctx, progress_fn=progress_fn)


def evaluate_on_loader(
    model: nn.Module,
    dataloader: Any,
    loss_fn: Callable[[Tensor, Tensor], Tensor],
    device: str,
    *,
    autocast_ctx: Callable[[], Any] | None = None,
) -> float:
    """Return the mean loss per window (not per batch) in eval mode; the mode is restored."""
    from .predict import evaluating, loader_predictions

    total, count = 0.0, 0
    with evaluating(model):
        for prediction, y in loader_predictions(model, dataloader, device, autocast_ctx):
            total += float(loss_fn(prediction, y)) * len(y)
            count += len(y)
    if not count:
        raise DataError("the loader is empty.")
    return total / count
