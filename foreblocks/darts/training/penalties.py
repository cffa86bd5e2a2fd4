"""Penalties on architecture probabilities: one small class each, and the table of their names.

Each is a mean over edges, differentiable, and (but for those of raw logits) at most 1, so a weight means the same in
any network. A penalty sees an ``EdgeTable``: E searched edges, K ops; all edges of a candidate share one op list.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar, Protocol, final

import torch
from torch import Tensor

from ..architecture.relax import EdgeLogits, Relaxation, concentration, gates
from ..ops.registry import get_op

_TINY = 1e-12


@dataclass(frozen=True)
class EdgeTable:
    """What a penalty sees.

    Attributes:
        logits: the logits of all edges.
        relaxation: how they become probabilities.
        names: the K ops.
        progress: share of the search that is done, from the end of warm-up, in [0, 1].
    """

    logits: EdgeLogits
    relaxation: Relaxation
    names: tuple[str, ...]
    progress: float

    @cached_property
    def p(self) -> Tensor:
        """Probabilities ``[E, K]``; rows sum to 1, pruned ops have 0."""
        return self.relaxation.probabilities(self.logits)

    @cached_property
    def entropy(self) -> Tensor:
        """Entropy ``[E]`` over that of a uniform choice among the living ops, in [0, 1]."""
        return normalised_entropy(self.p, self.logits.alive.sum(dim=1))


def normalised_entropy(p: Tensor, count: Tensor) -> Tensor:
    """Return ``-Σ p ln p / ln count`` of the last dimension; 0 where ``count`` is 1."""
    # The clamp keeps the gradient finite at p = 0, where p ln p has none.
    return -(p * p.clamp_min(_TINY).log()).sum(dim=-1) / count.clamp_min(2).to(p.dtype).log()


class Penalty(Protocol):
    """A term of the architecture loss; larger is worse."""

    name: ClassVar[str]

    def __call__(self, t: EdgeTable) -> Tensor:
        """Return the penalty of the current logits, a scalar."""
        ...


@final
class Entropy:
    """``1 − H``: keeps the choices open, from the first step to the last."""

    name: ClassVar[str] = "entropy"

    def __call__(self, t: EdgeTable) -> Tensor:
        """Return 0 for uniform edges, 1 for decided ones."""
        return 1.0 - t.entropy.mean()


@final
class UniformDivergence:
    """``KL(p ‖ uniform) / ln K`` times the share of the search that is left: opens early choices, frees late ones."""

    name: ClassVar[str] = "kl_divergence"

    def __call__(self, t: EdgeTable) -> Tensor:
        """Return 0 for uniform edges or at the end, 1 for decided ones at the start."""
        return (1.0 - t.progress) * (1.0 - t.entropy.mean())


@final
class Sparsity:
    """The entropy, with a weight that rises until 80 % of the search: decides, ever more strongly."""

    name: ClassVar[str] = "sparsity"

    def __call__(self, t: EdgeTable) -> Tensor:
        """Return 0 for decided edges or at the start."""
        return min(1.0, t.progress / 0.8) * t.entropy.mean()


@final
class Scheduled:
    """The entropy with a weight of −1 before 40 % of the search (open) and +1 after 70 % (decide), a cosine between."""

    name: ClassVar[str] = "scheduled"

    def __call__(self, t: EdgeTable) -> Tensor:
        """Return a value in [-1, 1]."""
        x = min(1.0, max(0.0, (t.progress - 0.4) / 0.3))
        return -math.cos(math.pi * x) * t.entropy.mean()


@final
class LogitDecay:
    """The mean square of the logits: keeps them small."""

    name: ClassVar[str] = "l2_norm"

    def __call__(self, t: EdgeTable) -> Tensor:
        """Return the mean over op logits plus that over family logits."""
        families = t.logits.family
        ops = t.logits.op.square().mean()
        return ops if families is None else ops + families.square().mean()


@final
class BetaDecay:
    """``mean over edges of ln Σ exp(logit)``, with a weight that rises linearly from 0 (Ye et al., β-DARTS, CVPR 2022).

    Its gradient is the softmax: the larger a logit, the harder it is pushed down, which keeps the probabilities close
    to each other and their variance small. The temperature does not enter.
    """

    name: ClassVar[str] = "beta_darts"

    def __call__(self, t: EdgeTable) -> Tensor:
        """Return the smooth maximum of the logits, at least ln K for logits of 0, times the progress."""
        return t.progress * torch.logsumexp(t.logits.joint(tempered=False), dim=1).mean()


@final
class Similarity:
    """The mean cosine between two edges' probabilities: asks edges to differ."""

    name: ClassVar[str] = "diversity"

    def __call__(self, t: EdgeTable) -> Tensor:
        """Return 1 when all edges choose alike, 0 for a single edge."""
        count = t.p.shape[0]
        if count < 2:
            return t.p.new_zeros(())
        total = torch.nn.functional.normalize(t.p, dim=1).sum(dim=0)
        return ((total * total).sum() - count) / (count * (count - 1))


@final
class Efficiency:
    """The expected cost of an edge, by the relative costs of the registry."""

    name: ClassVar[str] = "efficiency"

    def __call__(self, t: EdgeTable) -> Tensor:
        """Return a value in [0, 1]."""
        cost = torch.tensor([get_op(name).cost for name in t.names], dtype=t.p.dtype, device=t.p.device)
        return (t.p * cost).sum(dim=1).mean()


@final
class ZeroOne:
    """``mean 4 g (1 − g)`` of the gates g: drives each gate to 0 or 1.

    The zero-one loss of Fair DARTS (Chu et al., ECCV 2020), ``−mean (g − 0.5)²``, up to a factor and a constant.
    """

    name: ClassVar[str] = "zero_one"

    def __call__(self, t: EdgeTable) -> Tensor:
        """Return 0 when every gate is 0 or 1, 1 when all are one half; pruned ops do not count."""
        gate = gates(t.logits)
        return 4.0 * (gate * (1.0 - gate)).sum() / t.logits.alive.sum()


@final
class ConcentrationAnchor:
    """``mean (β − 1)²`` of the Dirichlet concentrations: keeps samples varied (Chen et al., DrNAS, ICLR 2021)."""

    name: ClassVar[str] = "concentration"

    def __call__(self, t: EdgeTable) -> Tensor:
        """Return 0 for logits of 0; pruned ops do not count."""
        return (concentration(t.logits) - 1.0).square().sum() / t.logits.alive.sum()


@final
class UsageBalance:
    """``1 − H`` of the mean probabilities of all edges: asks that every op is used somewhere."""

    name: ClassVar[str] = "usage_balance"

    def __call__(self, t: EdgeTable) -> Tensor:
        """Return 0 when the ops are used evenly, 1 when all edges use one."""
        mean = t.p.mean(dim=0)
        return 1.0 - normalised_entropy(mean, mean.new_tensor(float(len(t.names))))


@final
class IdentityCap:
    """What the mean probability of Identity exceeds ``cap`` by.

    Args:
        cap: free share, in [0, 1].
    """

    name: ClassVar[str] = "identity_cap"

    def __init__(self, cap: float = 0.45) -> None:
        self.cap = cap

    def __call__(self, t: EdgeTable) -> Tensor:
        """Return 0 below the cap, or without Identity."""
        if "Identity" not in t.names:
            return t.p.new_zeros(())
        return torch.relu(t.p[:, t.names.index("Identity")].mean() - self.cap)


@final
class Sharpening:
    """The entropy, with a weight that rises from 0 at ``start`` of the search to 1 at its end.

    Args:
        start: share of the search, in [0, 1].
    """

    name: ClassVar[str] = "sharpening"

    def __init__(self, start: float = 0.35) -> None:
        self.start = start

    def __call__(self, t: EdgeTable) -> Tensor:
        """Return 0 before ``start``, and for decided edges."""
        ramp = max(0.0, t.progress - self.start) / max(_TINY, 1.0 - self.start)
        return ramp * t.entropy.mean()


PENALTIES: dict[str, Penalty] = {
    penalty.name: penalty
    for penalty in (
        *(Entropy(), UniformDivergence(), LogitDecay(), Similarity(), Sparsity(), Efficiency(), Scheduled()),
        *(BetaDecay(), ZeroOne(), ConcentrationAnchor()),
    )
}

#: relaxation → the penalty that its paper adds, and the weight
OWN_PENALTIES: dict[str, tuple[str, float]] = {"fair": ("zero_one", 0.1), "drnas": ("concentration", 1e-3)}
