"""Penalties on architecture probabilities, each a small function of the table of edge probabilities.

Every one is a mean over edges, at most about 1 and differentiable, so a weight means the same in any network.
``p`` is ``[E, K]``: E searched edges, K ops; all edges of a candidate share one op list.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from .._core.errors import InvalidArgument, check_choice
from ..architecture.network import TimeSeriesDARTS
from ..config import DARTSTrainConfig
from ..ops.registry import get_op


@dataclass(frozen=True)
class EdgeTable:
    """What a penalty sees: probabilities ``p [E, K]``, logits, op names, and progress in [0, 1]."""

    p: Tensor
    logits: list[Tensor]
    names: tuple[str, ...]
    progress: float

    @property
    def entropy(self) -> Tensor:
        """Normalised entropy ``[E]`` in [0, 1]."""
        return -torch.xlogy(self.p, self.p).sum(dim=1) / math.log(max(2, self.p.shape[1]))


def _entropy(t: EdgeTable) -> Tensor:
    return t.entropy.mean()


def _kl_uniform(t: EdgeTable) -> Tensor:
    # KL(p || uniform) / ln K = 1 - normalised entropy: keeps early mixtures open, so it fades with progress.
    return (1.0 - t.progress) * (1.0 - t.entropy.mean())


def _l2(t: EdgeTable) -> Tensor:
    return torch.stack([logits.square().mean() for logits in t.logits]).mean()


def _similarity(t: EdgeTable) -> Tensor:
    """Mean cosine between the probabilities of two edges: high when all edges choose alike."""
    count = t.p.shape[0]
    if count < 2:
        return t.p.new_zeros(())
    unit = torch.nn.functional.normalize(t.p, dim=1)
    total = unit.sum(dim=0)
    return ((total * total).sum() - count) / (count * (count - 1))


def _sparsity(t: EdgeTable) -> Tensor:
    return min(1.0, t.progress / 0.8) * t.entropy.mean()


def _efficiency(t: EdgeTable) -> Tensor:
    cost = torch.tensor([get_op(name).cost for name in t.names], dtype=t.p.dtype, device=t.p.device)
    return (t.p * cost).sum(dim=1).mean()


def _scheduled(t: EdgeTable) -> Tensor:
    # -1 before 0.4 (explore), +1 after 0.7 (decide), a cosine between.
    x = min(1.0, max(0.0, (t.progress - 0.4) / 0.3))
    return -math.cos(math.pi * x) * t.entropy.mean()


PENALTIES: dict[str, Callable[[EdgeTable], Tensor]] = {
    "entropy": _entropy,
    "kl_divergence": _kl_uniform,
    "l2_norm": _l2,
    "diversity": _similarity,
    "sparsity": _sparsity,
    "efficiency": _efficiency,
    "scheduled": _scheduled,
}


class ArchitecturePenalty:
    """The sum of the penalties that a config asks for.

    Args:
        config: search settings; ``regularization_types`` None means none of ``PENALTIES``, only the edge terms.

    Raises:
        InvalidArgument: an unknown type, or weights that do not match the types.
    """

    def __init__(self, config: DARTSTrainConfig) -> None:
        types = list(config.regularization_types or [])
        weights = list(config.regularization_weights or [0.01] * len(types))
        if len(weights) != len(types):
            raise InvalidArgument(
                f"regularization_weights has {len(weights)} entries for {len(types)} regularization_types."
            )
        self._typed = [
            (PENALTIES[check_choice("regularization_types", name, PENALTIES)], weight)
            for name, weight in zip(types, weights, strict=True)
            if weight
        ]
        self._config = config

    def __call__(self, model: TimeSeriesDARTS, progress: float) -> Tensor:
        """Return the weighted penalty of the current alphas; ``progress`` in [0, 1] counts from the end of warm-up."""
        edges = [edge for cell in model.cells for edge in cell.edges if edge.op_logits is not None]
        if not edges:
            return next(model.parameters()).new_zeros(())
        p = torch.stack([edge.log_probs().exp() for edge in edges])
        table = EdgeTable(p, [edge.op_logits for edge in edges], edges[0].names, progress)
        total = p.new_zeros(())
        for penalty, weight in self._typed:
            total = total + weight * penalty(table)
        return total + self._edge_terms(table)

    def _edge_terms(self, t: EdgeTable) -> Tensor:
        c = self._config
        terms: list[Tensor] = []
        if c.edge_diversity_weight:
            terms.append(c.edge_diversity_weight * _similarity(t))
        if c.edge_usage_balance_weight:
            mean = t.p.mean(dim=0, keepdim=True)
            terms.append(c.edge_usage_balance_weight * (1.0 - EdgeTable(mean, [], t.names, 0.0).entropy.mean()))
        if c.edge_identity_cap_weight and "Identity" in t.names:
            share = t.p[:, t.names.index("Identity")].mean()
            terms.append(c.edge_identity_cap_weight * torch.relu(share - c.edge_identity_cap))
        if c.edge_sharpening_max_weight and t.progress > c.edge_sharpening_start_frac:
            ramp = (t.progress - c.edge_sharpening_start_frac) / max(1e-9, 1.0 - c.edge_sharpening_start_frac)
            terms.append(c.edge_sharpening_max_weight * ramp * t.entropy.mean())
        if c.beta_darts_weight:
            terms.append(c.beta_darts_weight * _l2(t))
        return _sum(terms, t.p)


def _sum(terms: Sequence[Tensor], like: Tensor) -> Tensor:
    total = like.new_zeros(())
    for term in terms:
        total = total + term
    return total
