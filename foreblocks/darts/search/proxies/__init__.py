"""Zero-cost proxies: scores of an untrained network from a handful of shared passes."""

from . import extras, metrics
from .evaluate import ProxyReport, evaluate_proxies
from .features import register_block
from .library import register_library
from .passes import Passes
from .recorder import register_fisher_layer
from .registry import ProxyInfo, base_weights, get_proxy, normalize_value, proxy_names, register_proxy, resolve_proxies
from .synflow import register_synflow_bypass
from .weights import SearchableModel, named_weights, prunable_weights

register_library()

__all__ = [
    "Passes",
    "ProxyInfo",
    "ProxyReport",
    "SearchableModel",
    "base_weights",
    "evaluate_proxies",
    "extras",
    "get_proxy",
    "metrics",
    "named_weights",
    "normalize_value",
    "proxy_names",
    "prunable_weights",
    "register_block",
    "register_fisher_layer",
    "register_proxy",
    "register_synflow_bypass",
    "resolve_proxies",
]
