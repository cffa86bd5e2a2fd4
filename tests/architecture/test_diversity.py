"""The diversity rule of the documented derivation."""

from __future__ import annotations

import pytest
import torch

from foreblocks.darts import TimeSeriesDARTS
from foreblocks.darts.architecture.derive import alpha_choice, derive_spec
from foreblocks.darts.architecture.diversity import diverse_ops

NAMES = ["Identity", "GRN", "TimeConv", "DLinear"]


def test_half_the_edges_get_distinct_ops_and_identity_comes_last() -> None:
    p = [[0.5, 0.3, 0.1, 0.1], [0.6, 0.1, 0.2, 0.1]]
    assert diverse_ops(p, [1.0, 1.0], NAMES) == [1, 2]  # each alone would be Identity
    even = [[0.25, 0.4, 0.35, 0.0], [0.2, 0.5, 0.3, 0.0]]
    assert diverse_ops(even, [1.0, 1.0], NAMES) == [2, 1]  # the surer edge takes GRN, the other its second


def test_importance_decides_between_equal_edges() -> None:
    p = [[0.1, 0.5, 0.4, 0.0], [0.1, 0.5, 0.4, 0.0]]
    assert diverse_ops(p, [0.2, 1.0], NAMES) == [2, 1]
    assert diverse_ops(p, [1.0, 0.2], NAMES) == [1, 2]


@pytest.mark.parametrize("edges", [1, 2, 3, 5, 6, 10])
def test_no_op_holds_more_than_two_fifths(edges: int) -> None:
    p = [[0.1, 0.7, 0.15, 0.05]] * edges
    chosen = diverse_ops(p, [0.5] * edges, NAMES)
    assert max(chosen.count(op) for op in range(4)) <= max(1, -(-2 * edges // 5))


def test_pruned_ops_are_never_chosen_and_the_weak_edges_move() -> None:
    p = [[0.0, 0.9, 0.1, 0.0], [0.0, 0.8, 0.2, 0.0], [0.0, 0.7, 0.3, 0.0], [0.0, 0.6, 0.4, 0.0], [0.0, 0.95, 0.05, 0.0]]
    chosen = diverse_ops(p, [1.0] * 5, NAMES)
    assert set(chosen) == {1, 2}
    assert chosen[4] == chosen[0] == 1
    assert chosen[3] == 2


def test_it_is_off_by_default_and_counts_kept_edges_only() -> None:
    torch.manual_seed(0)
    model = TimeSeriesDARTS(
        input_dim=2, hidden_dim=4, latent_dim=4, forecast_horizon=2, seq_length=12, num_cells=1, num_nodes=4,
        selected_ops=NAMES, arch_mode="encoder_only",
    )  # fmt: skip
    with torch.no_grad():
        for edge in model.edges:
            edge.op_logits[1] = 3.0
    assert derive_spec(model).op_counts() == {"GRN": 5}
    spread = derive_spec(model, diversity=True)
    assert max(spread.op_counts().values()) == 2
    assert [c.kept for c in alpha_choice(model)] == [c.kept for c in alpha_choice(model, diversity=True)]
