"""One level of a wavelet transform over time: two filters at stride 2 in one pass over ``[N, T, D]``, and back."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .._core.errors import InvalidArgument, check_int
from ._inputs import check_like, check_series, check_shape, native_supports
from ._library import define, differentiable
from .dispatch import Implementation, Operation
from .reference import conv1d, conv_transpose1d


def wavelet_split(x: Tensor, filters: Tensor) -> tuple[Tensor, Tensor]:
    """Filter a series with a low-pass and a high-pass at stride 2; the edge values are repeated as padding.

    ``low[m] = Σ_j filters[0, j] · x[2 m + j - (W - 2)]``, and ``high`` alike.

    Args:
        x: ``[N, T, D]``, T at least 1.
        filters: ``[2, W]`` with an even W, the same for every feature: correlation taps, which are the reversed
            decomposition filters of a wavelet. They get no gradient.

    Returns:
        ``(low, high)``, each ``[N, (T + W - 1) // 2, D]``.

    Source: Mallat, 1989.

    Raises:
        InvalidArgument: shapes or dtypes do not agree, or ``filters`` requires a gradient.
    """
    check_series("x", x, "[N, T, D]")
    _check_filters(filters, x)
    return _SPLIT.pick(x)(x, filters)


def wavelet_merge(low: Tensor, high: Tensor, filters: Tensor, length: int) -> Tensor:
    """Invert ``wavelet_split`` for the filters of an orthogonal wavelet.

    ``x[t] = Σ_m filters[0, j] · low[m] + filters[1, j] · high[m]`` with ``j = t + W - 2 - 2 m``.

    Args:
        low: ``[N, M, D]``.
        high: like ``low``.
        filters: ``[2, W]``, those of ``wavelet_split``.
        length: T, with ``M = (T + W - 1) // 2``.

    Returns:
        ``[N, T, D]``.

    Raises:
        InvalidArgument: shapes or dtypes do not agree, ``length`` does not fit, or ``filters`` requires a gradient.
    """
    check_shape("low", low, (None, None, None), "[N, M, D]")
    check_shape("high", high, tuple(low.shape), "like low")
    check_like("high", high, low)
    _check_filters(filters, low)
    halves = (check_int("length", length, low=1) + filters.shape[1] - 1) // 2
    if low.shape[1] != halves:
        raise InvalidArgument(f"length={length} does not fit: low has {low.shape[1]} steps, not {halves}.")
    return _MERGE.pick(low, high)(low, high, filters, length)


def _check_filters(filters: Tensor, like: Tensor) -> None:
    check_shape("filters", filters, (2, None), "[2, W]")
    check_like("filters", filters, like)
    if filters.shape[1] == 0 or filters.shape[1] % 2:
        raise InvalidArgument(f"filters has {filters.shape[1]} taps; their number must be even and at least 2.")
    if filters.requires_grad:
        raise InvalidArgument("filters requires a gradient, but the taps of a wavelet are fixed: detach them.")


def reference_split(x: Tensor, filters: Tensor) -> tuple[Tensor, Tensor]:
    """Plain PyTorch form: two depthwise convolutions at stride 2."""
    width, steps = filters.shape[1], x.shape[1]
    left, right = width - 2, 2 * ((steps + width - 1) // 2) - steps
    padded = torch.cat([x[:, :1].expand(-1, left, -1), x, x[:, -1:].expand(-1, right, -1)], dim=1)
    low, high = (
        conv1d(padded, taps.expand(x.shape[2], 1, width), stride=2, groups=x.shape[2], padding="valid")
        for taps in filters
    )
    return low, high


def reference_merge(low: Tensor, high: Tensor, filters: Tensor, length: int) -> Tensor:
    """Plain PyTorch form: two transposed convolutions."""
    width, dim = filters.shape[1], low.shape[2]
    by_low, by_high = (
        conv_transpose1d(band, taps.expand(dim, 1, width), length=length, padding=width - 2, groups=dim)
        for band, taps in zip((low, high), filters, strict=True)
    )
    return by_low + by_high


def _fake_split(x: Tensor, filters: Tensor, edges: bool) -> tuple[Tensor, Tensor]:
    shape = (x.shape[0], (x.shape[1] + filters.shape[1] - 1) // 2, x.shape[2])
    return x.new_empty(shape), x.new_empty(shape)


def _fake_merge(low: Tensor, high: Tensor, filters: Tensor, length: int, edges: bool) -> Tensor:
    return low.new_empty(low.shape[0], length, low.shape[2])


# With `edges` the series goes on with its first and last value, else with zeros: what falls there is added to the edge
# steps by the adjoint, or lost.
_FORWARD = define("wavelet_split(Tensor x, Tensor filters, bool edges) -> (Tensor, Tensor)", _fake_split)
_BACKWARD = define(
    "wavelet_merge(Tensor low, Tensor high, Tensor filters, int length, bool edges) -> Tensor", _fake_merge
)


# Both maps are linear and each is the adjoint of the other, so each is the gradient of the other's gradient too.
def _setup_split(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    x, filters, ctx.edges = inputs
    ctx.length = x.shape[1]
    ctx.save_for_backward(filters)


def _backward_split(ctx: Any, by_low: Tensor, by_high: Tensor) -> tuple[Any, ...]:
    (filters,) = ctx.saved_tensors
    return _run_merge(by_low, by_high, filters, ctx.length, ctx.edges), None, None


def _setup_merge(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    *_, filters, _, ctx.edges = inputs
    ctx.save_for_backward(filters)


def _backward_merge(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
    (filters,) = ctx.saved_tensors
    return *_run_split(grad, filters, ctx.edges), None, None, None


_run_split = differentiable(_FORWARD, _setup_split, _backward_split)
_run_merge = differentiable(_BACKWARD, _setup_merge, _backward_merge)


def _native_split(x: Tensor, filters: Tensor) -> tuple[Tensor, Tensor]:
    return _run_split(x, filters, True)


def _native_merge(low: Tensor, high: Tensor, filters: Tensor, length: int) -> Tensor:
    return _run_merge(low, high, filters, length, False)


_SPLIT = Operation(
    "wavelet_split",
    reference_split,
    (Implementation("native", _native_split, native_supports("wavelet_split", half=True)),),
)
_MERGE = Operation(
    "wavelet_merge",
    reference_merge,
    (Implementation("native", _native_merge, native_supports("wavelet_merge", half=True)),),
)
