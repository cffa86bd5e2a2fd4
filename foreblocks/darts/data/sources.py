"""Turn whatever holds forecasting windows into a ``WindowSource``, and read batches from it."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import chain
from typing import Any

import torch
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    Dataset,
    IterableDataset,
    RandomSampler,
    SequentialSampler,
    Subset,
    SubsetRandomSampler,
    TensorDataset,
    WeightedRandomSampler,
    default_collate,
)

from .._core.errors import DataError
from .._core.logging import get_logger, log_once
from .._core.seeding import seeded
from .._core.types import Batch, Layout, WindowSource, gather_batch, layout_of
from .adapters import (
    AdaptedSource,
    MapStore,
    PickedStore,
    SourceStore,
    Store,
    StreamStore,
    TensorStore,
)
from .batches import iter_batches, loader_batch_size
from .shapes import WindowShape, check_shape
from .windows import WindowDataset, collate_windows, split_channels

__all__ = [
    "as_source",
    "check_source",
    "check_sources",
    "iter_batches",
    "loader_batch_size",
    "read_batch",
]

_LOG = get_logger(__name__)
_PLAIN_COLLATES = (default_collate, collate_windows)
_STREAM_BATCH = 32


def as_source(data: Any, *, role: str, target_channels: Sequence[int] | None = None) -> WindowSource:
    """Return random access to the windows of ``data``.

    Fast paths: ``WindowDataset``, ``TensorDataset(x, y)`` (or x, y, x_future) and ``Subset`` of either, with the
    default collate function. Any other map-style dataset is fetched sample by sample through its loader's collate
    function, in this process. Data without random access (an iterable dataset, batching switched off, any iterable of
    batches) are read into memory once, when first used. The order of the loader is not kept except for a sampler of the
    user's own, whose indices are taken once; ``drop_last`` is ignored. Both are said once.

    Test data are not read here: their form is checked when they are first gathered.

    Args:
        data: a ``DataLoader``, ``Dataset``, ``WindowSource`` or iterable of ``(x, y)`` or ``(x, y, x_future)``
            batches, with x ``[B, L, C]``, y ``[B, H, C]`` and x_future ``[B, H, F]`` (without B for the samples of a
            dataset). The third may also be a mapping, as in ``unpack_forecasting_batch``.
        role: ``"train"``, ``"val"`` or ``"test"``.
        target_channels: channels of x to forecast, of which y holds only these or all; None means all, or what a
            ``WindowDataset`` says.

    Raises:
        DataError: nothing that holds windows, no window in it, or (unless it is the test data) a batch of wrong form.
        InvalidArgument: a channel is not in x, or twice in the list.
    """
    source = _adapted(data, role)
    if target_channels is not None:
        source = _forecasting(source, target_channels, role)
    _check_filled(source, role)
    return source


def _adapted(data: Any, role: str) -> WindowSource:
    if isinstance(data, (AdaptedSource, WindowDataset)):
        source: WindowSource = data
    elif isinstance(data, DataLoader):
        source = _from_loader(data, role)
    elif isinstance(data, WindowSource):
        source = data
    elif isinstance(data, Dataset) and not isinstance(data, IterableDataset):
        source = _from_dataset(data, default_collate, None, role)
    elif isinstance(data, IterableDataset):
        source = AdaptedSource(StreamStore(DataLoader(data, batch_size=_STREAM_BATCH), role), role)
    elif isinstance(data, Iterable) and not isinstance(data, (torch.Tensor, str, bytes)):
        source = AdaptedSource(StreamStore(data, role), role)
    else:
        raise DataError(
            f"{role} data: expected a DataLoader, a Dataset or batches of (x, y), got {type(data).__name__}."
        )
    return source


def _forecasting(source: WindowSource, targets: Sequence[int], role: str) -> WindowSource:
    """Return the source with other targets than it has by itself."""
    if isinstance(source, AdaptedSource):
        return source.expecting(None, tuple(targets))
    if not isinstance(source, WindowDataset):
        return AdaptedSource(SourceStore(source), role, tuple(targets))
    unsaid, _ = split_channels(None, source.future_channels, source.channels)
    own = source.target_channels
    if own is not None and own not in (unsaid, tuple(targets)):
        raise DataError(
            f"{role} data: the windows forecast the channels {list(own)}, but "
            f"target_channels={list(targets)} was asked for."
        )
    return source.forecasting(targets)


def check_source(
    source: WindowSource,
    *,
    role: str,
    input_dim: int,
    seq_length: int,
    horizon: int,
    future_dim: int | None = None,
) -> WindowSource:
    """Return ``source`` after comparing its window sizes with those that a model is built for.

    Test data whose sizes are not known without reading come back as a source that checks every batch it gathers.

    Args:
        source: from ``as_source``.
        role: ``"train"``, ``"val"`` or ``"test"``.
        input_dim: number of channels C.
        seq_length: lookback L.
        horizon: H.
        future_dim: number of covariates F; None allows any.

    Raises:
        DataError: it is empty, or a size differs; the role, the size and the argument are named.
    """
    _check_filled(source, role)
    expected = WindowShape(seq_length, horizon, input_dim, 0, future_dim)
    if isinstance(source, AdaptedSource):
        source = source.expecting(expected, source.targets)
        if role == "test" and source.is_lazy:
            return source
    found = WindowShape(source.lookback, source.horizon, source.channels, 0, layout_of(source).future_dim)
    check_shape(found, expected, role)
    return source


def check_sources(
    loaders: Mapping[str, Any], *, input_dim: int, seq_length: int, horizon: int, layout: Layout
) -> list[WindowSource]:
    """Return the window sources of loaders that one model reads.

    Args:
        loaders: role → what ``as_source`` takes, the training data first.
        input_dim: number of channels C.
        seq_length: lookback L.
        horizon: H.
        layout: covariates and target channels; None for either takes what the first loader has, and the others must
            agree with it.

    Raises:
        DataError, InvalidArgument: as ``as_source`` and ``check_source``.
    """
    _warn_of_mixed_rows(loaders)
    sources: list[WindowSource] = []
    future, targets = layout
    for role, loader in loaders.items():
        source = check_source(
            as_source(loader, role=role, target_channels=targets), role=role, input_dim=input_dim,
            seq_length=seq_length, horizon=horizon, future_dim=future,
        )  # fmt: skip
        if not sources:
            first = layout_of(source)
            future = first.future_dim
            # Said aloud even if they are all, so that a later loader with other targets of its own is refused.
            targets = first.target_channels or tuple(range(input_dim))
        sources.append(source)
    return sources


def _warn_of_mixed_rows(loaders: Mapping[str, Any]) -> None:
    """Say it when parts of one dataset lie among each other, as ``random_split`` makes them."""
    found: list[tuple[str, Any, int, int]] = []
    for role, loader in loaders.items():
        base, indices = _unwrap(loader.dataset if isinstance(loader, DataLoader) else loader)
        if indices is None or not len(indices):
            continue
        first, last = int(indices.min()), int(indices.max())
        for other, same, start, end in found:
            if same is base and first <= end and start <= last:
                log_once(
                    _LOG,
                    logging.WARNING,
                    f"{role} data (windows {first} to {last}) and {other} data (windows {start} to {end}) lie among "
                    "each other in one dataset. If its windows overlap, as those of one series do, one holds what "
                    "the other forecasts, and every score is too good: split by blocks of time, such as "
                    "Subset(dataset, range(0, n)) and Subset(dataset, range(n + lookback + horizon, ...)).",
                )
        found.append((role, base, first, last))


def read_batch(source: WindowSource, indices: torch.Tensor, *, role: str, batch: int) -> Batch:
    """Gather a batch with its covariates and make sure that it is finite.

    Args:
        source: where the windows are.
        indices: int64 ``[B]``.
        role: what the data are for, for the message.
        batch: number of the batch, for the message.

    Raises:
        DataError: a NaN or infinite value; batch, window, channel and step of the first one are named.
    """
    read = gather_batch(source, indices)
    total = read.x.sum() + read.y.sum()
    if read.x_future is not None:
        total = total + read.x_future.sum()
    if bool(torch.isfinite(total)):  # one pass; a sum that overflows is looked at again
        return read
    names = source.names if isinstance(source, WindowDataset) else None
    for name in ("x", "y", "x_future"):
        part = getattr(read, name)
        if part is None:
            continue
        bad = torch.nonzero(~torch.isfinite(part))
        if len(bad):
            sample, step, channel = bad[0].tolist()
            named = f" ({names[channel]!r})" if names is not None and part.shape[2] == len(names) else ""
            raise DataError(
                f"{role} data, batch {batch}: window {int(indices[sample])} has {part[sample, step, channel].item()} "
                f"in {name}, channel {channel}{named}, step {step}."
            )
    return read


def _check_filled(source: WindowSource, role: str) -> None:
    """Refuse empty data; test data of unknown form are only asked for their length, streams not even that."""
    lazy = isinstance(source, AdaptedSource) and source.is_lazy and role == "test"
    if lazy and isinstance(source, AdaptedSource) and source.is_stream:
        return
    if not len(source):
        raise DataError(f"{role} data: the loader is empty.")
    if isinstance(source, AdaptedSource) and not lazy:
        source.shape  # noqa: B018 - reads one sample, so that a wrong form is found now


def _from_loader(loader: DataLoader[Any], role: str) -> AdaptedSource | WindowDataset:
    dataset = loader.dataset
    unbatched = loader.batch_sampler is None
    if isinstance(dataset, IterableDataset) or unbatched:
        if loader.drop_last:
            log_once(_LOG, logging.INFO, f"{role} loader: drop_last=True on iterable data: its last batch is lost.")
        return AdaptedSource(StreamStore(loader, role), role)
    own_sampler = loader.batch_size is None
    batch_sampler = loader.batch_sampler
    sampler: Any = batch_sampler if own_sampler else loader.sampler
    drops = loader.drop_last
    if own_sampler and type(batch_sampler) is BatchSampler:
        sampler, drops = batch_sampler.sampler, batch_sampler.drop_last
    if drops:
        log_once(_LOG, logging.INFO, f"{role} loader: drop_last=True is ignored; no window is dropped.")
    return _from_dataset(dataset, loader.collate_fn, _sampled(sampler, sampler is batch_sampler, dataset, role), role)


def _sampled(sampler: Any, in_batches: bool, dataset: Any, role: str) -> torch.Tensor | None:
    """Return the indices of a sampler of the user's own; None when it visits each sample once anyway."""
    if type(sampler) is SequentialSampler:
        return None
    if type(sampler) is RandomSampler and not sampler.replacement and sampler.num_samples == len(dataset):
        return None
    log_once(
        _LOG,
        logging.INFO,
        f"{role} loader: the indices of {type(sampler).__name__} are taken once; each epoch orders them anew.",
    )
    with seeded("sampler", role), _as_it_was(sampler):
        drawn = chain.from_iterable(sampler) if in_batches else sampler
        return torch.tensor(list(drawn), dtype=torch.int64)


@contextmanager
def _as_it_was(sampler: Any) -> Iterator[None]:
    """Give the generator of a sampler its state back, so that the next search draws the same windows."""
    drawing = isinstance(sampler, (RandomSampler, WeightedRandomSampler, SubsetRandomSampler))
    generator = sampler.generator if drawing else None
    state = None if generator is None else generator.get_state()
    try:
        yield
    finally:
        if generator is not None:
            generator.set_state(state)


def _from_dataset(dataset: Any, collate: Any, picked: torch.Tensor | None, role: str) -> AdaptedSource | WindowDataset:
    base, indices = _unwrap(dataset)
    if picked is not None and indices is not None:
        indices = indices[picked]
    elif picked is not None:
        indices = picked
    plain = any(collate is known for known in _PLAIN_COLLATES)
    if plain and type(base) is WindowDataset:
        return base if indices is None else base.subset(indices)
    if plain and type(base) is TensorDataset:
        store: Store = TensorStore(base.tensors, role)
        return AdaptedSource(store if indices is None else PickedStore(store, indices), role)
    store = MapStore(dataset, collate, role)
    return AdaptedSource(store if picked is None else PickedStore(store, picked), role)


def _unwrap(dataset: Any) -> tuple[Any, torch.Tensor | None]:
    """Return what nested ``Subset`` wrappers restrict, and the indices that they leave."""
    indices: torch.Tensor | None = None
    while type(dataset) is Subset:
        outer = torch.as_tensor(dataset.indices, dtype=torch.int64)
        indices = outer if indices is None else outer[indices]
        dataset = dataset.dataset
    return dataset, indices
