"""A tree of plain data and tensors in one file that is either whole or not there: what a training is taken up from."""

from __future__ import annotations

import hashlib
import json
import math
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from .._core.logging import get_logger

logger = get_logger(__name__)

_MARKS = ("$tensor", "$array", "$tuple", "$items")


def pack(tree: Any) -> tuple[str, dict[str, Tensor]]:
    """Return a tree as JSON, and beside it one flat CPU tensor per dtype; ``unpack`` gives the tree back exactly.

    Args:
        tree: any nesting of dicts, lists, tuples, numbers, texts, None, tensors and numpy arrays.

    Raises:
        TypeError: for any other leaf.
    """
    leaves = _Leaves()
    text = json.dumps(_packed(tree, leaves))
    return text, {name: torch.cat(parts) for name, parts in leaves.parts.items()}


def unpack(text: str, tensors: dict[str, Tensor]) -> Any:
    """Inverse of ``pack``."""
    return _unpacked(json.loads(text), tensors)


def without_tensors(text: str) -> str:
    """Return the JSON that ``pack`` made of a dict, with None for every entry that holds a tensor or an array."""
    tree = json.loads(text)
    return json.dumps({key: None if _holds_tensors(value) else value for key, value in tree.items()})


@final
class _Leaves:
    """The tensors of a tree, flat, by dtype. A state has hundreds of small ones: written singly they take longer."""

    def __init__(self) -> None:
        self.parts: dict[str, list[Tensor]] = {}
        self._sizes: dict[str, int] = {}

    def add(self, tensor: Tensor) -> list[Any]:
        """Add a tensor; return its dtype, its place behind the others of that dtype, and its shape."""
        name = str(tensor.dtype).removeprefix("torch.")
        offset = self._sizes.get(name, 0)
        self._sizes[name] = offset + tensor.numel()
        self.parts.setdefault(name, []).append(tensor.detach().cpu().reshape(-1))
        return [name, offset, list(tensor.shape)]


@dataclass(frozen=True)
class StateFile:
    """A safetensors file with the JSON of the tree and a checksum of everything in its metadata."""

    path: Path

    def save(self, tree: Any) -> None:
        """Write a tree."""
        self.write(*pack(tree))

    def write(self, text: str, tensors: dict[str, Tensor]) -> None:
        """Write what ``pack`` returned: under another name first, which is then changed.

        Whoever reads sees the old file or the new one. A file that a power cut tears is known by its checksum.
        """
        part = self.path.with_name(f".{self.path.name}.{os.getpid()}.part")
        save_file(tensors, part, metadata={"tree": text, "checksum": _checksum(text, tensors)})
        part.replace(self.path)

    def load(self, text: str | None = None) -> Any:
        """Return the tree; None if there is no file, or (said in the log) a damaged one.

        Args:
            text: the JSON that the file must have; None takes any.
        """
        if not self.path.exists():
            return None
        try:
            found, tensors = self._read()
            if text is not None and text != found:
                raise ValueError("it belongs to another result")
            return unpack(found, tensors)
        except (OSError, KeyError, TypeError, ValueError, SafetensorError) as error:
            logger.warning("%s is damaged (%s): going back to what was saved before it.", self.path, error)
            return None

    def _read(self) -> tuple[str, dict[str, Tensor]]:
        with safe_open(self.path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - it is no mapping
        if metadata["checksum"] != _checksum(metadata["tree"], tensors):
            raise ValueError("the checksum does not fit")
        return metadata["tree"], tensors


def tensor_bytes(tensor: Tensor) -> memoryview:
    """Return the bytes of a CPU tensor, for a checksum."""
    return tensor.contiguous().reshape(-1).view(torch.uint8).numpy().data


def _holds_tensors(value: Any) -> bool:
    parts = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    marked = isinstance(value, dict) and not {"$tensor", "$array"}.isdisjoint(value)
    return marked or any(_holds_tensors(part) for part in parts)


def _checksum(text: str, tensors: dict[str, Tensor]) -> str:
    digest = hashlib.blake2b(text.encode(), digest_size=16)
    for name in sorted(tensors):
        digest.update(f"{name}:{tensors[name].dtype}:{tuple(tensors[name].shape)}".encode())
        digest.update(tensor_bytes(tensors[name]))
    return digest.hexdigest()


def _packed(value: Any, leaves: _Leaves) -> Any:
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, Tensor):
        return {"$tensor": leaves.add(value)}
    if isinstance(value, np.ndarray):
        return {"$array": leaves.add(torch.tensor(value))}
    if isinstance(value, list):
        return [_packed(item, leaves) for item in value]
    if isinstance(value, tuple):
        return {"$tuple": [_packed(item, leaves) for item in value]}
    if isinstance(value, dict):
        if all(isinstance(key, str) and key not in _MARKS for key in value):
            return {key: _packed(item, leaves) for key, item in value.items()}
        return {"$items": [[_packed(key, leaves), _packed(item, leaves)] for key, item in value.items()]}
    raise TypeError(f"a {type(value).__qualname__} cannot be saved in a state file")


def _unpacked(value: Any, tensors: dict[str, Tensor]) -> Any:
    if isinstance(value, list):
        return [_unpacked(item, tensors) for item in value]
    if not isinstance(value, dict):
        return value
    mark = next(iter(value)) if len(value) == 1 else None
    if mark in ("$tensor", "$array"):
        name, offset, shape = value[mark]
        # A copy of its own, so that it keeps no other alive, and begins where an allocated tensor does.
        tensor = tensors[name][offset : offset + math.prod(shape)].reshape(shape).clone()
        return tensor if mark == "$tensor" else tensor.numpy()
    if mark == "$tuple":
        return tuple(_unpacked(item, tensors) for item in value[mark])
    if mark == "$items":
        return {_unpacked(key, tensors): _unpacked(item, tensors) for key, item in value[mark]}
    return {key: _unpacked(item, tensors) for key, item in value.items()}
