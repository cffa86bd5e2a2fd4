"""What every operation promises, whatever it computes: the cases are in ``cases``."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.autograd import forward_ad
from torch.utils.checkpoint import checkpoint

from foreblocks.darts.kernels import dispatch

from .cases import CASES, Case
from .tools import COMPILED, close, gradients, needs_native, noise

pytestmark = [pytest.mark.kernels, pytest.mark.parametrize("case", CASES, ids=str)]


def joined(result: Tensor | tuple[Tensor, ...]) -> Tensor:
    """All outputs behind each other: one tensor to differentiate."""
    return result if isinstance(result, Tensor) else torch.cat([part.flatten() for part in result])


def both(case: Case, tensors: list[Tensor]) -> tuple[Tensor, Tensor, list[Tensor]]:
    """The result, that of the twin in float64, and the float64 tensors."""
    wide = [x.detach().double().requires_grad_(x.requires_grad) for x in tensors]
    return joined(case.call(*tensors)), joined(case.naive(*wide)), wide


def leaves(tensors: list[Tensor]) -> list[Tensor]:
    return [x for x in tensors if x.requires_grad]


def test_value_and_gradients(case: Case):
    for size in range(len(case.shapes)):
        tensors = case.tensors(size)
        got, expected, wide = both(case, tensors)
        assert got.isfinite().all()
        close(got, expected)
        cotangent = noise(*got.shape, seed=size)
        close(gradients(got, leaves(tensors), cotangent), gradients(expected, leaves(wide), cotangent.double()))


HALF_BITS = {torch.bfloat16: 2.0**-8, torch.float16: 2.0**-11}
# A processor has products of half precision of its own.
ONLY_WIDE = ("conv1d", "linear", "time_linear", "softmax_attention", "spectral_map", "residual_convs")


@pytest.mark.parametrize("dtype", HALF_BITS, ids=str)
def test_half_precision_rounds_only_what_it_stores(case: Case, dtype: torch.dtype):
    if dispatch.forced() == "native" and case.name.startswith(ONLY_WIDE):
        with pytest.raises(dispatch.KernelUnavailable, match="the compiled form has no"):
            case.call(*case.tensors(0, dtype))
        return
    compiled = COMPILED and not case.name.startswith(ONLY_WIDE)
    # Plain PyTorch rounds between its operations too.
    bits = HALF_BITS[dtype] * (1 if compiled else 8)
    for size in range(len(case.shapes) if compiled else 2):  # convolutions in float16 take PyTorch seconds
        tensors = case.tensors(size, dtype)
        got, expected, wide = both(case, tensors)
        assert got.dtype == dtype
        cotangent = noise(*got.shape, seed=5).to(dtype)
        by_got = gradients(got, leaves(tensors), cotangent)
        by_expected = gradients(expected, leaves(wide), cotangent.double())
        for a, b in zip([got, *by_got], [expected, *by_expected], strict=True):
            peak = max(1.0, float(b.detach().abs().max()))
            torch.testing.assert_close(a.detach().double(), b.detach(), rtol=bits, atol=bits * peak)


def test_double_precision_is_exact(case: Case):
    tensors = case.tensors(2, torch.float64)
    got, expected, wide = both(case, tensors)
    torch.testing.assert_close(got, expected, rtol=1e-12, atol=1e-12)
    for a, b in zip(gradients(got, leaves(tensors)), gradients(expected, leaves(wide)), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-10)


def test_first_and_second_derivatives(case: Case):
    tensors = case.tensors(0, torch.float64)

    def call(*inputs: Tensor) -> Tensor:
        return joined(case.call(*inputs))

    assert torch.autograd.gradcheck(call, tensors)
    assert torch.autograd.gradgradcheck(call, tensors, fast_mode=True)


def test_tangents_of_forward_mode(case: Case):
    tensors = case.tensors(0, torch.float64)
    found = []
    for function in (case.call, case.naive):
        for graph in (False, True):
            with forward_ad.dual_level():
                duals = [
                    forward_ad.make_dual(x.detach().requires_grad_(graph), noise(*x.shape, seed=k).double())
                    if x.requires_grad
                    else x
                    for k, x in enumerate(tensors)
                ]
                found.append(forward_ad.unpack_dual(joined(function(*duals))).tangent.detach())
    for got in found[:2]:
        torch.testing.assert_close(got, found[2])


def test_many_gradients_in_one_pass(case: Case):
    tensors = case.tensors(0)
    out = joined(case.call(*tensors))
    cotangents = noise(3, *out.shape, seed=5)
    together = torch.autograd.grad(out, leaves(tensors), cotangents, is_grads_batched=True, retain_graph=True)
    alone = [gradients(out, leaves(tensors), each) for each in cotangents]
    close(together, [torch.stack(rows).double() for rows in zip(*alone, strict=True)])


def test_checkpoints_and_saved_tensor_hooks(case: Case):
    tensors = case.tensors(0)
    expected = gradients(joined(case.call(*tensors)), leaves(tensors))
    again = checkpoint(lambda *inputs: joined(case.call(*inputs)), *tensors, use_reentrant=False)
    with torch.autograd.graph.saved_tensors_hooks(lambda x: x.detach().numpy().copy(), torch.from_numpy):
        elsewhere = joined(case.call(*tensors))
    for out in (again, elsewhere):
        close(torch.autograd.grad(out.sum(), leaves(tensors)), expected)


def test_one_gradient_at_a_time(case: Case):
    tensors = case.tensors(2)
    complete = gradients(joined(case.call(*tensors)), leaves(tensors))
    for k, leaf in enumerate(leaves(tensors)):
        alone = [x.detach().requires_grad_(x is leaf) for x in tensors]
        (got,) = torch.autograd.grad(joined(case.call(*alone)).sum(), leaves(alone))
        close(got, complete[k].double())


LAYOUTS: list[Callable[[Tensor], Tensor]] = [
    lambda x: x.repeat_interleave(2, dim=-1)[..., ::2],
    lambda x: torch.cat([x, x], dim=-1)[..., : x.shape[-1]],  # a half of a chunk
    lambda x: x.transpose(0, -1).contiguous().transpose(0, -1),
    lambda x: x.transpose(0, x.dim() // 2).contiguous().transpose(0, x.dim() // 2),
]


def test_strided_and_expanded_inputs(case: Case):
    for size in range(len(case.shapes)):
        tensors = case.tensors(size)
        expected = joined(case.call(*tensors))
        for layout in LAYOUTS:
            other = [layout(x.detach()).requires_grad_(x.requires_grad) for x in tensors]
            got = joined(case.call(*other))
            close(got, expected)
            close(gradients(got, leaves(other)), gradients(expected, leaves(tensors)))
    cotangent = torch.ones(()).expand(expected.shape)
    close(
        torch.autograd.grad(joined(case.call(*tensors)), leaves(tensors), cotangent),
        gradients(expected, leaves(tensors)),
    )
    for dim in (0, 1):
        chosen = [k for k in case.samples if tensors[k].shape[dim]]
        grown = [
            x.detach().narrow(dim, 0, 1).expand(x.shape) if k in chosen else x.detach() for k, x in enumerate(tensors)
        ]
        close(joined(case.call(*grown)), joined(case.call(*(x.contiguous() for x in grown))))


def test_empty_batch(case: Case):
    tensors = [
        x.detach()[:0].requires_grad_(x.requires_grad) if k in case.samples else x
        for k, x in enumerate(case.tensors(2))
    ]
    out = joined(case.call(*tensors))
    assert out.numel() == 0
    for x, grad in zip(leaves(tensors), gradients(out, leaves(tensors)), strict=True):
        assert torch.equal(grad, torch.zeros_like(x))


@needs_native  # the activations of torch give NaN for some infinities
@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_what_is_not_finite_passes_through(case: Case, value: float):
    tensors = [x.detach() for x in case.tensors(3)]
    tensors[0].flatten()[tensors[0].numel() // 2] = value
    got, expected, _ = both(case, tensors)
    assert torch.equal(got.isnan(), expected.isnan())
    assert torch.equal(got.isfinite(), expected.isfinite())


@needs_native
def test_same_bits_for_any_number_of_threads(case: Case, threads):
    made = case.tensors(3)
    tensors = [
        x.detach().repeat(40, *[1] * (x.dim() - 1)).requires_grad_(x.requires_grad) if k in case.samples else x
        for k, x in enumerate(made)
    ]
    results = []
    for count in (1, 2):
        threads(count)
        out = joined(case.call(*tensors))
        results.append([out, *gradients(out, leaves(tensors))])
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


def test_per_sample_gradients_by_vmap(case: Case):
    tensors = [x.detach() for x in case.tensors(2)]
    first = case.samples[0]

    def loss(inputs: list[Tensor]) -> Tensor:
        full = [x.unsqueeze(0) if k in case.samples else x for k, x in enumerate(inputs)]
        return joined(case.call(*full)).square().sum()

    dims = [0 if k in case.samples else None for k in range(len(tensors))]
    batched = torch.func.vmap(torch.func.grad(loss), in_dims=(dims,))(tensors)
    single = torch.func.grad(loss)([x[0] if k in case.samples else x for k, x in enumerate(tensors)])
    close(batched[first][0], single[first])
