"""Clients in the style of the guide of 0.1.x: what a user types, at tiny size, each in an empty working folder."""

from __future__ import annotations

import importlib
import inspect
import math
from pathlib import Path

import numpy as np
import pytest
import torch

from foreblocks.darts import DARTSTrainer

from .conftest import HORIZON, LOOKBACK, TINY, C, Searched, files, make_trainer

OPS = [
    "Identity", "TimeConv", "GRN", "Wavelet", "Fourier", "TCN", "ResidualMLP", "ConvMixer", "MultiScaleConv",
    "PyramidConv", "PatchEmbed", "InvertedAttention", "DLinear", "TimeMixer", "NBeats", "TimesNet",
]  # fmt: skip
MODULES = {
    "": "DARTSTrainer DARTSConfig DARTSTrainConfig FinalTrainConfig MultiFildelitySearchConfig "
    "MultiFidelitySearchConfig AblationSearchConfig RobustPoolSearchConfig DARTSSearchSpaceConfig TimeSeriesDARTS "
    "DARTSCell "
    "StreamlinedDARTSAnalyzer compute_metrics compute_final_metrics evaluate_on_loader plot_training_curve "
    "plot_alpha_evolution plot_prediction batched_forecast",
    "trainer": "DARTSTrainer",
    "config": "DEFAULT_OPS DEFAULT_OP_FAMILIES DEFAULT_ARCH_MODES DEFAULT_ATTENTION_VARIANTS DEFAULT_FFN_VARIANTS",
    "architecture": "TimeSeriesDARTS DARTSCell",
    "architecture.core_blocks": "TimeSeriesDARTS DARTSCell MixedOp",
    "architecture.finalization": "derive_final_architecture",
    "architecture.operation_blocks": "FixedOp",
    "search.zero_cost": "evaluate_zero_cost_metrics evaluate_zero_cost_metrics_raw",
    "search.multi_fidelity": "run_multi_fidelity_search",
    "search.ablation": "ablation_weight_search",
    "search.robust_pool": "robust_initial_pool_over_op_pools",
    "search.scoring": "normalize_metric_value score_from_metrics",
    "search.nas_metrics": "Config Result",
    "search.candidate_config": "normalize_op_families",
    "search.weight_schemes": "build_weight_schemes ranks_desc spearman_from_scores topk_overlap_from_scores",
    "search": "candidate_diversity_bonus candidate_signature deduplicate_candidates normalize_metric_for_pool "
    "rescore_candidates_poolwise select_top_candidates lpt_estimate mean_std build_weight_schemes ranks_desc "
    "spearman_from_scores topk_overlap_from_scores",
    "scoring": "normalize_metric_value score_from_metrics",
    "training.darts_loop": "train_darts_model",
    "training.final_trainer": "train_final_model",
    "evaluation": "StreamlinedDARTSAnalyzer compute_metrics compute_final_metrics evaluate_on_loader "
    "plot_training_curve plot_alpha_evolution plot_prediction batched_forecast",
    "evaluation.analyzer": "StreamlinedDARTSAnalyzer analyze_darts_search analyze_enhanced_darts_search",
    "evaluation.metrics": "compute_metrics compute_final_metrics evaluate_on_loader",
    "evaluation.plotting": "plot_training_curve plot_alpha_evolution plot_prediction batched_forecast",
    "utils": "get_loss_function autocast_ctx save_model load_model_checkpoint",
    "utils.training": "register_loss unpack_forecasting_batch",
    "utils.io": "save_model load_model_checkpoint",
}


@pytest.mark.parametrize("module", MODULES)
def test_documented_modules_have_their_names(module: str) -> None:
    found = importlib.import_module(f"foreblocks.darts.{module}".rstrip("."))
    for name in MODULES[module].split():
        assert getattr(found, name) is not None


@pytest.mark.parametrize("module", ["evaluation", "architecture", "search"])
def test_a_lazy_package_lists_its_names_and_helps_with_a_wrong_one(module: str) -> None:
    found = importlib.import_module(f"foreblocks.darts.{module}")
    names = MODULES[module].split()
    assert set(names) <= set(dir(found))
    with pytest.raises(AttributeError, match=f"Did you mean '{names[0]}'"):
        getattr(found, names[0] + "x")


def test_the_constructor_and_its_attributes() -> None:
    trainer = DARTSTrainer()
    assert (trainer.input_dim, trainer.hidden_dims, trainer.forecast_horizon) == (3, [32, 64, 128], 6)
    assert trainer.seq_length == 12
    assert isinstance(trainer.device, str)
    assert trainer.all_ops == OPS
    assert trainer.arch_modes == ["encoder_decoder", "encoder_only", "decoder_only", "mamba"]
    assert set(trainer.op_families) == {"conv", "frequency", "attention", "mlp"}
    assert trainer.family_range == (1, 3)
    assert (trainer.search_history, trainer.training_history, trainer.final_model) == ([], [], None)
    assert files() == []


def test_the_constructor_takes_every_documented_argument() -> None:
    trainer = DARTSTrainer(
        input_dim=2, hidden_dims=[8, 16], forecast_horizon=4, seq_length=24, device="cpu",
        all_ops=["Identity", "TCN", "DLinear"], arch_modes=["encoder_only", "mamba"],
        op_families={"conv": ["TCN"], "frequency": ["DLinear"]}, family_range=(1, 2),
        attention_variants=["linear", "local"], ffn_variants=["swiglu"],
    )  # fmt: skip
    for seed in range(4):
        candidate = trainer.make_candidate(seed)
        assert set(candidate.selected_ops) <= {"Identity", "TCN", "DLinear"}
        assert candidate.macro.arch_mode in ("encoder_only", "mamba")
        assert candidate.macro.hidden_dim in (8, 16)


def test_an_unknown_mode_is_an_error_that_lists_the_modes() -> None:
    with pytest.raises(ValueError, match="encoder_only"):
        DARTSTrainer(arch_modes=["encoder"])


@pytest.mark.parametrize("mode", ["encoder_decoder", "encoder_only", "decoder_only", "mamba"])
def test_every_mode_forecasts(mode: str) -> None:
    trainer = make_trainer(arch_modes=[mode])
    model = trainer.build_candidate(trainer.make_candidate())
    x = torch.randn(2, LOOKBACK, C)
    assert model(x).shape == (2, HORIZON, C)
    assert model(x, None, None, 0.5).shape == (2, HORIZON, C)


def test_the_phases_one_after_the_other(searched: Searched) -> None:
    train, val, test = searched.loaders
    trainer = make_trainer()
    candidate = trainer.build_candidate(trainer.make_candidate(seed=3))
    trainer.evaluate_zero_cost_metrics_raw(candidate, val, 8, 1, True)
    trainer.evaluate_zero_cost_metrics(candidate, val, 8, 1, True, False, 2, 0.1, 0)
    found = trainer.train_darts_model(
        model=candidate, train_loader=train, val_loader=val, epochs=1, arch_learning_rate=3e-3,
        model_learning_rate=1e-3, use_bilevel_optimization=True, loss_type="huber", max_train_batches=2,
    )  # fmt: skip
    derived = trainer.derive_final_architecture(found["model"])
    final = trainer.train_final_model(
        model=derived, train_loader=train, val_loader=val, test_loader=test, epochs=1, max_train_batches=2
    )
    assert math.isfinite(final["final_metrics"]["mse"])
    assert files() == []


def test_old_names_of_keywords_still_work_and_say_so(searched: Searched) -> None:
    trainer = make_trainer()
    with pytest.warns(DeprecationWarning, match="model_weight_decay"):
        trainer.train_darts_model(
            trainer.build_candidate(trainer.make_candidate()), *searched.loaders[:2], epochs=1, weight_decay=1e-3,
            max_train_batches=1,
        )  # fmt: skip


def test_search_with_statistics_by_name(searched: Searched) -> None:
    settings = {**TINY, "num_candidates": 1, "top_k": 1, "search_epochs": 1}
    results = make_trainer().multi_fidelity_search_with_stats(*searched.loaders, **settings)
    folder = Path(results["stats_dir"])
    assert folder.parent == Path("search_stats")
    assert folder.name.startswith("multifidelity_")
    assert {Path(name).parent for name in files()} == {folder}


def test_a_config_object_drives_the_workflow(searched: Searched) -> None:
    from foreblocks.darts import DARTSConfig, DARTSTrainConfig, MultiFildelitySearchConfig

    config = DARTSConfig(
        input_dim=C, seq_length=LOOKBACK, forecast_horizon=HORIZON, device="cpu",
        train=DARTSTrainConfig(epochs=1), search=MultiFildelitySearchConfig(num_candidates=1, top_k=1, final_epochs=1),
    )  # fmt: skip
    config.space.hidden_dims = [8]
    results = DARTSTrainer(config=config).multi_fidelity_search(*searched.loaders, search_epochs=1, **{
        key: value for key, value in TINY.items() if key.startswith(("max_", "trial", "final_max"))
    })  # fmt: skip
    assert results["search_config"]["num_candidates"] == 1
    assert results["search_config"]["final_epochs"] == 1
    assert files() == []


def test_summaries(searched: Searched) -> None:
    fresh = make_trainer()
    assert fresh.get_search_summary() == "No searches performed yet."
    assert fresh.get_training_summary() == "No training sessions completed yet."
    assert "3 candidates" in searched.trainer.get_search_summary()
    assert searched.trainer.get_training_summary()


def test_save_and_load(searched: Searched) -> None:
    searched.trainer.save_best_model("best_darts_model.pth")
    assert files() == ["best_darts_model.pth"]
    other = make_trainer()
    content = other.load_model("best_darts_model.pth")
    assert {"model_state_dict", "final_metrics", "training_info", "search_config"} <= set(content)
    x = torch.randn(3, LOOKBACK, C)
    with torch.no_grad():
        assert torch.equal(other.final_model(x), searched.trainer.final_model(x))


def test_figures(searched: Searched) -> None:
    pytest.importorskip("matplotlib")
    from foreblocks.darts import plot_training_curve

    trainer, results = searched.trainer, searched.results
    x, y = next(iter(searched.loaders[1]))
    assert trainer.plot_prediction(x, y, show=False, names=["load", "holiday", "price"]) is not None
    assert plot_training_curve([2.0, 1.0], [3.0, 2.0], title="Training", save_path=None) is not None
    assert files() == []
    trainer.plot_alpha_evolution(results["best_candidate"]["search_results"]["alpha_values"])
    assert files() == ["alpha_evolution.png"]  # the documented default of a method whose work is saving


def test_metrics_and_forecasts(searched: Searched) -> None:
    from foreblocks.darts import batched_forecast, compute_final_metrics, compute_metrics, evaluate_on_loader

    model, loader = searched.results["final_model"], searched.loaders[2]
    metrics = compute_final_metrics(model, loader, "cpu")
    assert metrics["mse"] == pytest.approx(searched.results["final_results"]["final_metrics"]["mse"])
    assert evaluate_on_loader(model, loader, torch.nn.functional.mse_loss, "cpu") == pytest.approx(metrics["mse"])
    zeros = np.zeros((5, 2))
    assert compute_metrics(zeros, zeros + 2.0)["mae"] == 2.0
    x = torch.stack([searched.data.test[i][0] for i in range(5)])
    assert batched_forecast(model, x, batch_size=2).shape == (5 + HORIZON - 1, C)


def test_batches_of_a_user_loop() -> None:
    from foreblocks.darts.utils.training import unpack_forecasting_batch

    x, y = torch.randn(3, LOOKBACK, C), torch.randn(3, HORIZON, C)
    a, b, kwargs = unpack_forecasting_batch((x, y), "cpu", include_decoder_targets=True, teacher_forcing_ratio=0.5)
    assert torch.equal(a, x)
    assert torch.equal(b, y)
    assert set(kwargs) == {"decoder_targets", "teacher_forcing_ratio"}


@pytest.mark.filterwarnings("ignore:An input array is constant")
def test_analyzer(searched: Searched) -> None:
    pytest.importorskip("matplotlib")
    from foreblocks.darts.evaluation.analyzer import analyze_darts_search

    analyzer = analyze_darts_search(searched.results, save_plots=False)
    assert len(analyzer.rows) == 3
    assert {"component_analysis", "attention_analysis", "final_analysis", "operation_analysis"} <= set(
        analyzer.patterns
    )
    assert "candidates" in analyzer.generate_insights_report()
    assert files() == []
    analyze_darts_search(searched.results)
    assert {Path(name).parent.as_posix() for name in files()} == {"plots"}
    assert {"plots/insights_report.txt", "plots/analysis_data.csv", "plots/operation_analysis.png"} <= set(files())


def test_operations_are_scored_without_training(searched: Searched) -> None:
    model = searched.trainer.build_candidate(searched.trainer.make_candidate())
    scores = searched.trainer.score_operations(model, searched.loaders[0], max_samples=8)
    assert set(scores["cell_0_edge_0"]) == set(searched.trainer.make_candidate().selected_ops)
    assert searched.trainer.space(cell_range=(1, 1)).config.cell_range == (1, 1)


def test_no_public_method_of_the_trainer_is_left_out() -> None:
    """Each public method is called by a client of this folder; a new one needs a client, too."""
    text = "".join(path.read_text() for path in Path(__file__).parent.glob("*.py"))
    methods = [name for name, _ in inspect.getmembers(DARTSTrainer, inspect.isfunction) if not name.startswith("_")]
    assert [name for name in methods if f".{name}(" not in text] == []
