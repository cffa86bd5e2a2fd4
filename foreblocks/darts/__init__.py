"""Staged differentiable architecture search for time series forecasting.

Importing this package costs nothing: a name imports its module when it is first used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from ._compat import install as _install_old_paths
from ._core.errors import nearest as _nearest

if TYPE_CHECKING:
    from .architecture.cell import DARTSCell
    from .architecture.network import TimeSeriesDARTS
    from .config import (
        AblationSearchConfig,
        DARTSConfig,
        DARTSSearchSpaceConfig,
        DARTSTrainConfig,
        FinalTrainConfig,
        MultiFidelitySearchConfig,
        MultiFildelitySearchConfig,
        RobustPoolSearchConfig,
    )
    from .evaluation.analyzer import StreamlinedDARTSAnalyzer
    from .evaluation.metrics import compute_final_metrics, compute_metrics, evaluate_on_loader
    from .evaluation.plotting import batched_forecast, plot_alpha_evolution, plot_prediction, plot_training_curve
    from .trainer import DARTSTrainer

__version__ = "0.1.0"
__all__ = [
    "AblationSearchConfig",
    "DARTSCell",
    "DARTSConfig",
    "DARTSSearchSpaceConfig",
    "DARTSTrainConfig",
    "DARTSTrainer",
    "FinalTrainConfig",
    "MultiFidelitySearchConfig",
    "MultiFildelitySearchConfig",
    "RobustPoolSearchConfig",
    "StreamlinedDARTSAnalyzer",
    "TimeSeriesDARTS",
    "batched_forecast",
    "compute_final_metrics",
    "compute_metrics",
    "evaluate_on_loader",
    "plot_alpha_evolution",
    "plot_prediction",
    "plot_training_curve",
]
_MODULES = {
    "DARTSCell": "architecture.cell",
    "DARTSTrainer": "trainer",
    "StreamlinedDARTSAnalyzer": "evaluation.analyzer",
    "TimeSeriesDARTS": "architecture.network",
    "batched_forecast": "evaluation.plotting",
    "compute_final_metrics": "evaluation.metrics",
    "compute_metrics": "evaluation.metrics",
    "evaluate_on_loader": "evaluation.metrics",
    "plot_alpha_evolution": "evaluation.plotting",
    "plot_prediction": "evaluation.plotting",
    "plot_training_curve": "evaluation.plotting",
}

_install_old_paths(__name__)


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}.{_nearest(name, __all__)}")
    value = getattr(importlib.import_module(f".{_MODULES.get(name, 'config')}", __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
