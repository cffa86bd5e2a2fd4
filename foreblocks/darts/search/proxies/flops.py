"""Multiply-adds of one sample, counted from the operators that really run."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

aten = torch.ops.aten


def _attention_flops(query: Tensor, key: Tensor, value: Tensor) -> int:
    pairs = query[..., 0].numel() * key.shape[-2]
    return 2 * pairs * (query.shape[-1] + value.shape[-1])


# The table of torch has no entry for the attention kernel that CPUs run.
_EXTRA: dict[Any, Callable[..., int]] = {
    aten._scaled_dot_product_flash_attention_for_cpu: lambda q, k, v, *args, out_val=None, **kw: _attention_flops(
        q, k, v
    ),
    aten.dot: lambda a, b, *args, out_val=None, **kw: 2 * a.numel(),
    aten.mv: lambda a, b, *args, out_val=None, **kw: 2 * a.numel(),
    aten.addmv: lambda c, a, b, *args, out_val=None, **kw: 2 * a.numel(),
}


class _Counter(TorchDispatchMode):
    """Adds up FLOPs below autograd.

    ``torch.utils.flop_counter.FlopCounterMode`` does the same with its module tracker on top, which installs hooks
    for every module of the process; another thread would see them.
    """

    def __init__(self) -> None:
        super().__init__()
        self.total = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        out = func(*args, **kwargs)
        packet = func._overloadpacket
        formula = flop_registry.get(packet) or _EXTRA.get(packet)
        if formula is not None:
            self.total += int(formula(*args, **kwargs, out_val=out))
        return out


def count_flops(model: nn.Module, *inputs: Tensor) -> int:
    """Return 2 × multiply-adds of matrix products, convolutions and attention in one forward pass on one sample.

    Element-wise work, FFTs and scans are not counted.
    """
    counter = _Counter()
    with torch.no_grad(), counter:
        model(*inputs)
    return counter.total
