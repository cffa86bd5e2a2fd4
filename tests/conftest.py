"""Where the real benchmark files are."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

_ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session")
def real_data_dir() -> Path:
    """Folder of the ETT files: ``FOREBLOCKS_DATA``, else ``../shared/data``, else the test is skipped."""
    given = os.environ.get("FOREBLOCKS_DATA")
    folder = Path(given) if given else _ROOT.parent / "shared" / "data"
    if not any((folder / f"ETTh1{suffix}").is_file() for suffix in (".csv", ".csv.gz")):
        pytest.skip(f"no ETTh1.csv in {folder}: set FOREBLOCKS_DATA to the folder of the ETT files")
    return folder
