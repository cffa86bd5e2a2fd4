"""What softmax attention promises beyond the list of every operation."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from foreblocks.darts import kernels
from foreblocks.darts._core.errors import InvalidArgument
from foreblocks.darts.kernels import attention

from .tools import close, gradients, needs_native, noise

pytestmark = pytest.mark.kernels


def qkv(batch: int, steps: int, keys: int, dim: int) -> list[Tensor]:
    return [noise(batch, t, dim, seed=k).requires_grad_() for k, t in enumerate((steps, keys, keys))]


def test_wrong_arguments_are_named():
    q, k, v = qkv(2, 3, 5, 6)
    step = torch.arange(3)
    for match, arguments in {
        "heads=4 must divide D = 6": {"heads": 4},
        "heads": {"heads": 0},
        "rotary=True .* k has 5, q has 3": {"heads": 2, "rotary": True},
        "first and last": {"heads": 2, "first": step},
        r"first has shape \(4,\)": {"heads": 2, "first": torch.arange(4), "last": step},
        "last is torch.float32": {"heads": 2, "first": step, "last": step.float()},
    }.items():
        with pytest.raises(InvalidArgument, match=match):
            kernels.softmax_attention(q, k, v, **arguments)
    with pytest.raises(InvalidArgument, match="k has no step"):
        kernels.softmax_attention(q, k[:, :0], v[:, :0], 2)


def test_a_score_far_above_the_others_takes_all():
    q, k, v = (x.detach() for x in qkv(1, 20, 20, 8))
    for scale in (1e4, -1e4, 1e30):
        out = kernels.softmax_attention(q, k, v, 1, scale=scale)
        best = (scale * q.double() @ k.double().transpose(1, 2)).argmax(dim=-1)
        assert torch.equal(out, v[0, best[0]].unsqueeze(0))


def test_hidden_keys_weigh_nothing_whatever_they_hold():
    q, k, v = qkv(2, 18, 40, 6)
    first, last = torch.full((18,), 3), torch.arange(18) + 4
    with torch.no_grad():
        k[:, :3] *= 1e4
        k[:, 21:] *= 1e4
    out = kernels.softmax_attention(q, k, v, 2, first=first, last=last)
    close(out[:, 0], v.double()[:, 3])
    seen = kernels.softmax_attention(q, k[:, :21], v[:, :21], 2, first=first, last=last)
    close(out, seen.double())
    by_q, by_k, by_v = gradients(out, [q, k, v])
    assert by_q.isfinite().all()
    for grad in (by_k, by_v):
        assert grad[:, 3:21].abs().sum(dim=-1).min() > 0
        assert not grad[:, :3].any()
        assert not grad[:, 21:].any()


def test_a_query_without_keys_is_not_a_number_and_leaves_the_others_alone():
    q, k, v = (x.detach() for x in qkv(1, 3, 5, 4))
    first, last = torch.tensor([0, 2, 1]), torch.tensor([5, 2, 3])
    out = kernels.softmax_attention(q, k, v, 2, first=first, last=last)
    assert out[:, 1].isnan().all()
    close(out[:, 0], kernels.softmax_attention(q[:, :1], k, v, 2)[:, 0].double())


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_what_is_not_a_number_stays_in_its_sample_and_head(bad: float):
    q, k, v = (x.detach() for x in qkv(2, 5, 5, 8))
    k[1, 2, 1] = bad
    out = kernels.softmax_attention(q, k, v, 2)
    assert out[1, :, :4].isnan().any()
    assert out[0].isfinite().all()
    assert out[1, :, 4:].isfinite().all()


def test_rotation_depends_on_the_distance_only():
    q, k, v = (x.detach() for x in qkv(1, 1, 1, 6))
    q, k = q.expand(1, 30, 6), k.expand(1, 30, 6)
    v = noise(1, 30, 6)
    band = {"first": (torch.arange(30) - 3).clamp(min=0), "last": torch.arange(30) + 1}
    # The same four scores at each step from the third on: shifted values give shifted results.
    out = kernels.softmax_attention(q, k, v, 2, rotary=True, **band)
    later = kernels.softmax_attention(q, k, v.roll(5, dims=1), 2, rotary=True, **band)
    close(later[:, 8:], out[:, 3:-5].double())
    assert not torch.allclose(out, kernels.softmax_attention(q, k, v, 2, **band))


@needs_native
def test_the_compiled_form_keeps_no_square_of_the_length():
    q, k, v = qkv(1, 200, 200, 4)
    kept: list[int] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda x: kept.append(x.numel()) or x, lambda x: x):
        attention._native(q, k, v, None, None, 2, 1.0, True)
    assert kept
    assert max(kept) <= 200 * 4


@pytest.mark.parametrize("ranged", [False, True])
def test_turned_products_equal_plain_ones(ranged: bool):
    bounds = (torch.tensor([0, 2, 1, 0, 3]), torch.tensor([1, 7, 3, 7, 6])) if ranged else (None, None)
    q, k, v = (x.double().detach().requires_grad_() for x in qkv(2, 5, 7, 6))

    def twice(out: Tensor) -> tuple[Tensor, ...]:
        first = torch.autograd.grad(out.sin().sum(), [q, k, v], create_graph=True)
        second = torch.autograd.grad(sum(x.square().sum() for x in first), [q, k, v])
        return out, *first, *second

    turned = twice(attention.reference(q, k, v, *bounds, 2, 0.7, False))
    heads = [x.unflatten(-1, (2, 3)).transpose(1, 2) for x in (q, k, v)]
    mask = None
    if ranged:
        step = torch.arange(7)
        mask = (step >= bounds[0][:, None]) & (step < bounds[1][:, None])
    with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
        plain = torch.nn.functional.scaled_dot_product_attention(*heads, attn_mask=mask, scale=0.7)
        for got, want in zip(turned, twice(plain.transpose(1, 2).flatten(2)), strict=True):
            torch.testing.assert_close(got, want)
