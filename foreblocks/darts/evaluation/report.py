"""Plain-text tables of results."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from .._core.errors import InvalidArgument

_MISSING = "-"


def format_table(rows: Sequence[Sequence[Any]], headers: Sequence[str]) -> str:
    """Return an aligned table: text columns to the left, columns of numbers to the right.

    Args:
        rows: cells; floats are shown with four decimals, None as ``-``.
        headers: one per column.

    Raises:
        InvalidArgument: a row has another number of cells than there are headers.
    """
    for row in rows:
        if len(row) != len(headers):
            raise InvalidArgument(f"the row {list(row)} has {len(row)} cells; there are {len(headers)} headers.")
    cells = [[_cell(value) for value in row] for row in rows]
    columns = range(len(headers))
    widths = [max(len(str(headers[c])), *(len(row[c]) for row in cells), 0) for c in columns]
    numeric = [bool(rows) and all(_is_number(row[c]) or row[c] is None for row in rows) for c in columns]

    def line(values: Sequence[str]) -> str:
        padded = [v.rjust(widths[c]) if numeric[c] else v.ljust(widths[c]) for c, v in enumerate(values)]
        return "  ".join(padded).rstrip()

    rule = "  ".join("-" * width for width in widths)
    return "\n".join([line([str(header) for header in headers]), rule, *(line(row) for row in cells)])


def format_result_table(results: Mapping[str, Any]) -> str:
    """Return the closing report of a search: scores, size, chosen ops, wall time, and a plain verdict.

    Args:
        results: ``baselines`` (name → ``{"mse", "mae"}``), ``ridge_star`` (a name in it), ``network`` and ``blend``
            (``{"mse", "mae"}``, the blend with ``weights``: part → weight), ``num_parameters``, ``op_counts``
            (op → edges), ``phase_seconds`` (phase → seconds), ``arch`` (text). All are test scores; what is absent
            is left out.
    """
    sections = [_score_table(results)]
    facts = _facts(results)
    if facts:
        sections.append(facts)
    seconds = results.get("phase_seconds") or {}
    if seconds:
        rows = [[phase, f"{value:.1f}"] for phase, value in seconds.items()]
        rows.append(["total", f"{sum(seconds.values()):.1f}"])
        sections.append(format_table(rows, ["phase", "seconds"]))
    sentence = verdict(results)
    if sentence:
        sections.append(sentence)
    return "\n\n".join(sections)


def verdict(results: Mapping[str, Any]) -> str:
    """Return whether the network and the blend beat the best baseline by test MSE, as plain sentences."""
    usable = {name: m["mse"] for name, m in (results.get("baselines") or {}).items() if math.isfinite(m["mse"])}
    judged = [(name, results[name]["mse"]) for name in ("network", "blend") if results.get(name)]
    if not usable or not judged:
        return ""
    best = min(usable, key=lambda name: usable[name])
    sentences = []
    for name, mse in judged:
        if mse < usable[best]:
            gain = 100 * (1 - mse / usable[best])
            sentences.append(
                f"The {name} (MSE {mse:.4f}) beats the best baseline, {best} ({usable[best]:.4f}), by {gain:.1f} %."
            )
        else:
            sentences.append(
                f"The {name} (MSE {mse:.4f}) does not beat the best baseline, {best} ({usable[best]:.4f})."
            )
    return "\n".join(sentences)


def summarise_searches(history: Sequence[Mapping[str, Any]]) -> str:
    """Return a paragraph for each result of ``multi_fidelity_search``, oldest first."""
    if not history:
        return "No searches performed yet."
    return "\n".join(_search_lines(number, result) for number, result in enumerate(history, start=1))


def _search_lines(number: int, result: Mapping[str, Any]) -> str:
    config = result["search_config"]
    seconds = sum((result.get("phase_seconds") or {}).values())
    ops = ", ".join(f"{op} x{count}" for op, count in (result.get("op_counts") or {}).items())
    size = result.get("num_parameters")
    found = [f"{size:,} parameters"] * (size is not None) + [ops] * bool(ops)
    head = (
        f"search {number}: {config['num_candidates']} candidates, {config['top_k']} searched, {seconds:.1f} s: "
        f"test MSE {result['final_results']['final_metrics']['mse']:.4f}"
    )
    lines = [head, *(f"  {text}" for text in (", ".join(found), result.get("verdict")) if text)]
    return "\n".join(lines)


def summarise_trainings(history: Sequence[Mapping[str, Any]]) -> str:
    """Return a line for each result of ``train_darts_model`` and ``train_final_model``, oldest first.

    The metrics of a searched model are on validation, those of a final training on test.
    """
    if not history:
        return "No training sessions completed yet."
    lines = []
    for number, result in enumerate(history, start=1):
        info = result.get("training_info")
        best = result["best_val_loss"] if info is None else info["best_val_loss"]
        kind, part = ("search", "validation") if info is None else ("final", "test")
        epochs = len(result["train_losses"])
        plural = "" if epochs == 1 else "s"
        line = f"training {number} ({kind}): {epochs} epoch{plural}, best validation loss {best:.4f}"
        metrics = result.get("final_metrics")
        line += f", {part} MSE {metrics['mse']:.4f}" if metrics else ""
        lines.append(f"{line}, {result['training_time']:.1f} s")
    return "\n".join(lines)


def _score_table(results: Mapping[str, Any]) -> str:
    star = results.get("ridge_star")
    rows: list[list[Any]] = []
    for name, metrics in (results.get("baselines") or {}).items():
        label = f"{name} *" if name == star else name
        rows.append([label, metrics.get("mse"), metrics.get("mae")])
    for name, label in (("network", "network alone"), ("blend", "blend")):
        if results.get(name):
            rows.append([label, results[name].get("mse"), results[name].get("mae")])
    table = format_table(rows, ["forecaster", "test MSE", "test MAE"])
    return f"{table}\n* the better ridge on validation" if star in (results.get("baselines") or {}) else table


def _facts(results: Mapping[str, Any]) -> str:
    lines = []
    weights = (results.get("blend") or {}).get("weights")
    if weights:
        lines.append("blend:   " + " + ".join(f"{value:.3f} {name}" for name, value in weights.items()))
    if results.get("arch"):
        lines.append("network: " + "\n         ".join(str(results["arch"]).splitlines()))
    if results.get("num_parameters") is not None:
        lines.append(f"size:    {results['num_parameters']:,} parameters")
    if results.get("op_counts"):
        counts = sorted(results["op_counts"].items(), key=lambda item: (-item[1], item[0]))
        lines.append("ops:     " + ", ".join(f"{op} x{count}" for op, count in counts))
    return "\n".join(lines)


def _is_number(value: Any) -> bool:
    if isinstance(value, str):
        return value.replace(".", "", 1).isdigit()
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _cell(value: Any) -> str:
    if value is None:
        return _MISSING
    return f"{value:.4f}" if isinstance(value, float) else str(value)
