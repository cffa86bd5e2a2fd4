"""The usual benchmark files: found in a local folder, or fetched once into the user's cache; checked by their hash."""

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
from .fetch import Progress, fetch
from .frame import SeriesFrame

_LOG = get_logger(__name__)
_VARIABLE = "FOREBLOCKS_DATA"
_URL_VARIABLE = "FOREBLOCKS_DATA_URL"
_ETT_HOME = "https://raw.githubusercontent.com/zhouhaoyi/ETDataset/main/ETT-small"
_LIBRARY_HOME = "https://huggingface.co/datasets/thuml/Time-Series-Library/resolve/main"


@dataclass(frozen=True)
class DatasetEntry:
    """What is known about a benchmark file.

    Attributes:
        name: of the data set; the file is ``<name>.csv`` or ``<name>.csv.gz``.
        folders: sub-folders in which archives of these files keep it, tried after the folder itself.
        sha256: of the unpacked CSV; None where no reference copy is known.
        home: public address of the CSV.
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
    home: str
    split: str
    step: datetime.timedelta
    period: int
    traps: tuple[str, ...] = ()
    encoding: str = "utf-8"
    ordered: bool = True


def _ett(name: str, minutes: int, sha256: str) -> DatasetEntry:
    step = datetime.timedelta(minutes=minutes)
    home = f"{_ETT_HOME}/{name}.csv"
    return DatasetEntry(name, ("ETT-small", "ETT"), sha256, home, "12/4/4 months", step, 24 * 60 // minutes)


_REST = "70/10/20 %"
_ENTRIES = (
    _ett("ETTh1", 60, "f18de3ad269cef59bb07b5438d79bb3042d3be49bdeecf01c1cd6d29695ee066"),
    _ett("ETTh2", 60, "a3dc2c597b9218c7ce1cd55eb77b283fd459a1d09d753063f944967dd6b9218b"),
    _ett("ETTm1", 15, "6ce1759b1a18e3328421d5d75fadcb316c449fcd7cec32820c8dafda71986c9e"),
    _ett("ETTm2", 15, "db973ca252c6410a30d0469b13d696cf919648d0f3fd588c60f03fdbdbadd1fd"),
    DatasetEntry(
        "exchange_rate",
        ("exchange_rate",),
        None,
        f"{_LIBRARY_HOME}/exchange_rate/exchange_rate.csv",
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
        f"{_LIBRARY_HOME}/illness/national_illness.csv",
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
        "34ee981d07313e51da2a50bb600072c8ae4a69cb4b0651f4cb93a069d7a2ba63",
        f"{_LIBRARY_HOME}/weather/weather.csv",
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


def cache_folder() -> Path:
    """Return where fetched data sets are kept: ``foreblocks-darts`` in ``XDG_CACHE_HOME``, or in ``~/.cache``."""
    given = os.environ.get("XDG_CACHE_HOME", "")
    # The XDG base directory specification: a relative path is to be ignored.
    root = Path(given) if Path(given).is_absolute() else Path.home() / ".cache"
    return root / "foreblocks-darts"


def dataset_url(name: str, url: str | None = None) -> str:
    """Return the address of a benchmark file.

    Args:
        name: a name of ``CATALOG``.
        url: address of a folder with ``<name>.csv``; None means the environment variable ``FOREBLOCKS_DATA_URL``,
            and without it the public home of the data set.

    Raises:
        InvalidArgument: the name is unknown.
    """
    entry = dataset_entry(name)
    base = url or os.environ.get(_URL_VARIABLE)
    return f"{base.rstrip('/')}/{entry.name}.csv" if base else entry.home


def fetch_dataset(
    name: str, *, url: str | None = None, cache_dir: str | Path | None = None, progress: Progress | None = None
) -> Path:
    """Return the path of a benchmark file in the cache; it is fetched the first time, and that is logged.

    Args:
        name: a name of ``CATALOG``.
        url: as ``dataset_url``.
        cache_dir: None means ``cache_folder()``.
        progress: as ``fetch``.

    Raises:
        InvalidArgument: the name is unknown.
        DataError: it cannot be fetched, or is not the original; how to go on without a network is said.
    """
    entry = dataset_entry(name)
    path = (cache_folder() if cache_dir is None else Path(cache_dir).expanduser()) / f"{entry.name}.csv"
    if path.is_file():
        return path
    address = dataset_url(entry.name, url)
    _LOG.warning("%s: fetching %s to %s, this once.", entry.name, address, path)
    try:
        return fetch(address, path, sha256=entry.sha256, progress=progress)
    except (DataError, OSError) as error:
        raise DataError(
            f"{entry.name} could not be fetched. {error} Or put {entry.name}.csv into a folder and name that with "
            f"data_dir (--data-dir) or {_VARIABLE}; {_URL_VARIABLE} names another server."
        ) from error


def load_dataset(
    name: str,
    data_dir: str | Path | None = None,
    *,
    download: bool = True,
    url: str | None = None,
    cache_dir: str | Path | None = None,
    progress: Progress | None = None,
) -> SeriesFrame:
    """Read a benchmark file and verify its hash where one is known. Known oddities are logged and put into ``notes``.

    Args:
        name: a name of ``CATALOG``.
        data_dir: folder to look in, and nowhere else; None means the folder named by the environment variable
            ``FOREBLOCKS_DATA``, then the cache, into which the file is fetched once.
        download: whether it may be fetched.
        url: as ``dataset_url``.
        cache_dir: as ``fetch_dataset``.
        progress: as ``fetch_dataset``.

    Raises:
        InvalidArgument: the name is unknown.
        DataError: the file is missing, altered, or cannot be fetched or read.
    """
    entry = dataset_entry(name)
    name = entry.name
    try:
        path = find_dataset(name, data_dir)
    except DataError:
        if data_dir is not None or not download:
            raise
        path = fetch_dataset(name, url=url, cache_dir=cache_dir, progress=progress)
    raw = read_bytes(path)
    digest = hashlib.sha256(raw).hexdigest()
    if entry.sha256 is not None and digest != entry.sha256:
        raise DataError(
            f"{path}: sha256 {digest} is not that of the original {name}.csv ({entry.sha256}): the file was altered or "
            "is damaged, so figures would not compare. Put the original in its place, or read it by its path."
        )
    for trap in entry.traps:
        _LOG.warning("%s", trap)
    frame = parse_csv(raw, name, encoding=entry.encoding, ordered=entry.ordered)
    return dataclasses.replace(frame, notes=entry.traps)
