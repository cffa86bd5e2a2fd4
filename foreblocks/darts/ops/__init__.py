"""The operations of the search space: importing this package registers all of them."""

from . import conv, decomposition, mlp, patch, spectral
from .registry import (
    FAMILIES,
    OpInfo,
    build_op,
    get_op,
    import_op,
    op_families,
    op_names,
    register_op,
    resolve_ops,
)

__all__ = [
    "FAMILIES",
    "OpInfo",
    "build_op",
    "conv",
    "decomposition",
    "get_op",
    "import_op",
    "mlp",
    "op_families",
    "op_names",
    "patch",
    "register_op",
    "resolve_ops",
    "spectral",
]
