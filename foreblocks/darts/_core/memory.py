"""The memory allocator of a process that belongs to us."""

from __future__ import annotations

import ctypes
import os
import platform
from functools import cache

# Numbers of <malloc.h>, and values in bytes. 32 MB is the largest threshold that every glibc takes.
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
_KEPT, _MAPPED = 1 << 30, 32 << 20
_USERS = ("MALLOC_MMAP_THRESHOLD_", "MALLOC_TRIM_THRESHOLD_", "MALLOC_TOP_PAD_", "GLIBC_TUNABLES")


@cache
def keep_freed_memory() -> bool:
    """Let this process keep up to 1 GB that it frees, for its next buffers; return whether it does.

    By default glibc gives the activations of a training step back to the system after the backward pass, and the next
    step pays a page fault for every 4 KB of them: thousands a step. Meant for worker processes and the command line,
    since a library does not tune its caller's allocator. Nothing happens without glibc, or where the environment
    already tunes it.
    """
    if platform.libc_ver()[0] != "glibc" or any(name in os.environ for name in _USERS):
        return False
    mallopt = ctypes.CDLL(None).mallopt
    return bool(mallopt(_M_MMAP_THRESHOLD, _MAPPED)) and bool(mallopt(_M_TRIM_THRESHOLD, _KEPT))
