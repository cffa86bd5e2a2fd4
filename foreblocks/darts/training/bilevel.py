"""The state of one candidate's bilevel search, and its two kinds of step.

Everything that a rung must hand to the next one lives in ``SearchState``; schedules and random draws are functions of
``(seed, epoch, step)``, so a state loaded at an epoch border goes on exactly as if nothing had happened.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from .._core.errors import InvalidArgument
from .._core.seeding import derive_seed, seeded
from .._core.types import Batch
from ..architecture.network import TimeSeriesDARTS
from ..architecture.sequence import moe_balance_loss
from ..config import DARTSTrainConfig
from .adamw import ClippedAdamW
from .average import WeightAverage
from .collapse import EPOCH_KEYS, CollapseTrace
from .loop import LoopLimits, LossFunction, autocast, cpu_copy, cpu_state
from .perturb import AlphaPerturbation
from .regularize import ArchitecturePenalty
from .schedules import cosine, one_cycle, set_rate
from .second_order import unrolled_gradient

WEIGHT_CLIP = 5.0
ALPHA_CLIP = 5.0
WARMUP_SHARE = 0.2


@dataclass(frozen=True)
class SearchPlan:
    """Length of a whole search, over all its rungs.

    Attributes:
        epochs: epochs of the full search.
        steps_per_epoch: weight steps in an epoch.
    """

    epochs: int
    steps_per_epoch: int

    @property
    def total_steps(self) -> int:
        """Weight steps of the full search."""
        return max(1, self.epochs * self.steps_per_epoch)

    def alpha_steps(self, config: DARTSTrainConfig) -> int:
        """Alpha steps of the full search."""
        return -(-(self.total_steps - self.warmup_steps(config.warmup_epochs)) // config.architecture_update_freq)

    def warmup_steps(self, warmup_epochs: int) -> int:
        """Steps without alpha updates: ``warmup_epochs``, but at most a fifth of the search."""
        return min(warmup_epochs * self.steps_per_epoch, int(WARMUP_SHARE * self.total_steps))


@dataclass
class SearchState:
    """A candidate in the middle of its search.

    Attributes:
        model: the searched network.
        weight_optimizer: AdamW on everything but the alphas.
        arch_optimizer: Adam on the alphas; None when nothing is searched.
        epoch: finished epochs.
        step: finished weight steps.
        alpha_steps: finished alpha steps.
        weight_batches: batches of those weight steps, each one pass forward and backward.
        extra_passes: passes of training batches beyond one for each of those and of the alpha steps: the ascents of an
            adversarial perturbation, and the inner step and the second-order term of an unrolled gradient.
        best_val_loss: lowest validation loss so far.
        best_state: state dict of that moment (CPU).
        best_temperature: temperature of that moment.
        bad_epochs: epochs since then.
        best_alpha_steps: alpha steps made when it was reached.
        average: mean of the weights of the late epochs, with ``use_swa``.
        alpha_means: running mean of the gradient of the i-th alpha, with ``arch_grad_ema_beta``.
        history: lists per epoch: train_losses, val_losses, those of the collapse watch; and the alpha snapshots.
        collapse: what the collapse watch has seen.
    """

    model: TimeSeriesDARTS
    weight_optimizer: ClippedAdamW
    arch_optimizer: torch.optim.Optimizer | None
    epoch: int = 0
    step: int = 0
    alpha_steps: int = 0
    weight_batches: int = 0
    extra_passes: int = 0
    best_val_loss: float = float("inf")
    best_state: dict[str, Tensor] | None = None
    best_temperature: float = 1.0
    bad_epochs: int = 0
    best_alpha_steps: int = 0
    average: WeightAverage = field(default_factory=WeightAverage)
    alpha_means: dict[int, Tensor] = field(default_factory=dict)
    history: dict[str, list[Any]] = field(
        default_factory=lambda: {
            key: [] for key in ("train_losses", "val_losses", "temperatures", "alpha_values", *EPOCH_KEYS)
        }
    )
    collapse: CollapseTrace = field(default_factory=CollapseTrace)

    def keep_best(self, val_loss: float) -> None:
        """Take the network as it is now for the best so far."""
        self.best_val_loss, self.bad_epochs = val_loss, 0
        self.best_state, self.best_temperature = cpu_state(self.model), self.model.temperature

    def load_best(self) -> None:
        """Give the network the weights, alphas and temperature of its best moment, if it has one."""
        if self.best_state is not None:
            self.model.load_state_dict(self.best_state)
            self.model.set_temperature(self.best_temperature)

    def forget_best(self) -> None:
        """Drop the best state: the alphas were rolled back, and it may have those that were given up."""
        self.best_val_loss, self.best_state, self.bad_epochs = float("inf"), None, 0
        self.average = WeightAverage()

    def alpha_gradients(self) -> dict[nn.Parameter, Tensor]:
        """Return Adam's running mean of the gradient of every alpha that has been trained."""
        stored = {} if self.arch_optimizer is None else self.arch_optimizer.state
        return {alpha: slot["exp_avg"] for alpha, slot in stored.items() if isinstance(alpha, nn.Parameter)}

    def to_dict(self) -> dict[str, Any]:
        """Return plain Python and CPU tensors: everything needed to go on in another process.

        The state shares nothing with it that changes later.
        """
        return {
            "model": cpu_state(self.model),
            "weight_optimizer": cpu_copy(self.weight_optimizer.state_dict()),
            "arch_optimizer": None if self.arch_optimizer is None else cpu_copy(self.arch_optimizer.state_dict()),
            "best_state": self.best_state,
            "average": self.average.to_dict(),
            "alpha_means": {i: mean.cpu().clone() for i, mean in self.alpha_means.items()},
            "history": {key: list(values) for key, values in self.history.items()},
            "collapse": self.collapse.to_dict(),
            "temperature": self.model.temperature,
            **{key: getattr(self, key) for key in _COUNTERS},
        }

    def outcome(self) -> dict[str, Any]:
        """Return the part of ``to_dict`` that says what a search has found: it cannot go on from there."""
        state = self.to_dict()
        spent = ("weight_optimizer", "arch_optimizer", "average", "alpha_means")
        # The network as it is now counts only where there is no better moment to go back to.
        return {key: state[key] for key in state if key not in spent and (key != "model" or self.best_state is None)}

    def load_dict(self, data: dict[str, Any]) -> None:
        """Inverse of ``to_dict`` on a state of the same candidate; ``data`` stays as it is."""
        self.model.load_state_dict(data["model"])
        self.model.set_temperature(data["temperature"])
        # Copies: an optimizer takes the tensors that it is given, and changes them in its next step.
        self.weight_optimizer.load_state_dict(cpu_copy(data["weight_optimizer"]))
        if self.arch_optimizer is not None:
            self.arch_optimizer.load_state_dict(cpu_copy(data["arch_optimizer"]))
        self.best_state = data["best_state"]
        self.average.load_dict(data["average"])
        device = next(self.model.parameters()).device
        self.alpha_means = {i: mean.to(device, copy=True) for i, mean in data["alpha_means"].items()}
        self.history = {key: list(values) for key, values in data["history"].items()}
        self.collapse = CollapseTrace.from_dict(cpu_copy(data["collapse"]))
        for key in _COUNTERS:
            setattr(self, key, data[key])


_COUNTERS = (
    *("epoch", "step", "alpha_steps", "weight_batches", "extra_passes"),
    *("best_val_loss", "best_temperature", "bad_epochs", "best_alpha_steps"),
)


def check_searched(model: nn.Module) -> TimeSeriesDARTS:
    """Return ``model`` if it is a network that can be searched, else raise ``InvalidArgument``."""
    if not isinstance(model, TimeSeriesDARTS):
        raise InvalidArgument(f"model is a {type(model).__name__}; a search needs a TimeSeriesDARTS.")
    return model


def new_state(model: TimeSeriesDARTS, config: DARTSTrainConfig) -> SearchState:
    """Return the state at the start of a search."""
    check_searched(model)
    weights = ClippedAdamW(
        model.weight_parameters(), lr=config.model_learning_rate, weight_decay=config.model_weight_decay
    )
    alphas = list(model.arch_parameters())
    arch = (
        torch.optim.Adam(
            alphas, lr=config.arch_learning_rate, betas=(0.5, 0.999), weight_decay=config.arch_weight_decay
        )
        if alphas
        else None
    )
    return SearchState(model, weights, arch)


class BilevelStepper:
    """Makes weight steps and alpha steps on a state (Liu et al., DARTS, ICLR 2019, section 2.3).

    The alpha gradient is of first order unless ``hessian_penalty_weight`` asks for the unrolled one.

    Args:
        state: the candidate.
        config: search settings.
        plan: length of the full search.
        limits: device and AMP.
        loss_fn: training loss.
    """

    def __init__(
        self,
        state: SearchState,
        config: DARTSTrainConfig,
        plan: SearchPlan,
        limits: LoopLimits,
        loss_fn: LossFunction,
    ) -> None:
        self.state = state
        self.config = config
        self.plan = plan
        self.limits = limits
        self.loss_fn = loss_fn
        self.penalty = ArchitecturePenalty(config)
        self._weights = list(state.model.weight_parameters())
        own = {id(weight) for weight in self._weights}
        self._names = [name for name, p in state.model.named_parameters() if id(p) in own]
        self._alphas = list(state.model.arch_parameters())
        self._perturbation = AlphaPerturbation(config, self._alphas)
        self._warmup = plan.warmup_steps(config.warmup_epochs)

    @property
    def alpha_due(self) -> bool:
        """Whether an alpha step follows the weight step just made: every ``architecture_update_freq`` steps.

        None does once the collapse watch has stopped the alphas.
        """
        if self.state.collapse.stopped_at is not None:
            return False
        done = self.state.step - self._warmup
        return bool(self._alphas) and done > 0 and (done - 1) % self.config.architecture_update_freq == 0

    @property
    def progress(self) -> float:
        """Share of the search that is done, from the end of warm-up, in [0, 1]."""
        return max(0.0, (self.state.step - self._warmup) / max(1, self.plan.total_steps - self._warmup))

    def weight_step(self, batch: Batch, *, apply: bool = True, parts: int = 1) -> Tensor:
        """Accumulate the gradient of a weight batch, and with ``apply`` make the step; return the detached loss.

        ``parts`` is the number of batches whose mean makes the step.
        """
        state = self.state
        _require_grad(self._alphas, False)
        with self._perturbation(lambda: self._extra_loss(batch), state.step / self.plan.total_steps):
            loss = self._loss(batch)
            (loss / parts).backward()
        state.weight_batches += 1
        _require_grad(self._alphas, True)
        if apply:
            set_rate(
                state.weight_optimizer,
                one_cycle(state.step, self.plan.total_steps, self.config.model_learning_rate),
            )
            state.weight_optimizer.step_clipped(WEIGHT_CLIP)
            state.weight_optimizer.zero_grad(set_to_none=True)
            state.step += 1
        return loss.detach()

    @property
    def unroll_due(self) -> bool:
        """Whether the alpha steps of this epoch look one weight step ahead."""
        return self.config.hessian_penalty_weight > 0 and self.state.epoch % self.config.hessian_update_freq == 0

    def alpha_step(self, batch: Batch, ahead: Batch | None = None) -> Tensor:
        """Make one step of the alphas on an alpha batch; return the detached loss without penalties.

        ``ahead`` is a weight batch for the unrolled step; None takes the gradient of first order.
        """
        state, optimizer = self.state, self.state.arch_optimizer
        assert optimizer is not None, "a network without alphas has no alpha step due"
        _require_grad(self._weights, False)
        loss = self._loss(batch) if ahead is None else self._unrolled(batch, ahead)
        (loss + self.penalty(state.model, self.progress)).backward()
        _require_grad(self._weights, True)
        self._smooth_gradients()
        nn.utils.clip_grad_norm_(self._alphas, ALPHA_CLIP)
        set_rate(optimizer, cosine(state.step, self.plan.total_steps, self.config.arch_learning_rate))
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        state.alpha_steps += 1
        return loss.detach()

    def rehearse(self, weights: Batch, alphas: Batch) -> None:
        """Make the passes of a weight step and of an alpha step, forward and backward; nothing is changed by them."""
        model = self.state.model
        was_training = model.training
        model.train()
        try:
            with seeded("rehearsal", self.limits.seed):
                for on, off, batch in ((self._weights, self._alphas, weights), (self._alphas, self._weights, alphas)):
                    _require_grad(off, False)
                    if on:
                        torch.autograd.grad(self._loss(batch), on, allow_unused=True)
                    _require_grad(off, True)
        finally:
            model.train(was_training)
            _require_grad([*self._weights, *self._alphas], True)

    def _unrolled(self, batch: Batch, ahead: Batch) -> Tensor:
        """Return the loss after the unrolled step as a function whose gradient is ∇_α of first and second order."""
        state, config = self.state, self.config
        found = unrolled_gradient(
            self._weights,
            self._alphas,
            lambda weights: self._extra_loss(ahead, weights),
            lambda weights: self._loss(batch, weights),
            state.weight_optimizer,
            eps=config.hessian_fd_eps,
            seed=derive_seed("unrolled", self.limits.seed, state.alpha_steps),
        )
        state.extra_passes += not config.hessian_fd_eps  # the exact term differentiates a gradient: one pass more
        total = found.loss
        for alpha, first, second in zip(self._alphas, found.first, found.second, strict=True):
            total = total + ((first + config.hessian_penalty_weight * second) * (alpha - alpha.detach())).sum()
        return total

    def _loss(self, batch: Batch, weights: Sequence[Tensor] | None = None) -> Tensor:
        """Return the training loss, at other ``weights`` than those of the model if they are given."""
        model = self.state.model
        with autocast(self.limits):
            if weights is None:
                output = model(*batch.inputs)
            else:
                named = dict(zip(self._names, weights, strict=True))
                output = torch.func.functional_call(model, named, batch.inputs)
            loss = self.loss_fn(output, batch.y)
        if self.config.moe_balance_weight and model.macro.ffn == "moe":
            loss = loss + self.config.moe_balance_weight * moe_balance_loss(model)
        return loss

    def _extra_loss(self, batch: Batch, weights: Sequence[Tensor] | None = None) -> Tensor:
        """Return ``_loss`` for a gradient that is not that of the step itself."""
        self.state.extra_passes += 1
        return self._loss(batch, weights)

    def _smooth_gradients(self) -> None:
        beta = self.config.arch_grad_ema_beta
        if not beta:
            return
        means = self.state.alpha_means
        for i, alpha in enumerate(self._alphas):
            if alpha.grad is None:
                continue
            means[i] = means[i].lerp(alpha.grad, 1.0 - beta) if i in means else alpha.grad.clone()
            alpha.grad.copy_(means[i])


def _require_grad(parameters: Iterable[nn.Parameter], flag: bool) -> None:
    """Switch the gradients of one level off while the other is trained: its backward work is saved."""
    for parameter in parameters:
        parameter.requires_grad_(flag)
