"""Bilevel search of one candidate, from any epoch to any other."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from .._core.errors import DataError, DivergedError, check_int
from .._core.logging import get_logger, log_once
from .._core.seeding import generator, seeded
from .._core.types import WindowSource
from ..architecture.compiled import compiled_edges
from ..architecture.derive import derived_path, searched_mixture
from ..architecture.network import TimeSeriesDARTS
from ..config import DARTSTrainConfig
from ..data.batches import EVAL_BATCH
from ..data.sources import iter_batches, read_batch
from ..evaluation.alpha_plot import SNAPSHOT_EVERY
from ..evaluation.losses import get_loss_function
from .bilevel import BilevelStepper, SearchPlan, SearchState, check_searched, new_state
from .collapse import CLOSEST, LOOKS, WINDOWS, CollapseWatch, collapse_report, record_epoch
from .events import Callback, Event, emit
from .loop import LoopLimits, check_finite_loss, cpu_state, mean_loss, validation_batches
from .split import bilevel_split

logger = get_logger(__name__)
VALIDATION_BLOCKS = 3


@dataclass(frozen=True)
class SearchData:
    """The windows of a search: weights learn on ``train[weight_rows]``, alphas on ``arch[arch_rows]``."""

    train: WindowSource
    weight_rows: Tensor
    arch: WindowSource
    arch_rows: Tensor
    val: WindowSource

    @classmethod
    def split(cls, train: WindowSource, val: WindowSource, config: DARTSTrainConfig, *, batch_size: int) -> SearchData:
        """Split as the config says; ``use_bilevel_optimization=False`` trains the alphas on the validation windows."""
        if not config.use_bilevel_optimization:
            return cls(train, torch.arange(len(train)), val, torch.arange(len(val)), val)
        weights, alphas = bilevel_split(train, seed=config.bilevel_split_seed, batch_size=batch_size)
        if not len(weights) or not len(alphas):
            raise DataError(f"the training set ({len(train)} windows) is too small for a bilevel split.")
        return cls(train, weights, train, alphas, val)

    @property
    def arch_role(self) -> str:
        """Which data the alphas learn on, for messages."""
        return "train" if self.arch is self.train else "validation"

    def plan(self, config: DARTSTrainConfig, limits: LoopLimits) -> SearchPlan:
        """Return the length of a search of ``config.epochs`` on these windows."""
        batches = -(-len(self.weight_rows) // limits.batch_size)
        if limits.max_train_batches is not None:
            batches = min(batches, limits.max_train_batches)
        return SearchPlan(config.epochs, -(-batches // config.gradient_accumulation_steps))


def search_epochs(
    state: SearchState,
    data: SearchData,
    config: DARTSTrainConfig,
    limits: LoopLimits,
    *,
    until: int | None = None,
    callbacks: Sequence[Callback] = (),
) -> SearchState:
    """Advance a search to ``until`` finished epochs (default: all of ``config.epochs``); stop early on patience.

    Raises:
        DivergedError: the loss stopped being finite.
        DataError: a batch is not finite.
        InvalidArgument: ``compile="edge"`` was asked for, and does not compile here (before the first step).
    """
    plan = data.plan(config, limits)
    stepper = BilevelStepper(state, config, plan, limits, get_loss_function(config.loss_type))
    batches = validation_batches(data.val, limits)
    watch = _watch(stepper, data)
    validate = partial(mean_loss, state.model, data.val, batches, stepper.loss_fn, limits=limits, role="validation")
    end = config.epochs if until is None else until
    with _compiling(stepper, data):
        while state.epoch < end and state.bad_epochs < config.patience:
            epoch = state.epoch
            temperature = state.model.schedule_temperature(epoch, plan.epochs, config.temperature_schedule)
            if epoch % SNAPSHOT_EVERY == 0:
                state.history["alpha_values"].append(alpha_snapshot(state.model))
            with seeded("search", limits.seed, epoch):
                train_loss = _epoch(stepper, data, epoch, watch)
            val_loss = validate()
            check_finite_loss(val_loss, f"the validation of epoch {epoch + 1}")
            state.epoch += 1
            state.history["train_losses"].append(train_loss)
            state.history["val_losses"].append(val_loss)
            state.history["temperatures"].append(temperature)
            record_epoch(state.history, state.model, state.collapse)
            _remember(state, val_loss)
            if config.use_swa and state.epoch > config.epochs // 2:
                _remember_average(state, validate)
            _prune(state, config)
            emit(callbacks, Event.EPOCH_END, epoch=state.epoch, epochs=end, train_loss=train_loss, val_loss=val_loss)
            if config.verbose:
                logger.info("search epoch %d/%d: train %.4f, validation %.4f", state.epoch, end, train_loss, val_loss)
    return state


def _compiling(stepper: BilevelStepper, data: SearchData) -> AbstractContextManager[object]:
    """Return a block in which the edges run as ``config.compile`` says."""
    config, limits, model = stepper.config, stepper.limits, stepper.state.model
    if config.compile == "none" or stepper.state.bad_epochs >= config.patience:  # eager, or nothing left to do
        return nullcontext()
    if model.relaxation == "gdas" or not any(edge.undecided for edge in model.edges):
        logger.warning(
            "compile='edge' has no effect: a single op runs on every edge (relaxation=%r).", model.relaxation
        )
        return nullcontext()
    if config.hessian_penalty_weight or config.perturbation == "adversarial":
        log_once(logger, logging.INFO, "compile='edge' leaves passes with gradients of weights and alphas eager.")
    size = limits.batch_size
    weights = read_batch(data.train, data.weight_rows[:size], role="train", batch=0).to(limits.device)
    alphas = read_batch(data.arch, data.arch_rows[:size], role=data.arch_role, batch=0).to(limits.device)
    return compiled_edges(model.edges, partial(stepper.rehearse, weights, alphas))


def _watch(stepper: BilevelStepper, data: SearchData) -> CollapseWatch | None:
    """Return the collapse watch of a search, with the same windows in every rung; None where nothing is searched."""
    limits, config = stepper.limits, stepper.config
    every = config.collapse_every
    if every is None:
        every = max(CLOSEST, -(-stepper.plan.alpha_steps(config) // LOOKS))
    if not every or not list(stepper.state.model.arch_parameters()):
        return None
    order = torch.randperm(len(data.arch_rows), generator=generator("collapse", limits.seed))
    batch = read_batch(data.arch, data.arch_rows[order[:WINDOWS]], role=data.arch_role, batch=0).to(limits.device)
    return CollapseWatch(stepper.state.model, stepper.loss_fn, batch, every=every, limit=config.collapse_growth)


def _epoch(stepper: BilevelStepper, data: SearchData, epoch: int, watch: CollapseWatch | None) -> float:
    limits, config = stepper.limits, stepper.config
    model = stepper.state.model.train()
    order = generator("batches", limits.seed, epoch)
    batches = list(
        iter_batches(len(data.weight_rows), limits.batch_size, generator=order, max_batches=limits.max_train_batches)
    )
    arch = _cycle(data.arch_rows, limits, epoch)
    total, count = torch.zeros((), dtype=torch.float64, device=limits.device), 0
    for number, part in enumerate(batches):
        batch = read_batch(data.train, data.weight_rows[part], role="train", batch=number).to(limits.device)
        first = number - number % config.gradient_accumulation_steps
        parts = min(config.gradient_accumulation_steps, len(batches) - first)  # the last step may have fewer
        last = number + 1 == first + parts
        loss = stepper.weight_step(batch, apply=last, parts=parts)
        total += loss.double() * len(part)
        count += len(part)
        if last and stepper.alpha_due:
            ahead = None
            if stepper.unroll_due:
                rows = data.weight_rows[batches[(number + 1) % len(batches)]]
                ahead = read_batch(data.train, rows, role="train", batch=number).to(limits.device)
            batch = read_batch(data.arch, next(arch), role=data.arch_role, batch=number).to(limits.device)
            stepper.alpha_step(batch, ahead)
            if watch is not None and watch.after_step(stepper.state.alpha_steps, stepper.state.collapse):
                stepper.state.forget_best()
    model.eval()
    return check_finite_loss(total, f"epoch {epoch + 1}") / count


def _cycle(rows: Tensor, limits: LoopLimits, epoch: int) -> Iterator[Tensor]:
    """Yield alpha batches without end, reshuffled each time round."""
    turn = 0
    while True:
        order = generator("alpha_batches", limits.seed, epoch, turn)
        for part in iter_batches(len(rows), limits.batch_size, generator=order):
            yield rows[part]
        turn += 1


def _remember(state: SearchState, val_loss: float) -> None:
    # A state from the warm-up has untouched alphas: the first epoch that moved them replaces it, better or not.
    first_searched = state.alpha_steps > 0 and state.best_alpha_steps == 0
    if first_searched or val_loss < state.best_val_loss:
        state.keep_best(val_loss)
        state.best_alpha_steps = state.alpha_steps
    else:
        state.bad_epochs += 1


def _remember_average(state: SearchState, validate: Callable[[], float]) -> None:
    """Add the epoch to the average, and keep the average if it validates better than every epoch so far."""
    state.average.add(state.model)
    if state.average.count < 2:
        return
    live = cpu_state(state.model)
    state.model.load_state_dict(state.average.state)
    loss = validate()
    if loss < state.best_val_loss and state.alpha_steps > 0:
        state.keep_best(loss)
    state.model.load_state_dict(live)


def _prune(state: SearchState, config: DARTSTrainConfig) -> None:
    """Progressive shrinking: from ``hybrid_pruning_start_epoch`` on, every ``hybrid_pruning_interval`` epochs."""
    epoch = state.epoch
    if not config.progressive_shrinking or epoch <= config.hybrid_pruning_start_epoch:
        return
    if epoch % config.hybrid_pruning_interval == 0:
        threshold = min(1.0, config.hybrid_pruning_base_threshold * epoch / max(1, config.epochs))
        report = state.model.prune_weak_operations(threshold, config.hybrid_pruning_strategy, state.alpha_gradients())
        logger.info("pruned %d ops after epoch %d.", report["operations_pruned"], epoch)


def alpha_snapshot(model: TimeSeriesDARTS) -> list[tuple[str, Any]]:
    """Return ``(name, probabilities)`` of every choice, as numpy arrays."""
    return [(name, probs.cpu().numpy().copy()) for name, probs in model.get_all_alphas().items()]


def derived_loss(model: TimeSeriesDARTS, val: WindowSource, limits: LoopLimits, loss_type: str = "mse") -> float:
    """Return the ``block_loss`` of the derived path with inherited weights.

    Raises:
        DivergedError: the derived path gives no finite loss, though the mixture may.
    """
    with derived_path(model):
        return block_loss(model, val, limits, loss_type)


def block_loss(model: TimeSeriesDARTS, val: WindowSource, limits: LoopLimits, loss_type: str = "mse") -> float:
    """Return the validation loss of a network as it is, the mean over blocks of time.

    Blocks weigh alike, so that one unusual stretch of the validation windows does not decide a promotion.

    Raises:
        DivergedError: the loss is not finite.
    """
    loss_fn = get_loss_function(loss_type)
    rows = torch.cat(validation_batches(val, limits))
    blocks = [block for block in rows.tensor_split(VALIDATION_BLOCKS) if len(block)]
    losses = [
        mean_loss(model, val, block.split(EVAL_BATCH), loss_fn, limits=limits, role="validation") for block in blocks
    ]
    return check_finite_loss(sum(losses) / len(losses), "the validation of a searched network")


def train_darts_model(
    model: nn.Module,
    train: WindowSource,
    val: WindowSource,
    config: DARTSTrainConfig,
    limits: LoopLimits,
    *,
    callbacks: Sequence[Callback] = (),
) -> dict[str, Any]:
    """Search one candidate from start to end and return the documented result (``DARTSTrainer.train_darts_model``).

    Raises:
        InvalidArgument: ``model`` is not a ``TimeSeriesDARTS``.
    """
    check_int("epochs", config.epochs, low=1)
    began = time.perf_counter()
    model = check_searched(model).to(limits.device)
    if config.chosen_relaxation is not None:
        model.set_relaxation(config.chosen_relaxation)  # before the optimizers: it may rebuild ops
    state = new_state(model, config)
    data = SearchData.split(train, val, config, batch_size=limits.batch_size)
    state = search_epochs(state, data, config, limits, callbacks=callbacks)
    result = search_result(state, time.perf_counter() - began)
    return {**result, "discretisation": discretisation(model, val, limits)}


def discretisation(model: TimeSeriesDARTS, val: WindowSource, limits: LoopLimits) -> dict[str, float | None]:
    """Return ``{mixed_loss, derived_loss, gap}``: validation MSE of the mixture and of the derived path.

    The last two are None where the derived path diverges, which is logged.
    """
    with searched_mixture(model):
        mixed = block_loss(model, val, limits)
    try:
        derived = derived_loss(model, val, limits)
    except DivergedError as error:
        logger.warning("the derived network has no finite loss, though the mixture has: %s", error)
        return {"mixed_loss": mixed, "derived_loss": None, "gap": None}
    return {"mixed_loss": mixed, "derived_loss": derived, "gap": derived - mixed}


def search_result(state: SearchState, seconds: float) -> dict[str, Any]:
    """Load the best state into the model and return the documented keys (metrics are added by the caller)."""
    state.load_best()
    state.model.eval()
    return {
        "model": state.model,
        "final_architecture": state.model,
        "train_losses": state.history["train_losses"],
        "val_losses": state.history["val_losses"],
        "alpha_values": state.history["alpha_values"],
        "alpha_choices": state.model.get_alpha_choices(),
        "temperatures": state.history["temperatures"],
        "diversity_scores": [],
        "best_val_loss": state.best_val_loss,
        "training_time": seconds,
        "epochs_trained": state.epoch,
        "alpha_steps": state.alpha_steps,
        "collapse": collapse_report(state.history, state.collapse.to_dict()),
    }
