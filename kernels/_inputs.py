"""Checks of arguments and the reasons of the compiled CPU form that the operations share."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from .._core.errors import InvalidArgument
from . import _native
from .dispatch import autocasting

NATIVE_DTYPES = (torch.float32, torch.float64)
HALF = (torch.bfloat16, torch.float16)


def native_supports(operator: str, *, half: bool = False) -> Callable[..., str | None]:
    """Return the ``supports`` of a compiled operator: its dtypes, and present on the device.

    Args:
        operator: name in the library.
        half: whether, on a CPU, it takes bfloat16 and float16 too. They are for what is stored: it computes in float32
            and rounds its results once.
    """

    def supports(*tensors: Tensor) -> str | None:
        x = tensors[0]
        stored = half and x.dtype in HALF and x.device.type == "cpu"
        if x.dtype not in NATIVE_DTYPES and not stored:
            return f"the compiled form has no {str(x.dtype).removeprefix('torch.')}"
        return _native.missing(operator, x.device.type)

    return supports


def check_shape(name: str, x: Tensor, shape: tuple[int | None, ...], letters: str) -> None:
    """Raise unless ``x`` has this shape; None allows any size.

    Args:
        name: of the argument.
        x: the tensor.
        shape: what is asked for.
        letters: how the documentation writes it, such as ``"[N, T, D]"``.
    """
    if x.dim() == len(shape):
        for want, got in zip(shape, x.shape, strict=True):
            if want is not None and want != got:
                break
        else:
            return
    wanted = ", ".join("any" if want is None else str(want) for want in shape)
    raise InvalidArgument(f"{name} has shape {tuple(x.shape)}; it must be {letters} = ({wanted}).")


def check_series(name: str, x: Tensor, letters: str) -> None:
    """Raise unless ``x`` has three dimensions, such as ``"[N, T, D]"``, and a step at least in the second."""
    if x.dim() != 3:
        check_shape(name, x, (None, None, None), letters)
    if x.shape[1] == 0:
        raise InvalidArgument(f"{name} has no step: {letters.split(', ')[1]} must be at least 1.")


def check_taps(weight: Tensor) -> None:
    """Raise unless ``weight``, ``[..., W]``, has a tap at least."""
    if weight.shape[-1] == 0:
        raise InvalidArgument(f"weight has shape {tuple(weight.shape)} and so no tap: W must be at least 1.")


def check_like(name: str, x: Tensor, like: Tensor) -> None:
    """Raise unless ``x`` has the dtype (but for autocast) and the device of ``like``."""
    if x.dtype == like.dtype and x.device == like.device:
        return
    check_device(name, x, like)
    if not autocasting():
        raise InvalidArgument(f"{name} is {x.dtype}, but the input is {like.dtype}.")


def check_device(name: str, x: Tensor, like: Tensor) -> None:
    """Raise unless ``x`` is on the device of ``like``."""
    if x.device != like.device:
        raise InvalidArgument(f"{name} is on {x.device}, but the input is on {like.device}.")


def computed(dtype: torch.dtype) -> torch.dtype:
    """Return the dtype in which a compiled form computes and keeps what is not a result: float32 for half precision."""
    return torch.float32 if dtype in HALF else dtype


def some(x: Tensor) -> Tensor | None:
    """Return None for the empty tensor by which an operator says "not wanted"."""
    return x if x.numel() else None
