"""What the blocks and layers of a network make of its input: features for expressivity, trainability and MeCo."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ..._core.seeding import generator
from .recorder import layer_channel_dim

_BLOCKS: set[type[nn.Module]] = set()


def register_block(module_class: type[nn.Module]) -> None:
    """Count a module as a block: one that maps ``[N, ..., D]`` to ``[N, ..., D]``, features last.

    The first block of a network may take another shape.
    """
    _BLOCKS.add(module_class)


@dataclass(frozen=True)
class Block:
    """One call of a block: its input and its output ``[N, ..., D]``, with their graph."""

    input: Tensor
    output: Tensor
    version: int

    @property
    def features(self) -> Tensor:
        """Output as detached rows, ``[N·..., D]`` float64.

        Raises:
            ValueError: something has overwritten it since.
        """
        if self.output._version != self.version:
            raise ValueError("the output of a block is overwritten in place")
        return self.output.detach().flatten(0, -2).double()


class BlockRecorder:
    """Remembers every call of a registered block, in order.

    Args:
        model: the network; forward hooks go onto its blocks and stay, so give it a private copy.
    """

    def __init__(self, model: nn.Module) -> None:
        self.collecting = False
        self.calls: list[Block] = []
        for module in model.modules():
            if any(cls in _BLOCKS for cls in type(module).__mro__):
                module.register_forward_hook(self._add)

    def _add(self, module: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
        if self.collecting and isinstance(output, Tensor):
            self.calls.append(Block(inputs[0], output, output._version))


def block_jacobian(block: Block, index: int) -> Tensor:
    """Return a one-probe estimate of the mean Jacobian of a block, ``[D, D]`` float64.

    With a Rademacher probe v for the output and its vector-Jacobian product u, the mean over all rows of u vᵀ.

    Args:
        block: a call with equal shapes of input and output.
        index: number of the call; it seeds the probe.
    """
    bits = torch.randint(0, 2, block.output.shape, generator=generator("trainability", index))
    probe = (2 * bits - 1).to(block.output)
    (back,) = torch.autograd.grad(block.output, block.input, probe, retain_graph=True)
    rows = probe.flatten(0, -2).double()
    return back.flatten(0, -2).double().T @ rows / rows.shape[0]


def layer_maps(model: nn.Module, *inputs: Tensor) -> dict[str, Tensor]:
    """Return the output of every linear and convolutional layer for one window.

    Args:
        model: the network; hooks are on its layers while this runs.
        inputs: what the network takes for one window: ``x [1, L, C]`` and perhaps ``x_future [1, H, F]``.

    Returns:
        Name → ``[channels, positions]``, detached; the positions of all calls of a layer stand side by side.
    """
    found: dict[str, list[Tensor]] = {}

    def watch(name: str, dim: int) -> Callable[..., None]:
        def hook(module: nn.Module, inputs: Any, output: Tensor) -> None:
            found.setdefault(name, []).append(output.detach().movedim(dim, 0).flatten(1))

        return hook

    with contextlib.ExitStack() as hooks, torch.no_grad():
        for name, module in model.named_modules():
            dim = layer_channel_dim(module)
            if dim is not None:
                hooks.callback(module.register_forward_hook(watch(name, dim)).remove)
        model(*inputs)
    return {name: torch.cat(parts, dim=1) for name, parts in found.items()}
