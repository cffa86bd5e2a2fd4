"""Removing weak ops from edges while a search runs: a pruned op is never computed again, and never comes back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from .._core.errors import InvalidArgument, check_choice, check_real
from ..config import PRUNING_STRATEGIES
from .mixed_op import MixedOp

DECIDED = 0.5
PROBABILITY_SHARE = 0.7
_TINY = 1e-12


def prune_edges(
    edges: Sequence[tuple[str, MixedOp]],
    *,
    threshold: float,
    strategy: str,
    gradients: Mapping[nn.Parameter, Tensor] | None = None,
) -> dict[str, Any]:
    """Prune ops whose strength is below ``threshold`` times the strongest of their edge; each edge keeps its best.

    With p the probability of an op and g the gradient of the loss for its logit, the strength of an op is

    * ``probability``: p;
    * ``gradient``: p · (1 − g / max|g|): an op that the loss asks for counts up to twice, an unwanted one nothing;
    * ``entropy``: p, but only on edges whose normalised entropy is below one half, which have made up their mind;
    * ``performance``: 0.7 · p / max p + 0.3 · (max g − g) / (max g − min g). For a softmax, −g is p times what the
      loss gains from that op over the mean of its edge. Identity is never pruned.

    Args:
        edges: ``(name, edge)`` pairs.
        threshold: share of the best strength, in [0, 1].
        strategy: one of ``PRUNING_STRATEGIES``.
        gradients: op logits of an edge → gradient ``[K]``, best a running mean; None reads ``.grad``. Without any,
            ``performance`` goes by p alone.

    Returns:
        ``{operations_pruned, operations_kept, pruned_details: {edge: [op]}, threshold_used, strategy}``.

    Raises:
        InvalidArgument: a value is not allowed, or ``gradient`` without a gradient.
    """
    check_choice("strategy", strategy, PRUNING_STRATEGIES)
    check_real("threshold", threshold, low=0.0, high=1.0)
    details: dict[str, list[str]] = {}
    for name, edge in edges:
        if edge.op_logits is None or len(edge.running) < 2:
            continue
        gradient = edge.op_logits.grad if gradients is None else gradients.get(edge.op_logits)
        weak = _weak_ops(edge, threshold, strategy, gradient)
        if weak:
            edge.keep_only(torch.tensor([op not in weak for op in edge.names]))
            details[name] = weak
    return {
        "operations_pruned": sum(len(ops) for ops in details.values()),
        "operations_kept": sum(len(edge.running) for _, edge in edges),
        "pruned_details": details,
        "threshold_used": threshold,
        "strategy": strategy,
    }


def _weak_ops(edge: MixedOp, threshold: float, strategy: str, gradient: Tensor | None) -> list[str]:
    probs = edge.probabilities()
    if strategy == "entropy" and _normalised_entropy(probs[edge.alive]) >= DECIDED:
        return []
    strength = probs
    if strategy == "gradient":
        if gradient is None:
            raise InvalidArgument("strategy='gradient' needs a backward pass through the alphas first.")
        strength = probs * (1.0 - gradient / gradient[edge.alive].abs().max().clamp_min(_TINY))
    elif strategy == "performance":
        strength = _performance(probs, gradient, edge.alive)
    limit = threshold * strength[edge.alive].max()
    weak = [op for op, s in zip(edge.names, strength, strict=True) if op in edge.running and s < limit]
    return [op for op in weak if op != "Identity"] if strategy == "performance" else weak


def _normalised_entropy(probs: Tensor) -> Tensor:
    return -(probs * probs.clamp_min(_TINY).log()).sum() / torch.log(torch.tensor(float(len(probs))))


def _performance(probs: Tensor, gradient: Tensor | None, alive: Tensor) -> Tensor:
    share = probs / probs.max()
    if gradient is None:
        return share
    living = gradient[alive]
    asked = (living.max() - gradient) / (living.max() - living.min()).clamp_min(_TINY)
    return PROBABILITY_SHARE * share + (1.0 - PROBABILITY_SHARE) * asked
