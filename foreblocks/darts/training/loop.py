"""The pieces that search and final training share: one pass for a loss, one step of weights."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from .._core.device import mixed_precision
from .._core.errors import DataError, DivergedError
from .._core.types import WindowSource
from ..architecture.skeleton import forward_in_parts
from ..data.batches import EVAL_BATCH
from ..data.sources import iter_batches, read_batch
from ..evaluation.batches import eval_mode

CPU = torch.device("cpu")
LossFunction = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class LoopLimits:
    """What bounds and seeds a training loop, beside the settings of its config.

    Attributes:
        batch_size: windows in a batch.
        seed: seed of batch order, dropout and samples.
        max_train_batches: weight batches in an epoch, drawn at random; None means all.
        max_val_batches: validation batches, drawn at random once; None means all.
        device: where the model is.
        use_amp: autocast to bfloat16, on CUDA only.
        max_val_windows: validation windows, in place of ``max_val_batches``.
    """

    batch_size: int = 32
    seed: int = 0
    max_train_batches: int | None = None
    max_val_batches: int | None = None
    device: torch.device = CPU
    use_amp: bool = False
    max_val_windows: int | None = None

    def with_batch(self, size: int) -> LoopLimits:
        """Return these limits for batches of ``size`` windows; the validation windows stay the same."""
        return replace(self, batch_size=size, max_val_windows=self.val_windows)

    @property
    def val_windows(self) -> int | None:
        """Validation windows of a loop; None means all."""
        if self.max_val_windows is not None or self.max_val_batches is None:
            return self.max_val_windows
        return self.max_val_batches * self.batch_size


def autocast(limits: LoopLimits) -> contextlib.AbstractContextManager[object]:
    """Return the autocast context of a loop (``mixed_precision``)."""
    return mixed_precision(limits.device, limits.use_amp)


def mean_loss(
    model: nn.Module,
    source: WindowSource,
    batches: Iterable[Tensor],
    loss_fn: LossFunction,
    *,
    limits: LoopLimits,
    role: str,
) -> float:
    """Return the mean loss per window of ``model`` in eval mode; the mode is restored afterwards.

    Raises:
        DataError: a batch is not finite, or there is none.
    """
    forward = forward_in_parts(model)
    total = torch.zeros((), dtype=torch.float64)
    count = 0
    with eval_mode([model]), torch.no_grad(), autocast(limits):
        for number, indices in enumerate(batches):
            batch = read_batch(source, indices, role=role, batch=number).to(limits.device)
            loss = loss_fn(forward(*batch.inputs), batch.y)
            total += loss.double().cpu() * len(indices)
            count += len(indices)
    if not count:
        raise DataError(f"{role} data: there is no window to measure a loss on.")
    return float(total / count)


def validation_batches(source: WindowSource, limits: LoopLimits) -> list[Tensor]:
    """Return the validation batches of a loop: all windows in order, or a seeded random part of them."""
    chosen = torch.arange(len(source))
    wanted = limits.val_windows
    if wanted is not None and wanted < len(source):
        # Random and not evenly spaced: an even stride aliases with the day.
        draw = torch.Generator().manual_seed(limits.seed)
        chosen = torch.randperm(len(source), generator=draw)[:wanted].sort().values
    return [chosen[part] for part in iter_batches(len(chosen), max(EVAL_BATCH, limits.batch_size))]


def check_finite_loss(loss: Tensor | float, where: str) -> float:
    """Return a loss as float, or raise ``DivergedError`` naming where it stopped being finite."""
    value = float(loss)
    if not math.isfinite(value):
        raise DivergedError(f"the loss stopped being finite in {where}; try a lower learning rate.")
    return value


def cpu_copy(tree: Any) -> Any:
    """Return a copy of nested dicts, lists and tuples whose tensors are on the CPU and share no memory with them."""
    if isinstance(tree, Tensor):
        return tree.detach().cpu().clone()
    if isinstance(tree, dict):
        return {key: cpu_copy(value) for key, value in tree.items()}
    if isinstance(tree, (list, tuple)):
        return type(tree)(cpu_copy(value) for value in tree)
    return tree


def cpu_state(model: nn.Module) -> dict[str, Tensor]:
    """Return a copy of the state dict on the CPU that shares no memory with the model."""
    return {name: value.detach().cpu().clone() for name, value in model.state_dict().items()}
