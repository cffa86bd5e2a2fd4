"""Running models over windows: one pass, several models, every window counted once."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from .._core.types import WindowSource
from ..data.sources import finite_batch, iter_batches
from .metrics import MetricAccumulator


@contextlib.contextmanager
def evaluating(*models: nn.Module) -> Iterator[None]:
    """Put models into eval mode without gradients for a block, and restore their modes."""
    modes = [model.training for model in models]
    for model in models:
        model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        for model, mode in zip(models, modes, strict=True):
            model.train(mode)


def score_models(
    models: Mapping[str, nn.Module],
    source: WindowSource,
    *,
    device: torch.device | str = "cpu",
    batch_size: int = 256,
    role: str = "test",
) -> dict[str, dict[str, float]]:
    """Return the metrics of several models from one pass in which each window is read once.

    Raises:
        DataError: a batch is not finite (batch, window and channel are named), or there is no window.
    """
    accumulators = {name: MetricAccumulator() for name in models}
    for model in models.values():
        model.to(device)
    with evaluating(*models.values()):
        for number, indices in enumerate(iter_batches(len(source), batch_size)):
            x, y = finite_batch(source, indices, role=role, batch=number)
            x = x.to(device)
            for name, model in models.items():
                accumulators[name].update(model(x).cpu(), y)
    return {name: accumulator.compute() for name, accumulator in accumulators.items()}


def loader_predictions(
    model: nn.Module, loader: Any, device: Any, autocast_ctx: Callable[[], Any] | None = None
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield ``(prediction, target)`` for each batch ``(x, y, ...)`` of a loader."""
    for x, y, *_ in loader:
        with autocast_ctx() if autocast_ctx is not None else contextlib.nullcontext():
            prediction = model(x.to(device))
        yield prediction, y.to(device)


def score_loader(
    model: nn.Module,
    loader: Any,
    device: Any,
    *,
    autocast_ctx: Callable[[], Any] | None = None,
    progress_fn: Callable[[Any], Any] | None = None,
) -> dict[str, float]:
    """Return the metrics of a model over a loader; see ``metrics.compute_final_metrics``."""
    accumulator = MetricAccumulator()
    with evaluating(model):
        batches = loader if progress_fn is None else progress_fn(loader)
        for prediction, y in loader_predictions(model, batches, device, autocast_ctx):
            accumulator.update(prediction, y)
    return accumulator.compute()
