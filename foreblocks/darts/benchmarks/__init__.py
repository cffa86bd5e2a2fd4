"""Tables to test searches on, without training anything."""

from __future__ import annotations

from .tsnas import SEEDS, TsnasEntry, TsnasTable, load_tsnas

__all__ = ["SEEDS", "TsnasEntry", "TsnasTable", "load_tsnas"]
