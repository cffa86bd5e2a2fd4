from __future__ import annotations

import pickle

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.data import DataLoader, Subset

from foreblocks.darts._core.errors import DataError, InvalidArgument
from foreblocks.darts._core.types import WindowSource
from foreblocks.darts.data.batches import iter_batches, loader_batch_size
from foreblocks.darts.data.windows import WindowDataset, collate_windows


def series(rows: int = 40, channels: int = 3) -> torch.Tensor:
    return torch.arange(rows * channels, dtype=torch.float32).view(rows, channels)


@settings(max_examples=80, deadline=None)
@given(st.data())
def test_windows_equal_naive_slicing(data: st.DataObject):
    lookback, horizon, stride = (data.draw(st.integers(1, 6)) for _ in range(3))
    rows, channels = data.draw(st.integers(lookback + horizon, 30)), data.draw(st.integers(1, 3))
    first = data.draw(st.integers(0, rows - lookback - horizon))
    last = data.draw(st.integers(first + lookback + horizon, rows))
    values = series(rows, channels)
    windows = WindowDataset(values, lookback, horizon, first=first, last=last, stride=stride)
    naive = [s for s in range(first, last, stride) if s + lookback + horizon <= last]
    assert windows.window_starts.tolist() == naive
    indices = torch.tensor(data.draw(st.lists(st.integers(0, len(naive) - 1), min_size=1, max_size=5)))
    x, y = windows.gather(indices)
    for k, index in enumerate(indices.tolist()):
        start = naive[index]
        assert torch.equal(x[k], values[start : start + lookback])
        assert torch.equal(y[k], values[start + lookback : start + lookback + horizon])
        assert torch.equal(x[k], windows[index][0])
        assert torch.equal(y[k], windows[index][1])


def test_is_a_window_source():
    windows = WindowDataset(series(), 5, 2)
    assert isinstance(windows, WindowSource)
    assert (windows.lookback, windows.horizon, windows.channels, len(windows)) == (5, 2, 3, 34)
    assert windows.starts.dtype == torch.int64
    x, y = windows.gather(torch.tensor([1, 0]))
    assert x.is_contiguous()
    assert y.is_contiguous()
    assert x.dtype == torch.float32


def test_samples_are_views_and_gathered_batches_are_not():
    values = series()
    windows = WindowDataset(values, 5, 2)
    storage = values.untyped_storage().data_ptr()
    assert windows.values.untyped_storage().data_ptr() == storage
    for part in windows[3]:
        assert part.untyped_storage().data_ptr() == storage
    x, _ = windows.gather(torch.tensor([0]))
    x.zero_()
    assert torch.equal(values, series())


def test_last_item_and_end_of_iteration():
    windows = WindowDataset(series(10), 5, 2)
    assert torch.equal(windows[-1][1], series(10)[8:])
    with pytest.raises(IndexError):
        windows[4]
    assert len(list(DataLoader(windows, batch_size=3))) == 2


def test_subset_restricts_and_shares():
    windows = WindowDataset(series(), 5, 2, first=4)
    part = windows.subset([7, 0])
    assert part.window_starts.tolist() == [11, 4]
    assert part.values is windows.values
    assert torch.equal(part.gather(torch.tensor([1]))[0], windows.gather(torch.tensor([0]))[0])
    assert len(windows) == 30


def test_errors_name_the_argument():
    with pytest.raises(DataError, match=r"lookback 30 \+ horizon 11 needs 41 rows, there are 40"):
        WindowDataset(series(), 30, 11)
    with pytest.raises(DataError, match=r"\[rows, channels\]"):
        WindowDataset(series().view(-1), 3, 1)
    for bad in ({"first": -1}, {"last": 41}, {"stride": 0}):
        with pytest.raises(InvalidArgument, match=next(iter(bad))):
            WindowDataset(series(), 3, 1, **bad)
    with pytest.raises(InvalidArgument, match="horizon"):
        WindowDataset(series(), 3, 0)


@pytest.mark.parametrize("collate", [None, collate_windows], ids=["default", "gathered"])
@pytest.mark.parametrize("horizon", [2, 5], ids=["H<L", "H=L"])
def test_any_collate_gives_the_same_batches(collate, horizon: int):
    windows = WindowDataset(series(), 5, horizon)
    for data in (windows, Subset(windows, range(3, 20))):
        direct = list(DataLoader(data, batch_size=4, collate_fn=collate))
        for number, (x, y) in enumerate(direct):
            chosen = range(number * 4, min(number * 4 + 4, len(data)))
            assert torch.equal(x, torch.stack([data[i][0] for i in chosen]))
            assert torch.equal(y, torch.stack([data[i][1] for i in chosen]))
        assert sum(len(x) for x, _ in direct) == len(data)


def test_a_part_of_a_gathered_batch_is_a_sequence_of_samples():
    windows = WindowDataset(series(), 5, 2)
    batch = windows.__getitems__([2, 9, 4, 7])
    part = batch[1:3]
    assert [len(part), len(part[0])] == [2, 2]
    for (x, y), index in zip(part, (9, 4), strict=True):
        assert torch.equal(x, windows[index][0])
        assert torch.equal(y, windows[index][1])


def test_survives_pickling():
    windows = pickle.loads(pickle.dumps(WindowDataset(series(), 5, 2)))
    assert torch.equal(windows[3][0], series()[3:8])


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 50), st.integers(1, 12), st.booleans(), st.none() | st.integers(1, 6))
def test_batches_cover_each_index_once(count: int, size: int, shuffled: bool, limit: int | None):
    generator = torch.Generator().manual_seed(1) if shuffled else None
    batches = list(iter_batches(count, size, generator=generator, max_batches=limit))
    flat = [index for batch in batches for index in batch.tolist()]
    wanted = count if limit is None else min(count, limit * size)
    assert len(flat) == len(set(flat)) == wanted
    assert all(len(batch) == size for batch in batches[:-1])
    assert all(batch.dtype == torch.int64 for batch in batches)
    if not shuffled:
        assert flat == list(range(wanted))


def test_batch_order_is_seeded_and_spreads():
    def draw(seed: int) -> list[int]:
        generator = torch.Generator().manual_seed(seed)
        return torch.cat(list(iter_batches(1000, 8, generator=generator, max_batches=4))).tolist()

    assert draw(0) == draw(0) != draw(1)
    assert max(draw(0)) > 500
    with pytest.raises(InvalidArgument, match="batch_size"):
        iter_batches(3, 0)
    with pytest.raises(InvalidArgument, match="max_batches"):
        iter_batches(3, 1, max_batches=0)


def test_batch_size_of_loaders():
    windows = WindowDataset(series(), 5, 2)
    assert loader_batch_size(DataLoader(windows, batch_size=7)) == 7
    sampler = torch.utils.data.BatchSampler(torch.utils.data.SequentialSampler(windows), 9, drop_last=False)
    assert loader_batch_size(DataLoader(windows, batch_sampler=sampler)) == 9
    assert loader_batch_size(DataLoader(windows, batch_size=None)) == 32
    assert loader_batch_size([], default=5) == 5
