"""How the scores treat the modules of this package that normalise, subtract or convolve in their own way."""

from __future__ import annotations

import torch
from torch import Tensor

from ...architecture.build import FixedCell
from ...architecture.cell import DARTSCell
from ...architecture.sequence import Residual
from ...architecture.stem import SeriesNorm, Stem
from ...kernels import moving_average
from ...ops.blocks import SeriesDecomposition, StepConv, StepConvTranspose, TimeLinear
from .features import register_block
from .recorder import register_fisher_layer
from .synflow import register_synflow_bypass


def _keep_series(module: SeriesNorm, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return ``x [B, L, C]`` with shift 0 and scale 1: a constant input would be normalised away."""
    shift = torch.zeros_like(x[:, :1])
    return x, shift, torch.ones_like(shift)


def _keep_remainder(module: SeriesDecomposition, x: Tensor) -> tuple[Tensor, Tensor]:
    """Return the input itself as remainder, beside its trend: the difference would cancel."""
    return x, moving_average(x, module.kernel)


def register_library() -> None:
    """Register the modules of the package; calling it again changes nothing."""
    register_synflow_bypass(SeriesNorm, _keep_series)
    register_synflow_bypass(SeriesDecomposition, _keep_remainder)
    register_fisher_layer(StepConv, -1)
    register_fisher_layer(StepConvTranspose, -1)
    register_fisher_layer(TimeLinear, 1)
    for block in (Stem, DARTSCell, FixedCell, Residual):
        register_block(block)
