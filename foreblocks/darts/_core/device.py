"""Device choice, mixed precision and thread count."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch

from .errors import InvalidArgument
from .logging import get_logger, log_once

logger = get_logger(__name__)


def resolve_device(device: str | torch.device = "auto") -> torch.device:
    """Return a ``torch.device``; ``"auto"`` means CUDA when it is available, else the CPU.

    Raises:
        InvalidArgument: the string is no device, or names one that this machine does not have.
    """
    if isinstance(device, str) and device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        resolved = torch.device(device)
    except (RuntimeError, TypeError) as error:
        raise InvalidArgument(
            f"device={device!r} is no torch device; use 'auto', 'cpu', 'cuda' or 'cuda:N'."
        ) from error
    if resolved.type == "cuda" and not torch.cuda.is_available():
        raise InvalidArgument(
            f"device={str(resolved)!r} asked for, but CUDA is not available here; use 'auto' or 'cpu'."
        )
    if resolved.type == "cuda" and resolved.index is not None and resolved.index >= torch.cuda.device_count():
        last = torch.cuda.device_count() - 1
        raise InvalidArgument(f"device={str(resolved)!r} asked for; this machine has 'cuda:0' to 'cuda:{last}'.")
    return resolved


def mixed_precision(device: torch.device, enabled: bool) -> AbstractContextManager[Any]:
    """Return the autocast context of training: bfloat16 on CUDA if ``enabled``, else none (said once).

    Not float16: without a scaled loss its small gradients are 0, and the scale would be one more state to hand on.
    """
    if not enabled:
        return nullcontext()
    if device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False):
        return torch.autocast("cuda", dtype=torch.bfloat16)
    log_once(
        logger, logging.DEBUG, f"use_amp=True has no effect on {device.type}: mixed precision needs CUDA with bfloat16."
    )
    return nullcontext()


@contextmanager
def torch_threads(count: int | None) -> Iterator[None]:
    """Run a block with ``count`` intra-op threads (``None`` leaves them) and restore the number afterwards."""
    before = torch.get_num_threads()
    if count is not None and count != before:
        torch.set_num_threads(count)
    try:
        yield
    finally:
        if torch.get_num_threads() != before:
            torch.set_num_threads(before)
