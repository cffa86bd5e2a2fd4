"""``python -m benchmarks.tsnas make|report|export``."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
TABLE = ROOT / "foreblocks" / "darts" / "benchmarks" / "tsnas.csv.gz"
CARD = ROOT / "docs" / "tsnas.md"


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.tsnas", description="A table of trained networks.")
    commands = parser.add_subparsers(dest="command", required=True)
    make = commands.add_parser("make", help="score and train; goes on where it stopped")
    make.add_argument("--out", type=Path, required=True, help="folder of rows.jsonl, outside the repository")
    make.add_argument("--data-dir", default=os.environ.get("FOREBLOCKS_DATA") or str(ROOT.parent / "shared" / "data"))
    export = commands.add_parser("export", help="write the compressed table and its data card")
    export.add_argument("--out", type=Path, required=True, help="folder that make has written to")
    export.add_argument("--table", type=Path, default=TABLE)
    export.add_argument("--card", type=Path, default=CARD)
    commands.add_parser("report", help="what the table says of zero-cost proxies").add_argument(
        "--table", type=Path, default=TABLE
    )
    given = parser.parse_args()
    if given.command == "make":
        from .make import Budget
        from .make import make as run

        run(given.out, given.data_dir, Budget(), lambda line: print(line, flush=True))
    elif given.command == "export":
        from .export import export as run

        print(run(given.out, given.table, given.card))
    else:
        from .report import report

        print(report(given.table))


if __name__ == "__main__":
    main()
