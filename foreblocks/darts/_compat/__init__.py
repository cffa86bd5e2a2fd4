"""The module paths of earlier releases: old scripts import from them, and nothing in this package does.

``table.OLD_PATHS`` says where each old name lives now. One finder at the end of ``sys.meta_path`` answers for these
paths, so a real module of the same path always wins, and a path costs nothing until it is imported.
"""

from __future__ import annotations

from .finder import install

__all__ = ["install"]
