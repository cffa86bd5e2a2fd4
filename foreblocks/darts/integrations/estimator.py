"""A forecaster with the interface of scikit-learn: ``fit``, ``predict``, ``get_params``, ``set_params``."""

from __future__ import annotations

import inspect
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np
from torch import nn

from .._core.device import resolve_device
from .._core.errors import DataError, InvalidArgument, nearest
from ..config import EVERYDAY_SEARCH
from ..data import SeriesFrame, as_frame, empty_like, prepare, write_like
from ..data.recipe import DataRecipe
from ..search.saved_run import SavedRun, forecast_rows
from ..trainer import DARTSTrainer
from .export import Export, Kind, export_model


class DARTSForecaster:
    """Searches a network for a series, and forecasts what follows it.

    The search is that of the command line: its sizes are ``config.EVERYDAY_SEARCH``, minutes on a laptop. Data are a
    pandas, polars or pyarrow table, an array ``[rows, C]``, the path of a CSV, or a ``SeriesFrame``; see
    ``data.read_table`` for where dates come from.

    Args:
        lookback: L, rows that go in.
        horizon: H, rows that come out.
        targets: channels to forecast; None means all but ``future_columns``.
        future_columns: channels that are known for the horizon, such as a calendar.
        impute: ``"linear"`` or ``"ffill"`` fills what is missing; None refuses it.
        hidden_dims: widths that a candidate may have.
        batch_size: windows in a batch.
        search: keywords of ``DARTSTrainer.multi_fidelity_search`` that win over those of ``EVERYDAY_SEARCH``, such as
            ``{"num_candidates": 20, "max_workers": 2}``.
        seed: decides candidates, weights and batches: the same seed gives the same forecasts on a CPU.
        device: ``"auto"``, ``"cpu"`` or ``"cuda"``.
        run_dir: folder for the run; None writes nothing.

    Attributes:
        result_: what ``multi_fidelity_search`` returned; None after ``from_run``.
        model_: the final model, in scaled values.
        recipe_: how the data were made.
        verdict_: whether the final model beats the baselines on the test rows, in words.
        feature_names_in_: names of the channels.
    """

    result_: dict[str, Any] | None
    model_: nn.Module
    recipe_: DataRecipe
    verdict_: str
    feature_names_in_: np.ndarray
    _series: SeriesFrame | None
    _like: Any

    def __init__(
        self,
        lookback: int = 96,
        horizon: int = 24,
        *,
        targets: Sequence[str] | None = None,
        future_columns: Sequence[str] = (),
        impute: str | None = None,
        hidden_dims: Sequence[int] = (32,),
        batch_size: int = 32,
        search: Mapping[str, Any] | None = None,
        seed: int = 0,
        device: str = "auto",
        run_dir: str | os.PathLike[str] | None = None,
    ) -> None:
        # As given and unchecked, as scikit-learn's clone() wants it: fit() checks.
        self.lookback = lookback
        self.horizon = horizon
        self.targets = targets
        self.future_columns = future_columns
        self.impute = impute
        self.hidden_dims = hidden_dims
        self.batch_size = batch_size
        self.search = search
        self.seed = seed
        self.device = device
        self.run_dir = run_dir

    def get_params(self, deep: bool = True) -> dict[str, Any]:
        """Return name → value of every argument; ``deep`` changes nothing, as none is an estimator."""
        return {name: getattr(self, name) for name in _NAMES}

    def set_params(self, **params: Any) -> Self:
        """Set arguments by name and return the forecaster.

        Raises:
            InvalidArgument: there is no such argument.
        """
        for name, value in params.items():
            if name not in _NAMES:
                raise InvalidArgument(f"DARTSForecaster has no argument {name!r}.{nearest(name, _NAMES)}")
            setattr(self, name, value)
        return self

    def __repr__(self) -> str:
        """Show the arguments that differ from their defaults."""
        changed = [
            f"{name}={getattr(self, name)!r}" for name, default in _NAMES.items() if getattr(self, name) != default
        ]
        return f"DARTSForecaster({', '.join(changed)})"

    def fit(self, X: Any, y: None = None) -> Self:
        """Search, retrain and test on a series, and return the forecaster.

        The first 70 % of the rows train, the next 10 % decide (or the standard borders of a known data set); the rest
        is read once, for the verdict.

        Args:
            X: the series, oldest row first.
            y: not used, as what is forecast is a part of ``X``.

        Raises:
            DataError: the data cannot be used.
            InvalidArgument: an argument, or a key of ``search``, is not allowed.
        """
        if y is not None:
            raise InvalidArgument("y is given, but what is forecast is a part of X (targets=...).")
        prepared = prepare(
            X, lookback=self.lookback, horizon=self.horizon, impute=self.impute, targets=self.targets,
            future_columns=self.future_columns,
        )  # fmt: skip
        trainer = DARTSTrainer(
            len(prepared.channels),
            list(self.hidden_dims),
            self.horizon,
            self.lookback,
            str(resolve_device(self.device)),
        )
        step = prepared.frame.date_step
        keywords = {
            **EVERYDAY_SEARCH, "seed": self.seed, "run_dir": self.run_dir, "scaler": prepared.recipe.to_dict(),
            "seasonal_period": None if step is None else step.period, **(self.search or {}),
        }  # fmt: skip
        result = trainer.multi_fidelity_search(*prepared.loaders(self.batch_size, self.seed), **keywords)
        self.result_ = result
        self._keep(result["final_model"], prepared.recipe, result["verdict"])
        self._series = prepared.frame
        self._like = None if _is_plain(X) else empty_like(X)
        return self

    def predict(self, X: Any = None, *, future: Any = None) -> Any:
        """Forecast the H rows that follow a series, in its units.

        Args:
            X: at least L rows with the channels that were fitted, at the same step; None takes the series of ``fit``.
            future: the ``future_columns`` for the H rows that follow.

        Returns:
            A table of the kind of ``X`` with the dates that follow, ``[H, C_out]``; an array for an array; a
            ``Forecast`` for a path or ``SeriesFrame``.

        Raises:
            DataError: not fitted, or channels, step or rows do not fit.
        """
        self._check_fitted()
        series = self._series if X is None else as_frame(X, impute=self.impute)
        if series is None:
            raise DataError("a forecaster that was read from a run does not have its series: predict(X) needs it.")
        like = self._like if X is None else None if _is_plain(X) else X
        known = None if future is None else as_frame(future)
        found = forecast_rows(self.model_, self.recipe_, series, future=known)
        return found if like is None else write_like(like, found.dates, found.channels, found.values, found.offset)

    def export(self, path: str | os.PathLike[str], *, kind: Kind | None = None) -> Export:
        """Write the fitted model as one file that runs without this package, in the units of the data.

        Arguments and errors as ``export_model``.

        Raises:
            DataError: not fitted.
        """
        self._check_fitted()
        return export_model(self.model_, path, kind=kind, recipe=self.recipe_)

    @classmethod
    def from_run(cls, folder: str | os.PathLike[str], *, device: str = "auto") -> Self:
        """Return the fitted forecaster of a run folder, of the command line or of ``run_dir``.

        Raises:
            DataError: the folder holds no finished run, or not how its data were made.
        """
        run = SavedRun(Path(folder))
        recipe = run.recipe
        made = cls(
            recipe.lookback, recipe.horizon, targets=recipe.targets, future_columns=recipe.future, device=device,
            run_dir=folder,
        )  # fmt: skip
        made.result_ = made._series = made._like = None
        made._keep(run.load_model(resolve_device(device)), recipe, (run.result or {}).get("verdict", ""))
        return made

    def _keep(self, model: nn.Module, recipe: DataRecipe, verdict: str) -> None:
        self.model_, self.recipe_, self.verdict_ = model.eval(), recipe, verdict
        self.feature_names_in_ = np.array(recipe.channels, dtype=object)

    def _check_fitted(self) -> None:
        if "model_" not in vars(self):
            raise DataError("this DARTSForecaster is not fitted yet: call fit first, or read one with from_run.")


def _is_plain(data: Any) -> bool:
    """Say whether data are of a kind without tables of its own, whose forecasts are a ``Forecast``."""
    return isinstance(data, str | os.PathLike | SeriesFrame)


_NAMES = {
    name: parameter.default
    for name, parameter in inspect.signature(DARTSForecaster.__init__).parameters.items()
    if name != "self"
}
