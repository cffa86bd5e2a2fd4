"""A run folder that is read back: its figures, its model, and forecasts from new data."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from torch import nn

from .._core.ambient import usual_torch
from .._core.device import resolve_device
from .._core.errors import DataError
from ..data.frame import SeriesFrame, check_finite
from ..data.recipe import DataRecipe
from ..data.steps import DateStep
from ..training.checkpoint import ARCH_FILE, SCALER_FILE, load_folder

MODEL_FOLDER = "model"


@dataclass(frozen=True, eq=False)
class Forecast:
    """The rows that follow a series, in its own units.

    Attributes:
        dates: ``[H]``, ``datetime64[us]`` (UTC where ``offset`` is set) or int64.
        channels: names of the C_out channels that are forecast.
        values: float32 ``[H, C_out]``.
        offset: how far ahead of UTC the last date of the series was written; None if it did not say.
    """

    dates: np.ndarray
    channels: tuple[str, ...]
    values: np.ndarray
    offset: np.timedelta64 | None = None


@dataclass(frozen=True)
class SavedRun:
    """What a search left in the folder ``path``; each part is read when it is asked for.

    Raises:
        DataError: there is no such folder, or nothing of a run in it.
    """

    path: Path

    def __post_init__(self) -> None:
        if not self.path.is_dir():
            raise DataError(f"run {str(self.path)!r}: there is no such folder.")
        if not any((self.path / name).exists() for name in ("result.json", "candidates.json", MODEL_FOLDER)):
            raise DataError(f"run {str(self.path)!r} is no run folder: no result.json, candidates.json or model.")

    @cached_property
    def result(self) -> dict[str, Any] | None:
        """The figures of a finished search (``result.json``); None where it is unfinished."""
        return self.read("result.json", dict)

    @cached_property
    def recipe(self) -> DataRecipe:
        """How the data of the model were made.

        Raises:
            DataError: the run did not save it, or it is damaged.
        """
        name = f"{MODEL_FOLDER}/{SCALER_FILE}"
        state = self.read(name, dict)
        if state is None:
            raise DataError(
                f"run {str(self.path)!r}: {name} is missing, so its forecasts cannot be turned into original units. "
                "The command line saves it; in Python pass scaler=prepared.recipe.to_dict() to the search."
            )
        try:
            return DataRecipe.from_dict(state)
        except DataError as error:
            raise DataError(f"{self.path / name}: {error}") from error

    @property
    def has_model(self) -> bool:
        """Whether the final model was saved."""
        return (self.path / MODEL_FOLDER / ARCH_FILE).is_file()

    def load_model(self, device: torch.device | str = "cpu") -> nn.Module:
        """Return the final model in eval mode.

        Raises:
            DataError: the run has none, or its files do not fit each other.
        """
        folder = self.path / MODEL_FOLDER
        if not self.has_model:
            raise DataError(f"run {str(self.path)!r}: no {MODEL_FOLDER}/{ARCH_FILE}; the search did not finish.")
        target = resolve_device(device)
        try:
            return load_folder(folder, target)
        except (OSError, KeyError, TypeError, RuntimeError, ValueError, SafetensorError) as error:
            raise DataError(f"{folder}: the saved model cannot be read ({error}).") from error

    def read(self, name: str, kind: type) -> Any:
        """Return the content of a JSON file of the run; None if it is not there.

        Raises:
            DataError: it is no JSON, or holds something else than ``kind``.
        """
        path = self.path / name
        if not path.is_file():
            return None
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise DataError(f"{path}: cannot be read as JSON ({error}).") from error
        if not isinstance(content, kind):
            raise DataError(f"{path}: expected a {kind.__name__}, found a {type(content).__name__}.")
        return content


def check_channels(recipe: DataRecipe, names: Sequence[str], where: str) -> None:
    """Raise ``DataError`` unless ``names`` are the channels of a run, in any order; what differs is named."""
    missing = [name for name in recipe.channels if name not in names]
    extra = [name for name in names if name not in recipe.channels]
    if not missing and not extra:
        return
    problem = " and ".join(
        [f"lacks {missing}"] * bool(missing) + [f"has {extra}, which the run was not trained on"] * bool(extra)
    )
    hint = "" if missing else f" To leave them out: --columns {' '.join(recipe.channels)}"
    raise DataError(f"{where} {problem}; the channels of the run are {list(recipe.channels)}.{hint}")


@usual_torch()
def forecast_frame(
    run: SavedRun, frame: SeriesFrame, *, future: SeriesFrame | None = None, device: torch.device | str = "cpu"
) -> Forecast:
    """Forecast the H rows that follow a series, in its own units, with the model of a run.

    Raises:
        DataError: as ``forecast_rows``, or the run is incomplete.
    """
    recipe = run.recipe
    check_channels(recipe, frame.channels, frame.name)  # before the model is read
    return forecast_rows(run.load_model(device), recipe, frame, future=future)


@usual_torch()
def forecast_rows(
    model: nn.Module, recipe: DataRecipe, frame: SeriesFrame, *, future: SeriesFrame | None = None
) -> Forecast:
    """Forecast the H rows that follow a series, in its own units, from its last L rows.

    Args:
        model: in eval mode, trained on data of this recipe.
        recipe: how those data were made.
        frame: at least L rows with the channels of the recipe, in any order, at its step.
        future: the channels that are known ahead (``recipe.future``, further ones are left alone), for the H rows that
            follow; None if there is no such channel.

    Raises:
        DataError: channels, step or number of rows do not fit, or a value is not finite.
    """
    check_channels(recipe, frame.channels, frame.name)
    if len(frame) < recipe.lookback:
        raise DataError(f"{frame.name}: {len(frame)} rows are too few: the run looks back {recipe.lookback}.")
    check_finite(frame)
    dates = frame.dates_after(recipe.horizon, _step(recipe, frame))
    order = [frame.channels.index(name) for name in recipe.channels]
    first = len(frame) - recipe.lookback
    scaled = recipe.scaler.transform_rows(frame.values[first:, order], frame.name, first=first)
    known = _known(recipe, future, dates)
    inputs = (scaled,) if known is None else (scaled, known)
    device = next(iter(model.state_dict().values())).device
    with torch.no_grad():
        output = model(*(torch.from_numpy(part)[None].to(device) for part in inputs))
    output = output[0].double().cpu().numpy()
    wanted = (recipe.horizon, len(recipe.outputs))
    if output.shape != wanted:
        raise DataError(f"the model gave {output.shape} (steps, channels), not {wanted}.")
    with np.errstate(over="ignore", invalid="ignore"):
        values = recipe.scaler.select(recipe.outputs).inverse(output).astype(np.float32)
    if not np.isfinite(values).all():
        raise DataError(f"the forecast of {frame.name} is not finite, or too large for float32.")
    offset = None if frame.offsets is None else frame.offsets[-1]
    return Forecast(dates, recipe.outputs, values, offset)


def _known(recipe: DataRecipe, future: SeriesFrame | None, dates: np.ndarray) -> np.ndarray | None:
    """Return the scaled covariates of the horizon, ``[H, F]``; None for a run without any."""
    if not recipe.future:
        if future is None:
            return None
        raise DataError(f"{future.name}: the run was trained without columns that are known ahead.")
    if future is None:
        raise DataError(
            f"the run was trained with {list(recipe.future)} known ahead: give them for the {recipe.horizon} rows that "
            "follow (--future FILE)."
        )
    known = future.select(recipe.future)
    check_finite(known)
    if len(known) < len(dates):
        raise DataError(f"{future.name}: {len(known)} rows are too few: the run forecasts {len(dates)}.")
    wrong = np.flatnonzero(known.dates[: len(dates)] != dates)
    if len(wrong):
        at = int(wrong[0])
        raise DataError(f"{future.name}: row {at} is of {known.dates[at]}, but the forecast needs {dates[at]} there.")
    return recipe.scaler.select(recipe.future).transform_rows(known.values[: len(dates)], future.name)


def _step(recipe: DataRecipe, frame: SeriesFrame) -> DateStep | None:
    """Return the step at which the file goes on: its own, or that of the run where the file is too short to show it."""
    own = frame.date_step
    if own is None or recipe.step is None or own == recipe.step:
        return own or recipe.step
    if not recipe.step.fits(own):
        raise DataError(f"{frame.name}: its step is {own}; the run was trained on a step of {recipe.step}.")
    return recipe.step if own.kind == "fixed" else own
