"""What follows a series, as a figure: its last rows and the forecast, over their dates."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from .._core.errors import DataError
from .._core.optional import require
from .figures import INK, ORANGE, finish_figure, new_figure, tidy_axes, title_axes

MAX_PANELS = 12
_CHANNEL_HEIGHT = 1.5


def plot_forecast(
    dates: np.ndarray,
    values: np.ndarray,
    future: np.ndarray,
    forecast: np.ndarray,
    *,
    names: Sequence[str],
    title: str = "",
    save_path: str | Path | None = None,
) -> Any:
    """Plot a forecast after the rows that it follows, one panel a channel; the first twelve channels are drawn.

    Args:
        dates: of the rows before, ``[rows]``, ``datetime64`` or integers.
        values: the rows before, ``[rows, C]``.
        future: dates of the forecast, ``[H]``.
        forecast: ``[H, C]``, in the units of ``values``.
        names: of the C channels.
        title: above the figure.
        save_path: file to write; None writes nothing.

    Returns:
        The ``matplotlib.figure.Figure``.

    Raises:
        DataError: shapes that do not fit each other.
        InvalidArgument: ``save_path`` cannot be written.
        OptionalDependencyError: matplotlib is not installed.
    """
    channels = len(names)
    if values.shape != (len(dates), channels) or forecast.shape != (len(future), channels) or not len(dates):
        raise DataError(
            f"values {values.shape} and forecast {forecast.shape} must be [{len(dates)}, {channels}] and "
            f"[{len(future)}, {channels}], with at least one row before the forecast."
        )
    shown = min(channels, MAX_PANELS)
    figure = new_figure((12, 2.4), feature="plot_forecast", min_height=_CHANNEL_HEIGHT * shown + 0.9)
    panels = figure.subplots(shown, 1, squeeze=False, sharex=True)[:, 0]
    # The last known point begins the line of the forecast, so that a jump between the two is seen as one.
    joined = np.concatenate([dates[-1:], future])
    for channel, axes in enumerate(panels):
        tidy_axes(axes)
        axes.axvspan(joined[0], joined[-1], color=ORANGE, alpha=0.06, linewidth=0)
        axes.plot(dates, values[:, channel], color=INK, linewidth=1.1, alpha=0.8, label="known")
        line = np.concatenate([values[-1:, channel], forecast[:, channel]])
        axes.plot(joined, line, color=ORANGE, linewidth=1.6, label="forecast")
        title_axes(axes, str(names[channel]))
        axes.margins(x=0.01)
    if dates.dtype.kind == "M":
        ticks = panels[-1].xaxis
        module = require("matplotlib.dates", extra="plot", feature="plot_forecast")
        ticks.set_major_formatter(module.ConciseDateFormatter(ticks.get_major_locator()))
    above = {"loc": "lower right", "bbox_to_anchor": (1.0, 1.0), "borderaxespad": 0}
    panels[0].legend(frameon=False, fontsize=8, labelcolor=INK, ncols=2, **above)
    if shown < channels:
        title = f"{title}   (the first {shown} of {channels} channels)".strip()
    if title:
        figure.suptitle(title, fontsize=11, color=INK, x=0.01, ha="left")
    return finish_figure(figure, save_path=save_path)
