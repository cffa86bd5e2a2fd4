"""What a user has registered, for worker processes: they begin with the names of the package only."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import final

from ..evaluation.losses import Loss, own_losses, set_own_losses
from ..ops.registry import OpInfo, own_ops, set_own_ops
from .proxies.registry import ProxyInfo, own_proxies, set_own_proxies


@final
@dataclass(frozen=True)
class Registered:
    """Ops, losses and proxies of the user; pickled by value where their module cannot be imported elsewhere."""

    ops: tuple[OpInfo, ...]
    losses: Mapping[str, Loss]
    proxies: tuple[ProxyInfo, ...]

    @classmethod
    def here(cls) -> Registered:
        """Return what this process knows."""
        return cls(tuple(own_ops()), own_losses(), tuple(own_proxies()))

    def enter(self) -> None:
        """Make this process know the same; what else the user had registered in it is forgotten."""
        set_own_ops(self.ops)
        set_own_losses(self.losses)
        set_own_proxies(self.proxies)
