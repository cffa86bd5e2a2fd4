"""What a caller has switched in torch changes no result, and is as it was afterwards."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset

from foreblocks.darts import DARTSTrainer
from foreblocks.darts.data import SeriesFrame, prepare
from foreblocks.darts.search.saved_run import SavedRun, forecast_frame
from foreblocks.darts.training.checkpoint import rebuild_model

L, H, C = 12, 4, 2
SERIES = torch.randn(90, C, generator=torch.Generator().manual_seed(3)).cumsum(0)
WINDOWS = SERIES.unfold(0, L + H, 1).transpose(1, 2)


@contextmanager
def double() -> Iterator[None]:
    torch.set_default_dtype(torch.float64)
    try:
        yield
    finally:
        torch.set_default_dtype(torch.float32)


@contextmanager
def other_device() -> Iterator[None]:
    """``meta`` stands for a GPU: what is made there by mistake cannot be used."""
    torch.set_default_device("meta")
    try:
        yield
    finally:
        torch.set_default_device(None)


AMBIENTS: dict[str, Any] = {
    "float64": double, "no_grad": torch.no_grad, "inference_mode": torch.inference_mode, "device": other_device,
}  # fmt: skip


def _state() -> tuple[Any, ...]:
    return (
        torch.get_default_dtype(),
        torch.get_default_device(),
        torch.is_grad_enabled(),
        torch.is_inference_mode_enabled(),
    )


def _loaders() -> list[DataLoader[Any]]:
    parts = [TensorDataset(WINDOWS[a:b, :L], WINDOWS[a:b, L:]) for a, b in ((0, 45), (45, 60), (60, 75))]
    return [DataLoader(part, batch_size=16) for part in parts]


def _phases(trainer: DARTSTrainer) -> list[float]:
    train, val, test = _loaders()
    network = trainer.build_candidate(trainer.make_candidate(0, 1))
    score = trainer.evaluate_zero_cost_metrics(network, train)["aggregate_score"]
    found = trainer.train_darts_model(network, train, val, epochs=1)
    fixed = trainer.derive_final_architecture(found["model"])
    return [score, found["best_val_loss"], trainer.train_final_model(fixed, train, val, test, epochs=1)["test_loss"]]


def _trainer() -> DARTSTrainer:
    return DARTSTrainer(C, [8], H, L, "cpu", all_ops=["Identity", "TCN", "DLinear", "Fourier", "GRN"])


@pytest.mark.parametrize("ambient", AMBIENTS.values(), ids=AMBIENTS)
def test_phases_give_what_they_give_in_a_new_process(ambient: Any) -> None:
    expected = _phases(_trainer())
    with ambient():
        before = _state()
        assert _phases(_trainer()) == expected
        assert _state() == before


@pytest.mark.parametrize("ambient", AMBIENTS.values(), ids=AMBIENTS)
def test_a_search_and_its_forecast_are_the_same(ambient: Any, tmp_path: Path) -> None:
    frame = SeriesFrame(np.arange(90), ["a", "b"], SERIES.double().numpy())

    def run(folder: Path) -> np.ndarray:
        prepared = prepare(frame, lookback=L, horizon=H)
        sources = (prepared.train, prepared.val, prepared.test)
        _trainer().multi_fidelity_search(
            *sources, num_candidates=1, top_k=1, search_epochs=1, final_epochs=1, trial_steps=0, max_train_batches=2,
            run_dir=folder, scaler=prepared.recipe.to_dict(),
        )  # fmt: skip
        return forecast_frame(SavedRun(folder), frame).values

    expected = run(tmp_path / "usual")
    with ambient():
        before = _state()
        assert np.array_equal(run(tmp_path / "other"), expected)
        assert _state() == before


def test_threads_do_not_draw_each_others_random_numbers() -> None:
    expected, before = _phases(_trainer()), torch.get_rng_state()
    with ThreadPoolExecutor(3) as pool:
        assert list(pool.map(_phases, [_trainer() for _ in range(3)])) == [expected] * 3
    assert torch.equal(torch.get_rng_state(), before)


def test_the_state_is_given_back_after_an_error() -> None:
    with double(), pytest.raises(ValueError, match="epochs=0"):
        try:
            _trainer().train_darts_model(None, [], [], epochs=0)  # type: ignore[arg-type]
        finally:
            assert torch.get_default_dtype() is torch.float64


def test_a_saved_model_is_float32(tmp_path: Path) -> None:
    trainer = _trainer()
    train, val, test = _loaders()
    trainer.multi_fidelity_search(
        train, val, test, num_candidates=1, top_k=1, search_epochs=1, final_epochs=1, trial_steps=0, max_train_batches=2
    )
    trainer.save_best_model(str(tmp_path / "model.pth"))
    with double():
        raw = trainer.load_model(str(tmp_path / "model.pth"))
        assert {p.dtype for p in rebuild_model(raw).state_dict().values()} == {torch.float32}
