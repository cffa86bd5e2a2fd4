"""The staged search as a whole: what it returns, what may and may not change it, and what it survives."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from foreblocks.darts import DARTSConfig, DARTSTrainer
from foreblocks.darts._core.errors import DataError, InvalidArgument, SearchFailed
from foreblocks.darts.architecture.build import build_network
from foreblocks.darts.architecture.spec import ARCH_MODES, OpSpec
from foreblocks.darts.config import DARTSTrainConfig
from foreblocks.darts.data.windows import WindowDataset
from foreblocks.darts.ops.registry import get_op
from foreblocks.darts.search import multi_fidelity, tasks
from foreblocks.darts.search.settings import rung_epochs
from foreblocks.darts.training.checkpoint import load_folder
from foreblocks.darts.training.loop import LoopLimits

L, H, C = 16, 4, 2
SMALL = {
    "num_candidates": 3,
    "top_k": 2,
    "search_epochs": 2,
    "final_epochs": 2,
    "max_samples": 16,
    "max_train_batches": 4,
}


def series(rows: int = 600, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    t = np.arange(rows)[:, None]
    return np.sin(t / np.array([4.0, 7.0])) + 0.3 * rng.standard_normal((rows, C))


def windows(values: np.ndarray, borders: tuple[int, int] = (360, 480)) -> list[WindowDataset]:
    tensor = torch.as_tensor(values, dtype=torch.float32)
    a, b = borders
    parts = ((0, a), (a - L, b), (b - L, len(values)))
    return [WindowDataset(tensor, L, H, first=first, last=last) for first, last in parts]


def trainer(**changes) -> DARTSTrainer:
    settings = {"input_dim": C, "hidden_dims": [8], "forecast_horizon": H, "seq_length": L, "device": "cpu"}
    return DARTSTrainer(**{**settings, **changes})


def figures(result: dict) -> tuple:
    weights = {k: v.clone() for k, v in result["final_model"].parts["network"].state_dict().items()}
    ids = [(c["candidate_id"], c["selected_ops"], c["score"]) for c in result["candidates"]]
    alphas = [t["search_results"]["alpha_values"] for t in result["trained_candidates"]]
    return (
        ids,
        (result["arch_spec"], result["final_discrete_architecture"]),
        weights,
        alphas,
        result["blend"]["weights"],
    )


def same(a: tuple, b: tuple) -> bool:
    ids, spec, weights, alphas, blend = a
    if (ids, spec, blend) != (b[0], b[1], b[4]) or list(weights) != list(b[2]):
        return False
    if not all(torch.equal(weights[k], b[2][k]) for k in weights):
        return False
    pairs = zip(_values(alphas), _values(b[3]), strict=True)
    return all(np.array_equal(x, y) for x, y in pairs)


def _values(alphas: list) -> list[np.ndarray]:
    return [value for run in alphas for snapshot in run for _, value in snapshot]


@pytest.fixture(scope="module")
def result() -> dict:
    return trainer().multi_fidelity_search(*windows(series()), **SMALL)


def test_documented_keys(result: dict) -> None:
    expected = {
        "final_model", "candidates", "top_candidates", "trained_candidates", "best_candidate", "final_results",
        "final_config", "final_discrete_architecture", "search_config", "trained_non_derived_candidates",
        "final_reset_modules", "baselines", "blend", "arch_spec",
    }  # fmt: skip
    assert expected <= set(result)
    assert {"last_value", "ridge_shared", "ridge_per_channel"} <= set(result["baselines"])
    assert {"mse", "rmse", "mae", "mape", "r2_score"} <= set(result["final_results"]["final_metrics"])
    assert result["best_candidate"] in result["trained_candidates"]
    assert all(entry["model"] is None for entry in result["candidates"])
    assert sum(result["blend"]["weights"].values()) == pytest.approx(1.0)
    assert build_network(result["arch_spec"], seed=0)(torch.randn(2, L, C)).shape == (2, H, C)


def test_alphas_are_updated_in_the_search(result: dict) -> None:
    assert all(entry["search_results"]["alpha_steps"] > 0 for entry in result["trained_candidates"])


def test_two_worker_processes_give_the_same_bits(result: dict) -> None:
    parallel = trainer().multi_fidelity_search(*windows(series()), **SMALL, max_workers=2)
    assert same(figures(result), figures(parallel))


def test_the_test_set_decides_nothing(result: dict) -> None:
    values = series()
    train, val, _ = windows(values)
    noise = windows(values + 1e3 * np.random.default_rng(9).standard_normal(values.shape))[2]
    other = trainer().multi_fidelity_search(train, val, noise, **SMALL)
    assert same(figures(result), figures(other))
    assert other["final_results"]["test_loss"] != result["final_results"]["test_loss"]


def test_a_rung_carries_its_state_exactly() -> None:
    train, val, _ = windows(series())
    t = trainer()
    candidate = t.make_candidate(0, 0)
    config = DARTSTrainConfig(epochs=5, patience=9)  # after the last epoch not all of a state is there
    limits = LoopLimits(max_train_batches=4)
    task = tasks.RungTask(candidate, 1, train, val, config, limits, 4, None)
    whole = tasks.train_rung(task)
    half = tasks.train_rung(tasks.RungTask(candidate, 1, train, val, config, limits, 2, None))
    rest = tasks.train_rung(tasks.RungTask(candidate, 1, train, val, config, limits, 4, half["state"]))
    assert whole["derived_loss"] == rest["derived_loss"]
    assert all(torch.equal(v, rest["state"]["model"][k]) for k, v in whole["state"]["model"].items())


def test_one_failing_candidate_costs_only_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    real = tasks.build_candidate

    def sometimes(candidate, **kwargs):
        if candidate == trainer().make_candidate(0, 1):
            raise RuntimeError("planted")
        return real(candidate, **kwargs)

    monkeypatch.setattr(tasks, "build_candidate", sometimes)
    result = trainer().multi_fidelity_search(*windows(series()), **SMALL)
    assert list(result["failed_candidates"]) == [1]
    assert len(result["candidates"]) == 2

    def never(candidate, **kwargs):
        raise RuntimeError("planted")

    monkeypatch.setattr(tasks, "build_candidate", never)
    with pytest.raises(SearchFailed, match="planted"):
        trainer().multi_fidelity_search(*windows(series()), **SMALL)


@pytest.mark.parametrize("mode", ARCH_MODES)
def test_each_mode_saves_and_loads(mode: str, tmp_path: Path) -> None:
    t = trainer(arch_modes=[mode])
    small = {**SMALL, "num_candidates": 1, "top_k": 1}
    result = t.multi_fidelity_search(*windows(series()), **small, run_dir=tmp_path / "run")
    x = torch.randn(3, L, C)
    t.save_best_model(str(tmp_path / "best.pth"))
    loaded = trainer()
    content = loaded.load_model(str(tmp_path / "best.pth"))
    assert {"model_state_dict", "final_metrics", "training_info", "search_config", "arch_spec"} <= set(content)
    for model in (loaded.final_model, load_folder(tmp_path / "run" / "model")):
        torch.testing.assert_close(model(x), result["final_model"](x), rtol=0, atol=0)
    assert json.loads((tmp_path / "run" / "result.json").read_text())["verdict"] == result["verdict"]


def test_bad_input_is_named(tmp_path: Path) -> None:
    parts = windows(series())
    with pytest.raises(TypeError, match="num_candidates"):
        trainer().multi_fidelity_search(*parts, num_candidate=3)
    with pytest.raises(InvalidArgument, match="top_k"):
        trainer().multi_fidelity_search(*parts, num_candidates=2, top_k=3)
    with pytest.raises(InvalidArgument, match="search_epochs"):
        trainer().multi_fidelity_search(*parts, **{**SMALL, "search_epochs": 0})
    with pytest.raises(DataError, match="channels"):
        trainer(input_dim=3).multi_fidelity_search(*parts, **SMALL)
    (tmp_path / "file").write_text("")
    with pytest.raises(InvalidArgument, match="run_dir"):
        trainer().multi_fidelity_search(*parts, **SMALL, run_dir=tmp_path / "file")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"max_train_batches": 0}, "max_train_batches=0"),
        ({"max_val_batches": -1}, "max_val_batches=-1"),
        ({"final_max_train_batches": -5}, "final_max_train_batches=-5"),
        ({"seasonal_period": 0}, "seasonal_period=0"),
        ({"loss_type": "mze"}, "'mze' is not known"),
        ({"final_loss_type": "mze"}, "'mze' is not known"),
    ],
)
def test_bad_sizes_and_losses_are_said_before_any_work(change: dict, message: str, tmp_path: Path) -> None:
    with pytest.raises(InvalidArgument, match=message):
        trainer().multi_fidelity_search(*windows(series()), **{**SMALL, **change}, run_dir=tmp_path / "run")
    assert list(tmp_path.iterdir()) == []


def test_a_page_that_cannot_be_made_costs_only_itself(tmp_path: Path, monkeypatch, caplog) -> None:
    def broken(_path: Path) -> None:
        raise IndexError("no such node")

    monkeypatch.setattr(multi_fidelity, "write_page", broken)
    small = {**SMALL, "num_candidates": 1, "top_k": 1, "search_epochs": 1, "final_epochs": 1}
    assert trainer().multi_fidelity_search(*windows(series()), **small, run_dir=tmp_path)["verdict"]
    assert "the page of the run was not written: IndexError: no such node" in caplog.text


def test_config_object_and_rungs() -> None:
    config = DARTSConfig(input_dim=C, forecast_horizon=H, seq_length=L)
    config.search.search_epochs = 20
    assert rung_epochs(config.search) == [2, 4, 8, 16, 20]
    t = DARTSTrainer(config=config, device="cpu")
    assert (t.input_dim, t.seq_length, t.forecast_horizon) == (C, L, H)


def test_keywords_of_the_trainer_win_over_its_configuration() -> None:
    config = DARTSConfig(input_dim=C, seq_length=L, device="cpu")
    config.space.hidden_dims = [8]
    config.space.family_range = (2, 2)
    config.space.arch_modes = ["mamba"]
    t = DARTSTrainer(seq_length=20, hidden_dims=[16], family_range=[1, 2], config=config)
    assert (t.input_dim, t.seq_length, t.device) == (C, 20, "cpu")
    assert (t.hidden_dims, t.family_range, t.arch_modes) == ([16], (1, 2), ["mamba"])
    stored = DARTSTrainer(config=config)
    assert (stored.seq_length, stored.hidden_dims, stored.family_range) == (L, [8], (2, 2))
    with pytest.raises(InvalidArgument, match=r"hidden_dims=\[\]"):
        DARTSTrainer(hidden_dims=[], device="cpu")
    with pytest.raises(InvalidArgument, match="seq_length=0"):
        DARTSTrainer(seq_length=0, device="cpu")


def test_a_threshold_of_two_lags_is_found() -> None:
    """The Lozi map ``x' = 1 - 1.7 |x| + 0.5 x_before``: chaotic, so no linear map follows it, nor does Identity."""
    x = [0.05, 0.02]
    for _ in range(2100):
        x.append(1.0 - 1.7 * abs(x[-1]) + 0.5 * x[-2])
    values = np.array(x[100:])[:, None]
    train, val, test = windows((values - values.mean()) / values.std(), (1400, 1700))
    t = trainer(
        input_dim=1, hidden_dims=[16], forecast_horizon=H, arch_modes=["encoder_only"],
        all_ops=["Identity", "TimeConv", "ResidualMLP"],
    )  # fmt: skip
    space = {
        "channel_modes": ("mixed",),
        "series_norms": ("none",),
        "heads": ("flatten",),
        "patch_lens": (1,),
        "presets": (),
    }
    result = t.multi_fidelity_search(
        train, val, test, num_candidates=2, top_k=1, search_epochs=2, final_epochs=8, loss_type="mse", derive="perturb",
        final_loss_type="mse", final_learning_rate=1e-2, space=space,
    )  # fmt: skip
    ops = result["op_counts"]
    assert ops.get("Identity", 0) <= 0.5 * sum(ops.values())
    ridge = min(result["baselines"][name]["mse"] for name in ("ridge_shared", "ridge_per_channel"))
    assert result["network"]["mse"] < ridge / 3
    derivation = result["best_candidate"]["derivation"]
    assert {c["name"] for c in derivation["contenders"]} == {"argmax", "perturb"}
    assert derivation["discretisation_gap"] == derivation["derived_loss"] - derivation["mixed_loss"]


def test_planted_threshold_is_found() -> None:
    """One channel says whether the sum of two lags of the other is large: no linear map follows that.

    The search has to leave Identity, and what it finds has to beat ridge and the same network with Identity alone,
    whose attention and feed-forward block are there in both.
    """
    rng = np.random.default_rng(0)
    a = rng.standard_normal(1500)
    b = np.zeros(1500)
    b[4:] = 4.0 * (np.abs(a[2:-2] + a[:-4]) > 1.4) - 2.0
    data = torch.tensor(np.stack([a, b], 1), dtype=torch.float32)
    parts = [
        WindowDataset(data, 12, 2, first=first, last=last) for first, last in ((0, 1000), (988, 1200), (1188, 1500))
    ]
    t = trainer(
        seq_length=12, forecast_horizon=2, hidden_dims=[16], arch_modes=["encoder_only"],
        all_ops=["Identity", "TimeConv", "TCN"],
    )  # fmt: skip
    final = {"loss_type": "mse", "learning_rate": 1e-2, "patience": 20}
    result = t.multi_fidelity_search(
        *parts, num_candidates=1, top_k=1, search_epochs=6, final_epochs=8, loss_type="mse", warmup_epochs=1,
        arch_learning_rate=3e-2, model_learning_rate=1e-2, architecture_update_freq=1, min_ops=3, cell_range=(1, 1),
        node_range=(2, 2), **{f"final_{name}": value for name, value in final.items()},
        space={"channel_modes": ("mixed",), "series_norms": ("none",), "heads": ("flatten",), "patch_lens": (1,),
               "presets": ()},
    )  # fmt: skip
    found = result["arch_spec"]
    assert set(found.op_counts()) <= {"TimeConv", "TCN"}
    identity = OpSpec("Identity", get_op("Identity").path)
    edges = [tuple(replace(edge, op=identity) for edge in cell.edges) for cell in found.cells]
    plain = replace(found, cells=tuple(replace(c, edges=e) for c, e in zip(found.cells, edges, strict=True)))
    found_mse, plain_mse = (
        t.train_final_model(build_network(spec, seed=0), *parts, epochs=8, **final)["final_metrics"]["mse"]
        for spec in (found, plain)
    )
    ridge = min(result["baselines"][name]["mse"] for name in ("ridge_shared", "ridge_per_channel"))
    for figure in (found_mse, result["network"]["mse"]):
        assert figure < 0.85 * plain_mse
        assert figure < 0.7 * ridge
    assert result["final_results"]["final_metrics"]["mse"] < 0.7 * ridge
