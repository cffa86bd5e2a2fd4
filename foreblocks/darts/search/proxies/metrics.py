"""The proxies themselves: each one a few lines on top of the shared passes.

Definitions follow the published code of the methods named; w runs over the prunable weights (``weights``), g is the
gradient of the mean loss over the whole horizon. Larger values are better unless the registry says otherwise.
"""

from __future__ import annotations

from typing import final

import torch
from torch import Tensor

from .passes import Passes
from .registry import LOG_CONDITION_CAP, register_proxy

JACOBIAN_FLOOR = 1e-5
# Below this ratio of eigenvalues the Gram matrix in float64 no longer resolves the smallest one.
_GRAM_LIMIT = 1e-11


@register_proxy("synflow", weight=0.25, contract=True)
@final
class SynFlow:
    """Logarithm of Σ |w·∂R/∂w| with all-positive weights, R = Σ output for ones (Tanaka et al., NeurIPS 2020)."""

    def compute(self, passes: Passes) -> float:
        """Return the logarithm."""
        return passes.log_synflow


@register_proxy("grasp", weight=0.20, norm="signed_log1p", contract=True)
@final
class GraSP:
    """−wᵀ H g (Wang et al., ICLR 2020)."""

    def compute(self, passes: Passes) -> float:
        """Return the score, of either sign."""
        return -passes.curvature


@register_proxy("fisher", weight=0.20, contract=True)
@final
class Fisher:
    """Channel saliency ½·mean over samples of (Σ over positions a·∂L/∂a)², on every weight of the channel, summed.

    Source: Theis et al., 2018; Turner et al., BlockSwap, ICLR 2020.
    """

    def compute(self, passes: Passes) -> float:
        """Return the sum, at least 0."""
        return passes.fisher.score()


@register_proxy("jacobian", weight=0.15, norm="signed_log1p", contract=True)
@final
class JacobCov:
    """−Σ (log(λ + k) + 1/(λ + k)) over the eigenvalues λ of the correlation of per-sample input gradients, k = 1e-5.

    Source: Mellor et al., ICML 2021 (first version).
    """

    def compute(self, passes: Passes) -> float:
        """Return the score; raises ``ValueError`` for one sample, or a sample with a constant gradient."""
        if passes.batch < 2:
            raise ValueError("jacobian needs two samples or more")
        rows = passes.input_jacobian
        rows = rows - rows.mean(dim=1, keepdim=True)
        norms = rows.norm(dim=1, keepdim=True)
        if not bool((norms > 0).all()):
            raise ValueError("the input gradient of a sample is constant, so it has no correlation with the others")
        rows = rows / norms
        values = torch.linalg.eigvalsh(rows @ rows.T).clamp_min(0.0) + JACOBIAN_FLOOR
        return float(-(values.log() + 1.0 / values).sum())


@register_proxy("naswot", weight=0.15, norm="signed_log1p", contract=True)
@final
class Naswot:
    """Log-determinant of the kernel of activation patterns, summed over all activations (Mellor et al., ICML 2021).

    Any activation function counts, with the sign of its input as pattern.
    """

    def compute(self, passes: Passes) -> float:
        """Return the log-determinant; raises ``ValueError`` without activations or if two samples look alike.

        A network without a value takes the last place in the order by rank.
        """
        kernel = passes.activations.kernel
        if kernel is None:
            raise ValueError("the network has no activation function")
        values = torch.linalg.eigvalsh(kernel)
        if float(values[0]) <= float(values[-1]) * kernel.shape[0] * torch.finfo(torch.float64).eps:
            raise ValueError("the activation kernel is singular: some samples have the same activation pattern")
        return float(values.log().sum())


@register_proxy("snip", weight=0.15, contract=True)
@final
class Snip:
    """Σ |g·w| (Lee et al., ICLR 2019)."""

    def compute(self, passes: Passes) -> float:
        """Return the sum, at least 0."""
        return float(passes.saliency[:, 0].sum())


@register_proxy("sensitivity", weight=0.10, contract=True)
@final
class Sensitivity:
    """Mean over samples of ‖∂(mean output²)/∂x‖₂."""

    def compute(self, passes: Passes) -> float:
        """Return the mean, at least 0."""
        return float(passes.energy_gradient.norm(dim=1).mean())


@register_proxy("activation_diversity", weight=0.10, contract=True)
@final
class ActivationDiversity:
    """1 − mean |cosine| between the activations of different samples, averaged over the activation functions."""

    def compute(self, passes: Passes) -> float:
        """Return a value in [0, 1]; raises ``ValueError`` without activations or with one sample."""
        similarities = passes.activations.similarities
        if not similarities:
            raise ValueError("activation_diversity needs an activation function and two samples or more")
        return 1.0 - float(torch.stack(similarities).mean())


@register_proxy("conditioning", weight=-0.10, norm="conditioning", direction=-1, contract=True)
@final
class Conditioning:
    """Mean over weights, as matrices [first dim, rest], of min(log(σ_max/σ_min), 30); smaller is better."""

    def compute(self, passes: Passes) -> float:
        """Return a value in [0, 30]; a singular matrix counts 30."""
        values = [_log_condition(w.detach().double().flatten(1)) for _, w in passes.weights]
        return sum(values) / len(values)


@register_proxy("params", weight=-0.05, direction=-1, contract=True)
@final
class Params:
    """Number of weights, alphas not counted."""

    def compute(self, passes: Passes) -> float:
        """Return the count; raises ``ValueError`` for a network without parameters."""
        if passes.weight_count == 0:
            raise ValueError("the network has no parameter")
        return float(passes.weight_count)


@register_proxy("flops", weight=-0.05, direction=-1, contract=True)
@final
class Flops:
    """2 × multiply-adds of one sample, whatever the batch."""

    def compute(self, passes: Passes) -> float:
        """Return the count."""
        return float(passes.flops)


@register_proxy("grad_norm")
@final
class GradNorm:
    """Σ over weight tensors of ‖g‖₂ (Abdelfattah et al., ICLR 2021)."""

    def compute(self, passes: Passes) -> float:
        """Return the sum, at least 0."""
        return float(passes.saliency[:, 2].sqrt().sum())


@register_proxy("l2")
@final
class L2Norm:
    """Σ over weight tensors of ‖w‖₂."""

    def compute(self, passes: Passes) -> float:
        """Return the sum, at least 0."""
        return float(sum(w.detach().double().norm() for _, w in passes.weights))


def _log_condition(matrix: Tensor) -> float:
    wide = matrix if matrix.shape[0] <= matrix.shape[1] else matrix.T
    # The Gram matrix of the short side is far cheaper than singular values, and exact enough unless nearly singular.
    values = torch.linalg.eigvalsh(wide @ wide.T)
    if float(values[0]) > _GRAM_LIMIT * float(values[-1]):
        return min(0.5 * float(values[-1].log() - values[0].log()), LOG_CONDITION_CAP)
    singular = torch.linalg.svdvals(wide)
    if float(singular[-1]) <= 0.0:
        return LOG_CONDITION_CAP
    return min(float(singular[0].log() - singular[-1].log()), LOG_CONDITION_CAP)
