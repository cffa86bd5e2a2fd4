"""Results as plain text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any


def format_table(rows: Sequence[Sequence[str]], headers: Sequence[str]) -> str:
    """Return rows of text aligned under headers; the first column to the left, the others to the right."""
    table = [list(headers), *[list(row) for row in rows]]
    widths = [max(len(row[i]) for row in table) for i in range(len(headers))]
    lines = [
        "  ".join(
            cell.ljust(w) if i == 0 else cell.rjust(w) for i, (cell, w) in enumerate(zip(row, widths, strict=True))
        )
        for row in table
    ]
    return "\n".join([lines[0], "  ".join("-" * w for w in widths), *lines[1:]])


def format_result_table(result: Mapping[str, Any]) -> str:
    """Return the table that ends a search: baselines, network and blend, then size, ops, time and a verdict.

    ``result`` is what ``multi_fidelity_search`` returns; only its plain figures are read.
    """
    rows = [_row(_named(name, result["ridge_star"]), m) for name, m in result["baselines"].items()]
    rows.append(_row("network alone", result["network"]))
    weights = ", ".join(f"{name} {weight:.2f}" for name, weight in result["blend"]["weights"].items())
    rows.append(_row(f"final model ({weights})", result["blend"]))
    ops = ", ".join(f"{name} x{count}" for name, count in result["op_counts"].items())
    seconds = ", ".join(f"{name} {value:.1f} s" for name, value in result["phase_seconds"].items())
    return "\n".join(
        [
            format_table(rows, ["model", "test MSE", "test MAE"]),
            "",
            result["arch"],
            f"parameters of the network: {result['num_parameters']:,}; ops: {ops}",
            f"wall time: {seconds}",
            result["verdict"],
        ]
    )


def _named(name: str, star: str) -> str:
    return f"{name} (ridge*)" if name == star else name


def _row(name: str, metrics: Mapping[str, float]) -> list[str]:
    return [name, f"{metrics['mse']:.4f}", f"{metrics['mae']:.4f}"]
