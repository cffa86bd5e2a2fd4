"""Candidates: plain, seeded descriptions of networks to search.

Candidate ``index`` of a seed is always the same, whatever is computed before it, in whichever process.
"""

from __future__ import annotations

import logging
import math
import random
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import torch

from .._core.errors import InvalidArgument, check_choice, check_int, check_range
from .._core.logging import get_logger
from .._core.seeding import seeded
from ..architecture.network import TimeSeriesDARTS, default_heads
from ..architecture.spec import (
    ARCH_MODES,
    ATTENTION_VARIANTS,
    CHANNEL_MODES,
    FFN_VARIANTS,
    HEADS,
    SERIES_NORMS,
    Macro,
    macro_from_dict,
)
from ..config import DARTSSearchSpaceConfig
from ..ops.registry import FAMILIES, get_op, resolve_ops

logger = get_logger(__name__)

MAX_REDRAWS = 20
MAX_HEAD_WEIGHTS = 2_000_000  # a flatten head above this becomes factorised
MAX_MIXED_TOKENS = 128  # more steps than this are put into patches
SEARCH_TOKENS = 4096  # about so many tokens are in a batch of a search step
MIN_SEARCH_BATCH = 8

#: Macro choices that published networks have made, tried before random ones (the first of them that fit the data).
#: PatchTST (Nie et al., ICLR 2023), iTransformer (Liu et al., ICLR 2024); the last value as origin is NLinear's (Zeng
#: et al., AAAI 2023), here with patches of all channels together or of each alone.
PRESETS: dict[str, dict[str, Any]] = {
    "patchtst": {"channel_mode": "independent", "patch_len": 16, "series_norm": "revin", "head": "flatten"},
    "mixed_last": {"channel_mode": "mixed", "patch_len": 8, "series_norm": "last", "head": "flatten"},
    "itransformer": {"channel_mode": "variate", "patch_len": 1, "series_norm": "revin", "head": "flatten"},
    "patch_last": {"channel_mode": "independent", "patch_len": 8, "series_norm": "last", "head": "flatten"},
}


@dataclass(frozen=True)
class SearchSpace:
    """What candidates may be made of.

    Attributes:
        input_dim: channels C.
        seq_length: lookback L.
        horizon: H.
        ops: allowed ops.
        config: ranges and lists (``DARTSSearchSpaceConfig``).
        channel_modes: allowed ways to treat channels.
        series_norms: allowed series normalisations.
        heads: allowed heads.
        patch_lens: allowed patch lengths; those longer than half of ``seq_length`` are never drawn. A network of
            variates has none.
        presets: names from ``PRESETS`` whose macro choices the first candidates take. In the place of one that does not
            fit stands a random candidate, which ``report_misfits`` says.
        future_dim: covariates F that are known for the horizon.
        target_channels: channels that are forecast; None for all.
    """

    input_dim: int
    seq_length: int
    horizon: int
    ops: tuple[str, ...]
    config: DARTSSearchSpaceConfig = field(default_factory=DARTSSearchSpaceConfig)
    channel_modes: tuple[str, ...] = CHANNEL_MODES
    series_norms: tuple[str, ...] = SERIES_NORMS
    heads: tuple[str, ...] = HEADS
    patch_lens: tuple[int, ...] = (1, 8, 16)
    presets: tuple[str, ...] = tuple(PRESETS)
    future_dim: int = 0
    target_channels: tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        resolve_ops(self.ops)
        allowed: dict[str, tuple[Sequence[str], Iterable[str]]] = {
            "presets": (self.presets, PRESETS),
            "arch_modes": (self.config.arch_modes, ARCH_MODES),
            "attention_variants": (self.config.attention_variants, ("auto", *ATTENTION_VARIANTS)),
            "ffn_variants": (self.config.ffn_variants, ("auto", *FFN_VARIANTS)),
            "channel_modes": (self.channel_modes, CHANNEL_MODES),
            "series_norms": (self.series_norms, SERIES_NORMS),
            "heads": (self.heads, HEADS),
        }
        for argument, (names, choices) in allowed.items():
            for name in names:
                check_choice(argument, name, choices)
            if not names and argument != "presets":
                raise InvalidArgument(f"{argument} is empty; name at least one of {list(choices)}.")
        self._check_patches()
        if self.config.max_ops == 1 and self.needs_identity and len(self.ops) > 1:
            raise InvalidArgument("max_ops=1 leaves no op beside Identity, which require_identity=True demands.")

    def _check_patches(self) -> None:
        for patch in self.patch_lens:
            check_int("patch_lens", patch, low=1)
        fits = any(patch == 1 or 2 * patch <= self.seq_length for patch in self.patch_lens)
        if not fits and set(self.channel_modes) != {"variate"}:
            raise InvalidArgument(
                f"patch_lens={list(self.patch_lens)} has no length up to half of seq_length={self.seq_length}, nor 1."
            )

    @property
    def needs_identity(self) -> bool:
        """Whether Identity is an op of every candidate."""
        return self.config.require_identity and "Identity" in self.ops

    @property
    def families(self) -> dict[str, list[str]]:
        """Family → allowed non-Identity ops, families without ops left out."""
        return normalize_op_families(self.config.op_families, list(self.ops))


@dataclass(frozen=True)
class CandidateConfig:
    """One candidate: fixed choices, the ops of its edges and the size of its cells.

    ``to_dict`` has the flat keys of the documented candidate records.
    """

    macro: Macro
    selected_ops: tuple[str, ...]
    num_cells: int
    num_nodes: int
    selected_families: tuple[str, ...] = ()
    preset: str | None = None

    def search_batch(self, batch_size: int) -> int:
        """Return the windows in a batch of the search: ``batch_size``, or fewer where each costs more.

        A network that treats each of C channels as a series of its own sees C times as many tokens in a window.
        """
        affordable = max(MIN_SEARCH_BATCH, SEARCH_TOKENS // self.macro.tokens_per_window)
        return min(batch_size, affordable)

    def to_dict(self) -> dict[str, Any]:
        """Return the documented keys, and ``macro`` with every fixed choice."""
        guaranteed = {f: [op for op in self.selected_ops if get_op(op).family == f][:1] for f in self.selected_families}
        choices: dict[str, Any] = {f: ops for f, ops in guaranteed.items() if ops}
        if "attention" in self.selected_families:
            choices["attention_variant"] = self.macro.attention
            choices["attention_ffn"] = self.macro.ffn
        return {
            "selected_ops": list(self.selected_ops),
            "selected_families": list(self.selected_families),
            "family_choices": choices,
            "hidden_dim": self.macro.hidden_dim,
            "num_cells": self.num_cells,
            "num_nodes": self.num_nodes,
            "arch_mode": self.macro.arch_mode,
            "transformer_self_attention_type": self.macro.attention,
            "transformer_ffn_variant": self.macro.ffn,
            "transformer_use_moe": self.macro.ffn == "moe",
            "preset": self.preset,
            "macro": asdict(self.macro),
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> CandidateConfig:
        """Rebuild a candidate from ``to_dict()`` or from a record of a search result."""
        if "macro" not in data:
            raise InvalidArgument("the candidate has no key 'macro'; use a record of a search or make_candidate().")
        return cls(
            macro=macro_from_dict(data["macro"]),
            selected_ops=tuple(data["selected_ops"]),
            num_cells=data["num_cells"],
            num_nodes=data["num_nodes"],
            selected_families=tuple(data.get("selected_families", ())),
            preset=data.get("preset"),
        )


def make_candidate(space: SearchSpace, seed: int, index: int) -> CandidateConfig:
    """Return candidate ``index`` of ``seed``: element ``index`` of ``make_candidates``."""
    return make_candidates(space, seed, index + 1)[index]


def make_candidates(space: SearchSpace, seed: int, count: int) -> list[CandidateConfig]:
    """Return ``count`` candidates, doubles redrawn up to ``MAX_REDRAWS`` times (a small space may repeat itself)."""
    chosen: list[CandidateConfig] = []
    seen: set[CandidateConfig] = set()
    for index in range(count):
        for attempt in range(MAX_REDRAWS):
            candidate = _draw(space, random.Random(f"{seed}:{index}:{attempt}"), index)
            if candidate not in seen:
                break
        else:
            logger.info("candidate %d repeats an earlier one: the space is small.", index)
        seen.add(candidate)
        chosen.append(candidate)
    return chosen


def report_misfits(space: SearchSpace, count: int) -> None:
    """Log, once for ``count`` candidates, which presets do not fit and why: a warning where the presets were chosen."""
    reasons = {preset: misfit(space, preset) for preset in space.presets[:count]}
    unfit = [f"{preset} ({reason})" for preset, reason in reasons.items() if reason is not None]
    if unfit:
        level = logging.INFO if space.presets == tuple(PRESETS) else logging.WARNING
        logger.log(level, "presets that do not fit, with a random candidate in their place: %s.", "; ".join(unfit))


def build_candidate(
    config: CandidateConfig, *, seed: int = 0, relaxation: str | None = None, device: torch.device | str = "cpu"
) -> TimeSeriesDARTS:
    """Build the searched network of a candidate, its initial weights drawn from ``seed``."""
    with seeded("candidate", seed):
        model = TimeSeriesDARTS.from_macro(
            config.macro,
            num_cells=config.num_cells,
            num_nodes=config.num_nodes,
            selected_ops=list(config.selected_ops),
            use_gdas=relaxation == "gdas",
            relaxation=relaxation,
        )
    return model.to(device)


def searched_candidate(
    config: CandidateConfig,
    state: Mapping[str, Any],
    *,
    seed: int = 0,
    relaxation: str | None = None,
    device: torch.device | str = "cpu",
) -> TimeSeriesDARTS:
    """Rebuild a network in the middle or at the end of its search, at its best epoch, in eval mode.

    ``state`` is what a rung returns (``SearchState.to_dict`` or ``outcome``); the rest is as in ``build_candidate``.
    """
    model = build_candidate(config, seed=seed, relaxation=relaxation, device=device)
    best = state["best_state"] is not None
    model.load_state_dict(state["best_state"] if best else state["model"])
    model.set_temperature(state["best_temperature" if best else "temperature"])
    return model.eval()


def normalize_op_families(families: Mapping[str, Sequence[str]] | None, allowed: Sequence[str]) -> dict[str, list[str]]:
    """Return the families restricted to the allowed non-Identity ops; empty ones are dropped.

    Nothing left, or no families given for an op of the user's, puts those ops under their registered family.
    """
    pool = [op for op in allowed if op != "Identity"]
    if not families:
        families = {}
    kept = {name.lower(): [op for op in ops if op in pool] for name, ops in families.items()}
    named = {op for ops in kept.values() for op in ops}
    for op in pool:
        if op not in named:
            kept.setdefault(get_op(op).family, []).append(op)
    return {name: ops for name, ops in kept.items() if ops}


def _draw(space: SearchSpace, rng: random.Random, index: int) -> CandidateConfig:
    config = space.config
    families = space.families
    low, high = check_range("family_range", config.family_range, low=1)
    most = len(families)
    if config.max_ops is not None:  # each family brings an op for certain
        most = min(most, config.max_ops - space.needs_identity)
    count = min(most, rng.randint(min(low, max(1, most)), max(low, min(high, most))))
    picked = rng.sample(sorted(families, key=_family_order), count) if families else []
    ops = _draw_ops(space, rng, families, picked)
    num_nodes = _draw_nodes(rng, config, max(1, len(ops) - ("Identity" in ops)))
    preset = space.presets[index] if index < len(space.presets) else None
    if preset is not None and misfit(space, preset) is not None:
        preset = None
    macro = _draw_macro(space, rng, index, preset)
    fitting = tuple(op for op in ops if get_op(op).min_length <= macro.num_tokens) or ("Identity",)
    return CandidateConfig(
        macro=macro,
        selected_ops=fitting,
        num_cells=rng.randint(*config.cell_range),
        num_nodes=num_nodes,
        selected_families=tuple(picked),
        preset=preset,
    )


def _family_order(name: str) -> tuple[int, str]:
    return (FAMILIES.index(name) if name in FAMILIES else len(FAMILIES), name)


def _draw_ops(
    space: SearchSpace, rng: random.Random, families: dict[str, list[str]], picked: Sequence[str]
) -> list[str]:
    """Draw ops: one of each picked family for certain, then more from the picked families; Identity in front."""
    config = space.config
    identity = ["Identity"] if space.needs_identity else []
    guaranteed = [rng.choice(families[name]) for name in picked]
    pool = [op for name in picked for op in families[name] if op not in guaranteed]
    largest = len(guaranteed) + len(pool) + len(identity)
    low = min(largest, max(config.min_ops, len(guaranteed) + len(identity)))
    high = max(low, min(config.max_ops or largest, largest))
    extra = rng.randint(low, high) - len(guaranteed) - len(identity)
    return identity + guaranteed + rng.sample(pool, min(len(pool), max(0, extra))) or list(space.ops[:1])


def _draw_nodes(rng: random.Random, config: DARTSSearchSpaceConfig, budget: int) -> int:
    """Draw the number of nodes so that the edges are about ``edge_to_op_target`` per non-Identity op."""
    low, high = check_range("node_range", config.node_range, low=2)
    limit = max(3, math.ceil(config.edge_to_op_max_ratio * budget))
    wanted = max(1, round(config.edge_to_op_target * budget))
    sizes = [n for n in range(low, high + 1) if n * (n - 1) // 2 <= limit] or [low]
    edges = [n * (n - 1) // 2 for n in sizes]
    weights = [max(1e-6, math.exp(-abs(e - wanted) / wanted) / (1.0 + 0.08 * e)) for e in edges]
    return rng.choices(sizes, weights)[0]


def _draw_macro(space: SearchSpace, rng: random.Random, index: int, preset: str | None) -> Macro:
    """Draw the fixed choices: those of a preset that fits, else stratified by index so that each gets its turn."""
    config = space.config
    hidden = rng.choice(config.hidden_dims)
    choice: dict[str, Any] = {
        "series_norm": rng.choice(space.series_norms),
        "channel_mode": space.channel_modes[index % len(space.channel_modes)],
        "head": rng.choice(space.heads),
    }
    patches = affordable_patches(space, str(choice["channel_mode"]))
    choice["patch_len"] = rng.choice(patches) if choice["channel_mode"] != "variate" else 1
    if preset is not None:
        choice.update(PRESETS[preset])
    macro = Macro(
        input_dim=space.input_dim,
        seq_length=space.seq_length,
        horizon=space.horizon,
        hidden_dim=hidden,
        arch_mode=rng.choice(config.arch_modes),
        attention=rng.choice(variants(config.attention_variants, ATTENTION_VARIANTS)),
        ffn=rng.choice(variants(config.ffn_variants, FFN_VARIANTS)),
        num_heads=default_heads(hidden),
        future_dim=space.future_dim,
        target_channels=space.target_channels,
        **choice,
    )
    return affordable(macro)


def affordable(macro: Macro) -> Macro:
    """Return the macro with a factorised head where a flat one would have more than ``MAX_HEAD_WEIGHTS``."""
    outputs = macro.output_dim if macro.channel_mode == "mixed" else 1
    if macro.head == "flatten" and macro.num_tokens * macro.hidden_dim * macro.horizon * outputs > MAX_HEAD_WEIGHTS:
        return replace(macro, head="factorised")
    return macro


def affordable_patches(space: SearchSpace, channel_mode: str) -> list[int]:
    """Return the patch lengths that fit the lookback and keep the number of tokens affordable for a channel mode."""
    if channel_mode == "variate":
        return [1]
    patches = [p for p in space.patch_lens if 2 * p <= space.seq_length] or [1]
    # One series per channel with a token per step costs 25 times as much as with patches of 16.
    if channel_mode == "independent" or space.seq_length > MAX_MIXED_TOKENS:
        return [p for p in patches if p > 1] or patches
    return patches


def misfit(space: SearchSpace, preset: str) -> str | None:
    """Return why a candidate cannot take the choices of a preset in this space, or None where it can."""
    choice = PRESETS[preset]
    allowed = {"channel_mode": space.channel_modes, "series_norm": space.series_norms, "head": space.heads}
    for name, values in allowed.items():
        if choice[name] not in values:
            return f"{name} {choice[name]!r} is not among {list(values)}"
    patch = choice["patch_len"]
    if 2 * patch > max(2, space.seq_length):
        return f"patch_len {patch} is more than half of seq_length={space.seq_length}"
    if choice["channel_mode"] == "variate":
        return None if space.input_dim > 1 else "a network of variates needs more than one channel"
    return None if patch in space.patch_lens else f"patch_len {patch} is not among {list(space.patch_lens)}"


def variants(names: Sequence[str], everything: Sequence[str]) -> list[str]:
    """Return the variants that may be drawn; ``auto`` stands for all of them."""
    for name in names:
        check_choice("variant", name, ("auto", *everything))
    return list(everything) if "auto" in names else list(names)
