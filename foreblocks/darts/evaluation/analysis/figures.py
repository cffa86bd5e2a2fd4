"""What the figures of the analyzer share: the marks of a candidate, scattered points, and the note for missing data."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from ..figures import BLUE, GRID, INK, MUTED, ORANGE, tidy_axes, title_axes
from .table import label

Row = Mapping[str, Any]
Rows = Sequence[Row]

LIGHT = "#b9c0c7"
FAMILY_COLOURS = {
    "conv": "#1f6fb4",
    "frequency": "#2a8f5b",
    "attention": "#8a4fa3",
    "mlp": "#b3741c",
    "identity": "#6b6b6b",
    "other": "#6b6b6b",
}
#: how far a candidate came → colour, marker size, words
MARKS = {
    "screened": (LIGHT, 22, "not searched"),
    "promoted": (BLUE, 34, "searched"),
    "best": (ORANGE, 90, "best"),
}


def status(row: Row) -> str:
    """Return ``best``, ``promoted`` or ``screened``."""
    return "best" if row["is_best"] else "promoted" if row["is_top_candidate"] else "screened"


def loss_key(rows: Rows) -> str:
    """Return the loss that most candidates have, measured alike for them."""
    return max(("first_rung_val_loss", "trial_val_loss"), key=lambda key: sum(row[key] is not None for row in rows))


def dots(axes: Any, x: Sequence[float], y: Sequence[float], rows: Rows) -> None:
    """Draw candidates as points that show how far each came, the best on top."""
    for name, (colour, size, words) in MARKS.items():
        chosen = [k for k, row in enumerate(rows) if status(row) == name]
        if chosen:
            axes.scatter(
                [x[k] for k in chosen], [y[k] for k in chosen], s=size, color=colour, label=words, zorder=3,
                marker="*" if name == "best" else "o", edgecolor="white", linewidth=0.6,
            )  # fmt: skip


def spread(values: Iterable[float], width: float = 0.5) -> list[float]:
    """Return sideways offsets within ``width`` that keep points of near values apart, the same in every run."""
    array = np.asarray(list(values), dtype=float)
    if len(array) < 2:
        return [0.0] * len(array)
    places = np.empty(len(array))
    places[np.argsort(array, kind="stable")] = np.arange(len(array))
    # Steps of the golden ratio fill an interval evenly, so neighbours in value land far apart.
    return list(((places * 0.6180339887) % 1.0 - 0.5) * width)


def panel(axes: Any, title: str, *, x: str = "", y: str = "", grid: str = "y") -> None:
    """Style an ``Axes`` and write its title and the names of its axes."""
    tidy_axes(axes, grid=grid)
    title_axes(axes, title)
    axes.set_xlabel(x, fontsize=8, color=MUTED)
    axes.set_ylabel(y, fontsize=8, color=MUTED)


def missing(axes: Any, title: str, reason: str = "not recorded") -> None:
    """Say in place of a panel why there is none."""
    title_axes(axes, title)
    axes.text(0.5, 0.5, reason, ha="center", va="center", fontsize=9, color=MUTED, transform=axes.transAxes)
    axes.tick_params(bottom=False, left=False, labelbottom=False, labelleft=False)  # ticks may be shared: kept
    for spine in axes.spines.values():
        spine.set_color(GRID)


def legend_below(figure: Any, axes: Any) -> None:
    """Put one legend for all panels at the foot of the figure, with the labels of every panel once."""
    found: dict[str, Any] = {}
    for part in axes:
        handles, labels = part.get_legend_handles_labels()
        for handle, text in zip(handles, labels, strict=True):
            found.setdefault(text, handle)
    if found:
        figure.legend(
            list(found.values()), list(found), loc="outside lower center", ncols=len(found), frameon=False, fontsize=8,
            labelcolor=INK,
        )  # fmt: skip


def axis_label(key: str) -> str:
    """Return the words of a column for an axis, with what is better."""
    if key.endswith("_loss"):
        return f"{label(key)} (lower is better)"
    return f"{label(key)} (higher is better)" if key in ("rank_score", "zero_cost_score") else label(key)
