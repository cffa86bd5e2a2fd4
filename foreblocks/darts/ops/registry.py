"""The one place where an operation of the search space is named.

A class decorated with ``@register_op`` is everything the rest of the package needs to know about an op: tables,
default lists, cost terms and tests are read from here.
"""

from __future__ import annotations

import importlib
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from torch import nn

from .._core.errors import InvalidArgument, check_choice, check_list, nearest
from .._core.logging import get_logger

logger = get_logger(__name__)
OpClass = TypeVar("OpClass", bound=type[nn.Module])

FAMILIES = ("mlp", "conv", "frequency", "attention")


@dataclass(frozen=True)
class OpInfo:
    """What the registry knows of an op.

    Attributes:
        name: the name used in search spaces and specs.
        cls: the class; ``cls(dim, length, *, dropout=...)`` maps ``[N, T, D] -> [N, T, D]``.
        family: search family, one of ``FAMILIES`` or a user's own.
        cost: relative cost in [0, 1], used by the efficiency regulariser.
        causal: whether output step t sees no input step later than t.
        min_length: the smallest number of steps T it accepts.
    """

    name: str
    cls: type[nn.Module]
    family: str
    cost: float
    causal: bool
    min_length: int

    @property
    def path(self) -> str:
        """``"module:qualname"`` of the class, enough to import it again in another process."""
        return f"{self.cls.__module__}:{self.cls.__qualname__}"


_REGISTRY: dict[str, OpInfo] = {}


def register_op(
    name: str, *, family: str, cost: float, causal: bool = False, min_length: int = 1
) -> Callable[[OpClass], OpClass]:
    """Register a class as the op ``name``.

    The class takes ``(dim, length, *, dropout)`` and maps ``[N, T, D]`` to ``[N, T, D]`` (contiguous), is
    deterministic in eval mode, treats the N samples independently and is twice differentiable.

    Raises:
        InvalidArgument: the name is taken by another class, or a value is out of range.
    """
    if not name or not isinstance(name, str):
        raise InvalidArgument(f"name={name!r} must be a non-empty string.")
    if not 0.0 <= cost <= 1.0:
        raise InvalidArgument(f"cost={cost!r} of op {name!r} must be between 0 and 1.")

    def decorate(cls: OpClass) -> OpClass:
        info = OpInfo(name, cls, family.lower(), float(cost), bool(causal), int(min_length))
        known = _REGISTRY.get(name)
        if known is not None and known.path != info.path:
            raise InvalidArgument(f"op name {name!r} is already taken by {known.path}.")
        _REGISTRY[name] = info
        return cls

    return decorate


def get_op(name: str) -> OpInfo:
    """Return the entry of an op; an unknown name raises ``InvalidArgument`` with the nearest one."""
    try:
        return _REGISTRY[name]
    except KeyError:
        raise InvalidArgument(f"unknown op {name!r}; known: {list(_REGISTRY)}.{nearest(name, _REGISTRY)}") from None


def op_names() -> list[str]:
    """Return every registered op, in order of registration."""
    return list(_REGISTRY)


def own_ops() -> list[OpInfo]:
    """Return the entries of the ops that are no part of this package."""
    return [info for info in _REGISTRY.values() if not f"{info.cls.__module__}.".startswith(f"{__package__}.")]


def set_own_ops(infos: Sequence[OpInfo]) -> None:
    """Know the ops of the package and these, which ``own_ops`` returned in another process."""
    for info in own_ops():
        del _REGISTRY[info.name]
    _REGISTRY.update({info.name: info for info in infos})


def op_families(names: Sequence[str] | None = None) -> dict[str, list[str]]:
    """Return family → op names, for all ops or for those in ``names``."""
    families: dict[str, list[str]] = {}
    for name in op_names() if names is None else names:
        families.setdefault(get_op(name).family, []).append(name)
    return families


def resolve_ops(names: Sequence[str], *, on_unknown: str = "raise") -> list[str]:
    """Check a list of op names: no unknown one, no double, at least one.

    Args:
        names: op names.
        on_unknown: ``"raise"``, or ``"ignore"`` to log and drop unknown names.

    Raises:
        InvalidArgument: an unknown name (with ``"raise"``), a double name, or nothing left.
    """
    if isinstance(names, str):
        raise InvalidArgument(f"ops={names!r} must be a list of names, not one string.")
    check_choice("on_unknown", on_unknown, ("raise", "ignore"))
    kept: list[str] = []
    for name in names:
        if on_unknown == "ignore" and name not in _REGISTRY:
            logger.warning("op %r is unknown and left out.%s", name, nearest(name, _REGISTRY))
            continue
        get_op(name)
        if name in kept:
            raise InvalidArgument(f"op {name!r} is listed twice in {list(names)}.")
        kept.append(name)
    if not kept:
        raise InvalidArgument(f"ops={list(names)!r} leaves no op to search over.")
    return kept


def check_families(families: Mapping[str, Sequence[str]], *, on_unknown: str = "raise") -> dict[str, list[str]]:
    """Return family → op names; an unknown name is refused as by ``resolve_ops``, or kept for a space to pass over.

    Raises:
        InvalidArgument: no mapping of lists, or an unknown name (with ``on_unknown="raise"``).
    """
    if not isinstance(families, Mapping):
        raise InvalidArgument(f"op_families={families!r} must be a dictionary, family to list of ops.")
    kept = {family: check_list(f"op_families[{family!r}]", names) for family, names in families.items()}
    for names in kept.values() if on_unknown == "raise" else ():
        for name in names:
            get_op(name)
    return kept


def build_op(name: str, dim: int, length: int, *, dropout: float = 0.0, **params: Any) -> nn.Module:
    """Build an op for ``T = length`` steps of ``dim`` features.

    Raises:
        InvalidArgument: unknown op, or ``length`` is below its minimum.
    """
    info = get_op(name)
    if length < info.min_length:
        raise InvalidArgument(f"op {name!r} needs at least {info.min_length} steps, but length={length}.")
    return info.cls(dim, length, dropout=dropout, **params)


def import_op(name: str, path: str) -> None:
    """Make the op of a stored spec available: import its module, and check that it is the same class.

    Raises:
        InvalidArgument: the module cannot be imported, or does not register that op.
    """
    if name in _REGISTRY and _REGISTRY[name].path == path:
        return
    module = path.partition(":")[0]
    try:
        importlib.import_module(module)
    except ImportError as error:
        raise InvalidArgument(f"op {name!r} was defined in {module!r}, which cannot be imported: {error}.") from error
    if name not in _REGISTRY:
        raise InvalidArgument(f"module {module!r} does not register an op {name!r}.")
    if _REGISTRY[name].path != path:
        logger.log(logging.WARNING, "op %r was %s when saved and is %s now.", name, path, _REGISTRY[name].path)
