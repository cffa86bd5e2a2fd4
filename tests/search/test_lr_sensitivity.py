"""The grid over learning rates: columns, seeds, failures, processes, and nothing done before the checks."""

from __future__ import annotations

import functools
import math
import random
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from foreblocks.darts import DARTSTrainer, TimeSeriesDARTS
from foreblocks.darts._core.errors import InvalidArgument, OptionalDependencyError, SearchFailed
from foreblocks.darts.data.windows import WindowDataset
from foreblocks.darts.search.lr_sensitivity import alpha_health

pytest.importorskip("pandas")
L, H, C = 16, 2, 2
COLUMNS = [
    "model_lr", "arch_lr", "seed", "best_val_loss_mixed", "val_loss_derived", "train_time_s", "health_score",
    "avg_identity_dominance",
]  # fmt: skip
SMALL = {"model_lrs": (1e-3, 1e-2), "arch_lrs": (3e-3,), "seeds": (0, 1), "epochs": 1, "max_train_batches": 2}


def factory(ops: tuple[str, ...] = ("Identity", "GRN")) -> TimeSeriesDARTS:
    return TimeSeriesDARTS(
        input_dim=C, hidden_dim=4, latent_dim=4, forecast_horizon=H, seq_length=L, num_cells=1, num_nodes=2,
        selected_ops=list(ops), arch_mode="encoder_only",
    )  # fmt: skip


def trainer() -> DARTSTrainer:
    return DARTSTrainer(input_dim=C, forecast_horizon=H, seq_length=L, device="cpu")


def source(seed: int = 0) -> WindowDataset:
    g = torch.Generator().manual_seed(seed)
    return WindowDataset(torch.randn(260, C, generator=g), L, H, first=0, last=260)


def grid(make: Any = factory, **changes: Any) -> Any:
    return trainer().bilevel_lr_sensitivity(make, source(), source(1), **{**SMALL, **changes})


def figures(frame: Any) -> list[Any]:
    return frame.drop(columns="train_time_s").to_numpy().tolist()


@pytest.fixture(scope="module")
def frame() -> Any:
    return grid()


def test_columns_and_rows(frame: Any) -> None:
    assert list(frame.columns) == COLUMNS
    assert frame[["model_lr", "seed"]].to_numpy().tolist() == [[1e-3, 0], [1e-3, 1], [1e-2, 0], [1e-2, 1]]
    assert np.isfinite(frame.to_numpy(dtype=float)).all()
    assert frame.attrs["failures"] == {}


def test_rates_and_seeds_matter_and_repeat(frame: Any) -> None:
    assert frame["best_val_loss_mixed"].nunique() == 4
    assert figures(grid(max_workers=2)) == figures(frame)


def test_the_random_states_of_the_caller_come_back() -> None:
    random.seed(3)
    np.random.seed(3)  # noqa: NPY002 - the global generator is what is tested
    before = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state()  # noqa: NPY002
    grid(model_lrs=(1e-3,), seeds=(0,))
    assert random.getstate() == before[0]
    assert np.random.get_state()[1].tolist() == before[1]  # noqa: NPY002
    assert torch.equal(torch.get_rng_state(), before[2])


def test_a_run_that_fails_is_listed_not_fatal(tmp_path: Path) -> None:
    def sometimes() -> TimeSeriesDARTS:
        if torch.initial_seed() == 1:
            raise RuntimeError("no memory")
        return factory()

    path = tmp_path / "new" / "rates.csv"
    found = grid(sometimes, save_csv_path=str(path))
    assert set(found.attrs["failures"]) == {1, 3}
    assert "no memory" in found.attrs["failures"][1]
    assert found["val_loss_derived"].isna().tolist() == [False, True, False, True]
    assert len(path.read_text().splitlines()) == 5
    with pytest.raises(SearchFailed, match="a search needs a TimeSeriesDARTS"):
        grid(functools.partial(torch.nn.Linear, 2, 2))


def test_bad_arguments_are_said_before_any_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def never() -> TimeSeriesDARTS:
        pytest.fail("work has started")

    with pytest.raises(InvalidArgument, match="arch_lrs"):
        grid(never, arch_lrs=())
    with pytest.raises(InvalidArgument, match="model_lrs=0"):
        grid(never, model_lrs=(0.0,))
    with pytest.raises(InvalidArgument, match="model_factory"):
        grid(factory())  # a network can be called, but not without an input
    (tmp_path / "file").write_text("")
    with pytest.raises(InvalidArgument, match="save_csv_path"):
        grid(never, save_csv_path=str(tmp_path / "file" / "rates.csv"))
    with pytest.raises(InvalidArgument, match="is a folder"):
        grid(never, save_csv_path=str(tmp_path))
    for name in ["pandas", *(m for m in sys.modules if m.startswith("pandas."))]:
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(OptionalDependencyError, match="'pandas'"):
        grid(never)


def test_health_of_planted_alphas() -> None:
    model = factory(("Identity", "GRN", "TimeConv", "ResidualMLP"))
    edges = [edge for cell in model.cells for edge in cell.edges]
    with torch.no_grad():
        for edge in edges:
            edge.family_logits.zero_()
            edge.op_logits.zero_()
    even = alpha_health(model)
    assert even["health_score"] == pytest.approx(1.0)
    assert even["avg_identity_dominance"] == pytest.approx(0.25)
    with torch.no_grad():
        for edge in edges:
            edge.op_logits[edge.names.index("Identity")] = 50.0
    collapsed = alpha_health(model)
    assert collapsed["avg_identity_dominance"] > 0.95
    assert collapsed["health_score"] < 0.2
    assert alpha_health(factory(("Identity",))) == {"health_score": 1.0, "avg_identity_dominance": 1.0}
    assert math.isfinite(even["health_score"])
