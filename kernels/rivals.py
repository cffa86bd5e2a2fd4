"""mamba-ssm and causal-conv1d, used where they are installed and work. Neither is ever needed.

Both need their compiled CUDA module; importing the package alone proves little. So each is tried once
on a small example with a known answer, and what goes wrong is the reason in the report.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from torch import Tensor

from .._core.logging import get_logger

_logger = get_logger("foreblocks.darts.kernels")
Function = Callable[..., Any]


class Borrowed(torch.autograd.Function):
    """Runs a foreign function with its own gradient, and takes second derivatives from the reference.

    The gradients of both packages are not differentiable, and say nothing: a double backward through them would be
    silently wrong.
    """

    @staticmethod
    def forward(ctx: Any, run: Function, reference: Function, *inputs: Any) -> tuple[Tensor, ...]:
        """Return ``run(*inputs)``, a tuple; only its first tensor has a gradient."""
        needs = ctx.needs_input_grad[2:]
        with torch.enable_grad():
            own = [
                x.detach().requires_grad_(need) if isinstance(x, Tensor) else x
                for x, need in zip(inputs, needs, strict=True)
            ]
            out, *extras = run(*own)
        ctx.reference, ctx.wanted = reference, [k for k, need in enumerate(needs) if need]
        ctx.inner = own, out
        ctx.places = [k for k, x in enumerate(inputs) if isinstance(x, Tensor)]
        ctx.others = [None if isinstance(x, Tensor) else x for x in inputs]
        ctx.save_for_backward(*(x for x in inputs if isinstance(x, Tensor)))
        extras = [x.detach() for x in extras]
        ctx.mark_non_differentiable(*extras)
        return out.detach(), *extras

    @staticmethod
    def backward(ctx: Any, grad: Tensor, *_extras: Any) -> tuple[Any, ...]:
        """Return the gradients of ``inputs``."""
        inputs, out = ctx.inner
        create = torch.is_grad_enabled()
        if create:
            inputs = list(ctx.others)
            for place, x in zip(ctx.places, ctx.saved_tensors, strict=True):
                inputs[place] = x.view_as(x)
            out = ctx.reference(*inputs)[0]
        asked = [inputs[k] for k in ctx.wanted]
        found = torch.autograd.grad(out, asked, grad, create_graph=create, retain_graph=True, allow_unused=True)
        grads: list[Tensor | None] = [None] * len(inputs)
        for k, value in zip(ctx.wanted, found, strict=True):
            grads[k] = value
        return None, None, *grads


@cache
def mamba_scan() -> tuple[Function | None, str | None]:
    """Return ``selective_scan_fn`` of mamba-ssm, or None and why it cannot be used."""
    return _borrow("selective_scan_cuda", "mamba_ssm.ops.selective_scan_interface", "selective_scan_fn", _try_scan)


@cache
def causal_conv() -> tuple[Function | None, str | None]:
    """Return ``causal_conv1d_fn`` of causal-conv1d, or None and why it cannot be used."""
    return _borrow("causal_conv1d_cuda", "causal_conv1d", "causal_conv1d_fn", _try_conv)


def supports(find: Callable[[], tuple[Function | None, str | None]], dtypes: tuple[torch.dtype, ...]) -> Function:
    """Return the ``supports`` of a borrowed function."""

    def reason(*tensors: Tensor) -> str | None:
        x = tensors[0]
        if x.device.type != "cuda":
            return "for CUDA only"
        if x.dtype not in dtypes:
            return f"not for {str(x.dtype).removeprefix('torch.')}"
        return find()[1]

    return reason


def _borrow(compiled: str, module: str, name: str, trial: Callable[[Function], str | None]) -> tuple[Any, str | None]:
    try:
        importlib.import_module(compiled)
        function = getattr(importlib.import_module(module), name)
        reason = trial(function)
    except ModuleNotFoundError as error:
        return None, f"{error.name} is not installed"
    except Exception as error:
        _logger.exception("%s is installed but cannot be used", module)
        return None, f"{module} does not work: {type(error).__name__}: {error}"
    return (function, None) if reason is None else (None, reason)


def _try_scan(function: Function) -> str | None:
    u = torch.linspace(-1.0, 1.0, 24, device="cuda").reshape(1, 4, 6)
    a = -torch.ones(4, 2, device="cuda")
    b = torch.linspace(0.5, 1.0, 12, device="cuda").reshape(1, 2, 6)
    got = function(u, u.abs(), a, b, b)
    h, rows = torch.zeros(1, 4, 2, device="cuda"), []
    for t in range(6):
        step = u[:, :, t].abs().unsqueeze(-1)
        h = torch.exp(step * a) * h + step * b[:, None, :, t] * u[:, :, t].unsqueeze(-1)
        rows.append((h * b[:, None, :, t]).sum(dim=-1))
    return _verdict("selective_scan_fn", got, torch.stack(rows, dim=-1))


def _try_conv(function: Function) -> str | None:
    x = torch.linspace(-1.0, 1.0, 48, device="cuda").reshape(1, 8, 6)
    weight = torch.linspace(0.1, 1.0, 16, device="cuda").reshape(8, 2)
    got = function(x, weight)
    before = torch.cat([torch.zeros_like(x[..., :1]), x[..., :-1]], dim=-1)
    return _verdict("causal_conv1d_fn", got, before * weight[:, :1] + x * weight[:, 1:])


def _verdict(name: str, got: Tensor, expected: Tensor) -> str | None:
    error = float((got.float() - expected).abs().max())
    return None if error < 1e-3 else f"{name} is wrong by {error:.1e} on a small example"
