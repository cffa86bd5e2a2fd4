"""The discrete network of an ``ArchSpec``: only what was chosen exists in it."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from .._core.logging import get_logger
from .._core.modules import ModuleList
from .._core.seeding import seeded
from ..ops.blocks import rms_norm
from ..ops.registry import build_op, import_op
from .cell import LAYER_SCALE
from .skeleton import Skeleton
from .spec import ArchSpec, CellSpec, Macro

logger = get_logger(__name__)


class FixedOp(nn.Module):
    """One chosen op; the module is ``.op``, its registry name ``.name``."""

    def __init__(self, name: str, op: nn.Module) -> None:
        super().__init__()
        self.name = name
        self.op = op

    def forward(self, x: Tensor) -> Tensor:
        """Map ``[N, T, D]`` to ``[N, T, D]``."""
        return self.op(x)


class FixedCell(nn.Module):
    """A derived cell; the weight of every kept edge is an ordinary parameter."""

    def __init__(self, macro: Macro, spec: CellSpec) -> None:
        super().__init__()
        self.spec = spec
        self.norm = rms_norm(macro.hidden_dim)
        self.edges = ModuleList(
            FixedOp(
                e.op.name,
                build_op(e.op.name, macro.hidden_dim, macro.num_tokens, dropout=macro.dropout, **e.op.params),
            )
            for e in spec.edges
        )
        fan_in = [sum(other.target == e.target for other in spec.edges) for e in spec.edges]
        self.edge_weights = nn.Parameter(torch.tensor([1.0 / count for count in fan_in]))
        self.scale = nn.Parameter(torch.full((macro.hidden_dim,), LAYER_SCALE))

    def forward(self, x: Tensor) -> Tensor:
        """Map ``[N, T, D]`` to ``[N, T, D]``."""
        nodes = [self.norm(x)]
        weights = self.edge_weights.unbind()
        for node in range(1, self.spec.num_nodes):
            total = None
            for edge, module, weight in zip(self.spec.edges, self.edges, weights, strict=True):
                if edge.target == node:
                    term = module(nodes[edge.source]) * weight
                    total = term if total is None else total + term
            nodes.append(total)
        inner = nodes[1]
        for extra in nodes[2:]:
            inner = inner + extra
        return torch.addcmul(x, inner, self.scale / (self.spec.num_nodes - 1))


class ForecastNetwork(nn.Module):
    """The discrete network of a spec, ``[B, L, C] -> [B, H, C_out]``.

    ``spec`` is its ``ArchSpec``; ``selected_norm`` the name of its series norm.
    """

    def __init__(self, spec: ArchSpec) -> None:
        super().__init__()
        self.spec = spec
        self.selected_norm = spec.macro.series_norm
        self.skeleton = Skeleton(spec.macro)
        self.cells = ModuleList(FixedCell(spec.macro, cell) for cell in spec.cells)

    def forward(self, x: Tensor, x_future: Tensor | None = None) -> Tensor:
        """Forecast ``[B, H, C_out]`` from ``x [B, L, C]`` and, if the spec has covariates, ``x_future [B, H, F]``."""
        return self.skeleton(x, self.cells, x_future)


def build_network(spec: ArchSpec, *, seed: int | None = None) -> ForecastNetwork:
    """Build the network of a spec; ops defined outside this package are imported from where the spec says.

    Args:
        spec: the architecture.
        seed: seed of the initial weights; None uses torch's current random state.

    Raises:
        InvalidArgument: an op of the spec is unknown here and its module cannot be imported.
    """
    for cell in spec.cells:
        for edge in cell.edges:
            import_op(edge.op.name, edge.op.path)
    if seed is None:
        return ForecastNetwork(spec)
    with seeded("weights", seed):
        return ForecastNetwork(spec)
