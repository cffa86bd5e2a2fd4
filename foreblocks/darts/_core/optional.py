"""Optional packages: imported on use, with one clear error when they are missing."""

from __future__ import annotations

import importlib
from types import ModuleType

from .errors import OptionalDependencyError


def require(module: str, *, extra: str, feature: str) -> ModuleType:
    """Import ``module`` or raise ``OptionalDependencyError`` naming the extra that brings it.

    Args:
        module: dotted module name, such as ``"matplotlib.pyplot"``.
        extra: name of the extra of this distribution that installs it.
        feature: what the caller was about to do, for the message.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise OptionalDependencyError(
            f"{feature} needs the package {module.partition('.')[0]!r}: pip install 'foreblocks-darts[{extra}]'"
        ) from error
