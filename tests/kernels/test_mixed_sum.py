"""The weighted sum: against float64, against itself in parts, and where the router has to step aside."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import Tensor

from foreblocks.darts import kernels
from foreblocks.darts._core.errors import InvalidArgument
from foreblocks.darts.kernels import mixture

from .tools import COMPILED, close, gradients, needs_native, noise

pytestmark = pytest.mark.kernels
SHAPES = [(1,), (3, 1, 15), (2, 7, 17), (5, 33, 128), (0, 4, 8)]


def naive(xs: list[Tensor], weights: Tensor, normalize: bool) -> Tensor:
    weights = weights / weights.sum() if normalize else weights
    return sum(x * w for x, w in zip(xs, weights, strict=True))


def example(count: int, shape: tuple[int, ...], dtype: torch.dtype = torch.float32) -> tuple[list[Tensor], Tensor]:
    xs = [noise(*shape, seed=k, dtype=dtype).requires_grad_() for k in range(count)]
    return xs, (noise(count, seed=99, dtype=dtype).abs() + 0.1).requires_grad_()


@pytest.mark.parametrize("normalize", [False, True])
@pytest.mark.parametrize("count", [1, 2, 7, 8, 9, 19])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_value_and_gradients(count: int, shape: tuple[int, ...], normalize: bool):
    xs, weights = example(count, shape)
    got = kernels.mixed_sum(xs, weights, normalize=normalize)
    wide = [x.detach().double().requires_grad_() for x in xs], weights.detach().double().requires_grad_()
    expected = naive(*wide, normalize)
    close(got, expected)
    cotangent = noise(*shape, seed=7)
    close(gradients(got, [*xs, weights], cotangent), gradients(expected, [*wide[0], wide[1]], cotangent.double()))


@pytest.mark.parametrize(("dtype", "bits"), [(torch.bfloat16, 2.0**-8), (torch.float16, 2.0**-11)], ids=str)
@pytest.mark.parametrize("shape", [(2, 7, 17), (5, 33, 128)], ids=str)
def test_half_precision_rounds_only_what_it_stores(dtype: torch.dtype, bits: float, shape: tuple[int, ...]):
    xs, weights = example(9, shape)
    xs, weights = [x.detach().to(dtype).requires_grad_() for x in xs], weights.detach().to(dtype).requires_grad_()
    got, squares = kernels.mixed_sum(xs, weights, normalize=True, mean_squares=True)
    wide = [x.detach().double().requires_grad_() for x in xs], weights.detach().double().requires_grad_()
    expected = naive(*wide, True)
    cotangent = noise(*shape, seed=7).to(dtype)
    grads = gradients(got, [*xs, weights], cotangent)
    by_hand = gradients(expected, [*wide[0], wide[1]], cotangent.double())
    means = torch.stack([x.square().mean() for x in wide[0]])
    bits *= 1 if COMPILED else 8  # plain PyTorch rounds between its operations too
    for a, b in zip([got, squares, *grads], [expected, means, *by_hand], strict=True):
        assert a.dtype == dtype
        peak = max(1.0, float(b.detach().abs().max()))
        torch.testing.assert_close(a.detach().double(), b.detach(), rtol=bits, atol=bits * peak)


def test_mean_squares_have_no_gradient():
    xs, weights = example(3, (4, 5, 6))
    total, squares = kernels.mixed_sum(xs, weights, mean_squares=True)
    close(squares, torch.stack([x.double().square().mean() for x in xs]))
    assert total.requires_grad
    assert not squares.requires_grad


@pytest.mark.parametrize("normalize", [False, True])
def test_first_and_second_derivatives(normalize: bool):
    xs, weights = example(3, (2, 5), torch.float64)

    def call(w: Tensor, *data: Tensor) -> Tensor:
        return kernels.mixed_sum(data, w, normalize=normalize)

    assert torch.autograd.gradcheck(call, (weights, *xs))
    assert torch.autograd.gradgradcheck(call, (weights, *xs))


def test_third_derivative_is_that_of_the_formula():
    xs, weights = example(2, (3,), torch.float64)

    def third(function) -> list[Tensor]:
        out = (function(xs, weights) ** 3).sum()
        for _ in range(2):
            grads = torch.autograd.grad(out, [*xs, weights], create_graph=True)
            out = sum((grad**2).sum() for grad in grads)
        return list(torch.autograd.grad(out, [*xs, weights]))

    close(third(lambda a, w: kernels.mixed_sum(a, w, normalize=True)), third(lambda a, w: naive(a, w, True)))


@pytest.mark.parametrize("needs", list(itertools.product([False, True], repeat=3)), ids=str)
def test_only_what_is_needed_gets_a_gradient(needs: tuple[bool, ...]):
    xs, weights = example(2, (3, 4))
    leaves = [x.detach().requires_grad_(need) for x, need in zip([*xs, weights], needs, strict=True)]
    out = kernels.mixed_sum(leaves[:2], leaves[2])
    assert out.requires_grad == any(needs)
    if any(needs):
        out.sum().backward()
    assert [leaf.grad is not None for leaf in leaves] == list(needs)


@needs_native
def test_inputs_are_not_kept_when_the_weights_are_fixed():
    xs, weights = example(3, (3, 4))
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda x: kept.append(x.shape) or x, lambda x: x):
        kernels.mixed_sum(xs, weights.detach())
    assert kept == [weights.shape]


def test_strided_and_expanded_inputs():
    weights = noise(3, seed=5)
    xs = [noise(4, 6, 5).transpose(0, 1), noise(6, 1, 5).expand(6, 4, 5), noise(6, 8, 5)[:, ::2]]
    close(kernels.mixed_sum(xs, weights), naive([x.double() for x in xs], weights.double(), False))


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_what_is_not_finite_passes_through(value: float):
    xs, weights = example(3, (2, 40))
    with torch.no_grad():
        xs[1][0, 33] = value
        out = kernels.mixed_sum(xs, weights)
    assert not out[0, 33].isfinite()
    assert out.isfinite().sum() == out.numel() - 1


@needs_native
def test_operators_keep_the_rules_of_torch_library():
    xs, weights = example(3, (2, 5))
    torch.library.opcheck(mixture._FORWARD, (xs, weights, True, True))
    torch.library.opcheck(mixture._BACKWARD, (noise(2, 5), xs, weights, True, [0, 2]))


@needs_native
def test_same_bits_for_any_number_of_threads(threads):
    xs, weights = example(5, (16, 96, 64))
    results = []
    for count in (1, 2):
        threads(count)
        out = kernels.mixed_sum(xs, weights)
        results.append([out, *gradients(out, [*xs, weights], noise(16, 96, 64))])
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


def test_per_sample_gradients_by_vmap():
    xs, weights = example(3, (4, 2, 5))

    def loss(w: Tensor, *rows: Tensor) -> Tensor:
        return kernels.mixed_sum(rows, w).square().sum()

    batched = torch.func.vmap(torch.func.grad(loss), in_dims=(None, 0, 0, 0))(weights, *xs)
    close(batched[2], torch.func.grad(loss)(weights, *(x[2] for x in xs)))


class Mixture(torch.nn.Module):
    def forward(self, weights: Tensor, a: Tensor, b: Tensor) -> Tensor:
        return kernels.mixed_sum([a, b], weights)


def test_compiles_and_exports():
    xs, weights = example(2, (3, 4))
    expected = kernels.mixed_sum(xs, weights)
    compiled = torch.compile(Mixture(), fullgraph=True, backend="aot_eager")
    close(compiled(weights, *xs), expected)
    close(gradients(compiled(weights, *xs), [*xs, weights]), gradients(expected, [*xs, weights]))
    program = torch.export.export(Mixture(), (weights, *xs))
    assert not any("foreblocks" in str(node.target) for node in program.graph.nodes)
    close(program.module()(weights, *xs), expected)


def test_bad_arguments_are_named():
    xs, weights = example(2, (3, 4))
    with pytest.raises(InvalidArgument, match="xs has 2 tensors"):
        kernels.mixed_sum(xs, weights[:1])
    with pytest.raises(InvalidArgument, match=r"xs\[1\] has shape \(4, 3\)"):
        kernels.mixed_sum([xs[0], xs[1].T], weights)
    with pytest.raises(InvalidArgument, match=r"xs\[0\] has dtype torch.float64"):
        kernels.mixed_sum([x.double() for x in xs], weights)
    with pytest.raises(InvalidArgument, match=r"xs\[1\] is on meta, but weights is on cpu"):
        kernels.mixed_sum([xs[0], xs[1].to("meta")], weights)
