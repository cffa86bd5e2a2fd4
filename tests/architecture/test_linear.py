"""The closed-form path against explicit float64 least squares, and against published figures."""

from __future__ import annotations

import math

import pytest
import torch

from foreblocks.darts._core.errors import DataError, InvalidArgument
from foreblocks.darts._core.seeding import generator
from foreblocks.darts.architecture.linear import (
    LinearForecaster,
    LinearSpec,
    RidgeStatistics,
    fit_ridge,
    fit_ridge_pair,
    penalty_errors,
    solve,
)
from foreblocks.darts.data import WindowDataset


class LooseWindows:
    """Windows given one by one, with no rows in common."""

    starts = None

    def __init__(self, x, y):
        self.x, self.y = x, y
        self.lookback, self.horizon, self.channels = x.shape[1], y.shape[1], x.shape[2]

    def __len__(self):
        return len(self.x)

    def gather(self, indices):
        return self.x[indices], self.y[indices]


def series(rows, channels, *key, level=0.0):
    noise = torch.randn(rows, channels, generator=generator("linear", rows, channels, *key))
    walk = 0.1 * noise.cumsum(0) + torch.sin(torch.arange(rows)[:, None] / 4.0) + 0.3 * noise
    return (walk + level).float()


def windows(rows=400, channels=3, lookback=12, horizon=5, *key, level=0.0):
    return WindowDataset(series(rows, channels, *key, level=level), lookback, horizon)


def everything(source):
    x, y = source.gather(torch.arange(len(source)))
    return x.double(), y.double()


def centre_of(x, centre):
    return x[:, -1:] if centre == "last" else x.mean(1, keepdim=True)


def ridge_by_least_squares(source, mode, centre, penalty):
    """Solve the augmented system [X; sqrt(λ) I] W = [Y; 0] per group."""
    x, y = everything(source)
    level = centre_of(x, centre)
    x, y = (x - level).permute(2, 0, 1), (y - level).permute(2, 0, 1)  # [C, n, L], [C, n, H]
    if mode == "shared":
        x, y = x.reshape(1, -1, x.shape[2]), y.reshape(1, -1, y.shape[2])
    maps = []
    for xs, ys in zip(x, y, strict=True):
        steps = xs.shape[1]
        absolute = penalty * float((xs**2).sum()) / steps
        system = torch.cat([xs, math.sqrt(absolute) * torch.eye(steps, dtype=torch.float64)])
        right = torch.cat([ys, torch.zeros(steps, ys.shape[1], dtype=torch.float64)])
        maps.append(torch.linalg.lstsq(system, right, driver="gelsd").solution.t())
    return torch.stack(maps)


@pytest.mark.parametrize("centre", ["last", "mean"])
@pytest.mark.parametrize("mode", ["shared", "per_channel"])
@pytest.mark.parametrize("penalty", [1e-4, 0.3])
def test_solution_is_the_augmented_least_squares(mode, centre, penalty):
    source = windows()
    found = solve(RidgeStatistics.collect(source).equations(mode, centre), penalty)
    expected = ridge_by_least_squares(source, mode, centre, penalty)
    assert torch.allclose(found, expected, atol=1e-9)


@pytest.mark.parametrize("level", [0.0, 5000.0])
def test_the_recurrence_equals_plain_sums(level):
    source = windows(level=level)
    x, y = everything(source)
    loose = LooseWindows(x.float(), y.float())
    for centre in ("last", "mean"):
        fast, slow = (RidgeStatistics.collect(s).centred(centre) for s in (source, loose))
        m = centre_of(x, centre)
        xtx = torch.einsum("nic,njc->cij", x - m, x - m)
        xty = torch.einsum("nic,njc->cij", x - m, y - m)
        for found in (fast, slow):
            assert torch.allclose(found.xtx, xtx, atol=1e-6, rtol=1e-9)
            assert torch.allclose(found.xty, xty, atol=1e-6, rtol=1e-9)
            assert torch.allclose(found.yty, ((y - m) ** 2).sum((0, 1)), rtol=1e-9)


def test_shuffled_blocks_and_strides_use_every_window_once():
    base = windows(rows=700)
    order = torch.randperm(300, generator=generator("order"))
    mixed = base.subset(torch.cat([order, torch.arange(400, 520), torch.arange(540, 680, 7), torch.tensor([5, 5])]))
    found = RidgeStatistics.collect(mixed)
    expected = RidgeStatistics.collect(LooseWindows(*(part.float() for part in everything(mixed))))
    assert found.count == expected.count == len(mixed)
    assert torch.allclose(found.centred("last").xtx, expected.centred("last").xtx, atol=1e-8)
    assert torch.allclose(found.centred("mean").xty, expected.centred("mean").xty, atol=1e-8)


def test_consecutive_starts_with_foreign_targets_are_not_taken_for_views():
    base = windows()

    class Shifted:
        lookback, horizon, channels = base.lookback, base.horizon, base.channels
        starts = base.starts

        def __len__(self):
            return len(base)

        def gather(self, indices):
            x, y = base.gather(indices)
            return x, y + (indices[:, None, None] % 3)

    x, y = everything(Shifted())
    xty = torch.einsum("nic,njc->cij", x - x[:, -1:], y - x[:, -1:])
    assert torch.allclose(RidgeStatistics.collect(Shifted()).centred("last").xty, xty, atol=1e-8)


@pytest.mark.parametrize("mode", ["shared", "per_channel"])
@pytest.mark.parametrize("centre", ["last", "mean"])
def test_the_penalty_is_chosen_by_the_exact_validation_error(mode, centre):
    train, val = windows(300, 3, 12, 5, "train"), windows(200, 3, 12, 5, "val")
    grid = (1e-6, 1e-3, 1e-1, 1.0, 10.0)
    x, y = everything(val)
    table = []
    for penalty in grid:
        maps = ridge_by_least_squares(train, mode, centre, penalty).expand(3, -1, -1)
        level = centre_of(x, centre)
        error = torch.einsum("nlc,chl->nhc", x - level, maps) + level - y
        table.append((error**2).mean((0, 1)))
    table = torch.stack(table)  # [penalties, C]
    fitted, held = (RidgeStatistics.collect(s).equations(mode, centre) for s in (train, val))
    sums = penalty_errors(fitted, held, grid).t() / (len(val) * 5)
    assert torch.allclose(sums, table if mode == "per_channel" else table.sum(1, True), rtol=1e-7)

    model, info = fit_ridge(train, val, mode=mode, centre=centre, penalties=grid)
    best = table.argmin(0) if mode == "per_channel" else table.mean(1).argmin()
    chosen = torch.tensor(grid, dtype=torch.float64)[best]
    assert torch.allclose(torch.tensor(info["penalty"], dtype=torch.float64), chosen)
    error = (model(x.float()).double() - y).square().mean()
    assert info["val_mse"] == pytest.approx(float(error), rel=1e-5)


def test_auto_takes_the_better_centre_and_the_pair_names_the_better_ridge():
    train, val = windows(300, 3, 12, 5, "train"), windows(200, 3, 12, 5, "val")
    both = {c: fit_ridge(train, val, mode="shared", centre=c)[1]["val_mse"] for c in ("last", "mean")}
    _, auto = fit_ridge(train, val, mode="shared", centre="auto")
    assert both["last"] != both["mean"]
    assert auto["val_mse"] == min(both.values())
    models, info, star = fit_ridge_pair(train, val)
    assert set(models) == {"shared", "per_channel"}
    assert info[star]["val_mse"] == min(i["val_mse"] for i in info.values())
    assert torch.equal(models["shared"].weight, fit_ridge(train, val, mode="shared")[0].weight)


@pytest.mark.parametrize(
    ("rows", "channels", "lookback", "horizon"), [(130, 2, 96, 8), (60, 1, 1, 3), (40, 1, 4, 20), (18, 1, 12, 6)]
)
def test_few_windows_one_step_and_one_channel(rows, channels, lookback, horizon):
    source = windows(rows, channels, lookback, horizon)
    for mode in ("shared", "per_channel"):
        for centre in ("last", "mean"):
            model, info = fit_ridge(source, source, mode=mode, centre=centre)
            x, _ = source.gather(torch.arange(len(source)))
            assert torch.isfinite(model(x)).all()
            assert math.isfinite(info["val_mse"])


def test_spread_windows_as_in_a_subsample():
    base = windows(2000, 2, 96, 24)
    sparse = base.subset(torch.linspace(0, len(base) - 1, 70).round().long())
    model, info = fit_ridge(sparse, base, mode="shared")
    last = (sparse.gather(torch.arange(70))[0][:, -1:] - sparse.gather(torch.arange(70))[1]).square().mean()
    assert info["val_mse"] < float(last)
    assert torch.isfinite(model.weight).all()


def test_a_constant_channel_keeps_its_value():
    values = series(200, 2)
    values[:, 1] = 3.0
    source = WindowDataset(values, 8, 4)
    model, _ = fit_ridge(source, source, mode="per_channel")
    x, y = source.gather(torch.arange(5))
    assert torch.equal(model(x)[:, :, 1], y[:, :, 1])


def test_zero_weights_forecast_the_centre_and_a_state_dict_restores_all():
    source = windows()
    model, info = fit_ridge(source, source, mode="per_channel", centre="mean")
    fresh = LinearForecaster(LinearSpec.from_dict(model.spec.to_dict()))
    x, _ = source.gather(torch.arange(4))
    assert torch.allclose(fresh(x), x.mean(1, keepdim=True).expand(-1, 5, -1))
    fresh.load_state_dict(model.state_dict())
    assert torch.equal(fresh(x), model(x))
    assert not list(model.parameters())
    assert info["centre"] == "mean"


@pytest.mark.parametrize("mode", ["shared", "per_channel"])
@pytest.mark.parametrize("centre", ["last", "mean"])
def test_exports_with_a_dynamic_batch(mode, centre):
    source = windows()
    model, _ = fit_ridge(source, source, mode=mode, centre=centre)
    x, _ = source.gather(torch.arange(6))
    program = torch.export.export(model, (x,), dynamic_shapes=({0: torch.export.Dim("batch")},))
    more, _ = source.gather(torch.arange(9))
    assert torch.allclose(program.module()(more), model(more), atol=1e-6)


def test_bad_input_is_named():
    source = windows()
    with pytest.raises(InvalidArgument, match="per_channel"):
        fit_ridge(source, source, mode="perchannel")
    with pytest.raises(InvalidArgument, match="centre='first'"):
        fit_ridge(source, source, mode="shared", centre="first")
    with pytest.raises(InvalidArgument, match="penalties"):
        fit_ridge(source, source, mode="shared", penalties=(0.0, 1.0))
    with pytest.raises(InvalidArgument, match="must agree"):
        fit_ridge(source, windows(300, 3, 12, 6), mode="shared")
    with pytest.raises(InvalidArgument, match=r"expected \[B, 12, 3\]"):
        fit_ridge(source, source, mode="shared")[0](torch.zeros(2, 11, 3))
    with pytest.raises(InvalidArgument, match="no field 'centr'"):
        LinearSpec.from_dict({"mode": "shared", "centr": "last"})
    with pytest.raises(DataError, match="at least one window"):
        RidgeStatistics.collect(source.subset([]))


def test_a_value_that_is_not_finite_is_named_by_window_and_channel():
    values = series(300, 3)
    values[140, 2] = float("nan")
    source = WindowDataset(values, 12, 5)
    with pytest.raises(DataError, match=r"window \d+ .* channel 2"):
        RidgeStatistics.collect(source)
    with pytest.raises(DataError, match=r"window 0 .* channel 2"):
        RidgeStatistics.collect(source.subset([130]))
