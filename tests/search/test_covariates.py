"""Known future covariates and a subset of targets, through every phase of a search."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset

from foreblocks.darts import DARTSTrainer
from foreblocks.darts._core.errors import DataError, InvalidArgument
from foreblocks.darts.architecture.build import ForecastNetwork
from foreblocks.darts.architecture.network import TimeSeriesDARTS
from foreblocks.darts.data.sources import as_source
from foreblocks.darts.evaluation.baselines import build_baselines
from foreblocks.darts.evaluation.metrics import compute_final_metrics
from foreblocks.darts.evaluation.predict import score_models
from foreblocks.darts.training.checkpoint import load_folder, network_of

L, H, C, F = 12, 4, 2, 3
TINY = {"num_candidates": 3, "top_k": 2, "search_epochs": 2, "final_epochs": 2, "trial_steps": 2, "finalists": 1}


def planted(count: int, seed: int) -> TensorDataset:
    """Targets that only the covariates tell: the past is noise."""
    draw = torch.Generator().manual_seed(seed)
    x, future = torch.randn(count, L, C, generator=draw), torch.randn(count, H, F, generator=draw)
    mix = torch.tensor([[1.0, -1.0], [0.5, 1.0], [-1.0, 0.5]])
    return TensorDataset(x, torch.tanh(future) @ mix, future)


def loaders(width: int | None = None, counts: tuple[int, ...] = (320, 96, 96)) -> list[DataLoader[Any]]:
    """Loaders of the planted task; ``width`` gives another number of covariates, 0 leaves them out."""
    parts = []
    for seed, count in enumerate(counts):
        x, y, future = planted(count, seed).tensors
        kept = (x, y) if width == 0 else (x, y, future[..., :width])
        parts.append(DataLoader(TensorDataset(*kept), batch_size=32))
    return parts


def trainer(**changes: Any) -> DARTSTrainer:
    return DARTSTrainer(
        **{
            "input_dim": C, "seq_length": L, "forecast_horizon": H, "hidden_dims": [16], "device": "cpu",
            "all_ops": ["Identity", "TimeConv", "DLinear"], **changes,
        }
    )  # fmt: skip


@pytest.mark.parametrize("mode", ["mixed", "independent", "variate"])
def test_a_network_that_sees_the_covariates_learns_what_they_say(mode: str) -> None:
    scores = []
    for width in (F, 0):
        torch.manual_seed(0)
        model = TimeSeriesDARTS(
            C, 16, 16, H, L, num_cells=1, num_nodes=2, selected_ops=["Identity", "TimeConv"], dropout=0.0,
            arch_mode="encoder_only", channel_mode=mode, series_norm="none", future_dim=width,
        )  # fmt: skip
        own = trainer()
        network = own.derive_final_architecture(model)
        result = own.train_final_model(network, *loaders(width), epochs=10, learning_rate=2e-2, loss_type="mse")
        scores.append(result["final_metrics"]["mse"])
    with_covariates, without = scores
    assert with_covariates < 0.1 * without


def test_every_phase_of_a_search_takes_the_covariates(tmp_path: Path) -> None:
    own = trainer()
    result = own.multi_fidelity_search(*loaders(), **TINY, run_dir=tmp_path / "run")
    assert not result["failed_candidates"]
    for record in result["candidates"]:
        assert record["macro"]["future_dim"] == F
        assert record["metrics"]["error_messages"] == {}
    network = network_of(own.final_model)
    assert isinstance(network, ForecastNetwork)
    assert network.spec.macro.future_dim == F
    x, _, future = (part[:5] for part in planted(5, 9).tensors)
    with torch.no_grad():
        expected = own.final_model(x, future)
        assert not torch.allclose(expected, own.final_model(x, -future))
        own.save_best_model(str(tmp_path / "model.pth"))
        for model in (own.load_model(str(tmp_path / "model.pth"))["model"], load_folder(tmp_path / "run" / "model")):
            assert torch.equal(model(x, future), expected)
    with pytest.raises(DataError, match="x_future is missing"):
        own.final_model(x)


def test_processes_give_the_same_bits() -> None:
    small = {**TINY, "num_candidates": 2, "top_k": 1, "search_epochs": 1, "final_epochs": 1}
    results = [trainer().multi_fidelity_search(*loaders(), **small, max_workers=workers) for workers in (None, 2)]
    first, second = (r["final_model"].state_dict() for r in results)
    assert list(first) == list(second)
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_loaders_must_agree_on_the_covariates() -> None:
    train, val, test = loaders()
    _, bare_val, bare_test = loaders(0)
    with pytest.raises(DataError, match=r"^validation data: windows have future_dim=0, but future_dim=3 was asked for"):
        trainer().multi_fidelity_search(train, bare_val, test, **TINY)
    with pytest.raises(DataError, match=r"^test data: windows have future_dim=0, but future_dim=3"):
        trainer().multi_fidelity_search(train, val, bare_test, **TINY)
    with pytest.raises(DataError, match=r"^train data: windows have future_dim=3, but future_dim=2"):
        trainer(future_dim=2).multi_fidelity_search(train, val, test, **TINY)
    with pytest.raises(DataError, match="this network takes none: build it with future_dim=3"):
        model = trainer().build_candidate(trainer().make_candidate())
        trainer().train_darts_model(model, train, val, epochs=1)


def test_a_bad_covariate_is_named() -> None:
    train, val, test = loaders()
    val.dataset.tensors[2][7, 1, 2] = torch.nan
    with pytest.raises(DataError, match="batch 0: window 7 has nan in x_future, channel 2, step 1"):
        trainer().multi_fidelity_search(train, val, test, **TINY)


def series(count: int, seed: int, channels: int = 3) -> torch.Tensor:
    draw = torch.Generator().manual_seed(seed)
    phase = torch.arange(count)[:, None] / torch.tensor([3.0, 5.0, 7.0])[:channels]
    return torch.sin(phase) + 0.1 * torch.randn(count, channels, generator=draw)


def window_loaders(targets: list[int] | None) -> list[DataLoader[Any]]:
    parts = []
    for seed, count in enumerate((160, 80, 80)):
        windows = series(count, seed).unfold(0, L + H, 1).transpose(1, 2)
        y = windows[:, L:] if targets is None else windows[:, L:][..., targets]
        parts.append(DataLoader(TensorDataset(windows[:, :L].contiguous(), y.contiguous()), batch_size=32))
    return parts


@pytest.mark.parametrize("given", [None, [2, 0]])
def test_a_search_forecasts_the_target_channels_only(tmp_path: Path, given: list[int] | None) -> None:
    """``y`` may hold the targets alone, or every channel."""
    own = trainer(input_dim=3, target_channels=[2, 0])
    result = own.multi_fidelity_search(
        *window_loaders(given), **{**TINY, "num_candidates": 4, "top_k": 3}, seasonal_period=6, run_dir=tmp_path / "run"
    )
    assert not result["failed_candidates"]
    assert {record["macro"]["channel_mode"] for record in result["candidates"]} == {"mixed", "independent", "variate"}
    x = torch.randn(5, L, 3)
    with torch.no_grad():
        expected = own.final_model(x)
        assert expected.shape == (5, H, 2)
        assert torch.equal(load_folder(tmp_path / "run" / "model")(x), expected)


def test_baselines_of_targets_are_those_of_all_channels_restricted() -> None:
    own = [trainer(input_dim=3), trainer(input_dim=3, target_channels=[2, 0])]
    train, val, _ = window_loaders(None)
    every, some = (build_baselines(*t._sources(train=train, validation=val), period=6) for t in own)
    x = torch.randn(4, L, 3)
    for name in ("last_value", "seasonal_naive", "ridge_per_channel"):
        torch.testing.assert_close(some.models[name](x), every.models[name](x)[..., [2, 0]], rtol=1e-5, atol=1e-6)
    assert some.models["ridge_shared"](x).shape == (4, H, 2)


def test_targets_that_do_not_fit_are_named() -> None:
    narrow = window_loaders([1])
    with pytest.raises(DataError, match=r"train data: y has 1 channel\(s\) but x has 3; .*target_channels"):
        trainer(input_dim=3).multi_fidelity_search(*narrow, **TINY)
    with pytest.raises(DataError, match=r"train data: y has 1 channel\(s\); target_channels=\[0, 1\] needs these 2"):
        trainer(input_dim=3, target_channels=[0, 1]).multi_fidelity_search(*narrow, **TINY)
    for bad in ([3], [0, 0], [], "x"):
        with pytest.raises(InvalidArgument, match="target_channels"):
            trainer(input_dim=3, target_channels=bad)


@pytest.mark.parametrize(
    "settings",
    [
        {"hessian_penalty_weight": 1.0, "hessian_fd_eps": 0.0},
        {"hessian_penalty_weight": 1.0},
        {"use_bilevel_optimization": False, "alpha_init": "zero_cost"},
        {"perturbation": "adversarial", "perturbation_steps": 1, "relaxation": "gdas", "use_swa": True},
    ],
)
def test_every_kind_of_search_step_takes_the_covariates(settings: dict[str, Any]) -> None:
    train, val, _ = loaders(counts=(128, 64, 1))
    own = trainer(future_dim=F)
    model = own.build_candidate(own.make_candidate())
    before = model.skeleton.future.known.weight.detach().clone()
    result = own.train_darts_model(model, train, val, epochs=2, warmup_epochs=0, collapse_every=1, **settings)
    assert result["alpha_steps"] > 0
    assert result["collapse"]["looks"]
    assert not torch.equal(model.skeleton.future.known.weight, before)
    derived = own.derive_final_architecture(model, derive="perturb", train_loader=train, val_loader=val)
    assert derived.spec.macro.future_dim == F


def test_measurements_and_studies_take_the_covariates(tmp_path: Path) -> None:
    train, val, _ = loaders(counts=(128, 64, 1))
    own = trainer(future_dim=F)
    model = own.build_candidate(own.make_candidate())
    for fast in (True, False):
        found = own.evaluate_zero_cost_metrics(
            model, train, fast_mode=fast, extra_proxies=["zico", "grad_sign", "meco", "trainability"]
        )
        assert found["error_messages"] == found["extra_errors"] == {}
    scores = own.score_operations(model, train, max_samples=8)
    assert all(torch.tensor(list(ops.values())).isfinite().all() for ops in scores.values())
    assert compute_final_metrics(model, val, "cpu") == pytest.approx(
        score_models({"m": model}, as_source(val, role="val"))["m"]
    )
    study = own.ablation_weight_search(
        train, val, num_candidates=2, n_random=1, top_k=1, save_plots=False, save_csv=False, output_dir=str(tmp_path)
    )
    pools = own.robust_initial_pool_over_op_pools(
        val_loader=val, n_pools=2, pool_size_range=(2, 3), num_candidates=2, top_k=1
    )
    assert not any(record["errors"] for record in study["candidates"])
    assert not any(pool["failed_candidates"] for pool in pools["pool_results"])
    tops = [entry["candidate"] for pool in pools["pool_results"] for entry in pool["topk"]]
    for record in (*study["candidates"], *tops):
        assert record["macro"]["future_dim"] == F
