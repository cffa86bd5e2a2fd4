"""Every GPU form of every operation against float64 on the CPU; needs a GPU, see scripts/gpu_check.sh."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from foreblocks.darts import kernels
from foreblocks.darts.kernels import dispatch, mixture, saliencies

from .cases import CASES, Case
from .test_every_kernel import both, joined, leaves
from .tools import close, gradients, noise

pytestmark = [
    pytest.mark.cuda,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
    # cuBLAS has no deterministic mode without an environment variable; the poisoned memory of conftest asks for it.
    pytest.mark.filterwarnings("ignore:.*deterministic.*:UserWarning"),
]

GPU_FORMS = ("native", "mamba_ssm", "causal_conv1d", "triton")
OPERATION_OF = {
    "norm_act": "norm_act",
    "depthwise": "depthwise_conv1d",
    "average": "moving_average",
    "scan": "selective_scan",
    "causal_conv": "depthwise_conv1d",
}


@pytest.fixture(params=GPU_FORMS)
def form(request: pytest.FixtureRequest) -> Iterator[str]:
    """One form, taken first where it can run."""
    yield request.param
    dispatch.reset()


def prefer(operation: str, name: str) -> None:
    """Let ``operation`` run as ``name`` for the rest of the test, or skip it with the reason."""
    entry = dispatch.OPERATIONS[operation]
    reasons = entry.reasons(torch.empty(0, device="cuda"))
    if name not in reasons:
        pytest.skip(f"{operation} has no form {name}")
    if reasons[name] is not None:
        pytest.skip(f"{name}: {reasons[name]}")
    run = next(each.run for each in entry.implementations if each.name == name)
    for needs_grad in (False, True):
        entry._chosen["cuda", torch.float32, needs_grad] = run


def on_gpu(tensors: list[Tensor]) -> list[Tensor]:
    return [x.detach().cuda().requires_grad_(x.requires_grad) for x in tensors]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_value_and_gradients(case: Case, form: str):
    operation = OPERATION_OF.get(case.name.partition("-")[0])
    if operation is None:
        pytest.skip(f"{case.name} has no form for a GPU")
    prefer(operation, form)
    for size in range(len(case.shapes)):
        tensors = case.tensors(size)
        _, expected, wide = both(case, tensors)
        mine = on_gpu(tensors)
        got = joined(case.call(*mine))
        close(got.cpu(), expected)
        cotangent = noise(*got.shape, seed=size)
        found = gradients(got, leaves(mine), cotangent.cuda())
        close([x.cpu() for x in found], gradients(expected, leaves(wide), cotangent.double()))


@pytest.mark.parametrize("case", [c for c in CASES if c.name.startswith("scan")], ids=str)
def test_results_repeat_bit_by_bit(case: Case, form: str):
    prefer("selective_scan", form)
    if form == "mamba_ssm":
        pytest.skip("its gradients of B and C are summed by atomics")
    results = []
    for _ in range(2):
        tensors = on_gpu(case.tensors(3))
        out = joined(case.call(*tensors))
        results.append([out, *gradients(out, leaves(tensors))])
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


@pytest.mark.parametrize(("count", "size"), [(1, (1,)), (5, (3, 7, 15)), (8, (32, 96, 64)), (3, (2100000,))])
@pytest.mark.parametrize("normalize", [False, True])
def test_mixed_sum(form: str, count: int, size: tuple[int, ...], normalize: bool):
    prefer("mixed_sum", form)
    xs = [noise(*size, seed=k).requires_grad_(k != 1) for k in range(count)]
    weights = (noise(count, seed=9).abs() + 0.2).requires_grad_()
    wide = [x.detach().double().requires_grad_(x.requires_grad) for x in (*xs, weights)]
    expected = mixture.reference(wide[:-1], wide[-1], normalize, True)
    mine = on_gpu([*xs, weights])
    got = kernels.mixed_sum(mine[:-1], mine[-1], normalize=normalize, mean_squares=True)
    close([x.cpu() for x in got], list(expected))
    cotangent = noise(*size, seed=4)
    found = gradients(got[0], leaves(mine), cotangent.cuda())
    # A dot product over millions of elements in float32: its error grows with their root.
    close([x.cpu() for x in found], gradients(expected[0], leaves(wide), cotangent.double()), scale=10.0)


def test_saliency(form: str):
    prefer("saliency", form)
    params, grads = ([noise(k + 1, 37, seed=k + s) for k in range(40)] for s in (0, 99))
    expected = saliencies.reference([w.double() for w in params], [g.double() for g in grads])
    close(kernels.saliency([w.cuda() for w in params], [g.cuda() for g in grads]).cpu(), expected)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_of_the_mixed_sum(dtype: torch.dtype):
    xs = [noise(3, 40, 17, seed=k).to(dtype) for k in range(4)]
    weights = noise(4, seed=9).to(dtype)
    got = kernels.mixed_sum([x.cuda() for x in xs], weights.cuda()).cpu()
    expected = mixture.reference([x.double() for x in xs], weights.double())[0]
    bits = 2.0**-8 if dtype == torch.bfloat16 else 2.0**-11
    torch.testing.assert_close(got.double(), expected, rtol=2 * bits, atol=2 * bits)


def test_a_whole_scan_compiles():
    prefer("selective_scan", "triton")

    def block(u: Tensor, a: Tensor, b: Tensor) -> Tensor:
        return kernels.selective_scan_steps(u, u.abs(), a, b, b)

    u, a, b = noise(2, 40, 8).cuda(), -noise(8, 4, seed=1).abs().cuda(), noise(2, 40, 4, seed=2).cuda()
    close(torch.compile(block, fullgraph=True)(u, a, b).cpu(), block(u.double(), a.double(), b.double()).cpu())
