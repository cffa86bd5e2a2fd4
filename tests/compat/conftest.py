"""An empty working folder for every test, a small series, and one tiny search that the tests share."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from foreblocks.darts import DARTSTrainer
from foreblocks.darts.data import Prepared, prepare

from .series import write_series

LOOKBACK, HORIZON, C = 24, 4, 3
TINY = {
    "num_candidates": 3, "search_epochs": 2, "final_epochs": 1, "max_samples": 8, "top_k": 2, "trial_steps": 2,
    "max_train_batches": 2, "max_val_batches": 2, "final_max_train_batches": 2,
}  # fmt: skip


@dataclass
class Searched:
    """A finished search, and what it left in the working folder."""

    trainer: DARTSTrainer
    data: Prepared
    loaders: tuple[Any, Any, Any]
    results: dict[str, Any]
    files: list[str]


@pytest.fixture(autouse=True)
def _empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def files() -> list[str]:
    """Return every file below the working folder."""
    return sorted(path.relative_to(Path.cwd()).as_posix() for path in Path.cwd().rglob("*") if path.is_file())


def make_trainer(channels: int = C, **changes: Any) -> DARTSTrainer:
    """Return a trainer of small networks for the series of this folder."""
    given = {"input_dim": channels, "seq_length": LOOKBACK, "forecast_horizon": HORIZON, "hidden_dims": [8], **changes}
    return DARTSTrainer(device="cpu", **given)


@pytest.fixture(scope="session")
def searched(tmp_path_factory: pytest.TempPathFactory) -> Searched:
    """One search with statistics, begun in an empty folder."""
    data = prepare(write_series(tmp_path_factory.mktemp("data") / "x.csv"), lookback=LOOKBACK, horizon=HORIZON)
    loaders = data.loaders(batch_size=16)
    trainer = make_trainer()
    before = Path.cwd()
    os.chdir(tmp_path_factory.mktemp("search"))
    try:
        results = trainer.multi_fidelity_search(*loaders, collect_stats=True, run_name="mine", **TINY)
        return Searched(trainer, data, loaders, results, files())
    finally:
        os.chdir(before)
