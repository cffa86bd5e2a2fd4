"""How the data of a model were made: what turns another file into its input, and its output into forecasts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

from .._core.errors import DataError, check_int
from .scaling import StandardScaler
from .steps import DateStep

FORMAT_VERSION = 1
_KEYS = ("lookback", "horizon", "series", "step")


@dataclass(frozen=True)
class DataRecipe:
    """Channels, scaling, window and step of the data that a model was trained on.

    Attributes:
        scaler: channel names, and mean and deviation of each over the train rows.
        lookback: L, rows that go in.
        horizon: H, rows that come out.
        series: name of the series.
        step: of its dates; None if it had a single row.
        targets: channels that are forecast, in the order of the model's output; None for all.
        future: channels whose values the model is told for the horizon as well, in the order of ``x_future``.
    """

    scaler: StandardScaler
    lookback: int
    horizon: int
    series: str
    step: DateStep | None
    targets: tuple[str, ...] | None = None
    future: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        check_int("lookback", self.lookback, low=1)
        check_int("horizon", self.horizon, low=1)
        self.scaler.select((*self.outputs, *self.future))  # refuses a name that is no channel

    @property
    def channels(self) -> tuple[str, ...]:
        """Names of the C channels, in the order of the model's input."""
        return self.scaler.channels

    @property
    def outputs(self) -> tuple[str, ...]:
        """Names of the C_out channels of a forecast."""
        return self.channels if self.targets is None else self.targets

    def to_dict(self) -> dict[str, Any]:
        """Return plain data: the keys of ``StandardScaler.to_dict``, and beside them the rest (``scaler.json``)."""
        return {
            "format": FORMAT_VERSION,
            **self.scaler.to_dict(),
            "lookback": self.lookback,
            "horizon": self.horizon,
            "series": self.series,
            "step": None if self.step is None else self.step.to_dict(),
            "targets": None if self.targets is None else list(self.targets),
            "future": list(self.future),
        }

    @classmethod
    def from_dict(cls, state: Mapping[str, Any]) -> Self:
        """Rebuild from ``to_dict``.

        Raises:
            DataError: a key is missing or has a value that makes no sense.
        """
        missing = [key for key in _KEYS if key not in state]
        if missing:
            raise DataError(f"the saved description of the data lacks {missing}.")
        if state.get("format", FORMAT_VERSION) != FORMAT_VERSION:
            raise DataError(f"the saved description of the data has format {state['format']!r}, not {FORMAT_VERSION}.")
        try:
            step = None if state["step"] is None else DateStep.from_dict(state["step"])
            scaler = StandardScaler.from_dict(state)
            targets = None if state.get("targets") is None else tuple(map(str, state["targets"]))
            future = tuple(map(str, state.get("future", ())))
            return cls(scaler, state["lookback"], state["horizon"], str(state["series"]), step, targets, future)
        except (TypeError, ValueError) as error:  # a value of another type, or one that a part refuses
            raise DataError(f"the saved description of the data: {error}") from error
