"""TSNAS: 120 forecasting architectures on two data sets, each trained with three seeds, and their zero-cost metrics.

What is in it, how it was made and what it shows stands in ``docs/tsnas.md``; ``benchmarks/tsnas`` makes it.
"""

from __future__ import annotations

import csv
import gzip
import io
import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields
from importlib.resources import files
from pathlib import Path
from typing import Any

from .._core.errors import DataError, check_choice, check_int
from .._core.optional import require

SEEDS = (0, 1, 2)
PARTS = ("macro", "ops")
TEXT_COLUMNS = ("data", "arch", "part", "spec_hash", "spec", "batch_size")
SEED_COLUMNS = ("val_mse", "test_mse", "seconds")
COST_COLUMNS = ("short_val_mse", "short_seconds", "proxy_seconds", "extra_seconds")


@dataclass(frozen=True)
class TsnasEntry:
    """One architecture on one data set.

    Attributes:
        data: data set.
        arch: number of the architecture, the same on every data set.
        part: ``macro`` (drawn over all macro choices) or ``ops`` (one good macro; only the ops of the cells vary).
        spec_hash: ``ArchSpec.digest``.
        spec: the architecture as JSON, for ``ArchSpec.from_json``.
        batch_size: windows of a training step.
        val_mse: validation MSE on the z-scale for each of ``SEEDS``; NaN where it is not trained.
        test_mse: test MSE, likewise.
        seconds: processor seconds of each training, its validation included.
        short_val_mse: validation MSE of a separate, short training: what the same seconds could buy instead.
        short_seconds: its processor seconds.
        proxy_seconds: processor seconds of all the default proxies together (they share passes).
        extra_seconds: processor seconds of the others together.
        proxies: raw value of every proxy that has one, by its registered name; ``params`` and ``flops`` among them.
    """

    data: str
    arch: int
    part: str
    spec_hash: str
    spec: str
    batch_size: int
    val_mse: tuple[float, ...]
    test_mse: tuple[float, ...]
    seconds: tuple[float, ...]
    short_val_mse: float
    short_seconds: float
    proxy_seconds: float
    extra_seconds: float
    proxies: Mapping[str, float] = field(default_factory=dict)

    @property
    def trainings(self) -> int:
        """Number of seeds that it is trained with."""
        return sum(math.isfinite(value) for value in self.val_mse)

    @property
    def mean_val_mse(self) -> float:
        """Mean validation MSE of the seeds that it is trained with; NaN if there is none."""
        return _mean(self.val_mse)

    @property
    def mean_test_mse(self) -> float:
        """Mean test MSE of the seeds that it is trained with; NaN if there is none."""
        return _mean(self.test_mse)


@dataclass(frozen=True)
class TsnasTable:
    """The entries, by data set and architecture; iterates over them."""

    entries: tuple[TsnasEntry, ...]

    def __len__(self) -> int:
        """Return the number of entries."""
        return len(self.entries)

    def __iter__(self) -> Iterator[TsnasEntry]:
        """Iterate over the entries."""
        return iter(self.entries)

    @property
    def data_sets(self) -> tuple[str, ...]:
        """Names of the data sets."""
        return tuple(dict.fromkeys(entry.data for entry in self.entries))

    @property
    def trainings(self) -> int:
        """Number of full trainings that are in."""
        return sum(entry.trainings for entry in self.entries)

    def select(self, *, data: str | None = None, part: str | None = None, trainings: int = 0) -> TsnasTable:
        """Return the entries of a data set, of a part, and with so many trainings at least.

        Raises:
            InvalidArgument: an unknown data set or part, or ``trainings`` is not from 0 to 3.
        """
        check_int("trainings", trainings, low=0, high=len(SEEDS))
        if data is not None:
            check_choice("data", data, self.data_sets)
        if part is not None:
            check_choice("part", part, PARTS)
        return TsnasTable(
            tuple(
                entry
                for entry in self.entries
                if data in (None, entry.data) and part in (None, entry.part) and entry.trainings >= trainings
            )
        )

    def to_pandas(self) -> Any:
        """Return a ``pandas.DataFrame`` with the columns of the file.

        Raises:
            OptionalDependencyError: pandas is missing.
        """
        pandas = require("pandas", extra="darts-analysis", feature="TsnasTable.to_pandas")
        return pandas.DataFrame([to_record(entry) for entry in self.entries])


def load_tsnas(path: str | Path | None = None) -> TsnasTable:
    """Return the table.

    Args:
        path: a file of the same form (CSV, gzip); None means the one that comes with the package.

    Raises:
        DataError: the file is missing or no such table.
    """
    if path is None:
        raw = files(__package__).joinpath("tsnas.csv.gz").read_bytes()
    else:
        try:
            raw = Path(path).read_bytes()
        except OSError as error:
            raise DataError(f"path={str(path)!r} cannot be read: {error}") from error
    try:
        text = gzip.decompress(raw).decode()
        rows = list(csv.DictReader(io.StringIO(text)))
        entries = tuple(_entry(row) for row in rows)
    except (OSError, EOFError, UnicodeDecodeError, KeyError, TypeError, ValueError) as error:
        raise DataError(f"{'the table' if path is None else path} is no TSNAS table: {error!r}") from error
    return TsnasTable(entries)


def seed_columns() -> list[str]:
    """Return the columns that exist once per seed."""
    return [f"{name}_{seed}" for seed in SEEDS for name in SEED_COLUMNS]


def to_record(entry: TsnasEntry) -> dict[str, Any]:
    """Return column → value of an entry; a proxy that it lacks is absent."""
    plain = {f.name: getattr(entry, f.name) for f in fields(entry)}
    record = {name: plain[name] for name in TEXT_COLUMNS}
    record |= {f"{name}_{seed}": plain[name][i] for i, seed in enumerate(SEEDS) for name in SEED_COLUMNS}
    return {**record, **{name: plain[name] for name in COST_COLUMNS}, **entry.proxies}


def _entry(row: Mapping[str, str]) -> TsnasEntry:
    known = {*TEXT_COLUMNS, *seed_columns(), *COST_COLUMNS}
    json.loads(row["spec"])
    numbers: dict[str, Any] = {name: _number(row[name]) for name in COST_COLUMNS}
    numbers |= {name: tuple(_number(row[f"{name}_{seed}"]) for seed in SEEDS) for name in SEED_COLUMNS}
    return TsnasEntry(
        data=row["data"],
        arch=int(row["arch"]),
        part=row["part"],
        spec_hash=row["spec_hash"],
        spec=row["spec"],
        batch_size=int(row["batch_size"]),
        proxies={name: float(value) for name, value in row.items() if name not in known and value != ""},
        **numbers,
    )


def _number(text: str) -> float:
    return float(text) if text else math.nan


def _mean(values: tuple[float, ...]) -> float:
    present = [value for value in values if math.isfinite(value)]
    return sum(present) / len(present) if present else math.nan
