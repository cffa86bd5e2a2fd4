"""The analysis of a finished search: tables, correlations, figures, and a report in plain words."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from .._core.errors import InvalidArgument, check_choice, check_int
from .._core.logging import get_logger
from .._core.optional import require
from .analysis import figures_results, figures_space
from .analysis.correlations import METHODS, correlation_table
from .analysis.insights import correlation_sentences, findings
from .analysis.patterns import find_patterns
from .analysis.records import load_records
from .analysis.table import METRICS, analysis_rows, features, with_indicators
from .figures import finish_figure

logger = get_logger(__name__)
Size = tuple[float, float]


class StreamlinedDARTSAnalyzer:
    """Tables, correlations, figures and a report of a search.

    Args:
        search_results: the result of ``multi_fidelity_search``, a trainer (its last search), the run folder
            (``run_dir``), or the folder or ``stats.json`` that ``collect_stats`` wrote. What a source does not hold
            is missing from the analysis, and said; the statistics hold no zero-cost metrics and hardly any ops.

    Attributes:
        records: the search as plain data.
        rows: one dictionary per candidate, best zero-cost rank first; needs no further package.
        patterns: counts by part, op and family (``analysis.patterns.find_patterns``).

    Raises:
        InvalidArgument: there is no search in ``search_results``.
        DataError: a file is damaged.
    """

    def __init__(self, search_results: Any) -> None:
        self.records = load_records(search_results)
        self.rows: list[dict[str, Any]] = analysis_rows(self.records)
        self.patterns: dict[str, Any] = find_patterns(self.records, self.rows)

    @property
    def analysis_df(self) -> Any:
        """The rows as a ``pandas.DataFrame``; what each column means is said in ``analysis.table``.

        Raises:
            OptionalDependencyError: pandas is not installed; ``rows`` has the same data.
        """
        return _pandas("analysis_df").DataFrame(self.rows)

    def correlations(
        self, *, method: str = "pearson", correction: str = "holm", level: float = 0.95
    ) -> list[dict[str, Any]]:
        """Return how sizes, ops and fixed choices go with scores and losses, smallest p-value first.

        Each row has ``architectural_feature, performance_metric, correlation, p_value, significant, sample_size,
        p_value_corrected, ci_low, ci_high, method, interval, correction``. Scores are better when higher, losses
        when lower. ``significant`` means a corrected p-value below 1 - ``level``, corrected over the whole table.

        Args:
            method: ``"pearson"`` (interval: Fisher's z) or ``"spearman"`` (Fisher's z, Bonett-Wright error).
            correction: ``"holm"`` or ``"benjamini-hochberg"``.
            level: of the intervals, in (0, 1).
        """
        table = with_indicators(self.rows)
        return correlation_table(
            table, features(self.rows), METRICS, method=method, correction=correction, level=level
        )  # fmt: skip

    def analyze_correlations(self, *, method: str = "pearson", correction: str = "holm", level: float = 0.95) -> Any:
        """Return ``correlations(...)`` as a ``pandas.DataFrame``.

        Raises:
            OptionalDependencyError: pandas is not installed; ``correlations()`` has the same data.
        """
        return _pandas("analyze_correlations()").DataFrame(
            self.correlations(method=method, correction=correction, level=level)
        )

    def plot_encoder_decoder_analysis(self, figsize: Size = (13, 7.5)) -> Any:
        """Return a Figure: zero-cost rank by sequence part, channels, series norm, head, attention, feed-forward."""
        return figures_space.choices_figure(self.rows, figsize)

    def plot_operation_analysis(self, figsize: Size = (13, 6)) -> Any:
        """Return a Figure: how often each op was offered, its correlation with the rank, and the edges it kept."""
        return figures_results.operations_figure(self.records, self.rows, self.patterns, figsize)

    def plot_correlation_analysis(self, figsize: Size = (16, 6)) -> Any:
        """Return a Figure: the strongest correlations with each score and loss, and their intervals."""
        return figures_results.correlations_figure(self.rows, self.correlations(), figsize)

    def plot_performance_analysis(self, figsize: Size = (13, 8)) -> Any:
        """Return a Figure: screening, its agreement with training, the rungs, and the test set."""
        return figures_results.performance_figure(self.records, self.rows, figsize)

    def plot_architecture_space_exploration(self, figsize: Size = (15, 5)) -> Any:
        """Return a Figure: width and edges, sequence part and channels, and number of ops of the candidates."""
        return figures_space.space_figure(self.rows, figsize)

    def plot_metric_architecture_correlations(self, method: str = "pearson", figsize: Size = (13, 9)) -> Any:
        """Return a Figure: a heat map of the correlations of all features with all scores, losses and metrics.

        Args:
            method: ``"pearson"`` or ``"spearman"``.
            figsize: inches; the figure is at least as high as its rows need.
        """
        check_choice("method", method, METHODS)
        return figures_results.heat_map_figure(self.rows, method, figsize)

    def plot_architecture_configurations(self, top_k: int = 20, figsize: Size = (16, 6)) -> Any:
        """Return a Figure: ops, sizes, choices and losses of the ``top_k`` best candidates by zero-cost rank."""
        return figures_space.configurations_figure(self.rows, check_int("top_k", top_k, low=1), figsize)

    def generate_insights_report(self) -> str:
        """Return plain answers: was the zero-cost order plausible, did promoted models improve, did retraining keep
        the advantage, did the search collapse onto one family; then what goes with what.

        An answer is ``too few candidates to tell`` where the figures allow no other.
        """  # fmt: skip
        trained = sum(row["was_trained"] for row in self.rows)
        head = (
            f"Analysis of {self.records.source}: {len(self.rows)} candidates scored, {len(self.records.promoted)} "
            f"promoted, {trained} searched, {len(self.records.finalists)} retrained."
        )
        parts = [head, *map(str, findings(self.records, self.rows))]
        parts.append("\n".join(correlation_sentences(self.correlations())))
        if self.records.verdict:
            parts.append(self.records.verdict)
        return "\n\n".join(parts) + "\n"

    def save(self, folder: str | Path) -> list[Path]:
        """Write all figures, tables, patterns and the report into ``folder``, and return the paths.

        Raises:
            OptionalDependencyError: matplotlib is not installed; nothing is written.
            InvalidArgument: the folder cannot be written.
        """
        require("matplotlib.figure", extra="plot", feature="saving the figures of an analysis")
        folder = Path(folder)
        try:
            folder.mkdir(parents=True, exist_ok=True)
            paths = [self._save_figure(name, folder) for name in FIGURES]
            paths.append(_write_table(folder / "analysis_data.csv", self.rows))
            paths.append(_write_table(folder / "correlations.csv", self.correlations()))
            paths.append(folder / "analysis_patterns.json")
            paths[-1].write_text(json.dumps(self.patterns, indent=2) + "\n", encoding="utf-8")
            paths.append(folder / "insights_report.txt")
            paths[-1].write_text(self.generate_insights_report(), encoding="utf-8")
        except OSError as error:
            raise InvalidArgument(f"plot_dir={str(folder)!r} cannot be written: {error}.") from error
        return paths

    def _save_figure(self, name: str, folder: Path) -> Path:
        path = folder / f"{name}.png"
        finish_figure(FIGURES[name](self), save_path=path)
        return path


#: file name without suffix → method that draws it
FIGURES: dict[str, Callable[[StreamlinedDARTSAnalyzer], Any]] = {
    "encoder_decoder_analysis": StreamlinedDARTSAnalyzer.plot_encoder_decoder_analysis,
    "operation_analysis": StreamlinedDARTSAnalyzer.plot_operation_analysis,
    "correlation_analysis": StreamlinedDARTSAnalyzer.plot_correlation_analysis,
    "performance_analysis": StreamlinedDARTSAnalyzer.plot_performance_analysis,
    "architecture_space_exploration": StreamlinedDARTSAnalyzer.plot_architecture_space_exploration,
    "metric_architecture_correlations": StreamlinedDARTSAnalyzer.plot_metric_architecture_correlations,
    "architecture_configurations": StreamlinedDARTSAnalyzer.plot_architecture_configurations,
}


def analyze_darts_search(
    search_results: Any, save_plots: bool = True, plot_dir: str = "./plots/"
) -> StreamlinedDARTSAnalyzer:
    """Analyse a search, log the report, and return the analyzer.

    Args:
        search_results: see ``StreamlinedDARTSAnalyzer``.
        save_plots: write figures, tables and the report into ``plot_dir``; False writes nothing.
        plot_dir: folder, made if it is not there.

    Raises:
        InvalidArgument, DataError, OptionalDependencyError: see ``StreamlinedDARTSAnalyzer`` and its ``save``.
    """
    analyzer = StreamlinedDARTSAnalyzer(search_results)
    if save_plots:
        analyzer.save(plot_dir)
    logger.info("%s", analyzer.generate_insights_report())
    return analyzer


def analyze_enhanced_darts_search(
    search_results: Any, save_plots: bool = True, plot_dir: str = "./plots/"
) -> StreamlinedDARTSAnalyzer:
    """Do the same as ``analyze_darts_search``."""
    return analyze_darts_search(search_results, save_plots, plot_dir)


def _pandas(feature: str) -> Any:
    return require("pandas", extra="darts-analysis", feature=feature)


def _write_table(path: Path, rows: Sequence[Mapping[str, Any]]) -> Path:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]) if rows else [], restval="")
        writer.writeheader()
        writer.writerows(rows)
    return path
