"""Metrics against plain float64 formulas, for every batch size."""

from __future__ import annotations

import contextlib

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from foreblocks.darts._core.errors import DataError, InvalidArgument
from foreblocks.darts._core.seeding import generator
from foreblocks.darts.evaluation.losses import get_loss_function
from foreblocks.darts.evaluation.metrics import (
    MetricAccumulator,
    compute_final_metrics,
    compute_metrics,
    evaluate_on_loader,
)


class Drift(nn.Module):
    """Last value plus a parameter, with dropout that must be off while evaluating."""

    def __init__(self):
        super().__init__()
        self.shift = nn.Parameter(torch.tensor(0.3))
        self.drop = nn.Dropout(0.9)

    def forward(self, x):
        return self.drop(x[:, -1:].expand(-1, 4, -1)) + self.shift


def pairs(count=150, level=0.0):
    g = generator("metrics", count)
    return torch.randn(count, 6, 3, generator=g) + level, torch.randn(count, 4, 3, generator=g) + level


def plain(pred, target):
    p, y = np.asarray(pred, dtype=np.float64), np.asarray(target, dtype=np.float64)
    e = p - y
    return {
        "mse": (e**2).mean(),
        "rmse": np.sqrt((e**2).mean()),
        "mae": np.abs(e).mean(),
        "mape": 100 * (np.abs(e) / (np.abs(y) + 1e-8)).mean(),
        "r2_score": 1 - (e**2).sum() / ((y - y.mean()) ** 2).sum(),
    }


@pytest.mark.parametrize("level", [0.0, 1e4])
def test_metrics_equal_the_formulas_whatever_the_batch_size(level):
    x, y = pairs(level=level)
    model = Drift()
    expected = plain(model.eval()(x).detach(), y)
    for batch_size in (1, 32, 128, 150):
        loader = DataLoader(TensorDataset(x, y), batch_size=batch_size)
        found = compute_final_metrics(model, loader, "cpu")
        assert found == pytest.approx(expected, rel=1e-9), batch_size


def test_compute_metrics_takes_arrays():
    x, y = pairs()
    preds = x[:, :4].numpy()
    assert compute_metrics(preds, y.numpy()) == pytest.approx(plain(preds, y), rel=1e-12)


def test_constant_targets_have_a_defined_r2():
    ones = np.ones((2, 3))
    assert compute_metrics(ones, ones)["r2_score"] == 1.0
    assert compute_metrics(ones + 1, ones)["r2_score"] == 0.0


@pytest.mark.parametrize("level", [0.1, 0.3, 3.3, 1e6 + 0.1])  # numbers whose mean is not exact
def test_rounding_is_no_spread_of_constant_targets(level):
    targets = np.full((101, 7), level)
    assert compute_metrics(targets + 0.5, targets)["r2_score"] == 0.0
    accumulator = MetricAccumulator()
    for rows in (slice(0, 3), slice(3, 101)):
        accumulator.update(torch.from_numpy(targets[rows] + 0.5), torch.from_numpy(targets[rows]))
    assert accumulator.compute()["r2_score"] == 0.0


def test_batches_of_another_dtype_are_given_in_that_of_the_weights():
    model = nn.Sequential(nn.Linear(3, 3))
    x, y = pairs()
    sets = (TensorDataset(x[:, :4].to(dtype), y.to(dtype)) for dtype in (torch.float, torch.double))
    single, double = (DataLoader(data, batch_size=64) for data in sets)
    assert compute_final_metrics(model, double, "cpu") == compute_final_metrics(model, single, "cpu")
    loss = get_loss_function("huber")
    assert evaluate_on_loader(model, double, loss, "cpu") == evaluate_on_loader(model, single, loss, "cpu")


def test_loss_is_a_mean_over_windows_not_batches():
    x, y = pairs(33)
    y[-1] += 100.0
    model = Drift()
    expected = float(get_loss_function("mse")(model.eval()(x).detach(), y))
    for batch_size in (1, 32, 33):
        loader = DataLoader(TensorDataset(x, y), batch_size=batch_size)
        found = evaluate_on_loader(model, loader, get_loss_function("mse"), "cpu")
        assert found == pytest.approx(expected, rel=1e-6)


def test_modes_are_given_back_and_no_graph_is_built():
    x, y = pairs(8)
    model = nn.Sequential(Drift()).train()
    model[0].drop.eval()
    compute_final_metrics(model, [(x, y)], "cpu")
    assert model.training
    assert model[0].training
    assert not model[0].drop.training
    loss = lambda p, t: (pytest.fail("graph kept") if p.requires_grad else p.sum())  # noqa: E731
    evaluate_on_loader(model, [(x, y)], loss, "cpu")


def test_modes_are_given_back_after_an_error():
    model = Drift().train()
    with pytest.raises(InvalidArgument, match=r"\(8, 4, 3\).*\(8, 5, 3\)"):
        compute_final_metrics(model, [(torch.zeros(8, 6, 3), torch.zeros(8, 5, 3))], "cpu")
    assert model.training
    assert model.drop.training


def test_progress_and_autocast_wrap_the_loop():
    x, y = pairs(6)
    seen, entered = [], []

    @contextlib.contextmanager
    def autocast():
        entered.append(1)
        yield

    def progress(loader):
        for batch in loader:
            seen.append(len(batch[0]))
            yield batch

    batches = [(x[:4], y[:4]), (x[4:], y[4:])]
    found = compute_final_metrics(Drift(), batches, "cpu", autocast_ctx=autocast, progress_fn=progress)
    assert (seen, len(entered)) == ([4, 2], 2)
    assert found == pytest.approx(compute_final_metrics(Drift(), [(x, y)], "cpu"), rel=1e-9)


def test_bad_data_are_named():
    x, y = pairs(10)
    bad = y.clone()
    bad[7, 1, 2] = float("inf")
    batches = [(x[:4], bad[:4]), (x[4:], bad[4:])]
    with pytest.raises(DataError, match=r"target of window 7 \(batch 1\).*channel 2"):
        compute_final_metrics(Drift(), batches, "cpu")
    for run in (
        lambda: compute_final_metrics(Drift(), [], "cpu"),
        lambda: evaluate_on_loader(Drift(), [], get_loss_function("mse"), "cpu"),
        lambda: compute_metrics(np.zeros((0, 2)), np.zeros((0, 2))),
    ):
        with pytest.raises(DataError, match="empty"):
            run()
    with pytest.raises(DataError, match="batch"):
        compute_final_metrics(Drift(), [torch.zeros(2, 6, 3)], "cpu")
    with pytest.raises(InvalidArgument, match="shape"):
        compute_metrics(np.zeros((2, 3, 4)), np.zeros((2, 3, 1)))


def test_detail_splits_the_error_by_channel_and_by_step():
    pred = torch.zeros(5, 8, 2)
    target = torch.arange(8.0)[None, :, None].expand(5, 8, 2) * torch.tensor([1.0, 2.0])
    score = MetricAccumulator(detail=True)
    for part in (slice(0, 2), slice(2, 5)):
        score.update(pred[part], target[part])
    square = np.arange(8.0) ** 2
    assert score.by_channel() == pytest.approx([square.mean(), 4 * square.mean()])
    assert score.by_horizon() == pytest.approx([2.5 * square[i : i + 2].mean() for i in (0, 2, 4, 6)])
    assert np.mean(score.by_channel()) == pytest.approx(score.compute()["mse"])
    with pytest.raises(DataError, match="detail"):
        MetricAccumulator().by_channel()


def test_mape_is_finite_at_a_target_of_zero_and_enormous():
    found = compute_metrics(np.array([1.0, 3.0]), np.array([0.0, 2.0]))["mape"]
    assert found == pytest.approx(100 * (1 / 1e-8 + 1 / 2) / 2, rel=1e-6)
