"""Phases 4 and 5: the chosen architecture becomes the final model, and the test set is read once."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from torch import nn

from .._core.logging import get_logger
from .._core.types import WindowSource
from ..architecture.blend import BlendedForecaster
from ..architecture.build import ForecastNetwork, build_network
from ..architecture.derive import derive_network
from ..evaluation.baselines import Baselines, build_baselines
from ..evaluation.blend import fit_blend_on
from ..evaluation.predict import score_models
from ..training.final_trainer import train_final_model
from .candidates import build_candidate
from .halving import Runner
from .run_folder import RunFolder
from .settings import SearchSettings

logger = get_logger(__name__)


@dataclass
class Finished:
    """The final model and its figures.

    Attributes:
        model: the blend of linear path and network.
        network: the network alone.
        training: what ``train_final_model`` returned.
        baselines: the fitted baselines.
        metrics: test metrics by model: each baseline, ``network`` and ``blend``.
        blend_weights: name → weight in the blend.
        test_seconds: time of the one pass over the test set.
    """

    model: BlendedForecaster
    network: ForecastNetwork
    training: dict[str, Any]
    baselines: Baselines
    metrics: dict[str, dict[str, float]]
    blend_weights: dict[str, float]
    test_seconds: float


def finish(
    best: Runner,
    train: WindowSource,
    val: WindowSource,
    test: WindowSource,
    settings: SearchSettings,
    folder: RunFolder | None,
) -> Finished:
    """Train the network of the best candidate, blend it with the linear path on validation, and test everything once.

    The model is saved before the test set is touched, so bad test data cost only the test figures.
    """
    network = _initial_network(best, settings)
    config = replace(settings.final, epochs=settings.search.final_epochs)
    limits = replace(settings.limits, max_train_batches=settings.final_max_train_batches)
    training = train_final_model(network, train, val, config, limits, callbacks=settings.callbacks)
    model, baselines, weights = blend_with_linear(network, best.candidate.macro.linear_path, train, val, settings)
    if folder is not None:
        folder.save_model(model, settings.scaler)
    began = time.perf_counter()
    contenders: Mapping[str, nn.Module] = {**baselines.models, "network": network, "blend": model}
    device, batch = settings.limits.device, settings.limits.batch_size
    for contender in contenders.values():
        contender.to(device)
    metrics = score_models(contenders, test, device=device, batch_size=max(256, batch), role="test")
    return Finished(model, network, training, baselines, metrics, weights, time.perf_counter() - began)


def blend_with_linear(
    network: ForecastNetwork, linear_path: str, train: WindowSource, val: WindowSource, settings: SearchSettings
) -> tuple[BlendedForecaster, Baselines, dict[str, float]]:
    """Fit the closed-form baselines on train, and the convex weights of linear path and network on validation."""
    baselines = build_baselines(train, val, period=settings.seasonal_period)
    parts: dict[str, nn.Module] = {"network": network}
    if linear_path != "none":
        parts = {"ridge": baselines.ridge(linear_path), "network": network}
    for part in parts.values():
        part.to(settings.limits.device)
    weights = fit_blend_on(parts, val, device=settings.limits.device).weights
    model = BlendedForecaster(parts)
    model.set_weights(weights)
    return model.to(settings.limits.device).eval(), baselines, weights


def _initial_network(best: Runner, settings: SearchSettings) -> ForecastNetwork:
    """Return the network to train: fresh weights, or those that the search found."""
    spec = best.spec
    if settings.search.retrain_final_from_scratch:
        return build_network(spec, seed=best.seed).to(settings.limits.device)
    searched = build_candidate(best.candidate, seed=best.seed, use_gdas=settings.train.use_gdas)
    searched.load_state_dict(best.state["best_state"] or best.state["model"])
    return derive_network(searched, spec).to(settings.limits.device)
