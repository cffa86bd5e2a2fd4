"""Explicit randomness: every seed is derived from names, and no global state leaks."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import torch

# torch has one default generator for all threads.
_SEEDED = threading.RLock()


def derive_seed(*parts: object) -> int:
    """Return a 63-bit seed that depends only on ``parts`` (joined as text, hashed with BLAKE2b)."""
    text = ":".join(str(part) for part in parts)
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big") >> 1


def generator(*parts: object) -> torch.Generator:
    """Return a CPU generator seeded by ``derive_seed(*parts)``."""
    return torch.Generator().manual_seed(derive_seed(*parts))


@contextmanager
def seeded(*parts: object) -> Iterator[None]:
    """Run a block under its own torch seed and give the caller's random state back afterwards.

    Blocks of several threads run one after the other, or they would draw each other's numbers.
    """
    # All of them, since the seed goes to all of them.
    devices = (
        list(range(torch.cuda.device_count())) if torch.cuda.is_available() and torch.cuda.is_initialized() else []
    )
    with _SEEDED, torch.random.fork_rng(devices=devices):
        torch.manual_seed(derive_seed(*parts))
        yield
