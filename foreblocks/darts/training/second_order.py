"""The gradient of the alphas through one unrolled step of the weights (Liu et al., DARTS, ICLR 2019, section 2.3).

With ``w' = step(w, g)``, ``g = ∇_w L_train(w, α)``, the gradient of ``L_val(w'(α), α)`` is

    ∇_α L_val(w', α) + (∂g/∂α)ᵀ D ∇_{w'} L_val(w', α),    D = ∂w'/∂g (diagonal),

where ``D = -lr`` for SGD. The second term is a product of ``∇²_{α,w} L_train`` with a vector. It is computed exactly,
by a second backward pass, or by a central difference of ``∇_α L_train``. Every pass through the training loss uses the
same random draw, so dropout and Gumbel noise cancel and do not pass for curvature.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .._core.errors import InvalidArgument
from .._core.seeding import seeded
from .adamw import ClippedAdamW

#: loss as a function of the weights; the alphas are leaves that it reads by itself
LossAt = Callable[[Sequence[Tensor]], Tensor]
Moved = tuple[Tensor, Tensor | float]


@dataclass(frozen=True)
class AlphaGradient:
    """The two parts of the unrolled gradient, one tensor per alpha, and the validation loss at ``w'``."""

    first: list[Tensor]
    second: list[Tensor]
    loss: Tensor


def unrolled_gradient(
    weights: Sequence[Tensor],
    alphas: Sequence[Tensor],
    train_loss: LossAt,
    val_loss: LossAt,
    optimizer: torch.optim.Optimizer,
    *,
    eps: float = 0.0,
    seed: int = 0,
) -> AlphaGradient:
    """Return both parts of the gradient of ``val_loss(w'(α))``; weights, alphas and optimizer stay as they are.

    Args:
        weights: parameters that ``optimizer`` holds, w.
        alphas: leaves that require a gradient.
        train_loss: loss of the inner step.
        val_loss: loss of the outer level.
        optimizer: ``SGD`` (with momentum if it has any) or ``AdamW``; its state and rate make the inner step.
        eps: length by which the weights move in the central difference; 0 takes the exact product.
        seed: of the random draw that all passes through ``train_loss`` share.

    Raises:
        InvalidArgument: another optimizer, or a variant of it without a smooth step.
    """
    start = [w.detach().requires_grad_() for w in weights]
    with seeded("inner", seed):
        loss = train_loss(start)
    inner = torch.autograd.grad(loss, start, create_graph=not eps, allow_unused=True)
    moved, scale = inner_step(optimizer, weights, [None if g is None else g.detach() for g in inner])
    end = [w.requires_grad_() for w in moved]
    outer = val_loss(end)
    gradients = torch.autograd.grad(outer, [*alphas, *end], allow_unused=True)
    first, at_end = gradients[: len(alphas)], gradients[len(alphas) :]
    vector = [
        torch.zeros_like(w) if g is None else g * d for w, g, d in zip(weights, at_end, scale, strict=True)
    ]  # D ∇_{w'} L_val
    if eps:
        second = _difference(weights, alphas, vector, train_loss, eps, seed)
    else:
        used = [(g, v) for g, v in zip(inner, vector, strict=True) if g is not None and g.requires_grad]
        second = _product(used, alphas)
    return AlphaGradient(_filled(first, alphas), _filled(second, alphas), outer.detach())


def _product(used: list[tuple[Tensor, Tensor]], alphas: Sequence[Tensor]) -> Sequence[Tensor | None]:
    if not used:
        return [None] * len(alphas)
    return torch.autograd.grad([g for g, _ in used], alphas, [v for _, v in used], allow_unused=True)


def _difference(
    weights: Sequence[Tensor], alphas: Sequence[Tensor], vector: list[Tensor], loss: LossAt, eps: float, seed: int
) -> Sequence[Tensor | None]:
    norm = float(torch.stack([v.square().sum() for v in vector]).sum().sqrt())
    if norm == 0.0 or not math.isfinite(norm):
        return [None] * len(alphas)
    sides = []
    for step in (eps / norm, -eps / norm):
        with seeded("inner", seed):
            value = loss([torch.add(w.detach(), v, alpha=step) for w, v in zip(weights, vector, strict=True)])
        sides.append(_filled(torch.autograd.grad(value, alphas, allow_unused=True), alphas))
    return [(plus - minus) * (norm / (2.0 * eps)) for plus, minus in zip(*sides, strict=True)]


def _filled(gradients: Sequence[Tensor | None], like: Sequence[Tensor]) -> list[Tensor]:
    return [torch.zeros_like(a) if g is None else g.detach() for g, a in zip(gradients, like, strict=True)]


def inner_step(
    optimizer: torch.optim.Optimizer, weights: Sequence[Tensor], gradients: Sequence[Tensor | None]
) -> tuple[list[Tensor], list[Tensor | float]]:
    """Return the weights after one step of ``optimizer`` and the diagonal D = ∂w'/∂g, without making the step.

    A weight whose gradient is None does not move, as in ``optimizer.step()``.

    Raises:
        InvalidArgument: the optimizer is neither ``SGD`` nor ``AdamW``, or ``amsgrad`` or ``maximize`` is on.
    """
    rule = _RULES.get(type(optimizer))
    if rule is None:
        allowed = [kind.__name__ for kind in _RULES]
        raise InvalidArgument(f"optimizer is {type(optimizer).__name__}; a step of it can be unrolled for {allowed}.")
    groups = {id(p): group for group in optimizer.param_groups for p in group["params"]}
    moved: list[Tensor] = []
    scale: list[Tensor | float] = []
    for weight, gradient in zip(weights, gradients, strict=True):
        group = groups[id(weight)]
        for option in ("amsgrad", "maximize"):
            if group.get(option):
                raise InvalidArgument(f"{option}=True is not supported by the unrolled step.")
        if gradient is None:
            moved.append(weight.detach().clone())
            scale.append(0.0)
            continue
        w, d = rule(weight.detach(), gradient, group, optimizer.state.get(weight, {}))
        moved.append(w)
        scale.append(d)
    return moved, scale


def _sgd(w: Tensor, g: Tensor, group: Mapping[str, Any], state: Mapping[str, Any]) -> Moved:
    """Weight decay is added to the gradient; ``direction = buffer``, or ``g + momentum · buffer`` with Nesterov."""
    if group["weight_decay"]:
        g = g + group["weight_decay"] * w
    direction, slope = g, 1.0
    momentum = group["momentum"]
    if momentum:
        buffer = state.get("momentum_buffer")
        if buffer is not None:
            slope = 1.0 - group["dampening"]
            direction = momentum * buffer + slope * g
        if group["nesterov"]:
            direction, slope = g + momentum * direction, 1.0 + momentum * slope
    return w - group["lr"] * direction, -group["lr"] * slope


def _adamw(w: Tensor, g: Tensor, group: Mapping[str, Any], state: Mapping[str, Any]) -> Moved:
    """Step of Loshchilov and Hutter (ICLR 2019); D has the derivatives of both moments."""
    rate, eps = group["lr"], group["eps"]
    beta1, beta2 = group["betas"]
    step = float(state["step"]) + 1.0 if "step" in state else 1.0
    mean, square = state.get("exp_avg", 0.0), state.get("exp_avg_sq", 0.0)
    c1, c2 = 1.0 - beta1**step, 1.0 - beta2**step
    mean = (beta1 * mean + (1.0 - beta1) * g) / c1
    root = ((beta2 * square + (1.0 - beta2) * g * g) / c2).sqrt()
    below = root + eps
    # ∂root/∂g; a weight that never had a gradient has g = root = 0, and the product with mean = 0 is 0 there.
    slope = (1.0 - beta2) / c2 * g / root.clamp_min(torch.finfo(g.dtype).tiny)
    derivative = (1.0 - beta1) / c1 / below - mean * slope / (below * below)
    return w * (1.0 - rate * group["weight_decay"]) - rate * mean / below, -rate * derivative


_RULES: dict[type[torch.optim.Optimizer], Callable[[Tensor, Tensor, Mapping[str, Any], Mapping[str, Any]], Moved]] = {
    torch.optim.SGD: _sgd,
    torch.optim.AdamW: _adamw,
    ClippedAdamW: _adamw,
}
