"""Whether the Triton kernels can run, and how they are started. Triton itself is imported by ``triton_*.py`` only.

The kernels are plain ``@triton.jit`` functions. Each file has a table of configurations from which a shape chooses one;
nothing is tuned at import or at the first call, so a result never depends on a timing.
"""

from __future__ import annotations

import importlib
import os
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import Tensor

from .dispatch import DTYPES

OLDEST = (3, 6)
OLDEST_CAPABILITY = (8, 0)


@dataclass(frozen=True)
class Config:
    """How a kernel is compiled.

    Attributes:
        block: elements, or channels, that one program handles.
        warps: warps that share them.
        rows: rows that one program handles at once, where a kernel works on rows.
    """

    block: int
    warps: int
    rows: int = 1

    @property
    def options(self) -> dict[str, Any]:
        """Options of a launch; fused multiply-add is the default, but Triton 3.9 warns unless that is said."""
        return {"num_warps": self.warps, "enable_fp_fusion": True}


def interpreted() -> bool:
    """Return True if the kernels run in Triton's interpreter, which takes tensors on the CPU."""
    return os.environ.get("TRITON_INTERPRET", "0") == "1"


@cache
def _installed() -> str | None:
    try:
        version: str = importlib.import_module("triton").__version__
    except ImportError as error:
        return f"triton cannot be imported: {error}"
    found = tuple(int(part) for part in version.split("+")[0].split(".")[:2])
    return None if found >= OLDEST else f"triton {version} is older than {'.'.join(map(str, OLDEST))}"


def missing(x: Tensor) -> str | None:
    """Return why no Triton kernel can take ``x``, or None if one can."""
    if x.dtype not in DTYPES:
        return f"the Triton form has no {str(x.dtype).removeprefix('torch.')}"
    if x.device.type == "cpu" and not interpreted():
        return "for GPUs only, or with TRITON_INTERPRET=1"
    if x.device.type not in ("cpu", "cuda"):
        return f"not for device {x.device.type!r}"
    if x.device.type == "cuda" and torch.cuda.get_device_capability(x.device) < OLDEST_CAPABILITY:
        found = torch.cuda.get_device_capability(x.device)
        return "compute capability {}.{} is below {}.{}".format(*found, *OLDEST_CAPABILITY)
    return _installed()


def supports(*tensors: Tensor) -> str | None:
    """Say what is against the Triton form of an operation on these tensors."""
    return missing(tensors[0])


def late(module: str, name: str) -> Callable[..., Any]:
    """Return a function that imports ``kernels/<module>.py`` at its first call and calls its ``name``."""

    def run(*arguments: Any) -> Any:
        return getattr(importlib.import_module(f".{module}", __package__), name)(*arguments)

    return run


def late_pair(module: str) -> tuple[Callable[..., Any], Callable[..., Any]]:
    """Return ``forward`` and ``backward`` of ``kernels/<module>.py``, see ``late``."""
    return late(module, "forward"), late(module, "backward")


def device_of(x: Tensor) -> AbstractContextManager[Any]:
    """Make the device of ``x`` current, as a launch needs it."""
    return torch.cuda.device(x.device) if x.is_cuda else nullcontext()


def blocks(total: int, size: int) -> int:
    """Return ``⌈total / size⌉``."""
    return -(-total // size)


def power_of_two(value: int) -> int:
    """Return the smallest power of two that is at least ``value``."""
    return 1 << max(value - 1, 0).bit_length()


def rows_of(x: Tensor | None, dim: int) -> tuple[Tensor | None, int]:
    """Return x as rows of ``dim``, a view where the layout allows it, and the elements from one row to the next."""
    if x is None:
        return None, dim
    flat = x.reshape(-1, dim)
    flat = flat if dim == 1 or flat.stride(1) == 1 else flat.contiguous()
    return flat, dim if flat.shape[0] < 2 else flat.stride(0)


def whole(x: Tensor | None) -> Tensor | None:
    """Return x contiguous."""
    return None if x is None else x.contiguous()
