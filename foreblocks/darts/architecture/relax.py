"""Continuous relaxations: how logits become weights on ops, and which ops have to run.

One protocol, ``weights(log_probs, temperature, training) -> (w [K], active)``. Only active ops are computed.
"""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor

from .._core.errors import check_choice


class Relaxation(Protocol):
    """Turns the log-probabilities of the K ops of an edge into mixture weights."""

    name: str

    def weights(self, log_probs: Tensor, temperature: float, training: bool) -> tuple[Tensor, list[int] | None]:
        """Return weights ``[K]`` and the indices of the ops to run (None: all of them)."""
        ...


class SoftmaxRelaxation:
    """The mixture of DARTS (Liu et al., ICLR 2019): every op runs, weighted by its probability."""

    name = "softmax"

    def weights(self, log_probs: Tensor, temperature: float, training: bool) -> tuple[Tensor, list[int] | None]:
        """Return the probabilities; all ops are active. The temperature is already in ``log_probs``."""
        return log_probs.exp(), None


class GdasRelaxation:
    """One sampled op per edge and step (Dong and Yang, GDAS, CVPR 2019): straight-through Gumbel-softmax.

    Forward uses weight exactly 1 on the sampled op; backward uses the soft weights, so every logit gets a gradient.
    In eval mode the most probable op runs alone, which is the path that derivation keeps.
    """

    name = "gdas"

    def weights(self, log_probs: Tensor, temperature: float, training: bool) -> tuple[Tensor, list[int] | None]:
        """Return straight-through one-hot weights and the one active op."""
        if not training:
            best = log_probs.argmax()
            return torch.nn.functional.one_hot(best, log_probs.shape[0]).to(log_probs.dtype), [int(best)]
        uniform = torch.rand_like(log_probs).clamp_(1e-9, 1.0 - 1e-9)
        gumbel = -torch.log(-torch.log(uniform))
        soft = torch.softmax((log_probs + gumbel) / max(temperature, 1e-3), dim=0)
        chosen = soft.argmax()
        hard = torch.nn.functional.one_hot(chosen, log_probs.shape[0]).to(soft.dtype)
        return hard - soft.detach() + soft, [int(chosen)]


RELAXATIONS: dict[str, type[SoftmaxRelaxation] | type[GdasRelaxation]] = {
    SoftmaxRelaxation.name: SoftmaxRelaxation,
    GdasRelaxation.name: GdasRelaxation,
}


def build_relaxation(name: str) -> Relaxation:
    """Return the relaxation called ``name``; an unknown one raises ``InvalidArgument``."""
    return RELAXATIONS[check_choice("relaxation", name, RELAXATIONS)]()
