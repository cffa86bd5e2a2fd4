"""An edge of the searched network: several ops at once, weighted by what the search learns."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, cast

import torch
from torch import Tensor, nn

from .. import kernels
from .._core.errors import InvalidArgument, check_real
from ..ops.registry import build_op, get_op, resolve_ops
from .relax import EdgeLogits, build_relaxation

ALPHA_NOISE = 1e-3


@dataclass(frozen=True)
class MixtureSettings:
    """How logits become probabilities.

    Attributes:
        relaxation: name of a relaxation (``architecture.relax``).
        group_temperature_mult: family temperature over op temperature.
        min_group_temperature: lower bound of the family temperature.
        min_op_temperature: lower bound of the op temperature.
        group_min_prob: share of the probability that is spread evenly over the ops of an edge with several families.
        pc_ratio: share of the channels that the ops see with a partial relaxation, one over a whole number.
    """

    relaxation: str = "softmax"
    group_temperature_mult: float = 1.5
    min_group_temperature: float = 0.7
    min_op_temperature: float = 0.3
    group_min_prob: float = 0.03
    pc_ratio: float = 0.25


@dataclass(frozen=True)
class EdgeMix:
    """What an edge computes in one forward pass: ``Σ weights[i] · op[indices[i]]``, ``weights [len(indices)]``."""

    weights: Tensor
    indices: Sequence[int]


class EdgeForm(Protocol):
    """Another way to compute a mixture (``compiled.CompiledEdge``)."""

    def takes(self, ops: nn.ModuleDict, x: Tensor, mix: EdgeMix) -> bool:
        """Return whether it computes this mixture."""
        ...

    def __call__(self, ops: nn.ModuleDict, x: Tensor, weights: Tensor) -> Tensor:
        """Return ``Σ weights[k] · op_k(x)`` over all ops."""
        ...


class MixedOp(nn.Module):
    """A mixture of ops, ``[N, T, D] -> [N, T, D]``, with two levels of logits: families and ops.

    Logits exist only where there is a choice: no family logits with one family, none at all with one op. With a
    partial relaxation the ops are built for, and see, the first ``D · pc_ratio`` channels only; the others pass by,
    and a channel shuffle (Zhang et al., ShuffleNet, CVPR 2018) interleaves both.

    Args:
        dim: width D.
        length: steps T.
        ops: names of the ops, in the order of the weights.
        dropout: rate inside the ops.
        settings: how logits become probabilities.
    """

    member: Tensor
    alive: Tensor
    running_index: Tensor

    def __init__(
        self,
        dim: int,
        length: int,
        ops: Sequence[str],
        *,
        dropout: float = 0.1,
        settings: MixtureSettings | None = None,
    ) -> None:
        super().__init__()
        self.settings = settings or MixtureSettings()
        self.names = tuple(resolve_ops(ops))
        self.dim, self.length, self.dropout = dim, length, dropout
        self.relaxation = build_relaxation(self.settings.relaxation)
        self.groups = self._groups(self.relaxation.partial)
        self.ops = self._build_ops()
        families = [get_op(name).family for name in self.names]
        self.families = tuple(dict.fromkeys(families))
        self.temperature = 1.0
        count, groups = len(self.names), len(self.families)
        self.op_logits = nn.Parameter(ALPHA_NOISE * torch.randn(count)) if count > 1 else None
        self.family_logits = nn.Parameter(ALPHA_NOISE * torch.randn(groups)) if groups > 1 else None
        member = torch.tensor([[family == group for group in self.families] for family in families])
        self.register_buffer("member", member.float(), persistent=False)  # [K, F]: op k belongs to family f
        self.register_buffer("alive", torch.ones(count, dtype=torch.bool))  # pruned ops are False
        self.register_buffer("running_index", torch.arange(count), persistent=False)
        self._forced: int | None = None
        self._dropped: int | None = None
        self._running: list[int] = list(range(count))
        self._compiled: EdgeForm | None = None
        self.register_load_state_dict_post_hook(_refresh_running)

    def arch_parameters(self) -> Iterator[nn.Parameter]:
        """Yield the logits of this edge."""
        for logits in (self.op_logits, self.family_logits):
            if logits is not None:
                yield logits

    def probabilities(self) -> Tensor:
        """Return detached probabilities ``[K]`` over ``names``; pruned ops have 0."""
        if self.op_logits is None:
            return self.member.new_ones(1)
        with torch.no_grad():
            return self.relaxation.probabilities(edge_logits([self]))[0]

    def set_relaxation(self, name: str) -> bool:
        """Use another relaxation; alphas stay. Return whether the ops had to be rebuilt, with fresh weights.

        Partial and full relaxations compute on different widths: switching between them makes new ops.
        """
        relaxation = build_relaxation(name)
        rebuild = relaxation.partial != self.relaxation.partial
        if rebuild:
            self.groups = self._groups(relaxation.partial)
            self.ops = self._build_ops().to(self.member).train(self.training)
        self.relaxation = relaxation
        return rebuild

    def force(self, index: int | None) -> None:
        """Run only op ``index`` with weight 1 (None: the mixture again). Used to evaluate the derived path."""
        if index is not None and not 0 <= index < len(self.names):
            raise InvalidArgument(f"index={index} must be between 0 and {len(self.names) - 1}.")
        self._forced = index

    def drop(self, index: int | None) -> None:
        """Leave op ``index`` out of the mixture; the weights of the others stay (None: nothing is left out)."""
        if index is not None and not 0 <= index < len(self.names):
            raise InvalidArgument(f"index={index} must be between 0 and {len(self.names) - 1}.")
        self._dropped = index

    def set_compiled(self, form: EdgeForm | None) -> None:
        """Let ``form`` compute the mixtures that it takes while training (None: every one is computed here)."""
        self._compiled = form

    @property
    def undecided(self) -> bool:
        """Whether the edge mixes: it has several ops, and none is forced."""
        return self._forced is None and self.op_logits is not None

    def keep_only(self, alive: Tensor) -> None:
        """Prune every op whose entry in ``alive`` (bool ``[K]``) is False; a pruned op is never computed again."""
        merged = self.alive & alive.to(self.alive.device)
        if not bool(merged.any()):
            raise InvalidArgument("pruning would leave an edge without an op.")
        self.alive.copy_(merged)
        _refresh_running(self, None)

    @property
    def running(self) -> list[str]:
        """Names of the ops that are not pruned."""
        return [self.names[k] for k in self._running]

    def select(self, weights: Tensor, chosen: int | None) -> EdgeMix:
        """Return the part of ``weights [K]`` that is computed: that of op ``chosen``, or of all living ops."""
        if chosen is not None:
            indices, picked = [chosen], weights[chosen : chosen + 1]
        elif len(self._running) < len(self.names):
            indices, picked = self._running, weights.index_select(0, self.running_index)
        else:
            indices, picked = self._running, weights
        if self._dropped in indices:
            places = [place for place, index in enumerate(indices) if index != self._dropped]
            indices, picked = [indices[place] for place in places], picked[places]
        return EdgeMix(picked, indices)

    def forward(self, x: Tensor, mix: EdgeMix | None = None) -> Tensor:
        """Map ``[N, T, D]`` to ``[N, T, D]``.

        ``mix`` is this edge's entry of ``mixtures``, which serves all edges of a network at once; None computes it
        here.
        """
        if self.groups == 1:
            return self._mixed(x, mix)
        width = self.dim // self.groups
        mixed = self._mixed(x[..., :width].contiguous(), mix)
        joined = torch.cat([mixed, x[..., width:]], dim=-1)
        return joined.unflatten(-1, (self.groups, width)).transpose(-1, -2).flatten(-2)

    def _mixed(self, x: Tensor, mix: EdgeMix | None) -> Tensor:
        if not self.undecided:
            return self.ops[self.names[self._forced or 0]](x)
        if mix is None:
            (mix,) = mixtures([self])
            assert mix is not None, "an undecided edge has a mixture"
        if not mix.indices:
            return torch.zeros_like(x)
        if self._compiled is not None and self.training and self._compiled.takes(self.ops, x, mix):
            return self._compiled(self.ops, x, mix.weights.to(x.dtype))
        outputs = [self.ops[self.names[k]](x) for k in mix.indices]
        return kernels.mixed_sum(outputs, mix.weights.to(x.dtype))

    def set_temperature(self, temperature: float) -> None:
        """Set the op temperature (above 0); the family temperature follows."""
        self.temperature = check_real("temperature", temperature, low=1e-6)

    def get_alphas(self) -> Tensor:
        """Return detached probabilities ``[K]``; same as ``probabilities``."""
        return self.probabilities()

    def describe(self, top_k: int = 3) -> dict[str, Any]:
        """Return the ``top_k`` most probable ops and their probabilities."""
        probs = self.probabilities().tolist()
        order = sorted(range(len(probs)), key=lambda k: -probs[k])[:top_k]
        return {self.names[k]: probs[k] for k in order}

    def _groups(self, partial: bool) -> int:
        if not partial:
            return 1
        ratio = check_real("pc_ratio", self.settings.pc_ratio, low=1e-6, high=1.0)
        groups = round(1.0 / ratio)
        if abs(groups * ratio - 1.0) > 1e-3 or self.dim % groups:
            raise InvalidArgument(
                f"pc_ratio={ratio} must be one over a whole number that divides the width {self.dim}, like 0.25 or 0.5."
            )
        return groups

    def _build_ops(self) -> nn.ModuleDict:
        width = self.dim // self.groups
        return nn.ModuleDict({name: build_op(name, width, self.length, dropout=self.dropout) for name in self.names})


def edge_logits(edges: Sequence[MixedOp]) -> EdgeLogits:
    """Gather the logits of edges that share their op list, settings and temperature (those of one network).

    Every edge must have logits (two ops or more).
    """
    first = edges[0]
    s = first.settings
    family = None
    if first.family_logits is not None:
        family = _stack([edge.family_logits for edge in edges])
    return EdgeLogits(
        op=_stack([edge.op_logits for edge in edges]),
        family=family,
        member=first.member,
        alive=torch.stack([edge.alive for edge in edges]),
        temperature=max(first.temperature, s.min_op_temperature),
        family_temperature=max(first.temperature * s.group_temperature_mult, s.min_group_temperature),
        floor=s.group_min_prob,
    )


def _stack(logits: list[nn.Parameter | None]) -> Tensor:
    return torch.stack(cast("list[Tensor]", logits))  # all edges have the same ops, and so logits if one has them


def mixtures(edges: Sequence[MixedOp]) -> list[EdgeMix | None]:
    """Return what each edge of a network mixes in the coming forward pass; None for an edge with nothing to mix."""
    open_edges = [edge for edge in edges if edge.undecided]
    if not open_edges:
        return [None] * len(edges)
    first = open_edges[0]
    weights, chosen = first.relaxation.weights(edge_logits(open_edges), first.training)
    picks = [None] * len(open_edges) if chosen is None else chosen
    mixes = iter(edge.select(w, k) for edge, w, k in zip(open_edges, weights.unbind(), picks, strict=True))
    return [next(mixes) if edge.undecided else None for edge in edges]


def _refresh_running(module: MixedOp, _keys: Any) -> None:
    # Kept as a Python list so that a forward pass never has to ask the device which ops are alive.
    module._running = module.alive.nonzero().flatten().tolist()
    module.running_index = torch.tensor(module._running, device=module.alive.device)
