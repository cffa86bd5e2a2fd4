"""From a searched network to an ``ArchSpec``, and to a discrete network that inherits its weights."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn

from .._core.errors import InvalidArgument
from ..ops.registry import get_op
from .build import ForecastNetwork, build_network
from .cell import DARTSCell
from .network import TimeSeriesDARTS
from .relax import build_relaxation
from .spec import ArchSpec, CellSpec, EdgeSpec, OpSpec
from .transfer import transfer_weights


def chosen_edges(cell: DARTSCell, limit: int) -> list[int]:
    """Return the indices of the edges that derivation keeps: for each node its ``limit`` heaviest inputs."""
    kept: list[int] = []
    for node in range(1, cell.num_nodes):
        weights = cell.edge_weights(node).detach()
        # Stable for ties: the earlier source wins, so the choice never depends on the sort algorithm.
        order = sorted(range(node), key=lambda source: (-float(weights[source]), source))
        kept.extend(node * (node - 1) // 2 + source for source in sorted(order[:limit]))
    return kept


def derive_spec(model: TimeSeriesDARTS) -> ArchSpec:
    """Return the architecture that the alphas point to: per edge the most probable op, per node its best inputs.

    Raises:
        InvalidArgument: ``model`` is not a ``TimeSeriesDARTS``.
    """
    _check_searched(model)
    cells = []
    for cell in model.cells:
        edges = []
        for index in chosen_edges(cell, model.max_active_edges_per_node):
            edge = cell.edges[index]
            name = edge.names[int(edge.probabilities().argmax())]
            source, target = cell.pairs[index]
            edges.append(EdgeSpec(source, target, OpSpec(name, get_op(name).path)))
        cells.append(CellSpec(cell.num_nodes, tuple(edges)))
    return ArchSpec(model.macro, tuple(cells))


def derive_network(model: TimeSeriesDARTS, spec: ArchSpec | None = None) -> ForecastNetwork:
    """Return the discrete network of ``spec`` (default: ``derive_spec(model)``) with the weights found in ``model``.

    Every op of the spec must be an op of the same edge in ``model``. The result is in eval mode on the device of
    ``model``, which stays as it was.
    """
    _check_searched(model)
    spec = derive_spec(model) if spec is None else spec
    network = build_network(spec, seed=0).to(next(model.parameters()).device)
    transfer_weights(model, network)
    return network.eval()


@contextmanager
def derived_path(model: TimeSeriesDARTS) -> Iterator[TimeSeriesDARTS]:
    """Make ``model`` compute exactly what its derived network would, for the length of a block."""
    for cell in model.cells:
        kept = chosen_edges(cell, model.max_active_edges_per_node)
        cell.keep_edges(kept)
        for edge in cell.edges:
            edge.force(int(edge.probabilities().argmax()))
    try:
        yield model
    finally:
        for cell in model.cells:
            cell.keep_edges(None)
            for edge in cell.edges:
                edge.force(None)


@contextmanager
def searched_mixture(model: TimeSeriesDARTS) -> Iterator[TimeSeriesDARTS]:
    """Make every edge of ``model`` mix all its ops for the length of a block, even if it samples one of them."""
    sampled = [(edge, edge.relaxation) for edge in model.edges if edge.relaxation.name == "gdas"]
    for edge, _ in sampled:
        edge.relaxation = build_relaxation("softmax")
    try:
        yield model
    finally:
        for edge, relaxation in sampled:
            edge.relaxation = relaxation


def derive_final_architecture(model: nn.Module) -> nn.Module:
    """Return the discrete network that ``model`` points to, with its weights, in eval mode.

    A network that is already discrete is returned as a copy.
    """
    if isinstance(model, ForecastNetwork):
        network = build_network(model.spec, seed=0).to(next(model.parameters()).device)
        network.load_state_dict(model.state_dict())
        return network.eval()
    return derive_network(model)


def _check_searched(model: nn.Module) -> None:
    if not isinstance(model, TimeSeriesDARTS):
        raise InvalidArgument(f"model is a {type(model).__name__}; derivation needs a TimeSeriesDARTS.")
