"""The errors that this package raises on purpose, to catch them by name; all derive from ``DartsError``.

A bad argument is also a ``ValueError``, so code that catches that one goes on working.
"""

from ._core.errors import (
    DartsError,
    DataError,
    DivergedError,
    InvalidArgument,
    OptionalDependencyError,
    SearchFailed,
)

__all__ = ["DartsError", "DataError", "DivergedError", "InvalidArgument", "OptionalDependencyError", "SearchFailed"]
