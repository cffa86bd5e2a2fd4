"""What one forward pass leaves behind for the scores: activation kernels, and per-channel saliencies of layers.

A ``TorchFunctionMode`` sees activations whether they are modules or plain function calls, lives in one thread only and
changes nothing outside its ``with`` block.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

_EXACT_FLOAT32 = 2**24  # a float32 sum of ones is exact up to here


def _same(x: Tensor) -> Tensor:
    return x


def _gate_half(x: Tensor) -> Tensor:
    return x.chunk(2, dim=-1)[1]


# Function → what its sign pattern is read from. F.glu gates by the second half of its input.
_ACTIVATIONS: dict[Callable[..., Any], Callable[[Tensor], Tensor]] = dict.fromkeys(
    (
        F.relu, torch.relu, torch.relu_, Tensor.relu, Tensor.relu_, F.relu6, F.leaky_relu, F.prelu, torch.prelu,
        F.gelu, F.silu, F.elu, F.selu, torch.selu, F.celu, torch.celu, F.mish, F.softplus, F.logsigmoid, F.hardswish,
        F.hardsigmoid, F.hardtanh, F.softsign, torch.tanh, Tensor.tanh, F.tanh, torch.sigmoid, Tensor.sigmoid,
        F.sigmoid,
    ),
    _same,
)  # fmt: skip
_ACTIVATIONS[F.glu] = _gate_half

# Layer class → dimension of its output that holds the channels. Subclasses count as their base.
_LAYERS: dict[type[nn.Module], int] = {nn.Linear: -1, nn.Conv1d: 1, nn.Conv2d: 1}


def register_fisher_layer(module_class: type[nn.Module], channel_dim: int) -> None:
    """Make Fisher see a layer of another class: one with a ``weight`` and channels in ``channel_dim`` of its output.

    Args:
        module_class: the layer; ``weight.numel()`` must be a multiple of the number of channels.
        channel_dim: dimension of the output ``[N, ...]``, never 0.
    """
    _LAYERS[module_class] = channel_dim


def layer_channel_dim(module: nn.Module) -> int | None:
    """Return the dimension of a layer's output that holds the channels; None for other modules."""
    return next((_LAYERS[cls] for cls in type(module).__mro__ if cls in _LAYERS), None)


def by_sample(x: Tensor, batch: int) -> Tensor | None:
    """Return ``x [N, ...]`` as ``[batch, -1]``, or None if its rows cannot be told apart by sample.

    Networks that fold channels, heads or patches into the batch keep the sample outermost, so the rows of one sample
    are neighbours.
    """
    if x.dim() < 2 or x.shape[0] == 0 or x.shape[0] % batch or isinstance(x, nn.Parameter):
        return None
    return x.reshape(batch, -1)


class ActivationRecorder(TorchFunctionMode):
    """Sums NASWOT kernels and cosine similarities over all activations of a forward pass.

    Args:
        batch: number of samples B.

    Attributes:
        kernel: ``[B, B]`` float64, Σ over activations of c cᵀ + (1 − c)(1 − c)ᵀ with c = [pre-activation > 0]
            (Mellor et al., ICML 2021).
        similarities: mean |cosine| between the outputs of two different samples, one float64 scalar per activation.
    """

    def __init__(self, batch: int) -> None:
        super().__init__()
        self.batch = batch
        self.kernel: Tensor | None = None
        self.similarities: list[Tensor] = []

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        read = _ACTIVATIONS.get(func)
        if read is None:
            return func(*args, **kwargs)
        source = args[0] if args else kwargs["input"]
        # Before the call: an in-place activation overwrites its input.
        watched = by_sample(source, self.batch) is not None
        if watched:
            with torch.no_grad():
                self._add_kernel(read(source).reshape(self.batch, -1))
        result = func(*args, **kwargs)
        if watched:
            with torch.no_grad():
                self._add_similarity(result.reshape(self.batch, -1))
        return result

    def _add_kernel(self, rows: Tensor) -> None:
        exact = torch.float32 if rows.shape[1] < _EXACT_FLOAT32 else torch.float64
        codes = (rows > 0).to(exact)
        both = (codes @ codes.T).double()
        ones = both.diagonal()
        # (1 − c)(1 − c)ᵀ = P − |c_i| − |c_j| + c cᵀ: one product instead of two.
        kernel = 2.0 * both + rows.shape[1] - ones.unsqueeze(0) - ones.unsqueeze(1)
        self.kernel = kernel if self.kernel is None else self.kernel + kernel

    def _add_similarity(self, rows: Tensor) -> None:
        if self.batch < 2:
            return
        gram = (rows @ rows.T).double()
        norms = gram.diagonal().clamp_min(0.0).sqrt()
        scale = norms.unsqueeze(0) * norms.unsqueeze(1)
        # Silent samples cannot be told apart: cosine 1.
        cosine = torch.where(scale > 0, gram.abs() / scale.clamp_min(torch.finfo(torch.float64).tiny), 1.0)
        off = cosine.sum() - cosine.diagonal().sum()
        self.similarities.append(off / (self.batch * (self.batch - 1)))


class FisherRecorder:
    """Collects, during one backward pass, Σ over positions of a·∂L/∂a for each channel of each layer.

    The sum runs over all calls of a layer, so folding channels into the batch and looping over them agree.

    Args:
        model: the network; forward hooks go onto its layers and stay, so give it a private copy.
        batch: number of samples B.
    """

    def __init__(self, model: nn.Module, batch: int) -> None:
        self.batch = batch
        self.collecting = False
        self.sums: dict[str, Tensor] = {}
        self.fan_in: dict[str, float] = {}
        self._changed: set[str] = set()
        for name, module in model.named_modules():
            dim = layer_channel_dim(module)
            if dim is not None:
                module.register_forward_hook(self._watch(name, dim))

    def _watch(self, name: str, dim: int) -> Callable[..., None]:
        def hook(module: nn.Module, inputs: Any, output: Tensor) -> None:
            if self.collecting and output.requires_grad and by_sample(output, self.batch) is not None:
                self.fan_in[name] = cast("Tensor", module.weight).numel() / output.shape[dim]
                # The detached alias shares the version counter; a hook that held the output would be a cycle.
                seen, version = output.detach(), output._version
                output.register_hook(lambda grad: self._add(name, dim, (seen, version), grad.detach()))

        return hook

    def _add(self, name: str, dim: int, seen: tuple[Tensor, int], grad: Tensor) -> None:
        if not self.collecting:
            return
        output, version = seen
        if output._version != version:
            self._changed.add(name)
            return
        product = (output * grad).movedim(dim, -1)
        product = product.reshape(self.batch, -1, product.shape[-1]).sum(dim=1, dtype=torch.float64)
        self.sums[name] = self.sums[name] + product if name in self.sums else product

    def score(self) -> float:
        """Return Σ over layers and channels of fan-in · ½ · mean over samples of the squared sum.

        Raises:
            ValueError: there is no layer to read, or the output of one was overwritten in place.
        """
        if self._changed:
            raise ValueError(f"the outputs of {sorted(self._changed)} are overwritten in place")
        if not self.sums:
            raise ValueError("the network has no linear or convolutional layer whose rows belong to samples")
        return sum(self.fan_in[name] * 0.5 * float(s.square().mean(dim=0).sum()) for name, s in self.sums.items())
