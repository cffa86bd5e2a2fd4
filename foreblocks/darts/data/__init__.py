"""Series, splits, scaling and windows, and one way to read whatever a user passes."""

from __future__ import annotations

from .adapters import HasWindowStarts
from .batches import iter_batches, loader_batch_size
from .catalog import CATALOG, DatasetEntry, cache_folder, dataset_entry, fetch_dataset, find_dataset, load_dataset
from .csv import read_channels, read_csv
from .dataframes import empty_like, read_table, write_like
from .demo import DEMO_NAME, DEMO_PERIOD, load_demo
from .frame import SeriesFrame
from .gaps import fill_gaps
from .prepare import Prepared, as_frame, describe, prepare
from .recipe import DataRecipe
from .scaling import StandardScaler
from .sources import as_source, check_source, read_batch
from .splits import Split, standard_split
from .steps import DateStep, find_step
from .tables import check_table_path, write_table
from .windows import WindowDataset, collate_windows

__all__ = [
    "CATALOG",
    "DEMO_NAME",
    "DEMO_PERIOD",
    "DataRecipe",
    "DatasetEntry",
    "DateStep",
    "HasWindowStarts",
    "Prepared",
    "SeriesFrame",
    "Split",
    "StandardScaler",
    "WindowDataset",
    "as_frame",
    "as_source",
    "cache_folder",
    "check_source",
    "check_table_path",
    "collate_windows",
    "dataset_entry",
    "describe",
    "empty_like",
    "fetch_dataset",
    "fill_gaps",
    "find_dataset",
    "find_step",
    "iter_batches",
    "load_dataset",
    "load_demo",
    "loader_batch_size",
    "prepare",
    "read_batch",
    "read_channels",
    "read_csv",
    "read_table",
    "standard_split",
    "write_like",
    "write_table",
]
