"""The compiled form of an edge: one function for all edges of a structure, with their weights as arguments.

``torch.compile`` takes about a minute for a mixture of five ops, most of it in the C++ compiler. Compiled with the
weights as arguments, and not as a part of the module, the function serves every edge of every network with the same
ops, width and steps.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from types import FunctionType
from typing import final

import torch
from torch import Tensor, nn

from .. import kernels
from .._core.errors import DartsError, InvalidArgument
from .._core.seeding import seeded
from ..ops.registry import build_op
from .mixed_op import EdgeMix, MixedOp

EdgeFunction = Callable[..., Tensor]
_KEPT_FUNCTIONS = 16  # structures; each holds its compiled code for as long


class _Mixture(nn.Module):
    """The weighted sum of all ops of an edge."""

    def __init__(self, names: Sequence[str], width: int, length: int, dropout: float) -> None:
        super().__init__()
        self.ops = nn.ModuleDict({name: build_op(name, width, length, dropout=dropout) for name in names})

    def forward(self, x: Tensor, weights: Tensor) -> Tensor:
        """Map ``[N, T, D]`` to ``[N, T, D]``."""
        return kernels.mixed_sum([op(x) for op in self.ops.values()], weights)


def edge_tensors(ops: nn.ModuleDict) -> list[Tensor]:
    """Return the parameters and then the buffers of the ops of an edge: the arguments of its function."""
    return [*ops.parameters(), *ops.buffers()]


@lru_cache(maxsize=_KEPT_FUNCTIONS)
def edge_function(names: tuple[str, ...], width: int, length: int, dropout: float) -> EdgeFunction:
    """Return the compiled ``f(x, weights, *edge_tensors(ops))`` of the edges with these ops, in training mode.

    It compiles at its first call for a shape and for what needs a gradient. It differentiates once, not twice.

    Args:
        names: ops, in the order of ``weights [K]``.
        width: features D that an op sees.
        length: steps T.
        dropout: rate inside the ops.
    """
    with seeded("edge_function"):  # its weights are never read; drawing them must not move the caller's generator
        template = _Mixture(names, width, length, dropout).train()
    inputs = [name for name, _ in template.named_parameters()] + [name for name, _ in template.named_buffers()]

    def run(x: Tensor, weights: Tensor, *tensors: Tensor) -> Tensor:
        return torch.func.functional_call(template, dict(zip(inputs, tensors, strict=True)), (x, weights))

    # A code object of its own: torch.compile counts recompilations, and gives up after eight, by code object.
    own = FunctionType(run.__code__.replace(), run.__globals__, closure=run.__closure__)
    return torch.compile(own, fullgraph=True, dynamic=False)


@final
class CompiledEdge:
    """Runs whole mixtures in training by the compiled function, for the kinds of call that a rehearsal has shown it.

    Everything else is left to the eager form, so that nothing compiles in the middle of a training: another batch
    size, pruned or sampled ops, evaluation, an input that needs no gradient, and passes that ask for the gradients of
    weights and alphas together, which second derivatives do.

    Args:
        edge: any of the edges that share this form.
    """

    def __init__(self, edge: MixedOp) -> None:
        self._count = len(edge.names)
        self._run = edge_function(edge.names, edge.dim // edge.groups, edge.length, edge.dropout)
        self._known: set[tuple[object, ...]] = set()
        self._rehearsing = False

    @property
    def used(self) -> bool:
        """Whether any call was for this form."""
        return bool(self._known)

    @contextmanager
    def rehearsal(self) -> Iterator[None]:
        """Learn the kinds of call inside the block, and compile for them."""
        self._rehearsing = True
        try:
            yield
        finally:
            self._rehearsing = False

    def takes(self, ops: nn.ModuleDict, x: Tensor, mix: EdgeMix) -> bool:
        """Return whether this form computes the mixture."""
        if len(mix.indices) < self._count or not (x.requires_grad and torch.is_grad_enabled()):
            return False
        trained, alphas = any(p.requires_grad for p in ops.parameters()), mix.weights.requires_grad
        if trained == alphas or not x.is_contiguous():
            return False
        kind = (x.shape, x.dtype, x.device, trained)
        if self._rehearsing:
            self._known.add(kind)
        return kind in self._known

    def __call__(self, ops: nn.ModuleDict, x: Tensor, weights: Tensor) -> Tensor:
        """Return the weighted sum ``[N, T, D]`` of all ops."""
        return self._run(x, weights, *edge_tensors(ops))


@contextmanager
def compiled_edges(edges: Sequence[MixedOp], rehearse: Callable[[], None]) -> Iterator[CompiledEdge]:
    """Give edges of one structure (those of a network) the compiled form for the length of a block.

    Args:
        edges: the edges.
        rehearse: makes the passes of the training that follows, forward and backward.

    Raises:
        InvalidArgument: the form does not compile; the message says why.
    """
    form = CompiledEdge(edges[0])
    for edge in edges:
        edge.set_compiled(form)
    try:
        with form.rehearsal(), compiler_named(next(edges[0].parameters()).device):
            rehearse()
        yield form
    finally:
        for edge in edges:
            edge.set_compiled(None)


@contextmanager
def compiler_named(device: torch.device) -> Iterator[None]:
    """Turn what goes wrong while compiling into an error that names the argument and what is missing."""
    try:
        yield
    except DartsError:
        raise
    except Exception as error:
        needs = "Triton" if device.type == "cuda" else "a C++ compiler (g++, or the one that CXX names)"
        reason = next((line.strip() for line in str(error).splitlines() if line.strip()), "no message")
        raise InvalidArgument(
            f"compile='edge' cannot be used: torch.compile failed on {device.type}, where it needs {needs}. "
            f"With compile='none' nothing is compiled. {type(error).__name__}: {reason}"
        ) from error


def check_compiler(device: torch.device) -> None:
    """Compile a line of code, so that a search without a working compiler ends before it begins.

    Raises:
        InvalidArgument: it does not compile; the message says why.
    """
    x = torch.ones(8, device=device, requires_grad=True)
    with compiler_named(device):
        torch.compile(_line, fullgraph=True, dynamic=False)(x).sum().backward()


def _line(x: Tensor) -> Tensor:
    return torch.sin(x) * x
