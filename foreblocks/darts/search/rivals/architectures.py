"""Architectures without alphas: drawn at random, or an earlier one with one choice changed."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from ..._core.errors import InvalidArgument
from ...architecture.cell import KEPT_INPUTS, edge_pairs
from ...architecture.derive import CellChoice, Choice
from ...architecture.network import default_heads
from ...architecture.spec import ATTENTION_VARIANTS, FFN_VARIANTS, ArchSpec, CellSpec, EdgeSpec, Macro, OpSpec
from ...ops.registry import get_op
from ..candidates import CandidateConfig, SearchSpace, affordable, affordable_patches, variants

#: macro choices that evolution may change, beside the number of cells
MUTABLE = ("hidden_dim", "arch_mode", "series_norm", "channel_mode", "patch_len", "head", "attention", "ffn")
MAX_TRIES = 50  # draws of a mutation that changes something and fits


def random_choice(num_cells: int, num_nodes: int, num_ops: int, rng: random.Random) -> Choice:
    """Return any op for every edge and any ``KEPT_INPUTS`` inputs for every node, each as likely as the others."""
    choice = []
    for _ in range(num_cells):
        ops = [rng.randrange(num_ops) for _ in edge_pairs(num_nodes)]
        kept = []
        for node in range(1, num_nodes):
            first = node * (node - 1) // 2
            kept += sorted(first + source for source in rng.sample(range(node), min(KEPT_INPUTS, node)))
        choice.append(CellChoice(ops, kept))
    return choice


def random_spec(candidate: CandidateConfig, rng: random.Random) -> ArchSpec:
    """Return a random architecture of a candidate: its fixed choices, any of its ops on any of its edges."""
    names = candidate.selected_ops
    pairs = edge_pairs(candidate.num_nodes)
    cells = []
    for cell in random_choice(candidate.num_cells, candidate.num_nodes, len(names), rng):
        edges = tuple(EdgeSpec(*pairs[edge], _op(names[cell.ops[edge]])) for edge in cell.kept)
        cells.append(CellSpec(candidate.num_nodes, edges))
    return ArchSpec(candidate.macro, tuple(cells))


def candidate_of(spec: ArchSpec) -> CandidateConfig:
    """Return the candidate that has just the ops of ``spec``."""
    return CandidateConfig(spec.macro, tuple(spec.op_counts()), len(spec.cells), spec.cells[0].num_nodes)


def mutate(spec: ArchSpec, space: SearchSpace, rng: random.Random) -> ArchSpec:
    """Return ``spec`` with one change: a macro choice, the number of cells, the op of an edge, or its source.

    Half of the changes are of the first two kinds. The result differs from ``spec`` unless the space has nothing else
    to offer.
    """
    for _ in range(MAX_TRIES):
        change = _other_macro if rng.random() < 0.5 else _other_cells
        try:
            changed = change(spec, space, rng)
        except InvalidArgument:  # this macro cannot take the drawn value: another draw
            continue
        if changed != spec:
            return changed
    return spec


def _other_macro(spec: ArchSpec, space: SearchSpace, rng: random.Random) -> ArchSpec:
    name = rng.choice((*MUTABLE, "num_cells"))
    if name == "num_cells":
        return _other_depth(spec, space, rng)
    value = rng.choice(_values(space, spec.macro)[name])
    changes = {name: value}
    if name == "hidden_dim":
        changes["num_heads"] = default_heads(value)
    if name == "channel_mode":
        patches = affordable_patches(space, value)
        kept = spec.macro.patch_len in patches
        changes["patch_len"] = spec.macro.patch_len if kept else rng.choice(patches)
    macro = affordable(replace(spec.macro, **changes))
    return _with_fitting_ops(ArchSpec(macro, spec.cells), space, rng)


def _values(space: SearchSpace, macro: Macro) -> dict[str, Sequence[Any]]:
    return {
        "hidden_dim": space.config.hidden_dims,
        "arch_mode": space.config.arch_modes,
        "series_norm": space.series_norms,
        "channel_mode": space.channel_modes,
        "patch_len": affordable_patches(space, macro.channel_mode),
        "head": space.heads,
        "attention": variants(space.config.attention_variants, ATTENTION_VARIANTS),
        "ffn": variants(space.config.ffn_variants, FFN_VARIANTS),
    }


def _other_depth(spec: ArchSpec, space: SearchSpace, rng: random.Random) -> ArchSpec:
    """Add a random cell at the end, or drop the last one, within ``cell_range``."""
    low, high = space.config.cell_range
    count = rng.choice([n for n in (len(spec.cells) - 1, len(spec.cells) + 1) if low <= n <= high] or [len(spec.cells)])
    cells = list(spec.cells[:count])
    if count > len(cells):
        config = CandidateConfig(spec.macro, tuple(fitting_ops(space, spec.macro)), 1, cells[0].num_nodes)
        cells += random_spec(config, rng).cells
    return replace(spec, cells=tuple(cells))


def _other_cells(spec: ArchSpec, space: SearchSpace, rng: random.Random) -> ArchSpec:
    """Change the op of one edge, or let it come from another node."""
    number = rng.randrange(len(spec.cells))
    cell = spec.cells[number]
    place = rng.randrange(len(cell.edges))
    edge = cell.edges[place]
    taken = {e.source for e in cell.edges if e.target == edge.target}
    free = [source for source in range(edge.target) if source not in taken]
    if free and rng.random() < 0.5:
        edge = replace(edge, source=rng.choice(free))
    else:
        edge = replace(edge, op=_op(rng.choice(fitting_ops(space, spec.macro))))
    edges = [*cell.edges[:place], edge, *cell.edges[place + 1 :]]
    edges.sort(key=lambda e: (e.target, e.source))
    cells = list(spec.cells)
    cells[number] = CellSpec(cell.num_nodes, tuple(edges))
    return replace(spec, cells=tuple(cells))


def fitting_ops(space: SearchSpace, macro: Macro) -> list[str]:
    """Return the ops of the space that can work on the tokens of a macro."""
    return [name for name in space.ops if get_op(name).min_length <= macro.num_tokens] or ["Identity"]


def _with_fitting_ops(spec: ArchSpec, space: SearchSpace, rng: random.Random) -> ArchSpec:
    """Replace ops that need more tokens than the macro has by random ones that fit."""
    fitting = fitting_ops(space, spec.macro)
    cells = []
    for cell in spec.cells:
        edges = tuple(e if e.op.name in fitting else replace(e, op=_op(rng.choice(fitting))) for e in cell.edges)
        cells.append(CellSpec(cell.num_nodes, edges))
    return replace(spec, cells=tuple(cells))


def _op(name: str) -> OpSpec:
    return OpSpec(name, get_op(name).path)
