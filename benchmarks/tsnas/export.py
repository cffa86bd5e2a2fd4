"""From the lines of ``make`` to the compressed table and its data card."""

from __future__ import annotations

import csv
import gzip
import io
import json
import math
from pathlib import Path
from typing import Any

from foreblocks.darts.benchmarks.tsnas import (
    COST_COLUMNS,
    SEED_COLUMNS,
    SEEDS,
    TEXT_COLUMNS,
    TsnasEntry,
    TsnasTable,
    seed_columns,
    to_record,
)
from foreblocks.darts.search.proxies import proxy_names

from .card import card
from .make import Row, read_rows


def export(out: Path, table: Path, page: Path) -> str:
    """Write the table and the card; return one line that says how much is in."""
    budget, *rows = read_rows(out / "rows.jsonl")
    entries = table_of(rows)
    write_table(entries, table)
    page.parent.mkdir(parents=True, exist_ok=True)
    page.write_text(card(entries, budget))
    return f"{entries.trainings} trainings of {len(entries)} entries are in {table} ({table.stat().st_size} bytes)."


def table_of(rows: list[Row]) -> TsnasTable:
    """Return the table of all rows; an entry exists as soon as it is scored."""
    grouped: dict[tuple[str, int], dict[tuple[str, int], Row]] = {}
    for row in rows:
        grouped.setdefault((row["data"], row["arch"]), {})[row["kind"], row["seed"]] = row
    return TsnasTable(tuple(_entry(grouped[key]) for key in sorted(grouped)))


def write_table(table: TsnasTable, path: Path) -> None:
    """Write a table as CSV in gzip; equal tables give equal bytes."""
    columns = [*TEXT_COLUMNS, *seed_columns(), *COST_COLUMNS, *proxy_names()]
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, restval="", lineterminator="\n")
    writer.writeheader()
    for entry in table:
        writer.writerow({name: _cell(value) for name, value in to_record(entry).items()})
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(gzip.compress(text.getvalue().encode(), 9, mtime=0))


def _entry(found: dict[tuple[str, int], Row]) -> TsnasEntry:
    score = next(row for (kind, _), row in found.items() if kind == "score")
    short = next((row for (kind, _), row in found.items() if kind == "short"), {})
    trained = [found.get(("train", seed), {}) for seed in SEEDS]
    return TsnasEntry(
        data=score["data"],
        arch=score["arch"],
        part=score["part"],
        spec_hash=score["digest"],
        spec=json.dumps(score["spec"], separators=(",", ":"), sort_keys=True),
        batch_size=score["batch_size"],
        short_val_mse=short.get("val_mse", math.nan),
        short_seconds=short.get("seconds", math.nan),
        proxy_seconds=score["seconds"],
        extra_seconds=score["extra_seconds"],
        proxies=score["proxies"],
        **{name: tuple(row.get(name, math.nan) for row in trained) for name in SEED_COLUMNS},
    )


def _cell(value: Any) -> Any:
    return "" if isinstance(value, float) and math.isnan(value) else value
