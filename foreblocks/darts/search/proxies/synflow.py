"""SynFlow (Tanaka et al., NeurIPS 2020) for networks with norms, gates and decompositions, at any depth."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from .weights import arch_parameter_ids, prunable_weights

_NORM_FUNCTIONS = (F.layer_norm, F.rms_norm, F.group_norm, F.instance_norm, F.batch_norm)
# Every product that a weight or an attention can be part of; the operator ``@`` arrives as ``Tensor.matmul``.
_LINEAR_FUNCTIONS = frozenset(
    (
        F.linear, F.bilinear, torch.matmul, Tensor.matmul, Tensor.__matmul__, Tensor.__rmatmul__, torch.mm, Tensor.mm,
        torch.mv, Tensor.mv,
        torch.bmm, Tensor.bmm, torch.addmm, Tensor.addmm, torch.baddbmm, Tensor.baddbmm, torch.addbmm, Tensor.addbmm,
        torch.einsum, torch.tensordot, F.scaled_dot_product_attention, F.conv1d, F.conv2d, F.conv3d, torch.conv1d,
        torch.conv2d, torch.conv3d, F.conv_transpose1d, F.conv_transpose2d, F.conv_transpose3d,
    )
)  # fmt: skip
_CEILING = 1e3
_BYPASSES: dict[type[nn.Module], Callable[..., Any]] = {}


def register_synflow_bypass(module_class: type[nn.Module], function: Callable[..., Any]) -> None:
    """Say what a module does while SynFlow runs: ``function(module, *inputs)`` replaces its ``forward``.

    SynFlow needs a network in which nothing subtracts and nothing normalises. The norm functions of
    ``torch.nn.functional`` are skipped anyway; this is for modules that compute such a thing themselves.

    Args:
        module_class: the class; subclasses count as their base.
        function: called with the module and its inputs, returns what ``forward`` returns.
    """
    _BYPASSES[module_class] = function


class _Positive(TorchFunctionMode):
    """Skips norms; with ``rescale`` it also divides large outputs of linear maps and remembers by how much."""

    def __init__(self, *, rescale: bool) -> None:
        super().__init__()
        self.rescale = rescale
        self.log_scale = 0.0

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func in _NORM_FUNCTIONS:
            return args[0] if args else kwargs["input"]
        result = func(*args, **kwargs)
        if self.rescale and func in _LINEAR_FUNCTIONS:
            peak = float(result.detach().abs().max())
            if _CEILING < peak < math.inf:
                self.log_scale += math.log(peak)
                return result / peak
        return result


def log_synflow(model: nn.Module, *shapes: tuple[int, ...]) -> float:
    """Return log Σ |w · ∂R/∂w| over the prunable weights, R the sum of the outputs for an input of ones.

    Runs in float64 on a private copy in which parameters and buffers are replaced by their absolute values (alphas
    keep theirs: they are no weights), norms are skipped and registered modules replaced. Where a deep gated network
    leaves the range of float64, the outputs of linear maps are rescaled and the logarithms of the factors added back,
    which is exact for a chain of layers and a monotone stand-in otherwise.

    Args:
        model: the network.
        shapes: shape of each input: ``(1, L, C)``, and ``(1, H, F)`` where the network takes covariates.

    Raises:
        ValueError: no signal reaches a weight, or none is finite.
    """
    twin = copy.deepcopy(model).double().eval()
    alphas = arch_parameter_ids(twin)
    with torch.no_grad():
        for tensor in (*twin.parameters(), *twin.buffers()):
            if id(tensor) not in alphas and tensor.is_floating_point():
                tensor.abs_()
    for module in twin.modules():
        function = next((_BYPASSES[cls] for cls in type(module).__mro__ if cls in _BYPASSES), None)
        if function is not None:
            module.forward = partial(function, module)
    score = _flow(twin, shapes, _Positive(rescale=False))
    if not math.isfinite(score):
        score = _flow(twin, shapes, _Positive(rescale=True))
    if not math.isfinite(score):
        raise ValueError(f"the synaptic flow is {score}")
    return score


def _flow(twin: nn.Module, shapes: Sequence[tuple[int, ...]], mode: _Positive) -> float:
    weights = [parameter.requires_grad_() for _, parameter in prunable_weights(twin)]
    if not weights:
        raise ValueError("the network has no prunable weight")
    device = weights[0].device
    ones = [torch.ones(shape, dtype=torch.float64, device=device) for shape in shapes]
    with torch.enable_grad(), mode:
        total = twin(*ones).sum()
    grads = torch.autograd.grad(total, weights, allow_unused=True)
    terms = [(w.detach() * g).abs().sum() for w, g in zip(weights, grads, strict=True) if g is not None]
    flow = torch.as_tensor(sum(terms), dtype=torch.float64)
    if float(flow) == 0.0:
        raise ValueError("no synaptic flow reaches a weight")
    return float(flow.log()) + mode.log_scale
