"""From a searched network to one architecture, on planted tasks."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from foreblocks.darts import DARTSTrainer, TimeSeriesDARTS
from foreblocks.darts._core.errors import DivergedError, InvalidArgument
from foreblocks.darts.architecture.build import build_network
from foreblocks.darts.architecture.derive import derive_spec, searched_mixture
from foreblocks.darts.config import DARTSTrainConfig
from foreblocks.darts.data.windows import WindowDataset
from foreblocks.darts.ops import registry
from foreblocks.darts.training import select as select_module
from foreblocks.darts.training.bilevel import new_state
from foreblocks.darts.training.darts_loop import SearchData, block_loss, derived_loss, search_epochs, train_darts_model
from foreblocks.darts.training.loop import LoopLimits
from foreblocks.darts.training.select import DeriveSettings, PerturbRule, Selection, select_architecture

L, LAG = 8, 4
POOL = ["Identity", "PlantedNoise", "PlantedLag"]


class PlantedLag(nn.Module):
    """The useful op: what was LAG steps ago."""

    def __init__(self, dim: int, length: int, *, dropout: float = 0.0) -> None:
        super().__init__()

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([torch.zeros_like(x[:, :LAG]), x[:, :-LAG]], dim=1)


class PlantedNoise(nn.Module):
    """The noise op: a fixed pattern, with fresh noise on top in training."""

    def __init__(self, dim: int, length: int, *, dropout: float = 0.0) -> None:
        super().__init__()
        self.register_buffer("pattern", torch.randn(length, dim))

    def forward(self, x: Tensor) -> Tensor:
        return self.pattern.expand_as(x) + (torch.randn_like(x) if self.training else 0.0)


@pytest.fixture(autouse=True)
def planted_ops() -> Iterator[None]:
    registry.register_op("PlantedLag", family="conv", causal=True, cost=0.1)(PlantedLag)
    registry.register_op("PlantedNoise", family="mlp", causal=True, cost=0.1)(PlantedNoise)
    yield
    for name in ("PlantedLag", "PlantedNoise"):
        del registry._REGISTRY[name]


@dataclass
class Searched:
    """A searched network with everything that its derivation needs."""

    model: TimeSeriesDARTS
    data: SearchData
    config: DARTSTrainConfig
    limits: LoopLimits

    def select(self, *arguments: Any, **keywords: Any) -> Selection:
        return select_architecture(
            self.model, self.data, self.config, self.limits, DeriveSettings(*arguments, **keywords)
        )


def searched(
    seed: int, *, epochs: int = 4, num_nodes: int = 2, alphas: list[float] | None = None, **changes: Any
) -> Searched:
    """Search for the op that reads the last token's past: channel 1 is channel 0 as it was LAG steps ago.

    ``alphas`` fixes the op logits of every edge, and only the weights learn.
    """
    draw = torch.Generator().manual_seed(seed)
    a = torch.randn(900, 1, generator=draw)
    b = torch.zeros(900, 1)
    b[LAG + 1 :] = a[: -LAG - 1]
    series = torch.cat([a, b], dim=1)
    train, val = (WindowDataset(series, L, 1, first=first, last=last) for first, last in ((0, 700), (700, 900)))
    torch.manual_seed(seed)
    model = TimeSeriesDARTS(
        input_dim=2, hidden_dim=8, latent_dim=8, forecast_horizon=1, seq_length=L, num_cells=1, num_nodes=num_nodes,
        selected_ops=POOL, arch_mode="encoder_only", num_layers=0, series_norm="none", head="last", dropout=0.0,
        **changes,
    )  # fmt: skip
    config = DARTSTrainConfig(
        epochs=epochs, loss_type="mse", warmup_epochs=0, architecture_update_freq=2, model_learning_rate=2e-2,
        arch_learning_rate=3e-2 if alphas is None else 0.0, patience=99,
    )  # fmt: skip
    if alphas is not None:
        with torch.no_grad():
            for edge in model.edges:
                edge.op_logits.copy_(torch.tensor(alphas))
    limits = LoopLimits(batch_size=32, seed=seed)
    data = SearchData.split(train, val, config, batch_size=32)
    state = search_epochs(new_state(model, config), data, config, limits)
    model.load_state_dict(state.best_state)
    return Searched(model, data, config, limits)


@pytest.mark.parametrize("seed", range(5))
def test_the_useful_op_is_chosen_by_both_rules(seed: int) -> None:
    selection = searched(seed).select("perturb", tune_steps=5, rivals=1)
    by_name = {contender.name: contender for contender in selection.contenders}
    assert set(by_name) == {"argmax", "perturb", "random_1"}
    for name in ("argmax", "perturb"):
        assert by_name[name].spec.op_counts() == {"PlantedLag": 1}
    # With equal tuning on equal batches the same architecture gets the same loss.
    assert by_name["argmax"].loss == by_name["perturb"].loss
    assert selection.chosen.spec.op_counts() == {"PlantedLag": 1}


def test_perturbation_sees_what_misleading_alphas_hide() -> None:
    found = searched(0, epochs=8, alphas=[0.0, 0.3, 0.0])
    selection = found.select("perturb", tune_steps=5)
    assert {c.name: list(c.spec.op_counts()) for c in selection.contenders} == {
        "perturb": ["PlantedLag"],
        "argmax": ["PlantedNoise"],
    }
    assert selection.chosen.name == "perturb"


def test_inputs_are_judged_by_their_absence() -> None:
    found = searched(0, num_nodes=4)
    costs = {3: 5.0, 4: 1.0, 5: 3.0}
    rule = PerturbRule(lambda model: costs[model.cells[0]._dropped])
    assert rule.inputs(found.model, 0, [3, 4, 5], 2) == [3, 5]
    assert found.model.cells[0]._dropped is None


@pytest.mark.parametrize("use_gdas", [False, True])
def test_the_chosen_network_inherits_its_weights_and_the_gap_is_what_it_says(use_gdas: bool) -> None:
    found = searched(1, num_nodes=4, use_gdas=use_gdas)
    before = {key: value.clone() for key, value in found.model.state_dict().items()}
    selection = found.select("perturb", tune_steps=3, rivals=2, windows=64)
    assert all(torch.equal(value, before[key]) for key, value in found.model.state_dict().items())
    for contender in selection.contenders:
        counts = [sum(e.target == node for e in contender.spec.cells[0].edges) for node in (1, 2, 3)]
        assert counts == [1, 2, 2]
        network = build_network(contender.spec, seed=9)
        network.load_state_dict(contender.state)
        assert block_loss(network.eval(), found.data.val, found.limits) == pytest.approx(contender.loss, rel=1e-5)
    with searched_mixture(found.model):
        mixed = block_loss(found.model, found.data.val, found.limits)
    assert selection.mixed_loss == mixed
    assert selection.gap == selection.chosen.loss - mixed
    losses = [c.loss for c in selection.contenders]
    assert losses == sorted(losses)
    again = found.select("perturb", tune_steps=3, rivals=2, windows=64)
    assert [(c.name, c.loss, c.spec) for c in again.contenders] == [
        (c.name, c.loss, c.spec) for c in selection.contenders
    ]


def test_who_diverges_is_out_of_the_race(monkeypatch: pytest.MonkeyPatch) -> None:
    found = searched(2, epochs=1)
    original = select_module.block_loss
    calls: list[int] = []
    fails = {2}

    def block_loss_of(*arguments: Any, **keywords: Any) -> float:
        calls.append(1)
        if len(calls) in fails:
            raise DivergedError("the loss stopped being finite")
        return original(*arguments, **keywords)

    monkeypatch.setattr(select_module, "block_loss", block_loss_of)
    assert [c.name for c in found.select(rivals=1, tune_steps=0).contenders] == ["random_1"]
    calls.clear()
    fails.add(3)
    with pytest.raises(DivergedError):
        found.select(rivals=1, tune_steps=0)


def test_tuning_helps_and_leaves_the_alphas() -> None:
    found = searched(2, epochs=1)
    plain = found.select().chosen
    assert plain.loss == derived_loss(found.model, found.data.val, found.limits)
    assert plain.spec == derive_spec(found.model)
    tuned = next(c for c in found.select(rivals=1, tune_steps=30).contenders if c.name == "argmax")
    assert tuned.spec == plain.spec
    assert tuned.loss < plain.loss


def test_pruned_ops_are_chosen_by_no_rule() -> None:
    found = searched(0, num_nodes=3)
    for edge in found.model.edges:
        edge.keep_only(torch.tensor([True, True, False]))
    for contender in found.select("perturb", tune_steps=0, rivals=4).contenders:
        assert "PlantedLag" not in contender.spec.op_counts()


def test_the_trainer_derives_with_and_without_data() -> None:
    found = searched(0, epochs=8, alphas=[0.0, 0.3, 0.0])
    trainer = DARTSTrainer(2, [8], 1, L, "cpu", POOL)
    data = {"train_loader": found.data.train, "val_loader": found.data.val}
    assert trainer.derive_final_architecture(found.model).spec.op_counts() == {"PlantedNoise": 1}
    raced = trainer.derive_final_architecture(found.model, derive="perturb", **data, config=found.config)
    assert raced.spec.op_counts() == {"PlantedLag": 1}
    assert not raced.training
    with pytest.raises(InvalidArgument, match="val_loader"):
        trainer.derive_final_architecture(found.model, derive="perturb", train_loader=found.data.train)
    with pytest.raises(InvalidArgument, match="TimeSeriesDARTS"):
        trainer.derive_final_architecture(nn.Linear(1, 1), derive="perturb", **data)


def test_a_training_reports_its_discretisation_gap() -> None:
    found = searched(0, epochs=1)
    result = train_darts_model(found.model, found.data.train, found.data.val, found.config, found.limits)
    gap = result["discretisation"]
    assert gap["mixed_loss"] == block_loss(result["model"], found.data.val, found.limits)
    assert gap["derived_loss"] == derived_loss(result["model"], found.data.val, found.limits)
    assert gap["gap"] == gap["derived_loss"] - gap["mixed_loss"] != 0.0


@pytest.mark.parametrize("wrong", [{"method": "best"}, {"tune_steps": -1}, {"rivals": -1}, {"windows": 0}])
def test_bad_settings_are_named(wrong: dict[str, Any]) -> None:
    with pytest.raises(InvalidArgument, match=str(next(iter(wrong.values())))):
        DeriveSettings(**wrong)
