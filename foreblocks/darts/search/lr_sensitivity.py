"""A grid over the learning rates of both levels of a bilevel search (contract 2.11)."""

from __future__ import annotations

import math
import random
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from .._core.errors import InvalidArgument, SearchFailed, check_int, check_real
from .._core.logging import get_logger
from .._core.optional import require
from .._core.types import WindowSource
from ..architecture.network import TimeSeriesDARTS
from ..config import DARTSTrainConfig
from ..training.darts_loop import derived_loss, train_darts_model
from ..training.loop import LoopLimits
from .executor import Failure, make_executor
from .op_scoring import start_alphas
from .run_folder import writable_folder

logger = get_logger(__name__)
MODEL_RATES = (1e-4, 3e-4, 1e-3, 3e-3)
ARCH_RATES = (3e-4, 1e-3, 3e-3, 1e-2)
SEEDS = (0, 1, 2)


@dataclass(frozen=True)
class RateGrid:
    """Every combination of these is run once.

    Attributes:
        model_lrs: peak learning rates of the weights, above 0.
        arch_lrs: learning rates of the alphas, above 0.
        seeds: seeds of initial weights, batch order, dropout and samples.
    """

    model_lrs: Sequence[float] = MODEL_RATES
    arch_lrs: Sequence[float] = ARCH_RATES
    seeds: Sequence[int] = SEEDS

    def __post_init__(self) -> None:
        for name in ("model_lrs", "arch_lrs", "seeds"):
            if not len(getattr(self, name)):
                raise InvalidArgument(f"{name} must have one value at least.")
        for name in ("model_lrs", "arch_lrs"):
            for value in getattr(self, name):
                check_real(name, value, low=1e-12)
        for value in self.seeds:
            check_int("seeds", value, low=0)


@dataclass(frozen=True)
class RateTask:
    """One run of the grid."""

    factory: Callable[[], nn.Module]
    train: WindowSource
    val: WindowSource
    config: DARTSTrainConfig
    limits: LoopLimits


def bilevel_lr_sensitivity(
    model_factory: Callable[[], nn.Module],
    train: WindowSource,
    val: WindowSource,
    grid: RateGrid,
    config: DARTSTrainConfig,
    limits: LoopLimits,
    *,
    max_workers: int | None = None,
    save_csv_path: str | Path | None = None,
) -> Any:
    """Search one network under every combination of rates and seeds (``DARTSTrainer.bilevel_lr_sensitivity``).

    ``model_factory`` is called once a run, with the global generators of Python, numpy and torch set to the run's
    seed (and given back afterwards), so runs of one seed start from the same weights.

    Returns:
        A ``pandas.DataFrame``, one row a run in the order of the grid: ``model_lr, arch_lr, seed,
        best_val_loss_mixed, val_loss_derived`` (the training loss, of the mixture and of the path that its alphas
        point to), ``train_time_s``, ``health_score`` (entropy of the mean op probabilities over the edges by its
        largest value: 1 for a search that uses all ops alike, 0 for one that fell onto a single op) and
        ``avg_identity_dominance`` (mean probability of Identity). A run that fails has NaN there, and its reason is in
        ``frame.attrs["failures"]``, row → reason.

    Raises:
        OptionalDependencyError: pandas is missing (before any work).
        InvalidArgument: a rate or seed is not allowed, or the file cannot be written (before any work).
        SearchFailed: every run failed.
    """
    pandas = require("pandas", extra="darts-analysis", feature="bilevel_lr_sensitivity()")
    if not callable(model_factory) or isinstance(model_factory, nn.Module):
        raise InvalidArgument(f"model_factory is a {type(model_factory).__name__}; it must be a function of nothing.")
    target = None if save_csv_path is None else Path(save_csv_path)
    if target is not None:
        writable_folder("save_csv_path", target.parent)
        if target.is_dir():
            raise InvalidArgument(f"save_csv_path={str(target)!r} is a folder; name a file.")
    runs = list(product(grid.model_lrs, grid.arch_lrs, grid.seeds))
    tasks = [
        RateTask(
            model_factory, train, val, replace(config, model_learning_rate=model_lr, arch_learning_rate=arch_lr),
            replace(limits, seed=seed),
        )
        for model_lr, arch_lr, seed in runs
    ]  # fmt: skip
    found = make_executor(max_workers).map(run_rates, tasks, _log_run)
    failures = {row: result.reason for row, result in enumerate(found) if isinstance(result, Failure)}
    if len(failures) == len(runs):
        raise SearchFailed(f"every run failed: {'; '.join(sorted(set(failures.values())))}")
    rows = [
        {"model_lr": run[0], "arch_lr": run[1], "seed": run[2], **(_NOTHING if isinstance(result, Failure) else result)}
        for run, result in zip(runs, found, strict=True)
    ]
    frame = pandas.DataFrame(rows)
    frame.attrs["failures"] = failures
    if target is not None:
        frame.to_csv(target, index=False)
    return frame


def run_rates(task: RateTask) -> dict[str, float]:
    """Return the figures of one run."""
    with _global_seed(task.limits.seed):
        model = task.factory()
    began = time.perf_counter()
    start_alphas(model, task.train, task.config, task.limits.seed)
    result = train_darts_model(model, task.train, task.val, task.config, task.limits)
    seconds = time.perf_counter() - began
    return {
        "best_val_loss_mixed": result["best_val_loss"],
        "val_loss_derived": derived_loss(result["model"], task.val, task.limits, task.config.loss_type),
        "train_time_s": seconds,
        **alpha_health(result["model"]),
    }


def alpha_health(model: TimeSeriesDARTS) -> dict[str, float]:
    """Return ``health_score`` and ``avg_identity_dominance`` of a searched network, both in [0, 1].

    A network with one op has nothing to lose: its health is 1.
    """
    edges = [edge for cell in model.cells for edge in cell.edges]
    mean = torch.stack([edge.probabilities().double().cpu() for edge in edges]).mean(dim=0)
    entropy = float(torch.special.entr(mean).sum())
    names = edges[0].names
    return {
        "health_score": entropy / math.log(len(names)) if len(names) > 1 else 1.0,
        "avg_identity_dominance": float(mean[names.index("Identity")]) if "Identity" in names else 0.0,
    }


_NOTHING = dict.fromkeys(
    ("best_val_loss_mixed", "val_loss_derived", "train_time_s", "health_score", "avg_identity_dominance"), math.nan
)


def _log_run(position: int, result: Any) -> None:
    if not isinstance(result, Failure):
        logger.info("run %d: derived loss %.4f", position, result["val_loss_derived"])


@contextmanager
def _global_seed(seed: int) -> Iterator[None]:
    """Seed the generators that a factory may draw from, and give their states back."""
    python_state, numpy_state = random.getstate(), np.random.get_state()  # noqa: NPY002 - the user's factory draws there
    with torch.random.fork_rng():
        random.seed(seed)
        np.random.seed(seed % 2**32)  # noqa: NPY002
        torch.manual_seed(seed)
        try:
            yield
        finally:
            random.setstate(python_state)
            np.random.set_state(numpy_state)  # noqa: NPY002
