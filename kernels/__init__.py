"""Hot-path operations: one name each, a plain PyTorch reference beneath every faster form.

Import as ``foreblocks.darts.kernels``; this folder is only where the files live. ``report()`` says what runs.
"""

from .averages import moving_average
from .depthwise import depthwise_conv1d
from .dispatch import KernelUnavailable
from .mixture import mixed_sum
from .norms import norm_act
from .reference import (
    causal_conv1d,
    conv1d,
    conv_transpose1d,
    selective_scan,
    time_linear,
)
from .table import KernelReport, report

__all__ = [
    "KernelReport",
    "KernelUnavailable",
    "causal_conv1d",
    "conv1d",
    "conv_transpose1d",
    "depthwise_conv1d",
    "mixed_sum",
    "moving_average",
    "norm_act",
    "report",
    "selective_scan",
    "time_linear",
]
