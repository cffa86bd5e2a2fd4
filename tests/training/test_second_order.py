"""The alpha gradient through one unrolled step, against automatic differentiation through a step written out here."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from foreblocks.darts import TimeSeriesDARTS
from foreblocks.darts._core.errors import InvalidArgument
from foreblocks.darts._core.seeding import seeded
from foreblocks.darts._core.types import Batch
from foreblocks.darts.config import DARTSTrainConfig
from foreblocks.darts.training.bilevel import BilevelStepper, SearchPlan, new_state
from foreblocks.darts.training.loop import LoopLimits
from foreblocks.darts.training.second_order import inner_step, unrolled_gradient

OPTIMIZERS: dict[str, Callable[[list[Tensor]], torch.optim.Optimizer]] = {
    "sgd": lambda w: torch.optim.SGD(w, lr=0.05, weight_decay=0.01),
    "momentum": lambda w: torch.optim.SGD(w, lr=0.05, momentum=0.9, dampening=0.2, weight_decay=0.01),
    "nesterov": lambda w: torch.optim.SGD(w, lr=0.05, momentum=0.9, nesterov=True),
    "adamw": lambda w: torch.optim.AdamW(w, lr=0.01, weight_decay=0.1),
}


def naive_step(optimizer: torch.optim.Optimizer, weights: list[Tensor], gradients: list[Tensor | None]) -> list[Tensor]:
    """One step of ``optimizer`` as a differentiable function of the gradients."""
    group = optimizer.param_groups[0]
    moved = []
    for w, g in zip(weights, gradients, strict=True):
        state, value = optimizer.state.get(w, {}), w.detach()
        if g is None:  # an op that was not sampled: torch leaves it alone, decay and all
            moved.append(value)
            continue
        if isinstance(optimizer, torch.optim.SGD):
            g = g + group["weight_decay"] * value
            if group["momentum"]:
                old = state.get("momentum_buffer")
                buffer = g if old is None else group["momentum"] * old + (1 - group["dampening"]) * g
                g = g + group["momentum"] * buffer if group["nesterov"] else buffer
            moved.append(value - group["lr"] * g)
            continue
        b1, b2 = group["betas"]
        t = float(state["step"]) + 1 if state else 1
        m = (b1 * state["exp_avg"] if state else 0) + (1 - b1) * g
        v = (b2 * state["exp_avg_sq"] if state else 0) + (1 - b2) * g**2
        update = (m / (1 - b1**t)) / ((v / (1 - b2**t)).sqrt() + group["eps"])
        moved.append(value * (1 - group["lr"] * group["weight_decay"]) - group["lr"] * update)
    return moved


class Problem:
    """A small searched network in float64, with its weights, alphas and both losses."""

    def __init__(self, *, use_gdas: bool = False, dropout: float = 0.2) -> None:
        with seeded("problem", 0):
            self.model = TimeSeriesDARTS(
                input_dim=2, hidden_dim=4, latent_dim=4, forecast_horizon=3, seq_length=8, num_cells=1, num_nodes=3,
                selected_ops=["Identity", "GRN", "TimeConv"], arch_mode="encoder_only", num_layers=0, num_heads=1,
                dropout=dropout, use_gdas=use_gdas,
            ).double().train()  # fmt: skip
            with torch.no_grad():
                for alpha in self.model.arch_parameters():
                    alpha.copy_(0.5 * torch.randn_like(alpha))
            self.batches = torch.randn(2, 6, 8, 2, dtype=torch.float64), torch.randn(2, 6, 3, 2, dtype=torch.float64)
        alphas = {id(a) for a in self.model.arch_parameters()}
        named = [(name, p) for name, p in self.model.named_parameters() if id(p) not in alphas]
        self.names, self.weights = [name for name, _ in named], [p for _, p in named]
        self.alphas = list(self.model.arch_parameters())

    def loss(self, which: int, weights: list[Tensor]) -> Tensor:
        values = dict(zip(self.names, weights, strict=True))
        output = torch.func.functional_call(self.model, values, (self.batches[0][which],))
        return (output - self.batches[1][which]).square().mean()

    def train_loss(self, weights: list[Tensor]) -> Tensor:
        return self.loss(0, weights)

    def val_loss(self, weights: list[Tensor]) -> Tensor:
        with seeded("val", 0):
            return self.loss(1, weights)

    def steps(self, optimizer: torch.optim.Optimizer, count: int) -> None:
        """Make real steps, so that the optimizer has a state."""
        for number in range(count):
            with seeded("real", number):
                self.train_loss(self.weights).backward()
            optimizer.step()
            self.model.zero_grad()

    def second_by_autograd(self, optimizer: torch.optim.Optimizer, seed: int) -> list[Tensor]:
        """∇_α L_val(w'(α), α) by differentiating through everything, less the part with w' held fixed."""
        with seeded("inner", seed):
            loss = self.train_loss(self.weights)
        g = torch.autograd.grad(loss, self.weights, create_graph=True, allow_unused=True)
        moved = naive_step(optimizer, self.weights, g)
        total = self._gradient(self.val_loss(moved))
        first = self._gradient(self.val_loss([w.detach() for w in moved]))
        return [a - b for a, b in zip(total, first, strict=True)]

    def _gradient(self, loss: Tensor) -> list[Tensor]:
        found = torch.autograd.grad(loss, self.alphas, retain_graph=True, allow_unused=True)
        return [torch.zeros_like(a) if g is None else g for a, g in zip(self.alphas, found, strict=True)]


def flat(tensors: list[Tensor]) -> Tensor:
    return torch.cat([t.detach().reshape(-1) for t in tensors])


def error(found: list[Tensor], expected: list[Tensor]) -> float:
    return float((flat(found) - flat(expected)).norm() / flat(expected).norm())


@pytest.mark.parametrize("use_gdas", [False, True])
@pytest.mark.parametrize("before", [0, 3])
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_second_order_term_alone_equals_autograd(name: str, before: int, use_gdas: bool) -> None:
    problem = Problem(use_gdas=use_gdas)
    optimizer = OPTIMIZERS[name](problem.weights)
    problem.steps(optimizer, before)
    expected = problem.second_by_autograd(optimizer, seed=5)
    assert flat(expected).norm() > 0
    call = (problem.weights, problem.alphas, problem.train_loss, problem.val_loss, optimizer)
    exact = unrolled_gradient(*call, eps=0.0, seed=5)
    assert error(exact.second, expected) < 1e-6
    difference = unrolled_gradient(*call, eps=1e-4, seed=5)
    assert error(difference.second, expected) < 1e-3
    assert error(difference.first, exact.first) < 1e-12


def test_another_draw_on_one_side_would_be_seen() -> None:
    problem = Problem()
    optimizer = OPTIMIZERS["sgd"](problem.weights)
    call = (problem.weights, problem.alphas, problem.train_loss, problem.val_loss, optimizer)
    expected = problem.second_by_autograd(optimizer, seed=5)
    assert error(unrolled_gradient(*call, eps=1e-4, seed=6).second, expected) > 0.05


@pytest.mark.parametrize("before", [0, 2])
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_inner_step_is_the_step_of_the_optimizer_and_touches_nothing(name: str, before: int) -> None:
    problem = Problem(dropout=0.0)
    optimizer = OPTIMIZERS[name](problem.weights)
    problem.steps(optimizer, before)
    problem.train_loss(problem.weights).backward()
    values = [w.detach().clone() for w in problem.weights]
    moved, _ = inner_step(optimizer, problem.weights, [w.grad for w in problem.weights])
    assert all(torch.equal(w, v) for w, v in zip(problem.weights, values, strict=True))
    optimizer.step()
    torch.testing.assert_close(moved, [w.detach() for w in problem.weights], rtol=1e-10, atol=1e-12)


def test_a_weight_without_gradient_stays() -> None:
    weight = torch.nn.Parameter(torch.ones(3))
    moved, scale = inner_step(torch.optim.AdamW([weight], weight_decay=1.0), [weight], [None])
    assert torch.equal(moved[0], weight)
    assert scale == [0.0]


def test_what_cannot_be_unrolled_is_named() -> None:
    weight = torch.nn.Parameter(torch.ones(3))
    with pytest.raises(InvalidArgument, match="Adagrad"):
        inner_step(torch.optim.Adagrad([weight]), [weight], [None])
    with pytest.raises(InvalidArgument, match="amsgrad"):
        inner_step(torch.optim.AdamW([weight], amsgrad=True), [weight], [weight.detach()])


def stepper(config: DARTSTrainConfig, problem: Problem) -> BilevelStepper:
    loss = torch.nn.functional.mse_loss
    return BilevelStepper(new_state(problem.model, config), config, SearchPlan(10, 4), LoopLimits(), loss)


def alphas_after(config: DARTSTrainConfig, *, unroll: bool) -> Tensor:
    problem = Problem(dropout=0.0)
    step = stepper(config, problem)
    first, second = (Batch(x, y) for x, y in zip(*problem.batches, strict=True))
    step.weight_step(first)
    step.alpha_step(second, first if unroll else None)
    assert all(p.requires_grad for p in problem.model.parameters())
    return flat(problem.alphas)


def test_the_keywords_of_the_contract_drive_it() -> None:
    off = {"moe_balance_weight": 0.0, "arch_weight_decay": 0.0}
    first = alphas_after(DARTSTrainConfig(**off), unroll=False)
    exact = alphas_after(DARTSTrainConfig(hessian_penalty_weight=1.0, hessian_fd_eps=0.0, **off), unroll=True)
    near = alphas_after(DARTSTrainConfig(hessian_penalty_weight=1.0, hessian_fd_eps=1e-4, **off), unroll=True)
    assert not torch.equal(first, exact)
    torch.testing.assert_close(near, exact, rtol=1e-4, atol=1e-6)
    every_other = stepper(DARTSTrainConfig(hessian_penalty_weight=0.5, hessian_update_freq=2), Problem())
    due = []
    for epoch in range(4):
        every_other.state.epoch = epoch
        due.append(every_other.unroll_due)
    assert due == [True, False, True, False]
    assert not stepper(DARTSTrainConfig(), Problem()).unroll_due
