"""The sums behind the saliency scores, for a whole list of weights in one call; Jacobians in chunks."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from .._core.errors import InvalidArgument, check_int
from . import _triton
from ._inputs import native_supports
from ._library import define
from .dispatch import Implementation, Operation


def saliency(params: Sequence[Tensor], grads: Sequence[Tensor]) -> Tensor:
    """Return ``[K, 4]`` float64, for each of the K weights w and its gradient g: ``Σ|w·g|, Σ w·g, Σ g², Σ|g|``.

    These are SNIP (Lee et al., ICLR 2019), the inner product that GraSP needs when g is H∇L (Wang et al., ICLR 2020),
    the squared gradient norm (of a sample: its diagonal Fisher information), and the l1 norm. Without gradient.

    Args:
        params: K weights, of one dtype and on one device.
        grads: K gradients of the same shapes, there too.

    Raises:
        InvalidArgument: the lists are empty, or differ in length, shapes, dtypes or devices.
    """
    if len(params) == 0 or len(params) != len(grads):
        raise InvalidArgument(
            f"params has {len(params)} tensors and grads {len(grads)}; both need the same, at least 1."
        )
    dtype, device = params[0].dtype, params[0].device
    for k, (w, g) in enumerate(zip(params, grads, strict=True)):
        if w.shape != g.shape or w.dtype != dtype or g.dtype != dtype:
            raise InvalidArgument(
                f"params[{k}] is {tuple(w.shape)} {w.dtype}, grads[{k}] is {tuple(g.shape)} {g.dtype}; "
                f"shapes must agree, and all dtypes be {dtype}."
            )
        if w.device != device or g.device != device:
            raise InvalidArgument(
                f"params[{k}] is on {w.device}, grads[{k}] on {g.device}; all must be on {device}, as params[0] is."
            )
    with torch.no_grad():
        return _SALIENCY.pick(params[0])([w.detach() for w in params], [g.detach() for g in grads])


def batched_jacobian(function: Callable[[Tensor], Tensor], x: Tensor, *, chunk: int = 16) -> Tensor:
    """Return the Jacobian of every sample, ``[B, outputs, inputs]``, by vector-Jacobian products of the summed batch.

    As samples do not see each other, the gradient of ``Σ_n y[n, k]`` holds row k of every sample's Jacobian: as many
    backward passes as there are outputs, whatever B, and ``chunk`` of them run as one.

    Args:
        function: maps ``[B, ...]`` to ``[B, ...]``, each sample for itself.
        x: the inputs.
        chunk: outputs that are differentiated together; more is faster and needs more memory.
    """
    batch = x.shape[0]

    def summed(inputs: Tensor) -> Tensor:
        return function(inputs).flatten(1).sum(dim=0)

    rows = torch.func.jacrev(summed, chunk_size=check_int("chunk", chunk, low=1))(x)  # [outputs, B, ...]
    return rows.transpose(0, 1).reshape(batch, rows.shape[0], -1)


def reference(params: Sequence[Tensor], grads: Sequence[Tensor]) -> Tensor:
    """Plain PyTorch form."""
    rows = []
    for w, g in zip(params, grads, strict=True):
        product = w * g
        parts = (product.abs(), product, g.square(), g.abs())
        rows.append(torch.stack([part.sum(dtype=torch.float64) for part in parts]))
    return torch.stack(rows)


def _fake(params: list[Tensor], grads: list[Tensor]) -> Tensor:
    return params[0].new_empty(len(params), 4, dtype=torch.float64)


_FORWARD = define("saliency(Tensor[] params, Tensor[] grads) -> Tensor", _fake)
_TRITON = define(
    "triton_saliency(Tensor[] params, Tensor[] grads) -> Tensor", _fake, _triton.late("triton_saliency", "forward")
)
_SALIENCY = Operation(
    "saliency",
    reference,
    (
        Implementation("native", _FORWARD, native_supports("saliency", half=True)),
        Implementation("triton", _TRITON, _triton.supports),
    ),
)
