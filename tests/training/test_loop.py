"""The pieces of every training loop, and the rates, limits and borders that hold them together."""

from __future__ import annotations

import contextlib
import warnings

import pytest
import torch
from torch import nn

from foreblocks.darts._core.device import resolve_device
from foreblocks.darts._core.errors import DataError, InvalidArgument
from foreblocks.darts._core.seeding import seeded
from foreblocks.darts.config import FinalTrainConfig
from foreblocks.darts.data.batch_protocol import autocast_ctx
from foreblocks.darts.data.windows import WindowDataset
from foreblocks.darts.training import final_trainer
from foreblocks.darts.training.loop import LoopLimits, autocast, cpu_copy, mean_loss


class LastValue(nn.Module):
    """The last value times a weight, for every step of the horizon."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor(0.5))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.weight * x[:, -1:].expand(-1, 2, -1)


def windows() -> WindowDataset:
    return WindowDataset(torch.randn(40, 1, generator=torch.Generator().manual_seed(0)), 4, 2)


def test_a_loss_of_no_window_is_an_error_and_not_zero() -> None:
    with pytest.raises(DataError, match="validation"):
        mean_loss(LastValue(), windows(), [], nn.functional.mse_loss, limits=LoopLimits(), role="validation")


def test_a_loss_leaves_every_module_in_its_mode() -> None:
    model = nn.Sequential(LastValue(), nn.Dropout(0.5), nn.Dropout(0.5)).train()
    model[1].eval()
    limits = LoopLimits()
    mean_loss(model, windows(), [torch.arange(3)], nn.functional.mse_loss, limits=limits, role="validation")
    assert [part.training for part in model.modules()] == [True, True, False, True]


@pytest.mark.parametrize("epochs", [1, 2, 5])
def test_every_epoch_of_the_cosine_schedule_trains(epochs: int, monkeypatch: pytest.MonkeyPatch) -> None:
    rates: list[float] = []
    original = final_trainer.set_rate

    def spy(optimizer: torch.optim.Optimizer, rate: float) -> None:
        rates.append(rate)
        original(optimizer, rate)

    monkeypatch.setattr(final_trainer, "set_rate", spy)
    config = FinalTrainConfig(epochs=epochs, patience=epochs, use_onecycle=False, learning_rate=0.01)
    limits = LoopLimits(batch_size=64)
    final_trainer.train_final_model(LastValue(), windows(), windows(), config, limits)
    assert len(rates) == epochs
    assert rates[0] == 0.01
    assert rates == sorted(rates, reverse=True)
    assert min(rates) > 0.0


def test_amp_is_bfloat16_where_there_is_some(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = LoopLimits(use_amp=True, device=torch.device("cuda"))
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True: False)
    assert isinstance(autocast(asked), contextlib.nullcontext)
    assert isinstance(autocast_ctx("cuda"), contextlib.nullcontext)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True: True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch says that there is no GPU
        contexts = [autocast(asked), autocast_ctx("cuda")]  # that of a training loop of the user's own, too
    for context in contexts:
        assert isinstance(context, torch.autocast)
        assert context.fast_dtype == torch.bfloat16


def test_a_copied_tree_shares_nothing() -> None:
    tree = {"a": [torch.ones(2), (torch.zeros(1), 3)], 4: None}
    copied = cpu_copy(tree)
    copied["a"][0].zero_()
    copied["a"][1][0].fill_(9.0)
    copied["a"].append(1)
    assert torch.equal(tree["a"][0], torch.ones(2))
    assert torch.equal(tree["a"][1][0], torch.zeros(1))
    assert len(tree["a"]) == 2
    assert copied[4] is None
    assert isinstance(copied["a"][1], tuple)


def test_a_missing_gpu_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert resolve_device("cuda:1") == torch.device("cuda", 1)
    with pytest.raises(InvalidArgument, match=r"cuda:2.*'cuda:0' to 'cuda:1'"):
        resolve_device("cuda:2")


def test_a_seed_is_taken_back_on_every_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    kept: list[list[int]] = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.random, "fork_rng", lambda devices: contextlib.nullcontext(kept.append(devices)))
    monkeypatch.setattr(torch, "manual_seed", lambda _seed: None)
    with seeded("anything"):
        pass
    assert kept == [[0, 1]]
