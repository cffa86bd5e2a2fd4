"""What a run says of itself: the facts under a heading, and the page ``report.html``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from .._core.errors import DataError
from ..evaluation.page import result_page
from .saved_run import SavedRun

PAGE = "report.html"


def run_facts(run: SavedRun) -> dict[str, str]:
    """Return what the data of a run were and how it searched, name → text; what it did not save says so."""
    return {"run": str(run.path), **_data_facts(run), **_search_facts(run.result or {})}


def write_page(path: Path, to: Path | None = None) -> Path:
    """Write the page of the finished run in the folder ``path``, as ``report.html`` there or to ``to``; return where.

    Raises:
        DataError: the run is not finished, or its files are not what a search writes.
        OSError: the file cannot be written.
    """
    run = SavedRun(path)
    if run.result is None:
        raise DataError(f"run {str(path)!r}: no result.json; the search did not finish, so it has no page.")
    target = path / PAGE if to is None else to
    try:
        facts = run_facts(run)
        page = result_page(run.result, run.read("candidates.json", list) or [], title=_title(run), facts=facts)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise DataError(f"run {str(path)!r}: its files are not what a search writes ({error!r}).") from error
    target.write_text(page, encoding="utf-8", errors="replace")  # a path may hold bytes that are no text
    return target


def _title(run: SavedRun) -> str:
    try:
        return f"Forecasting {run.recipe.series}"
    except DataError:
        return f"Search in {run.path.name}"


def _data_facts(run: SavedRun) -> dict[str, str]:
    try:
        recipe = run.recipe
    except DataError as error:
        return {"data": f"unknown ({error})"}
    names = ", ".join(recipe.channels[:8]) + (", …" if len(recipe.channels) > 8 else "")
    return {
        "data": f"{recipe.series}, {len(recipe.channels)} channels ({names}), step {recipe.step}",
        "windows": f"{recipe.lookback} rows in, {recipe.horizon} out",
        **({} if recipe.targets is None else {"targets": ", ".join(recipe.targets)}),
        **({"known": f"{', '.join(recipe.future)} (ahead)"} if recipe.future else {}),
    }


def _search_facts(result: dict[str, Any]) -> dict[str, str]:
    config = result.get("search_config") or {}
    if not config:
        return {}
    retrained = len(result.get("finalists") or [])
    return {
        "search": f"{config['num_candidates']} candidates, {config['top_k']} searched for {config['search_epochs']} "
        f"epochs, {retrained} retrained; seed {config['seed']}"
    }
