"""Networks that take known future covariates, and those that forecast some of their channels."""

from __future__ import annotations

import math
from dataclasses import asdict, replace

import pytest
import torch
from torch import Tensor

from foreblocks.darts._core.errors import DataError, InvalidArgument
from foreblocks.darts._core.seeding import seeded
from foreblocks.darts.architecture.derive import derive_network, derived_path
from foreblocks.darts.architecture.future import FutureEffect
from foreblocks.darts.architecture.linear import LinearForecaster, LinearSpec
from foreblocks.darts.architecture.network import TimeSeriesDARTS
from foreblocks.darts.architecture.spec import ARCH_MODES, CHANNEL_MODES, ArchSpec, Macro, macro_from_dict

B, L, H, C, D, F = 3, 12, 5, 4, 8, 2
TARGETS = (2, 0)


def macro(**changes: object) -> Macro:
    return Macro(**{"input_dim": C, "seq_length": L, "horizon": H, "hidden_dim": D, "dropout": 0.0, **changes})


def network(**changes: object) -> TimeSeriesDARTS:
    with seeded("weights", 0):
        return TimeSeriesDARTS.from_macro(
            macro(**changes), num_cells=1, num_nodes=2, selected_ops=["Identity", "TimeConv"]
        ).eval()


def data(seed: int = 0) -> tuple[Tensor, Tensor]:
    draw = torch.Generator().manual_seed(seed)
    return torch.randn(B, L, C, generator=draw), torch.randn(B, H, F, generator=draw)


def naive_effect(effect: FutureEffect, tokens: Tensor, future: Tensor) -> Tensor:
    """The formula, one number at a time."""
    m = effect.macro
    outputs = m.output_dim
    result = torch.zeros(B, H, outputs, dtype=torch.float64)
    for b in range(B):
        for t in range(H):
            for c in range(outputs):
                series = 0 if m.channel_mode == "mixed" else c
                if m.channel_mode == "variate":
                    state = tokens[b, c]
                else:
                    state = tokens[b * (1 if m.channel_mode == "mixed" else outputs) + series].mean(0)
                row = 0 if m.channel_mode != "mixed" else c
                for d in range(D):
                    hidden = effect.known.weight[d] @ future[b, t] + effect.state.weight[d] @ state
                    hidden = float(hidden + effect.state.bias[d] + effect.channel_embedding[series, d])
                    result[b, t, c] += effect.out.weight[row, d] * hidden / (1.0 + math.exp(-hidden))
    return result


@pytest.mark.parametrize("mode", CHANNEL_MODES)
def test_the_effect_follows_its_formula(mode: str) -> None:
    torch.manual_seed(0)
    effect = FutureEffect(macro(channel_mode=mode, future_dim=F, target_channels=TARGETS)).double()
    series = {"mixed": (B, 6, D), "independent": (B * 2, 6, D), "variate": (B, 2, D)}[mode]
    tokens, future = torch.randn(series, dtype=torch.float64), data()[1].double()
    with torch.no_grad():
        torch.testing.assert_close(effect(tokens, future), naive_effect(effect, tokens, future))


@pytest.mark.parametrize("arch_mode", ARCH_MODES)
@pytest.mark.parametrize("mode", CHANNEL_MODES)
def test_a_step_is_changed_by_its_own_covariates_only_and_every_weight_learns(mode: str, arch_mode: str) -> None:
    model = network(channel_mode=mode, arch_mode=arch_mode, future_dim=F)
    x, future = data()
    moved = future.clone()
    moved[:, 3] += 1.0
    y = model(x, future)
    changed = (model(x, moved) != y).any(dim=2)
    assert changed[:, 3].all()
    assert not changed[:, [0, 1, 2, 4]].any()
    y.square().sum().backward()
    for name, weight in model.skeleton.future.named_parameters():
        assert weight.grad is not None, name
        assert weight.grad.abs().sum() > 0, name


def test_without_covariates_nothing_is_added_and_no_other_weight_changes() -> None:
    plain, with_future = network().state_dict(), network(future_dim=F).state_dict()
    extra = {name for name in with_future if name.startswith("skeleton.future.")}
    assert extra == set(with_future) - set(plain)
    assert extra
    skeleton = {name for name in plain if name.startswith("skeleton.")}
    assert all(torch.equal(plain[name], with_future[name]) for name in skeleton)


@pytest.mark.parametrize("arch_mode", ARCH_MODES)
@pytest.mark.parametrize("mode", ["independent", "variate"])
def test_targets_of_separate_channels_are_those_of_the_whole_network(mode: str, arch_mode: str) -> None:
    """All weights are shared by the channels, so the same ones fit both networks."""
    whole = network(channel_mode=mode, arch_mode=arch_mode)
    part = network(channel_mode=mode, arch_mode=arch_mode, target_channels=TARGETS)
    part.load_state_dict(whole.state_dict())
    x, _ = data()
    torch.testing.assert_close(part(x), whole(x)[..., TARGETS], rtol=1e-5, atol=1e-6)


def test_targets_of_mixed_channels_have_rows_of_the_head_and_statistics_of_their_own() -> None:
    whole, part = network(head="flatten"), network(head="flatten", target_channels=TARGETS)
    state = dict(whole.state_dict())
    for name in ("skeleton.head.out.weight", "skeleton.head.out.bias"):
        rows = state[name].unflatten(0, (H, C))[:, list(TARGETS)]
        state[name] = rows.flatten(0, 1)
    part.load_state_dict(state)
    x = 10.0 * data()[0] + torch.tensor([0.0, 100.0, -50.0, 3.0])
    torch.testing.assert_close(part(x), whole(x)[..., TARGETS], rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("mode", CHANNEL_MODES)
def test_the_derived_network_takes_both(mode: str) -> None:
    model = network(channel_mode=mode, future_dim=F, target_channels=TARGETS)
    x, future = data()
    derived = derive_network(model)
    with torch.no_grad(), derived_path(model):
        torch.testing.assert_close(derived(x, future), model(x, future))
    assert derived(x, future).shape == (B, H, 2)
    assert ArchSpec.from_json(derived.spec.to_json()) == derived.spec


@pytest.mark.parametrize("mode", CHANNEL_MODES)
def test_exports_with_covariates_and_a_dynamic_batch(mode: str) -> None:
    fixed = derive_network(network(channel_mode=mode, future_dim=F))
    batch = torch.export.Dim("batch", min=2, max=64)
    shapes = {"x": {0: batch}, "x_future": {0: batch}}
    program = torch.export.export(fixed, data(), dynamic_shapes=shapes)
    more = tuple(torch.cat([part, part]) for part in data(1))
    torch.testing.assert_close(program.module()(*more), fixed(*more), atol=1e-5, rtol=1e-5)


def test_covariates_are_neither_dropped_nor_guessed() -> None:
    x, future = data()
    with pytest.raises(DataError, match=r"x_future of shape \(3, 5, 2\) was given; .*build it with future_dim=2"):
        network()(x, future)
    model = network(future_dim=F)
    with pytest.raises(DataError, match="x_future is missing"):
        model(x)
    for bad in (future[:, :4], future[..., :1], future[:2], future[0]):
        with pytest.raises(DataError, match="x_future has shape"):
            model(x, bad)
    longer = torch.cat([future, future], dim=1)
    assert torch.equal(model(x, longer), model(x, future))


def test_a_macro_keeps_its_targets_through_plain_data() -> None:
    m = macro(future_dim=F, target_channels=[2, 0])
    assert m.output_dim == 2
    assert macro_from_dict({**asdict(m), "target_channels": [2, 0]}) == m
    assert hash(m) == hash(macro_from_dict(asdict(m)))
    assert macro(target_channels=range(C)) == macro()
    assert replace(macro(), target_channels=(1,)).output_dim == 1
    older = {k: v for k, v in asdict(macro()).items() if k not in ("future_dim", "target_channels")}
    assert macro_from_dict(older) == macro()
    for bad in ([C], [0, 0], [], [-1], "ab"):
        with pytest.raises(InvalidArgument, match="target_channels"):
            macro(target_channels=bad)
    with pytest.raises(InvalidArgument, match="future_dim=-1"):
        macro(future_dim=-1)


def test_a_linear_map_of_targets_is_that_of_all_channels_restricted() -> None:
    weight = torch.randn(C, H, L, generator=torch.Generator().manual_seed(0))
    whole = LinearForecaster.from_weight(LinearSpec("per_channel", "last", C, L, H), weight)
    spec = LinearSpec("per_channel", "last", C, L, H, [2, 0])
    part = LinearForecaster.from_weight(spec, weight[list(TARGETS)])
    x, future = data()
    torch.testing.assert_close(part(x, future), whole(x)[..., TARGETS])
    assert LinearSpec.from_dict(spec.to_dict()) == spec
    older = {k: v for k, v in spec.to_dict().items() if k != "target_channels"}
    assert LinearSpec.from_dict(older).output_dim == C
