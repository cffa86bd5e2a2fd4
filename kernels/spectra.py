"""A learned complex map on the frequencies of a series: from transform to transform in one pass."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from .._core.errors import InvalidArgument
from ._inputs import check_like, check_series, check_shape, native_supports, some
from ._library import define, differentiable, second_order
from .dispatch import Implementation, Operation
from .reference import time_linear


def spectral_map(
    x: Tensor,
    forth: Tensor,
    back: Tensor,
    filter_real: Tensor,
    filter_imag: Tensor,
    weight: Tensor,
    bias_real: Tensor,
    bias_imag: Tensor,
) -> Tensor:
    """Filter the spectrum of each series, map its features by a complex layer with GELU, and transform back.

    With the spectrum ``S[m]``, the real part of which is row ``2 m`` of ``forth · x`` and the imaginary one the row
    behind it, the layer is ``H[m] = W (f[m] · S[m]) + b``, and the result ``back`` times the rows of ``GELU(Re H)`` and
    ``GELU(Im H)``, which alternate too.

    Args:
        x: ``[N, T, D]``, T at least 1.
        forth: ``[2 M, T]``, the transform to M frequencies. It gets no gradient.
        back: ``[O, 2 M]``, the transform to O steps. It gets no gradient.
        filter_real: ``[M, D]``, the real part of f.
        filter_imag: ``[M, D]``, the imaginary part of f.
        weight: ``[2 D, D]``, the real part of W over the imaginary part.
        bias_real: ``[D]``, the real part of b.
        bias_imag: ``[D]``, the imaginary part of b.

    Returns:
        ``[N, O, D]``.

    Sources: Zhou et al., FEDformer, 2022 (filter); Yi et al., FreTS, 2023 (complex layer).

    Raises:
        InvalidArgument: shapes or dtypes do not agree, or a transform requires a gradient.
    """
    check_series("x", x, "[N, T, D]")
    _, steps, dim = x.shape
    check_shape("filter_real", filter_real, (None, dim), "[M, D]")
    modes = filter_real.shape[0]
    check_shape("forth", forth, (2 * modes, steps), "[2 M, T]")
    check_shape("back", back, (None, 2 * modes), "[O, 2 M]")
    check_shape("filter_imag", filter_imag, (modes, dim), "[M, D]")
    check_shape("weight", weight, (2 * dim, dim), "[2 D, D]")
    check_shape("bias_real", bias_real, (dim,), "[D]")
    check_shape("bias_imag", bias_imag, (dim,), "[D]")
    tensors = {"forth": forth, "back": back, "filter_real": filter_real, "filter_imag": filter_imag}
    for name, each in (tensors | {"weight": weight, "bias_real": bias_real, "bias_imag": bias_imag}).items():
        check_like(name, each, x)
    for name, each in (("forth", forth), ("back", back)):
        if each.requires_grad:
            raise InvalidArgument(f"{name} requires a gradient, but the transforms are fixed: detach it.")
    run = _SPECTRAL.pick(x, filter_real, filter_imag, weight, bias_real, bias_imag)
    return run(x, forth, back, filter_real, filter_imag, weight, bias_real, bias_imag)


def reference(
    x: Tensor,
    forth: Tensor,
    back: Tensor,
    filter_real: Tensor,
    filter_imag: Tensor,
    weight: Tensor,
    bias_real: Tensor,
    bias_imag: Tensor,
) -> Tensor:
    """Plain PyTorch form in real numbers: it exports to formats without complex ones."""
    modes, dim = filter_real.shape
    # Adjacent rows become halves of one: real and imaginary part side by side, without a copy.
    spectrum = time_linear(x, forth).view(x.shape[0], modes, 2 * dim)
    by_same = torch.cat([filter_real, filter_real], dim=1)
    by_other = torch.cat([-filter_imag, filter_imag], dim=1)
    filtered = torch.addcmul(spectrum * by_same, spectrum.roll(dim, -1), by_other)
    # A complex map is the real one [[R, -I], [I, R]] on the parts side by side: one product, nothing to slice.
    real, imag = weight.chunk(2)
    both = torch.cat([torch.cat([real, -imag], dim=1), torch.cat([imag, real], dim=1)])
    hidden = F.linear(filtered, both, torch.cat([bias_real, bias_imag]))
    return time_linear(F.gelu(hidden).view(x.shape[0], 2 * modes, dim), back)


def _fake(x: Tensor, forth: Tensor, back: Tensor, filter_real: Tensor, *rest: Any) -> tuple[Tensor, Tensor, Tensor]:
    kept = (x.shape[0], filter_real.shape[0], 2 * x.shape[2]) if rest[-1] else (0,)
    return x.new_empty(x.shape[0], back.shape[0], x.shape[2]), x.new_empty(kept), x.new_empty(kept)


def _fake_backward(grad: Tensor, spectrum: Tensor, hidden: Tensor, *inputs: Any) -> tuple[Tensor, ...]:
    x, _, _, *parameters, needs = inputs
    return x.new_empty(x.shape if needs & 1 else 0), *(p.new_empty(p.shape if needs & 2 else 0) for p in parameters)


_INPUTS = (
    "Tensor x, Tensor forth, Tensor back, Tensor filter_real, Tensor filter_imag, Tensor weight, Tensor bias_real, "
    "Tensor bias_imag"
)
# With `keep` also what the backward pass needs: the spectra before the filter and before GELU, `[N, M, 2 D]`.
_FORWARD = define(f"spectral_map({_INPUTS}, bool keep) -> (Tensor, Tensor, Tensor)", _fake)
_BACKWARD = define(
    f"spectral_map_backward(Tensor grad, Tensor spectrum, Tensor hidden, {_INPUTS}, int needs) "
    "-> (Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)",
    _fake_backward,
)


def _setup(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor, Tensor]) -> None:
    ctx.save_for_backward(*output[1:], *inputs[:-1])
    ctx.mark_non_differentiable(*output[1:])
    ctx.set_materialize_grads(False)


def _backward(ctx: Any, grad: Tensor | None, *_kept: Any) -> tuple[Tensor | None, ...]:
    if grad is None:
        return (None,) * 9
    needs = ctx.needs[0] | 2 * any(ctx.needs[3:])
    by_x, *by_parameters = map(some, _run_backward(grad, *ctx.saved_tensors, needs))
    return by_x, None, None, *by_parameters, None


def _setup_second(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    grad, _, _, *tensors, ctx.needs = inputs
    ctx.save_for_backward(grad, *tensors)
    ctx.set_materialize_grads(False)


def _backward_second(ctx: Any, by_x: Tensor | None, *towards: Tensor | None) -> tuple[Tensor | None, ...]:
    grad, x, forth, back, *parameters = ctx.saved_tensors
    wanted = [ctx.needs & 1, *[ctx.needs & 2] * len(towards)]
    directions = [value if want else None for value, want in zip((by_x, *towards), wanted, strict=True)]

    def function(x: Tensor, *inputs: Tensor) -> Tensor:
        return reference(x, forth, back, *inputs)

    (by_grad,), (by_x, *by_parameters) = second_order(function, [x, *parameters], [grad], directions)
    return by_grad, None, None, by_x, None, None, *by_parameters, None


_run = differentiable(_FORWARD, _setup, _backward)
_run_backward = differentiable(_BACKWARD, _setup_second, _backward_second)


def _native(*tensors: Tensor) -> Tensor:
    return _run(*tensors, torch.is_grad_enabled() and torch._C._any_requires_grad(*tensors))[0]


_SPECTRAL = Operation("spectral_map", reference, (Implementation("native", _native, native_supports("spectral_map")),))
