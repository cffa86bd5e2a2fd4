"""The batch protocol of user-written training loops: what a loader may yield, and what a model is called with."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from .._core.errors import DataError

_FUTURE_KEYS = ("x_future", "future_covariates", "dec")


def unpack_forecasting_batch(
    batch: Any,
    device: str | torch.device,
    *,
    include_decoder_targets: bool = False,
    teacher_forcing_ratio: float | None = None,
) -> tuple[Tensor, Tensor, dict[str, Any]]:
    """Return ``(x, y, model_kwargs)`` of a batch, on ``device``; call the model as ``model(x, **model_kwargs)``.

    Args:
        batch: ``(x, y)``, ``(x, y, x_future)`` or ``(x, y, {"x_future": tensor})``, where the key may also be
            ``future_covariates`` or ``dec``; x is ``[B, L, C]`` and y ``[B, H, C]``. A third item that is None or an
            empty mapping stands for none.
        device: where the tensors go.
        include_decoder_targets: pass y as ``decoder_targets`` if it is 3-D with as many channels as x.
        teacher_forcing_ratio: passed on unless None.

    Raises:
        DataError: the batch is no such pair, or its future covariates are not ``[B, >= H, C]``.
    """
    if not isinstance(batch, (list, tuple)) or len(batch) < 2:
        got = f"{len(batch)} item(s)" if isinstance(batch, (list, tuple)) else type(batch).__name__
        raise DataError(f"a batch must be (x, y) or (x, y, x_future), got {got}.")
    x, y = (_tensor(name, item).to(device) for name, item in zip(("x", "y"), batch[:2], strict=True))
    kwargs: dict[str, Any] = {}
    future = _future(batch[2]) if len(batch) > 2 else None
    if future is not None:
        _check_future(future, x, y)
        kwargs["x_future"] = future.to(device)
    if include_decoder_targets and y.ndim == 3 and y.shape[-1] == x.shape[-1]:
        kwargs["decoder_targets"] = y
    if teacher_forcing_ratio is not None:
        kwargs["teacher_forcing_ratio"] = teacher_forcing_ratio
    return x, y, kwargs


def autocast_ctx(device: str | torch.device, enabled: bool = True) -> contextlib.AbstractContextManager[Any]:
    """Return the autocast context of a training step: float16 on CUDA if ``enabled``, else one that does nothing."""
    if enabled and torch.device(device).type == "cuda":
        return torch.autocast("cuda")
    return contextlib.nullcontext()


def _tensor(name: str, item: Any) -> Tensor:
    if not isinstance(item, Tensor):
        raise DataError(f"{name} of a batch must be a tensor, got {type(item).__name__}.")
    return item


def _future(extra: Any) -> Tensor | None:
    if isinstance(extra, Mapping):
        known = [key for key in _FUTURE_KEYS if key in extra]
        if extra and not known:
            raise DataError(f"the third item of a batch has the keys {list(extra)}; allowed: {list(_FUTURE_KEYS)}.")
        extra = extra[known[0]] if known else None
    return None if extra is None else _tensor("x_future", extra)


def _check_future(future: Tensor, x: Tensor, y: Tensor) -> None:
    steps = y.shape[1] if y.ndim == 3 else 1
    fits = future.ndim == 3 and future.shape[0] == x.shape[0] and future.shape[-1] == x.shape[-1]
    if not fits or future.shape[1] < steps:
        raise DataError(
            f"x_future has shape {tuple(future.shape)}, but must be [B={x.shape[0]}, >= {steps}, C={x.shape[-1]}]."
        )
