"""Clipping and AdamW in one step: as torch's two, for any set of gradients, with the same state."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from torch import nn

from foreblocks.darts.training.adamw import ClippedAdamW

SHAPES = ((3, 4), (5,), (), (2, 1, 3), (7,))


def parameters() -> list[nn.Parameter]:
    draw = torch.Generator().manual_seed(0)
    return [nn.Parameter(torch.randn(shape, generator=draw)) for shape in SHAPES]


def give_gradients(params: list[nn.Parameter], step: int, scale: float, used: set[int]) -> None:
    draw = torch.Generator().manual_seed(step)
    for place, p in enumerate(params):
        grad = scale * torch.randn(p.shape, generator=draw)
        p.grad = grad if place in used else None


def turn(step: int) -> set[int]:
    """Return which parameters have a gradient in a step: others each time, as with sampled operations."""
    return {place for place in range(len(SHAPES)) if (place + step) % 3}


def both_stepped(steps: int, scale: float, max_norm: float, used=turn):
    ours, theirs = parameters(), parameters()
    fast = ClippedAdamW(ours, lr=0.05, weight_decay=0.1)
    plain = torch.optim.AdamW(theirs, lr=0.05, weight_decay=0.1)
    for step in range(steps):
        for params in (ours, theirs):
            give_gradients(params, step, scale, used(step))
        fast.step_clipped(max_norm)
        nn.utils.clip_grad_norm_(theirs, max_norm)
        plain.step()
    return fast, plain, ours, theirs


@pytest.mark.parametrize(("scale", "max_norm"), [(100.0, 1.0), (0.01, 1.0), (1.0, 3.0)])
def test_it_is_clipping_and_adamw(scale: float, max_norm: float) -> None:
    fast, plain, ours, theirs = both_stepped(7, scale, max_norm)
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)
    for a, b in zip(ours, theirs, strict=True):
        assert float(fast.state[a]["step"]) == float(plain.state[b]["step"])
        for name in ("exp_avg", "exp_avg_sq"):
            torch.testing.assert_close(fast.state[a][name], plain.state[b][name], rtol=1e-4, atol=1e-8)


def test_without_gradients_nothing_happens() -> None:
    params = parameters()
    before = copy.deepcopy(params)
    ClippedAdamW(params).step_clipped(1.0)
    torch.testing.assert_close(params, before, rtol=0, atol=0)


def test_a_parameter_that_had_no_gradient_has_no_state() -> None:
    params = parameters()
    optimizer = ClippedAdamW(params)
    give_gradients(params, 0, 1.0, {1, 3})
    optimizer.step_clipped(1.0)
    assert set(optimizer.state_dict()["state"]) == {1, 3}


@pytest.mark.parametrize("way", ["state_dict", "to torch and back", "deepcopy", "pickle"])
def test_it_goes_on_from_a_state(way: str) -> None:
    fast, _, ours, _ = both_stepped(4, 10.0, 1.0)
    if way in ("deepcopy", "pickle"):
        again = copy.deepcopy(fast) if way == "deepcopy" else pickle.loads(pickle.dumps(fast))
        params = again.param_groups[0]["params"]
    else:
        params = copy.deepcopy(ours)
        again = ClippedAdamW(params)
        state = copy.deepcopy(fast.state_dict())
        if way == "to torch and back":
            other = torch.optim.AdamW(copy.deepcopy(ours))
            other.load_state_dict(state)
            state = other.state_dict()
        again.load_state_dict(state)
    for step in range(4, 8):
        for some in (ours, params):
            give_gradients(some, step, 10.0, turn(step))
        fast.step_clipped(1.0)
        again.step_clipped(1.0)
    torch.testing.assert_close(params, ours, rtol=0, atol=0)
    assert [float(again.state[p]["step"]) for p in params] == [float(fast.state[p]["step"]) for p in ours]


def test_a_state_dict_is_no_window_on_later_steps() -> None:
    """What is kept of a search must not change when the search goes on: the counters are views of one tensor."""
    fast, _, ours, _ = both_stepped(2, 1.0, 1.0)
    kept = copy.deepcopy(fast.state_dict())
    counts = [float(slot["step"]) for slot in kept["state"].values()]
    give_gradients(ours, 9, 1.0, set(range(len(SHAPES))))
    fast.step_clipped(1.0)
    assert [float(slot["step"]) for slot in kept["state"].values()] == counts


def test_plain_steps_may_come_between() -> None:
    fast, plain, ours, theirs = both_stepped(3, 1.0, 1.0)
    for step, clipped in ((3, False), (4, True)):
        for params, optimizer in ((ours, fast), (theirs, plain)):
            give_gradients(params, step, 1.0, turn(step))
            if clipped and optimizer is fast:
                fast.step_clipped(1.0)
                continue
            if clipped:
                nn.utils.clip_grad_norm_(params, 1.0)
            optimizer.step()
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)


def test_mixed_dtypes_take_the_long_way() -> None:
    ours, theirs = ([*parameters(), nn.Parameter(torch.ones(3, dtype=torch.float64))] for _ in range(2))
    fast, plain = ClippedAdamW(ours, lr=0.05, weight_decay=0.1), torch.optim.AdamW(theirs, lr=0.05, weight_decay=0.1)
    for params in (ours, theirs):
        for p in params:
            p.grad = torch.ones_like(p)
    fast.step_clipped(1.0)
    nn.utils.clip_grad_norm_(theirs, 1.0)
    plain.step()
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)


def test_a_gradient_that_is_not_finite_shows_in_the_weights() -> None:
    """As with torch: the loss of the next step is NaN then, which is what stops a training."""
    params = parameters()
    give_gradients(params, 0, 1.0, {0, 1})
    params[1].grad[0] = float("nan")
    ClippedAdamW(params).step_clipped(1.0)
    assert torch.isnan(params[0]).all()
