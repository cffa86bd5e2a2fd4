from __future__ import annotations

import logging

import pytest
import torch
from torch.utils.data import (
    BatchSampler,
    ConcatDataset,
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
    random_split,
)

from foreblocks.darts._core import logging as core_logging
from foreblocks.darts._core.errors import DataError
from foreblocks.darts._core.types import Layout, WindowSource
from foreblocks.darts.data.sources import as_source, check_source, check_sources, read_batch
from foreblocks.darts.data.windows import WindowDataset

L, H, C, ROWS = 6, 3, 2, 40
SIZES = {"input_dim": C, "seq_length": L, "horizon": H}


@pytest.fixture(autouse=True)
def _said_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(core_logging, "_said", set())


def windows(rows: int = ROWS, seed: int = 0) -> WindowDataset:
    return WindowDataset(torch.randn(rows, C, generator=torch.Generator().manual_seed(seed)), L, H)


def tensors(data: WindowDataset | None = None) -> TensorDataset:
    data = data or windows()
    return TensorDataset(*data.gather(torch.arange(len(data))))


def test_complex_numbers_are_refused_and_gradients_left():
    plain = tensors()
    x, y = plain.tensors
    with pytest.raises(DataError, match=r"train data: x of a batch is torch.complex64; only real numbers"):
        as_source(TensorDataset(x.cfloat(), y), role="train")
    source = as_source(TensorDataset(x.clone().requires_grad_(), y), role="train")
    assert not source.gather(torch.arange(2))[0].requires_grad


class Counting(Dataset):
    """A map-style data set of the user's own that counts what is read."""

    def __init__(self) -> None:
        self.data = windows()
        self.reads = 0

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, index: int):
        self.reads += 1
        return self.data[index]


class Declaring(Counting):
    @property
    def window_starts(self) -> torch.Tensor:
        return torch.arange(len(self)) * 10


class Stream(IterableDataset):
    def __init__(self) -> None:
        self.passes = 0

    def __iter__(self):
        self.passes += 1
        return iter([windows()[i] for i in range(len(windows()))])


def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


KINDS = {
    "windows": windows,
    "loader": lambda: DataLoader(windows(), batch_size=4),
    "shuffled": lambda: DataLoader(windows(), batch_size=4, shuffle=True, generator=generator()),
    "drop_last": lambda: DataLoader(windows(), batch_size=5, drop_last=True),
    "tensors": tensors,
    "tensor loader": lambda: DataLoader(tensors(), batch_size=4, shuffle=True),
    "own": Counting,
    "own loader": lambda: DataLoader(Counting(), batch_size=4),
    "own collate": lambda: DataLoader(windows(), batch_size=4, collate_fn=lambda batch: default_collate(list(batch))),
    "list": lambda: DataLoader([windows()[i] for i in range(len(windows()))], batch_size=4),
    "stream": Stream,
    "stream loader": lambda: DataLoader(Stream(), batch_size=4),
    "plain batches": lambda: list(DataLoader(tensors(), batch_size=4)),
    "generator": lambda: (batch for batch in DataLoader(tensors(), batch_size=4)),
    "no batching": lambda: DataLoader(list(DataLoader(tensors(), batch_size=4)), batch_size=None),
    "batch sampler": lambda: DataLoader(windows(), batch_sampler=BatchSampler(SequentialSampler(windows()), 4, True)),
    "numpy collate": lambda: DataLoader(
        windows(), batch_size=4, collate_fn=lambda b: tuple(p.numpy() for p in default_collate(list(b)))
    ),
}


@pytest.mark.parametrize("role", ["train", "test"])
@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_gives_the_same_windows(kind: str, role: str):
    source = check_source(as_source(KINDS[kind](), role=role), role=role, **SIZES)
    expected = windows()
    assert len(source) == len(expected)
    indices = torch.tensor([5, 0, len(expected) - 1, 5])
    for got, wanted in zip(source.gather(indices), expected.gather(indices), strict=True):
        assert torch.equal(got, wanted)
        assert got.dtype == torch.float32
    assert (source.lookback, source.horizon, source.channels) == (L, H, C)
    assert source.starts.tolist() == list(range(len(expected)))
    assert isinstance(source, WindowSource)


def test_fast_paths_keep_the_window_data_set():
    data = windows()
    assert as_source(data, role="train") is data
    assert as_source(DataLoader(data, batch_size=2, shuffle=True), role="train") is data
    part = as_source(DataLoader(Subset(Subset(data, range(4, 20)), [3, 1]), batch_size=2), role="train")
    assert type(part) is WindowDataset
    assert part.window_starts.tolist() == [7, 5]
    assert part.values is data.values


def test_subsets_of_other_data_restrict():
    base = tensors()
    indices = torch.tensor([0, 1])
    for dataset in (base, Counting(), Declaring()):
        source = as_source(DataLoader(Subset(dataset, [9, 2, 4]), batch_size=2), role="train")
        assert len(source) == 3
        assert torch.equal(source.gather(indices)[0], base.tensors[0][[9, 2]])
    assert source.starts.tolist() == [90, 20, 40]
    assert as_source(Subset(base, [9, 2, 4]), role="train").starts.tolist() == [9, 2, 4]
    assert as_source(Subset(base, [9, 2, 4]), role="train").subset(torch.tensor([2])).starts.tolist() == [4]


def test_wrong_length_of_declared_starts():
    class Wrong(Counting):
        window_starts = torch.arange(3)

    with pytest.raises(DataError, match=r"train data: window_starts of shape \(3,\)"):
        _ = as_source(Wrong(), role="train").starts


@pytest.mark.parametrize(
    "loader",
    [
        lambda d: DataLoader(d, batch_size=2, sampler=SubsetRandomSampler([8, 3, 5])),
        lambda d: DataLoader(d, batch_sampler=[[8, 3], [5]]),
        lambda d: DataLoader(d, batch_sampler=BatchSampler(SubsetRandomSampler([8, 3, 5]), 2, drop_last=True)),
    ],
)
@pytest.mark.parametrize("dataset", [windows, tensors, Counting])
def test_own_samplers_are_taken_once(loader, dataset, caplog: pytest.LogCaptureFixture):
    state = torch.get_rng_state()
    with caplog.at_level(logging.INFO):
        source = as_source(loader(dataset()), role="train")
    assert torch.equal(torch.get_rng_state(), state)
    assert sorted(source.starts.tolist()) == [3, 5, 8]
    assert len(source.gather(torch.arange(3))[0]) == 3
    assert sum("taken once" in record.getMessage() for record in caplog.records) == 1


def test_random_sampler_that_draws_otherwise_counts_as_own():
    data = windows()
    few = DataLoader(data, batch_size=2, sampler=RandomSampler(data, num_samples=5))
    assert len(as_source(few, role="train")) == 5
    weighted = DataLoader(data, batch_size=2, sampler=WeightedRandomSampler([1.0] + [0.0] * 9, 4))
    assert as_source(weighted, role="train").starts.tolist() == [0, 0, 0, 0]


@pytest.mark.parametrize(
    "sampler",
    [
        lambda d, g: RandomSampler(d, replacement=True, generator=g),
        lambda d, g: WeightedRandomSampler([1.0] * len(d), len(d), generator=g),
        lambda d, g: SubsetRandomSampler(range(len(d)), generator=g),
    ],
)
def test_a_loader_gives_the_same_windows_to_the_next_search(sampler):
    draws = torch.Generator().manual_seed(3)
    data, state = windows(), draws.get_state()
    loader = DataLoader(data, batch_size=2, sampler=sampler(data, draws))
    first, second = (as_source(loader, role="train").starts.tolist() for _ in range(2))
    assert first == second
    assert torch.equal(draws.get_state(), state)


def test_drop_last_is_ignored_and_said_once(caplog: pytest.LogCaptureFixture):
    with caplog.at_level(logging.INFO):
        for _ in range(2):
            assert len(as_source(DataLoader(windows(), batch_size=30, drop_last=True), role="val")) == len(windows())
    assert [r.getMessage() for r in caplog.records] == ["val loader: drop_last=True is ignored; no window is dropped."]


def test_streams_are_read_once_and_leave_the_global_seed(caplog: pytest.LogCaptureFixture):
    stream, state = Stream(), torch.get_rng_state()
    with caplog.at_level(logging.INFO):
        source = as_source(DataLoader(stream, batch_size=4), role="train")
        for _ in range(2):
            source.gather(torch.arange(len(source)))
    assert stream.passes == 1
    assert torch.equal(torch.get_rng_state(), state)
    assert sum("read into memory" in record.getMessage() for record in caplog.records) == 1


@pytest.mark.parametrize("shuffle", [None, False, True])
def test_test_data_are_not_read_before_they_are_gathered(shuffle: bool | None):
    data = Counting()
    loader = data if shuffle is None else DataLoader(data, batch_size=4, shuffle=shuffle)
    source = check_source(as_source(loader, role="test"), role="test", **SIZES)
    assert len(source) == len(data)
    assert data.reads == 0
    source.gather(torch.arange(3))
    assert data.reads == 3


@pytest.mark.parametrize("wrap", [lambda stream: stream, lambda stream: DataLoader(stream, batch_size=4)])
def test_test_streams_are_not_even_counted(wrap):
    stream = Stream()
    source = check_source(as_source(wrap(stream), role="test"), role="test", **SIZES)
    assert stream.passes == 0
    assert len(source) == len(windows())
    assert stream.passes == 1


def test_sizes_of_lazy_test_data_are_checked_when_gathered():
    source = check_source(as_source(Counting(), role="test"), role="test", input_dim=C, seq_length=L, horizon=H + 1)
    with pytest.raises(DataError, match=r"test data: windows have horizon=3, but forecast_horizon=4"):
        source.gather(torch.tensor([0]))
    with pytest.raises(DataError, match="horizon=3"):
        check_source(as_source(windows(), role="test"), role="test", input_dim=C, seq_length=L, horizon=H + 1)


@pytest.mark.parametrize("data", [windows, tensors, Counting, Stream])
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"input_dim": 7}, "channels=2, but input_dim=7"),
        ({"seq_length": 5}, "lookback=6, but seq_length=5"),
        ({"horizon": 1}, "horizon=3, but forecast_horizon=1"),
    ],
)
def test_sizes_of_training_data_are_checked_at_once(data, change: dict, message: str):
    with pytest.raises(DataError, match=f"val data: windows have {message}"):
        check_source(as_source(data(), role="val"), role="val", **{**SIZES, **change})


X, Y = torch.zeros(5, L, C), torch.zeros(5, H, C)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (None, "expected a DataLoader"),
        (X, "expected a DataLoader"),
        (DataLoader([]), "empty"),
        ([], "empty"),
        (windows().subset([]), "empty"),
        (DataLoader(Subset(windows(), [])), "empty"),
        (TensorDataset(X), "pair"),
        (DataLoader(X, batch_size=2), "pair"),
        (DataLoader([{"x": X[0], "y": Y[0]}] * 3), "pair.*dict"),
        (TensorDataset(X[..., 0], Y), r"x must be \[B, L, C\], got shape \(5, 6\)"),
        (TensorDataset(X, Y[..., 0]), r"y must be \[B, H, C\], got shape \(5, 3\)"),
        (TensorDataset(X, Y[..., :1]), r"y has 1 channel\(s\) but x has 2"),
        (TensorDataset(X[:, :0], Y), "empty time or channel"),
        ([(X, Y[:3])], "x holds 5 samples and y 3"),
        ([(X, Y), (X[:, 1:], Y)], "different window sizes"),
        ([X, Y], "pair"),
    ],
)
def test_bad_data_name_the_role(data, message: str):
    with pytest.raises(DataError, match=f"^val data: .*{message}"):
        as_source(data, role="val")


def test_steps_of_x_future_beyond_the_horizon_are_cut_off_with_one_warning(caplog: pytest.LogCaptureFixture):
    longer = torch.randn(5, H + 2, 4, generator=generator())
    source = as_source(DataLoader(TensorDataset(X, Y, longer), batch_size=2), role="train")
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            batch = source.gather_batch(torch.arange(2))
    assert torch.equal(batch.x_future, longer[:2, :H])
    assert sum("x_future" in record.getMessage() for record in caplog.records) == 1


def test_detection_of_starts():
    whole = tensors()
    order = torch.randperm(len(whole), generator=generator())
    x, y = whole.tensors
    assert as_source(TensorDataset(x[order], y[order]), role="train").starts is None
    assert as_source(TensorDataset(x[::2], y[::2]), role="train").starts is None
    assert as_source(TensorDataset(X, Y), role="train").starts is None
    assert as_source(TensorDataset(x[:1], y[:1]), role="train").starts is None
    assert as_source(Subset(Counting(), order.tolist()), role="train").starts is None
    broken = x.clone()
    broken[:, 0] += 1.0
    assert as_source(TensorDataset(broken, y), role="train").starts is None


def test_detection_with_gaps_in_the_values():
    values = torch.randn(ROWS, C, generator=generator())
    values[20] = float("nan")
    assert as_source(tensors(WindowDataset(values, L, H)), role="train").starts.tolist() == list(
        range(ROWS - L - H + 1)
    )


@pytest.mark.parametrize(("lookback", "horizon"), [(1, 1), (1, 4), (5, 1)])
def test_detection_at_the_shortest_windows(lookback: int, horizon: int):
    data = WindowDataset(torch.randn(30, C, generator=generator()), lookback, horizon)
    for kind in (tensors(data), [data[i] for i in range(len(data))]):
        source = as_source(DataLoader(kind, batch_size=4), role="train")
        assert source.starts.tolist() == list(range(len(data)))


def test_a_seam_between_two_series_keeps_their_windows_apart():
    one, two = windows(200, 1), windows(150, 2)
    x, y = (torch.cat(parts) for parts in zip(tensors(one).tensors, tensors(two).tensors, strict=True))
    starts = as_source(TensorDataset(x, y), role="train").starts
    assert starts[: len(one)].tolist() == list(range(len(one)))
    assert (starts[len(one) + 1 :] - starts[len(one) : -1] == 1).all()
    assert int(starts[len(one)] - starts[len(one) - 1]) >= L + H
    joined = as_source(ConcatDataset([one, two]), role="train")
    assert torch.equal(joined.gather(torch.tensor([len(one)]))[0], two.gather(torch.tensor([0]))[0])


def test_read_batch_names_the_place():
    values = torch.randn(ROWS, C, generator=generator())
    values[12, 1] = float("nan")
    data = WindowDataset(values, L, H, names=("load", "oil"))
    batch = read_batch(data, torch.tensor([0, 20]), role="train", batch=0)
    x, y = batch.x, batch.y
    assert torch.equal(x, data.gather(torch.tensor([0, 20]))[0])
    assert y.shape == (2, H, C)
    with pytest.raises(DataError, match=r"val data, batch 4: window 9 has nan in x, channel 1 \('oil'\), step 3"):
        read_batch(data, torch.tensor([0, 9]), role="val", batch=4)
    with pytest.raises(DataError, match=r"test data, batch 1: window 5 has nan in y, channel 1, step 1"):
        read_batch(as_source(tensors(data), role="test"), torch.tensor([5]), role="test", batch=1)


def test_large_but_finite_values_pass():
    data = WindowDataset(torch.full((ROWS, C), 3e38), L, H)
    read_batch(data, torch.arange(3), role="train", batch=0)


def test_parts_of_one_dataset_that_lie_among_each_other_are_said(caplog: pytest.LogCaptureFixture):
    series = torch.arange(61.0)
    dataset = TensorDataset(*(torch.stack([series[k + a : k + a + 4] for k in range(53)])[..., None] for a in (0, 4)))
    sizes = {"input_dim": 1, "seq_length": 4, "horizon": 4, "layout": Layout()}

    def said(train, val) -> list[str]:
        caplog.clear()
        with caplog.at_level(logging.WARNING):
            check_sources({"train": DataLoader(train, batch_size=8), "val": val}, **sizes)
        return [record.getMessage() for record in caplog.records if "among each other" in record.getMessage()]

    assert not said(Subset(dataset, range(30)), Subset(dataset, range(38, 53)))
    assert not said(Subset(dataset, range(38, 53)), Subset(dataset, range(30)))
    other = TensorDataset(*(part.clone() for part in dataset.tensors))
    assert not said(Subset(dataset, range(0, 53, 2)), Subset(other, range(1, 53, 2)))
    train, val = random_split(dataset, [30, 23], generator=torch.Generator().manual_seed(0))
    (message,) = said(train, Subset(val, range(20)))
    assert "val data" in message
    assert "train data" in message
    assert "split by blocks of time" in message
