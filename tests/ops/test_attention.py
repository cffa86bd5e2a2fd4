"""Attention kernels against a loop over queries, causality, order; and the feed-forward blocks beside them."""

from __future__ import annotations

import copy
import math
import pickle

import pytest
import torch
from torch.autograd import gradcheck, gradgradcheck

from foreblocks.darts._core.errors import InvalidArgument
from foreblocks.darts.kernels.attention import merge_heads, rotate, split_heads
from foreblocks.darts.ops.attention import (
    ATTENTION_KERNELS,
    Geometry,
    MultiHeadAttention,
    local_window,
    sparse_queries,
)
from foreblocks.darts.ops.ffn import MoE, SwiGLU, gated_width

VARIANTS = tuple(ATTENTION_KERNELS)
LENGTH = 40  # above SPARSE_FACTOR * ln, so that ProbSparse leaves queries out


def _attention(variant: str, **kwargs) -> MultiHeadAttention:
    torch.manual_seed(0)
    return MultiHeadAttention(8, 2, variant=variant, **kwargs).double().eval()


def _tokens(*shape: int, seed: int = 1) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def _weights(variant: str, q, keys, position: int, causal: bool, temperature: float):
    """Attention weights of one query, written from the definition. ``q [E]``, ``keys [S, E]``."""
    steps = torch.arange(len(keys))
    seen = steps <= position if causal else torch.ones(len(keys), dtype=torch.bool)
    if variant == "linear":
        raw = (torch.nn.functional.elu(keys) + 1) @ (torch.nn.functional.elu(q) + 1)
        raw = raw * seen
        return raw / raw.sum()
    if variant == "cosine":
        scores = temperature * torch.nn.functional.cosine_similarity(q.unsqueeze(0), keys)
    else:
        scores = keys @ q / math.sqrt(len(q))
    if variant == "local":
        window = local_window(len(keys))
        distance = position - steps
        seen = seen & (distance < window if causal else distance.abs() <= window // 2)
    return torch.softmax(scores.masked_fill(~seen, -math.inf), dim=0)


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("variant", ["sdp", "linear", "cosine", "local"])
def test_kernel_equals_a_loop_over_queries(variant: str, causal: bool) -> None:
    kernel = ATTENTION_KERNELS[variant](2, Geometry(causal=causal, ordered=False)).double()
    q, k, v = (_tokens(2, 2, LENGTH, 4, seed=s) for s in (1, 2, 3))
    out = split_heads(kernel(*map(merge_heads, (q, k, v)), cross=False), 2)
    for n, h, t in [(0, 0, 0), (0, 1, 7), (1, 0, 20), (1, 1, LENGTH - 1)]:
        expected = _weights(variant, q[n, h, t], k[n, h], t, causal, 10.0) @ v[n, h]
        torch.testing.assert_close(out[n, h, t], expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("causal", [False, True])
def test_probsparse_equals_its_definition(causal: bool) -> None:
    kernel = ATTENTION_KERNELS["probsparse"](1, Geometry(causal=causal, ordered=False))
    q, k, v = (_tokens(1, LENGTH, 4, seed=s) for s in (1, 2, 3))
    out = kernel(q, k, v, cross=False)[0]
    q, k, v = q[0], k[0], v[0]
    kept = sparse_queries(LENGTH)
    assert 0 < kept < LENGTH
    measure, attended, mean = [], [], []
    for t in range(LENGTH):
        seen = t + 1 if causal else LENGTH
        scores = k[:seen] @ q[t] / 2.0
        measure.append(float(scores.max() - scores.mean()))
        attended.append(torch.softmax(scores, dim=0) @ v[:seen])
        mean.append(v[:seen].mean(dim=0))
    lazy = 0
    for t in range(LENGTH):
        rivals = measure[: t + 1] if causal else measure
        chosen = sum(m > measure[t] for m in rivals) < kept
        lazy += not chosen
        torch.testing.assert_close(out[t], attended[t] if chosen else mean[t])
    assert lazy > 0
    assert causal or lazy == LENGTH - kept


@pytest.mark.parametrize("variant", VARIANTS)
def test_causal_attention_never_sees_the_future(variant: str) -> None:
    attention = _attention(variant, causal=True)
    x = _tokens(2, LENGTH, 8)
    for cut in (1, 10, 25, LENGTH - 1):
        for size in (1.0, 100.0):  # large values would win every ranking
            changed = x.clone()
            changed[:, cut:] += size * _tokens(2, LENGTH - cut, 8, seed=5)
            before, after = attention(x), attention(changed)
            torch.testing.assert_close(before[:, :cut], after[:, :cut], atol=1e-12, rtol=0)
            assert not torch.allclose(before[:, cut:], after[:, cut:])


@pytest.mark.parametrize("variant", VARIANTS)
def test_without_causal_the_past_sees_the_future(variant: str) -> None:
    attention = _attention(variant)
    x = _tokens(1, LENGTH, 8)
    changed = x.clone()
    changed[:, -1] += 1.0
    assert not torch.allclose(attention(x)[:, -2], attention(changed)[:, -2])


@pytest.mark.parametrize("variant", ["sdp", "cosine", "local", "probsparse"])
def test_rotary_position_makes_order_matter(variant: str) -> None:
    x = _tokens(1, 4, 8)
    order = torch.tensor([2, 0, 3, 1])
    ordered, unordered = _attention(variant), _attention(variant, ordered=False)
    assert not torch.allclose(ordered(x)[:, order], ordered(x[:, order]))
    if variant != "local":
        torch.testing.assert_close(unordered(x)[:, order], unordered(x[:, order]))


@pytest.mark.parametrize("features", [2, 6, 7])
def test_rotation_is_a_complex_product(features: int) -> None:
    x = _tokens(2, 3, 5, features).requires_grad_()
    half = features // 2
    angle = torch.arange(5.0, dtype=x.dtype)[:, None] * 10000.0 ** (-torch.arange(half, dtype=x.dtype) / half)
    pairs = torch.complex(x[..., :half], x[..., half : 2 * half]) * torch.polar(torch.ones_like(angle), angle)
    expected = torch.cat([pairs.real, pairs.imag, x[..., 2 * half :]], dim=-1)
    torch.testing.assert_close(rotate(x), expected)
    cotangent = _tokens(2, 3, 5, features, seed=2)
    by_rotate, by_product = (torch.autograd.grad(y, x, cotangent)[0] for y in (rotate(x), expected))
    torch.testing.assert_close(by_rotate, by_product)


@pytest.mark.parametrize(("dtype", "error"), [(torch.bfloat16, 0.05), (torch.float16, 0.01)])
def test_rotation_in_half_precision_knows_late_steps(dtype: torch.dtype, error: float) -> None:
    x = _tokens(1, 1, 700, 16).to(dtype)
    torch.testing.assert_close(rotate(x).float(), rotate(x.float()), atol=error, rtol=error)


def test_rotated_products_depend_on_the_distance_only() -> None:
    q, k = (_tokens(1, 1, 1, 6, seed=s).expand(-1, -1, 12, -1) for s in (1, 2))
    scores = (rotate(q) @ rotate(k).transpose(-1, -2))[0, 0]
    torch.testing.assert_close(scores.diagonal(3), scores[0, 3].expand(9))
    assert not torch.isclose(scores[0, 3], scores[3, 0])
    torch.testing.assert_close(rotate(q).norm(dim=-1), q.norm(dim=-1))
    assert rotate(_tokens(1, 1, 3, 1)).shape == (1, 1, 3, 1)
    assert rotate(_tokens(1, 1, 3, 5)).shape == (1, 1, 3, 5)


@pytest.mark.parametrize("variant", VARIANTS)
def test_cross_attention_reads_the_memory(variant: str) -> None:
    attention = _attention(variant)
    x, memory = _tokens(2, 30, 8), _tokens(2, 50, 8, seed=2)
    out = attention(x, memory)
    assert out.shape == (2, 30, 8)
    changed = memory.clone()
    changed[:, -3:] += 1.0
    assert not torch.allclose(out, attention(x, changed))


def test_local_cross_attention_sees_the_end_of_the_memory_or_its_own_index() -> None:
    x, memory = _tokens(1, 6, 8), _tokens(1, 40, 8, seed=2)
    early = memory.clone()
    early[:, : 40 - local_window(40)] += 1.0
    ordered = _attention("local")
    torch.testing.assert_close(ordered(x, memory), ordered(x, early))
    unordered = _attention("local", ordered=False)
    channels = _tokens(1, 6, 8, seed=3)
    last = channels.clone()
    last[:, -1] += 1.0
    before, after = unordered(x, channels), unordered(x, last)
    torch.testing.assert_close(before[:, :3], after[:, :3])
    assert not torch.allclose(before[:, -1], after[:, -1])


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("variant", VARIANTS)
def test_eval_is_deterministic_and_samples_are_independent(variant: str, causal: bool) -> None:
    attention = _attention(variant, causal=causal, dropout=0.5)
    x = _tokens(4, LENGTH, 8)
    whole = attention(x)
    assert torch.equal(whole, attention(x))
    torch.testing.assert_close(whole[1:2], attention(x[1:2]), atol=1e-12, rtol=0)


@pytest.mark.parametrize("variant", VARIANTS)
def test_one_step(variant: str) -> None:
    x = _tokens(2, 1, 8)
    for attention in (_attention(variant), _attention(variant, causal=True)):
        value = attention.key_value(x).chunk(2, dim=-1)[1]
        torch.testing.assert_close(attention(x), attention.out(value), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("variant", VARIANTS)
def test_twice_differentiable(variant: str, causal: bool) -> None:
    torch.manual_seed(3)
    attention = MultiHeadAttention(2, 1, variant=variant, causal=causal).double()
    length = 12 if variant == "probsparse" else 4
    x = _tokens(1, length, 2).requires_grad_()
    if variant == "probsparse":
        # With 12 steps every query is kept; as many as leave some out would be slow in a second-order check.
        attention.kernel = _FewQueries(causal)
    assert gradcheck(attention, (x,))
    assert gradgradcheck(attention, (x,))


def test_the_exporter_sees_plain_products() -> None:
    graph = torch.export.export(_attention("sdp"), (_tokens(2, 6, 8),)).graph
    assert any(node.target is torch.ops.aten.softmax.int for node in graph.nodes)


class _FewQueries(torch.nn.Module):
    """The sparse kernel on a series repeated to three times its length: still a smooth function of few inputs."""

    def __init__(self, causal: bool) -> None:
        super().__init__()
        self.inner = ATTENTION_KERNELS["probsparse"](1, Geometry(causal=causal))

    def forward(self, q, k, v, *, cross):
        ramp = torch.linspace(1.0, 2.0, 3 * q.shape[1], dtype=q.dtype).unsqueeze(-1)
        assert sparse_queries(len(ramp)) < len(ramp)
        out = self.inner(*(part.repeat(1, 3, 1) * ramp for part in (q, k, v)), cross=cross)
        return out.unflatten(1, (3, -1)).sum(dim=1)


def test_unit_vectors_are_smooth_at_zero() -> None:
    attention = _attention("cosine")
    x = torch.zeros(1, 3, 8, dtype=torch.float64, requires_grad=True)
    (grad,) = torch.autograd.grad(attention(x).square().sum(), x, create_graph=True)
    (second,) = torch.autograd.grad(grad.sum(), x)
    assert grad.isfinite().all()
    assert second.isfinite().all()


def test_bad_arguments_are_named() -> None:
    with pytest.raises(InvalidArgument, match=r"dim=10 .* heads=4"):
        MultiHeadAttention(10, 4, variant="sdp")
    with pytest.raises(InvalidArgument, match="Did you mean 'local'"):
        MultiHeadAttention(8, 4, variant="locale")
    with pytest.raises(InvalidArgument, match="heads=0"):
        MultiHeadAttention(8, 0, variant="sdp")
    with pytest.raises(InvalidArgument, match="dropout"):
        MultiHeadAttention(8, 2, variant="sdp", dropout=1.0)
    with pytest.raises(InvalidArgument, match="memory"):
        _attention("sdp", causal=True)(_tokens(1, 3, 8), _tokens(1, 4, 8))


def test_swiglu_is_its_formula_and_its_width() -> None:
    ffn = SwiGLU(6, hidden=5)
    x = torch.randn(2, 3, 6)
    gate, value = ffn.up.weight[:5], ffn.up.weight[5:]
    expected = (torch.nn.functional.silu(x @ gate.T) * (x @ value.T)) @ ffn.down.weight.T
    torch.testing.assert_close(ffn(x), expected)
    assert [gated_width(d) for d in (1, 3, 4, 32, 64)] == [8, 8, 16, 88, 176]
    assert SwiGLU(32).down.weight.shape == (32, 88)
    with pytest.raises(InvalidArgument, match="hidden=0"):
        SwiGLU(8, hidden=0)


def test_moe_equals_a_loop_over_tokens() -> None:
    torch.manual_seed(0)
    moe = MoE(6, experts=3, top_k=2).double()
    x = _tokens(2, 5, 6)
    width = moe.down.weight.shape[1] // 4
    gates, values = moe.up.weight.chunk(2)

    def expert(e: int, token: torch.Tensor) -> torch.Tensor:
        rows = slice(e * width, (e + 1) * width)
        hidden = torch.nn.functional.silu(gates[rows] @ token) * (values[rows] @ token)
        return moe.down.weight[:, rows] @ hidden

    out = moe(x)
    for n in range(2):
        for t in range(5):
            token = x[n, t]
            best = sorted(enumerate((moe.router.weight @ token).tolist()), key=lambda pair: -pair[1])[:2]
            mass = sum(math.exp(value) for _, value in best)
            expected = expert(0, token) + sum(math.exp(v) / mass * expert(e + 1, token) for e, v in best)
            torch.testing.assert_close(out[n, t], expected)


def test_moe_balance_loss() -> None:
    torch.manual_seed(0)
    moe = MoE(8, experts=4, top_k=2)
    assert float(moe.balance_loss()) == 0.0
    x = torch.randn(3, 50, 8)
    moe.train()(x)
    loss = moe.balance_loss()
    logits = x @ moe.router.weight.T
    used = torch.zeros_like(logits).scatter(-1, logits.topk(2, dim=-1).indices, 1.0)
    expected = 4 * (used.mean(dim=(0, 1)) / 2 * logits.softmax(-1).mean(dim=(0, 1))).sum()
    torch.testing.assert_close(loss, expected)
    loss.backward()
    assert moe.router.weight.grad.abs().max() > 0
    with torch.no_grad():
        moe.router.weight.zero_()
        moe.router.weight[0] = 100.0
        moe(x.abs())
        skewed = float(moe.balance_loss())
    assert skewed > 1.9  # all mass on one expert, which has half of the assignments: E / top_k = 2
    moe.eval()(x)
    assert float(moe.balance_loss()) == 0.0


def test_descending_the_balance_loss_balances() -> None:
    torch.manual_seed(0)
    moe = MoE(4, experts=4, top_k=1).train()
    with torch.no_grad():
        moe.router.weight[0] += 2.0
    x = torch.rand(8, 20, 4)
    moe(x)
    before = float(moe.balance_loss().detach())
    optimizer = torch.optim.Adam([moe.router.weight], lr=0.05)
    for _ in range(60):
        moe(x)
        optimizer.zero_grad()
        moe.balance_loss().backward()
        optimizer.step()
    moe(x)
    assert before > 1.8
    assert float(moe.balance_loss().detach()) < 1.3


def test_moe_copies_and_pickles_after_a_training_pass() -> None:
    moe = MoE(8).train()
    x = torch.randn(2, 6, 8)
    moe(x)
    assert set(moe.state_dict()) == {"router.weight", "up.weight", "down.weight"}
    for twin in (copy.deepcopy(moe), pickle.loads(pickle.dumps(moe))):
        assert float(twin.balance_loss()) == 0.0
        torch.testing.assert_close(twin.eval()(x), copy.deepcopy(moe).eval()(x))
    assert float(moe.balance_loss().detach()) > 0.0


def test_moe_twice_differentiable_and_all_parameters_learn() -> None:
    torch.manual_seed(0)
    moe = MoE(2, experts=2, top_k=1).double()
    x = _tokens(1, 3, 2).requires_grad_()
    assert gradcheck(moe, (x,))
    assert gradgradcheck(moe, (x,))
    moe = MoE(8)
    moe(torch.randn(2, 50, 8)).square().sum().backward()
    for parameter in moe.parameters():
        assert parameter.grad.abs().max() > 0
    width = moe.down.weight.shape[1] // 5
    assert (moe.down.weight.grad.unflatten(1, (5, width)).abs().amax(dim=(0, 2)) > 0).all()


def test_moe_bad_arguments_are_named() -> None:
    with pytest.raises(InvalidArgument, match="top_k=5"):
        MoE(8, experts=4, top_k=5)
    with pytest.raises(InvalidArgument, match="experts=0"):
        MoE(8, experts=0)
