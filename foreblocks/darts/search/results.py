"""The result of a search, with every documented key."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..architecture.build import ForecastNetwork
from ..architecture.derive import derive_network
from ..architecture.network import TimeSeriesDARTS
from ..evaluation.report import verdict
from ..training.collapse import collapse_report
from .candidates import CandidateConfig, build_candidate, searched_candidate
from .combiner import screening_report
from .duel import tally
from .finish import Finalist, Finished
from .halving import Runner
from .progress import Progress
from .rivals.beside import Beside
from .settings import SearchSettings, candidate_seed


def assemble(progress: Progress, settings: SearchSettings) -> dict[str, Any]:
    """Return the documented dictionary of ``multi_fidelity_search``, and the honest comparison beside it."""
    finished, halving = progress.finished, progress.halving
    assert halving is not None, "phase 3 is over"
    assert finished is not None, "phase 5 is over"
    best, survivors = finished.best.runner, halving.survivors
    searched = [_searched(runner, settings) for runner in survivors]
    found = searched[survivors.index(best)]
    trained = [_trained(runner, model, settings) for runner, model in zip(survivors, searched, strict=True)]
    mixed = [_mixed(runner, model, settings) for runner, model in zip(survivors, searched, strict=True)]
    comparison = compare(finished, progress.beside, settings)
    records = [_with_model(record, settings) for record in progress.records]
    promoted = {record["candidate_id"] for record in progress.promoted}
    return {
        "final_model": finished.model,
        "candidates": records,
        "top_candidates": [record for record in records if record["candidate_id"] in promoted],
        "trained_candidates": trained,
        "best_candidate": trained[survivors.index(best)],
        "final_results": final_results(finished),
        "final_config": found.get_config(),
        "final_discrete_architecture": found.derive_discrete_architecture(settings.search.discrete_arch_threshold),
        "search_config": search_config(settings, progress),
        "trained_non_derived_candidates": mixed,
        "final_reset_modules": _reset_modules(finished, settings),
        "arch_spec": best.final_spec,
        **comparison,
        "finalists": [_finalist(finalist, finished) for finalist in finished.finalists],
        "num_parameters": sum(p.numel() for p in finished.best.network.parameters()),
        "op_counts": best.final_spec.op_counts(),
        "arch": str(best.final_spec),
        "phase_seconds": dict(progress.seconds),
        "failed_candidates": dict(progress.failures),
        "screening": screening_report(progress.records),
        "rungs": halving.rounds,
    }


def final_results(finished: Finished) -> dict[str, Any]:
    """Return the documented ``final_results``: the final training and the test metrics of the final model."""
    metrics = finished.metrics["blend"]
    return {
        **finished.best.training,
        "model": finished.model,
        "test_loss": metrics["mse"],
        "final_metrics": dict(metrics),
    }


def compare(finished: Finished, beside: Beside, settings: SearchSettings) -> dict[str, Any]:
    """Return the test scores side by side: baselines, best preset, network, blend and rival search, and the verdict."""
    metrics = finished.metrics
    scores = {
        "baselines": {name: dict(metrics[name]) for name in finished.baselines.models},
        "ridge_star": finished.baselines.ridge_star,
        "network": dict(metrics["network"]),
        "blend": {
            **metrics["blend"],
            "weights": dict(finished.fit.weights),
            "block_weights": finished.fit.block_weights,
        },
        "duels": tally([finalist.runner for finalist in finished.finalists]),
        **beside.report(metrics, finished.finalists, settings),
    }
    return {**scores, "verdict": verdict(scores)}


def search_config(settings: SearchSettings, progress: Progress) -> dict[str, Any]:
    """Return the documented ``search_config``."""
    s = settings.search
    return {
        "num_candidates": s.num_candidates,
        "search_epochs": s.search_epochs,
        "final_epochs": s.final_epochs,
        "top_k": len(progress.promoted),
        "max_samples": s.max_samples,
        "max_workers": s.max_workers,
        "retrain_final_from_scratch": s.retrain_final_from_scratch,
        "discrete_arch_threshold": s.discrete_arch_threshold,
        "phase1_rescore_mode": s.phase1_rescore_mode,
        "phase3_reduction_factor": s.phase3_reduction_factor,
        "phase3_min_epoch_budget": s.phase3_min_epoch_budget,
        "phase3_rung_epochs": s.phase3_rung_epochs,
        "phase3_verbose": True,
        "seed": settings.limits.seed,
        "batch_size": settings.limits.batch_size,
        "max_train_batches": settings.limits.max_train_batches,
        "screening_windows": max(record["metrics"]["config"].max_samples for record in progress.records),
        "rank_method": settings.rank_method,
    }


def _finalist(finalist: Finalist, finished: Finished) -> dict[str, Any]:
    return {
        "name": finalist.name,
        "candidate_id": finalist.runner.record["candidate_id"],
        "val_loss": finalist.val_loss,
        "derived_loss": finalist.runner.derived_loss,
        "test": dict(finished.metrics[finalist.name]),
        "weight": finished.fit.weights[finalist.name],
        "arch_spec": finalist.runner.final_spec,
        "duel": finalist.runner.duel,
    }


def _searched(runner: Runner, settings: SearchSettings) -> TimeSeriesDARTS:
    """Return the searched network of a runner at its best epoch."""
    relaxation = settings.train.chosen_relaxation
    return searched_candidate(runner.candidate, runner.searched, seed=runner.seed, relaxation=relaxation)


def _trained(runner: Runner, searched: TimeSeriesDARTS, settings: SearchSettings) -> dict[str, Any]:
    return {
        "model": _inherited(runner, searched) if settings.keep_models else None,
        "val_loss": runner.derived_loss,
        "candidate": runner.record,
        "search_results": {
            **_search_results(runner, searched if settings.keep_models else None),
            "alpha_choices": searched.get_alpha_choices(),
        },
        "phase3_round_history": runner.history,
        "epochs_trained": runner.last["epochs"],
        "mixed_val_loss": runner.last["mixed_val_loss"],
        "arch_spec": runner.spec,
        "derivation": runner.last.get("derivation"),
        "duel": runner.duel,
    }


def _inherited(runner: Runner, searched: TimeSeriesDARTS) -> ForecastNetwork:
    """Return the chosen network with the weights that it inherits, tuned or straight from the search."""
    network = derive_network(searched, runner.spec)
    if "weights" in runner.last:
        network.load_state_dict(runner.last["weights"])
    return network


def _mixed(runner: Runner, searched: TimeSeriesDARTS, settings: SearchSettings) -> dict[str, Any]:
    return {
        "model": searched if settings.keep_models else None,
        "val_loss": runner.last["mixed_val_loss"],
        "candidate": runner.record,
        "search_results": _search_results(runner, searched if settings.keep_models else None),
        "phase3_round_history": runner.history,
        "epochs_trained": runner.last["epochs"],
    }


def _search_results(runner: Runner, model: Any) -> dict[str, Any]:
    history = runner.searched["history"]
    return {
        "model": model,
        "final_architecture": model,
        "train_losses": history["train_losses"],
        "val_losses": history["val_losses"],
        "alpha_values": history["alpha_values"],
        "diversity_scores": [],
        "best_val_loss": runner.last["mixed_val_loss"],
        "training_time": sum(row["train_time_sec"] for row in runner.history),
        "alpha_steps": runner.last["alpha_steps"],
        "collapse": collapse_report(history, runner.searched["collapse"]),
    }


def _with_model(record: Mapping[str, Any], settings: SearchSettings) -> dict[str, Any]:
    if not settings.keep_models:
        return dict(record)
    seed = candidate_seed(settings.limits.seed, record["candidate_id"])
    return {**record, "model": build_candidate(CandidateConfig.from_dict(record), seed=seed)}


def _reset_modules(finished: Finished, settings: SearchSettings) -> int:
    """Modules whose weights were drawn anew for the final training: all that hold parameters of their own."""
    if not settings.search.retrain_final_from_scratch:
        return 0
    return sum(1 for module in finished.best.network.modules() if list(module.parameters(recurse=False)))
