"""Windows with known future covariates and with a subset of targets, from every kind of data."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset

from foreblocks.darts._core.errors import DataError, InvalidArgument
from foreblocks.darts._core.types import Batch, Layout, layout_of
from foreblocks.darts.data import DataRecipe, SeriesFrame, WindowDataset, prepare
from foreblocks.darts.data.sources import as_source, check_sources, read_batch

L, H, C, F, N = 5, 3, 4, 2, 12
SIZES = {"input_dim": C, "seq_length": L, "horizon": H}
VALUES = torch.arange((N + L + H - 1) * C, dtype=torch.float32).view(-1, C)


def windows(**layout: Any) -> WindowDataset:
    return WindowDataset(VALUES, L, H, **{"target_channels": [3, 0], "future_channels": [1, 2], **layout})


def naive(dataset: WindowDataset, index: int, targets: list[int], known: list[int]) -> tuple[torch.Tensor, ...]:
    start = int(dataset.window_starts[index])
    future = VALUES[start + L : start + L + H]
    return VALUES[start : start + L], future[:, targets], future[:, known]


class Samples(Dataset[Any]):
    """A map-style data set of the user's own; the third part may be a mapping."""

    def __init__(self, base: WindowDataset, wrap: Callable[[torch.Tensor], Any]) -> None:
        self.base, self.wrap = base, wrap

    def __len__(self) -> int:
        return len(self.base)

    def __getitem__(self, index: int) -> Any:
        x, y, future = self.base[index]
        return x, y, self.wrap(future)


class Stream(IterableDataset[Any]):
    def __init__(self, base: WindowDataset) -> None:
        self.base = base

    def __iter__(self) -> Any:
        return (self.base[i] for i in range(len(self.base)))


class Plain:
    """A window source of the user's own, of all channels."""

    lookback, horizon, channels, starts = L, H, C, None

    def __len__(self) -> int:
        return N

    def gather(self, indices: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return WindowDataset(VALUES, L, H).gather(indices)


def tensors(dataset: WindowDataset) -> TensorDataset:
    batch = dataset.gather_batch(torch.arange(len(dataset)))
    return TensorDataset(batch.x, batch.y, batch.x_future)


@pytest.mark.parametrize(
    "make",
    [
        lambda d: d,
        lambda d: DataLoader(d, batch_size=4),
        tensors,
        lambda d: DataLoader(tensors(d), batch_size=5, shuffle=True),
        lambda d: DataLoader(Samples(d, lambda future: future), batch_size=4),
        lambda d: DataLoader(Samples(d, lambda future: {"dec": future}), batch_size=4),
        lambda d: DataLoader(Stream(d), batch_size=4),
        lambda d: list(DataLoader(tensors(d), batch_size=5)),
    ],
)
def test_every_kind_of_data_gives_the_same_windows(make: Callable[[WindowDataset], Any]) -> None:
    data = windows()
    (source,) = check_sources({"train": make(data)}, **SIZES, layout=Layout(None, (3, 0)))
    assert layout_of(source) == Layout(F, (3, 0))
    batch = read_batch(source, torch.tensor([7, 0]), role="train", batch=0)
    for row, index in enumerate((7, 0)):
        wanted = naive(data, index, [3, 0], [1, 2])
        for got, part in zip((batch.x, batch.y, batch.x_future), wanted, strict=True):
            assert torch.equal(got[row], part)


def test_samples_and_batches_of_a_dataset_agree() -> None:
    data = windows()
    batch = data.gather_batch(torch.tensor([2, 5]))
    for row, index in enumerate((2, 5)):
        for part, whole, wanted in zip(
            data[index], (batch.x, batch.y, batch.x_future), naive(data, index, [3, 0], [1, 2]), strict=True
        ):
            assert torch.equal(part, wanted)
            assert torch.equal(whole[row], wanted)
    assert WindowDataset(VALUES, L, H, future_channels=[1]).target_channels == (0, 2, 3)
    assert len(WindowDataset(VALUES, L, H)[0]) == 2


@pytest.mark.parametrize(
    ("layout", "message"),
    [
        ({"target_channels": [4], "future_channels": ()}, r"target_channels\[0\]=4 must be between 0 and 3"),
        ({"target_channels": [0, 0]}, "target_channels=.*once"),
        ({"target_channels": [0, 1]}, r"\[1\] are in future_channels"),
        ({"target_channels": None, "future_channels": range(4)}, "none is to forecast"),
    ],
)
def test_channels_that_make_no_sense_are_named(layout: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidArgument, match=message):
        windows(**layout)


def test_a_source_of_all_channels_is_restricted() -> None:
    for data in (
        Plain(),
        WindowDataset(VALUES, L, H),
        TensorDataset(*WindowDataset(VALUES, L, H).gather(torch.arange(N))),
    ):
        source = as_source(data, role="val", target_channels=[2])
        batch = read_batch(source, torch.tensor([4]), role="val", batch=0)
        assert torch.equal(batch.y[0], naive(windows(), 4, [2], [])[1])
        assert batch.x_future is None
        assert layout_of(source) == Layout(0, (2,))


def test_loaders_of_other_targets_are_refused() -> None:
    one, other = (WindowDataset(VALUES, L, H, target_channels=[c]) for c in (0, 1))
    with pytest.raises(
        DataError, match=r"val data: the windows forecast the channels \[1\], but target_channels=\[0\]"
    ):
        check_sources({"train": one, "val": other}, **SIZES, layout=Layout(None, None))
    with pytest.raises(DataError, match=r"forecast the channels \[3, 0\], but target_channels=\[3\]"):
        as_source(windows(), role="val", target_channels=[3])
    free = windows(target_channels=None)
    assert layout_of(as_source(free, role="val", target_channels=[3])) == Layout(F, (3,))


@pytest.mark.parametrize(
    ("future", "message"),
    [
        (torch.zeros(N, H), r"x_future has shape \(12, 3\)"),
        (torch.zeros(N, H - 1, F), r"x_future has shape \(12, 2, 2\), but must be \[B=12, >= 3, F >= 1\]"),
        (torch.zeros(N, H, 0), r"x_future has shape \(12, 3, 0\)"),
        (torch.zeros(N - 1, H, F), r"x_future has shape \(11, 3, 2\)"),
    ],
)
def test_covariates_of_a_wrong_form_name_the_role(future: torch.Tensor, message: str) -> None:
    x, y = WindowDataset(VALUES, L, H).gather(torch.arange(N))
    with pytest.raises(DataError, match=f"^train data: {message}"):
        as_source([(x, y, future)], role="train")
    if len(future) == N:
        with pytest.raises(DataError, match=f"^train data: {message}"):
            as_source(TensorDataset(x, y, future), role="train")


def test_a_fourth_item_is_refused() -> None:
    x, y = WindowDataset(VALUES, L, H).gather(torch.arange(N))
    with pytest.raises(
        DataError, match=r"train data: a batch must be a pair \(x, y\) or \(x, y, x_future\), got 4 item"
    ):
        as_source(TensorDataset(x, y, y, y), role="train")


def test_overlap_is_found_where_only_some_channels_are_targets() -> None:
    x, y = windows(future_channels=()).gather(torch.arange(N))
    assert torch.equal(as_source(TensorDataset(x, y), role="train", target_channels=[3, 0]).starts, torch.arange(N))
    order = torch.randperm(N, generator=torch.Generator().manual_seed(0))
    shuffled = TensorDataset(x[order], y[order])
    assert as_source(shuffled, role="train", target_channels=[3, 0]).starts is None
    mapped = DataLoader(Samples(windows(), lambda future: future), batch_size=4)
    assert torch.equal(as_source(mapped, role="train", target_channels=[3, 0]).starts, torch.arange(N))


def test_a_batch_moves_and_slices_as_one() -> None:
    batch = windows().gather_batch(torch.arange(4))
    assert len(batch.inputs) == 2
    part = batch[1:3].to("cpu")
    assert isinstance(part, Batch)
    assert torch.equal(part.x_future, batch.x_future[1:3])
    assert len(part) == 2


def frame() -> SeriesFrame:
    dates = np.datetime64("2024-01-01T00:00:00.000000") + np.arange(200) * np.timedelta64(1, "h")
    values = np.random.default_rng(0).normal(size=(200, 3)) * [1.0, 10.0, 2.0] + [0.0, 50.0, 7.0]
    return SeriesFrame(dates, ["load", "plan", "temp"], values, name="mine")


def test_columns_of_a_frame_are_known_ahead() -> None:
    data = frame()
    ready = prepare(data, lookback=L, horizon=H, targets=["temp"], future_columns=["plan"])
    x, y, future = next(iter(ready.loaders(batch_size=8)[1]))
    assert (x.shape, y.shape, future.shape) == ((8, L, 3), (8, H, 1), (8, H, 1))
    first = ready.split.val[0]
    plan, temp = (ready.scaler.select([name]) for name in ("plan", "temp"))
    np.testing.assert_allclose(plan.inverse(future[0].double()), data.values[first : first + H, 1:2], rtol=1e-5)
    np.testing.assert_allclose(temp.inverse(y[0].double()), data.values[first : first + H, 2:3], rtol=1e-5)
    assert ready.recipe == DataRecipe.from_dict(ready.recipe.to_dict())
    assert (ready.recipe.outputs, ready.recipe.future) == (("temp",), ("plan",))
    assert prepare(data, lookback=L, horizon=H, future_columns=["plan"]).recipe.outputs == ("load", "temp")
    with pytest.raises(DataError, match=r"no column \['wind'\]"):
        prepare(data, lookback=L, horizon=H, targets=["wind"])
    with pytest.raises(InvalidArgument, match="are in future_channels"):
        prepare(data, lookback=L, horizon=H, targets=["plan"], future_columns=["plan"])
