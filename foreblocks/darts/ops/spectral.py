"""Ops of the family ``frequency`` that transform: wavelets, Fourier modes, folding by period."""

from __future__ import annotations

import math

import pywt
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .._core.modules import ModuleList
from ..kernels import spectral_map, time_linear, wavelet_merge, wavelet_split
from .blocks import FeatureDropout, Linear, activated, check_length, rms_norm
from .registry import register_op

_WAVELET = "db2"
_WAVELET_LEVELS = 3
_FOURIER_MODES = 32
_TIMES_PERIODS = 3


@register_op("Wavelet", family="frequency", cost=0.6)
class Wavelet(nn.Module):
    """Discrete wavelet transform (Daubechies 2), a learned map for each band, and the inverse transform.

    Args:
        dim: D.
        length: T; up to three levels, as many as T allows, at least one.
        dropout: rate on the branch.

    The bands of x are c; output ``RMSNorm(x + IDWT(GELU(W_b c_b)))``. The transform repeats the edge values and is
    inverted exactly, whatever T is. Only the filter taps come from PyWavelets.

    Raises:
        InvalidArgument: the input of ``forward`` has another T.

    Source: Mallat, 1989.
    """

    filters: Tensor

    def __init__(self, dim: int, length: int, *, dropout: float = 0.1) -> None:
        super().__init__()
        wavelet = pywt.Wavelet(_WAVELET)
        self.length = length
        self.levels = min(max(pywt.dwt_max_level(length, wavelet.dec_len), 1), _WAVELET_LEVELS)
        # A filter is a correlation with the reversed taps.
        filters = torch.tensor([wavelet.dec_lo[::-1], wavelet.dec_hi[::-1]])
        self.register_buffer("filters", filters, persistent=False)
        self.bands = ModuleList(Linear(dim, dim) for _ in range(self.levels + 1))
        self.dropout = FeatureDropout(dropout)
        self.norm = rms_norm(dim)

    def analyse(self, x: Tensor) -> list[Tensor]:
        """Transform ``[N, T, D]`` into its bands ``[N, T_b, D]``: details from fine to coarse, then the rest."""
        bands = []
        for _ in range(self.levels):
            x, detail = wavelet_split(x, self.filters)
            bands.append(detail)
        return [*bands, x]

    def synthesise(self, bands: list[Tensor]) -> Tensor:
        """Invert ``analyse``: bands ``[N, T_b, D]`` to ``[N, T, D]``."""
        *details, x = bands
        lengths = [self.length, *(band.shape[1] for band in details[:-1])]
        for detail, length in zip(reversed(details), reversed(lengths), strict=True):
            x = wavelet_merge(x, detail, self.filters, length)
        return x

    def forward(self, x: Tensor) -> Tensor:
        """Map ``[N, T, D]`` to ``[N, T, D]``."""
        check_length("Wavelet", x, self.length)
        bands = [activated(band, part, "gelu") for band, part in zip(self.bands, self.analyse(x), strict=True)]
        return self.norm.join(x, self.synthesise(bands), self.dropout)


@register_op("Fourier", family="frequency", cost=0.6)
class Fourier(nn.Module):
    """Learned complex maps on the lowest frequencies, gated by the input.

    Args:
        dim: D.
        length: T; the lowest ``min(T // 2 + 1, 32)`` frequencies are kept.
        dropout: rate on the branch.

    The spectrum S is filtered with one complex weight per frequency and feature, mixed over the features by one complex
    ``[D, D]`` map with GELU on the real and on the imaginary part, and transformed back; output
    ``RMSNorm(x + sigmoid(W x) · y)``. The orthonormal transform is written as two real products with fixed matrices:
    for so few frequencies that is faster than an FFT, and it exports to formats without complex numbers.

    Raises:
        InvalidArgument: the input of ``forward`` has another T.

    Sources: Zhou et al., FEDformer, 2022 (lowest modes); Yi et al., FreTS, 2023 (complex maps over features).
    """

    forth: Tensor
    back: Tensor

    def __init__(self, dim: int, length: int, *, dropout: float = 0.1) -> None:
        super().__init__()
        self.length = length
        self.modes = min(length // 2 + 1, _FOURIER_MODES)
        forth, back = fourier_basis(length, torch.arange(self.modes))
        # Real and imaginary part of a frequency in adjacent rows, as `spectral_map` wants them.
        forth, back = (
            x.unflatten(d, (2, -1)).transpose(d, d + 1).flatten(d, d + 1) for d, x in ((0, forth), (1, back))
        )
        self.register_buffer("forth", forth, persistent=False)
        self.register_buffer("back", back, persistent=False)
        self.filter_real = nn.Parameter(1.0 + 0.1 * torch.randn(self.modes, dim))
        self.filter_imag = nn.Parameter(0.1 * torch.randn(self.modes, dim))
        self.mix = Linear(dim, 2 * dim, bias=False)
        self.bias_real = nn.Parameter(torch.zeros(dim))
        self.bias_imag = nn.Parameter(torch.zeros(dim))
        self.gate = Linear(dim, dim)
        self.dropout = FeatureDropout(dropout)
        self.norm = rms_norm(dim)

    def forward(self, x: Tensor) -> Tensor:
        """Map ``[N, T, D]`` to ``[N, T, D]``."""
        check_length("Fourier", x, self.length)
        layer = self.filter_real, self.filter_imag, self.mix.weight, self.bias_real, self.bias_imag
        y = spectral_map(x, self.forth, self.back, *layer)
        return self.norm.join(x, y, self.dropout, gate=self.gate(x))


@register_op("TimesNet", family="frequency", cost=0.5)
class TimesNet(nn.Module):
    """Fold each sample by its own strongest periods and convolve the folds in two dimensions.

    Args:
        dim: D; the convolution works on ``max(D // 4, 2)`` features between two pointwise maps.
        length: T; the candidates are the periods ``T // f`` of the frequencies f from 1 to ``T // 2``.
        dropout: rate on the branch.

    A fold by the period p is a table of rows of p steps; a 3 x 3 convolution reads each step's neighbours in its row
    and in the rows above and below. Those neighbours stand in a fixed table ``[periods, T, 9]``, so that samples with
    different periods are one gather, shapes never depend on values and a sample never on its batch. The (up to) three
    strongest frequencies of a sample are selected without gradient; the softmax over their amplitudes, which weighs
    the folds, has one. Output ``RMSNorm(x + W_out Σ_k w_k GELU(conv_k(W_in x)))``.

    Raises:
        InvalidArgument: the input of ``forward`` has another T.

    Source: Wu et al., TimesNet, 2023; its inception kernels are summed, hence one convolution of their common size.
    """

    basis: Tensor
    periods: Tensor
    period_of: Tensor
    neighbours: Tensor

    def __init__(self, dim: int, length: int, *, dropout: float = 0.1) -> None:
        super().__init__()
        self.length = length
        frequencies = torch.arange(1, max(length // 2, 1) + 1)
        periods, period_of = torch.unique(torch.div(length, frequencies, rounding_mode="floor"), return_inverse=True)
        self.selected = min(_TIMES_PERIODS, len(frequencies))
        width = max(dim // 4, 2)
        self.register_buffer("basis", fourier_basis(length, frequencies)[0], persistent=False)
        self.register_buffer("periods", periods, persistent=False)
        self.register_buffer("period_of", period_of, persistent=False)
        self.register_buffer("neighbours", _fold_table(length, periods.tolist()), persistent=False)
        self.entry = Linear(dim, width)
        self.fold = Linear(9 * width, width)
        self.exit = Linear(width, dim)
        self.dropout = FeatureDropout(dropout)
        self.norm = rms_norm(dim)

    def select(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return the chosen frequencies' indices into the period table, ``[N, K]``, and their weights ``[N, K]``."""
        real, imag = time_linear(x, self.basis).chunk(2, dim=1)  # each [N, F, D]
        # The small constant keeps both derivatives finite where a frequency is absent.
        amplitudes = torch.sqrt(real.square() + imag.square() + 1e-8).mean(dim=-1)
        chosen = amplitudes.detach().topk(self.selected, dim=-1).indices
        return self.period_of[chosen], torch.softmax(amplitudes.gather(1, chosen), dim=-1)

    def forward(self, x: Tensor) -> Tensor:
        """Map ``[N, T, D]`` to ``[N, T, D]``."""
        check_length("TimesNet", x, self.length)
        chosen, weights = self.select(x)
        narrow = F.pad(self.entry(x), (0, 0, 0, 1))  # step T is the zero beyond the fold
        width = narrow.shape[-1]
        steps = self.neighbours[chosen].flatten(1).unsqueeze(-1)  # [N, K T 9, 1]
        table = narrow.gather(1, steps.expand(-1, -1, width)).view(-1, self.length, 9 * width)
        folds = activated(self.fold, table, "gelu").unflatten(0, (-1, self.selected))  # [N, K, T, R]
        mixed = (folds * weights[:, :, None, None]).sum(dim=1)
        return self.norm.join(x, self.exit(mixed), self.dropout)


def fourier_basis(length: int, frequencies: Tensor) -> tuple[Tensor, Tensor]:
    """Return the real matrices of the orthonormal real Fourier transform, restricted to some frequencies.

    Args:
        length: T.
        frequencies: ``[M]`` whole numbers from 0 to ``T // 2``.

    Returns:
        ``(forth, back)``, ``[2 M, T]`` and ``[T, 2 M]``: ``forth x`` stacks the real over the imaginary parts, and
        ``back`` is the inverse for signals that hold no other frequency.
    """
    angle = 2 * math.pi / length * torch.outer(frequencies.double(), torch.arange(length, dtype=torch.float64))
    forth = torch.cat([angle.cos(), -angle.sin()]) / math.sqrt(length)
    # Each frequency stands for its mirror image too, but for 0 and T / 2, which have none.
    alone = (frequencies == 0) | (2 * frequencies == length)
    back = forth.T * torch.where(alone, 1.0, 2.0).double().repeat(2)
    return forth.to(torch.get_default_dtype()), back.to(torch.get_default_dtype()).contiguous()


def _fold_table(length: int, periods: list[int]) -> Tensor:
    """Return ``[P, T, 9]``: the 3 x 3 neighbours of each step in the fold by each period; T where there is none."""
    step = torch.arange(length)
    tables = []
    for period in periods:
        row, column = step // period, step % period
        taps = []
        for down in (-1, 0, 1):
            for right in (-1, 0, 1):
                there = (row + down) * period + column + right
                inside = (column + right >= 0) & (column + right < period) & (there >= 0) & (there < length)
                taps.append(torch.where(inside, there, length))
        tables.append(torch.stack(taps, dim=-1))
    return torch.stack(tables)
