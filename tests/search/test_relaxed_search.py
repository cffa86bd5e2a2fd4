"""The relaxation and the noise of a configuration reach every rung of the staged search."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from foreblocks.darts import DARTSTrainer
from foreblocks.darts.config import RELAXATIONS
from foreblocks.darts.data.windows import WindowDataset
from foreblocks.darts.search import tasks
from foreblocks.darts.training.bilevel import BilevelStepper


def loaders() -> list[WindowDataset]:
    rng = np.random.default_rng(0)
    t = np.arange(500)[:, None]
    values = np.sin(t / np.array([4.0, 7.0])) + 0.3 * rng.standard_normal((500, 2))
    series = torch.as_tensor(values, dtype=torch.float32)
    return [WindowDataset(series, 16, 4, first=a, last=b) for a, b in ((0, 300), (284, 400), (384, 500))]


@pytest.mark.parametrize("relaxation", RELAXATIONS)
def test_a_search_with_every_relaxation(relaxation: str, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[str, str, int]] = []
    original = tasks.search_epochs

    def spy(state, data, config, limits, **others):
        seen.append((state.model.relaxation, config.perturbation, state.epoch))
        return original(state, data, config, limits, **others)

    monkeypatch.setattr(tasks, "search_epochs", spy)
    trainer = DARTSTrainer(2, [8], 4, 16, "cpu", all_ops=["Identity", "TimeConv", "GRN"])
    result = trainer.multi_fidelity_search(
        *loaders(), num_candidates=1, top_k=1, search_epochs=2, phase3_min_epoch_budget=1, final_epochs=1,
        max_train_batches=2, max_val_batches=2, relaxation=relaxation, perturbation="random",
        retrain_final_from_scratch=False, trial_steps=2, cell_range=(1, 1), node_range=(3, 3),
    )  # fmt: skip
    assert seen == [(relaxation, "random", epoch) for epoch in (0, 1)]
    assert math.isfinite(result["final_results"]["final_metrics"]["mse"])


def test_noise_is_on_the_weight_step_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """The alphas that a weight step sees differ from the stored ones; those that an alpha step sees do not."""
    moved: list[tuple[bool, bool]] = []
    stored: list[torch.Tensor] = []
    original, weight_step = BilevelStepper._loss, BilevelStepper.weight_step

    def step(self, *arguments, **keywords):
        stored[:] = [alpha.detach().clone() for alpha in self._alphas]
        loss = weight_step(self, *arguments, **keywords)
        assert all(torch.equal(a, b) for a, b in zip(stored, self._alphas, strict=True))
        return loss

    def loss(self, *arguments, **keywords):
        on_weights = self._weights[0].requires_grad
        moved.append((on_weights, any(not torch.equal(a, b) for a, b in zip(stored, self._alphas, strict=True))))
        return original(self, *arguments, **keywords)

    monkeypatch.setattr(BilevelStepper, "weight_step", step)
    monkeypatch.setattr(BilevelStepper, "_loss", loss)
    trainer = DARTSTrainer(2, [8], 4, 16, "cpu", all_ops=["Identity", "TimeConv", "GRN"])
    model = trainer.build_candidate(trainer.make_candidate(0, 0))
    train, val, _ = loaders()
    trainer.train_darts_model(
        model, train, val, epochs=2, warmup_epochs=0, architecture_update_freq=1, perturbation="random",
        max_train_batches=3, max_val_batches=1, collapse_every=0,
    )  # fmt: skip
    first, *rest = moved
    assert first == (True, False)  # the noise grows from 0
    assert set(rest) == {(True, True), (False, False)}
