"""Borrowed kernels: second derivatives where the foreign gradient has none, and reasons where they cannot be used."""

from __future__ import annotations

import sys
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.autograd.gradcheck import GradcheckError

from foreblocks.darts.kernels import dispatch, rivals

from .tools import noise


class Foreign(torch.autograd.Function):
    """x² · w as the packages do it: a gradient by raw arithmetic, which autograd does not see."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, w: Tensor) -> Tensor:
        ctx.save_for_backward(x, w)
        return x * x * w

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor]:
        x, w = (each.detach() for each in ctx.saved_tensors)
        return 2 * x * w * grad.detach(), x * x * grad.detach()


def reference(x: Tensor, w: Tensor, scale: float) -> tuple[Tensor, Tensor]:
    return x * x * w * scale, x.detach()


def run(x: Tensor, w: Tensor, scale: float) -> tuple[Tensor, Tensor]:
    return Foreign.apply(x, w) * scale, x.detach() + 1


def test_a_borrowed_function_differentiates_twice():
    x, w = (noise(4, seed=k, dtype=torch.float64).requires_grad_() for k in range(2))

    def call(x: Tensor, w: Tensor) -> Tensor:
        return rivals.Borrowed.apply(run, reference, x, w, 3.0)[0]

    assert torch.autograd.gradcheck(call, (x, w))
    assert torch.autograd.gradgradcheck(call, (x, w))
    with pytest.raises(GradcheckError):
        torch.autograd.gradgradcheck(lambda x, w: Foreign.apply(x, w), (x, w))


def test_extras_have_no_gradient_and_unneeded_inputs_get_none():
    x, w = noise(4).requires_grad_(), noise(4, seed=2)
    out, extra = rivals.Borrowed.apply(run, reference, x, w, 1.0)
    assert not extra.requires_grad
    assert torch.equal(extra, x.detach() + 1)
    out.sum().backward()
    torch.testing.assert_close(x.grad, (2 * x * w).detach())


@pytest.mark.parametrize(
    ("broken", "reason"),
    [(None, "nowhere_cuda is not installed"), (OSError("no symbol"), "OSError: no symbol"), (0.5, "wrong by 5.0e-01")],
)
def test_what_does_not_work_is_a_reason(monkeypatch: pytest.MonkeyPatch, broken: Any, reason: str):
    if broken is not None:
        monkeypatch.setitem(sys.modules, "nowhere_cuda", ModuleType("nowhere_cuda"))
        module = ModuleType("nowhere")
        module.function = abs
        monkeypatch.setitem(sys.modules, "nowhere", module)

    def trial(function: Any) -> str | None:
        if isinstance(broken, Exception):
            raise broken
        return rivals._verdict("function", torch.zeros(1), torch.full((1,), broken))

    function, found = rivals._borrow("nowhere_cuda", "nowhere", "function", trial)
    assert function is None
    assert reason in found


def test_what_works_is_used(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "nowhere_cuda", ModuleType("nowhere_cuda"))
    assert rivals._borrow("nowhere_cuda", "math", "sqrt", lambda function: None) == (__import__("math").sqrt, None)


def test_on_the_cpu_they_are_for_cuda_only():
    assert dispatch.OPERATIONS["selective_scan"].reasons(noise(1))["mamba_ssm"] == "for CUDA only"
    assert dispatch.OPERATIONS["depthwise_conv1d"].reasons(noise(1))["causal_conv1d"] == "for CUDA only"
