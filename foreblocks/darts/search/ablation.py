"""How much the order of candidates depends on the weights of the zero-cost metrics (contract 2.12).

Every candidate is evaluated once. A weight scheme only joins the same metrics anew, so hundreds cost nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from .._core.errors import SearchFailed
from .._core.logging import get_logger
from .._core.optional import require
from .._core.types import WindowSource
from ..config import AblationSearchConfig
from .ablation_plots import draw_plots, require_plots
from .candidates import SearchSpace, make_candidates
from .executor import make_executor
from .measure import measure_candidates
from .run_folder import writable_folder
from .scoring import score_from_metrics
from .settings import candidate_seed
from .weight_schemes import build_weight_schemes, ranks_desc, spearman_from_scores, topk_overlap_from_scores

logger = get_logger(__name__)
PLOTS = ("rank_heatmap", "winner_rank_hist", "topk_freq", "loo_importance")
TABLES = {"stability_csv": "stability", "top_candidates_csv": "top_candidates", "loo_csv": "loo_importance"}
LEAVE_ONE_OUT, RANDOM = "loo_minus_", "rand_"


@dataclass(frozen=True)
class Scores:
    """Candidates × schemes.

    Attributes:
        records: the N candidates that were measured.
        schemes: S schemes, name → weights; the first is the baseline.
        scores: ``[N, S]`` float64, higher is better.
        ranks: ``[N, S]`` int64, 1 is the best of a scheme.
        top_k: size of the compared tops, at most N.
    """

    records: Sequence[Mapping[str, Any]]
    schemes: Mapping[str, Mapping[str, float]]
    scores: np.ndarray
    ranks: np.ndarray
    top_k: int

    @classmethod
    def of(cls, records: Sequence[Mapping[str, Any]], schemes: Mapping[str, Mapping[str, float]], top_k: int) -> Scores:
        """Score every record under every scheme."""
        rows = [[score_from_metrics(r["raw_metrics"], weights) for weights in schemes.values()] for r in records]
        scores = np.array(rows, dtype=np.float64)
        ranks = np.stack([ranks_desc(column) for column in scores.T], axis=1)
        return cls(records, schemes, scores, ranks, min(top_k, len(records)))

    def column(self, scheme: str) -> np.ndarray:
        """Return the scores ``[N]`` of a scheme."""
        return self.scores[:, list(self.schemes).index(scheme)]

    def columns(self, prefix: str) -> list[int]:
        """Return the positions of the schemes whose name begins with ``prefix``."""
        return [index for index, name in enumerate(self.schemes) if name.startswith(prefix)]


def ablation_weight_search(
    train: WindowSource,
    space: SearchSpace,
    config: AblationSearchConfig,
    *,
    device: torch.device | str = "cpu",
    save_plots: bool = True,
    save_csv: bool = True,
) -> dict[str, Any]:
    """Rank one list of candidates under many weight schemes (``DARTSTrainer.ablation_weight_search``).

    The candidates, their weights and their windows are those of a search with the same seed and space.

    Args:
        train: training windows.
        space: what candidates are made of.
        config: sizes, seeds and folder.
        device: where to compute.
        save_plots: write four pictures into ``config.save_dir``.
        save_csv: write three tables into ``config.save_dir``.

    Returns:
        The documented dictionary: ``candidates, scheme_names, schemes, score_matrix, rank_matrix, tables,
        random_analysis, artifacts, config``. The rows of the matrices are ``candidates``; those that could not be
        measured stand in ``failed_candidates``. ``artifacts`` has None for what was not written.

    Raises:
        OptionalDependencyError: pandas, or with ``save_plots`` matplotlib, is missing (before any work).
        InvalidArgument: the folder cannot be written (before any work).
        SearchFailed: no candidate could be measured.
    """
    pandas = require("pandas", extra="darts-analysis", feature="ablation_weight_search()")
    if save_plots:
        require_plots()
    folder = writable_folder("output_dir", config.save_dir) if save_plots or save_csv else None
    schemes = build_weight_schemes(config.n_random, config.random_sigma, config.seed)
    records = _measured(train, space, config, device)
    table = Scores.of([r for r in records if r["success"]], schemes, config.top_k)
    tables = {name: pandas.DataFrame(rows) for name, rows in study_tables(table).items()}
    random = random_analysis(table)
    artifacts: dict[str, str | None] = dict.fromkeys((*PLOTS, *TABLES))
    if folder is not None and save_plots:
        artifacts.update(draw_plots(table, random, tables["loo_importance"], folder / config.save_prefix))
    if folder is not None and save_csv:
        artifacts.update(_write_tables(tables, folder / config.save_prefix))
    return {
        "candidates": [
            {**record, "scheme_scores": dict(zip(schemes, row.tolist(), strict=True))}
            for record, row in zip(table.records, table.scores, strict=True)
        ],
        "failed_candidates": [r for r in records if not r["success"]],
        "scheme_names": list(schemes),
        "schemes": schemes,
        "score_matrix": table.scores,
        "rank_matrix": table.ranks,
        "tables": tables,
        "random_analysis": random,
        "artifacts": artifacts,
        "config": {**asdict(config), "save_plots": save_plots, "save_csv": save_csv},
    }


def study_tables(table: Scores) -> dict[str, list[dict[str, Any]]]:
    """Return the rows of the three documented tables: ``stability``, ``top_candidates`` and ``loo_importance``.

    The importance of a metric is one minus the agreement of the order without it with the baseline's order.
    """
    baseline = table.column("baseline")
    stability: list[dict[str, Any]] = []
    without: list[dict[str, Any]] = []
    for name in table.schemes:
        scores = table.column(name)
        agreement = spearman_from_scores(baseline, scores)
        overlap = topk_overlap_from_scores(baseline, scores, table.top_k)
        row = {"spearman_vs_baseline": agreement, "topk_overlap_vs_baseline": overlap}
        stability.append({"scheme": name, **row})
        if name.startswith(LEAVE_ONE_OUT):
            drops = {"importance_spearman_drop": 1.0 - agreement, "importance_topk_drop": 1.0 - overlap}
            without.append({"metric_removed": name.removeprefix(LEAVE_ONE_OUT), **row, **drops})
    without.sort(key=lambda row: (-row["importance_spearman_drop"], row["metric_removed"]))
    return {"stability": stability, "top_candidates": _top_rows(table), "loo_importance": without}


def random_analysis(table: Scores) -> dict[str, Any]:
    """Return how the baseline's winner and the tops fare under the random schemes.

    ``baseline_winner_rank_under_random`` has one rank a scheme, ``topk_frequency_under_random`` one share in [0, 1] a
    candidate; both are empty without random schemes.
    """
    columns = table.columns(RANDOM)
    winner = int(table.column("baseline").argmax())
    drawn = table.ranks[:, columns]
    frequency = (drawn <= table.top_k).mean(axis=1).tolist() if columns else []
    return {
        "baseline_winner_candidate_id": table.records[winner]["candidate_id"],
        "baseline_winner_rank_under_random": drawn[winner].tolist(),
        "topk_frequency_under_random": frequency,
    }


def _measured(
    train: WindowSource, space: SearchSpace, config: AblationSearchConfig, device: torch.device | str
) -> list[dict[str, Any]]:
    candidates = make_candidates(space, config.seed, config.num_candidates)
    measured = measure_candidates(
        candidates,
        [candidate_seed(config.seed, index) for index in range(len(candidates))],
        train,
        make_executor(config.max_workers),
        max_samples=config.max_samples,
        num_batches=config.num_batches,
        seed=config.seed,
        device=device,
    )
    records = [{"candidate_id": index, **record} for index, record in enumerate(measured)]
    failed = [f"candidate {r['candidate_id']}: {r['errors']['_global']}" for r in records if not r["success"]]
    if len(failed) == len(records):
        raise SearchFailed(f"no candidate could be measured: {'; '.join(failed)}")
    if failed:
        logger.warning("%d of %d candidates are left out: %s", len(failed), len(records), "; ".join(failed))
    return records


def _top_rows(table: Scores) -> list[dict[str, Any]]:
    baseline, uniform = table.column("baseline"), table.column("uniform")
    ranks = table.ranks[:, 0]
    rows = []
    for index in np.argsort(ranks)[: table.top_k]:
        record = table.records[index]
        size = {key: record[key] for key in ("hidden_dim", "num_cells", "num_nodes")}
        rows.append(
            {
                "candidate_id": record["candidate_id"],
                "baseline_rank": int(ranks[index]),
                **size,
                "num_ops": len(record["selected_ops"]),
                "selected_ops": ", ".join(record["selected_ops"]),
                "baseline_score": float(baseline[index]),
                "uniform_score": float(uniform[index]),
            }
        )
    return rows


def _write_tables(tables: Mapping[str, Any], stem: Path) -> dict[str, str]:
    written = {}
    for key, name in TABLES.items():
        path = stem.with_name(f"{stem.name}_{name}.csv")
        tables[name].to_csv(path, index=False)
        written[key] = str(path)
    return written
