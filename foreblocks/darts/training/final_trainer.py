"""Training of a discrete network: early stopping on validation, and the true best weights restored."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from .._core.errors import check_int
from .._core.logging import get_logger
from .._core.seeding import generator, seeded
from .._core.types import WindowSource
from ..architecture.sequence import moe_balance_loss
from ..config import DARTSTrainConfig, FinalTrainConfig
from ..data.sources import iter_batches, read_batch
from ..evaluation.losses import get_loss_function
from .adamw import ClippedAdamW
from .average import WeightAverage
from .events import Callback, Event, emit
from .loop import LoopLimits, LossFunction, autocast, check_finite_loss, cpu_state, mean_loss, validation_batches
from .schedules import cosine, one_cycle, set_rate
from .state_file import StateFile

logger = get_logger(__name__)
MOE_BALANCE = DARTSTrainConfig.moe_balance_weight  # the default of the search


@dataclass
class _Best:
    loss: float = float("inf")
    state: dict[str, Tensor] | None = None
    bad_epochs: int = 0

    def offer(self, loss: float, model: nn.Module) -> None:
        if loss < self.loss:
            self.loss, self.state, self.bad_epochs = loss, cpu_state(model), 0
        else:
            self.bad_epochs += 1

    def give(self, model: nn.Module) -> None:
        assert self.state is not None, "the first loss is finite, and so was the best"
        model.load_state_dict(self.state)


@dataclass
class _Training:
    """A final training at an epoch border: everything that the next epoch needs.

    Rates and batches are functions of ``(seed, epoch, step)``; ``seconds`` is the time of earlier runs.
    """

    model: nn.Module
    optimizer: ClippedAdamW
    best: _Best = field(default_factory=_Best)
    average: WeightAverage = field(default_factory=WeightAverage)
    train_losses: list[float] = field(default_factory=list)
    val_losses: list[float] = field(default_factory=list)
    seconds: float = 0.0

    @classmethod
    def begin(cls, model: nn.Module, config: FinalTrainConfig, border: StateFile | None) -> _Training:
        """Return the training at its start, or where ``border`` says that it is."""
        rate, decay = config.learning_rate, config.weight_decay
        state = cls(model, ClippedAdamW(model.parameters(), lr=rate, weight_decay=decay))
        kept = None if border is None else border.load()
        if kept is not None:
            state.load_dict(kept)
        return state

    @property
    def epoch(self) -> int:
        """Finished epochs."""
        return len(self.val_losses)

    def goes_on(self, config: FinalTrainConfig) -> bool:
        """Whether another epoch follows: at least one does."""
        return self.epoch == 0 or (self.epoch < config.epochs and self.best.bad_epochs < config.patience)

    def to_dict(self, seconds: float) -> dict[str, Any]:
        """Return plain Python and tensors."""
        return {
            "model": cpu_state(self.model),
            "optimizer": self.optimizer.state_dict(),
            "best": vars(self.best),
            "average": self.average.to_dict(),
            "train_losses": self.train_losses,
            "val_losses": self.val_losses,
            "seconds": self.seconds + seconds,
        }

    def load_dict(self, data: dict[str, Any]) -> None:
        """Inverse of ``to_dict``."""
        self.model.load_state_dict(data["model"])
        self.optimizer.load_state_dict(data["optimizer"])
        self.best = _Best(**data["best"])
        self.average.load_dict(data["average"])
        self.train_losses, self.val_losses = data["train_losses"], data["val_losses"]
        self.seconds = data["seconds"]


def train_final_model(
    model: nn.Module,
    train: WindowSource,
    val: WindowSource,
    config: FinalTrainConfig,
    limits: LoopLimits,
    *,
    callbacks: Sequence[Callback] = (),
    border: StateFile | None = None,
    verbose: bool = True,
) -> dict[str, Any]:
    """Train ``model`` and load its best validation weights (or their average, when that is better).

    The weights of all epochs from ``config.swa_start_ratio`` of the training on are averaged; the average is
    validated once at the end and kept only if it beats the best single epoch. A ratio of 1 switches that off.
    ``border`` gets the state after each epoch, and one that it has already is taken up; the result is the same.
    ``verbose`` logs each epoch.

    Returns:
        ``{model, train_losses, val_losses, training_time, training_info}``; no test figure: the caller reads the test
        set once, for all models together.

    Raises:
        DivergedError: a loss stopped being finite.
        DataError: a batch is not finite.
    """
    check_int("epochs", config.epochs, low=1)
    began = time.perf_counter()
    model.to(limits.device)
    loss_fn = get_loss_function(config.loss_type)
    batches = validation_batches(val, limits)
    state = _Training.begin(model, config, border)
    while state.goes_on(config):
        epoch = state.epoch
        with seeded("final", limits.seed, epoch):
            state.train_losses.append(_epoch(model, train, state.optimizer, loss_fn, config, limits, epoch))
        state.val_losses.append(mean_loss(model, val, batches, loss_fn, limits=limits, role="validation"))
        check_finite_loss(state.val_losses[-1], f"the validation of epoch {epoch + 1}")
        state.best.offer(state.val_losses[-1], model)
        if epoch >= int(config.epochs * config.swa_start_ratio):
            state.average.add(model)
        if border is not None:
            border.save(state.to_dict(time.perf_counter() - began))
        _say(state, config.epochs, callbacks, verbose)
    final_rate = state.optimizer.param_groups[0]["lr"]
    swa_used = _try_average(state, val, batches, loss_fn, limits)
    state.best.give(model)
    model.eval()
    return {
        "model": model,
        "train_losses": state.train_losses,
        "val_losses": state.val_losses,
        "training_time": state.seconds + time.perf_counter() - began,
        "training_info": {
            "epochs_completed": state.epoch,
            "swa_used": swa_used,
            "final_lr": final_rate,
            "best_val_loss": state.best.loss,
        },
    }


def _say(state: _Training, epochs: int, callbacks: Sequence[Callback], verbose: bool) -> None:
    losses = {"train_loss": state.train_losses[-1], "val_loss": state.val_losses[-1]}
    emit(callbacks, Event.EPOCH_END, epoch=state.epoch, epochs=epochs, **losses)
    if verbose:
        logger.info("final epoch %d/%d: train %.4f, validation %.4f", state.epoch, epochs, *losses.values())


def _epoch(
    model: nn.Module,
    train: WindowSource,
    optimizer: ClippedAdamW,
    loss_fn: LossFunction,
    config: FinalTrainConfig,
    limits: LoopLimits,
    epoch: int,
) -> float:
    order = generator("batches", limits.seed, epoch)
    batches = list(iter_batches(len(train), limits.batch_size, generator=order, max_batches=limits.max_train_batches))
    total_steps = config.epochs * len(batches)
    total, count = torch.zeros((), dtype=torch.float64, device=limits.device), 0
    model.train()
    for number, indices in enumerate(batches):
        step = epoch * len(batches) + number
        rate = (
            one_cycle(step, total_steps, config.learning_rate)
            if config.use_onecycle
            else cosine(epoch, config.epochs + 1, config.learning_rate, final=0.0)  # 0 would come after the last epoch
        )
        set_rate(optimizer, rate)
        batch = read_batch(train, indices, role="train", batch=number).to(limits.device)
        with autocast(limits):
            loss = loss_fn(model(*batch.inputs), batch.y)
        optimizer.zero_grad(set_to_none=True)
        (loss + MOE_BALANCE * moe_balance_loss(model)).backward()
        optimizer.step_clipped(config.grad_clip_norm)
        total += loss.detach().double() * len(indices)
        count += len(indices)
    return check_finite_loss(total, f"epoch {epoch + 1}") / count


def _try_average(
    state: _Training, val: WindowSource, batches: list[Tensor], loss_fn: LossFunction, limits: LoopLimits
) -> bool:
    if state.average.count < 2:
        return False
    state.model.load_state_dict(state.average.state)
    loss = mean_loss(state.model, val, batches, loss_fn, limits=limits, role="validation")
    if not loss < state.best.loss:
        return False
    state.best.offer(loss, state.model)
    return True
