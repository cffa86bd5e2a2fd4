"""The four pictures of ``ablation_weight_search``; matplotlib is imported on use and no global state is touched."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from .._core.optional import require

if TYPE_CHECKING:
    from .ablation import Scores

DPI = 150


def require_plots() -> Any:
    """Return ``matplotlib.figure``, or raise ``OptionalDependencyError``."""
    return require("matplotlib.figure", extra="plot", feature="save_plots=True")


def draw_plots(table: Scores, random: Mapping[str, Any], importance: Any, stem: Path) -> dict[str, str]:
    """Write the pictures as ``<stem>_<name>.png`` and return name → path; what has no data is left out.

    Args:
        table: scores and ranks.
        random: result of ``random_analysis``.
        importance: the ``loo_importance`` DataFrame.
        stem: folder and start of the file names.
    """
    paths = {"rank_heatmap": _heatmap(table, stem)}
    if random["topk_frequency_under_random"]:
        paths["winner_rank_hist"] = _winner(table, random, stem)
        paths["topk_freq"] = _frequency(table, random, stem)
    if len(importance):
        paths["loo_importance"] = _importance(importance, stem)
    return {name: str(path) for name, path in paths.items()}


def _figure(width: float, height: float) -> tuple[Any, Any]:
    figure = require_plots().Figure(figsize=(width, height), layout="constrained")
    return figure, figure.add_subplot()


def _save(figure: Any, stem: Path, name: str) -> Path:
    path = stem.with_name(f"{stem.name}_{name}.png")
    figure.savefig(path, dpi=DPI)
    return path


def _heatmap(table: Scores, stem: Path) -> Path:
    order = np.argsort(table.ranks[:, 0])
    figure, axis = _figure(2.5 + 0.16 * len(table.schemes), 2.0 + 0.18 * len(order))
    image = axis.imshow(table.ranks[order], aspect="auto", cmap="viridis_r", interpolation="nearest")
    axis.set_xticks(range(len(table.schemes)), list(table.schemes), rotation=90, fontsize=6)
    axis.set_yticks(range(len(order)), [str(table.records[i]["candidate_id"]) for i in order], fontsize=6)
    axis.set(title="Rank under each weight scheme", xlabel="scheme", ylabel="candidate, best of the baseline first")
    figure.colorbar(image, ax=axis, label="rank (1 is the best)")
    return _save(figure, stem, "rank_heatmap")


def _winner(table: Scores, random: Mapping[str, Any], stem: Path) -> Path:
    figure, axis = _figure(6.0, 4.0)
    axis.hist(random["baseline_winner_rank_under_random"], bins=np.arange(0.5, len(table.records) + 1.0), rwidth=0.9)
    identity = random["baseline_winner_candidate_id"]
    axis.set(title=f"The baseline's winner (candidate {identity})", xlabel="rank", ylabel="random schemes")
    return _save(figure, stem, "winner_rank_hist")


def _frequency(table: Scores, random: Mapping[str, Any], stem: Path) -> Path:
    names = [str(record["candidate_id"]) for record in table.records]
    figure, axis = _figure(2.0 + 0.25 * len(names), 4.0)
    axis.bar(names, random["topk_frequency_under_random"])
    axis.set(title=f"Among the {table.top_k} best", xlabel="candidate", ylabel="share of random schemes", ylim=(0, 1))
    return _save(figure, stem, "topk_freq")


def _importance(importance: Any, stem: Path) -> Path:
    rows = importance.iloc[::-1]
    figure, axis = _figure(6.0, 1.5 + 0.3 * len(rows))
    axis.barh(rows["metric_removed"], rows["importance_spearman_drop"])
    axis.set(title="What leaving a metric out changes", xlabel="1 − Spearman with the baseline's order")
    return _save(figure, stem, "loo_importance")
