"""From a searched network to an ``ArchSpec``, and to a discrete network that inherits its weights."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from torch import nn

from .._core.errors import InvalidArgument
from ..ops.registry import get_op
from .build import ForecastNetwork, build_network
from .cell import DARTSCell
from .diversity import diverse_ops
from .network import TimeSeriesDARTS
from .relax import build_relaxation
from .spec import ArchSpec, CellSpec, EdgeSpec, OpSpec
from .transfer import transfer_weights


@dataclass(frozen=True)
class CellChoice:
    """What is kept of a cell: ``ops``, the index of an op for every edge, and ``kept``, the edges themselves."""

    ops: list[int]
    kept: list[int]


Choice = list[CellChoice]  # one per cell


def chosen_edges(cell: DARTSCell, limit: int) -> list[int]:
    """Return the indices of the edges that derivation keeps: for each node its ``limit`` heaviest inputs."""
    kept: list[int] = []
    for node in range(1, cell.num_nodes):
        weights = cell.edge_weights(node).detach()
        # Stable for ties: the earlier source wins, so the choice never depends on the sort algorithm.
        order = sorted(range(node), key=lambda source: (-float(weights[source]), source))
        kept.extend(node * (node - 1) // 2 + source for source in sorted(order[:limit]))
    return kept


def alpha_choice(model: TimeSeriesDARTS, *, diversity: bool = False) -> Choice:
    """Return what the alphas point to: per edge the most probable op, per node its heaviest inputs.

    ``diversity`` spreads the ops of a cell over its edges (``architecture.diversity``).
    """
    cells = []
    for cell in model.cells:
        kept = chosen_edges(cell, model.max_active_edges_per_node)
        ops = [int(edge.probabilities().argmax()) for edge in cell.edges]
        if diversity:
            p = [cell.edges[index].probabilities().tolist() for index in kept]
            spread = diverse_ops(p, [_importance(cell, index) for index in kept], cell.edges[0].names)
            for index, op in zip(kept, spread, strict=True):
                ops[index] = op
        cells.append(CellChoice(ops, kept))
    return cells


def _importance(cell: DARTSCell, index: int) -> float:
    source, target = cell.pairs[index]
    weights = cell.edge_weights(target).detach()
    return float(weights[source] / weights.max())


def spec_of(model: TimeSeriesDARTS, choice: Choice) -> ArchSpec:
    """Return the architecture of a choice, as data."""
    cells = []
    for cell, chosen in zip(model.cells, choice, strict=True):
        names = [edge.names[op] for edge, op in zip(cell.edges, chosen.ops, strict=True)]
        edges = [EdgeSpec(*cell.pairs[i], OpSpec(names[i], get_op(names[i]).path)) for i in chosen.kept]
        cells.append(CellSpec(cell.num_nodes, tuple(edges)))
    return ArchSpec(model.macro, tuple(cells))


def derive_spec(model: TimeSeriesDARTS, *, diversity: bool = False) -> ArchSpec:
    """Return the architecture that the alphas point to: see ``alpha_choice``.

    Raises:
        InvalidArgument: ``model`` is not a ``TimeSeriesDARTS``.
    """
    model = _searched(model)
    return spec_of(model, alpha_choice(model, diversity=diversity))


def derive_network(model: TimeSeriesDARTS, spec: ArchSpec | None = None) -> ForecastNetwork:
    """Return the discrete network of ``spec`` (default: ``derive_spec(model)``) with the weights found in ``model``.

    Every op of the spec must be an op of the same edge in ``model``. The result is in eval mode on the device of
    ``model``, which stays as it was.
    """
    model = _searched(model)
    spec = derive_spec(model) if spec is None else spec
    network = build_network(spec, seed=0).to(next(model.parameters()).device)
    transfer_weights(model, network)
    return network.eval()


@contextmanager
def derived_path(model: TimeSeriesDARTS, choice: Choice | None = None) -> Iterator[TimeSeriesDARTS]:
    """Make ``model`` compute exactly what its derived network would, for the length of a block.

    ``choice`` None takes what the alphas point to.
    """
    for cell, chosen in zip(model.cells, alpha_choice(model) if choice is None else choice, strict=True):
        cell.keep_edges(chosen.kept)
        for edge, op in zip(cell.edges, chosen.ops, strict=True):
            edge.force(op)
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
    return derive_network(_searched(model))


def _searched(model: nn.Module) -> TimeSeriesDARTS:
    if not isinstance(model, TimeSeriesDARTS):
        raise InvalidArgument(f"model is a {type(model).__name__}; derivation needs a TimeSeriesDARTS.")
    return model
