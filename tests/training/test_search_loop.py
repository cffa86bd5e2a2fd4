"""The search of one candidate: schedules, warm-up, shrinking, noise on the alphas, averaging, and going on later."""

from __future__ import annotations

import copy
import math
from collections import Counter
from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch

from foreblocks.darts import TimeSeriesDARTS
from foreblocks.darts._core.seeding import seeded
from foreblocks.darts.config import DARTSTrainConfig
from foreblocks.darts.data.windows import WindowDataset
from foreblocks.darts.training import darts_loop
from foreblocks.darts.training.bilevel import BilevelStepper, SearchState, new_state
from foreblocks.darts.training.darts_loop import SearchData, search_epochs, train_darts_model
from foreblocks.darts.training.events import Event
from foreblocks.darts.training.loop import LoopLimits
from foreblocks.darts.training.perturb import AlphaPerturbation

OPS = ["Identity", "TimeConv", "GRN", "DLinear", "ResidualMLP"]
LIMITS = LoopLimits(batch_size=16, max_train_batches=4, max_val_batches=2)
EVERY_EPOCH: dict[str, Any] = {
    "hybrid_pruning_start_epoch": 0,
    "hybrid_pruning_interval": 1,
    "hybrid_pruning_base_threshold": 1.0,
}


def windows() -> tuple[WindowDataset, WindowDataset]:
    rng = np.random.default_rng(0)
    t = np.arange(400)[:, None]
    series = torch.as_tensor(
        np.sin(t / np.array([4.0, 7.0])) + 0.3 * rng.standard_normal((400, 2)), dtype=torch.float32
    )
    return WindowDataset(series, 16, 4, first=0, last=300), WindowDataset(series, 16, 4, first=284, last=400)


def network(**changes) -> TimeSeriesDARTS:
    settings = {
        "input_dim": 2, "hidden_dim": 8, "latent_dim": 8, "forecast_horizon": 4, "seq_length": 16, "num_cells": 1,
        "num_nodes": 3, "selected_ops": OPS, "arch_mode": "encoder_only", "num_layers": 0,
    }  # fmt: skip
    with seeded("network"):
        return TimeSeriesDARTS(**{**settings, **changes})


def config(**changes) -> DARTSTrainConfig:
    settings = {"epochs": 4, "warmup_epochs": 0, "architecture_update_freq": 1, "arch_learning_rate": 0.05}
    return DARTSTrainConfig(**{**settings, "collapse_every": 0, **changes})


def train(model: TimeSeriesDARTS | None = None, callbacks=(), **changes) -> dict[str, Any]:
    model = network() if model is None else model
    return train_darts_model(model, *windows(), config(**changes), LIMITS, callbacks=callbacks)


class AtEpochEnd:
    """Calls a function with the number of finished epochs."""

    def __init__(self, act) -> None:
        self.act = act

    def on_event(self, event: Event, payload: dict[str, Any]) -> None:
        if event is Event.EPOCH_END:
            self.act(payload["epoch"])


@pytest.mark.parametrize(
    ("schedule", "wanted"),
    [
        ("constant", [1.0] * 5),
        ("linear", [1.0, 0.775, 0.55, 0.325, 0.1]),
        ("exponential", [10 ** (-e / 4) for e in range(5)]),
        ("cosine", [0.1 + 0.45 * (1 + math.cos(math.pi * e / 4)) for e in range(5)]),
        ("step", [1.0, 1.0, 0.5, 0.1, 0.1]),
    ],
)
def test_the_temperature_follows_its_schedule(schedule: str, wanted: list[float]) -> None:
    result = train(epochs=5, temperature_schedule=schedule)
    assert result["temperatures"] == pytest.approx(wanted)


def test_the_temperature_waits_for_its_own_warm_up() -> None:
    model = network(temperature_warmup_epochs=2, final_temperature=0.2)
    assert train(model, epochs=5, temperature_schedule="linear")["temperatures"] == pytest.approx([1, 1, 1, 0.6, 0.2])


def test_alphas_stand_still_in_the_warm_up() -> None:
    model = network()
    start = [alpha.detach().clone() for alpha in model.arch_parameters()]
    moved: list[bool] = []

    def look(_epoch: int) -> None:
        moved.append(any(not torch.equal(a, b) for a, b in zip(start, model.arch_parameters(), strict=True)))

    result = train(model, [AtEpochEnd(look)], epochs=10, warmup_epochs=2)
    assert moved == [False, False] + [True] * 8
    assert result["alpha_steps"] == 8 * 4


@pytest.mark.parametrize("strategy", ["probability", "gradient", "entropy", "performance"])
def test_shrinking_only_removes_ops_and_they_are_not_computed_any_more(strategy: str) -> None:
    model = network()
    with torch.no_grad():  # an edge that has nearly made up its mind, so that every strategy has work to do
        for edge in model.edges:
            edge.op_logits.copy_(torch.tensor([1.0, 4.0, -3.0, 2.0, -3.0]))
    parameters = {name: id(p) for name, p in model.named_parameters()}
    calls: Counter = Counter()
    for number, edge in enumerate(model.edges):
        for name, op in edge.ops.items():
            op.register_forward_hook(lambda *_a, key=(number, name): calls.update([key]))
    alive: list[torch.Tensor] = []
    computed: list[set] = []

    def look(_epoch: int) -> None:
        alive.append(torch.stack([edge.alive for edge in model.edges]).clone())
        computed.append(set(calls))
        calls.clear()

    train(model, [AtEpochEnd(look)], epochs=4, hybrid_pruning_strategy=strategy, **EVERY_EPOCH)
    for before, after in pairwise(alive):
        assert not (after & ~before).any()
    assert 3 <= int(alive[-1].sum()) < 15
    for before, ran in zip(alive, computed[1:], strict=False):
        assert ran == {(e, OPS[k]) for e, k in before.nonzero().tolist()}
    assert parameters == {name: id(p) for name, p in model.named_parameters()}
    if strategy == "performance":
        assert alive[-1][:, 0].all()


def test_shrinking_keeps_the_optimizers_and_leaves_pruned_weights_alone() -> None:
    model = network()
    with torch.no_grad():
        for edge in model.edges:
            edge.op_logits.copy_(torch.tensor([0.0, 4.0, 0.0, 0.0, 0.0]))
    state = new_state(model, config(**EVERY_EPOCH))
    data = SearchData.split(*windows(), config(), batch_size=16)
    settings = config(hybrid_pruning_strategy="probability", **EVERY_EPOCH)
    search_epochs(state, data, settings, LIMITS, until=2)
    edge = model.edges[0]
    gone = [p for name in edge.names if name not in edge.running for p in edge.ops[name].parameters()]
    kept = [p for name in edge.running for p in edge.ops[name].parameters()] + [edge.op_logits]
    assert gone
    before = [p.detach().clone() for p in gone]
    search_epochs(state, data, settings, LIMITS, until=3)
    assert all(torch.equal(a, b) for a, b in zip(before, gone, strict=True))
    assert "TimeConv" in edge.running
    steps = {float(state.weight_optimizer.state[p]["step"]) for p in kept[:-1]}
    assert steps == {12.0}  # every op that is left went through all three epochs of four steps
    assert float(state.arch_optimizer.state[edge.op_logits]["step"]) == 12.0


def test_no_shrinking_when_it_is_off_or_its_epoch_has_not_come() -> None:
    for changes in (
        {"progressive_shrinking": False},
        {"hybrid_pruning_start_epoch": 4},
        {"hybrid_pruning_interval": 5},
    ):
        model = train(**{**EVERY_EPOCH, **changes})["model"]
        assert all(len(edge.running) == 5 for edge in model.edges)


def test_the_threshold_grows_with_the_epochs() -> None:
    """Epoch 1 of 4 uses a quarter of the base threshold, the last one all of it."""
    model = network()
    used: list[float] = []
    original = model.prune_weak_operations

    def spy(threshold: float, *arguments: Any) -> dict[str, Any]:
        used.append(threshold)
        return original(threshold, *arguments)

    model.prune_weak_operations = spy  # type: ignore[method-assign]
    train(model, **{**EVERY_EPOCH, "hybrid_pruning_base_threshold": 0.4})
    assert used == pytest.approx([0.1, 0.2, 0.3, 0.4])


@pytest.mark.parametrize(
    "changes",
    [
        {"relaxation": "softmax", **EVERY_EPOCH},
        {"relaxation": "gdas"},
        {"relaxation": "drnas", "perturbation": "random"},
        {"relaxation": "fair", "use_swa": True},
        {"relaxation": "pc", "hessian_penalty_weight": 1.0},
        {"perturbation": "adversarial", "perturbation_steps": 2},
    ],
)
def test_a_search_in_two_parts_equals_one_in_a_piece(changes: dict[str, Any]) -> None:
    settings = config(epochs=2, **changes)
    data = SearchData.split(*windows(), settings, batch_size=16)

    def fresh() -> SearchState:
        model = network()
        if settings.relaxation is not None:
            with seeded("switch"):
                model.set_relaxation(settings.relaxation)
        return new_state(model, settings)

    whole = search_epochs(fresh(), data, settings, LIMITS)
    first = search_epochs(fresh(), data, settings, LIMITS, until=1)
    later = fresh()
    later.load_dict(first.to_dict())
    later = search_epochs(later, data, settings, LIMITS)
    assert later.history["val_losses"] == whole.history["val_losses"]
    for (name, a), b in zip(whole.model.state_dict().items(), later.model.state_dict().values(), strict=True):
        assert torch.equal(a, b), name
    assert all(torch.equal(a, later.best_state[name]) for name, a in whole.best_state.items())


def _tensors(tree: Any) -> Iterator[torch.Tensor]:
    if isinstance(tree, torch.Tensor):
        yield tree
    elif isinstance(tree, dict):
        for value in tree.values():
            yield from _tensors(value)
    elif isinstance(tree, (list, tuple)):
        for value in tree:
            yield from _tensors(value)


def test_a_saved_state_is_not_changed_by_going_on() -> None:
    settings = config(epochs=4, use_swa=True, arch_grad_ema_beta=0.5, collapse_every=1)
    data = SearchData.split(*windows(), settings, batch_size=16)
    state = search_epochs(new_state(network(), settings), data, settings, LIMITS, until=3)
    saved = state.to_dict()
    before = copy.deepcopy(saved)
    search_epochs(state, data, settings, LIMITS)
    for _ in range(2):
        again = new_state(network(), settings)
        again.load_dict(saved)
        search_epochs(again, data, settings, LIMITS)
        assert again.history["val_losses"] == state.history["val_losses"]
        assert again.collapse.eigenvalues == state.collapse.eigenvalues
    assert saved["collapse"]["alpha_steps"] == before["collapse"]["alpha_steps"]
    assert all(torch.equal(a, b) for a, b in zip(_tensors(saved), _tensors(before), strict=True))


def test_the_last_step_of_an_epoch_takes_the_mean_of_the_batches_it_has() -> None:
    settings = config(epochs=1, gradient_accumulation_steps=3, arch_learning_rate=0.0)
    seen: list[tuple[bool, int]] = []

    class Spy(BilevelStepper):
        def weight_step(self, batch, *, apply: bool = True, parts: int = 1):
            seen.append((apply, parts))
            return super().weight_step(batch, apply=apply, parts=parts)

    data = SearchData.split(*windows(), settings, batch_size=16)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(darts_loop, "BilevelStepper", Spy)
        search_epochs(new_state(network(), settings), data, settings, LIMITS)
    assert seen == [(False, 3), (False, 3), (True, 3), (True, 1)]


def test_the_plan_counts_the_alpha_steps_that_are_made() -> None:
    for every in (1, 3, 5):
        settings = config(epochs=2, architecture_update_freq=every)
        data = SearchData.split(*windows(), settings, batch_size=16)
        state = search_epochs(new_state(network(), settings), data, settings, LIMITS)
        assert state.alpha_steps == data.plan(settings, LIMITS).alpha_steps(settings)


@pytest.mark.parametrize("relaxation", ["gdas", "drnas", "pc", "fair"])
@pytest.mark.parametrize("second_order", [0.0, 1.0])
def test_every_relaxation_can_be_searched_and_repeats(relaxation: str, second_order: float) -> None:
    def run() -> dict[str, Any]:
        return train(epochs=2, relaxation=relaxation, hessian_penalty_weight=second_order)

    with seeded("one"):
        one = run()
    with seeded("one"):
        two = run()
    assert one["model"].relaxation == relaxation
    assert one["val_losses"] == two["val_losses"]
    assert all(math.isfinite(loss) for loss in one["val_losses"])
    fresh = network()
    moved = [
        not torch.equal(a, b) for a, b in zip(fresh.arch_parameters(), one["model"].arch_parameters(), strict=True)
    ]
    assert all(moved)


@pytest.mark.parametrize("kind", ["random", "adversarial"])
def test_noise_stays_in_its_box_and_leaves_no_trace(kind: str) -> None:
    alphas = [torch.nn.Parameter(torch.randn(5)), torch.nn.Parameter(torch.randn(3))]
    before = [alpha.detach().clone() for alpha in alphas]
    settings = DARTSTrainConfig(perturbation=kind, perturbation_radius=0.4)
    with seeded("noise"), AlphaPerturbation(settings, alphas)(lambda: sum(a.sum() for a in alphas), 0.5):
        offsets = [a.detach() - b for a, b in zip(alphas, before, strict=True)]
    assert all((o.abs() <= 0.2 + 1e-6).all() and (o != 0).all() for o in offsets)
    if kind == "adversarial":  # the loss rises with every alpha, so the worst corner is the upper one
        assert all(torch.allclose(o, torch.full_like(o, 0.2), atol=1e-6) for o in offsets)
    assert all(torch.equal(a, b) for a, b in zip(alphas, before, strict=True))
    noise = AlphaPerturbation(settings, alphas)
    with pytest.raises(RuntimeError, match="boom"), noise(lambda: sum(a.sum() for a in alphas), 1.0):
        raise RuntimeError("boom")
    assert all(torch.equal(a, b) for a, b in zip(alphas, before, strict=True))


def test_the_worst_case_is_worse_than_a_random_one() -> None:
    model = network()
    data = torch.randn(8, 16, 2), torch.randn(8, 4, 2)
    losses: dict[str, float] = {}
    for kind in ("none", "random", "adversarial"):
        settings = DARTSTrainConfig(perturbation=kind, perturbation_radius=1.0)
        model.eval()

        def loss() -> torch.Tensor:
            return torch.nn.functional.mse_loss(model(data[0]), data[1])

        with seeded("worst"), AlphaPerturbation(settings, list(model.arch_parameters()))(loss, 1.0):
            losses[kind] = float(loss().detach())
    assert losses["adversarial"] > max(losses["random"], losses["none"])


def test_averaging_keeps_the_mean_of_the_late_epochs_only_when_it_is_better() -> None:
    data = SearchData.split(*windows(), config(), batch_size=16)
    settings = config(epochs=6, use_swa=True)
    state = new_state(network(), settings)
    late: list[dict[str, torch.Tensor]] = []

    def look(epoch: int) -> None:
        if epoch > 3:
            late.append({name: value.clone() for name, value in state.model.state_dict().items()})

    search_epochs(state, data, settings, LIMITS, callbacks=[AtEpochEnd(look)])
    assert state.average.count == 3
    for name, value in state.average.state.items():
        if value.is_floating_point():
            torch.testing.assert_close(value, torch.stack([entry[name] for entry in late]).mean(dim=0))
    assert state.best_val_loss <= min(state.history["val_losses"])


def test_the_mean_of_the_alpha_gradients_is_what_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    """β m + (1 − β) g, started at the first gradient; carried over an epoch border and a reload."""
    settings = config(arch_grad_ema_beta=0.75, epochs=2)
    data = SearchData.split(*windows(), settings, batch_size=16)
    raw: list[torch.Tensor] = []
    used: list[torch.Tensor] = []
    original = BilevelStepper._smooth_gradients

    def spy(self: BilevelStepper) -> None:
        alpha = self.state.model.edges[0].op_logits
        raw.append(alpha.grad.clone())
        original(self)
        used.append(alpha.grad.clone())

    monkeypatch.setattr(BilevelStepper, "_smooth_gradients", spy)
    state = search_epochs(new_state(network(), settings), data, settings, LIMITS, until=1)
    again = new_state(network(), settings)
    again.load_dict(copy.deepcopy(state.to_dict()))
    search_epochs(again, data, settings, LIMITS)
    mean = raw[0]
    for step, gradient in enumerate(raw):
        mean = gradient if step == 0 else 0.75 * mean + 0.25 * gradient
        torch.testing.assert_close(used[step], mean)
    assert len(raw) == 8


def test_the_best_epoch_comes_back_with_its_temperature() -> None:
    """The mixture that is returned has the validation loss that is reported for it, whatever epochs came after."""
    train_data, val_data = windows()
    settings = config(temperature_schedule="exponential")
    data = SearchData.split(train_data, val_data, settings, batch_size=16)
    state = new_state(network(), settings)
    search_epochs(state, data, settings, LIMITS, until=2)
    state.best_val_loss, state.best_alpha_steps = -1.0, 1  # no later epoch is better
    kept = copy.deepcopy(state.best_state), state.best_temperature
    search_epochs(state, data, settings, LIMITS, until=4)
    assert state.model.temperature != kept[1]
    again = new_state(network(), settings)
    again.load_dict(state.to_dict())
    for each in (state, again):
        each.load_best()
        assert each.model.temperature == kept[1]
        for name, value in each.model.state_dict().items():
            torch.testing.assert_close(value, kept[0][name], rtol=0, atol=0)
