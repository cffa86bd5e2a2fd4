"""Second moments of forecasting windows, read from a window source in float64."""

from __future__ import annotations

import torch

from .._core.errors import DataError
from .._core.types import WindowSource, layout_of

_MIN_RUN = 64
_PROBES = 8
_CHUNK_BYTES = 64 * 2**20
_GROUP_BYTES = 256 * 2**20


def window_moments(source: WindowSource) -> torch.Tensor:
    """Return ``Σ w wᵀ`` per channel, ``[C, L+H, L+H]`` float64, over the windows ``w = (x, y)`` of ``source``.

    C are the channels that the source forecasts.

    A constant per channel is subtracted first, which leaves every centred product as it is and keeps digits when the
    level is large against the changes.

    Raises:
        DataError: a value is not finite; the message names window and channel.
    """
    shift = _read(source, torch.zeros(1, dtype=torch.int64)).mean(1)[0]  # [C]
    runs, rest = _split_runs(source)
    width = source.lookback + source.horizon
    channels = len(shift)
    total = torch.zeros(channels, width, width, dtype=torch.float64)
    for order in runs:
        series = _series_of_run(source, order)
        if series is None:
            rest = torch.cat([rest, order])
        else:
            _add_run(total, series - shift[:, None], order.numel())
    for part in rest.split(max(1, _CHUNK_BYTES // (8 * width * channels))):
        windows = (_read(source, part) - shift).permute(2, 0, 1).contiguous()  # [C, B, W]
        for channel, block in enumerate(windows):
            total[channel].addmm_(block.t(), block)
    return total


def _read(source: WindowSource, indices: torch.Tensor) -> torch.Tensor:
    """Return whole windows ``[B, L+H, C]`` in float64."""
    x, y = source.gather(indices)
    targets = layout_of(source).target_channels
    x = x if targets is None else x[..., targets]
    windows = torch.cat([x, y], dim=1).to(device="cpu", dtype=torch.float64)
    bad = ~torch.isfinite(windows)
    if bool(bad.any()):
        window, _, channel = (int(v) for v in bad.nonzero()[0])
        named = channel if targets is None else targets[channel]
        raise DataError(f"window {int(indices[window])} has a value that is not finite in channel {named}.")
    return windows


def _split_runs(source: WindowSource) -> tuple[list[torch.Tensor], torch.Tensor]:
    """Return index lists of runs that advance row by row, and the indices in no run of useful length."""
    starts = source.starts
    if starts is None:
        return [], torch.arange(len(source))
    rows, order = torch.sort(starts.to("cpu", torch.int64))
    breaks = (rows.diff() != 1).nonzero().flatten() + 1
    pieces = torch.tensor_split(order, breaks)
    runs = [piece for piece in pieces if piece.numel() >= _MIN_RUN]
    short = [piece for piece in pieces if piece.numel() < _MIN_RUN]
    return runs, torch.cat(short) if short else order[:0]


def _series_of_run(source: WindowSource, order: torch.Tensor) -> torch.Tensor | None:
    """Return the rows ``[C, n+W-1]`` that a run of n windows covers, or None if its windows are no views of them."""
    width = source.lookback + source.horizon
    count = order.numel()
    picks = torch.arange(0, count, width)
    body = _read(source, order[picks]).flatten(0, 1)  # [picks * W, C]
    tail = _read(source, order[-1:])[0]
    length = count + width - 1
    series = torch.empty(length, body.shape[1], dtype=torch.float64)
    series[: min(length, body.shape[0])] = body[:length]
    series[length - width :] = tail
    probes = torch.linspace(0, count - 1, _PROBES).round().to(torch.int64)
    seen = series.unfold(0, width, 1)[probes].transpose(1, 2)  # [probes, W, C]
    if not torch.equal(_read(source, order[probes]), seen):
        return None
    return series.t().contiguous()


def _add_run(total: torch.Tensor, series: torch.Tensor, count: int) -> None:
    """Add the moments of all ``count`` windows of ``series [C, n+W-1]`` to ``total [C, W, W]``.

    The entry of steps i and j is ``Σ_t s[t+i] s[t+j]``. The first column is an autocorrelation; the next entry down
    a diagonal gains the product that enters the sum at its end and loses the one at its start.
    """
    width = total.shape[1]
    group = max(1, _GROUP_BYTES // (3 * 8 * width * width))
    for first in range(0, total.shape[0], group):
        s = series[first : first + group]
        column = _autocorrelation(s, count, width)
        head, end = s[:, :width], s[:, count : count + width - 1]
        moments = torch.empty(s.shape[0], width, width, dtype=torch.float64)
        moments[:, 0, :] = column
        moments[:, :, 0] = column
        for i in range(width - 1):
            entering = end[:, i, None] * end
            leaving = head[:, i, None] * head[:, : width - 1]
            moments[:, i + 1, 1:] = moments[:, i, : width - 1] + entering - leaving
        total[first : first + group] += moments


def _autocorrelation(series: torch.Tensor, count: int, width: int) -> torch.Tensor:
    """Return ``Σ_{t<count} s[t] s[t+k]`` for ``k < width``, ``[C, W]``, through the FFT."""
    size = 1 << (2 * count + width).bit_length()
    spectrum = torch.fft.rfft(series[:, :count], n=size).conj() * torch.fft.rfft(series, n=size)
    return torch.fft.irfft(spectrum, n=size)[:, :width]
