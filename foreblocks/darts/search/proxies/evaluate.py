"""Score one network on one batch."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field

from torch import Tensor, nn

from ..._core.logging import get_logger
from ...evaluation.losses import get_loss_function
from .passes import FAILURES, Passes
from .registry import get_proxy, resolve_proxies

logger = get_logger(__name__)


@dataclass(frozen=True)
class ProxyReport:
    """Values of the proxies that could be computed, and the reason for each that could not.

    Attributes:
        values: name → finite value.
        errors: name → reason; no name is in both.
    """

    values: dict[str, float] = field(default_factory=dict)
    errors: dict[str, str] = field(default_factory=dict)


def evaluate_proxies(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    *,
    loss_type: str = "mse",
    fast_mode: bool = True,
    names: Iterable[str] | None = None,
    x_future: Tensor | None = None,
) -> ProxyReport:
    """Compute proxies of ``model`` on one batch, from passes that they share.

    The network comes back untouched. A proxy that fails, or whose value is not finite, is absent from ``values``.

    Args:
        model: maps ``x [B, L, C]`` to ``[B, H, C]``.
        x: inputs ``[B, L, C]``.
        y: targets ``[B, H, C]``.
        loss_type: name of a loss (``evaluation.losses``), taken over the whole horizon.
        fast_mode: take GraSP from a finite difference of gradients instead of a second backward pass.
        names: proxies to compute; None means the default ones: the contract's, and those that cost next to nothing.
        x_future: covariates ``[B, H, F]``, for a network that takes them.

    Raises:
        InvalidArgument: an unknown proxy or loss.
    """
    chosen = resolve_proxies(names)
    passes = Passes(model, x, y, get_loss_function(loss_type), fast_mode=fast_mode, x_future=x_future)
    report = ProxyReport()
    for name in chosen:
        try:
            value = get_proxy(name).cls().compute(passes)
        except FAILURES as error:
            report.errors[name] = f"{type(error).__name__}: {error}"
            logger.info("proxy %s has no value: %s", name, report.errors[name])
            continue
        if math.isfinite(value):
            report.values[name] = value
        else:
            report.errors[name] = f"the value is {value}"
            logger.info("proxy %s has no value: %s", name, report.errors[name])
    return report
