"""Which implementation of a hot-path operation runs, and why.

An operation has an ordered list of implementations and, beneath them, its reference in plain PyTorch. The first one
without a reason against it is chosen once for each (device, dtype, needs-grad) and remembered. The environment variable
``FOREBLOCKS_DARTS_KERNELS`` (``auto``, ``reference``, ``native``, ``triton``; read at import) forces one; where
that one cannot run, the call raises instead of falling back.

Whatever looks into the graph gets the reference, always: functorch transforms, forward-mode derivatives,
``torch.export`` and ONNX export, and function or dispatch modes (the recorders of the zero-cost scores, FLOP counters);
and so does ``torch.autocast``.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial
from typing import Any, final

import torch
from torch import Tensor
from torch.autograd import forward_ad
from torch.utils._device import DeviceContext

from .._core.errors import DartsError, InvalidArgument, check_choice
from .._core.logging import get_logger, log_once

VARIABLE = "FOREBLOCKS_DARTS_KERNELS"
DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)
CHOICES = ("auto", "reference", "native", "triton")
_logger = get_logger("foreblocks.darts.kernels")


class KernelUnavailable(DartsError, RuntimeError):
    """The implementation that ``FOREBLOCKS_DARTS_KERNELS`` forces cannot run."""


@dataclass(frozen=True)
class Implementation:
    """One way to run an operation.

    Attributes:
        name: ``native``, ``triton``, ...; a value of ``FOREBLOCKS_DARTS_KERNELS``.
        run: called with the arguments of the operation.
        supports: called with the operation's tensors; returns the reason why it cannot take them, or None. It may look
            at device, dtype and whether a gradient is needed; the answer is remembered for those three.
        operator: whether it is a registered operator, which ``torch.compile`` can keep whole.
    """

    name: str
    run: Callable[..., Any]
    supports: Callable[..., str | None]
    operator: bool = True


@cache
def forced() -> str:
    """Return the value of ``FOREBLOCKS_DARTS_KERNELS``, ``"auto"`` if it is not set."""
    return check_choice(VARIABLE, os.environ.get(VARIABLE) or "auto", CHOICES)


def autocasting() -> bool:
    """Return True inside ``torch.autocast``, where tensors of several dtypes meet and PyTorch chooses among them."""
    return torch.is_autocast_enabled("cpu") or torch.is_autocast_enabled("cuda")


def observed() -> bool:
    """Return True while something looks into the graph and has to see plain PyTorch operations."""
    if torch.compiler.is_exporting():
        return True
    if torch.compiler.is_compiling():
        return False
    if autocasting():
        return True
    if torch._C._are_functorch_transforms_active() or torch._C._len_torch_dispatch_stack() > 0:
        return True
    if forward_ad._current_level >= 0:  # an operator would lose the tangents without a word
        return True
    if torch._C._len_torch_function_stack() > 0:
        modes = torch.overrides._get_current_function_mode_stack()
        return any(not isinstance(mode, DeviceContext) for mode in modes)
    return torch.jit.is_tracing()


@final
class Operation:
    """An operation of the table.

    Args:
        name: public name.
        reference: plain PyTorch form: traces, exports, differentiates twice.
        implementations: the faster ones, best first.
        compiled: what ``torch.compile`` sees: ``"reference"`` where its own fusion does as well, ``"operator"`` (the
            first implementation that is one and can run) where the loop over time would unroll.
    """

    def __init__(
        self,
        name: str,
        reference: Callable[..., Any],
        implementations: tuple[Implementation, ...],
        *,
        compiled: str = "reference",
    ) -> None:
        self.name = name
        self.reference = Implementation("reference", reference, lambda *tensors: None, operator=False)
        self.implementations = (*implementations, self.reference)
        self.compiled = compiled
        self._chosen: dict[tuple[str, torch.dtype, bool], Callable[..., Any]] = {}
        self._compiled: dict[tuple[str, torch.dtype], Callable[..., Any]] = {}
        self.reset()
        OPERATIONS[name] = self

    def pick(self, *tensors: Tensor) -> Callable[..., Any]:
        """Return the function to call for these tensors, which share one device and dtype."""
        if observed():
            return self.reference.run
        if torch.compiler.is_compiling():
            return self._compiled.get((tensors[0].device.type, tensors[0].dtype), self.reference.run)
        x = tensors[0]
        needs_grad = torch.is_grad_enabled() and torch._C._any_requires_grad(*tensors)
        key = (x.device.type, x.dtype, needs_grad)
        run = self._chosen.get(key)
        if run is None:
            run = self._chosen[key] = self._choose(key, tensors)
        return run

    def reasons(self, *tensors: Tensor) -> dict[str, str | None]:
        """Return, for every implementation in order, the reason against it or None."""
        return {each.name: each.supports(*tensors) for each in self.implementations}

    def reset(self) -> None:
        """Forget every choice."""
        self._chosen.clear()
        self._compiled.clear()
        if self.compiled == "reference" or forced() == "reference":
            return
        # Filled beforehand, since the compiler cannot trace the loading of an extension; but importing this package
        # must not start CUDA, after which a process cannot fork.
        self._prepare("cpu")
        if torch.cuda.is_available():
            torch.cuda._lazy_call(partial(self._prepare, "cuda"))

    def _prepare(self, device: str) -> None:
        for dtype in DTYPES:
            probe = torch.empty(0, device=device, dtype=dtype)
            for each in self.implementations:
                wanted = each.operator and forced() in ("auto", each.name)
                if wanted and each.supports(probe) is None:
                    self._compiled.setdefault((device, dtype), each.run)

    def _choose(self, key: tuple[str, torch.dtype, bool], tensors: tuple[Tensor, ...]) -> Callable[..., Any]:
        if not (key[1].is_floating_point or key[1].is_complex):
            raise InvalidArgument(f"{self.name} got tensors of {key[1]}; it needs floating-point numbers.")
        wish, reasons = forced(), self.reasons(*tensors)
        kind = f"{self.name} on {key[0]} {str(key[1]).removeprefix('torch.')}"
        if wish != "auto":
            if wish not in reasons:
                raise KernelUnavailable(f"{VARIABLE}={wish}, but {self.name} has only {list(reasons)}.")
            if reasons[wish] is not None:
                raise KernelUnavailable(f"{VARIABLE}={wish}, but it cannot run {kind}: {reasons[wish]}.")
        name = wish if wish != "auto" else next(name for name, reason in reasons.items() if reason is None)
        refused = [f"{other}: {reason}" for other, reason in reasons.items() if reason is not None]
        if name == "reference" and refused and wish == "auto":
            log_once(_logger, logging.INFO, f"{kind} runs as plain PyTorch ({'; '.join(refused)})")
        return next(each.run for each in self.implementations if each.name == name)


OPERATIONS: dict[str, Operation] = {}


def reset() -> None:
    """Forget every choice and read the environment again at the next call. Meant for tests."""
    forced.cache_clear()
    for operation in OPERATIONS.values():
        operation.reset()
