"""Which data a command reads: a file, a data set of the catalog, or the demo."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from .._core.errors import InvalidArgument
from ..config import IMPUTE_METHODS
from .progress import DownloadProgress


def add_data_arguments(group: Any) -> None:
    """Add what ``read_frame`` reads."""
    group.add_argument("--data", help="a CSV (first column a date, the rest channels), or a name of the catalog")
    group.add_argument("--demo", action="store_true", help="use the embedded hourly weather of three airports")
    group.add_argument("--data-dir", help="folder of the catalog's files; default: $FOREBLOCKS_DATA or the cache")
    group.add_argument("--offline", action="store_true", help="do not fetch a missing data set of the catalog")
    group.add_argument("--columns", nargs="+", help="channels to read; default: all")
    group.add_argument("--impute", choices=IMPUTE_METHODS, help="fill missing cells; default: refuse them")


def read_frame(a: argparse.Namespace) -> tuple[Any, int | None]:
    """Return the series and its seasonal period: of the catalog, else by the step of its dates.

    Raises:
        DataError, InvalidArgument: as the readers of ``data``.
    """
    from ..data import DEMO_PERIOD, dataset_entry, load_dataset, load_demo, read_csv

    check_one_source(a)
    if a.demo:
        return _selected(load_demo(), a), DEMO_PERIOD
    if not is_file(a):
        with DownloadProgress(dataset_entry(a.data).name) as progress:
            frame = load_dataset(a.data, a.data_dir, download=not a.offline, progress=progress)
        return _selected(frame, a), dataset_entry(a.data).period
    frame = read_csv(a.data, columns=a.columns, impute=a.impute)
    return frame, None if frame.date_step is None else frame.date_step.period


def is_file(a: argparse.Namespace) -> bool:
    """Say whether the data are a file of the user: not the demo, nor a plain word that names no file."""
    if a.demo:
        return False
    path = Path(a.data)
    return path.is_file() or bool(path.suffix) or len(path.parts) > 1


def check_one_source(a: argparse.Namespace) -> None:
    """Raise ``InvalidArgument`` unless exactly one of ``--data`` and ``--demo`` is given."""
    if a.demo == bool(a.data):
        raise InvalidArgument("give either --data FILE_OR_NAME or --demo.")


def _selected(frame: Any, a: argparse.Namespace) -> Any:
    return frame if a.columns is None else frame.select(a.columns)
