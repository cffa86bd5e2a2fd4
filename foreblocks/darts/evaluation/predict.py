"""Forecasts and scores over all windows of a source, for several models in one pass."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import nn

from .._core.device import resolve_device
from .._core.errors import DataError, InvalidArgument, check_int
from .._core.logging import get_logger
from .._core.types import WindowSource
from ..architecture.skeleton import forward_in_parts
from ..data.batches import EVAL_BATCH, iter_batches
from ..data.sources import read_batch
from .batches import check_forecast, eval_mode
from .metrics import MetricAccumulator

_logger = get_logger(__name__)


def iterate_forecasts(
    models: Mapping[str, nn.Module],
    source: WindowSource,
    *,
    batch_size: int = EVAL_BATCH,
    device: torch.device | str = "cpu",
    role: str = "evaluation",
) -> Iterator[tuple[dict[str, torch.Tensor], torch.Tensor]]:
    """Yield ``({name: forecast [B, H, C]}, target [B, H, C])`` on ``device``, batch by batch in window order.

    Each window is gathered once for all models. They run in eval mode and get their own modes back when the
    iteration ends or is closed.

    Args:
        models: name → ``x [B, L, C] -> [B, H, C]``, on ``device``; called as ``model(x, x_future)`` where the source
            has covariates.
        source: windows, all of which are used.
        batch_size: at least 1; it changes speed and memory only.
        device: where the batches go.
        role: which data these are, for error messages.

    Raises:
        DataError: the source is empty or holds a value that is not finite (batch, window and channel named).
        InvalidArgument: no model, or a forecast of another shape than the target.
    """
    check_int("batch_size", batch_size, low=1)
    target_device = resolve_device(device)
    if not models:
        raise InvalidArgument("models is empty; give at least one.")
    if len(source) == 0:
        raise DataError(f"{role} data: the source holds no window.")
    forwards = {name: forward_in_parts(model) for name, model in models.items()}
    with eval_mode(models.values()):
        for number, indices in enumerate(iter_batches(len(source), batch_size)):
            batch = read_batch(source, indices, role=role, batch=number).to(target_device)
            # Left before the yield, so that the consumer keeps its own gradient mode.
            with torch.no_grad():
                forecasts = {name: forward(*batch.inputs) for name, forward in forwards.items()}
            for name, forecast in forecasts.items():
                check_forecast(f"model {name!r}", forecast, batch.y)
            yield forecasts, batch.y


def predict_source(
    model: nn.Module,
    source: WindowSource,
    *,
    batch_size: int = EVAL_BATCH,
    device: torch.device | str = "cpu",
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return all forecasts and targets ``[n, H, C]`` of a source on the CPU; errors as ``iterate_forecasts``."""
    forecasts, targets = [], []
    for forecast, target in iterate_forecasts({"model": model}, source, batch_size=batch_size, device=device):
        forecasts.append(forecast["model"].cpu())
        targets.append(target.cpu())
    return torch.cat(forecasts), torch.cat(targets)


def score_models(
    models: Mapping[str, nn.Module],
    source: WindowSource,
    *,
    device: torch.device | str = "cpu",
    batch_size: int = EVAL_BATCH,
    role: str = "test",
    detail: bool = False,
) -> dict[str, dict[str, Any]]:
    """Score several models on all windows of a source, in one pass over it.

    Args:
        models: name → module.
        source: windows.
        device: where the models are.
        batch_size: windows per forward pass; the result does not depend on it (float64 sums).
        role: which data these are, for messages.
        detail: add ``"mse_by_channel"`` (C values) and ``"mse_by_horizon"`` (up to four parts of the horizon).

    Returns:
        Name → ``{"mse", "rmse", "mae", "mape", "r2_score"}``. A model whose forecasts are not finite gets metrics
        that are not finite and a warning in the log; the others are not affected.

    Raises:
        DataError, InvalidArgument: as ``iterate_forecasts``.
    """
    scores = {name: MetricAccumulator(detail=detail) for name in models}
    for forecasts, target in iterate_forecasts(models, source, batch_size=batch_size, device=device, role=role):
        for name, forecast in forecasts.items():
            scores[name].update(forecast, target)
    results: dict[str, dict[str, Any]] = {}
    for name, score in scores.items():
        results[name] = dict(score.compute())
        if not math.isfinite(results[name]["mse"]):
            _logger.warning("Model %r gave forecasts that are not finite on the %s data.", name, role)
        if detail:
            results[name]["mse_by_channel"] = score.by_channel()
            results[name]["mse_by_horizon"] = score.by_horizon()
    return results
