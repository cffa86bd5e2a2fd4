"""Point forecast metrics from streaming float64 sums: the same for every batch size."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import numpy as np
import torch
from torch import nn

from .._core.errors import DataError
from ..architecture.skeleton import forward_in_parts
from .batches import check_finite, check_forecast, dtype_of, eval_mode, unpack_batch

METRICS = ("mse", "rmse", "mae", "mape", "r2_score")
MAPE_EPSILON = 1e-8


class MetricAccumulator:
    """Sums over batches of what the metrics need, in float64.

    ``mape`` is ``100 * mean(|e| / (|y| + 1e-8))``: a target near zero contributes an enormous term, so on
    standardised data, whose targets cross zero, it says little; it is kept because callers expect it.
    ``r2_score`` is one minus the sum of squared errors over the sum of squares of all values about their one common
    mean; with constant targets it is 1 for a perfect forecast and 0 otherwise.

    Args:
        detail: also keep errors per step and channel, for ``by_channel`` and ``by_horizon``.
    """

    def __init__(self, *, detail: bool = False) -> None:
        self.count = 0
        self.windows = 0
        self._squared = self._absolute = self._relative = 0.0
        self._origin: float | None = None
        self._mean = self._spread = 0.0
        self._detail: torch.Tensor | None = None
        self._keep_detail = detail

    def update(self, pred: torch.Tensor, target: torch.Tensor) -> None:
        """Add forecasts and targets of one shape, ``[B, ...]`` (``[B, H, C]`` with ``detail``)."""
        check_forecast("the model", pred, target)
        if not target.numel():
            return
        y = target.detach().double()
        error = pred.detach().double() - y
        square = error * error
        self._squared += float(square.sum())
        self._absolute += float(error.abs().sum())
        self._relative += float((error.abs() / (y.abs() + MAPE_EPSILON)).sum())
        self._merge_targets(y)
        self.windows += target.shape[0]
        if self._keep_detail:
            grid = square.sum(0).cpu()
            self._detail = grid if self._detail is None else self._detail + grid

    def _merge_targets(self, y: torch.Tensor) -> None:
        # From the first value on, so that constant targets have a spread of exactly 0, not of the mean's rounding.
        if self._origin is None:
            self._origin = float(y.flatten()[0])
        y = y - self._origin
        # Chan, Golub and LeVeque (1983): merging centred sums loses no digits when the mean is large.
        count, mean = y.numel(), float(y.mean())
        spread = float(((y - mean) ** 2).sum())
        total = self.count + count
        gap = mean - self._mean
        self._spread += spread + gap * gap * self.count * count / total
        self._mean += gap * count / total
        self.count = total

    def compute(self) -> dict[str, float]:
        """Return ``{"mse", "rmse", "mae", "mape", "r2_score"}``.

        Raises:
            DataError: nothing was added.
        """
        if self.count == 0:
            raise DataError("no window was evaluated; the data are empty.")
        mse = self._squared / self.count
        if self._spread > 0:
            r2 = 1.0 - self._squared / self._spread
        else:
            r2 = 1.0 if self._squared == 0 else 0.0
        return {
            "mse": mse,
            "rmse": mse**0.5,
            "mae": self._absolute / self.count,
            "mape": 100.0 * self._relative / self.count,
            "r2_score": r2,
        }

    def by_channel(self) -> list[float]:
        """Return the MSE of each channel (needs ``detail=True`` and at least one batch)."""
        return (self._grid().mean(0) / self.windows).tolist()

    def by_horizon(self, blocks: int = 4) -> list[float]:
        """Return the MSE of up to ``blocks`` contiguous parts of the horizon, nearest steps first."""
        steps = self._grid().mean(1) / self.windows
        return [float(part.mean()) for part in torch.tensor_split(steps, min(blocks, steps.numel()))]

    def _grid(self) -> torch.Tensor:
        if self._detail is None:
            raise DataError("no detail was kept: use MetricAccumulator(detail=True) and add [B, H, C] batches.")
        return self._detail


def compute_metrics(preds: np.ndarray, targets: np.ndarray) -> dict[str, float]:
    """Return ``{"mse", "rmse", "mae", "mape", "r2_score"}`` over all values of two arrays of one shape.

    ``mape`` is ``100 * mean(|e| / (|y| + 1e-8))``: it has no gap at zero, but an error of 1 on a target of 0 adds 1e10
    to the sum. Where targets come near zero, as standardised ones do, compare ``mae`` instead.

    Raises:
        InvalidArgument: the shapes differ.
        DataError: the arrays are empty.
    """
    accumulator = MetricAccumulator()
    accumulator.update(torch.as_tensor(np.asarray(preds)), torch.as_tensor(np.asarray(targets)))
    return accumulator.compute()


def compute_final_metrics(
    model: nn.Module,
    val_loader: Iterable[Any],
    device: str,
    *,
    autocast_ctx: Callable[[], AbstractContextManager[Any]] | None = None,
    progress_fn: Callable[[Iterable[Any]], Iterable[Any]] | None = None,
) -> dict[str, float]:
    """Evaluate a model on a loader of ``(x, y)`` or ``(x, y, x_future)`` batches; every window counts the same.

    Args:
        model: ``x [B, L, C] -> [B, H, C]``, on ``device``; called with ``x_future`` too where the batches have it, in
            the dtype of its weights. Its training flags are restored.
        val_loader: batches as in ``data.batch_protocol.unpack_forecasting_batch``.
        device: where the batches go.
        autocast_ctx: called once per batch; the forward pass runs inside what it returns.
        progress_fn: wraps the loader, such as ``tqdm``.

    Raises:
        DataError: no batch, or a value that is not finite (batch, window and channel named).
        InvalidArgument: the model's output has another shape than the target.
    """
    accumulator = MetricAccumulator()
    loader = val_loader if progress_fn is None else progress_fn(val_loader)
    for pred, target in _forecasts(model, loader, device, autocast_ctx):
        accumulator.update(pred, target)
    return accumulator.compute()


def evaluate_on_loader(
    model: nn.Module,
    dataloader: Iterable[Any],
    loss_fn: Callable[[torch.Tensor, torch.Tensor], torch.Tensor],
    device: str,
    *,
    autocast_ctx: Callable[[], AbstractContextManager[Any]] | None = None,
) -> float:
    """Return the loss averaged over windows, so a short last batch weighs no more than its windows.

    Arguments and errors as in ``compute_final_metrics``; ``loss_fn(pred, target)`` returns a mean over its batch.
    """
    total, windows = 0.0, 0
    for pred, target in _forecasts(model, dataloader, device, autocast_ctx):
        total += float(loss_fn(pred.float(), target.float())) * target.shape[0]
        windows += target.shape[0]
    if windows == 0:
        raise DataError("no window was evaluated; the loader is empty.")
    return total / windows


def _forecasts(
    model: nn.Module,
    loader: Iterable[Any],
    device: str,
    autocast_ctx: Callable[[], AbstractContextManager[Any]] | None,
) -> Iterable[tuple[torch.Tensor, torch.Tensor]]:
    first = 0
    forward = forward_in_parts(model)
    with eval_mode([model]):
        for number, batch in enumerate(loader):
            windows = unpack_batch(batch, device, dtype_of(model))
            check_finite(windows, batch=number, first=first, role="evaluation")
            with torch.no_grad(), nullcontext() if autocast_ctx is None else autocast_ctx():
                pred = forward(*windows.inputs)
            check_forecast("the model", pred, windows.y)
            yield pred, windows.y
            first += len(windows)
