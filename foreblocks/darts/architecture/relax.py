"""Continuous relaxations: how logits become weights on ops, and which ops have to run.

A relaxation sees the logits of all edges of a network as one table and answers with the weights of all edges, so that
a forward pass costs a handful of small tensor operations and, where ops are sampled, a single device synchronisation.
Relaxations hold no state: what they draw comes from torch's generator, what they learn is in the logits.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Protocol, final

import torch
from torch import Tensor

from .._core.errors import check_choice

PRUNED = -1e9  # finite, so that no gradient is NaN; float16 takes its lowest number
_TINY = 1e-12
SMALLEST_CONCENTRATION = 1e-4  # such an op is never drawn; the gradients of samples of 1e-7 are not finite any more


@dataclass(frozen=True)
class EdgeLogits:
    """The logits of E edges over the same K ops, in F families.

    Attributes:
        op: op logits ``[E, K]``.
        family: family logits ``[E, F]``; None with a single family.
        member: ``[K, F]``, 1 where op k belongs to family f.
        alive: ``[E, K]``, False where an op is pruned.
        temperature: temperature of the ops, above 0.
        family_temperature: temperature of the families, above 0.
        floor: share of a softmax that is spread evenly over the living ops, in [0, 1); needs several families.
    """

    op: Tensor
    family: Tensor | None
    member: Tensor
    alive: Tensor
    temperature: float = 1.0
    family_temperature: float = 1.0
    floor: float = 0.0

    def joint(self, *, tempered: bool = True) -> Tensor:
        """Return ``op / τ + family / τ_family`` ``[E, K]`` (both τ are 1 if not ``tempered``); pruned ops get -1e9.

        Added and not normalised inside a family: the logit of an op that is alone in its family still counts.
        """
        joint = self.op / self.temperature if tempered else self.op
        if self.family is not None:
            family = self.family / self.family_temperature if tempered else self.family
            # Not a matrix product: autocast would round it to half precision.
            joint = joint + (family.unsqueeze(1) * self.member).sum(dim=2)
        return joint.masked_fill(~self.alive, max(PRUNED, torch.finfo(joint.dtype).min))


class Relaxation(Protocol):
    """Turns a table of logits into mixture weights."""

    name: ClassVar[str]
    partial: ClassVar[bool]  #: ops see a part of the channels only (``mixed_op.MixedOp``)

    def probabilities(self, edges: EdgeLogits) -> Tensor:
        """Return ``[E, K]``: how likely each op is, rows sum to 1; differentiable, without noise."""
        ...

    def weights(self, edges: EdgeLogits, training: bool) -> tuple[Tensor, list[int] | None]:
        """Return weights ``[E, K]`` and the one op to run on each edge (None: all living ops of every edge)."""
        ...


def softmax_probabilities(edges: EdgeLogits) -> Tensor:
    """Return the softmax ``[E, K]`` of the tempered logits, with the floor of ``edges``."""
    probs = torch.softmax(edges.joint(), dim=1)
    if edges.floor and edges.family is not None:
        # A floor by mixing with the uniform distribution: unlike clamping, it keeps gradients.
        living = edges.alive.to(probs.dtype)
        probs = (1.0 - edges.floor) * probs + edges.floor * living / living.sum(dim=1, keepdim=True)
    return probs


@final
class SoftmaxRelaxation:
    """The mixture of DARTS (Liu et al., ICLR 2019): every op runs, weighted by its probability."""

    name: ClassVar[str] = "softmax"
    partial: ClassVar[bool] = False

    def probabilities(self, edges: EdgeLogits) -> Tensor:
        """Return the softmax ``[E, K]``."""
        return softmax_probabilities(edges)

    def weights(self, edges: EdgeLogits, training: bool) -> tuple[Tensor, list[int] | None]:
        """Return the probabilities; all ops run."""
        return softmax_probabilities(edges), None


@final
class PartialRelaxation:
    """PC-DARTS (Xu et al., ICLR 2020): the mixture of DARTS on a share of the channels.

    The other channels pass by unchanged and a channel shuffle mixes both, so an op costs and holds a fraction of its
    full size. The edge normalisation of that paper, a softmax over the inputs of a node, is part of every cell.
    """

    name: ClassVar[str] = "pc"
    partial: ClassVar[bool] = True

    def probabilities(self, edges: EdgeLogits) -> Tensor:
        """Return the softmax ``[E, K]``."""
        return softmax_probabilities(edges)

    def weights(self, edges: EdgeLogits, training: bool) -> tuple[Tensor, list[int] | None]:
        """Return the probabilities; all ops run."""
        return softmax_probabilities(edges), None


@final
class GdasRelaxation:
    """One sampled op per edge and step (Dong and Yang, GDAS, CVPR 2019): straight-through Gumbel-softmax.

    Forward uses weight 1 on the sampled op; backward uses the soft weights, so every logit gets a gradient. An op is
    sampled with its probability. In eval mode the most probable op runs alone: the path that derivation keeps.
    """

    name: ClassVar[str] = "gdas"
    partial: ClassVar[bool] = False

    def probabilities(self, edges: EdgeLogits) -> Tensor:
        """Return the softmax ``[E, K]``."""
        return softmax_probabilities(edges)

    def weights(self, edges: EdgeLogits, training: bool) -> tuple[Tensor, list[int] | None]:
        """Return straight-through one-hot weights and the one op of each edge (one synchronisation for all)."""
        probs = softmax_probabilities(edges)
        if not training:
            best = probs.argmax(dim=1)
            return torch.nn.functional.one_hot(best, probs.shape[1]).to(probs.dtype), best.tolist()
        gumbel = -torch.empty_like(probs).exponential_().log()
        # The clamp only keeps the gradient of a pruned op finite; the mask is what excludes it.
        noisy = (probs.clamp_min(_TINY).log() + gumbel) / edges.temperature
        soft = torch.softmax(noisy.masked_fill(~edges.alive, -torch.inf), dim=1)
        chosen = soft.argmax(dim=1)
        hard = torch.nn.functional.one_hot(chosen, probs.shape[1]).to(soft.dtype)
        return hard - soft.detach() + soft, chosen.tolist()


@final
class DrnasRelaxation:
    """Weights drawn from a Dirichlet distribution (Chen et al., DrNAS, ICLR 2021), with pathwise gradients.

    The concentrations are ``elu(logit) + 1``; equal logits of 0 give the uniform distribution on the simplex, from
    which the samples explore by themselves, so neither temperature nor floor applies. In eval mode the weights are
    the mean of the distribution.
    """

    name: ClassVar[str] = "drnas"
    partial: ClassVar[bool] = False

    def probabilities(self, edges: EdgeLogits) -> Tensor:
        """Return the mean ``β / Σ β`` ``[E, K]`` of the distribution."""
        joint = edges.joint(tempered=False)
        # ln(elu(x) + 1), in one piece: far below zero the concentrations themselves underflow.
        log_beta = torch.where(joint > 0, joint.clamp_min(0.0).log1p(), joint)
        return torch.softmax(log_beta, dim=1)

    def weights(self, edges: EdgeLogits, training: bool) -> tuple[Tensor, list[int] | None]:
        """Return a sample in training, the mean in eval mode; all ops run."""
        if not training:
            return self.probabilities(edges), None
        # Normalised gamma variables are a Dirichlet sample, and leaving some out is one over the rest: this is how
        # edges with different pruned ops are drawn in one call.
        beta = concentration(edges).clamp_min(SMALLEST_CONCENTRATION)
        gamma = torch.distributions.Gamma(beta, torch.ones_like(beta), validate_args=False).rsample()
        living = gamma * edges.alive
        return living / living.sum(dim=1, keepdim=True), None


def concentration(edges: EdgeLogits) -> Tensor:
    """Return the Dirichlet concentrations ``elu(logit) + 1`` ``[E, K]``; 1 for pruned ops, which do not count."""
    joint = edges.joint(tempered=False).masked_fill(~edges.alive, 0.0)
    return torch.nn.functional.elu(joint) + 1.0


@final
class FairRelaxation:
    """Independent gates (Chu et al., Fair DARTS, ECCV 2020): ``w = sigmoid(logit)``, ops do not compete.

    The weights of an edge do not sum to 1; the zero-one loss (``training.penalties.ZeroOne``) drives each gate to one
    end, where the mixture and the derived op have the same scale.
    """

    name: ClassVar[str] = "fair"
    partial: ClassVar[bool] = False

    def probabilities(self, edges: EdgeLogits) -> Tensor:
        """Return the gates ``[E, K]`` divided by their sum."""
        # Through the logarithm, since all gates of an edge may be nearly 0.
        return torch.softmax(torch.nn.functional.logsigmoid(edges.joint()), dim=1)

    def weights(self, edges: EdgeLogits, training: bool) -> tuple[Tensor, list[int] | None]:
        """Return the gates; all ops run."""
        return gates(edges), None


def gates(edges: EdgeLogits) -> Tensor:
    """Return the independent gates ``sigmoid(logit)`` ``[E, K]``; 0 for pruned ops."""
    return torch.sigmoid(edges.joint())


RELAXATIONS: dict[str, type[Relaxation]] = {
    relaxation.name: relaxation
    for relaxation in (SoftmaxRelaxation, GdasRelaxation, DrnasRelaxation, PartialRelaxation, FairRelaxation)
}


def build_relaxation(name: str) -> Relaxation:
    """Return the relaxation called ``name``; an unknown one raises ``InvalidArgument``."""
    return RELAXATIONS[check_choice("relaxation", name, RELAXATIONS)]()
