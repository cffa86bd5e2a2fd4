"""Loads the compiled extension, or remembers why there is none. Only this module imports it."""

from __future__ import annotations

import importlib
import logging
from functools import cache

import torch

from .._core.errors import InvalidArgument
from .._core.logging import get_logger

NAMESPACE = "foreblocks_darts"
_logger = get_logger("foreblocks.darts.kernels")


@cache
def load() -> tuple[str | None, str | None]:
    """Load the extension once; return ``(instruction set, None)`` or ``(None, the reason)``.

    Raises:
        InvalidArgument: ``FOREBLOCKS_DARTS_ISA`` names a set that the processor or the build does not have.
    """
    try:
        info = importlib.import_module("foreblocks.darts.kernels._build_info")
    except ModuleNotFoundError:
        return None, "the extension was never built here (pip install --no-build-isolation .)"
    if not info.BUILT:
        return None, f"the extension was not built: {info.REASON}"
    try:
        module = importlib.import_module("foreblocks.darts.kernels._C")
    except ValueError as error:
        raise InvalidArgument(str(error)) from error
    except ImportError as error:
        _logger.log(logging.INFO, "the compiled kernels cannot be loaded: %s", error)
        pair = f"built with torch {info.TORCH}, loaded by torch {torch.__version__}"
        return None, f"the extension ({pair}) cannot be loaded: {error}"
    return module.isa, None


@cache
def load_cuda() -> str | None:
    """Load the CUDA kernels once, a library of their own that only a CUDA torch can load; return why not, or None."""
    if torch.version.cuda is None:
        return f"torch {torch.__version__} is built without CUDA"
    try:
        importlib.import_module("foreblocks.darts.kernels._C_cuda")
    except ModuleNotFoundError:
        try:
            reason = importlib.import_module("foreblocks.darts.kernels._build_info").CUDA_REASON
        except ModuleNotFoundError:
            reason = "the extension was never built here"
        return f"no CUDA extension: {reason}"
    except ImportError as error:
        _logger.log(logging.INFO, "the compiled CUDA kernels cannot be loaded: %s", error)
        return f"the CUDA extension cannot be loaded: {error}"
    return None


def missing(operator: str, device: str) -> str | None:
    """Return why the compiled form of ``operator`` cannot run on ``device``, or None if it can.

    Args:
        operator: name in the library, such as ``"mixed_sum"``.
        device: device type, such as ``"cpu"``.
    """
    reason = load_cuda() if device == "cuda" else load()[1]
    if reason is not None:
        return reason
    key = {"cpu": "CPU", "cuda": "CUDA"}.get(device)
    if key is None or not torch._C._dispatch_has_kernel_for_dispatch_key(f"{NAMESPACE}::{operator}", key):
        return f"no compiled form for device {device!r}"
    return None
