"""The Triton kernels in Triton's interpreter, on the CPU: the promises of every kernel, and half precision.

The interpreter is switched on before the kernels are imported, so ``make test`` runs this file in a process of its own
with ``TRITON_INTERPRET=1`` and ``FOREBLOCKS_DARTS_KERNELS=triton``.
"""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from foreblocks.darts import kernels
from foreblocks.darts.kernels import dispatch, mixture, saliencies

from . import test_every_kernel as promises
from .cases import CASES, Case
from .gpu_tools import interpreted, need
from .tools import close, gradients, noise

pytestmark = [
    pytest.mark.skipif(not interpreted(), reason="needs TRITON_INTERPRET=1 and a process of its own, see the Makefile"),
    # The interpreter computes with NumPy, which warns of inf - inf.
    pytest.mark.filterwarnings("ignore::RuntimeWarning"),
]

HAVE_TRITON = ("norm_act", "scan")
TRITON_CASES = [case for case in CASES if case.name.startswith(HAVE_TRITON)]
# The interpreter takes milliseconds for each step of a scan, and gradient formulas are those of the native form.
NORMS = [case for case in TRITON_CASES if case.name.startswith("norm_act")]
every_case = pytest.mark.parametrize("case", TRITON_CASES, ids=str)


@pytest.fixture(autouse=True)
def triton_is_there() -> None:
    need("triton")
    assert dispatch.forced() == "triton"


def test_the_report_says_that_triton_runs():
    rows = [row for row in kernels.report().rows if row.operation in ("mixed_sum", "norm_act", "selective_scan")]
    assert {row.implementation for row in rows if row.device == "cpu"} == {"triton"}


@every_case
def test_value_and_gradients(case: Case):
    promises.test_value_and_gradients(case)


@every_case
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_what_is_not_finite_passes_through(case: Case, value: float):
    promises.test_what_is_not_finite_passes_through(case, value)


@every_case
def test_empty_batch(case: Case):
    promises.test_empty_batch(case)


@pytest.mark.parametrize("case", NORMS[::3], ids=str)
def test_one_gradient_at_a_time(case: Case):
    promises.test_one_gradient_at_a_time(case)


@pytest.mark.parametrize("case", NORMS[:1], ids=str)
def test_first_and_second_derivatives(case: Case):
    promises.test_first_and_second_derivatives(case)


@pytest.mark.parametrize("case", NORMS[:1], ids=str)
def test_strided_and_expanded_inputs(case: Case):
    promises.test_strided_and_expanded_inputs(case)


@pytest.mark.parametrize("case", [*NORMS[::3], TRITON_CASES[-1]], ids=str)
def test_half_precision(case: Case):
    tensors = case.tensors(2, torch.float16)
    got, expected, wide = promises.both(case, tensors)
    assert got.dtype == torch.float16
    same_but_rounded(got, expected)
    cotangent = noise(*got.shape, seed=5, dtype=torch.float16)
    by_got = gradients(got, promises.leaves(tensors), cotangent)
    by_expected = gradients(expected, promises.leaves(wide), cotangent.double())
    for a, b in zip(by_got, by_expected, strict=True):
        same_but_rounded(a, b)


def same_but_rounded(got: Tensor, expected: Tensor) -> None:
    """Compare a float16 result, summed in float32, with that of float64: only the storing may round."""
    peak = max(1.0, float(expected.detach().abs().max()))
    torch.testing.assert_close(got.detach().double(), expected.detach().double(), rtol=4e-3, atol=2e-3 * peak)


@pytest.mark.parametrize("count", [1, 2, 5])
@pytest.mark.parametrize("size", [(1,), (3, 7, 15), (2, 96, 17)])
@pytest.mark.parametrize("normalize", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_mixed_sum(count: int, size: tuple[int, ...], normalize: bool, dtype: torch.dtype):
    xs = [noise(*size, seed=k, dtype=torch.float64).to(dtype).requires_grad_(k != 1) for k in range(count)]
    weights = noise(count, seed=9, dtype=torch.float64).abs().add(0.2).to(dtype).requires_grad_()
    got = kernels.mixed_sum(xs, weights, normalize=normalize, mean_squares=True)
    wide = [x.detach().double().requires_grad_(x.requires_grad) for x in (*xs, weights)]
    expected = mixture.reference(wide[:-1], wide[-1], normalize, True)
    compare = close if dtype == torch.float32 else same_but_rounded
    cotangent = noise(*size, seed=4, dtype=torch.float64).to(dtype)
    grads = gradients(got[0], promises.leaves([*xs, weights]), cotangent)
    wide_grads = gradients(expected[0], promises.leaves(wide), cotangent.double())
    for a, b in zip((*got, *grads), (*expected, *wide_grads), strict=True):
        compare(a, b)


def test_mixed_sum_of_many_blocks_and_no_element():
    xs = [noise(700, seed=k) for k in range(3)]
    close(kernels.mixed_sum(xs, torch.ones(3)), sum(x.double() for x in xs))
    empty = [torch.zeros(0, 4, requires_grad=True) for _ in range(2)]
    assert gradients(kernels.mixed_sum(empty, torch.ones(2)), empty)[0].shape == (0, 4)


def test_second_derivatives_of_a_mixed_sum():
    tensors = [noise(2, 3, seed=k, dtype=torch.float64).requires_grad_() for k in range(2)]
    weights = torch.tensor([0.3, 1.1], dtype=torch.float64, requires_grad=True)

    def call(a: Tensor, b: Tensor, w: Tensor) -> Tensor:
        return kernels.mixed_sum([a, b], w, normalize=True)

    assert torch.autograd.gradcheck(call, (*tensors, weights))
    assert torch.autograd.gradgradcheck(call, (*tensors, weights))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16])
def test_saliency(dtype: torch.dtype):
    shapes = [(3,), (), (0, 4), (7, 80), *[(2, 3)] * 20]
    params, grads = ([noise(*shape, seed=k + s).to(dtype) for k, shape in enumerate(shapes)] for s in (0, 50))
    got = kernels.saliency(params, grads)
    close(got, saliencies.reference([w.double() for w in params], [g.double() for g in grads]))


def test_operators_keep_their_schemas():
    torch.library.opcheck(mixture._TRITON, ([noise(2, 3).requires_grad_()] * 2, torch.ones(2), True, True))
