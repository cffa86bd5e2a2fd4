"""The sequence part of every mode: shapes, causality, gradients, copies and export."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from torch.autograd import gradcheck, gradgradcheck

from foreblocks.darts.architecture.sequence import build_sequence, horizon_tokens, moe_balance_loss
from foreblocks.darts.architecture.spec import ARCH_MODES, ATTENTION_VARIANTS, CHANNEL_MODES, FFN_VARIANTS, Macro

DIM = 8
ATTENDING = tuple(mode for mode in ARCH_MODES if mode != "mamba")
MODES_AND_VARIANTS = [(m, a) for m in ATTENDING for a in ATTENTION_VARIANTS] + [("mamba", "sdp")]


def _macro(mode: str, **changes) -> Macro:
    settings = {"input_dim": 5, "seq_length": 36, "horizon": 7, "hidden_dim": DIM, "num_heads": 2, **changes}
    return Macro(arch_mode=mode, **settings)


def _build(mode: str, *, seed: int = 0, **changes) -> tuple[torch.nn.Module, Macro]:
    torch.manual_seed(seed)
    macro = _macro(mode, **changes)
    return build_sequence(macro).eval(), macro


def _tokens(macro: Macro, batch: int = 3, *, seed: int = 1, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    draw = torch.Generator().manual_seed(seed)
    return torch.randn(batch, macro.num_tokens, macro.hidden_dim, generator=draw, dtype=dtype)


@pytest.mark.parametrize("channel_mode", CHANNEL_MODES)
@pytest.mark.parametrize("ffn", FFN_VARIANTS)
@pytest.mark.parametrize(("mode", "attention"), MODES_AND_VARIANTS)
def test_shape_batch_independence_and_determinism(mode: str, attention: str, ffn: str, channel_mode: str) -> None:
    part, macro = _build(mode, attention=attention, ffn=ffn, channel_mode=channel_mode, dropout=0.3)
    part.double()
    x = _tokens(macro, dtype=torch.float64)
    out = part(x)
    variate = channel_mode == "variate"
    keeps = mode in ("encoder_only", "mamba") or variate
    assert out.shape == (3, macro.num_tokens if keeps else 7, DIM)
    assert out.shape[1] == part.num_tokens_out
    assert out.is_contiguous()
    assert torch.equal(out, part(x))
    torch.testing.assert_close(out[1:2], part(x[1:2]), atol=1e-12, rtol=0)
    assert not torch.allclose(out, part.train()(x))


@pytest.mark.parametrize("mode", ARCH_MODES)
def test_patches_make_fewer_horizon_tokens(mode: str) -> None:
    part, macro = _build(mode, channel_mode="independent", patch_len=8, horizon=17)
    assert horizon_tokens(macro) == 3
    assert part(_tokens(macro)).shape == (3, part.num_tokens_out, DIM)
    assert part.num_tokens_out == (3 if "decoder" in mode else macro.num_tokens)


@pytest.mark.parametrize("channel_mode", ["mixed", "variate"])
@pytest.mark.parametrize("mode", ARCH_MODES)
def test_without_layers_only_the_first_guess_is_left(mode: str, channel_mode: str) -> None:
    part, macro = _build(mode, num_layers=0, channel_mode=channel_mode)
    x = _tokens(macro)
    if "decoder" not in mode:
        assert torch.equal(part(x), x)
    elif channel_mode == "variate":
        assert torch.equal(part(x), x + part.horizon.queries)
    else:
        time = part.horizon.time
        expected = torch.einsum("qt,ntd->nqd", time.weight, x) + time.bias.unsqueeze(-1) + part.horizon.queries
        torch.testing.assert_close(part(x), expected)


@pytest.mark.parametrize("mode", ARCH_MODES)
@pytest.mark.parametrize("num_layers", [1, 3])
def test_the_main_path_is_not_scaled(mode: str, num_layers: int) -> None:
    part, macro = _build(mode, num_layers=num_layers)
    with torch.no_grad():
        for name, parameter in part.named_parameters():
            if name.endswith("scale"):
                torch.testing.assert_close(parameter, torch.full((DIM,), 0.1))
                parameter.zero_()
    x = _tokens(macro)
    expected = part.horizon(x) if "decoder" in mode else x
    torch.testing.assert_close(part(x), expected)


@pytest.mark.parametrize("attention", ATTENTION_VARIANTS)
def test_context_of_the_decoder_stack_never_sees_what_comes_later(attention: str) -> None:
    part, macro = _build("decoder_only", attention=attention, num_layers=2)
    part.double()
    stacked = torch.cat([_tokens(macro, dtype=torch.float64), part.horizon(_tokens(macro, dtype=torch.float64))], dim=1)
    before = part.blocks(stacked)
    for cut in (1, 20, macro.num_tokens, macro.num_tokens + 3):
        changed = stacked.clone()
        changed[:, cut:] += 3.0 * torch.randn_like(changed[:, cut:])
        after = part.blocks(changed)
        torch.testing.assert_close(before[:, :cut], after[:, :cut], atol=1e-12, rtol=0)
        assert not torch.allclose(before[:, cut:], after[:, cut:])


def test_mamba_never_sees_the_future() -> None:
    part, macro = _build("mamba", num_layers=2)
    part.double()
    x = _tokens(macro, dtype=torch.float64)
    changed = x.clone()
    changed[:, 15:] += 1.0
    torch.testing.assert_close(part(x)[:, :15], part(changed)[:, :15], atol=1e-12, rtol=0)
    assert not torch.allclose(part(x)[:, 15:], part(changed)[:, 15:])


@pytest.mark.parametrize("attention", ATTENTION_VARIANTS)
@pytest.mark.parametrize("mode", ["encoder_decoder", "decoder_only"])
def test_horizon_tokens_read_the_context_and_differ(mode: str, attention: str) -> None:
    part, macro = _build(mode, attention=attention)
    with torch.no_grad():
        part.horizon.time.weight.zero_()  # leaves attention as the only way from the context
    x = _tokens(macro)
    changed = x.clone()
    changed[:, -2:] += 5.0
    assert not torch.allclose(part(x), part(changed), atol=1e-5)
    assert part(x).std(dim=1).min() > 0


@pytest.mark.parametrize("mode", ["encoder_only", "encoder_decoder", "decoder_only"])
def test_variate_tokens_have_no_order_without_their_queries(mode: str) -> None:
    part, macro = _build(mode, channel_mode="variate")
    if mode != "encoder_only":
        with torch.no_grad():
            part.horizon.queries.zero_()
    x = _tokens(macro)
    order = torch.tensor([3, 0, 4, 1, 2])
    torch.testing.assert_close(part(x)[:, order], part(x[:, order]))


@pytest.mark.parametrize("ffn", FFN_VARIANTS)
@pytest.mark.parametrize(("mode", "attention"), MODES_AND_VARIANTS)
def test_gradients_reach_every_parameter(mode: str, attention: str, ffn: str) -> None:
    part, macro = _build(mode, attention=attention, ffn=ffn, num_layers=2)
    part.train()
    weight = torch.randn(1, part.num_tokens_out, DIM)
    (part(_tokens(macro, 8)) * weight).sum().backward()
    for name, parameter in part.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
        assert parameter.grad.abs().max() > 0, name


@pytest.mark.parametrize("mode", ARCH_MODES)
def test_twice_differentiable_in_input_and_parameters(mode: str) -> None:
    part, macro = _build(mode, seq_length=3, horizon=2, hidden_dim=2, num_heads=1, input_dim=2)
    part.double()
    x = _tokens(macro, 1, dtype=torch.float64).requires_grad_()
    # The second-order check costs the square of the number of values: the wide maps are left out.
    chosen = {name: p for name, p in part.named_parameters() if p.numel() <= 4}
    assert len(chosen) > 3

    def call(x: torch.Tensor, *values: torch.Tensor) -> torch.Tensor:
        return torch.func.functional_call(part, dict(zip(chosen, values, strict=True)), (x,))

    assert gradcheck(call, (x, *chosen.values()))
    assert gradgradcheck(call, (x, *chosen.values()))


@pytest.mark.parametrize("ffn", FFN_VARIANTS)
@pytest.mark.parametrize("mode", ARCH_MODES)
def test_copies_pickles_and_state(mode: str, ffn: str) -> None:
    part, macro = _build(mode, ffn=ffn)
    x = _tokens(macro)
    part.train()(x)
    part.eval()
    for twin in (copy.deepcopy(part), pickle.loads(pickle.dumps(part))):
        assert torch.equal(twin(x), part(x))
    other = _build(mode, ffn=ffn, seed=5)[0]
    assert not torch.allclose(other(x), part(x))
    other.load_state_dict(part.state_dict())
    assert torch.equal(other(x), part(x))
    assert set(part.state_dict()) == {name for name, _ in part.named_parameters()}


@pytest.mark.parametrize("channel_mode", ["mixed", "variate"])
@pytest.mark.parametrize(("mode", "attention"), MODES_AND_VARIANTS)
def test_one_token(mode: str, attention: str, channel_mode: str) -> None:
    part, macro = _build(
        mode,
        attention=attention,
        channel_mode=channel_mode,
        seq_length=1,
        horizon=1,
        input_dim=1,
        hidden_dim=3,
        num_heads=3,
    )
    assert macro.num_tokens == 1
    out = part(_tokens(macro))
    assert out.shape == (3, 1, 3)
    assert out.isfinite().all()


@pytest.mark.parametrize(("mode", "attention"), MODES_AND_VARIANTS)
def test_exports_with_a_dynamic_batch(mode: str, attention: str) -> None:
    # 36 tokens and more: ProbSparse leaves queries out.
    ffn = "moe" if attention in ("sdp", "probsparse") else "swiglu"
    part, macro = _build(mode, attention=attention, ffn=ffn)
    shapes = ({0: torch.export.Dim("batch", min=2)},)
    program = torch.export.export(part, (_tokens(macro, 4),), dynamic_shapes=shapes)
    x = _tokens(macro, 7, seed=2)
    torch.testing.assert_close(program.module()(x), part(x), atol=1e-5, rtol=1e-5)


def test_balance_loss_sums_over_all_mixtures() -> None:
    part, macro = _build("encoder_decoder", ffn="moe", num_layers=2)
    x = _tokens(macro)
    part(x)
    assert float(moe_balance_loss(part)) == 0.0
    part.train()(x)
    loss = moe_balance_loss(part)
    assert 3.9 <= float(loss.detach()) < 8.0  # four mixtures, each 1 when balanced
    loss.backward()
    routers = [p.grad for name, p in part.named_parameters() if "router" in name]
    assert len(routers) == 4
    assert all(grad.abs().max() > 0 for grad in routers)


def test_balance_loss_is_zero_without_a_mixture() -> None:
    part, macro = _build("encoder_only")
    part.train()(_tokens(macro))
    assert float(moe_balance_loss(part)) == 0.0
    assert float(moe_balance_loss(torch.nn.Identity())) == 0.0
