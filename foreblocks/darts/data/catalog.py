"""The usual benchmark files, found in a local folder and checked by their hash. Nothing is downloaded."""

from __future__ import annotations

import dataclasses
import datetime
import hashlib
import os
from dataclasses import dataclass
from pathlib import Path

from .._core.errors import DataError, InvalidArgument, nearest
from .._core.logging import get_logger
from .csv import parse_csv, read_bytes
from .frame import SeriesFrame

_LOG = get_logger(__name__)
_VARIABLE = "FOREBLOCKS_DATA"


@dataclass(frozen=True)
class DatasetEntry:
    """What is known about a benchmark file.

    Attributes:
        name: of the data set; the file is ``<name>.csv`` or ``<name>.csv.gz``.
        folders: sub-folders in which archives of these files keep it, tried after the folder itself.
        sha256: of the unpacked CSV; None where no reference copy is known.
        split: ``"12/4/4 months"`` or ``"70/10/20 %"``.
        step: nominal distance of two rows.
        period: steps of the seasonal-naive baseline.
        traps: known oddities, logged on loading.
        encoding: of the text.
        ordered: whether the dates can be trusted to be unique and sorted.
    """

    name: str
    folders: tuple[str, ...]
    sha256: str | None
    split: str
    step: datetime.timedelta
    period: int
    traps: tuple[str, ...] = ()
    encoding: str = "utf-8"
    ordered: bool = True


def _ett(name: str, minutes: int, sha256: str | None) -> DatasetEntry:
    step = datetime.timedelta(minutes=minutes)
    return DatasetEntry(name, ("ETT-small", "ETT"), sha256, "12/4/4 months", step, 24 * 60 // minutes)


_REST = "70/10/20 %"
_ENTRIES = (
    _ett("ETTh1", 60, "f18de3ad269cef59bb07b5438d79bb3042d3be49bdeecf01c1cd6d29695ee066"),
    _ett("ETTh2", 60, None),
    _ett("ETTm1", 15, "6ce1759b1a18e3328421d5d75fadcb316c449fcd7cec32820c8dafda71986c9e"),
    _ett("ETTm2", 15, None),
    DatasetEntry(
        "exchange_rate",
        ("exchange_rate",),
        None,
        _REST,
        datetime.timedelta(days=1),
        5,
        traps=("exchange_rate: the dates are made up (every day, where markets close at weekends).",),
        ordered=False,
    ),
    DatasetEntry(
        "national_illness",
        ("illness", "national_illness"),
        None,
        _REST,
        datetime.timedelta(weeks=1),
        52,
        traps=(
            "national_illness: the dates are 40 weeks off.",
            "national_illness: only 170 test windows at horizon 24; many published figures dropped the last batch.",
        ),
    ),
    DatasetEntry(
        "weather",
        ("weather",),
        None,
        _REST,
        datetime.timedelta(minutes=10),
        144,
        traps=(
            "weather: 81 cells of -9999 in the train part are kept, as in published figures; they widen the scaling.",
            "weather: one date appears twice; the rows are taken as they stand.",
        ),
        encoding="latin-1",
        ordered=False,
    ),
)
CATALOG: dict[str, DatasetEntry] = {entry.name: entry for entry in _ENTRIES}


def dataset_entry(name: str) -> DatasetEntry:
    """Return the entry of a benchmark data set; upper and lower case do not matter.

    Raises:
        InvalidArgument: the name is unknown; the nearest one is named.
    """
    for known, entry in CATALOG.items():
        if known.casefold() == name.casefold():
            return entry
    raise InvalidArgument(f"data set {name!r} is unknown; known are {list(CATALOG)}.{nearest(name, CATALOG)}")


def find_dataset(name: str, data_dir: str | Path | None = None) -> Path:
    """Return the path of a benchmark file.

    Args:
        name: a name of ``CATALOG``.
        data_dir: folder to look in; None means the folder named by the environment variable ``FOREBLOCKS_DATA``.

    Raises:
        InvalidArgument: the name is unknown.
        DataError: no folder is given, or the file is not there; every place looked at is listed.
    """
    entry = dataset_entry(name)
    name = entry.name
    given = data_dir if data_dir is not None else os.environ.get(_VARIABLE)
    if not given:
        raise DataError(f"{name}: no folder to look in; pass data_dir (--data-dir) or set {_VARIABLE}.")
    root = Path(given).expanduser()
    places = [root / folder / f"{name}{suffix}" for folder in ("", *entry.folders) for suffix in (".csv", ".csv.gz")]
    for place in places:
        if place.is_file():
            return place
    source = "data_dir" if data_dir is not None else _VARIABLE
    looked = ", ".join(str(place) for place in places)
    raise DataError(f"{name}: not found in the folder {str(root)!r} ({source}). Looked for {looked}.")


def load_dataset(name: str, data_dir: str | Path | None = None) -> SeriesFrame:
    """Read a benchmark file and verify its hash where one is known. Known oddities are logged and put into ``notes``.

    Args:
        name: a name of ``CATALOG``.
        data_dir: folder to look in; None means the folder named by the environment variable ``FOREBLOCKS_DATA``.

    Raises:
        InvalidArgument: the name is unknown.
        DataError: the file is missing, altered or cannot be read.
    """
    entry = dataset_entry(name)
    name = entry.name
    path = find_dataset(name, data_dir)
    raw = read_bytes(path)
    digest = hashlib.sha256(raw).hexdigest()
    if entry.sha256 is not None and digest != entry.sha256:
        raise DataError(
            f"{path}: sha256 {digest} is not that of the original {name}.csv ({entry.sha256}): the file was altered or "
            "is damaged, so figures would not compare. To use it anyway, read it by its path."
        )
    for trap in entry.traps:
        _LOG.warning("%s", trap)
    frame = parse_csv(raw, name, encoding=entry.encoding, ordered=entry.ordered)
    return dataclasses.replace(frame, notes=entry.traps)
