"""A client that reads every documented key of every result, and says of what kind it must be."""

from __future__ import annotations

import csv
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from .conftest import HORIZON, LOOKBACK, C, Searched, files, make_trainer

METRICS = {"mse", "rmse", "mae", "mape", "r2_score"}
PROXIES = {
    "params", "conditioning", "naswot", "activation_diversity", "flops", "grasp", "fisher", "snip", "sensitivity",
    "jacobian", "synflow",
}  # fmt: skip
CANDIDATE = {
    "candidate_id": int, "metrics": dict, "base_score": float, "diversity_bonus": float, "score": float,
    "score_raw": float, "aggregate_score_pool": float, "success": bool, "phase1_dt": float, "selected_ops": list,
    "selected_families": list, "family_choices": dict, "hidden_dim": int, "num_cells": int, "num_nodes": int,
    "arch_mode": str, "transformer_self_attention_type": str, "transformer_ffn_variant": str,
    "transformer_use_moe": bool,
}  # fmt: skip
SEARCH_RESULTS = {
    "train_losses": list, "val_losses": list, "alpha_values": list, "diversity_scores": list, "best_val_loss": float,
    "training_time": float,
}  # fmt: skip
SEARCH_CONFIG = {
    "num_candidates", "search_epochs", "final_epochs", "top_k", "max_samples", "max_workers",
    "retrain_final_from_scratch", "discrete_arch_threshold", "phase1_rescore_mode", "phase3_reduction_factor",
    "phase3_min_epoch_budget", "phase3_rung_epochs", "phase3_verbose",
}  # fmt: skip


def check_kinds(record: dict[str, Any], kinds: dict[str, type]) -> None:
    """Every key is there and of its kind."""
    wrong = {
        key: type(record.get(key)).__name__ for key, kind in kinds.items() if not isinstance(record.get(key), kind)
    }
    assert not wrong


def check_metrics(metrics: dict[str, float]) -> None:
    """The five metrics are finite numbers that fit each other."""
    assert set(metrics) == METRICS
    assert all(math.isfinite(value) for value in metrics.values())
    assert metrics["rmse"] == pytest.approx(math.sqrt(metrics["mse"]))


def check_model(model: nn.Module) -> None:
    """The model forecasts."""
    with torch.no_grad():
        assert model(torch.randn(3, LOOKBACK, C)).shape == (3, HORIZON, C)


# ---- multi_fidelity_search --------------------------------------------------------------------------------------


def test_search_has_every_top_level_key(searched: Searched) -> None:
    check_kinds(
        searched.results,
        {
            "final_model": nn.Module, "candidates": list, "top_candidates": list, "trained_candidates": list,
            "best_candidate": dict, "final_results": dict, "final_config": dict, "final_discrete_architecture": dict,
            "search_config": dict, "trained_non_derived_candidates": list, "final_reset_modules": int, "stats": dict,
            "stats_dir": str,
        },
    )  # fmt: skip
    assert searched.results["final_model"] is searched.trainer.final_model
    check_model(searched.results["final_model"])
    assert searched.results["final_reset_modules"] > 0


def test_candidates(searched: Searched) -> None:
    candidates = searched.results["candidates"]
    assert sorted(record["candidate_id"] for record in candidates) == [0, 1, 2]
    for record in candidates:
        check_kinds(record, CANDIDATE)
        assert "model" in record
        assert {"metrics", "success_rates", "error_messages", "aggregate_score", "config"} <= set(record["metrics"])
        assert set(record["metrics"]["metrics"]) | set(record["metrics"]["error_messages"]) >= PROXIES
        assert record["selected_ops"][0] == "Identity"


def test_top_candidates_are_objects_of_the_list(searched: Searched) -> None:
    top = searched.results["top_candidates"]
    assert len(top) == searched.results["search_config"]["top_k"] == 2
    assert all(any(record is other for other in searched.results["candidates"]) for record in top)


def test_trained_candidates(searched: Searched) -> None:
    results = searched.results
    assert any(results["best_candidate"] is entry for entry in results["trained_candidates"])
    for entry in results["trained_candidates"]:
        kinds = {"val_loss": float, "candidate": dict, "search_results": dict, "phase3_round_history": list}
        check_kinds(entry, {**kinds, "epochs_trained": int, "mixed_val_loss": float})
        assert "model" in entry
        check_kinds(entry["search_results"], SEARCH_RESULTS)
        assert {"model", "final_architecture"} <= set(entry["search_results"])
        for row in entry["phase3_round_history"]:
            assert {
                "rung",
                "epoch_budget",
                "delta_epochs",
                "mixed_val_loss",
                "train_time_sec",
                "total_time_sec",
            } <= set(row)
        assert entry["epochs_trained"] == entry["phase3_round_history"][-1]["epoch_budget"]
    for entry in results["trained_non_derived_candidates"]:
        keys = {"model", "val_loss", "candidate", "search_results", "phase3_round_history", "epochs_trained"}
        assert keys <= set(entry)


def test_alpha_traces_are_named_probabilities(searched: Searched) -> None:
    for snapshot in searched.results["best_candidate"]["search_results"]["alpha_values"]:
        assert snapshot[0][0] == "cell_0_edge_0"
        for name, probabilities in snapshot:
            assert isinstance(name, str)
            assert isinstance(probabilities, np.ndarray)
            assert probabilities.sum() == pytest.approx(1.0, abs=1e-4)


def test_final_results(searched: Searched) -> None:
    final = searched.results["final_results"]
    kinds = {"model": nn.Module, "train_losses": list, "val_losses": list, "test_loss": float, "training_time": float}
    check_kinds(final, {**kinds, "final_metrics": dict, "training_info": dict})
    check_metrics(final["final_metrics"])
    info = {"epochs_completed": int, "swa_used": bool, "final_lr": float, "best_val_loss": float}
    check_kinds(final["training_info"], info)
    assert final["training_info"]["epochs_completed"] == len(final["train_losses"]) == 1


def test_final_config_rebuilds_the_network(searched: Searched) -> None:
    from foreblocks.darts import TimeSeriesDARTS

    config = searched.results["final_config"]
    assert (config["input_dim"], config["seq_length"], config["forecast_horizon"]) == (C, LOOKBACK, HORIZON)
    check_model(TimeSeriesDARTS(**config).eval())


def test_discrete_architecture_names_a_choice_with_its_weight(searched: Searched) -> None:
    found = searched.results["final_discrete_architecture"]
    assert {"norm", "cell_0"} <= set(found)
    for choice in (found["norm"], found["cell_0"]["edge_0"]):
        assert {"weight", "passed_threshold"} <= set(choice)
        assert choice["passed_threshold"] is (choice["weight"] >= 0.3)


def test_search_config(searched: Searched) -> None:
    config = searched.results["search_config"]
    assert set(config) >= SEARCH_CONFIG
    assert json.loads(json.dumps(config)) == config
    assert (config["num_candidates"], config["search_epochs"], config["max_samples"]) == (3, 2, 8)


def test_statistics(searched: Searched) -> None:
    stats = searched.results["stats"]
    assert json.loads(json.dumps(stats))["system"]["run_id"] == "mine"
    assert {
        "run_id", "timestamp_local", "cpu_count_os", "torch_num_threads", "cuda_available", "cuda_device_count",
        "cuda_device_name", "parallelism_levels", "max_workers_used", "config",
    } <= set(stats["system"])  # fmt: skip
    phases = stats["phase_summary"]
    tasks = {"task_mean_sec", "task_std_sec"}
    wanted = {
        "phase1": tasks | {
            "wall_time_sec", "num_success", "num_total", "task_min_sec", "task_max_sec", "rescore_mode",
            "whatif_estimates",
        },
        "phase2": {"wall_time_sec", "top_k_eff"},
        "phase3": tasks | {
            "wall_time_sec", "train_mean_sec", "train_std_sec", "derive_eval_mean_sec", "derive_eval_std_sec",
            "rung_epochs", "reduction_factor", "rounds", "whatif_estimates",
        },
        "phase4": {"wall_time_sec"}, "phase5": {"wall_time_sec"}, "total": {"wall_time_sec"},
    }  # fmt: skip
    missing = {phase: keys - set(phases[phase]) for phase, keys in wanted.items()}
    assert not any(missing.values()), missing
    rounds = {"rung_index", "epoch_budget", "num_candidates", "num_promoted", "results", "promoted_candidate_ids"}
    assert rounds <= set(phases["phase3"]["rounds"][0])
    assert "phase1_benchmark_results" in stats
    rank = {"rank", "candidate_id", "score", "hidden_dim", "num_ops", "arch", "phase1_dt"}
    assert rank <= set(stats["top_candidates"][0])
    assert {"candidate_id", "val_loss", "score", "hidden_dim", "selected_ops"} <= set(stats["best_candidate"])


def test_a_search_writes_its_statistics_and_nothing_else(searched: Searched) -> None:
    names = ["final_model_training.pdf", "per_candidate.csv", "stats.json", "whatif_parallelism.csv"]
    assert searched.files == [f"search_stats/mine/{name}" for name in names]


# ---- the phases alone -------------------------------------------------------------------------------------------


def test_raw_zero_cost_metrics(searched: Searched) -> None:
    trainer, model = searched.trainer, searched.trainer.build_candidate(searched.trainer.make_candidate())
    raw = trainer.evaluate_zero_cost_metrics_raw(model, searched.loaders[1], max_samples=8)
    assert {"raw_metrics", "success_rates", "errors", "base_weights"} <= set(raw)
    assert set(raw["raw_metrics"]) | set(raw["errors"]) >= PROXIES
    assert set(raw["base_weights"]) == PROXIES
    assert all(0.0 <= rate <= 1.0 for rate in raw["success_rates"].values())


def test_zero_cost_metrics_and_their_ablation(searched: Searched) -> None:
    trainer, model = searched.trainer, searched.trainer.build_candidate(searched.trainer.make_candidate())
    scored = trainer.evaluate_zero_cost_metrics(model, searched.loaders[1], max_samples=8, num_batches=1)
    assert {"metrics", "success_rates", "error_messages", "aggregate_score", "config"} <= set(scored)
    assert math.isfinite(scored["aggregate_score"])
    study = trainer.evaluate_zero_cost_metrics(
        model, searched.loaders[1], max_samples=8, fast_mode=True, ablation=True, n_random=2, random_sigma=0.1, seed=0
    )
    assert study["ablation"] is True
    assert set(study["per_scheme"]) == set(study["schemes"])
    assert len(study["schemes"]) == 21
    assert {"baseline", "uniform", "subset_grad", "loo_minus_synflow", "rand_00", "rand_01"} <= set(study["schemes"])
    assert {"aggregate_score", "metrics", "success_rates"} <= set(study["per_scheme"]["baseline"])
    assert study["per_scheme"]["baseline"]["aggregate_score"] == pytest.approx(scored["aggregate_score"])


def test_train_darts_model_and_train_final_model(searched: Searched) -> None:
    trainer = make_trainer()
    train, val, test = searched.loaders
    model = trainer.build_candidate(trainer.make_candidate(seed=1))
    found = trainer.train_darts_model(model, train, val, epochs=1, max_train_batches=2)
    check_kinds(found, {**SEARCH_RESULTS, "model": nn.Module, "final_architecture": nn.Module, "final_metrics": dict})
    check_metrics(found["final_metrics"])
    assert found["final_architecture"] is found["model"]
    fixed = trainer.derive_final_architecture(found["model"])
    assert not fixed.training
    result = trainer.train_final_model(fixed, train, val, test, epochs=1, max_train_batches=2)
    check_kinds(result, {"model": nn.Module, "test_loss": float, "training_time": float, "training_info": dict})
    check_metrics(result["final_metrics"])
    assert trainer.training_history == [found, result]
    assert files() == []


# ---- the studies ------------------------------------------------------------------------------------------------


def test_ablation(searched: Searched) -> None:
    pandas = pytest.importorskip("pandas")
    study = searched.trainer.ablation_weight_search(
        searched.loaders[0], searched.loaders[1], num_candidates=3, max_samples=8, n_random=2, top_k=2, run_id="one"
    )
    kinds = {"candidates": list, "scheme_names": list, "schemes": dict, "score_matrix": np.ndarray}
    tables = {"rank_matrix": np.ndarray, "tables": dict, "random_analysis": dict, "artifacts": dict, "config": dict}
    check_kinds(study, {**kinds, **tables})
    assert study["score_matrix"].shape == study["rank_matrix"].shape == (3, 21) == (3, len(study["scheme_names"]))
    assert sorted(study["rank_matrix"][:, 0]) == [1, 2, 3]
    keys = {"candidate_id", "success", "raw_metrics", "success_rates", "errors", "base_weights", "scheme_scores"}
    assert keys <= set(study["candidates"][0])
    assert all(isinstance(table, pandas.DataFrame) for table in study["tables"].values())
    assert set(study["tables"]) == {"stability", "top_candidates", "loo_importance"}
    assert {
        "baseline_winner_candidate_id", "baseline_winner_rank_under_random", "topk_frequency_under_random",
    } <= set(study["random_analysis"])  # fmt: skip
    names = {"rank_heatmap", "winner_rank_hist", "topk_freq", "loo_importance"}
    assert names | {"stability_csv", "top_candidates_csv", "loo_csv"} <= set(study["artifacts"])
    assert files() == sorted(study["artifacts"].values())
    assert all(Path(path).parts[:2] == ("ablation_results", "one") for path in study["artifacts"].values())


def test_robust_pool(searched: Searched) -> None:
    pool = searched.trainer.robust_initial_pool_over_op_pools(
        val_loader=searched.loaders[1], n_pools=2, pool_size_range=(3, 5), num_candidates=2, top_k=2, max_samples=8
    )
    check_kinds(pool, {"selected": list, "robustness_table": list, "pool_results": list, "op_pools": list})
    assert "config" in pool
    assert {
        "signature", "topk_freq", "avg_rank", "worst_rank", "avg_score", "score_std", "example_selected_ops",
        "example_hidden_dim", "example_num_cells", "example_num_nodes",
    } <= set(pool["robustness_table"][0])  # fmt: skip
    assert pool["selected"] == pool["robustness_table"][:2]
    first = pool["pool_results"][0]
    assert {"pool_idx", "allowed_ops", "success", "topk", "scheme_names"} <= set(first)
    assert {
        "pool_idx", "allowed_ops", "signature", "baseline_score", "rank_in_pool", "selected_ops", "hidden_dim",
        "num_cells", "num_nodes",
    } <= set(first["topk"][0])  # fmt: skip
    assert files() == []


def test_learning_rates(searched: Searched) -> None:
    pytest.importorskip("pandas")
    trainer = searched.trainer
    frame = trainer.bilevel_lr_sensitivity(
        lambda: trainer.build_candidate(trainer.make_candidate()), searched.loaders[0], searched.loaders[1],
        model_lrs=(1e-3,), arch_lrs=(3e-3, 1e-2), seeds=(0,), epochs=1, save_csv_path="rates.csv",
        max_train_batches=1, max_val_batches=1,
    )  # fmt: skip
    assert list(frame.columns) == [
        "model_lr", "arch_lr", "seed", "best_val_loss_mixed", "val_loss_derived", "train_time_s", "health_score",
        "avg_identity_dominance",
    ]  # fmt: skip
    assert len(frame) == 2
    with Path("rates.csv").open() as file:
        assert [row["arch_lr"] for row in csv.DictReader(file)] == ["0.003", "0.01"]
    assert files() == ["rates.csv"]
