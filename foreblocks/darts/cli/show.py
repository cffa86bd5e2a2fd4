"""``foreblocks-darts show RUN``: what a search found."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from .._core.errors import DataError


def add_show(commands: Any) -> None:
    """Add the command."""
    parser = commands.add_parser(
        "show", help="print what a run found", allow_abbrev=False,
        description="Print the data, the architecture with the op of every edge, the scores beside the baselines, the "
        "size and the wall time of each phase of a run.",
    )  # fmt: skip
    parser.add_argument("run_folder", metavar="RUN", help="folder of a run")
    parser.add_argument("--html", help="write the page of the run to this file, too (a search leaves report.html)")
    parser.set_defaults(run=_show)


def _show(a: argparse.Namespace) -> int:
    from ..search.run_page import write_page
    from ..search.saved_run import SavedRun

    run = SavedRun(Path(a.run_folder))
    try:
        text = "\n\n".join(_sections(run))
    except DataError:
        raise
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise DataError(f"run {str(run.path)!r}: its files are not what a search writes ({error!r}).") from error
    print(text)
    if a.html is not None:
        print(f"page:    {write_page(run.path, Path(a.html))}")
    return 0


def _sections(run: Any) -> list[str]:
    from ..evaluation.report import format_result_table, format_table
    from ..search.run_page import run_facts

    head = "\n".join(f"{f'{name}:':<9}{text}" for name, text in run_facts(run).items())
    result = run.result
    if result is None:
        return [head, _unfinished(run)]
    sections = [head, format_result_table(result)]
    finalists = result.get("finalists") or []
    if finalists:
        rows = [[f["name"], f["candidate_id"], f["val_loss"], f["test"]["mse"], f["weight"]] for f in finalists]
        headers = ["finalist", "candidate", "validation loss", "test MSE", "weight in blend"]
        sections.insert(2, format_table(rows, headers))
    failed = result.get("failed_candidates") or {}
    if failed:
        sections.append("\n".join(["failed:", *(f"  candidate {key}: {reason}" for key, reason in failed.items())]))
    return sections


def _unfinished(run: Any) -> str:
    lines = ["The search did not finish; there is:"]
    records, rungs = run.read("candidates.json", list), run.read("rungs.json", list)
    if records:
        lines.append(f"  {len(records)} scored candidates (candidates.json)")
    if rungs:
        lines.append(f"  {len(rungs)} finished rungs (rungs.json)")
    if run.has_model:
        lines.append("  the final model (model/), without test figures; predict works with it")
    return "\n".join(lines)
