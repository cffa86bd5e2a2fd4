"""What a user passes, seen as a ``WindowSource``: tensors, map-style data, loaders without random access."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple, Protocol, runtime_checkable

import torch
from torch.utils.data import Subset

from .._core.errors import DataError
from .._core.logging import get_logger, log_once
from .._core.seeding import seeded
from .overlap import sampled_starts, tensor_starts

_LOG = get_logger(__name__)
Batch = tuple[torch.Tensor, torch.Tensor]


@runtime_checkable
class HasWindowStarts(Protocol):
    """A dataset that says at which row of its series each of its windows begins.

    ``window_starts`` is int64 ``[len(dataset)]``. Windows that share a row are then never split between the weights
    and the architecture. ``torch.utils.data.Subset`` of such a dataset works too.
    """

    window_starts: torch.Tensor


class WindowShape(NamedTuple):
    """Sizes of a window: L past steps, H future steps, C channels."""

    lookback: int
    horizon: int
    channels: int


class Store(Protocol):
    """Where an ``AdaptedSource`` takes its samples from."""

    def count(self) -> int:
        """Return the number of samples."""
        ...

    def fetch(self, indices: torch.Tensor) -> Any:
        """Return the collated batch of the samples at ``indices`` (int64 ``[B]``)."""
        ...

    def shape(self) -> WindowShape | None:
        """Return the window sizes if they are known without reading data."""
        ...

    def starts(self) -> torch.Tensor | None:
        """Return the row at which each sample begins, or None for independent samples."""
        ...


def unpack_batch(batch: Any, role: str) -> Batch:
    """Return x ``[B, L, C]`` and y ``[B, H, C]`` as float32.

    Raises:
        DataError: no pair, or shapes that do not fit; the role is named.
    """
    if not isinstance(batch, (tuple, list)) or len(batch) < 2:
        got = f"{len(batch)} item(s)" if isinstance(batch, (tuple, list)) else type(batch).__name__
        raise DataError(f"{role} data: a batch must be a pair (x, y), got {got}.")
    if len(batch) > 2:
        log_once(_LOG, logging.WARNING, f"{role} data: batches have {len(batch)} items; x_future is ignored for now.")
    x, y = (torch.as_tensor(item).to(torch.float32) for item in batch[:2])
    window_shape(x.shape, y.shape, role)
    return x, y


def window_shape(x: torch.Size, y: torch.Size, role: str) -> WindowShape:
    """Return the window sizes of a batch from the shapes of its x and y.

    Raises:
        DataError: not three dimensions each, different batch sizes, an empty window, or different channel counts.
    """
    for part, name, sizes in ((x, "x", "[B, L, C]"), (y, "y", "[B, H, C]")):
        if len(part) != 3:
            raise DataError(f"{role} data: {name} must be {sizes}, got shape {tuple(part)}.")
        if min(part[1:]) < 1:
            raise DataError(f"{role} data: {name} of shape {tuple(part)} has an empty time or channel dimension.")
    if x[0] != y[0]:
        raise DataError(f"{role} data: x holds {x[0]} samples and y {y[0]}.")
    if x[2] != y[2]:
        raise DataError(f"{role} data: y has {y[2]} channel(s) but x has {x[2]}; every channel is forecast.")
    return WindowShape(x[1], y[1], x[2])


def check_shape(found: WindowShape, expected: WindowShape, role: str) -> None:
    """Raise ``DataError`` naming the first size that is not as expected."""
    named = (("channels", "input_dim"), ("lookback", "seq_length"), ("horizon", "forecast_horizon"))
    for field, argument in named:
        got, wanted = found._asdict()[field], expected._asdict()[field]
        if got != wanted:
            raise DataError(f"{role} data: windows have {field}={got}, but {argument}={wanted} was asked for.")


class TensorStore:
    """Samples that lie in tensors ``[N, ...]``, the first two being x and y."""

    def __init__(self, tensors: tuple[torch.Tensor, ...], role: str) -> None:
        if len(tensors) < 2:
            raise DataError(f"{role} data: a batch must be a pair (x, y), got {len(tensors)} tensor(s).")
        self._tensors = tensors
        self._shape = window_shape(tensors[0].shape, tensors[1].shape, role)

    def count(self) -> int:
        """Return N."""
        return len(self._tensors[0])

    def fetch(self, indices: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Index every tensor at once."""
        return tuple(tensor[indices.to(tensor.device)] for tensor in self._tensors)

    def shape(self) -> WindowShape:
        """Return the sizes that the tensors have."""
        return self._shape

    def starts(self) -> torch.Tensor | None:
        """Detect stride-1 windows."""
        return tensor_starts(self._tensors[0], self._tensors[1])


class MapStore:
    """Samples of any map-style dataset, fetched one by one and collated as its loader would."""

    def __init__(self, dataset: Any, collate: Callable[[list[Any]], Any], role: str) -> None:
        self._dataset = dataset
        self._collate = collate
        self._role = role

    def count(self) -> int:
        """Return the length that the dataset gives."""
        return len(self._dataset)

    def fetch(self, indices: torch.Tensor) -> Any:
        """Fetch and collate."""
        return self._collate([self._dataset[index] for index in indices.tolist()])

    def shape(self) -> None:
        """Return None: a sample must be read to know."""
        return

    def starts(self) -> torch.Tensor | None:
        """Take ``window_starts`` where the dataset has it, else look for overlap on a few pairs."""
        declared = declared_starts(self._dataset, self._role)
        if declared is not None:
            return declared
        return sampled_starts(self.count(), lambda indices: unpack_batch(self.fetch(indices), self._role))


class StreamStore:
    """Samples of an iterable of batches, read into memory in one pass when they are first needed."""

    def __init__(self, batches: Iterable[Any], role: str) -> None:
        self._batches = batches
        self._role = role
        self._read: TensorStore | None = None

    def count(self) -> int:
        """Read everything, then count."""
        return self._loaded().count()

    def fetch(self, indices: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Index the tensors read."""
        return self._loaded().fetch(indices)

    def shape(self) -> WindowShape | None:
        """Return the sizes once the batches have been read."""
        return self._read.shape() if self._read is not None else None

    def starts(self) -> torch.Tensor | None:
        """Detect stride-1 windows in the tensors read."""
        return self._loaded().starts()

    def _loaded(self) -> TensorStore:
        if self._read is None:
            self._read = self._load()
        return self._read

    def _load(self) -> TensorStore:
        with seeded("stream", self._role):  # a loader draws from torch's global generator: give it back untouched
            pairs = [unpack_batch(batch, self._role) for batch in self._batches]
        if not pairs:
            raise DataError(f"{self._role} data: the loader is empty.")
        shapes = {window_shape(x.shape, y.shape, self._role) for x, y in pairs}
        if len(shapes) > 1:
            raise DataError(f"{self._role} data: batches have different window sizes: {sorted(shapes)}.")
        x, y = (torch.cat(parts) for parts in zip(*pairs, strict=True))
        size = (x.numel() + y.numel()) * x.element_size() / 2**20
        _LOG.info("%s data has no random access: %d windows read into memory (%.1f MiB).", self._role, len(x), size)
        self._batches = ()
        return TensorStore((x, y), self._role)


class PickedStore:
    """Some samples of another store, in a given order."""

    def __init__(self, store: Store, indices: torch.Tensor) -> None:
        self._store = store
        self._indices = indices

    def count(self) -> int:
        """Return how many were picked."""
        return len(self._indices)

    def fetch(self, indices: torch.Tensor) -> Any:
        """Fetch from the store below."""
        return self._store.fetch(self._indices[indices])

    def shape(self) -> WindowShape | None:
        """Return the sizes of the store below."""
        return self._store.shape()

    def starts(self) -> torch.Tensor | None:
        """Return the starts of the picked samples."""
        below = self._store.starts()
        return None if below is None else below[self._indices]


def declared_starts(dataset: Any, role: str) -> torch.Tensor | None:
    """Return ``window_starts`` of a dataset or of what a ``Subset`` restricts; None if nothing declares it.

    Raises:
        DataError: its length is not that of the dataset.
    """
    if isinstance(dataset, HasWindowStarts):
        starts = torch.as_tensor(dataset.window_starts).to(torch.int64)
        if starts.shape != (len(dataset),):
            raise DataError(f"{role} data: window_starts of shape {tuple(starts.shape)} for {len(dataset)} windows.")
        return starts
    if isinstance(dataset, Subset):
        below = declared_starts(dataset.dataset, role)
        return None if below is None else below[torch.as_tensor(dataset.indices, dtype=torch.int64)]
    return None


class AdaptedSource:
    """A ``WindowSource`` over a store; nothing is read before it is asked for.

    Args:
        store: where the samples are.
        role: ``"train"``, ``"val"`` or ``"test"``, for messages.
        expected: sizes that every batch must have; checked on each ``gather``.
    """

    def __init__(self, store: Store, role: str, expected: WindowShape | None = None) -> None:
        self._store = store
        self._role = role
        self._expected = expected
        self._probed: WindowShape | None = None
        self._starts: tuple[torch.Tensor | None] | None = None

    @property
    def is_lazy(self) -> bool:
        """Whether the window sizes can only be known by reading data."""
        return self._probed is None and self._store.shape() is None

    @property
    def is_stream(self) -> bool:
        """Whether even counting the windows means reading them."""
        return isinstance(self._store, StreamStore) and self.is_lazy

    @property
    def shape(self) -> WindowShape:
        """Window sizes; reads the first sample if they are not known yet.

        Raises:
            DataError: there is no sample, or it does not have the right form.
        """
        known = self._probed or self._store.shape()
        if known is None:
            if not len(self):
                raise DataError(f"{self._role} data: the loader is empty.")
            x, y = self.gather(torch.zeros(1, dtype=torch.int64))
            known = window_shape(x.shape, y.shape, self._role)
        return known

    @property
    def lookback(self) -> int:
        """L."""
        return self.shape.lookback

    @property
    def horizon(self) -> int:
        """H."""
        return self.shape.horizon

    @property
    def channels(self) -> int:
        """C."""
        return self.shape.channels

    @property
    def starts(self) -> torch.Tensor | None:
        """Row at which each window begins, int64 ``[len]``; None when the samples are independent. Found out once."""
        if self._starts is None:
            self._starts = (self._store.starts(),)
        return self._starts[0]

    def __len__(self) -> int:
        """Return the number of windows."""
        return self._store.count()

    def gather(self, indices: torch.Tensor) -> Batch:
        """Return ``x [B, L, C]`` and ``y [B, H, C]``, float32.

        Raises:
            DataError: the batch is no pair, has the wrong form, or sizes other than expected.
        """
        x, y = unpack_batch(self._store.fetch(indices), self._role)
        found = window_shape(x.shape, y.shape, self._role)
        if self._expected is not None:
            check_shape(found, self._expected, self._role)
        self._probed = found
        return x, y

    def expecting(self, expected: WindowShape) -> AdaptedSource:
        """Return a source over the same store that refuses batches of other sizes."""
        return AdaptedSource(self._store, self._role, expected)

    def subset(self, indices: torch.Tensor) -> AdaptedSource:
        """Return a source of the windows at ``indices`` only, in that order."""
        return AdaptedSource(PickedStore(self._store, indices), self._role, self._expected)
