"""Everything a staged search is told, as one value."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .._core.errors import InvalidArgument, check_choice, check_flag, check_int
from .._core.logging import get_logger
from .._core.seeding import derive_seed
from ..architecture.spec import Macro
from ..config import SEARCH_BASELINES, DARTSTrainConfig, FinalTrainConfig, MultiFidelitySearchConfig
from ..evaluation.losses import get_loss_function
from ..training.events import Callback
from ..training.loop import LoopLimits
from ..training.select import DeriveSettings
from .candidates import SearchSpace
from .scoring import RANK_METHOD, RANK_METHODS

MIN_SCREENING_WINDOWS = 64
# Features of all tokens in a screening pass, which keeps some 400 arrays of that size: about 3 GB.
SCREENING_VALUES = 2**21
FEWEST_SCREENING_WINDOWS = 8
logger = get_logger(__name__)


@dataclass(frozen=True)
class SearchSettings:
    """The settings of ``run_multi_fidelity_search``.

    Attributes:
        space: what candidates are made of.
        search: sizes and rungs of the phases.
        train: bilevel training; its ``epochs`` are ignored, ``search.search_epochs`` counts.
        final: final training; its ``epochs`` are ignored, ``search.final_epochs`` counts.
        limits: batch size, seed, device and batch limits.
        rank_method: how ranks over the zero-cost metrics are joined (``scoring.rank_scores``).
        trial_steps: steps of the short training that orders the better half of the candidates; 0 lets the zero-cost
            rank decide.
        finalists: survivors that are retrained and may join the final model.
        final_threads: torch threads of each final training.
        final_max_train_batches: batches in an epoch of the final training; None means all.
        derive: how a searched network becomes an architecture.
        duel: retrain the architecture found only if a short training goes better than that of the drawn one.
        baseline: a rival search that spends as many training steps (``config.SEARCH_BASELINES``); None for none.
        best_preset: retrain and test the best preset, unsearched, beside the finalists.
        num_batches: batches of ``search.max_samples`` windows that are scored in phase 1.
        keep_models: put live networks into the result.
        run_dir: folder that receives the run; None writes nothing.
        resume: go on with the search that the folder holds, or begin one.
        seasonal_period: steps of the seasonal naive baseline; None leaves it out.
        scaler: plain description of the scaling, saved beside the model.
        callbacks: receive the events.
    """

    space: SearchSpace
    search: MultiFidelitySearchConfig
    train: DARTSTrainConfig
    final: FinalTrainConfig
    limits: LoopLimits = field(default_factory=LoopLimits)
    rank_method: str = RANK_METHOD
    trial_steps: int = 100
    finalists: int = 2
    final_threads: int = 1
    final_max_train_batches: int | None = None
    derive: DeriveSettings = field(default_factory=DeriveSettings)
    duel: bool = True
    baseline: str | None = None
    best_preset: bool = False
    num_batches: int = 1
    keep_models: bool = False
    run_dir: Path | None = None
    resume: bool = False
    seasonal_period: int | None = None
    scaler: dict[str, Any] | None = None
    callbacks: Sequence[Callback] = ()

    def __post_init__(self) -> None:
        s = self.search
        for name in ("num_candidates", "search_epochs", "final_epochs", "max_samples", "top_k"):
            check_int(name, getattr(s, name), low=1)
        check_choice("rank_method", self.rank_method, RANK_METHODS)
        if self.baseline is not None:
            check_choice("baseline", self.baseline, SEARCH_BASELINES)
        check_int("trial_steps", self.trial_steps, low=0)
        check_int("finalists", self.finalists, low=1)
        check_int("final_threads", self.final_threads, low=1)
        for name in ("duel", "best_preset", "keep_models", "resume"):
            check_flag(name, getattr(self, name))
        for name in ("final_max_train_batches", "seasonal_period"):
            if getattr(self, name) is not None:
                check_int(name, getattr(self, name), low=1)
        for loss in (self.train.loss_type, self.final.loss_type):
            get_loss_function(loss)  # refuses an unknown one before any work
        if s.top_k > s.num_candidates:
            raise InvalidArgument(f"top_k={s.top_k} must not exceed num_candidates={s.num_candidates}.")
        if self.resume and self.run_dir is None:
            raise InvalidArgument("resume=True needs run_dir, the folder of the search to go on with.")


def screening_count(max_samples: int, num_batches: int, macros: Iterable[Macro]) -> int:
    """Return how many windows score each of some candidates when ``num_batches`` of ``max_samples`` are asked for.

    At least ``MIN_SCREENING_WINDOWS``, as fewer rank at random; but not more than fit into memory for the widest of the
    candidates, which is logged. All get the same number, since scores on different ones cannot be compared. Where
    hundreds of channels are series of their own, few windows have many series.
    """
    wanted = check_int("max_samples", max_samples, low=1) * check_int("num_batches", num_batches, low=1)
    wanted = max(MIN_SCREENING_WINDOWS, wanted)
    widest = max((macro.tokens_per_window * macro.hidden_dim for macro in macros), default=1)
    affordable = max(FEWEST_SCREENING_WINDOWS, SCREENING_VALUES // widest)
    if affordable < wanted:
        logger.info(
            "screening on %d windows instead of %d, to bound the memory of wide candidates.", affordable, wanted
        )
    return min(wanted, affordable)


def candidate_seed(seed: int, index: int) -> int:
    """Return the seed of the initial weights of candidate ``index`` in a search or study with ``seed``."""
    return derive_seed("candidate", seed, index)


def rung_epochs(search: MultiFidelitySearchConfig) -> list[int]:
    """Return the epochs at which candidates are compared: halving budgets that end with ``search_epochs``.

    ``search_epochs=10`` with the defaults gives ``[2, 4, 8, 10]``.
    """
    total = search.search_epochs
    if search.phase3_rung_epochs:
        return sorted(
            {min(total, check_int("phase3_rung_epochs", e, low=1)) for e in search.phase3_rung_epochs} | {total}
        )
    factor = max(2, search.phase3_reduction_factor)
    budget = max(1, search.phase3_min_epoch_budget)
    rungs = []
    while budget < total:
        rungs.append(budget)
        budget *= factor
    return [*rungs, total]
