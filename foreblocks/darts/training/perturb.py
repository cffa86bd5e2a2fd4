"""Noise on the alphas while the weights are trained (Chen and Hsieh, SmoothDARTS, ICML 2020).

Weights that stay good when the alphas move a little make the loss smooth in the alphas, so that turning the mixture
into one op per edge costs less. The noise grows linearly from 0 to ``perturbation_radius`` over the search.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import final

import torch
from torch import Tensor, nn

from ..config import DARTSTrainConfig

ASCENT = 2.5  # times radius over steps: enough to reach the border of the box from anywhere in it


@final
class AlphaPerturbation:
    """Moves the alphas inside a box around them for the length of a block, and puts them back exactly.

    ``random`` draws from the box evenly. ``adversarial`` starts there and climbs the training loss by
    ``perturbation_steps`` signed gradient steps, each clipped to the box (projected gradient ascent; Madry et al.,
    ICLR 2018), which costs as many further forward and backward passes.

    Args:
        config: ``perturbation``, ``perturbation_radius`` and ``perturbation_steps``.
        alphas: the architecture parameters.
    """

    def __init__(self, config: DARTSTrainConfig, alphas: Sequence[nn.Parameter]) -> None:
        self._kind = config.perturbation if alphas else "none"
        self._radius = config.perturbation_radius
        self._steps = config.perturbation_steps
        self._alphas = alphas

    @contextmanager
    def __call__(self, loss: Callable[[], Tensor], progress: float) -> Iterator[None]:
        """Run a block under moved alphas.

        Args:
            loss: the training loss at the current alphas; the adversarial form calls it.
            progress: share of the search that is done, in [0, 1].
        """
        radius = self._radius * min(1.0, progress)
        if self._kind == "none" or not radius:
            yield
            return
        with torch.no_grad():
            centres = [alpha.clone() for alpha in self._alphas]
        try:
            self._move(centres, [torch.empty_like(c).uniform_(-radius, radius) for c in centres])
            if self._kind == "adversarial":
                self._climb(loss, centres, radius)
            yield
        finally:
            self._move(centres, None)

    def _climb(self, loss: Callable[[], Tensor], centres: list[Tensor], radius: float) -> None:
        wanted = [alpha.requires_grad for alpha in self._alphas]
        for alpha in self._alphas:
            alpha.requires_grad_(True)
        try:
            for _ in range(self._steps):
                slopes = torch.autograd.grad(loss(), self._alphas, allow_unused=True, materialize_grads=True)
                step = ASCENT * radius / self._steps
                offsets = [
                    (alpha.detach() + step * slope.sign() - centre).clamp(-radius, radius)
                    for alpha, slope, centre in zip(self._alphas, slopes, centres, strict=True)
                ]
                self._move(centres, offsets)
        finally:
            for alpha, flag in zip(self._alphas, wanted, strict=True):
                alpha.requires_grad_(flag)

    @torch.no_grad()
    def _move(self, centres: list[Tensor], offsets: list[Tensor] | None) -> None:
        for i, alpha in enumerate(self._alphas):
            alpha.copy_(centres[i] if offsets is None else centres[i] + offsets[i])
