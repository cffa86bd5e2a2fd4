"""Phases 4 and 5: the found architectures are retrained and joined, and the test set is read once."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from torch import Tensor, nn

from .._core.errors import SearchFailed
from .._core.logging import get_logger
from .._core.types import WindowSource
from ..architecture.blend import BlendedForecaster
from ..architecture.build import ForecastNetwork, build_network
from ..data.batches import EVAL_BATCH
from ..evaluation.baselines import Baselines, build_baselines
from ..evaluation.blend import BlendFit, fit_blend_on
from ..evaluation.predict import score_models
from ..training.events import Event, emit
from .executor import Executor
from .failures import has_failed, reasons
from .halving import Runner
from .run_folder import RunFolder
from .settings import SearchSettings
from .store import SearchStore, remembered
from .task_key import TaskKey, border_file
from .tasks import TrainTask, train_network

logger = get_logger(__name__)


@dataclass
class Finalist:
    """A survivor of the search, retrained.

    Attributes:
        runner: the candidate.
        network: its trained network.
        training: what ``train_final_model`` returned, without the model.
        name: its name among the parts of the blend.
    """

    runner: Runner
    network: ForecastNetwork
    training: dict[str, Any]
    name: str = "network"

    @property
    def val_loss(self) -> float:
        """Validation loss of the weights that were kept."""
        return float(self.training["training_info"]["best_val_loss"])


@dataclass
class Finished:
    """The final model and its figures.

    Attributes:
        model: the blend of ridges and networks.
        finalists: the retrained survivors, best validation loss first.
        baselines: the fitted baselines.
        metrics: test metrics by model: each baseline, each finalist by its name, ``blend``, and what stood beside.
        fit: the blend's weights and what validation says about them.
        test_seconds: time of the one pass over the test set.
    """

    model: BlendedForecaster
    finalists: list[Finalist]
    baselines: Baselines
    metrics: dict[str, dict[str, float]]
    fit: BlendFit
    test_seconds: float

    @property
    def best(self) -> Finalist:
        """The finalist with the lowest validation loss."""
        return self.finalists[0]


def finish(
    finalists: Sequence[Finalist],
    train: WindowSource,
    val: WindowSource,
    test: WindowSource,
    settings: SearchSettings,
    folder: RunFolder | None,
    store: SearchStore | None,
    beside: Callable[[Baselines], Mapping[str, nn.Module]] | None = None,
) -> Finished:
    """Blend the finalists of ``retrain`` with the ridges on validation, and test everything once.

    The model is saved before the test set is touched, so bad test data cost only the test figures. What ``store`` has
    of an earlier run is taken from there. ``beside`` is given the fitted baselines and returns further models, by name,
    that are tested in the same pass.
    """
    baselines = build_baselines(train, val, period=settings.seasonal_period)
    model, fit = blend_with_ridge(finalists, baselines, val, settings, store)
    if folder is not None:
        folder.save_model(model, settings.scaler)
    networks = {finalist.name: finalist.network for finalist in finalists}
    others = {} if beside is None else beside(baselines)
    contenders: Mapping[str, nn.Module] = {**baselines.models, **networks, "blend": model, **others}
    device, batch = settings.limits.device, settings.limits.batch_size
    for contender in contenders.values():
        contender.to(device)

    def score() -> dict[str, Any]:
        began = time.perf_counter()
        metrics = score_models(contenders, test, device=device, batch_size=max(EVAL_BATCH, batch), role="test")
        return {"metrics": metrics, "seconds": time.perf_counter() - began}

    tested = remembered(store, TaskKey("test"), [*_ids(finalists), *others], score)
    return Finished(model, list(finalists), baselines, tested["metrics"], fit, tested["seconds"])


def retrain(
    survivors: Sequence[Runner],
    train: WindowSource,
    val: WindowSource,
    settings: SearchSettings,
    executor: Executor,
    failures: dict[int, str],
    finalists: list[Finalist],
    *,
    phase: str = "train",
) -> None:
    """Train the networks of the best ``settings.finalists`` survivors alike; if all of them fail, those of the next.

    ``finalists`` receives each as soon as it is trained, and has them best first in the end, named ``network``,
    ``network_2`` and so on; ``failures`` receives candidate id → reason. ``phase`` names the tasks in the store.

    Raises:
        SearchFailed: every final training failed; the message has each reason.
    """
    for first in range(0, len(survivors), settings.finalists):
        if not finalists:
            chosen = survivors[first : first + settings.finalists]
            _train_alike(chosen, train, val, settings, executor, failures, finalists, phase)
    if not finalists:
        raise SearchFailed(f"the final training of every survivor failed: {reasons(failures)}")
    finalists.sort(key=lambda f: (f.val_loss, f.runner.record["candidate_id"]))
    for place, finalist in enumerate(finalists[1:], start=2):
        finalist.name = f"network_{place}"


def _train_alike(
    survivors: Sequence[Runner],
    train: WindowSource,
    val: WindowSource,
    settings: SearchSettings,
    executor: Executor,
    failures: dict[int, str],
    finalists: list[Finalist],
    phase: str,
) -> None:
    config = replace(settings.final, epochs=settings.search.final_epochs)
    amp = settings.final.use_amp
    limits = replace(settings.limits, max_train_batches=settings.final_max_train_batches, use_amp=amp)
    keys = [TaskKey(phase, runner.record["candidate_id"]) for runner in survivors]
    tasks = [
        TrainTask(
            runner.final_spec.to_dict(), runner.seed, train, val, config, limits, _found_weights(runner, settings),
            settings.final_threads, key, border_file(settings, key),
        )
        for runner, key in zip(survivors, keys, strict=True)
    ]  # fmt: skip

    def record(position: int, result: Any) -> None:
        runner = survivors[position]
        identity = runner.record["candidate_id"]
        if has_failed(result, identity, "phase5", failures, settings):
            return
        network = build_network(runner.final_spec, seed=runner.seed)
        network.load_state_dict(result.pop("state"))
        finalists.append(Finalist(runner, network.to(settings.limits.device).eval(), result))
        emit(
            settings.callbacks, Event.FINALIST_END, candidate_id=identity, epochs=len(result["train_losses"]),
            val_loss=finalists[-1].val_loss,
        )  # fmt: skip

    executor.map(train_network, tasks, record)


def blend_with_ridge(
    finalists: Sequence[Finalist],
    baselines: Baselines,
    val: WindowSource,
    settings: SearchSettings,
    store: SearchStore | None,
    *,
    key: TaskKey | None = None,
) -> tuple[BlendedForecaster, BlendFit]:
    """Fit the convex weights of ridges and networks on validation; ``key`` is their place in the store.

    The ridge that the candidate asks for (by default the better one on validation) is the part that the blend falls
    back to when held-out blocks of validation do not show a gain. Half of the weight is shared evenly by this ridge and
    the networks, as far as they are near the best of them.
    """
    linear_path = finalists[0].runner.candidate.macro.linear_path
    parts: dict[str, nn.Module] = {}
    if linear_path != "none":
        ridge = baselines.ridge(linear_path)
        parts["ridge"] = ridge
        others = {name: m for name, m in baselines.models.items() if name.startswith("ridge") and m is not ridge}
        parts |= others if linear_path == "auto" else {}
    networks = {finalist.name: finalist.network for finalist in finalists}
    even = [name for name in ("ridge", *networks) if name in parts or name in networks]
    parts |= networks
    for part in parts.values():
        part.to(settings.limits.device)
    found = remembered(
        store,
        key or TaskKey("blend"),
        _ids(finalists),
        lambda: asdict(fit_blend_on(parts, val, device=settings.limits.device, even=even)),
    )
    fit = BlendFit(**found)
    kept = ("ridge", finalists[0].name)  # what the report and ``network_of`` name stays, whatever its weight
    used = {name: part for name, part in parts.items() if fit.weights[name] > 0 or name in kept}
    model = BlendedForecaster(used)
    model.set_weights({name: fit.weights[name] for name in used})
    return model.to(settings.limits.device).eval(), fit


def _ids(finalists: Sequence[Finalist]) -> list[int]:
    return [finalist.runner.record["candidate_id"] for finalist in finalists]


def _found_weights(runner: Runner, settings: SearchSettings) -> dict[str, Tensor] | None:
    """Return the weights that the search found for the derived network; None draws fresh ones."""
    if settings.search.retrain_final_from_scratch:
        return None
    return runner.last["weights"]
