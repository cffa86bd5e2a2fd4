"""A discrete network that starts from the weights of the searched one."""

from __future__ import annotations

import torch

from .._core.errors import InvalidArgument
from .._core.logging import get_logger
from .build import ForecastNetwork
from .network import TimeSeriesDARTS

logger = get_logger(__name__)


@torch.no_grad()
def transfer_weights(model: TimeSeriesDARTS, network: ForecastNetwork) -> None:
    """Copy into ``network`` the weights of everything it shares with ``model``.

    Args:
        model: the searched network; stays as it was.
        network: a discrete network of the same macro whose ops are ops of the same edges of ``model``. The weights of
            its edges become those of ``model``, renormalised over the edges that a node keeps.

    With the relaxation ``pc`` the ops are left out, since they were searched on a part of the channels: they keep the
    weights that they have in ``network``. That is logged.

    Raises:
        InvalidArgument: another macro, other cells, or an op that the edge of ``model`` does not have.
    """
    if network.spec.macro != model.macro:
        raise InvalidArgument("the spec has another macro than the model; weights cannot be inherited.")
    nodes, wanted = [[c.num_nodes for c in cells] for cells in (model.cells, network.spec.cells)]
    if nodes != wanted:
        raise InvalidArgument(f"the spec has cells of {wanted} nodes, the model of {nodes}; weights do not fit.")
    if model.relaxation == "pc":
        logger.warning("relaxation 'pc' searches ops on a part of the channels: the derived ops start fresh.")
    network.skeleton.load_state_dict(model.skeleton.state_dict())
    for cell, fixed in zip(model.cells, network.cells, strict=True):
        fixed.norm.load_state_dict(cell.norm.state_dict())
        fixed.scale.copy_(cell.scale)
        for position, edge in enumerate(fixed.spec.edges):
            index = edge.target * (edge.target - 1) // 2 + edge.source
            mixed = cell.edges[index]
            if edge.op.name not in mixed.names:
                raise InvalidArgument(f"the spec has op {edge.op.name!r} on an edge where the model has {mixed.names}.")
            if mixed.groups == 1:
                fixed.edges[position].op.load_state_dict(mixed.ops[edge.op.name].state_dict())
            kept = [e.source for e in fixed.spec.edges if e.target == edge.target]
            weights = cell.edge_weights(edge.target)
            fixed.edge_weights[position] = weights[edge.source] / weights[kept].sum()
