"""Figures of the space: fixed choices, sizes, and the configurations of the best candidates."""

from __future__ import annotations

from statistics import median
from typing import Any

import numpy as np

from ..figures import INK, MUTED, new_figure, title_axes
from .figures import (
    FAMILY_COLOURS,
    MARKS,
    Rows,
    axis_label,
    dots,
    legend_below,
    missing,
    panel,
    spread,
    status,
)
from .table import CHOICES, family_of, label, score_key

Size = tuple[float, float]
_RINGS = {"best": (MARKS["best"][0], 2.2), "promoted": (INK, 1.2), "screened": ("white", 0.4)}


def choices_figure(rows: Rows, figsize: Size) -> Any:
    """Draw the zero-cost rank of every candidate by each of its fixed choices."""
    figure = new_figure(figsize, feature="plot_encoder_decoder_analysis()")
    axes = figure.subplots(2, 3).ravel()
    figure.suptitle("Fixed choices of the candidates", x=0.01, ha="left", fontsize=11, color=INK)
    key = score_key(rows)
    for part, choice in zip(axes, CHOICES, strict=True):
        _choice_panel(part, rows, choice, key)
    legend_below(figure, axes)
    return figure


def _choice_panel(axes: Any, rows: Rows, choice: str, key: str) -> None:
    known = [row for row in rows if row[choice] is not None and row[key] is not None]
    title = label(choice).capitalize()
    if not known:
        missing(axes, title)
        return
    words = sorted({str(row[choice]) for row in known})
    ticks = []
    for place, word in enumerate(words):
        group = [row for row in known if str(row[choice]) == word]
        values = [row[key] for row in group]
        dots(axes, [place + offset for offset in spread(values)], values, group)
        axes.hlines(median(values), place - 0.33, place + 0.33, color=INK, linewidth=1.2, zorder=2, label="median")
        ticks.append(f"{word.replace('_', ' ')}\nn = {len(group)}")
    panel(axes, title, y=axis_label(key))
    axes.set_xticks(range(len(words)), ticks)
    axes.set_xlim(-0.6, len(words) - 0.4)


def space_figure(rows: Rows, figsize: Size) -> Any:
    """Draw where in the space the candidates lie: size, parts, and number of ops, each with the zero-cost rank."""
    figure = new_figure(figsize, feature="plot_architecture_space_exploration()")
    axes = figure.subplots(1, 3)
    figure.suptitle("Where the candidates lie", x=0.01, ha="left", fontsize=11, color=INK)
    key = score_key(rows)
    _size_panel(figure, axes[0], rows, key)
    _grid_panel(axes[1], rows, key)
    known = [row for row in rows if row["num_operations"] is not None and row[key] is not None]
    if known:
        counts = [row["num_operations"] for row in known]
        values = [row[key] for row in known]
        offsets = spread(values, 0.4)
        dots(axes[2], [count + offset for count, offset in zip(counts, offsets, strict=True)], values, known)
        panel(axes[2], "Number of ops to choose from", x="ops, Identity included", y=axis_label(key))
        axes[2].set_xticks(range(min(counts), max(counts) + 1, max(1, (max(counts) - min(counts)) // 8)))
    else:
        missing(axes[2], "Number of ops to choose from")
    legend_below(figure, axes[2:])
    return figure


def _size_panel(figure: Any, axes: Any, rows: Rows, key: str) -> None:
    title = "Width and edges"
    known = [row for row in rows if None not in (row["hidden_dim"], row["num_edges"], row[key])]
    if not known:
        missing(axes, title)
        return
    widths = sorted({row["hidden_dim"] for row in known})
    x = _beside(known, widths)
    y = [row["num_edges"] for row in known]
    drawn = axes.scatter(
        x, y, c=[row[key] for row in known], cmap="viridis", s=46, zorder=3,
        edgecolor=[_RINGS[status(row)][0] for row in known],
        linewidth=[_RINGS[status(row)][1] for row in known],
    )  # fmt: skip
    panel(axes, f"{title} (ringed: searched; orange: best)", x="width D", y="edges in all cells")
    axes.set_xticks(range(len(widths)), [str(width) for width in widths])
    axes.set_xlim(-0.6, len(widths) - 0.4)
    bar = figure.colorbar(drawn, ax=axes, shrink=0.8, pad=0.02)
    bar.set_label(axis_label(key), fontsize=8, color=MUTED)
    bar.ax.tick_params(labelsize=7, colors=MUTED)
    bar.outline.set_visible(False)


def _beside(rows: Rows, widths: list[int]) -> list[float]:
    """Return the place of each candidate at its width, those of one size side by side."""
    sizes: dict[tuple[int, int], list[int]] = {}
    for k, row in enumerate(rows):
        sizes.setdefault((row["hidden_dim"], row["num_edges"]), []).append(k)
    places = [0.0] * len(rows)
    for (width, _), members in sizes.items():
        step = min(0.12, 0.8 / len(members))
        for order, k in enumerate(members):
            places[k] = widths.index(width) + step * (order - (len(members) - 1) / 2)
    return places


def _grid_panel(axes: Any, rows: Rows, key: str) -> None:
    title = "Sequence part and channels: median rank (candidates)"
    known = [row for row in rows if None not in (row["arch_mode"], row["channel_mode"], row[key])]
    if not known:
        missing(axes, title)
        return
    modes = sorted({row["arch_mode"] for row in known})
    channels = sorted({row["channel_mode"] for row in known})
    values = np.full((len(modes), len(channels)), np.nan)
    for i, mode in enumerate(modes):
        for j, channel in enumerate(channels):
            cell = [row[key] for row in known if (row["arch_mode"], row["channel_mode"]) == (mode, channel)]
            if not cell:
                axes.text(j, i, "none", ha="center", va="center", fontsize=8, color=MUTED)
            else:
                values[i, j] = median(cell)
                axes.text(j, i, f"{values[i, j]:.2f}\n({len(cell)})", ha="center", va="center", fontsize=8, color=INK)
    low, high = float(np.nanmin(values)), float(np.nanmax(values))
    axes.imshow(values, cmap="Blues", aspect="auto", alpha=0.6, vmin=low - 0.4 * (high - low) - 1e-9, vmax=high + 1e-9)
    axes.set_xticks(range(len(channels)), channels, fontsize=8, color=MUTED)
    axes.set_yticks(range(len(modes)), [mode.replace("_", "\n") for mode in modes], fontsize=8, color=MUTED)
    axes.tick_params(length=0)
    for spine in axes.spines.values():
        spine.set_visible(False)
    title_axes(axes, title)


def configurations_figure(rows: Rows, top_k: int, figsize: Size) -> Any:
    """Draw the best candidates as a table: ops to choose from, sizes, fixed choices and how far each came."""
    shown = list(rows[:top_k])
    figure = new_figure(figsize, feature="plot_architecture_configurations()", min_height=2.4 + 0.27 * len(shown))
    grid, facts = figure.subplots(1, 2, sharey=True, width_ratios=(1.15, 1.0))
    ops = [key.removeprefix("op_") for key in rows[0] if key.startswith("op_")]
    names = [f"candidate {row['candidate_id']}" for row in shown]
    for y, row in enumerate(shown):
        if row[f"op_{ops[0]}"] is None:
            grid.text(0, y, "ops not recorded", fontsize=7, color=MUTED, va="center")
            continue
        chosen = [x for x, op in enumerate(ops) if row[f"op_{op}"]]
        colours = [FAMILY_COLOURS[family_of(ops[x])] for x in chosen]
        grid.scatter(chosen, [y] * len(chosen), s=64, marker="s", color=colours, zorder=3)
    title = f"Ops of the {len(shown)} best of {len(rows)} candidates by zero-cost (blue: searched, orange: best)"
    panel(grid, title, grid="both")
    grid.set_xticks(range(len(ops)), ops, rotation=60, ha="right", rotation_mode="anchor")
    grid.set_xlim(-0.7, len(ops) - 0.3)
    for tick, op in zip(grid.get_xticklabels(), ops, strict=True):
        tick.set_color(FAMILY_COLOURS[family_of(op)])
    grid.set_yticks(range(len(shown)), names)
    for tick, row in zip(grid.get_yticklabels(), shown, strict=True):
        tick.set_color(MARKS[status(row)][0] if status(row) != "screened" else MUTED)
        tick.set_fontweight("bold" if row["is_best"] else "normal")
    grid.set_ylim(len(shown) - 0.5, -0.5)
    _facts(facts, shown)
    return figure


def _facts(axes: Any, rows: Rows) -> None:
    score = score_key(rows)
    columns = (
        (0.02, "D", "hidden_dim"), (0.07, "cells", "num_cells"), (0.13, "nodes", "num_nodes"),
        (0.2, "sequence", "arch_mode"), (0.355, "channels", "channel_mode"), (0.49, "patch", "patch_len"),
        (0.555, "norm", "series_norm"), (0.62, "head", "head"),
        (0.72, "rank" if score == "rank_score" else "score", score), (0.79, "trial", "trial_val_loss"),
        (0.865, "loss", "val_loss"), (0.94, "epochs", "epochs_trained"),
    )  # fmt: skip
    for x, title, key in columns:
        axes.text(x, -0.85, title, fontsize=8, color=MUTED, fontweight="bold")
        for y, row in enumerate(rows):
            axes.text(x, y, _cell(row[key]), fontsize=7.5, color=INK, va="center")
    axes.set_xlim(0, 1)
    axes.set_axis_off()


def _cell(value: Any) -> str:
    if value is None:
        return "–"
    if isinstance(value, float):
        return f"{value:.3f}" if 1e-2 <= abs(value) < 1e3 else f"{value:.2g}"
    return str(value).replace("_", " ")
