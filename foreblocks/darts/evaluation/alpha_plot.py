"""How the architecture weights moved in a search, as a figure."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from .._core.errors import InvalidArgument
from .figures import INK, MUTED, finish_figure, new_figure, palette, tidy_axes, title_axes

SNAPSHOT_EVERY = 5  # epochs between two snapshots of a search's alphas
_PANELS_A_ROW = 4
_Trace = list[tuple[int, np.ndarray, Sequence[str] | None]]


def plot_alpha_evolution(
    alpha_values: list[Any],
    *,
    save_path: str | None = "alpha_evolution.png",
    choices: Mapping[str, Sequence[str]] | None = None,
) -> Any:
    """Plot how the probabilities of every choice moved in a search, one panel a choice.

    Args:
        alpha_values: the snapshots of ``train_darts_model``, one every five epochs: each a list of
            ``(name, probabilities [K])``, or of ``(name, probabilities, labels)``.
        save_path: file to write; None writes nothing.
        choices: name of a choice → its K labels, the ``alpha_choices`` of the same result; without it and without
            labels in the snapshots the curves are numbered.

    Returns:
        The ``matplotlib.figure.Figure``.

    Raises:
        InvalidArgument: no snapshot, or one of another form; labels of another number than probabilities;
            ``save_path`` cannot be written.
        OptionalDependencyError: matplotlib is not installed.
    """
    traces = _traces(alpha_values)
    labels = {name: _labels(name, trace, choices or {}) for name, trace in traces.items()}
    known = sorted({label for found in labels.values() for label in found}, key=_natural)
    columns = min(_PANELS_A_ROW, len(traces))
    rows = -(-len(traces) // columns)
    figure = new_figure((max(6.0, 3.2 * columns), 2.3 * rows + 0.9), feature="plot_alpha_evolution")
    colours = dict(zip(known, palette(len(known)), strict=True))
    panels = figure.subplots(rows, columns, squeeze=False, sharex=True, sharey=True)
    for axes, (name, trace) in zip(panels.flat, traces.items(), strict=False):
        _draw_choice(axes, name, trace, labels[name], colours)
    for axes in panels.flat[len(traces) :]:
        axes.set_visible(False)
    for axes in panels.flat[max(0, len(traces) - columns) : len(traces)]:  # the lowest panel of each column
        axes.tick_params(labelbottom=True)
        axes.set_xlabel("search epoch", color=MUTED, fontsize=8)
    figure.supylabel("probability", color=MUTED, fontsize=9)
    figure.legend(
        [panels.flat[0].plot([], [], color=colours[label], linewidth=2.4)[0] for label in known], known,
        loc="outside upper center", ncols=min(8, len(known)), frameon=False, fontsize=8, labelcolor=INK,
    )  # fmt: skip
    return finish_figure(figure, save_path=save_path)


def _draw_choice(axes: Any, name: str, trace: _Trace, labels: Sequence[str], colours: Mapping[str, Any]) -> None:
    """Draw one curve per label; the likeliest at the end is bold and named in the title."""
    tidy_axes(axes)
    epochs = [SNAPSHOT_EVERY * number for number, _, _ in trace]
    curves = np.stack([probabilities for _, probabilities, _ in trace])  # [snapshots, K]
    winner = int(curves[-1].argmax())
    for k, label in enumerate(labels):
        width, alpha = (2.4, 1.0) if k == winner else (1.1, 0.75)
        axes.plot(epochs, curves[:, k], color=colours[label], linewidth=width, alpha=alpha, marker="o", markersize=2.5)
    title_axes(axes, f"{name.replace('_', ' ')}: {labels[winner]} {curves[-1, winner]:.2f}")
    axes.set_ylim(-0.02, 1.02)
    axes.set_xlim(-0.5, epochs[-1] + 0.5)
    axes.xaxis.get_major_locator().set_params(integer=True)


def _traces(alpha_values: Sequence[Any]) -> dict[str, _Trace]:
    """Return name → (number of the snapshot, probabilities ``[K]``, labels or None), in the order of appearance."""
    traces: dict[str, _Trace] = {}
    for number, snapshot in enumerate(alpha_values):
        for entry in snapshot:
            if not isinstance(entry, (tuple, list)) or len(entry) not in (2, 3) or not isinstance(entry[0], str):
                raise InvalidArgument(
                    f"alpha_values[{number}] must hold (name, probabilities) or (name, probabilities, labels)."
                )
            probabilities = np.asarray(entry[1], dtype=np.float64)
            earlier = traces.setdefault(entry[0], [])
            if probabilities.ndim != 1 or (earlier and len(earlier[0][1]) != len(probabilities)):
                raise InvalidArgument(
                    f"alpha_values[{number}], {entry[0]!r}: probabilities must be one list of a fixed length, "
                    f"got shape {probabilities.shape}."
                )
            earlier.append((number, probabilities, entry[2] if len(entry) == 3 else None))
    if not traces:
        raise InvalidArgument("alpha_values holds no snapshot of a choice; there is nothing to plot.")
    return traces


def _labels(name: str, trace: _Trace, choices: Mapping[str, Sequence[str]]) -> list[str]:
    _, probabilities, own = trace[-1]
    labels = choices.get(name, own)
    if labels is None:
        return [f"choice {k}" for k in range(len(probabilities))]
    if len(labels) != len(probabilities):
        raise InvalidArgument(f"{name!r} has {len(probabilities)} probabilities and {len(labels)} labels.")
    return [str(label) for label in labels]


def _natural(label: str) -> tuple[str, float]:
    head, _, number = label.rpartition(" ")
    return (head, float(number)) if head and number.isdigit() else (label, -math.inf)
