"""What a user passes, seen as a ``WindowSource``: tensors, map-style data, loaders without random access."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sized
from typing import Any, Protocol, cast, runtime_checkable

import torch
from torch.utils.data import Subset

from .._core.errors import DataError, check_channels
from .._core.logging import get_logger
from .._core.seeding import seeded
from .._core.types import Batch, Layout, WindowSource, gather_batch
from .batch_protocol import check_future, split_batch
from .overlap import sampled_starts, tensor_starts
from .shapes import WindowShape, check_shape, selected, window_shape

_LOG = get_logger(__name__)


@runtime_checkable
class HasWindowStarts(Protocol):
    """A dataset that says at which row of its series each of its windows begins.

    ``window_starts`` is int64 ``[len(dataset)]``. Windows that share a row are then never split between the weights
    and the architecture. ``torch.utils.data.Subset`` of such a dataset works too.
    """

    @property
    def window_starts(self) -> torch.Tensor:
        """Row at which each window begins."""
        ...


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
    """Return x ``[B, L, C]``, y ``[B, H, C_out]`` and perhaps x_future ``[B, H, F]`` as float32, without gradients.

    Raises:
        DataError: no pair, or shapes that do not fit; the role is named.
    """
    x, y, future = split_batch(batch, f"{role} data: ")
    window_shape(x, y, None, role)
    if future is not None:
        future = check_future(future, len(x), y.shape[1], f"{role} data: ").detach().to(torch.float32)
    return Batch(x.detach().to(torch.float32), y.detach().to(torch.float32), future)


class TensorStore:
    """Samples that lie in tensors ``[N, ...]``: x, y and perhaps x_future."""

    def __init__(self, tensors: tuple[torch.Tensor, ...], role: str) -> None:
        x, y, future = split_batch(tensors, f"{role} data: ")
        self._tensors = tensors
        self._shape = window_shape(x, y, None, role)
        if future is not None:
            known = check_future(future, len(x), y.shape[1], f"{role} data: ")
            self._shape = self._shape._replace(future_dim=known.shape[2])

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
        return sampled_starts(self.count(), self._pair)

    def _pair(self, indices: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        batch = unpack_batch(self.fetch(indices), self._role)
        return batch.x, batch.y


class SourceStore:
    """Windows of another source."""

    def __init__(self, source: WindowSource) -> None:
        self._source = source

    def count(self) -> int:
        """Return its length."""
        return len(self._source)

    def fetch(self, indices: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        """Gather."""
        batch = gather_batch(self._source, indices)
        return batch.x, batch.y, batch.x_future

    def shape(self) -> None:
        """Return None: how many channels y has is seen when it is read."""
        return

    def starts(self) -> torch.Tensor | None:
        """Return its starts."""
        return self._source.starts


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
            batches = [unpack_batch(batch, self._role) for batch in self._batches]
        if not batches:
            raise DataError(f"{self._role} data: the loader is empty.")
        shapes = {window_shape(b.x, b.y, b.x_future, self._role) for b in batches}
        if len(shapes) > 1:
            found = [tuple(shape) for shape in sorted(shapes)]
            raise DataError(f"{self._role} data: batches have different window sizes (L, H, C, C_out, F): {found}.")
        names = ("x", "y") if batches[0].x_future is None else ("x", "y", "x_future")
        parts = tuple(torch.cat([getattr(batch, name) for batch in batches]) for name in names)
        size = sum(part.numel() * part.element_size() for part in parts) / 2**20
        _LOG.info(
            "%s data has no random access: %d windows read into memory (%.1f MiB).", self._role, len(parts[0]), size
        )
        self._batches = ()
        return TensorStore(parts, self._role)


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
        count = len(cast("Sized", dataset))
        if starts.shape != (count,):
            raise DataError(f"{role} data: window_starts of shape {tuple(starts.shape)} for {count} windows.")
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
        target_channels: channels of x that are forecast; None for all. The store may hold all of them in y anyway.
        expected: sizes that every batch must have; checked on each ``gather``.
    """

    def __init__(
        self,
        store: Store,
        role: str,
        target_channels: tuple[int, ...] | None = None,
        expected: WindowShape | None = None,
    ) -> None:
        self._store = store
        self._role = role
        self.targets = target_channels
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
        if self._probed is None:
            if not len(self):
                raise DataError(f"{self._role} data: the loader is empty.")
            self.gather(torch.zeros(1, dtype=torch.int64, device="cpu"))
        assert self._probed is not None, "gather notes the sizes"
        return self._probed

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

    def layout(self) -> Layout:
        """Return how many covariates a window has, and which channels are forecast."""
        return Layout(self.shape.future_dim, self.targets)

    def gather(self, indices: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return ``x [B, L, C]`` and ``y [B, H, C_out]``, float32; errors as ``gather_batch``."""
        batch = self.gather_batch(indices)
        return batch.x, batch.y

    def gather_batch(self, indices: torch.Tensor) -> Batch:
        """Return the windows at ``indices`` with their covariates, float32.

        Raises:
            DataError: the batch is no pair, has the wrong form, or sizes other than expected.
        """
        if not len(indices):  # a collate function cannot say what no sample looks like
            return self.gather_batch(torch.zeros(1, dtype=torch.int64, device="cpu"))[:0]
        batch = unpack_batch(self._store.fetch(indices), self._role)
        found = window_shape(batch.x, batch.y, batch.x_future, self._role)
        check_channels("target_channels", self.targets or (), found.channels)
        if self._expected is not None:
            check_shape(found, self._expected, self._role)
        y = selected(batch.y, found.channels, self.targets, self._role)
        self._probed = found._replace(outputs=y.shape[2])
        return Batch(batch.x, y, batch.x_future)

    def expecting(self, expected: WindowShape | None, target_channels: tuple[int, ...] | None) -> AdaptedSource:
        """Return a source over the same store that refuses batches of other sizes or with other targets."""
        return AdaptedSource(self._store, self._role, target_channels, expected)

    def subset(self, indices: torch.Tensor) -> AdaptedSource:
        """Return a source of the windows at ``indices`` only, in that order."""
        return AdaptedSource(PickedStore(self._store, indices), self._role, self.targets, self._expected)
