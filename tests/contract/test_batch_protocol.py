"""What a batch may look like in a user's own loop, and the overlap-averaged forecast."""

from __future__ import annotations

import contextlib
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from foreblocks.darts._core.errors import DataError
from foreblocks.darts.data.batch_protocol import autocast_ctx, unpack_forecasting_batch
from foreblocks.darts.evaluation.plotting import batched_forecast

X, Y = torch.randn(4, 12, 3), torch.randn(4, 6, 3)
FUTURE = torch.randn(4, 6, 3)


@pytest.mark.parametrize("batch", [(X, Y), [X, Y], (X, Y, None), (X, Y, {})])
def test_a_pair_has_no_extras(batch: Any) -> None:
    x, y, kwargs = unpack_forecasting_batch(batch, "cpu")
    assert x is X
    assert y is Y
    assert kwargs == {}


@pytest.mark.parametrize("extra", [FUTURE, *({key: FUTURE} for key in ("x_future", "future_covariates", "dec"))])
def test_future_covariates_that_fit_are_passed(extra: Any) -> None:
    _, _, kwargs = unpack_forecasting_batch((X, Y, extra), torch.device("cpu"))
    assert list(kwargs) == ["x_future"]
    assert kwargs["x_future"] is FUTURE


@pytest.mark.parametrize("shape", [(4, 6), (3, 6, 3), (4, 6, 0), (4, 5, 3)])
def test_future_covariates_that_do_not_fit_raise(shape: tuple[int, ...]) -> None:
    with pytest.raises(DataError, match="x_future has shape"):
        unpack_forecasting_batch((X, Y, torch.zeros(shape)), "cpu")


@pytest.mark.parametrize(
    "batch", [X, (X,), {"x": X, "y": Y}, (X, 3.0), (X, Y, 3.0), (X, Y, {"xfuture": FUTURE}), (X, Y, FUTURE, X)]
)
def test_what_is_no_batch_raises(batch: Any) -> None:
    with pytest.raises(DataError):
        unpack_forecasting_batch(batch, "cpu")


def test_decoder_targets_and_teacher_forcing() -> None:
    _, _, kwargs = unpack_forecasting_batch((X, Y), "cpu", include_decoder_targets=True, teacher_forcing_ratio=0.0)
    assert kwargs["decoder_targets"] is Y
    assert kwargs["teacher_forcing_ratio"] == 0.0
    _, _, kwargs = unpack_forecasting_batch((X, Y[..., :1]), "cpu", include_decoder_targets=True)
    assert kwargs == {}


def test_autocast_does_nothing_on_a_cpu_or_when_off() -> None:
    assert isinstance(autocast_ctx("cpu"), contextlib.nullcontext)
    assert isinstance(autocast_ctx("cuda", enabled=False), contextlib.nullcontext)


class _Linear(nn.Module):
    """A forecast that differs by window and step, and only in eval mode is right."""

    def __init__(self, horizon: int) -> None:
        super().__init__()
        self.map = nn.Linear(5, horizon)
        self.drop = nn.Dropout(0.5)

    def forward(self, x: Tensor) -> Tensor:
        return self.drop(self.map(x.transpose(1, 2)).transpose(1, 2))


@pytest.mark.parametrize(("count", "horizon", "batch_size"), [(1, 1, 4), (1, 7, 4), (9, 3, 4), (3, 9, 1), (10, 4, 256)])
def test_batched_forecast_is_the_mean_over_the_windows_that_see_a_row(
    count: int, horizon: int, batch_size: int
) -> None:
    model = _Linear(horizon)
    windows = torch.randn(count, 5, 2)
    with torch.no_grad():
        each = model.eval()(windows)
    model.train()
    got = batched_forecast(model, windows, batch_size=batch_size)
    wanted = [
        torch.stack([each[n, t - n] for n in range(count) if 0 <= t - n < horizon]).mean(dim=0)
        for t in range(count + horizon - 1)
    ]
    torch.testing.assert_close(got, torch.stack(wanted))
    assert all(module.training for module in model.modules())


def test_batched_forecast_keeps_the_mode_of_each_part() -> None:
    model = _Linear(2).train()
    model.map.eval()
    batched_forecast(model, torch.randn(3, 5, 2))
    assert (model.training, model.map.training, model.drop.training) == (True, False, True)


@pytest.mark.parametrize("windows", [torch.zeros(0, 5, 2), torch.zeros(5, 2)])
def test_batched_forecast_needs_windows(windows: Tensor) -> None:
    with pytest.raises(DataError, match="X_val must be"):
        batched_forecast(_Linear(2), windows)


def test_batched_forecast_passes_the_covariates_of_each_window() -> None:
    class Known(nn.Module):
        def forward(self, x: Tensor, x_future: Tensor) -> Tensor:
            return x[:, -1:] + x_future

    windows, known = torch.randn(7, 5, 2), torch.randn(7, 3, 2)
    got = batched_forecast(Known(), windows, batch_size=4, x_future=known)
    each = windows[:, -1:] + known
    wanted = [torch.stack([each[n, t - n] for n in range(7) if 0 <= t - n < 3]).mean(dim=0) for t in range(9)]
    torch.testing.assert_close(got, torch.stack(wanted))
    with pytest.raises(DataError, match=r"x_future must be \[N=7, H, F\]"):
        batched_forecast(Known(), windows, x_future=known[:3])
