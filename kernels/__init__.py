"""Hot-path operations: one name each, a plain PyTorch reference beneath every faster form.

Import as ``foreblocks.darts.kernels``; this folder is only where the files live.
"""

from .reference import (
    causal_conv1d,
    conv1d,
    conv_transpose1d,
    depthwise_conv1d,
    mixed_sum,
    moving_average,
    selective_scan,
    time_linear,
)

__all__ = [
    "causal_conv1d",
    "conv1d",
    "conv_transpose1d",
    "depthwise_conv1d",
    "mixed_sum",
    "moving_average",
    "selective_scan",
    "time_linear",
]
