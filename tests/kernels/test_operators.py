"""What torch asks of an operator, for every one that is registered."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from foreblocks.darts.kernels import (
    attention,
    averages,
    depthwise,
    depthwise_norm,
    gates,
    mixture,
    norms,
    products,
    residuals,
    saliencies,
    scan,
    spectra,
    wavelets,
)
from foreblocks.darts.kernels._library import LIBRARY

from .tools import needs_native, noise

pytestmark = pytest.mark.kernels


def leaf(*shape: int, seed: int = 1) -> Tensor:
    return noise(*shape, seed=seed).requires_grad_()


def calls(dtype: torch.dtype = torch.float32) -> list[tuple[Any, tuple[Any, ...]]]:
    """Every operator with arguments; what is not stored in half precision is float32 there."""

    def made(*shape: int, seed: int = 1) -> Tensor:
        return noise(*shape, seed=seed).to(dtype).requires_grad_()

    x, w, b, row = made(2, 5, 6), made(6, 3, seed=2), made(6, seed=3), made(6, seed=4)
    residual, gate, mask, stats = (
        made(2, 5, 6, seed=5),
        made(2, 5, 6, seed=6),
        noise(2, 1, 6).to(dtype),
        noise(10, 2).abs(),
    )
    parts = [made(2, 5, seed=k) for k in range(3)]
    norm = (x, row, b, residual, gate, mask, False, 1e-6, 2, 3)
    inner, side = made(2, 5, 6, seed=8), made(2, 5, 1, 4, seed=9)
    series = (x, inner, leaf(6, 4), side, made(2, 5, 1, 4, seed=11), leaf(6, seed=3), gate, leaf(6, seed=4), True)
    fixed, layer = noise(6, 5).to(dtype), (made(3, 6), made(3, 6, seed=13), made(12, 6), b, row)
    spectral = (x, fixed, noise(4, 6).to(dtype), *layer)
    bounds = (torch.zeros(5, dtype=torch.int64), torch.arange(1, 6))
    return [
        (scan._FORWARD, (*series, True)),
        (scan._BACKWARD, (made(2, 5, 6, seed=7), leaf(2, 0, 4, 6, seed=12), *series)),
        (products._TIME_FORWARD, (x, made(4, 5), made(4), 2, True)),
        (products._TIME_BACKWARD, (made(2, 4, 6), noise(2, 4, 6).to(dtype), x, made(4, 5), made(4), 1, 3)),
        (products._CONV_FORWARD, (x, made(4, 6, 3), made(4), 2, 4, 1, False)),
        (products._CONV_BACKWARD, (made(2, 5, 4), noise(2, 5, 4).to(dtype), x, made(4, 6, 3), made(4), 2, 4, 2, 3)),
        (saliencies._FORWARD, ([x.detach() for x in parts], [x.detach() for x in reversed(parts)])),
        (mixture._FORWARD, (parts, made(3), True, True)),
        (mixture._BACKWARD, (made(2, 5), parts, made(3), True, [0, 2])),
        (norms._FORWARD, norm),
        (norms._BACKWARD, (made(2, 5, 6, seed=7), stats, *norm, 15)),
        (depthwise._FORWARD, (x, w, b, 2, 4, 2)),
        (depthwise._BACKWARD, (made(2, 5, 6, seed=7), x, w, b, 2, 4, 2, True)),
        (gates._FORWARD, (x, 3)),
        (gates._BACKWARD, (made(2, 5, 3), x, 2)),
        (depthwise_norm._FORWARD, (x, w, b, row, made(6, seed=20), 1, 2, False, 1e-6, 2, 1)),
        (depthwise_norm._BACKWARD, (made(2, 5, 6, seed=7), stats, x, w, b, row, None, 1, 2, True, 1e-6, 2, 1, True)),
        (wavelets._FORWARD, (x, made(2, 4).detach(), True)),
        (wavelets._BACKWARD, (x, made(2, 5, 6, seed=7), made(2, 4).detach(), 8, True)),
        (attention._FORWARD, (x, inner, residual, *bounds, 3, 0.5, True)),
        (
            attention._BACKWARD,
            (made(2, 5, 6, seed=7), x, inner, residual, *bounds, noise(2, 3, 2, 5).abs().to(dtype), 3, 0.5, True, 3),
        ),
        (spectra._FORWARD, (*spectral, True)),
        (spectra._BACKWARD, (made(2, 4, 6), made(2, 3, 12), made(2, 3, 12, seed=14), *spectral, 3)),
        (residuals._FORWARD, (x, made(2, 6, 6, 3), made(2, 6), True)),
        (residuals._BACKWARD, (made(2, 5, 6, seed=7), made(2, 2, 1, 5, 6), x, made(2, 6, 6, 3), made(2, 6), 3)),
        (averages._FORWARD, (x, 3, 1)),
        (averages._BACKWARD, (x, 3, 1)),
    ]


CALLS = calls()
NAMES = [operator.name() for operator, _ in CALLS]


def test_every_operator_is_listed():
    defined = {name.rpartition("::")[2] for name in LIBRARY._op_defs}
    # The Triton forms share fakes and gradients with these; test_triton_interpreted runs them.
    assert {name.rpartition("::")[2] for name in NAMES} == {each for each in defined if not each.startswith("triton_")}


@needs_native
@pytest.mark.parametrize(("operator", "arguments"), CALLS, ids=NAMES)
def test_opcheck(operator: Any, arguments: tuple[Any, ...]):
    torch.library.opcheck(operator, arguments)


@needs_native
@pytest.mark.parametrize("steps", [1, 96, 97, 193])
def test_the_scan_keeps_as_many_states_as_its_fake_says(steps: int):
    u, side = noise(2, steps, 3), noise(2, steps, 1, 4)
    arguments = (u, u, -noise(3, 4).abs(), side, side, None, None, None, True, True)
    assert [x.shape for x in scan._FORWARD(*arguments)] == [x.shape for x in scan._fake(False, *arguments)]


@needs_native
def test_what_would_be_read_beyond_its_end_is_refused():
    x, w = noise(2, 5, 6), noise(6, 3)
    with pytest.raises(RuntimeError, match="left is out of range"):
        depthwise._FORWARD(x, w, None, 1, 3, 0)
    with pytest.raises(RuntimeError, match="W of 1 or more"):
        depthwise._BACKWARD(x, x, w[:, :0], None, 1, 0, 0, True)
    with pytest.raises(RuntimeError, match="weight has another dtype"):
        depthwise_norm._FORWARD(x.double(), w, None, noise(6).double(), None, 1, 2, False, 1e-6, 0, 0)
    with pytest.raises(RuntimeError, match=r"grad is not \[..., W\]"):
        gates._BACKWARD(noise(2, 4, 3), x, 3)
    bounds = torch.zeros(5, dtype=torch.int64), torch.full((5,), 6)
    with pytest.raises(RuntimeError, match="a bound is out of range"):
        attention._FORWARD(x, x, x, *bounds, 3, 0.5, False)
    with pytest.raises(RuntimeError, match="weight or bias has another size"):
        residuals._FORWARD(x, noise(2, 6, 5, 3), noise(2, 6), False)
    with pytest.raises(RuntimeError, match="grad or kept has another size"):
        residuals._BACKWARD(x, noise(2, 2, 1, 5, 6), x, noise(3, 6, 6, 3), noise(3, 6), 3)
    layer = noise(3, 6), noise(3, 6), noise(12, 6), noise(6), noise(6)
    with pytest.raises(RuntimeError, match="forth has another size"):
        spectra._FORWARD(x, noise(6, 4), noise(4, 6), *layer, False)
    out, *kept = spectra._FORWARD(x, noise(6, 5), noise(4, 6), *layer, False)
    with pytest.raises(RuntimeError, match="spectrum or hidden has another size"):
        spectra._BACKWARD(out, *kept, x, noise(6, 5), noise(4, 6), *layer, 3)


HALF = [
    pytest.param(operator, arguments, id=f"{operator.name()}-{dtype}")
    for dtype in (torch.bfloat16, torch.float16)
    for operator, arguments in calls(dtype)
    if not any(wide in operator.name() for wide in ("linear", "step_conv", "softmax_attention", "spectral", "residual"))
]


@needs_native
@pytest.mark.parametrize(("operator", "arguments"), HALF)
def test_opcheck_in_half_precision(operator: Any, arguments: tuple[Any, ...]):
    torch.library.opcheck(operator, arguments, test_utils=("test_schema", "test_faketensor"))
