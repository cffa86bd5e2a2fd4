"""Removing weak ops from edges while a search runs: a pruned op is never computed again."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from .._core.errors import InvalidArgument, check_choice, check_real
from .mixed_op import MixedOp

PRUNING_STRATEGIES = ("probability", "gradient", "entropy", "performance")


def prune_edges(edges: Sequence[tuple[str, MixedOp]], *, threshold: float, strategy: str) -> dict[str, Any]:
    """Prune ops whose strength is below ``threshold`` times the strongest of their edge; each edge keeps its best.

    Strength by ``strategy``: ``probability`` is the softmax weight; ``gradient`` adds evidence from the last alpha
    gradient (weight · (1 − clip(gradient · scale))), so an op that the loss asks for survives; ``entropy`` prunes by
    probability only on edges whose normalised entropy is below one half, which have made up their mind;
    ``performance`` is probability with Identity and the best op never pruned.

    Args:
        edges: ``(name, edge)`` pairs.
        threshold: share of the best strength, in [0, 1].
        strategy: one of ``PRUNING_STRATEGIES``.

    Returns:
        ``{operations_pruned, operations_kept, pruned_details: {edge: [op]}, threshold_used, strategy}``.
    """
    check_choice("strategy", strategy, PRUNING_STRATEGIES)
    check_real("threshold", threshold, low=0.0, high=1.0)
    details: dict[str, list[str]] = {}
    for name, edge in edges:
        weak = _weak_ops(edge, threshold, strategy)
        if weak:
            alive = torch.tensor([op not in weak for op in edge.names])
            edge.keep_only(alive)
            details[name] = weak
    return {
        "operations_pruned": sum(len(ops) for ops in details.values()),
        "operations_kept": sum(len(edge.running) for _, edge in edges),
        "pruned_details": details,
        "threshold_used": threshold,
        "strategy": strategy,
    }


def _weak_ops(edge: MixedOp, threshold: float, strategy: str) -> list[str]:
    if edge.op_logits is None or len(edge.running) < 2:
        return []
    probs = edge.probabilities()
    if strategy == "entropy":
        living = probs[probs > 0]
        entropy = -(living * living.log()).sum() / torch.log(torch.tensor(float(len(living))))
        if entropy >= 0.5:
            return []
    strength = probs
    if strategy == "gradient":
        gradient = edge.op_logits.grad
        if gradient is None:
            raise InvalidArgument("strategy='gradient' needs a backward pass through the alphas first.")
        # A negative gradient asks for a larger logit: such ops count up to twice, unwanted ones down to zero.
        strength = probs * (1.0 - gradient / gradient.abs().max().clamp_min(1e-12))
    best = strength.max()
    weak = [op for op, s in zip(edge.names, strength, strict=True) if op in edge.running and s < threshold * best]
    return [op for op in weak if op != "Identity"] if strategy == "performance" else weak
