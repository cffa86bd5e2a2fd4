"""What may be left out of a mixture, and what a discrete network inherits from it."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from foreblocks.darts import TimeSeriesDARTS
from foreblocks.darts._core.errors import InvalidArgument
from foreblocks.darts.architecture.build import build_network
from foreblocks.darts.architecture.derive import derive_spec
from foreblocks.darts.architecture.spec import CellSpec, with_macro
from foreblocks.darts.architecture.transfer import transfer_weights

OPS = ["Identity", "TimeConv", "GRN"]


def network(**changes) -> TimeSeriesDARTS:
    torch.manual_seed(0)
    settings = {
        "input_dim": 3, "hidden_dim": 8, "latent_dim": 8, "forecast_horizon": 5, "seq_length": 12, "num_cells": 1,
        "num_nodes": 4, "selected_ops": OPS, "arch_mode": "encoder_only",
    }  # fmt: skip
    model = TimeSeriesDARTS(**{**settings, **changes}).eval()
    with torch.no_grad():
        for alpha in model.arch_parameters():
            alpha.normal_()
    return model


def test_a_dropped_op_leaves_the_weights_of_the_others() -> None:
    edge = network().cells[0].edges[0]
    x = torch.randn(2, 12, 8)
    for index, name in enumerate(edge.names):
        expected = edge(x) - edge.probabilities()[index] * edge.ops[name](x)
        edge.drop(index)
        torch.testing.assert_close(edge(x), expected)
        edge.drop(None)
    with pytest.raises(InvalidArgument, match="index=3"):
        edge.drop(3)


def test_dropping_the_only_active_op_leaves_nothing() -> None:
    edge = network(use_gdas=True).cells[0].edges[0]
    edge.drop(int(edge.probabilities().argmax()))
    assert torch.equal(edge(torch.randn(2, 12, 8)), torch.zeros(2, 12, 8))


def test_a_dropped_edge_leaves_the_weights_of_the_others() -> None:
    cell = network().cells[0]
    x = torch.randn(2, 12, 8)
    seen: list[torch.Tensor] = []
    handle = cell.edges[4].register_forward_hook(lambda _m, _a, out: seen.append(out))
    full = cell(x)  # edge 4 goes from node 1 to the last node: it feeds nothing but the output
    handle.remove()
    cell.drop_edge(4)
    term = cell.edge_weights(3)[1] * seen[0] * cell.scale / 3
    torch.testing.assert_close(cell(x), full - term)


def test_weights_go_only_where_they_fit() -> None:
    model = network()
    spec = derive_spec(model)
    other = build_network(with_macro(spec, series_norm="last"), seed=0)
    with pytest.raises(InvalidArgument, match="macro"):
        transfer_weights(model, other)
    smaller = network(num_nodes=3)
    with pytest.raises(InvalidArgument, match="nodes"):
        transfer_weights(smaller, build_network(spec, seed=0))
    cell = spec.cells[0]
    first = cell.edges[0]
    foreign = replace(first, op=replace(first.op, name="DLinear", path=first.op.path))
    changed = replace(spec, cells=(CellSpec(cell.num_nodes, (foreign, *cell.edges[1:])),))
    with pytest.raises(InvalidArgument, match="DLinear"):
        transfer_weights(model, build_network(changed, seed=0))
