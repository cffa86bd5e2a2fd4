"""Losses, metrics, baselines, the blend of forecasters, and the tables that report them."""

from .._core.lazy import lazy_names

__getattr__, __dir__ = lazy_names(
    __name__,
    {
        "StreamlinedDARTSAnalyzer": "analyzer",
        "batched_forecast": "plotting",
        "compute_final_metrics": "metrics",
        "compute_metrics": "metrics",
        "evaluate_on_loader": "metrics",
        "plot_alpha_evolution": "plotting",
        "plot_prediction": "plotting",
        "plot_training_curve": "plotting",
    },
)
