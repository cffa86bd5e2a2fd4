"""The architectures of the table: 80 over all macro choices, 40 with one good macro and other cell ops."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from foreblocks.darts.architecture.derive import derive_spec
from foreblocks.darts.architecture.network import default_heads
from foreblocks.darts.architecture.spec import ArchSpec, Macro
from foreblocks.darts.config import DEFAULT_OPS, DARTSSearchSpaceConfig
from foreblocks.darts.ops.registry import get_op
from foreblocks.darts.search.candidates import CandidateConfig, SearchSpace, build_candidate, make_candidates

CHANNELS, LOOKBACK, HORIZON, HIDDEN = 7, 96, 24, 32
SPACE_SEED = 0
BATCH = 32
SIZES = {"macro": 80, "ops": 40}
GOOD_MACRO = Macro(
    CHANNELS,
    LOOKBACK,
    HORIZON,
    hidden_dim=HIDDEN,
    arch_mode="encoder_only",
    series_norm="last",
    channel_mode="mixed",
    patch_len=8,
    head="flatten",
    num_heads=default_heads(HIDDEN),
)


@dataclass(frozen=True)
class Architecture:
    """One entry: ``arch`` is its number, ``batch_size`` the windows of a training step."""

    arch: int
    part: str
    spec: ArchSpec
    batch_size: int


def architectures() -> list[Architecture]:
    """Return the 120 architectures, all different. The parts alternate, so that any beginning holds both."""
    parts = {part: _first(part, count) for part, count in SIZES.items()}
    every = SIZES["macro"] // SIZES["ops"]
    mixed: list[tuple[str, ArchSpec, int]] = []
    for turn, entry in enumerate(parts["ops"]):
        mixed += [*parts["macro"][turn * every : (turn + 1) * every], entry]
    return [Architecture(number, *entry) for number, entry in enumerate(mixed)]


def _first(part: str, count: int) -> list[tuple[str, ArchSpec, int]]:
    """Return the first ``count`` different architectures that the candidates of a part derive to."""
    found: dict[str, tuple[str, ArchSpec, int]] = {}
    candidates = _macro_candidates(2 * count) if part == "macro" else _ops_candidates()
    for number, candidate in enumerate(candidates):
        # Alphas that nothing has trained are small noise: what they point to is a random architecture of the space.
        spec = derive_spec(build_candidate(candidate, seed=number))
        found.setdefault(spec.digest, (part, spec, candidate.search_batch(BATCH)))
        if len(found) == count:
            break
    return list(found.values())


def _macro_candidates(count: int) -> list[CandidateConfig]:
    config = DARTSSearchSpaceConfig(hidden_dims=[HIDDEN])
    space = SearchSpace(CHANNELS, LOOKBACK, HORIZON, tuple(DEFAULT_OPS), config)
    return make_candidates(space, SPACE_SEED, count)


def _ops_candidates() -> Iterator[CandidateConfig]:
    fitting = tuple(op for op in DEFAULT_OPS if get_op(op).min_length <= GOOD_MACRO.num_tokens)
    base = CandidateConfig(GOOD_MACRO, fitting, num_cells=1, num_nodes=3)
    number = 0
    while True:
        yield replace(base, num_cells=1 + number % 2)
        number += 1
