"""Settings and results of zero-cost evaluation, as the documented API shows them."""

from __future__ import annotations

from dataclasses import dataclass, field

from .proxies import base_weights


@dataclass
class Config:
    """How a network was screened.

    ``weights``, ``max_samples``, ``num_batches`` and ``fast_mode`` describe what ran. The other fields belonged to
    approximations (sub-sampled outputs, random probes, power iterations, timeouts) that exact shared passes have made
    unnecessary; they are kept so that old code can read them, and have no effect.
    """

    weights: dict[str, float] = field(default_factory=base_weights)
    max_samples: int = 32
    num_batches: int = 1
    fast_mode: bool = True
    max_outputs: int = 10
    eps: float = 1e-8
    timeout: float = 30.0
    enable_mixed_precision: bool = False
    jacobian_probes: int = 2
    snip_at_init: bool = True
    snip_mode: str = "init"
    heavy_metrics_batches: int = 1
    gradient_max_samples: int = 4
    fisher_per_sample: bool = True
    conditioning_every_n_layers: int = 3
    conditioning_min_out_features: int = 0
    conditioning_power_iters: int = 6
    conditioning_exact_max_dim: int = 64
    conditioning_inverse_shift: float = 1e-6


@dataclass(frozen=True)
class Result:
    """One metric of one network.

    Attributes:
        metric: name.
        value: the value; None if it could not be computed.
        success: whether there is a value.
        error: the reason if there is none.
    """

    metric: str
    value: float | None
    success: bool = True
    error: str = ""
