"""A cell: a small directed acyclic graph whose edges are searched."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn

from .._core.errors import check_int
from .._core.modules import ModuleList
from ..ops.blocks import rms_norm
from .mixed_op import ALPHA_NOISE, EdgeMix, MixedOp, MixtureSettings, mixtures

LAYER_SCALE = 0.1
KEPT_INPUTS = 2  # edges that derivation keeps for a node, unless a network says otherwise


def edge_pairs(num_nodes: int) -> list[tuple[int, int]]:
    """Return ``(source, target)`` of every edge; edge ``target (target - 1) / 2 + source`` comes at that index."""
    return [(source, target) for target in range(1, num_nodes) for source in range(target)]


class DARTSCell(nn.Module):
    """``num_nodes`` nodes; node 0 is the normalised input, node i the weighted sum of its edges from nodes j < i.

    The output is ``x + scale · mean(node 1 .. node n-1)``: with the mean over all inner nodes no node can end up
    unused, whatever edges are kept. ``scale`` is a LayerScale (Touvron et al., CaiT, ICCV 2021) that starts at 0.1.

    Args:
        dim: width D.
        length: steps T.
        ops: op names of every edge.
        num_nodes: nodes, at least 2.
        dropout: rate inside the ops.
        settings: how logits become probabilities.
    """

    def __init__(
        self,
        dim: int,
        length: int,
        ops: Sequence[str],
        *,
        num_nodes: int = 4,
        dropout: float = 0.1,
        settings: MixtureSettings | None = None,
    ) -> None:
        super().__init__()
        self.num_nodes = check_int("num_nodes", num_nodes, low=2)
        self.pairs = edge_pairs(self.num_nodes)
        self.norm = rms_norm(dim)
        self.edges = ModuleList(MixedOp(dim, length, ops, dropout=dropout, settings=settings) for _ in self.pairs)
        self.scale = nn.Parameter(torch.full((dim,), LAYER_SCALE))
        # One logit an edge; a node with a single input has nothing to choose and its logit is not created.
        self.edge_logits = nn.ParameterDict(
            {str(node): nn.Parameter(ALPHA_NOISE * torch.randn(node)) for node in range(2, self.num_nodes)}
        )
        self._kept: list[int] | None = None
        self._dropped: int | None = None

    def arch_parameters(self) -> Iterator[nn.Parameter]:
        """Yield every logit of the cell: ops, families and edges."""
        for edge in self.edges:
            yield from edge.arch_parameters()
        yield from self.edge_logits.values()

    def edge_weights(self, node: int) -> Tensor:
        """Return the weights ``[node]`` of the edges into ``node``, one per source; they sum to 1."""
        if node == 1:
            return self.scale.new_ones(1)
        return torch.softmax(self.edge_logits[str(node)], dim=0)

    def keep_edges(self, indices: Sequence[int] | None) -> None:
        """Compute only these edges, their weights renormalised (None: all). Used to evaluate the derived path."""
        self._kept = None if indices is None else sorted(indices)

    def drop_edge(self, index: int | None) -> None:
        """Leave one edge out of its node; the weights of the others stay (None: nothing is left out)."""
        self._dropped = index

    def forward(self, x: Tensor, mixes: Sequence[EdgeMix | None] | None = None) -> Tensor:
        """Map ``[N, T, D]`` to ``[N, T, D]``.

        ``mixes`` has what every edge mixes (``mixed_op.mixtures``, made for all cells at once); None makes it here.
        """
        if mixes is None:
            mixes = mixtures(list(self.edges))
        nodes = [self.norm(x)]
        for node in range(1, self.num_nodes):
            first = node * (node - 1) // 2
            sources = [s for s in range(node) if self._kept is None or first + s in self._kept]
            weights = self.edge_weights(node)
            if len(sources) < node:
                picked = weights[sources]
                weights = picked / picked.sum()
            total = None
            for weight, source in zip(weights.unbind(), sources, strict=True):
                edge = first + source
                if edge == self._dropped:
                    continue
                term = self.edges[edge](nodes[source], mixes[edge]) * weight.to(x.dtype)
                total = term if total is None else total + term
            nodes.append(torch.zeros_like(x) if total is None else total)
        inner = nodes[1]
        for extra in nodes[2:]:
            inner = inner + extra
        return torch.addcmul(x, inner, self.scale / (self.num_nodes - 1))
