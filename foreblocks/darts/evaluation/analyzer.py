"""The analysis of a finished search."""

from __future__ import annotations

from typing import Any


class StreamlinedDARTSAnalyzer:
    """Tables, correlations, figures and a report of the results of ``multi_fidelity_search``."""

    def __init__(self, search_results: dict[str, Any]) -> None:
        raise NotImplementedError("StreamlinedDARTSAnalyzer is not built yet")


def analyze_darts_search(
    search_results: dict, save_plots: bool = True, plot_dir: str = "./plots/"
) -> StreamlinedDARTSAnalyzer:
    """Analyse a search and write figures and tables below ``plot_dir``."""
    raise NotImplementedError("analyze_darts_search is not built yet")


def analyze_enhanced_darts_search(
    search_results: dict, save_plots: bool = True, plot_dir: str = "./plots/"
) -> StreamlinedDARTSAnalyzer:
    """Do the same as ``analyze_darts_search``."""
    return analyze_darts_search(search_results, save_plots, plot_dir)
