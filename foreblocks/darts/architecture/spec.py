"""An architecture as data: what a search finds, prints, hashes, saves and rebuilds.

``Macro`` is what a candidate fixes before any weight exists; ``ArchSpec`` adds the chosen op of every kept edge.
Both are frozen, compare by value and survive a round trip through JSON.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import MISSING, asdict, dataclass, field, fields, replace
from typing import Any

from .._core.errors import InvalidArgument, check_channels, check_choice, check_int, check_real, nearest

ARCH_MODES = ("encoder_decoder", "encoder_only", "decoder_only", "mamba")
SERIES_NORMS = ("revin", "last", "none")
CHANNEL_MODES = ("mixed", "independent", "variate")
PATCH_LENGTHS = (1, 8, 16)
HEADS = ("flatten", "factorised", "last")
ATTENTION_VARIANTS = ("sdp", "linear", "probsparse", "cosine", "local")
FFN_VARIANTS = ("swiglu", "moe")
LINEAR_PATHS = ("auto", "shared", "per_channel", "none")
FORMAT_VERSION = 1


@dataclass(frozen=True)
class Macro:
    """The choices of a candidate that are not searched by alphas.

    Attributes:
        input_dim: channels C.
        seq_length: lookback L.
        horizon: forecast steps H.
        hidden_dim: width D of every token.
        arch_mode: sequence part, one of ``ARCH_MODES``.
        series_norm: per-window normalisation, always inverted on the output: ``revin`` (mean and standard
            deviation; Kim et al., ICLR 2022, without its affine map), ``last`` (subtract the last value) or ``none``.
        channel_mode: ``mixed`` (all channels in one token), ``independent`` (each channel a series of its own) or
            ``variate`` (each channel a token; Liu et al., iTransformer, ICLR 2024).
        patch_len: steps in a token; the stride is half of it (1 for 1).
        head: how tokens become the horizon: ``flatten`` (all tokens), ``factorised`` (time, then features) or
            ``last`` (the last token).
        attention: kernel of self- and cross-attention, one of ``ATTENTION_VARIANTS``.
        ffn: feed-forward block, one of ``FFN_VARIANTS``.
        num_layers: blocks of the sequence part.
        num_heads: attention heads; must divide ``hidden_dim``.
        dropout: rate in [0, 1).
        linear_path: closed-form ridge that joins the network in the final blend: ``shared``, ``per_channel``,
            ``auto`` (the better on validation) or ``none``.
        future_dim: F, covariates that are known for every step of the horizon; 0 for none.
        target_channels: channels of the input that are forecast, in the order of the output; None for all.
    """

    input_dim: int
    seq_length: int
    horizon: int
    hidden_dim: int = 64
    arch_mode: str = "encoder_only"
    series_norm: str = "revin"
    channel_mode: str = "mixed"
    patch_len: int = 1
    head: str = "flatten"
    attention: str = "sdp"
    ffn: str = "swiglu"
    num_layers: int = 1
    num_heads: int = 4
    dropout: float = 0.1
    linear_path: str = "auto"
    future_dim: int = 0
    target_channels: tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        # Kept as plain int and float: equal choices have equal JSON, whatever kind of number they came as.
        lowest = dict.fromkeys(("input_dim", "seq_length", "horizon", "hidden_dim", "num_heads", "patch_len"), 1)
        for name, low in {**lowest, "num_layers": 0, "future_dim": 0}.items():
            object.__setattr__(self, name, check_int(name, getattr(self, name), low=low))
        object.__setattr__(self, "dropout", check_real("dropout", self.dropout, low=0.0))
        if self.target_channels is not None:
            chosen = check_channels("target_channels", self.target_channels, self.input_dim, empty=False)
            everything = chosen == tuple(range(self.input_dim))
            object.__setattr__(self, "target_channels", None if everything else chosen)
        check_choice("arch_mode", self.arch_mode, ARCH_MODES)
        check_choice("series_norm", self.series_norm, SERIES_NORMS)
        check_choice("channel_mode", self.channel_mode, CHANNEL_MODES)
        check_choice("head", self.head, HEADS)
        check_choice("attention", self.attention, ATTENTION_VARIANTS)
        check_choice("ffn", self.ffn, FFN_VARIANTS)
        check_choice("linear_path", self.linear_path, LINEAR_PATHS)
        if self.dropout >= 1.0:
            raise InvalidArgument(f"dropout={self.dropout} must be below 1.")
        if self.hidden_dim % self.num_heads:
            raise InvalidArgument(f"hidden_dim={self.hidden_dim} must be divisible by num_heads={self.num_heads}.")
        if self.patch_len > self.seq_length:
            raise InvalidArgument(f"patch_len={self.patch_len} is longer than seq_length={self.seq_length}.")
        if self.channel_mode == "variate" and self.patch_len != 1:
            raise InvalidArgument(f"patch_len={self.patch_len} must be 1 with channel_mode='variate'.")

    @property
    def stride(self) -> int:
        """Steps between the starts of two patches."""
        return max(1, self.patch_len // 2)

    @property
    def output_dim(self) -> int:
        """C_out: channels that are forecast."""
        return self.input_dim if self.target_channels is None else len(self.target_channels)

    @property
    def num_tokens(self) -> int:
        """T: tokens that the cells see."""
        if self.channel_mode == "variate":
            return self.input_dim
        # The last patch ends at the last step; the front is padded by repetition where the stride does not fit.
        return -(-(self.seq_length - self.patch_len) // self.stride) + 1

    @property
    def tokens_per_window(self) -> int:
        """Tokens of a window over all the series that the cells treat apart."""
        return self.num_tokens * (self.output_dim if self.channel_mode == "independent" else 1)


@dataclass(frozen=True)
class OpSpec:
    """One chosen op: registry name, extra constructor arguments, and where its class lives."""

    name: str
    path: str
    params: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class EdgeSpec:
    """A kept edge: node ``source`` feeds node ``target`` through ``op``; ``source < target``."""

    source: int
    target: int
    op: OpSpec


@dataclass(frozen=True)
class CellSpec:
    """A derived cell: node 0 is its input, node ``num_nodes - 1`` its output."""

    num_nodes: int
    edges: tuple[EdgeSpec, ...]

    def __post_init__(self) -> None:
        check_int("num_nodes", self.num_nodes, low=2)
        fed = {edge.target for edge in self.edges}
        for edge in self.edges:
            if not 0 <= edge.source < edge.target < self.num_nodes:
                raise InvalidArgument(
                    f"edge {edge.source} -> {edge.target} must go forward within {self.num_nodes} nodes."
                )
        missing = sorted(set(range(1, self.num_nodes)) - fed)
        if missing:
            raise InvalidArgument(f"nodes {missing} of a cell have no edge.")


@dataclass(frozen=True)
class ArchSpec:
    """A discrete network: enough to rebuild the module (``architecture.build.build_network``).

    Attributes:
        macro: the fixed choices.
        cells: one entry per cell, in order.
    """

    macro: Macro
    cells: tuple[CellSpec, ...]

    def to_dict(self) -> dict[str, Any]:
        """Return plain Python: dicts, lists, str, int, float."""
        return {"format": FORMAT_VERSION, **json.loads(json.dumps(asdict(self)))}

    def to_json(self) -> str:
        """Return canonical JSON: equal specs give equal text."""
        return json.dumps(self.to_dict(), sort_keys=True, indent=2)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> ArchSpec:
        """Rebuild a spec; unknown or missing keys raise ``InvalidArgument``."""
        if data.get("format", FORMAT_VERSION) != FORMAT_VERSION:
            raise InvalidArgument(
                f"arch spec format={data.get('format')!r} is not supported; this is {FORMAT_VERSION}."
            )
        body = {key: value for key, value in data.items() if key != "format"}
        _check_fields(cls, body)
        return cls(macro=_strict(Macro, body["macro"]), cells=tuple(_cell(cell) for cell in body["cells"]))

    @classmethod
    def from_json(cls, text: str) -> ArchSpec:
        """Inverse of ``to_json``."""
        return cls.from_dict(json.loads(text))

    @property
    def digest(self) -> str:
        """Twelve hexadecimal digits that name this architecture."""
        return hashlib.blake2b(self.to_json().encode(), digest_size=6).hexdigest()

    def op_counts(self) -> dict[str, int]:
        """Return how many kept edges use each op."""
        counts: dict[str, int] = {}
        for cell in self.cells:
            for edge in cell.edges:
                counts[edge.op.name] = counts.get(edge.op.name, 0) + 1
        return counts

    def diff(self, other: ArchSpec) -> list[str]:
        """Return one line for each place where two specs differ."""
        return [f"{key}: {mine!r} != {theirs!r}" for key, mine, theirs in _walk("", self.to_dict(), other.to_dict())]

    def __str__(self) -> str:
        m = self.macro
        lines = [
            f"ArchSpec {self.digest}: {m.arch_mode}, D={m.hidden_dim}, {m.channel_mode}, patch {m.patch_len}, "
            f"norm {m.series_norm}, head {m.head}, {m.attention}/{m.ffn}; "
            f"[B, {m.seq_length}, {m.input_dim}]{f' + [B, {m.horizon}, {m.future_dim}]' if m.future_dim else ''}"
            f" -> [B, {m.horizon}, {m.output_dim}]"
        ]
        for number, cell in enumerate(self.cells):
            edges = ", ".join(f"{e.source}->{e.target} {e.op.name}" for e in cell.edges)
            lines.append(f"  cell {number}: {edges}")
        return "\n".join(lines)

    def __hash__(self) -> int:
        return hash(self.to_json())


def with_macro(spec: ArchSpec, **changes: Any) -> ArchSpec:
    """Return the spec with some macro choices replaced."""
    return replace(spec, macro=replace(spec.macro, **changes))


def macro_from_dict(data: Mapping[str, Any]) -> Macro:
    """Rebuild a ``Macro``; unknown or missing keys raise ``InvalidArgument``."""
    return _strict(Macro, data)


def _cell(data: Mapping[str, Any]) -> CellSpec:
    _check_fields(CellSpec, data)
    return CellSpec(data["num_nodes"], tuple(_edge(edge) for edge in data["edges"]))


def _edge(data: Mapping[str, Any]) -> EdgeSpec:
    _check_fields(EdgeSpec, data)
    return EdgeSpec(data["source"], data["target"], _strict(OpSpec, data["op"]))


def _strict(cls: Any, data: Mapping[str, Any]) -> Any:
    _check_fields(cls, data)
    return cls(**data)


def _check_fields(cls: Any, data: Mapping[str, Any]) -> None:
    names = [f.name for f in fields(cls)]
    for key in data:
        if key not in names:
            raise InvalidArgument(f"{cls.__name__} has no field {key!r}.{nearest(key, names)}")
    missing = [f.name for f in fields(cls) if f.default is MISSING and f.default_factory is MISSING]
    missing = [name for name in missing if name not in data]
    if missing:
        raise InvalidArgument(f"{cls.__name__} needs the fields {missing}.")


def _walk(prefix: str, a: Any, b: Any) -> list[tuple[str, Any, Any]]:
    if isinstance(a, dict) and isinstance(b, dict):
        keys = sorted(set(a) | set(b))
        return [row for key in keys for row in _walk(f"{prefix}.{key}".lstrip("."), a.get(key), b.get(key))]
    if isinstance(a, list) and isinstance(b, list) and len(a) == len(b):
        return [row for i, pair in enumerate(zip(a, b, strict=True)) for row in _walk(f"{prefix}[{i}]", *pair)]
    return [] if a == b else [(prefix, a, b)]
