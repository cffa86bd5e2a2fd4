"""The sums of the saliency scores over lists of weights, and Jacobians in chunks."""

from __future__ import annotations

import pytest
import torch

from foreblocks.darts import kernels
from foreblocks.darts._core.errors import InvalidArgument

from .tools import close, needs_native, noise

pytestmark = pytest.mark.kernels
SHAPES = [(), (1,), (3, 5), (0, 4), (7, 1025), (130, 257)]


def weights(seed: int, dtype: torch.dtype = torch.float32) -> list[torch.Tensor]:
    return [noise(*shape, seed=seed + k, dtype=dtype) for k, shape in enumerate(SHAPES)]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_sums_of_every_weight(dtype: torch.dtype):
    params, grads = weights(1, dtype), weights(20, dtype)
    params[4] = params[4].T.contiguous().T
    got = kernels.saliency([p.requires_grad_() for p in params], grads)
    assert got.dtype == torch.float64
    assert not got.requires_grad
    for row, w, g in zip(got, params, grads, strict=True):
        w, g = w.detach().double(), g.double()
        close(row, torch.stack([(w * g).abs().sum(), (w * g).sum(), (g * g).sum(), g.abs().sum()]))


@needs_native  # plain PyTorch rounds each product
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_sums_of_half_precision_are_not_rounded(dtype: torch.dtype):
    params, grads = weights(1, dtype), weights(20, dtype)
    for row, w, g in zip(kernels.saliency(params, grads), params, grads, strict=True):
        w, g = w.double(), g.double()
        close(row, torch.stack([(w * g).abs().sum(), (w * g).sum(), (g * g).sum(), g.abs().sum()]))


def test_what_is_not_finite_shows():
    params, grads = weights(1), weights(20)
    grads[2][0, 0] = float("nan")
    rows = kernels.saliency(params, grads).isnan().any(dim=1).tolist()
    assert rows == [k == 2 for k in range(len(SHAPES))]


@needs_native
def test_same_bits_for_any_number_of_threads(threads):
    results = []
    for count in (1, 2):
        threads(count)
        results.append(kernels.saliency(weights(1) * 12, weights(20) * 12))
    assert torch.equal(*results)


def test_bad_arguments_are_named():
    with pytest.raises(InvalidArgument, match="params has 0 tensors"):
        kernels.saliency([], [])
    with pytest.raises(InvalidArgument, match=r"grads\[1\] is \(2,\)"):
        kernels.saliency([noise(3), noise(3)], [noise(3), noise(2)])
    with pytest.raises(InvalidArgument, match=r"params\[1\] is on cpu, grads\[1\] on meta; all must be on cpu"):
        kernels.saliency([noise(3), noise(3)], [noise(3), torch.empty(3, device="meta")])


@pytest.mark.parametrize("chunk", [1, 3, 100])
def test_jacobians_of_all_samples(chunk: int):
    first, second = noise(4, 6), noise(3, 4, seed=2)

    def network(x: torch.Tensor) -> torch.Tensor:
        return torch.tanh(x.flatten(1) @ first.T) @ second.T

    x = noise(5, 2, 3, seed=3)
    got = kernels.batched_jacobian(network, x, chunk=chunk)
    assert got.shape == (5, 3, 6)
    for n in range(5):
        alone = torch.autograd.functional.jacobian(lambda row: network(row.unsqueeze(0))[0], x[n])
        close(got[n], alone.flatten(1).double())
