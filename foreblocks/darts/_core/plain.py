"""Turn results into plain Python: what is saved loads anywhere, without this package and without pickle."""

from __future__ import annotations

import dataclasses
import enum
from collections.abc import Mapping
from pathlib import PurePath
from typing import Any

import numpy as np
import torch


def to_plain(value: Any, *, tensors: bool = False) -> Any:
    """Return ``value`` as dicts with string keys, lists, str, int, float, bool and None.

    Args:
        value: any nesting of containers, dataclasses, numpy scalars and arrays, tensors and paths.
        tensors: keep ``torch.Tensor`` leaves as detached CPU tensors (for ``torch.save``); else they become lists.

    Raises:
        TypeError: for a leaf that has no plain form (a module, a function).
    """
    if value is None or (isinstance(value, (bool, int, float, str)) and not isinstance(value, enum.Enum)):
        return value
    if isinstance(value, enum.Enum):
        return to_plain(value.value, tensors=tensors)
    if isinstance(value, torch.Tensor):
        return value.detach().cpu().clone() if tensors else value.detach().cpu().tolist()
    if isinstance(value, np.ndarray):
        return value.tolist()
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, (PurePath, torch.device, torch.dtype)):
        return str(value)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: to_plain(getattr(value, f.name), tensors=tensors) for f in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(key): to_plain(item, tensors=tensors) for key, item in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        items = sorted(value, key=str) if isinstance(value, (set, frozenset)) else value
        return [to_plain(item, tensors=tensors) for item in items]
    raise TypeError(f"{type(value).__qualname__} has no plain form")
