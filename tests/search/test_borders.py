"""What may change what: rows behind a border, the seed, the size of a batch."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from foreblocks.darts import DARTSTrainer, TimeSeriesDARTS
from foreblocks.darts.architecture.derive import derive_network
from foreblocks.darts.architecture.spec import ARCH_MODES, Macro
from foreblocks.darts.config import DEFAULT_OPS, DARTSTrainConfig
from foreblocks.darts.data.frame import SeriesFrame
from foreblocks.darts.data.prepare import Prepared, prepare
from foreblocks.darts.data.splits import Split
from foreblocks.darts.evaluation.predict import score_models
from foreblocks.darts.training.bilevel import new_state
from foreblocks.darts.training.darts_loop import SearchData, search_epochs
from foreblocks.darts.training.loop import LoopLimits

L, H, C = 16, 4, 2
SPLIT = Split((0, 260), (260, 330), (330, 480))
SMALL: dict[str, Any] = {
    "num_candidates": 3,
    "top_k": 2,
    "search_epochs": 2,
    "final_epochs": 2,
    "max_train_batches": 3,
    "keep_models": True,
    "space": {"presets": (), "channel_modes": ("mixed", "variate"), "patch_lens": (8,)},
}
ONE_EPOCH = {**SMALL, "search_epochs": 1, "final_epochs": 1, "top_k": 1, "trial_steps": 0}
FIGURES = ("mse", "rmse", "mae", "r2_score")


def prepared(noise_from: int | None = None) -> Prepared:
    """A small series; with ``noise_from`` every row from there on is replaced by large noise."""
    rng = np.random.default_rng(0)
    t = np.arange(SPLIT.test[1])[:, None]
    values = np.sin(t / np.array([4.0, 7.0])) + 0.3 * rng.standard_normal((len(t), C))
    if noise_from is not None:
        values[noise_from:] = 50.0 * np.random.default_rng(1).standard_normal(values[noise_from:].shape)
    return prepare(SeriesFrame(np.arange(len(t)), ["a", "b"], values, None), lookback=L, horizon=H, split=SPLIT)


def search(data: Prepared, **settings: Any) -> dict[str, Any]:
    trainer = DARTSTrainer(C, [8], H, L, "cpu", arch_modes=["encoder_only", "mamba"])
    return trainer.multi_fidelity_search(data.train, data.val, data.test, **settings)


def records(result: dict[str, Any]) -> list[dict[str, Any]]:
    """The candidates with their metrics and scores, without their networks and times."""
    kept = [{k: v for k, v in c.items() if k not in ("model", "phase1_dt", "trial")} for c in result["candidates"]]
    trials = [c.get("trial", {}).get("val_loss") for c in result["candidates"]]
    return [{**record, "trial_loss": loss} for record, loss in zip(kept, trials, strict=True)]


def searched(result: dict[str, Any]) -> dict[int, dict[str, torch.Tensor]]:
    """Every alpha and every weight of every searched network."""
    return {
        entry["candidate"]["candidate_id"]: entry["model"].state_dict()
        for entry in result["trained_non_derived_candidates"]
    }


def same_bits(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return list(a) == list(b) and all(torch.equal(value, b[name]) for name, value in a.items())


def assert_same_choices_and_weights(a: dict[str, Any], b: dict[str, Any]) -> None:
    assert records(a) == records(b)
    assert a["arch_spec"] == b["arch_spec"]
    assert a["blend"]["weights"] == b["blend"]["weights"]
    assert a["final_discrete_architecture"] == b["final_discrete_architecture"]
    assert a["final_results"]["val_losses"] == b["final_results"]["val_losses"]
    left, right = searched(a), searched(b)
    assert list(left) == list(right)
    assert all(same_bits(left[key], right[key]) for key in left)
    assert same_bits(a["final_model"].state_dict(), b["final_model"].state_dict())


@pytest.fixture(scope="module")
def result() -> dict[str, Any]:
    return search(prepared(), **SMALL)


def test_rows_after_the_validation_border_change_only_test_figures(result: dict[str, Any]) -> None:
    noisy = prepared(SPLIT.val[1])
    assert noisy.scaler.to_dict() == prepared().scaler.to_dict()
    other = search(noisy, **SMALL)
    assert_same_choices_and_weights(result, other)
    assert other["final_results"]["test_loss"] > 100 * result["final_results"]["test_loss"]
    for name, figures in result["baselines"].items():
        assert other["baselines"][name]["mse"] > figures["mse"]


def test_the_same_seed_gives_the_same_bits_and_another_seed_others(result: dict[str, Any]) -> None:
    again = search(prepared(), **SMALL)
    assert_same_choices_and_weights(result, again)
    assert again["final_results"]["final_metrics"] == result["final_results"]["final_metrics"]
    other = search(prepared(), **SMALL, seed=1)
    assert records(other) != records(result)
    assert not same_bits(other["final_model"].state_dict(), result["final_model"].state_dict())


def test_rows_after_the_train_border_leave_what_is_not_validated() -> None:
    """Scaler, candidates with their scores, and the alphas and weights of a run of a fixed number of epochs."""
    clean, noisy = prepared(), prepared(SPLIT.train[1])
    assert noisy.scaler.to_dict() == clean.scaler.to_dict()
    a, b = search(clean, **ONE_EPOCH), search(noisy, **ONE_EPOCH)
    assert records(a) == records(b)
    assert list(searched(a)) == list(searched(b))
    assert all(same_bits(state, searched(b)[key]) for key, state in searched(a).items())
    assert a["trained_candidates"][0]["search_results"]["alpha_steps"] > 0
    network = [r["final_model"].parts["network"].state_dict() for r in (a, b)]
    assert same_bits(*network)
    assert a["final_results"]["val_losses"] != b["final_results"]["val_losses"]


@pytest.mark.parametrize("mode", ARCH_MODES)
def test_every_alpha_and_every_op_weight_moves(mode: str) -> None:
    data = prepared()
    macro = Macro(C, L, H, hidden_dim=8, arch_mode=mode, num_heads=2)
    model = TimeSeriesDARTS.from_macro(macro, num_cells=1, num_nodes=3, selected_ops=DEFAULT_OPS)
    assert all(edge.names == tuple(DEFAULT_OPS) for edge in model.edges)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    config = DARTSTrainConfig(epochs=2, warmup_epochs=0, architecture_update_freq=1, patience=9, loss_type="mse")
    parts = SearchData.split(data.train, data.val, config, batch_size=8)
    state = search_epochs(new_state(model, config), parts, config, LoopLimits(batch_size=8, max_train_batches=3))
    assert state.alpha_steps > 0
    assert [name for name, p in model.named_parameters() if torch.equal(p, before[name])] == []


@pytest.mark.parametrize("batch_size", [1, 32, 128])
def test_figures_do_not_depend_on_the_batch_size(result: dict[str, Any], batch_size: int) -> None:
    data = prepared()
    final = {"blend": result["final_model"], "network": result["final_model"].parts["network"]}
    scores = score_models(final, data.test, batch_size=batch_size)
    for name, expected in (("blend", result["final_results"]["final_metrics"]), ("network", result["network"])):
        assert {k: scores[name][k] for k in FIGURES} == pytest.approx({k: expected[k] for k in FIGURES}, abs=1e-6)


def test_the_final_evaluation_does_not_depend_on_the_batch_size_of_the_test_loader() -> None:
    data = prepared()
    trainer = DARTSTrainer(C, [8], H, L, "cpu")
    outcomes = []
    for batch_size in (1, 32, 128):
        model = derive_network(trainer.build_candidate(trainer.make_candidate(0, 0)))
        test = DataLoader(data.test, batch_size=batch_size)
        trained = trainer.train_final_model(model, data.train, data.val, test, epochs=1, max_train_batches=2)
        outcomes.append({**trained["final_metrics"], "test_loss": trained["test_loss"]})
    assert outcomes[1] == pytest.approx(outcomes[0], abs=1e-6)
    assert outcomes[2] == pytest.approx(outcomes[0], abs=1e-6)
