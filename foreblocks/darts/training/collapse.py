"""Does a search collapse? The curvature of the validation loss in the alphas says so before the alphas do.

The dominant eigenvalue of ``∇²_α L_val`` grows sharply when a search turns towards Identity and its discretisation
gets worse (Zela et al., Understanding and Robustifying DARTS, ICLR 2020, section 4). The watch looks at it every few
alpha steps. When its local average has grown too much and most edges have turned to Identity, the alphas go back to
where they were and stay there, while the weights train on. The second condition is ours: in a short search the
curvature grows at first in every network, as the ops learn something worth choosing.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from .._core.logging import get_logger
from .._core.seeding import generator
from .._core.types import Batch
from ..architecture.derive import searched_mixture
from ..architecture.mixed_op import edge_logits
from ..architecture.network import TimeSeriesDARTS
from ..evaluation.batches import eval_mode
from .loop import LossFunction

logger = get_logger(__name__)

LOOKS = 16  # looks in a whole search, where their distance is not given
CLOSEST = 5  # fewest alpha steps between two of them: a look costs about two weight steps
WINDOW = 5  # looks in a local average
DELAY = 4  # looks between the two averages that are compared, and how far the alphas go back
WINDOWS = 16  # alpha windows that the loss is computed on
ITERATIONS = 3  # power iterations of a look; each goes on from the vector of the one before


@dataclass
class CollapseTrace:
    """What the watch has seen: plain data, a part of the state that a rung hands on.

    Attributes:
        alpha_steps: alpha steps that were done at each look.
        eigenvalues: dominant eigenvalue of each look.
        vector: its eigenvector at the last look, one tensor per alpha.
        alphas: values of the alphas at the last looks, oldest first.
        identity: share of the edges that pointed to Identity at the same looks.
        stopped_at: alpha steps that were done when the alphas were rolled back; None as long as they move.
    """

    alpha_steps: list[int] = field(default_factory=list)
    eigenvalues: list[float] = field(default_factory=list)
    vector: list[Tensor] | None = None
    alphas: list[list[Tensor]] = field(default_factory=list)
    identity: list[float] = field(default_factory=list)
    stopped_at: int | None = None

    def add(
        self, steps: int, eigenvalue: float, vector: list[Tensor], alphas: Sequence[Tensor], identity: float
    ) -> None:
        """Record a look."""
        self.alpha_steps.append(steps)
        self.eigenvalues.append(eigenvalue)
        self.vector = vector
        self.alphas = [*self.alphas, [a.detach().clone() for a in alphas]][-DELAY - 1 :]
        self.identity = [*self.identity, identity][-DELAY - 1 :]

    @property
    def growth(self) -> float | None:
        """Local average of the eigenvalue, over that of ``DELAY`` looks before; None before there are both."""
        values = [abs(value) for value in self.eigenvalues]
        if len(values) < WINDOW + DELAY:
            return None
        now, before = sum(values[-WINDOW:]), sum(values[-WINDOW - DELAY : -DELAY])
        return now / before if before > 0 else None

    @property
    def turns_to_identity(self) -> bool:
        """Whether most edges point to Identity, and more than ``DELAY`` looks before."""
        return len(self.identity) > DELAY and self.identity[-1] > max(0.5, self.identity[0])

    def to_dict(self) -> dict[str, Any]:
        """Return plain Python and CPU tensors."""
        return {
            "alpha_steps": list(self.alpha_steps),
            "eigenvalues": list(self.eigenvalues),
            "vector": None if self.vector is None else [v.cpu() for v in self.vector],
            "alphas": [[a.cpu() for a in alphas] for alphas in self.alphas],
            "identity": list(self.identity),
            "stopped_at": self.stopped_at,
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> CollapseTrace:
        """Inverse of ``to_dict``."""
        return cls(**data)


class CollapseWatch:
    """Looks at the curvature of one network while it is searched.

    Args:
        model: the searched network.
        loss_fn: training loss.
        batch: alpha windows that every look uses.
        every: alpha steps between two looks, at least 1.
        limit: growth from which the alphas are rolled back if they also turn to Identity; None only records.
    """

    def __init__(
        self,
        model: TimeSeriesDARTS,
        loss_fn: LossFunction,
        batch: Batch,
        *,
        every: int,
        limit: float | None,
    ) -> None:
        self._model = model
        self._loss_fn = loss_fn
        self._batch = batch
        self._every = every
        self._limit = limit
        self._alphas = list(model.arch_parameters())

    def after_step(self, alpha_steps: int, trace: CollapseTrace) -> bool:
        """Look if it is time to; return whether the alphas were rolled back just now."""
        if alpha_steps % self._every or trace.stopped_at is not None:
            return False
        eigenvalue, vector = self.eigenvalue(trace.vector)
        trace.add(alpha_steps, eigenvalue, vector, self._alphas, identity_share(self._model))
        growth = trace.growth
        if self._limit is None or growth is None or growth <= self._limit or not trace.turns_to_identity:
            return False
        with torch.no_grad():
            for alpha, value in zip(self._alphas, trace.alphas[0], strict=True):
                alpha.copy_(value)
        trace.stopped_at = alpha_steps
        logger.warning(
            "the curvature of the alphas grew by %.2f within %d alpha steps: they go back to step %d and stay there.",
            growth, DELAY * self._every, trace.alpha_steps[-DELAY - 1],
        )  # fmt: skip
        return True

    def eigenvalue(self, start: list[Tensor] | None = None) -> tuple[float, list[Tensor]]:
        """Return the dominant eigenvalue of ``∇² L`` in the alphas over their temperature, and its vector.

        The mixture of all ops is differentiated, in eval mode and whatever the relaxation. Dividing by the
        temperature keeps the falling temperature from passing for growing curvature.
        """
        with eval_mode([self._model]), searched_mixture(self._model):
            loss = self._loss_fn(self._model(*self._batch.inputs), self._batch.y)
        return dominant_eigenvalue(
            loss, self._alphas, scales=list(_temperatures(self._model)), start=start, iterations=ITERATIONS
        )


def dominant_eigenvalue(
    loss: Tensor,
    parameters: Sequence[Tensor],
    *,
    scales: Sequence[float] | None = None,
    start: Sequence[Tensor] | None = None,
    iterations: int = 20,
) -> tuple[float, list[Tensor]]:
    """Return the eigenvalue of largest magnitude of the Hessian of ``loss``, and its unit vector, by power iteration.

    Args:
        loss: scalar with a graph that differentiates twice.
        parameters: the variables.
        scales: factor per parameter; the Hessian is that in ``parameter / scale``.
        start: first vector, one tensor per parameter; None draws a fixed one.
        iterations: products with the Hessian, at least 1.
    """
    factors = list(scales) if scales is not None else [1.0] * len(parameters)
    gradients = torch.autograd.grad(loss, parameters, create_graph=True, allow_unused=True)
    used = [g for g in gradients if g is not None and g.requires_grad]
    vector = _unit(_drawn(parameters) if start is None else [v.to(p) for v, p in zip(start, parameters, strict=True)])
    if not used:
        return 0.0, vector  # the loss is linear in the parameters
    value = 0.0
    for _ in range(iterations):
        weighted = [
            v * s for g, v, s in zip(gradients, vector, factors, strict=True) if g is not None and g.requires_grad
        ]
        rows = torch.autograd.grad(used, parameters, weighted, retain_graph=True, allow_unused=True)
        product = [
            torch.zeros_like(p) if r is None else r * s for p, r, s in zip(parameters, rows, factors, strict=True)
        ]
        value = float(sum((v * h).sum() for v, h in zip(vector, product, strict=True)))  # Rayleigh quotient
        if not any(bool(h.any()) for h in product):
            break
        vector = _unit(product)
    return value, vector


def _unit(vector: Sequence[Tensor]) -> list[Tensor]:
    norm = torch.stack([v.square().sum() for v in vector]).sum().sqrt()
    return [v / norm for v in vector]


def _drawn(like: Sequence[Tensor]) -> list[Tensor]:
    draw = generator("power_iteration")
    return [torch.randn(p.shape, generator=draw).to(p) for p in like]


def _temperatures(model: TimeSeriesDARTS) -> Iterator[float]:
    """Yield the temperature of every alpha, in the order of ``arch_parameters``."""
    for cell in model.cells:
        for edge in cell.edges:
            if edge.op_logits is None:
                continue
            table = edge_logits([edge])
            tempered = edge.relaxation.name != "drnas"
            yield table.temperature if tempered else 1.0
            if table.family is not None:
                yield table.family_temperature if tempered else 1.0
        yield from (1.0 for _ in cell.edge_logits)


def alpha_summary(model: TimeSeriesDARTS) -> dict[str, float]:
    """Return ``identity_share``, the share of the edges whose most probable op is Identity, and ``entropy``.

    The entropy is the mean over the searched edges, normalised to [0, 1]; both are 0 where nothing is searched.
    """
    entropies = []
    for edge in model.edges:
        if len(edge.running) > 1:
            p = edge.probabilities()
            entropies.append(float(-torch.xlogy(p, p).sum()) / math.log(len(edge.running)))
    return {
        "identity_share": identity_share(model),
        "entropy": sum(entropies) / len(entropies) if entropies else 0.0,
    }


def identity_share(model: TimeSeriesDARTS) -> float:
    """Return the share of the edges whose most probable op is Identity."""
    found = [edge.names[int(edge.probabilities().argmax())] == "Identity" for edge in model.edges]
    return sum(found) / len(found)


def collapse_report(history: Mapping[str, Any], trace: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a result says about collapse: lists per epoch, every look, and where the alphas were stopped."""
    return {
        **{key: list(history[key]) for key in EPOCH_KEYS},
        "looks": [list(pair) for pair in zip(trace["alpha_steps"], trace["eigenvalues"], strict=True)],
        "stopped_at": trace["stopped_at"],
    }


#: lists of the history, an entry per epoch: the last look's eigenvalue and growth (None before), and ``alpha_summary``
EPOCH_KEYS = ("eigenvalues", "eigenvalue_growth", "identity_share", "entropy")


def record_epoch(history: Mapping[str, list[Any]], model: TimeSeriesDARTS, trace: CollapseTrace) -> None:
    """Append an epoch's entry to each list of ``EPOCH_KEYS``."""
    summary = alpha_summary(model)
    seen = {"eigenvalues": trace.eigenvalues[-1] if trace.eigenvalues else None, "eigenvalue_growth": trace.growth}
    for key in EPOCH_KEYS:
        history[key].append({**seen, **summary}[key])
