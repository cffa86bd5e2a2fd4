"""The one place where a zero-cost proxy is named, with its weight and its normalisation."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Protocol, TypeVar

from ..._core.errors import InvalidArgument, check_choice, nearest
from .passes import Passes

NORMS = ("log1p", "signed_log1p", "conditioning")
LOG_CONDITION_CAP = 30.0


class Proxy(Protocol):
    """A score of an untrained network, computed from passes that all proxies share."""

    def compute(self, passes: Passes) -> float:
        """Return the value; raises ``ValueError`` or ``RuntimeError`` with the reason when there is none."""
        ...


ProxyClass = TypeVar("ProxyClass", bound=type[Proxy])


@dataclass(frozen=True)
class ProxyInfo:
    """What the registry knows of a proxy.

    Attributes:
        name: key in every result.
        cls: final class with ``compute(passes) -> float``.
        weight: weight in the contract's score; 0 for extras.
        norm: how a raw value is squashed before it is weighed: ``log1p`` is log(1 + max(v, 0)), ``signed_log1p`` is
            sign(v)·log(1 + |v|), ``conditioning`` is min(v, 30)/30.
        direction: +1 if a larger value is the better one, -1 if the smaller.
        contract: one of the eleven metrics of the documented API; the others are reported as extras.
        default: computed when no names are given.
    """

    name: str
    cls: type[Proxy]
    weight: float
    norm: str
    direction: int
    contract: bool
    default: bool


_REGISTRY: dict[str, ProxyInfo] = {}


def register_proxy(
    name: str,
    *,
    weight: float = 0.0,
    norm: str = "log1p",
    direction: int = 1,
    contract: bool = False,
    default: bool = True,
) -> Callable[[ProxyClass], ProxyClass]:
    """Register a class as the proxy ``name``; the arguments are the fields of ``ProxyInfo``.

    Raises:
        InvalidArgument: the name is taken by another class, or a value is out of range.
    """
    check_choice("norm", norm, NORMS)
    check_choice("direction", direction, (1, -1))

    def decorate(cls: ProxyClass) -> ProxyClass:
        known = _REGISTRY.get(name)
        if known is not None and known.cls.__qualname__ != cls.__qualname__:
            raise InvalidArgument(f"proxy name {name!r} is already taken by {known.cls.__qualname__}.")
        _REGISTRY[name] = ProxyInfo(name, cls, float(weight), norm, direction, contract, default)
        return cls

    return decorate


def get_proxy(name: str) -> ProxyInfo:
    """Return the entry of a proxy; an unknown name raises ``InvalidArgument`` with the nearest one."""
    try:
        return _REGISTRY[name]
    except KeyError:
        raise InvalidArgument(f"unknown proxy {name!r}; known: {proxy_names()}.{nearest(name, _REGISTRY)}") from None


def own_proxies() -> list[ProxyInfo]:
    """Return the entries of the proxies that are no part of this package."""
    return [info for info in _REGISTRY.values() if not f"{info.cls.__module__}.".startswith(f"{__package__}.")]


def set_own_proxies(infos: Iterable[ProxyInfo]) -> None:
    """Know the proxies of the package and these, which ``own_proxies`` returned in another process."""
    for info in own_proxies():
        del _REGISTRY[info.name]
    _REGISTRY.update({info.name: info for info in infos})


def proxy_names(*, contract: bool | None = None, default: bool | None = None) -> list[str]:
    """Return the registered names: all, or those whose ``contract`` and ``default`` are as given."""
    return [
        name
        for name, info in _REGISTRY.items()
        if contract in (None, info.contract) and default in (None, info.default)
    ]


def resolve_proxies(names: Iterable[str] | None) -> list[str]:
    """Check a list of names; None means the default ones."""
    return proxy_names(default=True) if names is None else list(dict.fromkeys(get_proxy(name).name for name in names))


def base_weights() -> dict[str, float]:
    """Return name → weight for the metrics of the contract (Σ|w| = 1.5)."""
    return {name: _REGISTRY[name].weight for name in proxy_names(contract=True)}


def normalize_value(value: float, norm: str) -> float:
    """Squash a raw value as ``norm`` says (see ``ProxyInfo``)."""
    if norm == "log1p":
        return math.log1p(max(value, 0.0))
    if norm == "signed_log1p":
        return math.copysign(math.log1p(abs(value)), value)
    return min(value, LOG_CONDITION_CAP) / LOG_CONDITION_CAP
