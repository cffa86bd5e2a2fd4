"""Which data a command reads: a file, a data set of the catalog, or the demo."""

from __future__ import annotations

import argparse
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from .._core.errors import InvalidArgument
from .._core.logging import get_logger, log_once
from ..config import DECIMAL_MARKS, IMPUTE_METHODS
from .progress import DownloadProgress

logger = get_logger(__name__)


def add_data_arguments(group: Any) -> None:
    """Add what ``read_frame`` reads."""
    group.add_argument("--data", help="a CSV (first column a date, the rest channels), or a name of the catalog")
    group.add_argument("--demo", action="store_true", help="use the embedded hourly weather of three airports")
    group.add_argument("--data-dir", help="folder of the catalog's files; default: $FOREBLOCKS_DATA or the cache")
    group.add_argument("--offline", action="store_true", help="do not fetch a missing data set of the catalog")
    group.add_argument("--columns", nargs="+", help="channels to read; default: all")
    group.add_argument("--impute", choices=IMPUTE_METHODS, help="fill missing cells of a CSV; default: refuse them")
    group.add_argument("--decimal", choices=DECIMAL_MARKS, default=".", help="what marks the fraction in a CSV")


def read_frame(a: argparse.Namespace) -> tuple[Any, int | None]:
    """Return the series and its seasonal period: of the catalog, else by the step of its dates.

    Raises:
        DataError, InvalidArgument: as the readers of ``data``.
    """
    from ..data import DEMO_PERIOD, dataset_entry, load_dataset, load_demo

    check_one_source(a)
    if a.demo:
        return _selected(load_demo(), a), DEMO_PERIOD
    if not is_file(a):
        with DownloadProgress(dataset_entry(a.data).name) as progress:
            frame = load_dataset(a.data, a.data_dir, download=not a.offline, progress=progress)
        return _selected(frame, a), dataset_entry(a.data).period
    frame = read_file(a, a.data, a.columns)
    return frame, None if frame.date_step is None else frame.date_step.period


def read_file(a: argparse.Namespace, path: str, columns: Sequence[str] | None) -> Any:
    """Return the series of a CSV, read as the options say."""
    from ..data import read_csv

    return read_csv(path, columns=columns, impute=a.impute, decimal=a.decimal)


def is_file(a: argparse.Namespace) -> bool:
    """Say whether the data are a file of the user: not the demo, nor a plain word that names no file."""
    if a.demo:
        return False
    path = Path(a.data)
    return path.is_file() or bool(path.suffix) or len(path.parts) > 1


def check_one_source(a: argparse.Namespace) -> None:
    """Raise ``InvalidArgument`` unless exactly one of ``--data`` and ``--demo`` is given, with options that apply."""
    if a.demo == bool(a.data):
        raise InvalidArgument("give either --data FILE_OR_NAME or --demo.")
    file = is_file(a)
    what = "--demo" if a.demo else f"--data {a.data}"
    if a.data_dir is not None and (a.demo or file):
        raise InvalidArgument(
            f"--data-dir {a.data_dir} does not apply to {what}: it is the folder of the data sets of the catalog. "
            "Leave it out."
        )
    for option, value in (("--impute", a.impute), ("--decimal", a.decimal if a.decimal != "." else None)):
        if value is not None and not file:
            raise InvalidArgument(
                f"{option} {value} does not apply to {what}: it is for a CSV that is named by its path. Leave it out."
            )
    if a.offline and (a.demo or file):
        log_once(logger, logging.WARNING, "--offline has no effect here: only data sets of the catalog are fetched.")


def _selected(frame: Any, a: argparse.Namespace) -> Any:
    return frame if a.columns is None else frame.select(a.columns)
