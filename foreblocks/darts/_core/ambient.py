"""What a caller may have switched in torch for a whole thread or process, put aside while the package works."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def usual_torch() -> Iterator[None]:
    """Run a block, or as a decorator each call, as a new process would; what the caller has set is back afterwards.

    Gradients are recorded, tensors are made in float32 on the CPU, and no inference mode is on, so a phase does the
    same in the process of the caller as in a worker.
    """
    dtype, device = torch.get_default_dtype(), torch.get_default_device()
    try:
        if dtype is not torch.float32:
            torch.set_default_dtype(torch.float32)
        with torch.inference_mode(False), torch.enable_grad():
            if device.type == "cpu":
                yield
            else:
                with torch.device("cpu"):
                    yield
    finally:
        if dtype is not torch.float32:
            torch.set_default_dtype(dtype)
