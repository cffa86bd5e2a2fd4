"""Order of windows within an epoch, and the batch size of a loader."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch.utils.data import BatchSampler, DataLoader

from .._core.errors import check_int

EVAL_BATCH = 256  # windows in a forward pass without gradients: changes speed and memory only


def iter_batches(
    count: int, batch_size: int, *, generator: torch.Generator | None = None, max_batches: int | None = None
) -> Iterator[torch.Tensor]:
    """Yield int64 index tensors ``[<= batch_size]`` over ``range(count)``; the last one may be short, none is dropped.

    With ``generator`` the order is a random permutation, and ``max_batches`` then takes a random subset without
    replacement (never an even stride, which would alias with the day). Without it the order is sequential and
    ``max_batches`` takes the first ones.

    Raises:
        InvalidArgument: ``count`` is negative, or ``batch_size`` or ``max_batches`` is below 1.
    """
    check_int("count", count, low=0)
    check_int("batch_size", batch_size, low=1)
    limit = count
    if max_batches is not None:
        limit = min(count, check_int("max_batches", max_batches, low=1) * batch_size)
    if generator is None:
        order = torch.arange(limit, device="cpu")
    else:
        order = torch.randperm(count, generator=generator, device="cpu")[:limit]
    return iter(order.split(batch_size) if limit else ())


def count_batches(count: int, batch_size: int, max_batches: int | None = None) -> int:
    """Return how many batches ``iter_batches`` yields."""
    batches = -(-count // batch_size)
    return batches if max_batches is None else min(batches, max_batches)


def loader_batch_size(loader: Any, default: int = 32) -> int:
    """Return the batch size of a ``DataLoader`` (or of its ``BatchSampler``), else ``default``."""
    if not isinstance(loader, DataLoader):
        return default
    if loader.batch_size is not None:
        return loader.batch_size
    if isinstance(loader.batch_sampler, BatchSampler):
        return loader.batch_sampler.batch_size
    return default
