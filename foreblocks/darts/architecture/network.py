"""The searched network of one candidate: a mixture over all its ops on every edge."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields
from functools import partial
from typing import Any

from torch import Tensor, nn

from .._core.errors import InvalidArgument, check_choice, check_int, check_keywords, check_real
from .._core.keywords import keywords_with_defaults, warn_keywords
from .._core.logging import get_logger
from .._core.modules import ModuleList
from ..config import DEFAULT_OPS, TEMPERATURE_SCHEDULES, chosen_relaxation
from ..ops.registry import get_op, resolve_ops
from .cell import KEPT_INPUTS, DARTSCell
from .mixed_op import MixedOp, MixtureSettings, mixtures
from .pruning import prune_edges
from .skeleton import Skeleton
from .spec import Macro

logger = get_logger(__name__)

SEARCH_PROFILES: dict[str, dict[str, float]] = {
    "conservative": {
        "group_temperature_mult": 1.8,
        "min_group_temperature": 0.9,
        "min_op_temperature": 0.5,
        "group_min_prob": 0.05,
    },
    "balanced": {
        "group_temperature_mult": 1.5,
        "min_group_temperature": 0.75,
        "min_op_temperature": 0.35,
        "group_min_prob": 0.03,
    },
    "aggressive": {
        "group_temperature_mult": 1.2,
        "min_group_temperature": 0.6,
        "min_op_temperature": 0.25,
        "group_min_prob": 0.01,
    },
}
# Field of Macro → documented keyword, where the names differ.
_KEYWORD_OF = {
    "horizon": "forecast_horizon",
    "attention": "transformer_self_attention_type",
    "ffn": "transformer_ffn_variant",
}
_AUTO = {"attention": "sdp", "ffn": "swiglu"}


class TimeSeriesDARTS(nn.Module):
    """A forecasting network whose cells are searched, ``[B, L, C] -> [B, H, C_out]``.

    The keywords up to ``use_gdas`` are those of the documented API; the ones after it choose the parts around the
    cells. Keywords that no longer do anything are listed with their reason in ``_core.keywords``.

    Args:
        input_dim: channels C.
        hidden_dim: width D of every token.
        latent_dim: must equal ``hidden_dim`` (or stay at its default).
        forecast_horizon: steps H.
        seq_length: lookback L.
        num_cells: stacked cells, at least 1.
        num_nodes: nodes of a cell, at least 2.
        dropout: rate in [0, 1).
        selected_ops: ops of every edge; None means Identity and TimeConv with ``initial_search``, else all.
        temperature: initial softmax temperature of the ops.
        temperature_schedule: ``cosine``, ``exponential``, ``linear``, ``step`` or ``constant``.
        final_temperature: temperature at the end of the schedule.
        temperature_warmup_epochs: epochs at the initial temperature.
        group_temperature_mult: family temperature over op temperature.
        min_group_temperature: lower bound of the family temperature.
        min_op_temperature: lower bound of the op temperature.
        group_min_prob: share of the probability that is spread evenly over the ops of an edge.
        max_active_edges_per_node: edges that derivation keeps for a node.
        arch_mode: sequence part (``spec.ARCH_MODES``).
        transformer_self_attention_type: attention kernel; ``auto`` is ``sdp`` here, and a draw in a search.
        transformer_ffn_variant: feed-forward block; ``auto`` is ``swiglu`` here, and a draw in a search.
        pc_ratio: share of the channels that the ops see with ``relaxation="pc"``.
        use_gdas: sample one op per edge and step instead of mixing all: another name of ``relaxation="gdas"``.
        relaxation: how logits become weights (``architecture.relax``): ``softmax`` (None means that), ``gdas``,
            ``drnas``, ``pc`` or ``fair``.
        macro: further choices of ``spec.Macro``: ``series_norm``, ``channel_mode``, ``patch_len``, ``head``,
            ``num_layers``, ``num_heads``, ``linear_path``, ``future_dim``, ``target_channels``.

    Raises:
        InvalidArgument: a value is out of its range; the message names it.
    """

    def __init__(
        self,
        input_dim: int = 3,
        hidden_dim: int = 64,
        latent_dim: int = 64,
        forecast_horizon: int = 24,
        seq_length: int = 48,
        num_cells: int = 2,
        num_nodes: int = 4,
        dropout: float = 0.1,
        initial_search: bool = False,
        selected_ops: list[str] | None = None,
        loss_type: str = "huber",
        use_gradient_checkpointing: bool = False,
        temperature: float = 1.0,
        temperature_schedule: str = "cosine",
        final_temperature: float = 0.1,
        temperature_warmup_epochs: int = 0,
        use_attention_bridge: bool = True,
        attention_layers: int = 2,
        single_path_search: bool = True,
        use_learned_memory_pooling: bool = True,
        memory_num_queries: int = 8,
        group_temperature_mult: float = 1.5,
        min_group_temperature: float = 0.7,
        min_op_temperature: float = 0.3,
        group_min_prob: float = 0.03,
        competition_power: float = 1.25,
        adaptive_bias_scale: float = 0.15,
        performance_ema_decay: float = 0.95,
        pc_ratio: float = 0.25,
        max_active_edges_per_node: int = KEPT_INPUTS,
        progressive_edge_budget: bool = True,
        use_drnas: bool = True,
        drnas_concentration: float = 8.0,
        use_fair_darts_hierarchical: bool = True,
        arch_mode: str = "encoder_decoder",
        tie_encoder_decoder_arch: bool = True,
        transformer_self_attention_type: str = "auto",
        transformer_ffn_variant: str = "auto",
        use_gdas: bool = False,
        relaxation: str | None = None,
        **macro: Any,
    ) -> None:
        scope = locals()
        given = {name: scope[name] for name in keywords_with_defaults(TimeSeriesDARTS)}
        super().__init__()
        warn_keywords("TimeSeriesDARTS", given)
        if latent_dim not in (hidden_dim, 64):
            raise InvalidArgument(f"latent_dim={latent_dim} must equal hidden_dim={hidden_dim}.")
        self._config = {**given, "latent_dim": hidden_dim, **macro}
        self.macro = _macro_of(given, macro)
        self.num_nodes = check_int("num_nodes", num_nodes, low=2)
        self.max_active_edges_per_node = check_int("max_active_edges_per_node", max_active_edges_per_node, low=1)
        names = selected_ops
        if names is None:
            names = ["Identity", "TimeConv"] if initial_search else DEFAULT_OPS
        self.selected_ops = _ops_that_fit(names, self.macro.num_tokens)
        self._config["selected_ops"] = list(self.selected_ops)
        settings = MixtureSettings(
            relaxation=chosen_relaxation(use_gdas, relaxation) or "softmax",
            group_temperature_mult=check_real("group_temperature_mult", group_temperature_mult, low=0.1),
            min_group_temperature=check_real("min_group_temperature", min_group_temperature, low=1e-3),
            min_op_temperature=check_real("min_op_temperature", min_op_temperature, low=1e-3),
            group_min_prob=check_real("group_min_prob", group_min_prob, low=0.0, high=0.5),
            pc_ratio=pc_ratio,
        )
        self.skeleton = Skeleton(self.macro)
        self.cells = ModuleList(
            DARTSCell(
                hidden_dim,
                self.macro.num_tokens,
                self.selected_ops,
                num_nodes=num_nodes,
                dropout=dropout,
                settings=settings,
            )
            for _ in range(check_int("num_cells", num_cells, low=1))
        )
        check_choice("temperature_schedule", temperature_schedule, TEMPERATURE_SCHEDULES)
        check_real("final_temperature", final_temperature, low=1e-6)
        check_int("temperature_warmup_epochs", temperature_warmup_epochs, low=0)
        self.set_temperature(temperature)

    def forward(
        self,
        x_seq: Tensor,
        x_future: Tensor | None = None,
        decoder_targets: Tensor | None = None,
        teacher_forcing_ratio: float = 0.5,
    ) -> Tensor:
        """Forecast ``[B, H, C_out]`` from ``x_seq [B, L, C]`` and, with ``future_dim`` F, ``x_future [B, H, F]``.

        ``decoder_targets`` and ``teacher_forcing_ratio`` are accepted and have no effect: every horizon token is made
        in parallel, so there is no step to force.

        Raises:
            DataError: the shapes do not fit, or ``x_future`` is missing or not taken.
        """
        # One table of weights for all edges: a sampled relaxation synchronises once per pass, not once per edge.
        mixes = mixtures(self.edges)
        count = len(self.cells[0].edges)
        shares = [mixes[count * i : count * (i + 1)] for i in range(len(self.cells))]
        cells = [partial(cell, mixes=s) for cell, s in zip(self.cells, shares, strict=True)]
        return self.skeleton(x_seq, cells, x_future)

    @property
    def edges(self) -> list[MixedOp]:
        """The edges of all cells, in order."""
        return [edge for cell in self.cells for edge in cell.edges]

    def arch_parameters(self) -> Iterator[nn.Parameter]:
        """Yield the architecture parameters (alphas): what the upper level of the search trains."""
        for cell in self.cells:
            yield from cell.arch_parameters()

    def weight_parameters(self) -> Iterator[nn.Parameter]:
        """Yield every parameter that is not an architecture parameter."""
        alphas = {id(p) for p in self.arch_parameters()}
        return (p for p in self.parameters() if id(p) not in alphas)

    @property
    def temperature(self) -> float:
        """Current op temperature."""
        return self.cells[0].edges[0].temperature

    def set_temperature(self, temperature: float) -> None:
        """Set the op temperature of every edge (above 0)."""
        for edge in self.edges:
            edge.set_temperature(temperature)

    @property
    def relaxation(self) -> str:
        """Name of the relaxation of the edges."""
        return self.edges[0].relaxation.name

    def set_relaxation(self, name: str) -> None:
        """Use another relaxation (``architecture.relax``) on every edge; alphas stay, and so do the weights.

        Only a switch between ``pc`` and another one draws fresh weights for the ops, since their width changes; do
        that before a search makes its optimizers. It is logged.
        """
        rebuilt = [edge.set_relaxation(name) for edge in self.edges]
        if any(rebuilt):
            logger.warning("relaxation %r computes another number of channels: the ops have fresh weights.", name)
        self._config.update(use_gdas=name == "gdas", relaxation=name)

    def schedule_temperature(self, epoch: int, total_epochs: int, schedule_type: str | None = None) -> float:
        """Set and return the temperature of ``epoch`` (from 0) in a search of ``total_epochs``."""
        temperature = temperature_at(
            epoch,
            total_epochs,
            schedule=schedule_type or self._config["temperature_schedule"],
            initial=self._config["temperature"],
            final=self._config["final_temperature"],
            warmup=self._config["temperature_warmup_epochs"],
        )
        self.set_temperature(temperature)
        return temperature

    def get_all_alphas(self) -> dict[str, Tensor]:
        """Return every choice's detached probabilities: ``cell_i_edge_j`` (ops) and ``cell_i_node_n`` (inputs)."""
        alphas: dict[str, Tensor] = {}
        for i, cell in enumerate(self.cells):
            for j, edge in enumerate(cell.edges):
                if edge.op_logits is not None:
                    alphas[f"cell_{i}_edge_{j}"] = edge.probabilities()
            for node in range(2, cell.num_nodes):
                alphas[f"cell_{i}_node_{node}"] = cell.edge_weights(node).detach()
        return alphas

    def get_alpha_choices(self) -> dict[str, list[str]]:
        """Return what the probabilities of ``get_all_alphas`` stand for: the ops of an edge, the inputs of a node."""
        choices: dict[str, list[str]] = {}
        for i, cell in enumerate(self.cells):
            for j, edge in enumerate(cell.edges):
                if edge.op_logits is not None:
                    choices[f"cell_{i}_edge_{j}"] = list(edge.names)
            for node in range(2, cell.num_nodes):
                choices[f"cell_{i}_node_{node}"] = [f"from node {source}" for source in range(node)]
        return choices

    def get_operation_weights(self) -> dict[str, dict[str, float]]:
        """Return ``{"cell_i_edge_j": {op: probability}}``."""
        return {
            f"cell_{i}_edge_{j}": dict(zip(edge.names, edge.probabilities().tolist(), strict=True))
            for i, cell in enumerate(self.cells)
            for j, edge in enumerate(cell.edges)
        }

    def derive_discrete_architecture(self, threshold: float = 0.3) -> dict[str, Any]:
        """Return the most probable op of every edge with its probability, and the choices that are already fixed.

        ``passed_threshold`` says whether the probability reaches ``threshold`` (in [0, 1]).
        """
        check_real("threshold", threshold, low=0.0, high=1.0)
        m = self.macro
        fixed = {"norm": m.series_norm, "attention": m.attention, "ffn": m.ffn, "arch_mode": m.arch_mode}
        result: dict[str, Any] = {k: {"type": v, "weight": 1.0, "passed_threshold": True} for k, v in fixed.items()}
        for i, cell in enumerate(self.cells):
            result[f"cell_{i}"] = {}
            for j, edge in enumerate(cell.edges):
                (operation, weight), *_ = edge.describe(1).items()
                entry = {"operation": operation, "weight": weight, "passed_threshold": weight >= threshold}
                result[f"cell_{i}"][f"edge_{j}"] = entry
        return result

    def prune_weak_operations(
        self,
        threshold: float = 0.1,
        strategy: str = "probability",
        gradients: Mapping[nn.Parameter, Tensor] | None = None,
    ) -> dict[str, Any]:
        """Prune ops that are weaker than ``threshold``; see ``architecture.pruning.prune_edges``."""
        edges = [(f"cell_{i}_edge_{j}", edge) for i, cell in enumerate(self.cells) for j, edge in enumerate(cell.edges)]
        return prune_edges(edges, threshold=threshold, strategy=strategy, gradients=gradients)

    def get_config(self) -> dict[str, Any]:
        """Return the constructor arguments, ops resolved; ``from_config`` builds the same network from them."""
        return dict(self._config)

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> TimeSeriesDARTS:
        """Build a network from ``get_config()``; unknown keys raise ``TypeError``."""
        return cls(**config)

    @classmethod
    def from_macro(cls, macro: Macro, **options: Any) -> TimeSeriesDARTS:
        """Build a network around the fixed choices of ``macro``; ``options`` are the other keywords of the class."""
        fixed = {_KEYWORD_OF.get(name, name): value for name, value in vars(macro).items()}
        return cls(**fixed, latent_dim=macro.hidden_dim, **options)

    @classmethod
    def with_search_profile(cls, profile: str = "conservative", **overrides: Any) -> TimeSeriesDARTS:
        """Build a network with named mixture settings: ``conservative``, ``balanced`` or ``aggressive``."""
        check_choice("profile", profile, SEARCH_PROFILES)
        return cls(**{**SEARCH_PROFILES[profile], **overrides})


def temperature_at(
    epoch: int, total_epochs: int, *, schedule: str, initial: float, final: float, warmup: int = 0
) -> float:
    """Return the temperature of ``epoch``: ``initial`` during ``warmup`` epochs, then towards ``final``."""
    check_choice("temperature_schedule", schedule, TEMPERATURE_SCHEDULES)
    if schedule == "constant" or epoch < warmup:
        return initial
    progress = min(1.0, (epoch - warmup) / max(1, total_epochs - 1 - warmup))
    if schedule == "cosine":
        return final + 0.5 * (initial - final) * (1.0 + math.cos(math.pi * progress))
    if schedule == "exponential":
        return initial * (final / initial) ** progress
    if schedule == "linear":
        return initial + (final - initial) * progress
    return initial if progress < 0.3 else 0.5 * initial if progress < 0.7 else final


def default_heads(hidden_dim: int) -> int:
    """Return the largest of 4, 2, 1 heads that divides ``hidden_dim``."""
    return next(heads for heads in (4, 2, 1) if hidden_dim % heads == 0)


def _macro_of(given: dict[str, Any], macro: dict[str, Any]) -> Macro:
    """Return the fixed choices out of the documented keywords and the further ones."""
    keywords = {field.name: _KEYWORD_OF.get(field.name, field.name) for field in fields(Macro)}
    check_keywords("TimeSeriesDARTS", macro, [*given, *(name for name in keywords.values() if name not in given)])
    check_int("forecast_horizon", given["forecast_horizon"], low=1)
    hidden = check_int("hidden_dim", given["hidden_dim"], low=1)
    choices = {name: given[keyword] for name, keyword in keywords.items() if keyword in given} | macro
    choices |= {name: default for name, default in _AUTO.items() if choices[name] == "auto"}
    if choices.get("num_heads") is None:
        choices["num_heads"] = default_heads(hidden)
    return Macro(**choices)


def _ops_that_fit(names: Sequence[str], length: int) -> list[str]:
    """Return the ops that accept ``length`` tokens; the ones left out are logged."""
    resolved = resolve_ops(names)
    kept = [name for name in resolved if get_op(name).min_length <= length]
    if not kept:
        raise InvalidArgument(f"selected_ops={resolved} all need more than the {length} tokens of this network.")
    if len(kept) < len(resolved):
        logger.warning("ops %s need more than %d tokens and are left out.", sorted(set(resolved) - set(kept)), length)
    return kept
