"""Losses by name."""

from __future__ import annotations

import pickle

import pytest
import torch

from foreblocks.darts._core.errors import InvalidArgument
from foreblocks.darts.evaluation import losses
from foreblocks.darts.evaluation.losses import get_loss_function, loss_names, register_loss

PRED = torch.tensor([0.0, 0.05, 1.0, -2.0])
TARGET = torch.zeros(4)
EXPECTED = {
    "mse": (0.0025 + 1 + 4) / 4,
    "mae": (0.05 + 1 + 2) / 4,
    "smooth_l1": (0.5 * 0.0025 + 0.5 + 1.5) / 4,
    "huber": (0.5 * 0.0025 + 0.1 * (1 - 0.05) + 0.1 * (2 - 0.05)) / 4,
}


def test_every_built_in_loss_has_its_published_value_and_pickles():
    assert loss_names() == sorted(EXPECTED)
    for name, value in EXPECTED.items():
        loss = pickle.loads(pickle.dumps(get_loss_function(name)))
        assert float(loss(PRED, TARGET)) == pytest.approx(value), name


def test_an_unknown_name_gets_the_nearest_one():
    with pytest.raises(InvalidArgument, match="Did you mean 'huber'"):
        get_loss_function("hubber")


@pytest.mark.parametrize("name", sorted(EXPECTED))
def test_targets_are_never_broadcast(name):
    with pytest.raises(InvalidArgument, match="must agree"):
        get_loss_function(name)(torch.zeros(2, 3, 4), torch.zeros(2, 3, 1))


def test_a_registered_loss_is_found_and_may_be_replaced(monkeypatch):
    monkeypatch.setattr(losses, "_LOSSES", dict(losses._LOSSES))
    register_loss("sum", lambda p, t: (p - t).sum())
    assert float(get_loss_function("sum")(PRED, TARGET)) == pytest.approx(-0.95)
    register_loss("sum", lambda p, t: (p + t).sum() * 2)
    assert float(get_loss_function("sum")(PRED, TARGET)) == pytest.approx(-1.9)


def test_built_in_names_and_things_that_are_not_functions_are_refused():
    with pytest.raises(InvalidArgument, match="built-in"):
        register_loss("mse", lambda p, t: p.sum())
    with pytest.raises(InvalidArgument, match="callable"):
        register_loss("mine", 3)
    assert "mine" not in loss_names()
