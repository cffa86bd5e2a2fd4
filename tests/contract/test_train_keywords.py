"""Every keyword of ``train_darts_model`` does something: it changes the search, or says that and why it does not."""

from __future__ import annotations

import inspect
import logging
import warnings
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch

from foreblocks.darts import DARTSTrainer, TimeSeriesDARTS
from foreblocks.darts._core.keywords import keyword
from foreblocks.darts._core.seeding import seeded
from foreblocks.darts.config import DARTSTrainConfig
from foreblocks.darts.data.windows import WindowDataset
from foreblocks.darts.training import darts_loop

PARAMETERS = {
    name: p.default
    for name, p in inspect.signature(DARTSTrainer.train_darts_model).parameters.items()
    if p.kind is inspect.Parameter.KEYWORD_ONLY
}
BASE: dict[str, Any] = {"epochs": 3, "warmup_epochs": 0, "architecture_update_freq": 1, "arch_learning_rate": 0.03}
BASE |= {"max_train_batches": 4, "max_val_batches": 2, "collapse_every": 0}
SHRINK: dict[str, Any] = {"hybrid_pruning_start_epoch": 0, "hybrid_pruning_interval": 1}
SHRINK |= {"hybrid_pruning_base_threshold": 1.0, "hybrid_pruning_strategy": "probability"}
UNROLL = {"hessian_penalty_weight": 1.0}
ONE_STEP = {"epochs": 1, "max_train_batches": 1}
STILL = {"arch_learning_rate": 0.0, "model_learning_rate": 0.0}

WILD = {"epochs": 6, "model_learning_rate": 1.0, "max_train_batches": 2, "collapse_every": 1}

#: keyword → (another value, what must be set beside it for the keyword to matter)
EFFECTS: dict[str, tuple[Any, dict[str, Any]]] = {
    "epochs": (2, {}),
    "arch_learning_rate": (0.1, {}),
    "model_learning_rate": (1e-2, {}),
    "model_weight_decay": (0.5, {}),
    "arch_weight_decay": (0.5, {}),
    # A rate that is far too large: only then is the mean of noisy epochs better than the best of them.
    "use_swa": (True, {**WILD, "model_learning_rate": 2.0, "collapse_growth": None}),
    "use_bilevel_optimization": (False, {}),
    "gradient_accumulation_steps": (2, {}),
    "loss_type": ("mae", {}),
    "patience": (1, {**STILL, "temperature_schedule": "constant"}),
    "warmup_epochs": (2, {}),
    "architecture_update_freq": (3, {}),
    "regularization_types": (["entropy"], {}),
    "regularization_weights": ([5.0], {"regularization_types": ["entropy"]}),
    "use_regularization": (False, {}),
    "temperature_schedule": ("exponential", {}),
    "hessian_penalty_weight": (1.0, {}),
    "hessian_fd_eps": (0.5, UNROLL),
    "hessian_update_freq": (2, UNROLL),
    "edge_diversity_weight": (5.0, {}),
    "edge_usage_balance_weight": (5.0, {}),
    "edge_identity_cap": (0.9, {"edge_identity_cap_weight": 5.0}),
    "edge_identity_cap_weight": (5.0, {"edge_identity_cap": 0.0}),
    "edge_sharpening_max_weight": (5.0, {}),
    "edge_sharpening_start_frac": (0.9, {"edge_sharpening_max_weight": 5.0}),
    "progressive_shrinking": (False, SHRINK),
    "hybrid_pruning_start_epoch": (2, SHRINK),
    "hybrid_pruning_interval": (2, SHRINK),
    "hybrid_pruning_base_threshold": (0.0, SHRINK),
    "hybrid_pruning_strategy": ("entropy", SHRINK),
    "bilevel_split_seed": (1, {}),
    "arch_grad_ema_beta": (0.9, {}),
    "beta_darts_weight": (50.0, {}),
    "moe_balance_weight": (5.0, {"ffn": "moe"}),
    "use_gdas": (True, {}),
    "relaxation": ("drnas", {}),
    "perturbation": ("random", {}),
    "perturbation_radius": (2.0, {"perturbation": "random"}),
    "perturbation_steps": (1, {"perturbation": "adversarial"}),
    "collapse_growth": (None, {**WILD, "epochs": 10, "collapse_growth": 1.1}),
    "collapse_every": (1, {}),
    "alpha_init": ("zero_cost", {}),
    "config": (DARTSTrainConfig(edge_diversity_weight=5.0), {}),
    "seed": (1, {}),
    "max_train_batches": (2, {}),
    "max_val_batches": (1, {}),
}
#: keywords whose effect is seen elsewhere: in the log, on CUDA, in the events, in rounding (training/test_compile.py)
SEEN_ELSEWHERE = {"verbose", "use_amp", "callbacks", "compile"}
WORKS = [name for name in PARAMETERS if keyword("train_darts_model", name).status == "works"]
ALIASES: dict[str, Any] = {
    "weight_decay": 0.5,
    "identity_dominance_cap": 0.9,
    "edge_sharpening_strength": 2.0,
    "edge_sharpening_start_epoch": 1,
    "use_progressive_training": False,
    "pruning_enabled": False,
    "pruning_start_epoch": 1,
    "pruning_threshold": 0.7,
}


@cache
def loaders() -> tuple[WindowDataset, WindowDataset]:
    rng = np.random.default_rng(0)
    t = np.arange(400)[:, None]
    values = np.sin(t / np.array([4.0, 7.0])) + 0.3 * rng.standard_normal((400, 2))
    series = torch.as_tensor(values, dtype=torch.float32)
    return WindowDataset(series, 16, 4, first=0, last=300), WindowDataset(series, 16, 4, first=284, last=400)


def train(**keywords: Any) -> dict[str, Any]:
    with seeded("network"):
        model = TimeSeriesDARTS(
            input_dim=2, hidden_dim=4, latent_dim=4, forecast_horizon=4, seq_length=16, num_cells=1, num_nodes=3,
            selected_ops=["Identity", "TimeConv", "GRN"], arch_mode="encoder_only", num_heads=1,
            num_layers=1 if "ffn" in keywords else 0, transformer_ffn_variant=keywords.pop("ffn", "swiglu"),
        )  # fmt: skip
        with torch.no_grad():  # alphas far from equal, so that shrinking has something to remove
            for edge in model.edges:
                edge.op_logits.copy_(torch.tensor([0.5, 0.0, -1.0]))
    trainer = DARTSTrainer(2, [4], 4, 16, "cpu")
    return trainer.train_darts_model(model, *loaders(), **{**BASE, **keywords})


def trace(result: dict[str, Any]) -> tuple[Any, ...]:
    state = result["model"].state_dict()
    weights = {name: value.tolist() for name, value in state.items()}
    return result["train_losses"], result["val_losses"], str(result["collapse"]), weights


@cache
def _baseline(beside: tuple[tuple[str, Any], ...]) -> tuple[Any, ...]:
    return trace(train(**{name: list(v) if isinstance(v, tuple) else v for name, v in beside}))


def baseline(beside: dict[str, Any]) -> tuple[Any, ...]:
    """The trace of a search with the keywords of ``beside`` only, computed once."""
    return _baseline(tuple(sorted((name, tuple(v) if isinstance(v, list) else v) for name, v in beside.items())))


def test_every_keyword_that_works_has_its_entry() -> None:
    assert sorted(WORKS) == sorted([*EFFECTS, *SEEN_ELSEWHERE])


@pytest.mark.parametrize("name", EFFECTS)
def test_a_keyword_that_works_changes_the_search(name: str) -> None:
    value, beside = EFFECTS[name]
    assert {**PARAMETERS, **BASE, **beside}[name] != value
    assert baseline(beside) != trace(train(**{**beside, name: value}))


def test_the_same_keywords_give_the_same_search() -> None:
    """Without this the test above could not fail."""
    assert trace(train()) == baseline({})


@pytest.mark.parametrize("name", [n for n in PARAMETERS if keyword("train_darts_model", n).status == "alias"])
def test_an_alias_warns_and_equals_the_keyword_it_stands_for(name: str) -> None:
    entry = keyword("train_darts_model", name)
    value = ALIASES[name]
    beside = {**SHRINK, "edge_sharpening_max_weight": 5.0, "edge_identity_cap_weight": 5.0}
    beside.pop(str(entry.replacement), None)
    with pytest.warns(DeprecationWarning, match=f"{name} is deprecated, use {entry.replacement}"):
        old = train(**beside, **{name: value})
    folded = value if entry.convert is None else entry.convert(value, {**PARAMETERS, **BASE})
    new = train(**beside, **{str(entry.replacement): folded})
    assert trace(old) == trace(new)
    assert trace(old) != baseline(beside)


@pytest.mark.parametrize("name", [n for n in PARAMETERS if keyword("train_darts_model", n).status == "obsolete"])
def test_an_obsolete_keyword_is_silent_at_its_default_and_said_otherwise(
    name: str, caplog: pytest.LogCaptureFixture
) -> None:
    entry = keyword("train_darts_model", name)
    with caplog.at_level(logging.WARNING, logger="foreblocks.darts"), warnings.catch_warnings():
        warnings.simplefilter("error")
        train(**{name: entry.default}, **ONE_STEP)
        assert "has no effect" not in caplog.text
        other = train(**{name: 3 if entry.default is None else not entry.default})
    assert f"{name}=" in caplog.text
    assert entry.reason in caplog.text
    assert trace(other) == baseline({})


def test_nothing_is_pending() -> None:
    assert [n for n in PARAMETERS if keyword("train_darts_model", n).status == "pending"] == []


@pytest.mark.parametrize("verbose", [True, False])
def test_verbose_decides_whether_epochs_are_logged(verbose: bool, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, logger="foreblocks.darts"):
        train(verbose=verbose)
    assert ("search epoch 3/3" in caplog.text) is verbose


@pytest.mark.parametrize("use_amp", [True, False])
def test_use_amp_reaches_the_loop(use_amp: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """What it does on CUDA is tested there; on a CPU it changes nothing."""
    seen: list[bool] = []
    original = darts_loop.BilevelStepper

    def spy(state: Any, config: Any, plan: Any, limits: Any, loss_fn: Any) -> Any:
        seen.append(limits.use_amp)
        return original(state, config, plan, limits, loss_fn)

    monkeypatch.setattr(darts_loop, "BilevelStepper", spy)
    result = train(use_amp=use_amp)
    assert seen == [use_amp]
    assert trace(result) == baseline({})


@pytest.mark.skipif(not torch.cuda.is_available(), reason="autocast is used on CUDA only")
def test_use_amp_changes_the_search_on_cuda() -> None:
    with seeded("network"):
        models = [TimeSeriesDARTS(2, 8, 8, 4, 16, selected_ops=["Identity", "GRN"]) for _ in range(2)]
    models[1].load_state_dict(models[0].state_dict())
    trainer = DARTSTrainer(2, [8], 4, 16, "cuda")
    results = [
        trainer.train_darts_model(m, *loaders(), **BASE, use_amp=a) for m, a in zip(models, (True, False), strict=True)
    ]
    assert results[0]["val_losses"] != results[1]["val_losses"]
    assert results[0]["val_losses"][-1] == pytest.approx(results[1]["val_losses"][-1], rel=0.2)


def test_callbacks_receive_every_epoch() -> None:
    class Counting:
        epochs = 0

        def on_event(self, _event: Any, payload: dict[str, Any]) -> None:
            self.epochs += "val_loss" in payload

    counting = Counting()
    train(callbacks=[counting])
    assert counting.epochs == 3
