"""The selective state-space scan of Mamba (Gu and Dao, 2023) over a series."""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import partial
from typing import Any, Literal, overload

import torch
import torch.nn.functional as F
from torch import Tensor

from .._core.errors import InvalidArgument
from .._core.logging import get_logger, log_once
from . import _triton, rivals
from ._inputs import HALF, check_device, check_series, check_shape, computed, native_supports
from ._library import define, differentiable, second_order
from .dispatch import Implementation, Operation

_CUDA_STATES = 64  # kMostStates in csrc/cuda/scan.cuh
CHUNK = 96  # steps between two states that the CPU form keeps, but for the first; kScanChunk in csrc/core/args.h
GPU_CHUNK = 32  # and a GPU form, with the first; kChunk in csrc/cuda/scan.cuh
_logger = get_logger("foreblocks.darts.kernels")


@overload
def selective_scan(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None = None,
    z: Tensor | None = None,
    delta_bias: Tensor | None = None,
    delta_softplus: bool = False,
    return_last_state: Literal[False] = False,
) -> Tensor: ...
@overload
def selective_scan(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None = None,
    z: Tensor | None = None,
    delta_bias: Tensor | None = None,
    delta_softplus: bool = False,
    *,
    return_last_state: Literal[True],
) -> tuple[Tensor, Tensor]: ...
def selective_scan(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None = None,
    z: Tensor | None = None,
    delta_bias: Tensor | None = None,
    delta_softplus: bool = False,
    return_last_state: bool = False,
) -> Tensor | tuple[Tensor, Tensor]:
    """Run the scan with time in the last dimension: the arguments of ``selective_scan_fn`` of mamba-ssm.

    Args:
        u: input ``[B, D, L]``.
        delta: step sizes ``[B, D, L]``.
        A: real state matrix ``[D, N]``, negative.
        B: ``[D, N]``, ``[B, N, L]`` or ``[B, G, N, L]`` with G a divisor of D.
        C: one of the same.
        D: skip ``[D]`` or None.
        z: gate ``[B, D, L]`` before its SiLU, or None.
        delta_bias: added to ``delta``, ``[D]``, or None.
        delta_softplus: apply softplus to the sum.
        return_last_state: also return the state after the last step, ``[B, D, N]``, without gradient.

    Returns:
        ``[B, D, L]``, of the dtype of ``u``; a view with time outermost in memory. ``selective_scan_steps`` is the same
        on ``[B, L, D]`` and transposes nothing.

    Raises:
        InvalidArgument: shapes or devices do not agree, L is 0, or A is complex.
    """
    check_shape("u", u, (None, None, None), "[B, D, L]")
    check_shape("delta", delta, tuple(u.shape), "like u")
    u, delta, B, C = (x if x.dim() == 2 else x.movedim(-1, 1) for x in (u, delta, B, C))
    z = z if z is None or z.dim() == 2 else z.movedim(-1, 1)
    out, last = _run(u, delta, A, B, C, D, z, delta_bias, delta_softplus)
    out = out.transpose(1, 2)
    return (out, last) if return_last_state else out


@overload
def selective_scan_steps(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None = None,
    z: Tensor | None = None,
    delta_bias: Tensor | None = None,
    delta_softplus: bool = False,
    return_last_state: Literal[False] = False,
) -> Tensor: ...
@overload
def selective_scan_steps(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None = None,
    z: Tensor | None = None,
    delta_bias: Tensor | None = None,
    delta_softplus: bool = False,
    *,
    return_last_state: Literal[True],
) -> tuple[Tensor, Tensor]: ...
def selective_scan_steps(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None = None,
    z: Tensor | None = None,
    delta_bias: Tensor | None = None,
    delta_softplus: bool = False,
    return_last_state: bool = False,
) -> Tensor | tuple[Tensor, Tensor]:
    """Run the scan with time in the second dimension, the layout of the ops.

    ``h_t = exp(Δ_t A) h_{t-1} + Δ_t B_t u_t`` and ``y_t = (C_t · h_t + D u_t) · silu(z_t)``. All is taken in the dtype
    of ``u``; where that is half precision, A, D, the bias and the arithmetic are float32.

    Args:
        u: input ``[B, L, D]``.
        delta: step sizes ``[B, L, D]``.
        A: real state matrix ``[D, N]``, negative.
        B: ``[D, N]``, ``[B, L, N]`` or ``[B, L, G, N]`` with G a divisor of D.
        C: one of the same.
        D: skip ``[D]`` or None.
        z: gate ``[B, L, D]`` or None; a half of a ``chunk`` is taken without a copy.
        delta_bias: ``[D]`` or None.
        delta_softplus: apply softplus to ``delta + delta_bias``.
        return_last_state: also return the state after the last step, ``[B, D, N]``, without gradient.

    Raises:
        InvalidArgument: shapes or devices do not agree, L is 0, or A is complex.
    """
    out, last = _run(u, delta, A, B, C, D, z, delta_bias, delta_softplus)
    return (out, last) if return_last_state else out


def _run(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    z: Tensor | None,
    delta_bias: Tensor | None,
    softplus: bool,
) -> tuple[Tensor, Tensor]:
    dtype = u.dtype
    if A.is_complex():
        raise InvalidArgument("A is complex; only real state matrices are supported.")
    # Half precision is for what is stored: a recurrence of hundreds of steps needs more, as in mamba-ssm.
    wide = computed(dtype)
    stored = dtype if _stored_as_half(u, delta, B, C, z) else wide
    u, delta, B, C = (x.to(stored) for x in (u, delta, B, C))
    z = z if z is None else z.to(stored)
    A = A.to(wide)
    D, delta_bias = (x if x is None else x.to(wide) for x in (D, delta_bias))
    B, C = (x.unsqueeze(2) if x.dim() == 3 else x for x in (B, C))
    _check(u, delta, A, B, C, D, z, delta_bias)
    tensors = (u, delta, A, B, C, *(x for x in (D, z, delta_bias) if x is not None))
    run = _SCAN.pick(*tensors)
    if B.dim() == 2 or C.dim() == 2 or B.shape != C.shape:
        log_once(_logger, logging.INFO, "selective_scan with a fixed B or C runs as plain PyTorch")
        run = reference
    out, last = run(u, delta, A, B, C, D, z, delta_bias, softplus)
    return out.to(dtype), last


def _stored_as_half(u: Tensor, delta: Tensor, B: Tensor, C: Tensor, z: Tensor | None) -> bool:
    """Return whether the compiled form can read all series as they are, in half precision."""
    if u.dtype not in HALF or u.device.type != "cpu" or B.shape != C.shape or B.dim() == 2:
        return False
    return all(x is None or x.dtype == u.dtype for x in (delta, B, C, z)) and _SCAN.pick(u) is _native


def _check(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    z: Tensor | None,
    delta_bias: Tensor | None,
) -> None:
    check_series("u", u, "[B, L, D]")
    batch, steps, dim = u.shape
    check_shape("delta", delta, (batch, steps, dim), "like u")
    check_shape("A", A, (dim, None), "[D, N]")
    states = A.shape[1]
    for name, x in (("B", B), ("C", C)):
        if x.dim() == 2:
            check_shape(name, x, (dim, states), "[D, N]")
            continue
        check_shape(name, x, (batch, steps, None, states), "[B, L, N] or [B, L, G, N]")
        if x.shape[2] == 0 or dim % x.shape[2]:
            raise InvalidArgument(f"{name} has {x.shape[2]} groups, which do not divide the {dim} channels of u.")
    for name, each in (("D", D), ("delta_bias", delta_bias)):
        if each is not None:
            check_shape(name, each, (dim,), "[D]")
    if z is not None:
        check_shape("z", z, (batch, steps, dim), "like u")
    for name, each in (("delta", delta), ("A", A), ("B", B), ("C", C), ("D", D), ("z", z), ("delta_bias", delta_bias)):
        if each is not None:
            check_device(name, each, u)


def reference(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    z: Tensor | None,
    delta_bias: Tensor | None,
    softplus: bool,
) -> tuple[Tensor, Tensor]:
    """Plain PyTorch form on ``[B, L, D]``: output and last state.

    ``unbind`` and not indexing per step: the backward of an index writes a full zero tensor each time, which makes it
    quadratic in L.
    """
    dim = u.shape[-1]
    delta = delta if delta_bias is None else delta + delta_bias
    delta = F.softplus(delta) if softplus else delta
    decay = torch.exp(delta.unsqueeze(-1) * A)  # [B, L, D, N]
    drive = (delta * u).unsqueeze(-1) * _by_channel(B, dim)
    states = []
    h = torch.zeros_like(drive[:, 0])
    for decay_t, drive_t in zip(decay.unbind(1), drive.unbind(1), strict=True):
        h = torch.addcmul(drive_t, decay_t, h)
        states.append(h)
    by_channel = _by_channel(C, dim)
    if by_channel.dim() == 4 and by_channel.shape[2] == 1:
        y = torch.stack(states, dim=1).matmul(C.transpose(2, 3)).squeeze(-1)
    else:
        y = (torch.stack(states, dim=1) * by_channel).sum(dim=-1)
    y = y if D is None else torch.addcmul(y, u, D)
    return (y if z is None else y * F.silu(z)), h.detach()


def _by_channel(x: Tensor, dim: int) -> Tensor:
    """Return B or C so that it broadcasts against ``[B, L, D, N]``."""
    if x.dim() == 2 or x.shape[2] == 1:
        return x
    return x.repeat_interleave(dim // x.shape[2], dim=2)


def _fake(on_gpu: bool, u: Tensor, delta: Tensor, A: Tensor, *rest: Any) -> tuple[Tensor, Tensor, Tensor]:
    batch, steps, dim = u.shape
    on_gpu = on_gpu or u.device.type == "cuda"
    chunks = (batch, (steps + GPU_CHUNK - 1) // GPU_CHUNK if on_gpu else (steps - 1) // CHUNK, A.shape[1], dim)
    return u.new_empty(u.shape), A.new_empty(batch, dim, A.shape[1]), A.new_empty(chunks if rest[-1] else 0)


def _fake_backward(grad: Tensor, chunks: Tensor, *inputs: Any) -> tuple[Tensor, ...]:
    return tuple(grad.new_empty(0) if x is None else x.new_empty(x.shape) for x in inputs[:-1])


def _setup(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor, Tensor]) -> None:
    *tensors, ctx.softplus, _ = inputs
    ctx.save_for_backward(output[2], *tensors)
    ctx.mark_non_differentiable(output[1], output[2])
    ctx.set_materialize_grads(False)


def _backward(operator: Any, ctx: Any, grad: Tensor | None, _last: Any, _chunks: Any) -> tuple[Tensor | None, ...]:
    if grad is None:
        return (None,) * 10
    chunks, *tensors = ctx.saved_tensors
    grads = operator(grad, chunks, *tensors, ctx.softplus)
    return *(g if x is not None else None for g, x in zip(grads, tensors, strict=True)), None, None


def _setup_second(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    grad, _, *tensors, ctx.softplus = inputs
    ctx.save_for_backward(grad, *tensors)
    ctx.set_materialize_grads(False)


def _backward_second(ctx: Any, *towards: Tensor | None) -> tuple[Tensor | None, ...]:
    grad, *tensors = ctx.saved_tensors
    directions = [None if x is None else value for x, value in zip(tensors, towards, strict=True)]

    def function(*inputs: Tensor | None) -> Tensor:
        arguments: list[Any] = [None if x is None else x.to(computed(x.dtype)) for x in inputs]
        arguments.append(ctx.softplus)
        return reference(*arguments)[0].to(grad.dtype)

    (by_grad,), by_input = second_order(function, tensors, [grad], directions)
    return by_grad, None, *by_input, None


def _operators(prefix: str, forward: Any = None, backward: Any = None) -> tuple[Any, Any, Callable[..., Any]]:
    """Define the forward and the backward operator of one form; the third is the short way to the first."""
    options = "Tensor A, Tensor B, Tensor C, Tensor? D, Tensor? z, Tensor? delta_bias, bool softplus"
    run = define(
        f"{prefix}selective_scan(Tensor u, Tensor delta, {options}, bool keep) -> (Tensor, Tensor, Tensor)",
        partial(_fake, bool(prefix)),
        forward,
    )
    run_backward = define(
        f"{prefix}selective_scan_backward(Tensor grad, Tensor chunks, Tensor u, Tensor delta, {options}) "
        "-> (Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)",
        _fake_backward,
        backward,
    )
    call_backward = differentiable(run_backward, _setup_second, _backward_second)
    return run, run_backward, differentiable(run, _setup, partial(_backward, call_backward))


_FORWARD, _BACKWARD, _run_native = _operators("")
_TRITON, _, _run_triton = _operators("triton_", *_triton.late_pair("triton_scan"))


def _native(*arguments: Any) -> tuple[Tensor, Tensor]:
    if arguments[0].is_cuda and arguments[2].shape[1] > _CUDA_STATES:
        log_once(_logger, logging.INFO, f"selective_scan of more than {_CUDA_STATES} states runs as plain PyTorch")
        return reference(*arguments)
    return _run_native(*arguments, _keep(arguments))[:2]


def _in_triton(*arguments: Any) -> tuple[Tensor, Tensor]:
    return _run_triton(*arguments, _keep(arguments))[:2]


def _in_mamba(u: Tensor, *rest: Any) -> tuple[Tensor, Tensor]:
    if not _keep((u, *rest)):
        return _by_mamba(u, *rest)
    return rivals.Borrowed.apply(_by_mamba, reference, u, *rest)


def _by_mamba(
    u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor | None, z: Tensor | None, *rest: Any
) -> tuple[Tensor, Tensor]:
    function, _ = rivals.mamba_scan()
    assert function is not None, "picked only where rivals.supports found it"
    # Time comes last there, and must be contiguous.
    u, delta, B, C = (x.movedim(1, -1).contiguous() for x in (u, delta, B, C))
    z = None if z is None else z.movedim(1, -1).contiguous()
    out, last = function(u, delta, A, B, C, D, z, *rest, return_last_state=True)
    return out.movedim(-1, 1), last


def _keep(arguments: tuple[Any, ...]) -> bool:
    return torch.is_grad_enabled() and any(x is not None and x.requires_grad for x in arguments[:-1])


# Under torch.compile the reference would be unrolled over the steps: minutes of compiling.
_SCAN = Operation(
    "selective_scan",
    reference,
    (
        Implementation("native", _native, native_supports("selective_scan", half=True)),
        Implementation("mamba_ssm", _in_mamba, rivals.supports(rivals.mamba_scan, (torch.float32,)), operator=False),
        Implementation("triton", _in_triton, _triton.supports),
    ),
    compiled="operator",
)
