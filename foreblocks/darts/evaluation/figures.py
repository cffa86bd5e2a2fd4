"""What every figure of the package shares: how it is made, styled, saved and shown.

Figures are made without pyplot unless they are shown, so plotting keeps no global state and needs no display.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from .._core.errors import InvalidArgument
from .._core.logging import get_logger
from .._core.optional import require

_logger = get_logger(__name__)

INK, MUTED, GRID = "#222222", "#6b6b6b", "#d9d9d9"
BLUE, ORANGE, GREEN = "#1f6fb4", "#d9601a", "#2a8f5b"
DPI = 200
_NO_WINDOW = frozenset({"agg", "cairo", "pdf", "pgf", "ps", "svg", "template"})


def new_figure(figsize: tuple[float, float], *, feature: str, show: bool = False, min_height: float = 0.0) -> Any:
    """Return an empty ``matplotlib`` Figure with constrained layout.

    Args:
        figsize: width and height in inches.
        feature: what the caller draws, for the message when matplotlib is missing.
        show: make it known to pyplot, so that ``finish_figure(..., show=True)`` can open a window.
        min_height: inches that the contents need; the figure is at least that high.

    Raises:
        InvalidArgument: ``figsize`` is no pair of positive numbers.
        OptionalDependencyError: matplotlib is not installed.
    """
    try:
        width, height = (float(value) for value in figsize)
    except (TypeError, ValueError) as error:
        raise InvalidArgument(f"figsize={figsize!r} must be (width, height) in inches.") from error
    if not (0 < width < math.inf and 0 < height < math.inf):
        raise InvalidArgument(f"figsize={figsize!r} must be two positive numbers of inches.")
    module = "matplotlib.pyplot" if show else "matplotlib.figure"
    maker = require(module, extra="plot", feature=feature)
    make = maker.figure if show else maker.Figure
    return make(figsize=(width, max(height, min_height)), layout="constrained")


def tidy_axes(axes: Any, *, grid: str = "y") -> None:
    """Style one ``Axes``: no box, quiet ticks, a light grid below the data (``grid``: x, y or both)."""
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    for side in ("left", "bottom"):
        axes.spines[side].set_color(GRID)
    axes.tick_params(which="both", colors=MUTED, labelcolor=MUTED, labelsize=8, length=3)
    axes.grid(True, axis=grid, color=GRID, linewidth=0.6, alpha=0.7)
    axes.set_axisbelow(True)


def title_axes(axes: Any, text: str) -> None:
    """Put a small title at the left above ``axes``."""
    axes.set_title(text, loc="left", fontsize=9, color=INK)


def palette(count: int) -> Sequence[Any]:
    """Return ``count`` colours that differ: twenty fixed ones, dark before light, then again from the first."""
    colormaps = require("matplotlib", extra="plot", feature="a figure").colormaps
    colours = colormaps["tab20"].colors
    order = [*colours[::2], *colours[1::2]]
    return [order[k % len(order)] for k in range(count)]


def finish_figure(figure: Any, *, save_path: str | Path | None = None, show: bool = False) -> Any:
    """Save a figure where the caller said, show it if asked and possible, and return it, closed in pyplot.

    Raises:
        InvalidArgument: ``save_path`` cannot be written, or its suffix is no format that matplotlib knows.
    """
    if save_path is not None:
        _save(figure, Path(save_path))
    if show:
        pyplot = require("matplotlib.pyplot", extra="plot", feature="showing a figure")
        if pyplot.get_backend().lower() in _NO_WINDOW:
            _logger.warning("show=True: the backend %r opens no window; save the figure.", pyplot.get_backend())
        else:
            pyplot.show()
        pyplot.close(figure)
    return figure


def check_figure_path(path: str | Path, *, argument: str = "save_path") -> Path:
    """Return the path of a figure to write, after every check that needs no figure.

    Raises:
        InvalidArgument: a suffix that matplotlib does not write, or a folder that does not exist.
        OptionalDependencyError: matplotlib is not installed.
    """
    path = Path(path)
    base = require("matplotlib.backend_bases", extra="plot", feature=f"writing {path.name}").FigureCanvasBase
    known = sorted(base.get_supported_filetypes())
    if (path.suffix.removeprefix(".").lower() or "png") not in known:
        raise InvalidArgument(f"{argument}={str(path)!r}: choose a suffix among {known}.")
    if not path.parent.is_dir():
        raise InvalidArgument(f"{argument}={str(path)!r} cannot be written: there is no folder {str(path.parent)!r}.")
    return path


def _save(figure: Any, path: Path) -> None:
    check_figure_path(path)
    try:
        figure.savefig(path, dpi=DPI)
    except OSError as error:
        raise InvalidArgument(f"save_path={str(path)!r} cannot be written: {error}.") from error
