"""The selective state-space block against its recurrence, step by step."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
import torch.nn.functional as F
from torch.autograd import gradcheck, gradgradcheck

from foreblocks.darts._core.errors import InvalidArgument
from foreblocks.darts.kernels import selective_scan_steps
from foreblocks.darts.ops.ssm import SelectiveSSM


def _block(dim: int = 6, **kwargs) -> SelectiveSSM:
    torch.manual_seed(0)
    return SelectiveSSM(dim, **kwargs).double().eval()


def _draw(*shape: int, seed: int = 1) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_scan_equals_a_loop_over_steps_channels_and_states() -> None:
    batch, steps, dim, state = 2, 7, 3, 4
    u, b, c = _draw(batch, steps, dim), _draw(batch, steps, state, seed=2), _draw(batch, steps, state, seed=3)
    delta, a, skip = F.softplus(_draw(batch, steps, dim, seed=4)), -_draw(dim, state, seed=5).exp(), _draw(dim, seed=6)
    out = selective_scan_steps(u, delta, a, b, c, skip)
    for n in range(batch):
        for d in range(dim):
            h = [0.0] * state
            for t in range(steps):
                step, value = float(delta[n, t, d]), float(u[n, t, d])
                decay = (step * a[d]).exp().tolist()
                h = [decay[s] * h[s] + step * float(b[n, t, s]) * value for s in range(state)]
                y = sum(float(c[n, t, s]) * h[s] for s in range(state)) + float(skip[d]) * value
                assert y == pytest.approx(float(out[n, t, d]), abs=1e-12)


@pytest.mark.parametrize(("state", "expand", "conv"), [(8, 1, 4), (3, 2, 1), (1, 1, 2)])
def test_block_equals_the_published_equations(state: int, expand: int, conv: int) -> None:
    block = _block(state=state, expand=expand, conv=conv)
    x = _draw(1, 9, 6)
    u, gate = (x[0] @ block.inward.weight.T).chunk(2, dim=-1)
    padded = torch.cat([torch.zeros(conv - 1, u.shape[1], dtype=u.dtype), u])
    h = torch.zeros(u.shape[1], state, dtype=u.dtype)
    rows = []
    for t in range(9):
        ut = F.silu((padded[t : t + conv] * block.conv_weight.T).sum(dim=0) + block.conv_bias)
        raw, b, c = (block.select.weight @ ut).split([block.rank, state, state])
        delta = F.softplus(block.step.weight @ raw + block.step.bias)
        h = (delta.unsqueeze(-1) * -block.log_decay.exp()).exp() * h + (delta * ut).unsqueeze(-1) * b
        rows.append(block.outward.weight @ ((h @ c + block.skip * ut) * F.silu(gate[t])))
    torch.testing.assert_close(block(x)[0], torch.stack(rows), atol=1e-12, rtol=1e-9)


def test_it_is_causal_and_remembers() -> None:
    block = _block()
    x = _draw(2, 30, 6)
    changed = x.clone()
    changed[:, 12:] += 1.0
    before, after = block(x), block(changed)
    torch.testing.assert_close(before[:, :12], after[:, :12], atol=1e-13, rtol=0)
    early = x.clone()
    early[:, 0] += 1.0
    # Far beyond the reach of the convolution.
    assert (block(early)[:, 20:] - before[:, 20:]).abs().max() > 1e-8


def test_the_response_to_an_impulse_depends_on_the_other_inputs() -> None:
    block = _block()
    impulse = torch.zeros(1, 20, 6, dtype=torch.float64)
    impulse[:, 2] = 1.0
    gaps = []
    for seed in (1, 2):
        x = _draw(1, 20, 6, seed=seed)
        gaps.append((block(x + impulse) - block(x))[:, 10:])
    assert not torch.allclose(gaps[0], gaps[1], rtol=0.1, atol=0.0)


def test_step_size_and_maps_depend_on_the_input() -> None:
    block = _block()
    u = _draw(1, 5, 6)
    for part in block.select(u).split([block.rank, block.state, block.state], dim=-1):
        assert part.std(dim=1).min() > 1e-3
    assert F.softplus(block.step(block.select(u)[..., : block.rank])).std(dim=1).min() > 0


def test_initial_values() -> None:
    torch.manual_seed(0)
    block = SelectiveSSM(256, state=16)
    steps = F.softplus(block.step.bias.double())
    assert 0.99e-3 < float(steps.min().detach()) < 2e-3
    assert 5e-2 < float(steps.max().detach()) < 1.01e-1
    torch.testing.assert_close(block.log_decay.exp(), torch.arange(1.0, 17.0).expand(256, 16))
    assert block.rank == 16
    assert torch.equal(block.skip, torch.ones(256))


def test_eval_is_deterministic_and_samples_are_independent() -> None:
    block = _block(dropout=0.5)
    x = _draw(4, 12, 6)
    assert torch.equal(block(x), block(x))
    torch.testing.assert_close(block(x)[2:3], block(x[2:3]), atol=1e-13, rtol=0)
    assert not torch.allclose(block.train()(x), block.eval()(x))


def test_twice_differentiable_in_input_and_parameters() -> None:
    block = _block(2, state=2, conv=2)
    x = _draw(1, 3, 2).requires_grad_()
    names, values = zip(*block.named_parameters(), strict=True)

    def call(x: torch.Tensor, *parameters: torch.Tensor) -> torch.Tensor:
        return torch.func.functional_call(block, dict(zip(names, parameters, strict=True)), (x,))

    assert gradcheck(call, (x, *values))
    assert gradgradcheck(call, (x, *values))


def test_every_parameter_gets_a_gradient() -> None:
    block = SelectiveSSM(8)
    block(torch.randn(2, 10, 8)).square().sum().backward()
    for name, parameter in block.named_parameters():
        assert parameter.grad.isfinite().all(), name
        assert parameter.grad.abs().max() > 0, name


def test_long_inputs_with_large_values_stay_finite() -> None:
    block = SelectiveSSM(4)
    x = 100.0 * torch.randn(1, 512, 4)
    x.requires_grad_()
    out = block(x)
    out.sum().backward()
    assert out.isfinite().all()
    assert x.grad.isfinite().all()


def test_one_step_copies_and_pickles() -> None:
    block = _block()
    x = _draw(2, 1, 6)
    assert block(x).shape == (2, 1, 6)
    for twin in (copy.deepcopy(block), pickle.loads(pickle.dumps(block))):
        assert torch.equal(twin(x), block(x))


def test_bad_arguments_are_named() -> None:
    for name in ("state", "expand", "conv"):
        with pytest.raises(InvalidArgument, match=f"{name}=0"):
            SelectiveSSM(8, **{name: 0})
