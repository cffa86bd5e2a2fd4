"""The batch protocol of user-written training loops: what a loader may yield, and what a model is called with."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .._core.device import mixed_precision
from .._core.errors import DataError
from .._core.logging import get_logger, log_once

_logger = get_logger(__name__)

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
            ``future_covariates`` or ``dec``; x is ``[B, L, C]`` and y ``[B, H, C_out]``. A third item that is None or
            an empty mapping stands for none.
        device: where the tensors go.
        include_decoder_targets: pass y as ``decoder_targets`` if it is 3-D with as many channels as x.
        teacher_forcing_ratio: passed on unless None.

    Raises:
        DataError: the batch is no such pair, or its future covariates are not ``[B, >= H, F]``.
    """
    x, y, future = split_batch(batch)
    x, y = x.to(device), y.to(device)
    kwargs: dict[str, Any] = {}
    if future is not None:
        kwargs["x_future"] = check_future(future.to(device), len(x), y.shape[1] if y.ndim == 3 else 1)
    if include_decoder_targets and y.ndim == 3 and y.shape[-1] == x.shape[-1]:
        kwargs["decoder_targets"] = y
    if teacher_forcing_ratio is not None:
        kwargs["teacher_forcing_ratio"] = teacher_forcing_ratio
    return x, y, kwargs


def split_batch(batch: Any, where: str = "") -> tuple[Tensor, Tensor, Tensor | None]:
    """Return the tensors x, y and x_future (None if there is none) of what a loader yields.

    Args:
        batch: as in ``unpack_forecasting_batch``.
        where: which data these are; messages begin with it.

    Raises:
        DataError: it is no such pair; shapes are not looked at.
    """
    if not isinstance(batch, (list, tuple)) or not 2 <= len(batch) <= 3:
        got = f"{len(batch)} item(s)" if isinstance(batch, (list, tuple)) else type(batch).__name__
        raise DataError(f"{where}a batch must be a pair (x, y) or (x, y, x_future), got {got}.")
    x, y = (_tensor(name, item, where) for name, item in zip(("x", "y"), batch[:2], strict=True))
    return x, y, _future(batch[2], where) if len(batch) > 2 else None


def check_future(future: Tensor, windows: int, horizon: int, where: str = "") -> Tensor:
    """Return covariates for the steps of y, ``[B, H, F]``; steps beyond the horizon are cut off, which is said once.

    Raises:
        DataError: ``future`` is not ``[B, >= H, >= 1]``.
    """
    if future.ndim != 3 or future.shape[0] != windows or future.shape[1] < horizon or future.shape[2] < 1:
        raise DataError(
            f"{where}x_future has shape {tuple(future.shape)}, but must be [B={windows}, >= {horizon}, F >= 1]."
        )
    if future.shape[1] == horizon:
        return future
    log_once(
        _logger, logging.WARNING,
        f"{where}x_future has {future.shape[1]} steps: the first {horizon} are taken as those of y.",
    )  # fmt: skip
    return future[:, :horizon]


def autocast_ctx(device: str | torch.device, enabled: bool = True) -> contextlib.AbstractContextManager[Any]:
    """Return the autocast context of a training step: bfloat16 on CUDA if ``enabled``, else one that does nothing."""
    return mixed_precision(torch.device(device), enabled)


def _tensor(name: str, item: Any, where: str) -> Tensor:
    if isinstance(item, np.ndarray):
        item = torch.as_tensor(item)
    if not isinstance(item, Tensor):
        raise DataError(f"{where}{name} of a batch must be a tensor, got {type(item).__name__}.")
    if item.is_complex():
        raise DataError(f"{where}{name} of a batch is {item.dtype}; only real numbers can be forecast.")
    return item


def _future(extra: Any, where: str) -> Tensor | None:
    if isinstance(extra, Mapping):
        known = [key for key in _FUTURE_KEYS if key in extra]
        if extra and not known:
            raise DataError(
                f"{where}the third item of a batch has the keys {list(extra)}; allowed: {list(_FUTURE_KEYS)}."
            )
        extra = extra[known[0]] if known else None
    return None if extra is None else _tensor("x_future", extra, where)
