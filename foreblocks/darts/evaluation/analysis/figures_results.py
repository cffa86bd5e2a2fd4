"""Figures of the results: operations, correlations, and the way from screening to the test set."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ..figures import BLUE, GRID, INK, MUTED, ORANGE, new_figure, title_axes
from .correlations import correlation, correlation_table
from .figures import (
    FAMILY_COLOURS,
    LIGHT,
    MARKS,
    Rows,
    axis_label,
    dots,
    legend_below,
    loss_key,
    missing,
    panel,
    status,
)
from .records import SearchRecords
from .table import LOSSES, METRICS, family_of, features, label, score_key, with_indicators

Size = tuple[float, float]
FOREST_ROWS = 16
DARK = "#59636e"


def operations_figure(records: SearchRecords, rows: Rows, patterns: Mapping[str, Any], figsize: Size) -> Any:
    """Draw for every op how often it was offered, what goes with it, and how many edges kept it."""
    figure = new_figure(figsize, feature="plot_operation_analysis()", min_height=4.5)
    offered, effect, kept = figure.subplots(1, 3, sharey=True)
    figure.suptitle("Operations, coloured by family", x=0.01, ha="left", fontsize=11, color=INK)
    counts = patterns["operation_analysis"]
    ops = sorted(counts["overall"], key=lambda op: (list(FAMILY_COLOURS).index(family_of(op))))
    places = np.arange(len(ops))
    for group, shift, colour, words in (
        ("overall", -0.2, LIGHT, "all candidates"),
        ("top_candidates", 0.2, DARK, "searched candidates"),
    ):
        total = counts["totals"][group]
        if total:
            shares = [100.0 * counts[group][op] / total for op in ops]
            offered.barh(places + shift, shares, height=0.38, color=colour, label=f"{words} (n = {total})", zorder=3)
    panel(offered, "Offered to a candidate", x="share of the candidates, %", grid="x")
    offered.set_yticks(places, ops)
    for tick, op in zip(offered.get_yticklabels(), ops, strict=True):
        tick.set_color(FAMILY_COLOURS[family_of(op)])
    offered.set_ylim(len(ops) - 0.4, -0.6)
    key = score_key(rows)
    table = {r["architectural_feature"]: r for r in correlation_table(rows, [f"op_{op}" for op in ops], [key])}
    title = f"Correlation with the {label(key)}"
    if table:
        _intervals(effect, [table.get(f"op_{op}") for op in ops])
        panel(effect, title, x="r, 95 % interval (Fisher z)", grid="x")
    else:
        missing(effect, title, "too few candidates to tell")
    edges = [sum(c.get(op, 0) for c in records.op_counts.values()) for op in ops]
    if any(edges):
        for family in dict.fromkeys(family_of(op) for op in ops):
            own = [k for k, op in enumerate(ops) if family_of(op) == family]
            kept.barh(own, [edges[k] for k in own], height=0.7, color=FAMILY_COLOURS[family], label=family, zorder=3)
        panel(kept, f"Kept in {len(records.op_counts)} derived networks", x="edges", grid="x")
        kept.xaxis.get_major_locator().set_params(integer=True)
    else:
        missing(kept, "Kept in derived networks")
    for part in (effect, kept):
        part.tick_params(axis="y", length=0)
    legend_below(figure, [offered, effect, kept])
    return figure


def correlations_figure(rows: Rows, table: Sequence[Mapping[str, Any]], figsize: Size) -> Any:
    """Draw the strongest correlations of architecture with each measure of performance, with their intervals."""
    measures = [metric for metric in METRICS if any(row["performance_metric"] == metric for row in table)]
    figure = new_figure(figsize, feature="plot_correlation_analysis()")
    axes = np.atleast_1d(figure.subplots(1, max(1, len(measures))))
    figure.suptitle("Architecture and performance", x=0.01, ha="left", fontsize=11, color=INK)
    if not measures:
        missing(axes[0], "Correlations", "too few candidates to tell")
    for part, metric in zip(axes, measures, strict=False):
        chosen = [row for row in table if row["performance_metric"] == metric][:FOREST_ROWS]
        _intervals(part, chosen)
        most = max(row["sample_size"] for row in chosen)
        panel(part, f"{label(metric).capitalize()}, n ≤ {most}", x=_interval_name(chosen, metric), grid="x")
        part.set_yticks(range(len(chosen)), [label(row["architectural_feature"]) for row in chosen])
        part.set_ylim(FOREST_ROWS - 0.4, -0.6)
    legend_below(figure, axes)
    return figure


def _interval_name(chosen: Sequence[Mapping[str, Any]], metric: str) -> str:
    better = "left" if metric in LOSSES else "right"
    symbol = "r" if chosen[0]["method"] == "pearson" else "ρ"
    return f"{symbol} and interval ({chosen[0]['interval']})\nbetter is to the {better}"


def _intervals(axes: Any, rows: Sequence[Mapping[str, Any] | None]) -> None:
    """Draw one correlation per line; those that hold after the correction are filled."""
    axes.axvline(0.0, color=MUTED, linewidth=0.8, zorder=1)
    for place, row in enumerate(rows):
        if row is None:
            continue
        sure = row["significant"]
        colour = ORANGE if sure else BLUE
        axes.hlines(place, row["ci_low"], row["ci_high"], color=colour, linewidth=1.4, alpha=0.8, zorder=2)
        axes.scatter(
            [row["correlation"]], [place], s=30, zorder=3, edgecolor=colour, facecolor=colour if sure else "white",
            label="significant after correction" if sure else "not significant",
        )  # fmt: skip
    axes.set_xlim(-1.05, 1.05)


def heat_map_figure(rows: Rows, method: str, figsize: Size) -> Any:
    """Draw the correlation of every architectural feature with every score, loss and zero-cost metric."""
    wide = with_indicators(rows)
    zero_cost = [key for key in rows[0] if key.startswith("zcm_") and key != "zcm_aggregate_score"]
    columns = [*METRICS, *zero_cost]
    table = correlation_table(wide, features(rows), columns, method=method)
    found = {(row["architectural_feature"], row["performance_metric"]): row for row in table}
    down = [name for name in features(rows) if any((name, c) in found for c in columns)]
    across = [name for name in columns if any((f, name) in found for f in down)]
    height = 2.2 + 0.21 * len(down)
    figure = new_figure(figsize, feature="plot_metric_architecture_correlations()", min_height=height)
    axes = figure.subplots()
    title = f"Architecture and metrics: {method.capitalize()} correlation (• significant after Holm's correction)"
    if not down:
        missing(axes, title, "too few candidates to tell")
        return figure
    values = np.full((len(down), len(across)), np.nan)
    for i, feature in enumerate(down):
        for j, metric in enumerate(across):
            row = found.get((feature, metric))
            if row is not None:
                values[i, j] = row["correlation"]
                text = f"{values[i, j]:+.2f}" + ("•" if row["significant"] else "")
                colour = "white" if abs(values[i, j]) > 0.6 else INK
                axes.text(j, i, text, ha="center", va="center", fontsize=6.5, color=colour)
    drawn = axes.imshow(values, cmap="RdBu_r", vmin=-1, vmax=1, aspect="auto")
    axes.set_xticks(range(len(across)), [label(name) for name in across], rotation=40, ha="right", fontsize=8)
    axes.set_yticks(range(len(down)), [label(name) for name in down], fontsize=7.5)
    axes.tick_params(length=0, labelcolor=MUTED)
    axes.axvline(sum(name in METRICS for name in across) - 0.5, color="white", linewidth=3)
    for spine in axes.spines.values():
        spine.set_visible(False)
    title_axes(axes, title)
    bar = figure.colorbar(drawn, ax=axes, shrink=0.5, pad=0.015)
    bar.set_label("correlation", fontsize=8, color=MUTED)
    bar.ax.tick_params(labelsize=7, colors=MUTED)
    bar.outline.set_visible(False)
    return figure


def performance_figure(records: SearchRecords, rows: Rows, figsize: Size) -> Any:
    """Draw the way of the candidates: zero-cost order, what training said of it, the rungs, and the test set."""
    figure = new_figure(figsize, feature="plot_performance_analysis()")
    axes = figure.subplots(2, 2).ravel()
    figure.suptitle("From screening to the test set", x=0.01, ha="left", fontsize=11, color=INK)
    _order_panel(axes[0], rows)
    _agreement_panel(axes[1], rows)
    _rung_panel(axes[2], records)
    _test_panel(axes[3], records)
    legend_below(figure, axes[1:2])
    return figure


def _order_panel(axes: Any, rows: Rows) -> None:
    key = score_key(rows)
    known = [row for row in rows if row[key] is not None]
    axes.bar(
        range(1, len(known) + 1), [row[key] for row in known], color=[MARKS[status(row)][0] for row in known], zorder=3,
    )  # fmt: skip
    axes.axhline(0.0, color=GRID, linewidth=0.8)
    panel(axes, "Screening", x="place by zero-cost", y=axis_label(key))
    axes.set_xlim(0.4, len(known) + 0.6)
    axes.xaxis.get_major_locator().set_params(integer=True)


def _agreement_panel(axes: Any, rows: Rows) -> None:
    key, loss = score_key(rows), loss_key(rows)
    known = [row for row in rows if row[key] is not None and row[loss] is not None]
    title = f"Did the rank foretell the {label(loss)}?"
    if not known:
        missing(axes, title, "no candidate was trained")
        return
    x, y = [row[key] for row in known], [row[loss] for row in known]
    dots(axes, x, y, known)
    result = correlation(x, [-value for value in y], method="spearman")
    told = (
        "too few candidates to tell"
        if result is None
        else f"ρ = {result.value:+.2f} [{result.low:+.2f}, {result.high:+.2f}]"
    )
    panel(axes, f"{title} {told}", x=axis_label(key), y=axis_label(loss), grid="both")
    _log_if_wide(axes, y)


def _rung_panel(axes: Any, records: SearchRecords) -> None:
    title = "Rungs: the derived networks"
    lines: dict[Any, list[tuple[float, float]]] = {}
    for rung in records.rungs:
        for row in rung["results"]:
            epochs = row.get("epochs", rung.get("epoch_budget"))
            if row.get("val_loss") is not None and epochs is not None:
                lines.setdefault(row["candidate_id"], []).append((epochs, row["val_loss"]))
    if not lines:
        missing(axes, title)
        return
    for identity, points in lines.items():
        best = identity == records.best_id
        colour, style = (ORANGE, 2.2) if best else (BLUE, 1.2)
        epochs, losses = zip(*points, strict=True)
        axes.plot(epochs, losses, color=colour, linewidth=style, marker="o", markersize=4, alpha=0.85, zorder=3 + best)
    _name_ends(axes, lines, records.best_id)
    panel(axes, title, x="epochs of search (numbers: candidate)", y="validation MSE (lower is better)")
    axes.set_xticks(sorted({epochs for points in lines.values() for epochs, _ in points}))
    axes.margins(x=0.08)
    _log_if_wide(axes, [loss for points in lines.values() for _, loss in points])


def _name_ends(axes: Any, lines: Mapping[Any, Sequence[tuple[float, float]]], best: Any) -> None:
    """Write each candidate's number beside the end of its line; those that end at about one place share a text."""
    losses = [loss for points in lines.values() for _, loss in points]
    near = 0.03 * (max(losses) - min(losses))
    ends = sorted((points[-1], identity) for identity, points in lines.items() if identity != best)
    groups: list[tuple[tuple[float, float], list[str]]] = []
    for (epoch, loss), identity in ends:
        if groups and groups[-1][0][0] == epoch and loss - groups[-1][0][1] <= near:
            groups[-1][1].append(str(identity))
        else:
            groups.append(((epoch, loss), [str(identity)]))
    texts = [(place, ", ".join(names), BLUE) for place, names in groups]
    if best in lines:
        texts.append((lines[best][-1], f"{best} (best)", ORANGE))
    for place, text, colour in texts:
        axes.annotate(text, place, (6, 0), textcoords="offset points", fontsize=7.5, color=colour, va="center")


def _test_panel(axes: Any, records: SearchRecords) -> None:
    title = "Test set"
    scores = {
        name: m["mse"] for name, m in records.test.items() if m.get("mse") is not None and math.isfinite(m["mse"])
    }
    if not scores:
        missing(axes, title, "the search did not get there")
        return
    order = sorted(scores, key=lambda name: -scores[name])
    colours = [{"blend": ORANGE, "network": BLUE}.get(name, LIGHT) for name in order]
    bars = axes.barh(range(len(order)), [scores[name] for name in order], color=colours, height=0.65, zorder=3)
    axes.bar_label(bars, fmt="%.4f", fontsize=7.5, padding=3, color=MUTED)
    panel(axes, f"{title} (grey: baselines)", x="MSE (lower is better)", grid="x")
    axes.set_yticks(range(len(order)), [name.replace("_", " ") for name in order])
    axes.set_xlim(0, 1.18 * max(scores.values()))


def _log_if_wide(axes: Any, values: Sequence[float]) -> None:
    positive = [value for value in values if value and value > 0]
    if len(positive) == len(values) and max(positive) > 10 * min(positive):
        axes.set_yscale("log")
