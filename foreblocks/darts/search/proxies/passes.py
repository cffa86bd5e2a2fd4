"""The few passes through a network that all proxies share, each run on first use and once."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...kernels import saliency
from .features import Block, BlockRecorder, block_jacobian, layer_maps
from .flops import count_flops
from .recorder import ActivationRecorder, FisherRecorder
from .synflow import log_synflow
from .weights import named_weights, prunable_weights

T = TypeVar("T")
LossFunction = Callable[[Tensor, Tensor], Tensor]

# What a pass may fail with on a network that cannot be scored; anything else is a bug and is raised.
FAILURES = (RuntimeError, ValueError, ArithmeticError, TypeError, IndexError)
FINITE_STEP = 1e-3


class Passes:
    """Everything that a proxy may ask of a network on one batch.

    The network itself is never touched: all passes run in eval mode on a private deep copy, draw no random numbers
    and patch nothing, so several threads may score at once, even the same network.

    Args:
        model: maps ``x [B, L, C]`` to ``[B, H, C]``.
        x: inputs ``[B, L, C]``; the copy moves to their device.
        y: targets ``[B, H, C]``.
        loss: mean loss of (output, target), over the whole horizon.
        x_future: covariates ``[B, H, F]`` that the model takes beside x; None if it takes none.
        fast_mode: False computes the Hessian product of GraSP by a second backward pass, exactly; True by a finite
            difference of gradients, which costs one plain forward and backward pass and also works where an operator
            has no second derivative.
    """

    def __init__(
        self,
        model: nn.Module,
        x: Tensor,
        y: Tensor,
        loss: LossFunction = F.mse_loss,
        *,
        fast_mode: bool = True,
        x_future: Tensor | None = None,
    ) -> None:
        self._source = model
        self._x = x
        self._y = y
        self._future = x_future
        self._loss = loss
        self.fast_mode = fast_mode
        self._done: dict[str, Any] = {}
        self._failed: dict[str, Exception] = {}

    @property
    def batch(self) -> int:
        """Number of samples B."""
        return self._x.shape[0]

    @property
    def model(self) -> nn.Module:
        """The private copy, in eval mode, on the device of the inputs."""
        return self._once("model", self._copy)

    @property
    def exact(self) -> nn.Module:
        """A second private copy in float64, for scores that hang on signs or on the smallest of many eigenvalues."""
        return self._once("exact", lambda: self._copy().double())

    @property
    def weights(self) -> list[tuple[str, nn.Parameter]]:
        """``(name, parameter)`` of the prunable weights of the copy."""
        return self._once("weights", self._prunable)

    @property
    def weight_count(self) -> int:
        """Number of parameters, alphas not counted."""
        return sum(parameter.numel() for _, parameter in named_weights(self.model))

    @property
    def output(self) -> Tensor:
        """Forecast ``[B, H, C]``, with its graph."""
        return self._once("forward", self._forward)[1]

    @property
    def activations(self) -> ActivationRecorder:
        """What the activations of the forward pass left behind."""
        return self._once("forward", self._forward)[2]

    @property
    def gradients(self) -> list[tuple[Tensor, Tensor]]:
        """``(weight, ∂L/∂weight)`` of every prunable weight that the output depends on, both detached."""
        return [(w.detach(), g.detach()) for w, g in self._once("backward", self._backward)]

    @property
    def saliency(self) -> Tensor:
        """``Σ|w·g|, Σ w·g, Σ g², Σ|g|`` of every prunable weight, ``[K, 4]`` float64."""
        return self._once("saliency", lambda: saliency(*zip(*self.gradients, strict=True)))

    @property
    def fisher(self) -> FisherRecorder:
        """Per-channel saliencies collected by the backward pass."""
        self._once("backward", self._backward)
        return self._once("fisher", self._fisher)

    @property
    def half_gradients(self) -> list[tuple[Tensor, Tensor]]:
        """``∂L/∂weight`` on the first half of the samples and on the rest, of each weight that both depend on."""
        return self._once("halves", self._halves)

    @property
    def gradient_signs(self) -> list[Tensor]:
        """Σ over samples of sign ∂L_n/∂weight, L_n the loss of sample n, for each prunable weight."""
        return self._once("signs", self._signs)

    @property
    def blocks(self) -> list[Block]:
        """Calls of the registered blocks (``register_block``) in the forward pass, in order."""
        self._once("forward", self._forward)
        return self._once("blocks", self._blocks).calls

    @property
    def block_jacobians(self) -> list[Tensor]:
        """Estimated mean Jacobian ``[D, D]`` float64 of every block call that keeps its shape."""
        return self._once("block_jacobians", self._block_jacobians)

    @property
    def feature_maps(self) -> dict[str, Tensor]:
        """Layer → outputs ``[channels, positions]`` for the first window, from a forward pass in float64."""
        return self._once("maps", lambda: layer_maps(self.exact, *self._inputs(slice(1), torch.float64)))

    @property
    def input_jacobian(self) -> Tensor:
        """∂(Σ y_n)/∂x_n, ``[B, L·C]`` float64."""
        return self._once("jacobian", lambda: self._to_input(torch.ones_like(self.output)))

    @property
    def energy_gradient(self) -> Tensor:
        """∂(mean y_n²)/∂x_n, ``[B, L·C]`` float64; the mean runs over the horizon and channels of sample n."""
        return self._once("energy", lambda: self._to_input(2.0 * self.output.detach() / self.output[0].numel()))

    @property
    def curvature(self) -> float:
        """wᵀ H g over the prunable weights w, with g = ∂L/∂w and H the Hessian of L."""
        return self._once("curvature", self._difference if self.fast_mode else self._double_backward)

    @property
    def log_synflow(self) -> float:
        """Logarithm of the SynFlow score, in float64."""
        return self._once("synflow", lambda: log_synflow(self._source, *self._sample_shapes()))

    @property
    def flops(self) -> int:
        """2 × multiply-adds for one sample."""
        return self._once("flops", lambda: count_flops(self.model, *self._inputs(slice(1))))

    def _once(self, name: str, make: Callable[[], T]) -> T:
        if name in self._failed:
            raise self._failed[name]
        if name not in self._done:
            try:
                self._done[name] = make()
            except FAILURES as error:
                self._failed[name] = error
                raise
        return self._done[name]

    def _copy(self) -> nn.Module:
        twin = copy.deepcopy(self._source).to(self._x.device).eval()
        twin.requires_grad_(False)
        for _, parameter in prunable_weights(twin):
            parameter.requires_grad_(True)
        return twin

    def _prunable(self) -> list[tuple[str, nn.Parameter]]:
        weights = prunable_weights(self.model)
        if not weights:
            raise ValueError("the network has no prunable weight")
        return weights

    def _fisher(self) -> FisherRecorder:
        return FisherRecorder(self.model, self.batch)

    def _blocks(self) -> BlockRecorder:
        return BlockRecorder(self.model)

    def _inputs(self, rows: slice | None = None, kind: torch.dtype | None = None) -> tuple[Tensor, ...]:
        """What the network is called with for some of the samples, by default in its own precision."""
        if kind is None:
            kind = next((p.dtype for p in self.model.parameters() if p.is_floating_point()), self._x.dtype)
        parts = (self._x,) if self._future is None else (self._x, self._future)
        return tuple((part if rows is None else part[rows]).detach().to(kind) for part in parts)

    def _sample_shapes(self) -> list[tuple[int, ...]]:
        return [(1, *part.shape[1:]) for part in self._inputs()]

    def _forward(self) -> tuple[Tensor, Tensor, ActivationRecorder]:
        x, *future = self._inputs()
        x = x.clone().requires_grad_(True)
        recorder = ActivationRecorder(self.batch)
        fisher = self._once("fisher", self._fisher)
        blocks = self._once("blocks", self._blocks)
        fisher.collecting = blocks.collecting = True
        with torch.enable_grad(), recorder:
            output = self.model(x, *future)
        fisher.collecting = blocks.collecting = False
        if not isinstance(output, Tensor):
            raise ValueError(f"the network returns {type(output).__name__} instead of a tensor [B, H, C]")
        return x, output, recorder

    def _loss_of(self, output: Tensor, rows: slice | None = None) -> Tensor:
        target = self._y if rows is None else self._y[rows]
        if output.shape != target.shape:
            raise ValueError(f"targets have shape {tuple(target.shape)}, the output {tuple(output.shape)}")
        return self._loss(output, target.to(output))

    def _part_gradients(self, rows: slice) -> list[Tensor | None]:
        """Return ∂L/∂weight of every prunable weight for some of the samples, from a float64 pass of their own."""
        weights = [weight for _, weight in prunable_weights(self.exact)]
        with torch.enable_grad():
            loss = self._loss_of(self.exact(*self._inputs(rows, torch.float64)), rows)
            return list(torch.autograd.grad(loss, weights, allow_unused=True))

    def _halves(self) -> list[tuple[Tensor, Tensor]]:
        if self.batch < 2:
            raise ValueError("two batches need two samples or more")
        middle = self.batch // 2
        first, second = self._part_gradients(slice(middle)), self._part_gradients(slice(middle, None))
        return [(a, b) for a, b in zip(first, second, strict=True) if a is not None and b is not None]

    def _signs(self) -> list[Tensor]:
        totals = [torch.zeros_like(weight, dtype=torch.float64) for _, weight in self.weights]
        for sample in range(self.batch):
            for total, grad in zip(totals, self._part_gradients(slice(sample, sample + 1)), strict=True):
                if grad is not None:
                    total += grad.sign()
        return totals

    def _block_jacobians(self) -> list[Tensor]:
        calls = enumerate(self.blocks)
        return [block_jacobian(block, index) for index, block in calls if block.input.shape == block.output.shape]

    def _backward(self) -> list[tuple[Tensor, Tensor]]:
        with torch.enable_grad():
            loss = self._loss_of(self.output)
            fisher = self._once("fisher", self._fisher)
            fisher.collecting = True
            parameters = [parameter for _, parameter in self.weights]
            grads = torch.autograd.grad(
                loss, parameters, retain_graph=True, create_graph=not self.fast_mode, allow_unused=True
            )
        fisher.collecting = False
        return [(w, g) for w, g in zip(parameters, grads, strict=True) if g is not None]

    def _to_input(self, cotangent: Tensor) -> Tensor:
        x, output, _ = self._once("forward", self._forward)
        (grad,) = torch.autograd.grad(output, x, cotangent, retain_graph=True)
        return grad.flatten(1).double()

    def _double_backward(self) -> float:
        pairs = self._once("backward", self._backward)
        with torch.enable_grad():
            products = [(g.detach() * g).sum() for _, g in pairs]
            weights = [w for w, _ in pairs]
            rows = torch.autograd.grad(sum(products[1:], products[0]), weights, retain_graph=True, allow_unused=True)
        terms = [_dot(w, h) for w, h in zip(weights, rows, strict=True) if h is not None]
        return float(sum(terms))

    def _difference(self) -> float:
        """Differentiate the gradient along w: gᵀ H w = gᵀ (g((1 + ε) w) − g(w)) / ε + O(ε)."""
        moved = {name: (1.0 + FINITE_STEP) * w.detach() for name, w in self.weights}
        for tensor in moved.values():
            tensor.requires_grad_(True)
        with torch.enable_grad():
            output = torch.func.functional_call(self.model, moved, self._inputs())
            after = torch.autograd.grad(self._loss_of(output), list(moved.values()), allow_unused=True)
        before = {id(w): g for w, g in self._once("backward", self._backward)}
        total = 0.0
        for (_, w), moved_grad in zip(self.weights, after, strict=True):
            if moved_grad is not None and id(w) in before:
                grad = before[id(w)]
                total += float(_dot(grad, moved_grad.double() - grad.double()))
        return total / FINITE_STEP


def _dot(a: Tensor, b: Tensor) -> Tensor:
    """Return Σ a·b, summed in float64."""
    return (a.detach().double() * b.detach().double()).sum()
