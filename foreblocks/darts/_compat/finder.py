"""The finder behind the old module paths."""

from __future__ import annotations

import importlib
import logging
import sys
from collections.abc import Mapping, Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

from .._core.errors import nearest
from .._core.logging import get_logger
from .table import OLD_PATHS

logger = get_logger(__name__)


class OldPathFinder(MetaPathFinder):
    """Finds the modules of ``OLD_PATHS`` below a package.

    Args:
        package: name of the package that the paths are relative to.
    """

    def __init__(self, package: str) -> None:
        self.package = package

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Return the spec of an old path, and None for every other module."""
        prefix = f"{self.package}."
        old = fullname.removeprefix(prefix)
        if not fullname.startswith(prefix) or old not in OLD_PATHS:
            return None
        is_package = any(other.startswith(f"{old}.") for other in OLD_PATHS)
        return ModuleSpec(fullname, OldPathLoader(self.package, OLD_PATHS[old]), is_package=is_package)


class OldPathLoader(Loader):
    """Makes a module whose attributes are looked up where they live now.

    Args:
        package: name of the package that the targets are relative to.
        names: name → ``"module:attribute"``.
    """

    def __init__(self, package: str, names: Mapping[str, str]) -> None:
        self.package = package
        self.names = names

    def exec_module(self, module: ModuleType) -> None:
        """Give the module its ``__getattr__`` and its ``__all__``."""

        def lookup(name: str) -> Any:
            if name not in self.names:
                raise AttributeError(
                    f"module {module.__name__!r} has no attribute {name!r}.{nearest(name, self.names)}"
                )
            where, _, attribute = self.names[name].partition(":")
            value = getattr(importlib.import_module(f"{self.package}.{where}"), attribute)
            module.__dict__[name] = value
            return value

        logger.log(logging.DEBUG, "%s is an old path; see foreblocks.darts._compat.table.", module.__name__)
        module.__doc__ = "An old module path; see foreblocks.darts._compat."
        module.__dict__.update(__getattr__=lookup, __all__=sorted(self.names), __dir__=lambda: sorted(self.names))


def install(package: str) -> None:
    """Add the finder for ``package`` once."""
    if not any(isinstance(finder, OldPathFinder) and finder.package == package for finder in sys.meta_path):
        sys.meta_path.append(OldPathFinder(package))
