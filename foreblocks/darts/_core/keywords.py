"""Which documented keywords do not simply work: the one table, and how keywords fold into a configuration.

The documented API has keywords that the reference ignores, or that stand for parts that this network does not have.
They stay in the signatures. A keyword that is not listed here works. The others are an

* ``alias``: another name of a keyword that works; folded into it, with a ``DeprecationWarning``;
* ``obsolete``: has no effect and will have none;
* ``pending``: has no effect yet.

An obsolete or pending keyword is silent at its default and logs a warning at any other value.
"""

from __future__ import annotations

import inspect
import sys
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from .errors import InvalidArgument
from .logging import get_logger

logger = get_logger(__name__)
_PACKAGE = __name__.removesuffix("._core.keywords") + "."


@dataclass(frozen=True)
class Keyword:
    """One entry of the table.

    Attributes:
        status: ``alias``, ``obsolete`` or ``pending``; ``works`` for every keyword that has no entry.
        default: the documented default, at which the keyword says nothing.
        reason: why it has no effect, or what became of it; ends a sentence.
        replacement: for an alias, the keyword that works.
        silent: further values that already describe what happens.
        convert: for an alias, turns (value, folded values so far) into the value of ``replacement``.
    """

    status: str
    default: Any = None
    reason: str = ""
    replacement: str | None = None
    silent: tuple[Any, ...] = ()
    convert: Callable[[Any, Mapping[str, Any]], Any] | None = None


_WORKS = Keyword("works")
_PLAIN = (bool, int, float, str)


def _alias(replacement: str, convert: Callable[[Any, Mapping[str, Any]], Any] | None = None) -> Keyword:
    return Keyword("alias", None, f"renamed to {replacement}", replacement, convert=convert)


def _obsolete(default: Any, reason: str, *silent: Any) -> Keyword:
    return Keyword("obsolete", default, reason, silent=silent)


def _pending(default: Any, reason: str, *silent: Any) -> Keyword:
    return Keyword("pending", default, reason, silent=silent)


def _start_fraction(epoch: int, folded: Mapping[str, Any]) -> float:
    epochs = folded["epochs"] if "epochs" in folded else folded["search_epochs"]
    return min(1.0, max(0.0, epoch / max(1, epochs)))


def _shrink_unless_off(enabled: bool, folded: Mapping[str, Any]) -> bool:
    return bool(enabled) and bool(folded.get("progressive_shrinking", True))


_PARALLEL_DECODER = "all horizon steps are made in parallel by one kind of decoder"
_NO_TRACKER = "ops are not rated by the size of their output"

_BILEVEL: dict[str, Keyword] = {
    "weight_decay": _alias("model_weight_decay"),
    "identity_dominance_cap": _alias("edge_identity_cap"),
    "edge_sharpening_strength": _alias("edge_sharpening_max_weight"),
    "edge_sharpening_start_epoch": _alias("edge_sharpening_start_frac", _start_fraction),
    "use_progressive_training": _alias("progressive_shrinking"),
    "pruning_enabled": _alias("progressive_shrinking", _shrink_unless_off),
    "pruning_start_epoch": _alias("hybrid_pruning_start_epoch"),
    "pruning_threshold": _alias("hybrid_pruning_base_threshold"),
    "temperature": _obsolete(1.0, "the temperature is an argument of TimeSeriesDARTS and follows temperature_schedule"),
    "pruning_hard_epoch": _obsolete(None, "there is no hard pruning"),
    "log_arch_gradients": _obsolete(False, "the search events carry what can be logged"),
    "diversity_check_freq": _obsolete(1, "the collapse watch looks at every epoch"),
    "state_mix_ortho_reg_weight": _obsolete(1e-3, "the network has no state mixing"),
    "transformer_exploration_weight": _obsolete(0.01, "attention and feed-forward variants are drawn per candidate"),
    "hybrid_pruning_freeze_logit": _obsolete(-20.0, "a pruned op is masked, whatever its logit"),
}
_FINAL: dict[str, Keyword] = {
    "use_swa": _obsolete(False, "the average of the late weights is kept when it validates better", True),
    "swa_start": _obsolete(75, "averaging starts at the share swa_start_ratio of the epochs"),
    "swa_lr": _obsolete(5e-4, "averaging keeps the schedule of the learning rate"),
    "gradient_accumulation_steps": _pending(1, "every batch of the final training is one step"),
}
_SEARCH: dict[str, Keyword] = {
    **_BILEVEL,
    "phase3_verbose": _obsolete(True, "the logging level decides what is shown"),
}
_NETWORK: dict[str, Keyword] = {
    "loss_type": _obsolete("huber", "the loss is an argument of the training methods"),
    "use_gradient_checkpointing": _obsolete(False, "activations of a candidate are small"),
    "use_attention_bridge": _obsolete(True, "cross-attention belongs to the encoder_decoder mode"),
    "attention_layers": _obsolete(2, "the depth of the sequence part is num_layers"),
    "single_path_search": _obsolete(True, "use_gdas chooses between one sampled op and the mixture"),
    "use_learned_memory_pooling": _obsolete(True, _PARALLEL_DECODER),
    "memory_num_queries": _obsolete(8, _PARALLEL_DECODER),
    "competition_power": _obsolete(1.25, "the temperature sharpens the mixture"),
    "adaptive_bias_scale": _obsolete(0.15, _NO_TRACKER),
    "performance_ema_decay": _obsolete(0.95, _NO_TRACKER),
    "progressive_edge_budget": _obsolete(True, "every edge is searched from the first step"),
    "tie_encoder_decoder_arch": _obsolete(True, "encoder and decoder have no choices of their own"),
    "use_drnas": _obsolete(True, "relaxation='drnas' chooses it", False),
    "drnas_concentration": _obsolete(8.0, "the concentrations are elu(logit) + 1"),
    "use_fair_darts_hierarchical": _obsolete(True, "relaxation='fair' chooses it", False),
}
_ROBUST: dict[str, Keyword] = {"topk_ref": _obsolete(None, "every pool keeps its top_k")}

#: function or class → keyword → entry; what is not listed works.
TABLE: dict[str, dict[str, Keyword]] = {
    "train_darts_model": _BILEVEL,
    "DARTSTrainConfig": _BILEVEL,
    "train_final_model": _FINAL,
    "multi_fidelity_search": _SEARCH,
    "TimeSeriesDARTS": _NETWORK,
    "robust_initial_pool_over_op_pools": _ROBUST,
    "RobustPoolSearchConfig": _ROBUST,
}


def keywords_with_defaults(function: Callable[..., Any]) -> dict[str, Any]:
    """Return every named parameter of a function that has a default, with it."""
    parameters = inspect.signature(function).parameters.values()
    return {p.name: p.default for p in parameters if p.default is not p.empty}


def keyword(function: str, name: str) -> Keyword:
    """Return the entry of a keyword of ``function``; one that has no entry works."""
    return TABLE.get(function, {}).get(name, _WORKS)


def fold_keywords(
    function: str, explicit: Mapping[str, Any], config: object | None, defaults: Mapping[str, Any]
) -> dict[str, Any]:
    """Merge keywords and a configuration: explicit keyword, then configuration, then default.

    A keyword that equals its default counts as not given, so that the configuration decides. An alias that is not
    None replaces the keyword that it stands for, with a ``DeprecationWarning``, and is left out of the result.

    Args:
        function: name in ``TABLE``.
        explicit: keyword → value as received; may hold names beyond ``defaults``, which then count as given.
        config: a dataclass instance, of whose fields those in ``defaults`` or ``explicit`` are used; None for none.
        defaults: keyword → default of the signature.

    Returns:
        Every name of ``defaults`` and ``explicit`` but the aliases.

    Raises:
        InvalidArgument: an alias and the keyword that it stands for are both given, with different values.
    """
    stored = {} if config is None else vars(config)
    folded: dict[str, Any] = {}
    given: set[str] = set()
    for name in [*defaults, *(extra for extra in explicit if extra not in defaults)]:
        if name in explicit and (name not in defaults or not _same(explicit[name], defaults[name])):
            folded[name] = explicit[name]
            given.add(name)
        elif name in stored:
            folded[name] = stored[name]
        else:
            folded[name] = defaults[name]
    aliases = {name: folded.pop(name) for name in list(folded) if keyword(function, name).status == "alias"}
    for name, value in aliases.items():
        if value is not None:
            _apply_alias(function, name, value, folded, given)
    return folded


def warn_keywords(function: str, values: Mapping[str, Any]) -> None:
    """Say which of ``values`` have no effect: one log record for all of them, and a warning for each alias.

    Args:
        function: name in ``TABLE``.
        values: keyword → value as received; those that equal the documented default say nothing.
    """
    dead: list[str] = []
    for name, value in values.items():
        entry = keyword(function, name)
        if _same(value, entry.default) or any(_same(value, other) for other in entry.silent):
            continue
        if entry.status == "alias":
            _deprecated(function, name, entry)
        elif entry.status in ("obsolete", "pending"):
            when = "yet" if entry.status == "pending" else "any more"
            dead.append(f"{name}={value!r} has no effect {when} ({entry.reason})")
    if dead:
        logger.warning("%s(): %s.", function, "; ".join(dead))


def _apply_alias(function: str, name: str, value: Any, folded: dict[str, Any], given: set[str]) -> None:
    entry = keyword(function, name)
    target = str(entry.replacement)
    _deprecated(function, name, entry)
    value = value if entry.convert is None else entry.convert(value, folded)
    if target in given and not _same(folded[target], value):
        raise InvalidArgument(
            f"{function}(): {name} is another name of {target}, and {target}={folded[target]!r} is given as well."
        )
    folded[target] = value


def _deprecated(function: str, name: str, entry: Keyword) -> None:
    message = f"{function}(): {name} is deprecated, use {entry.replacement}."
    warnings.warn(message, DeprecationWarning, stacklevel=_outside())


def _outside() -> int:
    """Return how many calls above this one the first frame outside the package is.

    By default Python shows a ``DeprecationWarning`` only where it points at the script of the user.
    """
    level, frame = 0, sys._getframe()
    while frame.f_back is not None and frame.f_globals.get("__name__", "").startswith((_PACKAGE, "contextlib")):
        level, frame = level + 1, frame.f_back
    return level


def _same(left: Any, right: Any) -> bool:
    """Whether two plain values are equal; a list and a tuple with the same entries are."""
    if isinstance(left, (list, tuple)) and isinstance(right, (list, tuple)):
        return list(left) == list(right)
    return left is right or (type(left) in _PLAIN and type(right) in _PLAIN and left == right)
