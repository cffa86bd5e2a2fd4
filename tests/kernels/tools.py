"""What the tests of the kernels share."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

from foreblocks.darts.kernels import _native, dispatch

COMPILED = _native.load()[1] is None and dispatch.forced() in ("auto", "native")
needs_native = pytest.mark.skipif(not COMPILED, reason="compiled kernels are not used")


def noise(*shape: int, seed: int = 1, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def gradients(out: Tensor, leaves: Sequence[Tensor], cotangent: Tensor | None = None) -> list[Tensor]:
    """Gradients of ``Σ out · cotangent``; zeros where there is none."""
    cotangent = torch.ones_like(out) if cotangent is None else cotangent
    return list(
        torch.autograd.grad(out, list(leaves), cotangent, retain_graph=True, allow_unused=True, materialize_grads=True)
    )


def close(got: Tensor | Sequence[Tensor], expected: Tensor | Sequence[Tensor], scale: float = 1.0) -> None:
    """Compare with a float64 result: rtol 1e-4, atol 1e-5 times the largest value (at least 1) times ``scale``."""
    if not isinstance(got, Tensor):
        assert len(got) == len(expected)
        for a, b in zip(got, expected, strict=True):
            close(a, b, scale)
        return
    peak = float(expected.detach().abs().max()) if expected.numel() else 0.0
    atol = 1e-5 * max(1.0, peak) * scale
    torch.testing.assert_close(got.detach().double(), expected.detach().double(), rtol=1e-4 * scale, atol=atol)
