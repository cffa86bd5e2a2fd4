"""Hot-path operations: one name each, a plain PyTorch reference beneath every faster form.

Import as ``foreblocks.darts.kernels``; this folder is only where the files live. ``report()`` says what runs.
"""

from .attention import softmax_attention
from .averages import moving_average
from .causal import causal_conv1d, causal_conv1d_steps, causal_conv1d_update
from .depthwise import depthwise_conv1d
from .depthwise_norm import depthwise_norm_act
from .dispatch import KernelUnavailable
from .gates import gated_act
from .mixture import mixed_sum
from .norms import norm_act
from .products import conv1d, linear, time_linear
from .reference import conv_transpose1d
from .residuals import residual_convs
from .saliencies import batched_jacobian, saliency
from .scan import selective_scan, selective_scan_steps
from .scan_update import selective_state_update
from .spectra import spectral_map
from .table import KernelReport, report
from .wavelets import wavelet_merge, wavelet_split

__all__ = [
    "KernelReport",
    "KernelUnavailable",
    "batched_jacobian",
    "causal_conv1d",
    "causal_conv1d_steps",
    "causal_conv1d_update",
    "conv1d",
    "conv_transpose1d",
    "depthwise_conv1d",
    "depthwise_norm_act",
    "gated_act",
    "linear",
    "mixed_sum",
    "moving_average",
    "norm_act",
    "report",
    "residual_convs",
    "saliency",
    "selective_scan",
    "selective_scan_steps",
    "selective_state_update",
    "softmax_attention",
    "spectral_map",
    "time_linear",
    "wavelet_merge",
    "wavelet_split",
]
