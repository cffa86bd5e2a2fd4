"""Zero-cost metrics of a list of candidates, each evaluated once: what every study of rankings starts from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from .._core.logging import get_logger
from .._core.types import WindowSource
from .candidates import CandidateConfig
from .executor import Executor, Failure
from .proxies import base_weights
from .settings import screening_count
from .tasks import ScoreTask, score_candidate
from .zero_cost import screening_windows

logger = get_logger(__name__)


def measure_candidates(
    candidates: Sequence[CandidateConfig],
    seeds: Sequence[int],
    source: WindowSource,
    executor: Executor,
    *,
    max_samples: int = 32,
    num_batches: int = 1,
    seed: int = 0,
    device: torch.device | str = "cpu",
) -> list[dict[str, Any]]:
    """Return one record a candidate, in order: its raw metrics, or the reason why it has none.

    Equal pairs of candidate and seed are evaluated once and share their values. All candidates see the same windows,
    spread over the source, at least as many as a search uses.

    Args:
        candidates: what to build.
        seeds: seed of each candidate's weights.
        source: windows.
        executor: runs the evaluations.
        max_samples: windows in a batch.
        num_batches: batches.
        seed: seed of the windows.
        device: where to compute.

    Returns:
        Records with ``success``, ``raw_metrics`` {name: value}, ``success_rates`` {name: 0.0 or 1.0}, ``errors``
        {name: reason; "_global" if the whole candidate failed}, ``base_weights``, and the keys of the candidate.
    """
    count = screening_count(max_samples, num_batches, (c.macro for c in candidates))
    windows = screening_windows(source, count, seed)
    pairs = list(zip(candidates, seeds, strict=True))
    unique = list(dict.fromkeys(pairs))
    tasks = [ScoreTask(c, weight_seed, windows, "mse", torch.device(device)) for c, weight_seed in unique]
    done = executor.map(score_candidate, tasks, _log_progress)
    found = dict(zip(unique, done, strict=True))
    return [_record(candidate, found[candidate, weight_seed]) for candidate, weight_seed in pairs]


def _log_progress(position: int, result: Any) -> None:
    if not isinstance(result, Failure):
        logger.debug("candidate %d is measured.", position)


def _record(candidate: CandidateConfig, result: dict[str, Any] | Failure) -> dict[str, Any]:
    if isinstance(result, Failure):
        values: Mapping[str, float] = {}
        rates: dict[str, float] = {}
        errors = {"_global": result.reason}
    else:
        metrics = result["metrics"]
        values, errors = metrics["metrics"], metrics["error_messages"]
        rates = {name: float(ok) for name, ok in metrics["success_rates"].items()}
    return {
        "success": not isinstance(result, Failure),
        **candidate.to_dict(),
        "raw_metrics": dict(values),
        "success_rates": rates,
        "errors": dict(errors),
        "base_weights": base_weights(),
    }
