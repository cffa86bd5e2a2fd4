"""The report of a search as one HTML page that needs no other file and no network."""

from __future__ import annotations

import io
import math
from collections.abc import Iterable, Mapping, Sequence
from importlib.resources import files
from typing import Any

from .._core.errors import OptionalDependencyError
from .._core.optional import require
from .plotting import plot_training_curve
from .report import beside_scores, figure

_STEP, _RISE = 150, 39  # pixels between nodes, and between the tops of arcs


def result_page(
    result: Mapping[str, Any],
    candidates: Iterable[Mapping[str, Any]] = (),
    *,
    title: str,
    facts: Mapping[str, str] | None = None,
) -> str:
    """Return the page: verdict, scores, architecture, training curve, candidates and wall time.

    Args:
        result: the dictionary of ``multi_fidelity_search``, or what ``result.json`` of a run holds.
        candidates: the scored candidates, best first (``candidates.json``).
        title: its heading.
        facts: further lines under the heading, name → text.

    Without matplotlib the page has no training curve, and says how to get it.
    """
    from jinja2 import Environment, StrictUndefined

    figures, no_figures = _figures(result)
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters["number"] = _number
    template = environment.from_string(files(__package__).joinpath("page.html.j2").read_text(encoding="utf-8"))
    return template.render(
        title=title,
        verdict=[line for line in str(result.get("verdict") or "").splitlines() if line],
        facts=dict(facts or {}),
        scores=_scores(result),
        arch=str(result.get("arch") or "").splitlines() or [""],
        cells=[_drawn(cell) for cell in _spec(result)["cells"]],
        figures=figures,
        no_figures=no_figures,
        candidates=_candidates(result, candidates),
        failed=result.get("failed_candidates") or {},
        seconds=result.get("phase_seconds") or {},
    )


def _number(value: float | None, digits: int | None = None) -> str:
    if value is None:
        return "–"
    return figure(value) if digits is None else f"{value:.{digits}f}"


def _spec(result: Mapping[str, Any]) -> Mapping[str, Any]:
    spec = result["arch_spec"]
    return spec if isinstance(spec, Mapping) else spec.to_dict()


def _scores(result: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return a row per forecaster: the baselines, what was trained beside, every retrained network, the final model."""
    weights = result["blend"].get("weights") or {}
    star = result.get("ridge_star")
    rows = [
        {
            "name": name, "note": "better on validation" if name == star else "", "found": False, **_errors(m),
            "weight": weights.get("ridge" if name == star else name),
        }
        for name, m in result["baselines"].items()
    ]  # fmt: skip
    rows += [
        {"name": name, "note": "beside the search", "found": False, **_errors(m), "weight": None}
        for name, m in beside_scores(result).items()
    ]
    rows += [
        {"name": f["name"], "note": f"candidate {f['candidate_id']}", "found": True, **_errors(f["test"]),
         "weight": weights.get(f["name"])}
        for f in result.get("finalists") or []
    ]  # fmt: skip
    rows.append({"name": "final model", "note": "", "found": True, **_errors(result["blend"]), "weight": None})
    largest = max((row["mse"] for row in rows if math.isfinite(row["mse"])), default=0.0)
    for row in rows:
        drawn = largest > 0 and math.isfinite(row["mse"])
        row["share"] = round(100 * row["mse"] / largest, 1) if drawn else None
    return rows


def _errors(metrics: Mapping[str, float]) -> dict[str, float]:
    return {"mse": metrics["mse"], "mae": metrics["mae"]}


def _drawn(cell: Mapping[str, Any]) -> dict[str, Any]:
    """Return the places of nodes, arcs and labels of a cell; a longer edge has a higher arc."""
    edges = [(e["source"], e["target"], e["op"]["name"]) for e in cell["edges"]]
    longest = max((target - source for source, target, _ in edges), default=1)
    base = 20 + _RISE * longest
    arcs = []
    for source, target, op in edges:
        left, right = 30 + _STEP * source, 30 + _STEP * target
        peak = base - _RISE * (target - source) + 3
        top = peak - (base - 13 - peak) // 3  # of the control points: the arc reaches 3/4 of the way to them
        arcs.append(
            {
                "path": f"M {left} {base - 13} C {left + 30} {top}, {right - 30} {top}, {right} {base - 13}",
                "x": (left + right) // 2, "y": peak - 4, "op": op,
            }
        )  # fmt: skip
    nodes = [30 + _STEP * number for number in range(cell["num_nodes"])]
    text = ", ".join(f"{source} to {target}: {op}" for source, target, op in edges)
    size = {"width": nodes[-1] + 30, "height": base + 20, "base": base}
    return {"arcs": arcs, "nodes": nodes, "text": text, **size}


def _figures(result: Mapping[str, Any]) -> tuple[list[Any], str]:
    """Return the drawings as markup, and why there is none."""
    from markupsafe import Markup

    final = result["final_results"]
    if not final["train_losses"] and not final["val_losses"]:
        return [], ""
    try:
        figure = plot_training_curve(final["train_losses"], final["val_losses"], title="Loss of the network per epoch")
    except OptionalDependencyError as error:
        return [], f"No training curve: {error}"
    drawing = io.StringIO()
    with require("matplotlib", extra="plot", feature="a figure").rc_context({"svg.hashsalt": "page"}):  # same ids
        figure.savefig(drawing, format="svg", metadata={"Date": None})
    # Drawn here from numbers alone, so that nothing of the data can be read as markup.
    return [Markup(drawing.getvalue()[drawing.getvalue().index("<svg") :])], ""


def _candidates(result: Mapping[str, Any], records: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return a row per scored candidate, in the order of the zero-cost rank, with the loss after each phase."""
    searched = {t["candidate"]["candidate_id"]: t["val_loss"] for t in result.get("trained_candidates") or []}
    retrained = {f["candidate_id"]: f["val_loss"] for f in result.get("finalists") or []}
    return [
        {
            "number": r["candidate_id"], "preset": r.get("preset"), "shape": _shape(r), "rank": rank,
            "ops": ", ".join(r["selected_ops"]), "trial": (r.get("trial") or {}).get("val_loss"),
            "searched": searched.get(r["candidate_id"]), "retrained": retrained.get(r["candidate_id"]),
        }
        for rank, r in enumerate(records, 1)
    ]  # fmt: skip


def _shape(record: Mapping[str, Any]) -> str:
    macro: Mapping[str, Any] = record["macro"]
    parts: Sequence[Any] = (
        macro["arch_mode"], f"D {macro['hidden_dim']}", macro["channel_mode"], f"patch {macro['patch_len']}",
        f"norm {macro['series_norm']}", f"{record['num_cells']} x {record['num_nodes']} nodes",
    )  # fmt: skip
    return ", ".join(parts)
