"""Ops that take a series apart over time: trend and remainder, several resolutions, fixed bases."""

from __future__ import annotations

import itertools
import math

import torch
from torch import Tensor, nn

from .._core.modules import ModuleList
from ..kernels import time_linear
from .blocks import (
    FeatureDropout,
    Linear,
    SeriesDecomposition,
    TimeLinear,
    activated,
    check_length,
    odd_kernel,
    pad_steps,
    rms_norm,
)
from .registry import register_op

_MIXER_SCALES = 3
_NBEATS_WIDTH = 32
_NBEATS_DEGREE = 3
_NBEATS_HARMONICS = 8
_NBEATS_GENERIC = 8


@register_op("DLinear", family="frequency", cost=0.5)
class DLinear(nn.Module):
    """A linear map over time for the trend and another for the remainder, shared by the features.

    Args:
        dim: D.
        length: T; the trend is a moving average over ``min(25, T)`` steps with the edges repeated.
        dropout: rate on the branch.

    Output ``RMSNorm(x + W_t trend(x) + W_r (x - trend(x)) + b)``. The split is linear: it is applied to unit vectors
    and folded with both maps into one ``[T, T]`` matrix, so that x is read once. Both maps start as the mean over time.

    Raises:
        InvalidArgument: the input of ``forward`` has another T.

    Source: Zeng et al., AAAI 2023.
    """

    def __init__(self, dim: int, length: int, *, dropout: float = 0.1) -> None:
        super().__init__()
        self.length = length
        self.split = SeriesDecomposition(odd_kernel(length))
        self.trend = nn.Parameter(torch.full((length, length), 1.0 / length))
        self.remainder = nn.Parameter(torch.full((length, length), 1.0 / length))
        self.bias = nn.Parameter(torch.zeros(length))
        self.dropout = FeatureDropout(dropout)
        self.norm = rms_norm(dim)

    def forward(self, x: Tensor) -> Tensor:
        """Map ``[N, T, D]`` to ``[N, T, D]``."""
        check_length("DLinear", x, self.length)
        remainder, trend = self.split(torch.eye(self.length, dtype=x.dtype, device=x.device).unsqueeze(0))
        weight = torch.addmm(self.remainder @ remainder[0], self.trend, trend[0])
        return self.norm.join(x, time_linear(x, weight, self.bias), self.dropout)


class _TimeMix(nn.Module):
    """Two linear maps over time with a GELU between them; the hidden length is the smaller one."""

    def __init__(self, steps_in: int, steps_out: int) -> None:
        super().__init__()
        hidden = min(steps_in, steps_out)
        self.enter = TimeLinear(steps_in, hidden)
        self.leave = TimeLinear(hidden, steps_out)

    def forward(self, x: Tensor) -> Tensor:
        """Map ``[N, steps_in, D]`` to ``[N, steps_out, D]``."""
        return self.leave(activated(self.enter, x, "gelu"))


@register_op("TimeMixer", family="mlp", cost=0.5)
class TimeMixer(nn.Module):
    """Past-decomposable mixing at up to three resolutions.

    Args:
        dim: D.
        length: T; each coarser scale averages pairs of steps.
        dropout: rate on the branch.

    Every scale is split into season and trend. Seasons are mixed from fine to coarse, trends from coarse to fine, each
    by a small net over time; the sums of both are brought back to T steps, added up and sent through a two-layer net
    over the features. Output ``RMSNorm(x + FFN(Σ_m up(season_m + trend_m)))``.

    Raises:
        InvalidArgument: the input of ``forward`` has another T.

    Source: Wang et al., TimeMixer, 2024.
    """

    def __init__(self, dim: int, length: int, *, dropout: float = 0.1) -> None:
        super().__init__()
        self.length = length
        lengths = [length]
        while len(lengths) < _MIXER_SCALES and lengths[-1] > 1:
            lengths.append(-(-lengths[-1] // 2))
        self.split = ModuleList(SeriesDecomposition(odd_kernel(steps)) for steps in lengths)
        pairs = list(itertools.pairwise(lengths))
        self.season_down = ModuleList(_TimeMix(fine, coarse) for fine, coarse in pairs)
        self.trend_up = ModuleList(_TimeMix(coarse, fine) for fine, coarse in pairs)
        self.expand = Linear(dim, dim)
        self.reduce = Linear(dim, dim)
        self.dropout = FeatureDropout(dropout)
        self.norm = rms_norm(dim)

    def forward(self, x: Tensor) -> Tensor:
        """Map ``[N, T, D]`` to ``[N, T, D]``."""
        check_length("TimeMixer", x, self.length)
        scale = x
        parts = [self.split[0](x)]
        for split in self.split[1:]:
            scale = _halve(scale)
            parts.append(split(scale))
        seasons, trends = [season for season, _ in parts], [trend for _, trend in parts]
        for fine, mix in enumerate(self.season_down):
            seasons[fine + 1] = seasons[fine + 1] + mix(seasons[fine])
        for fine in reversed(range(len(self.trend_up))):
            trends[fine] = trends[fine] + self.trend_up[fine](trends[fine + 1])
        total = seasons[-1] + trends[-1]
        for season, trend in zip(reversed(seasons[:-1]), reversed(trends[:-1]), strict=True):
            total = season + trend + _double(total, season.shape[1])
        return self.norm.join(x, self.reduce(activated(self.expand, total, "gelu")), self.dropout)


class _BasisBlock(nn.Module):
    """One N-BEATS block over time: an MLP gives the coefficients of a backcast and of a forecast on one basis."""

    basis: Tensor

    def __init__(self, length: int, basis: Tensor, *, learned: bool = False) -> None:
        super().__init__()
        width = min(length, _NBEATS_WIDTH)
        self.hidden = ModuleList([TimeLinear(length, width), TimeLinear(width, width)])
        self.theta = TimeLinear(width, 2 * basis.shape[1])
        if learned:
            self.basis = nn.Parameter(basis)
        else:
            self.register_buffer("basis", basis, persistent=False)

    def forward(self, residual: Tensor) -> tuple[Tensor, Tensor]:
        """Map ``[N, T, D]`` to what is left of it, ``[N, T, D]``, and the forecast's coefficients ``[N, P, D]``."""
        hidden = residual
        for layer in self.hidden:
            hidden = activated(layer, hidden, "relu")
        backcast, forecast = self.theta(hidden).chunk(2, dim=1)
        return residual - time_linear(backcast, self.basis), forecast


@register_op("NBeats", family="mlp", cost=0.5)
class NBeats(nn.Module):
    """Three blocks over time, doubly residual: polynomial trend, Fourier seasonality, a learned basis.

    Args:
        dim: D; all features share the blocks.
        length: T.
        dropout: rate on the forecast.

    Each block sees what the blocks before it left, takes its backcast away and adds a forecast, which here covers the
    same T steps: output ``RMSNorm(x - Σ backcasts + Σ forecasts)``. Hidden layers have ``min(T, 32)`` units.

    Raises:
        InvalidArgument: the input of ``forward`` has another T.

    Source: Oreshkin et al., N-BEATS, 2020.
    """

    def __init__(self, dim: int, length: int, *, dropout: float = 0.1) -> None:
        super().__init__()
        self.length = length
        generic = torch.randn(length, min(length, _NBEATS_GENERIC))
        self.blocks = ModuleList(
            [
                _BasisBlock(length, polynomial_basis(length)),
                _BasisBlock(length, seasonal_basis(length)),
                _BasisBlock(length, generic / math.sqrt(generic.shape[1]), learned=True),
            ]
        )
        self.dropout = FeatureDropout(dropout)
        self.norm = rms_norm(dim)

    def forward(self, x: Tensor) -> Tensor:
        """Map ``[N, T, D]`` to ``[N, T, D]``."""
        check_length("NBeats", x, self.length)
        residual = x
        forecasts = []
        for block in self.blocks:
            residual, forecast = block(residual)
            forecasts.append(forecast)
        # One product for the three forecasts.
        bases = torch.cat([block.basis for block in self.blocks], dim=1)
        return self.norm.join(residual, time_linear(torch.cat(forecasts, dim=1), bases), self.dropout)


def polynomial_basis(length: int) -> Tensor:
    """Return ``[T, P]``: powers 0 to 3 of time on [-1, 1], made orthogonal, each of root mean square 1."""
    time = torch.linspace(-1.0, 1.0, length, dtype=torch.float64) if length > 1 else torch.zeros(1, dtype=torch.float64)
    powers = time[:, None] ** torch.arange(min(_NBEATS_DEGREE + 1, length), dtype=torch.float64)
    orthogonal = torch.linalg.qr(powers).Q * math.sqrt(length)
    return (orthogonal * torch.sign((orthogonal * powers).sum(dim=0))).to(torch.get_default_dtype())


def seasonal_basis(length: int) -> Tensor:
    """Return ``[T, P]``: cosines and sines of the first ``min(T // 2, 8)`` harmonics, at least the first."""
    harmonics = torch.arange(1, max(min(length // 2, _NBEATS_HARMONICS), 1) + 1, dtype=torch.float64)
    angle = 2 * math.pi / length * torch.outer(torch.arange(length, dtype=torch.float64), harmonics)
    return (math.sqrt(2) * torch.cat([angle.cos(), angle.sin()], dim=1)).to(torch.get_default_dtype())


def _halve(x: Tensor) -> Tensor:
    """Average pairs of steps of ``[N, T, D]``; an odd last step is its own pair."""
    padded = pad_steps(x, 0, x.shape[1] % 2)
    return padded.unflatten(1, (-1, 2)).mean(dim=2)


def _double(x: Tensor, length: int) -> Tensor:
    """Repeat each step of ``[N, T, D]`` twice and cut to ``length`` steps."""
    return x.unsqueeze(2).expand(-1, -1, 2, -1).flatten(1, 2)[:, :length]
