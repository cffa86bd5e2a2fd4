"""What a search survives and what it keeps: failing candidates, bad data, an interrupt."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset

from foreblocks.darts import DARTSTrainer
from foreblocks.darts._core.errors import DataError, DivergedError, InvalidArgument, SearchFailed
from foreblocks.darts.data.windows import WindowDataset
from foreblocks.darts.search import halving, tasks
from foreblocks.darts.search.settings import candidate_seed
from foreblocks.darts.training.checkpoint import load_folder
from foreblocks.darts.training.darts_loop import derived_loss
from foreblocks.darts.training.events import Event
from foreblocks.darts.training.loop import LoopLimits

L, H, C = 16, 4, 2
TRAIN, VAL, TEST = (0, 240), (240, 320), (320, 400)
SMALL: dict[str, Any] = {
    "num_candidates": 3,
    "top_k": 3,
    "search_epochs": 2,
    "final_epochs": 1,
    "phase3_min_epoch_budget": 1,
    "max_train_batches": 2,
    "finalists": 2,
    "space": {"presets": (), "channel_modes": ("mixed",), "patch_lens": (8,)},
    "max_ops": 3,
    "node_range": (3, 3),
    "cell_range": (1, 1),
}
ONE_RUNG = {**SMALL, "phase3_min_epoch_budget": 2}
HUGE = 1e30  # a learning rate after whose first step the loss overflows


def series() -> np.ndarray:
    rng = np.random.default_rng(0)
    t = np.arange(TEST[1])[:, None]
    return np.sin(t / np.array([4.0, 7.0])) + 0.3 * rng.standard_normal((TEST[1], C))


def windows(values: np.ndarray | None = None) -> list[WindowDataset]:
    tensor = torch.as_tensor(series() if values is None else values, dtype=torch.float32)
    parts = (TRAIN, (VAL[0] - L, VAL[1]), (TEST[0] - L, TEST[1]))
    return [WindowDataset(tensor, L, H, first=first, last=last, names=["load", "wind"]) for first, last in parts]


def trainer(**changes: Any) -> DARTSTrainer:
    given = {"input_dim": C, "hidden_dims": [8], "forecast_horizon": H, "seq_length": L, "device": "cpu"}
    return DARTSTrainer(**{**given, "arch_modes": ["encoder_only"], **changes})


class Recorder:
    """Keeps every event; raises ``error`` at the ``nth`` one of a kind."""

    def __init__(self, stop: Event | None = None, nth: int = 1, error: type[BaseException] = KeyboardInterrupt) -> None:
        self.events: list[tuple[Event, dict[str, Any]]] = []
        self.stop, self.nth, self.error = stop, nth, error

    def on_event(self, event: Event, payload: dict[str, Any]) -> None:
        self.events.append((event, payload))
        if event is self.stop and len(self.of(event)) == self.nth:
            raise self.error

    def of(self, event: Event) -> list[dict[str, Any]]:
        return [payload for kind, payload in self.events if kind is event]


def read(path: Path) -> Any:
    return json.loads(path.read_text())


def interrupted(tmp_path: Path, event: Event, nth: int, **changes: Any) -> DARTSTrainer:
    t = trainer()
    with pytest.raises(KeyboardInterrupt):
        t.multi_fidelity_search(
            *windows(), **{**SMALL, **changes}, run_dir=tmp_path, callbacks=[Recorder(event, nth)], scaler={"mean": [0]}
        )
    assert t.search_history == []
    assert t.final_model is None
    return t


@pytest.mark.parametrize("workers", [1, 2])
def test_interrupt_while_screening_keeps_the_scored_candidates(tmp_path: Path, workers: int) -> None:
    partial = interrupted(tmp_path, Event.CANDIDATE_SCORED, 2, max_workers=workers).partial_search
    assert [record["candidate_id"] for record in partial.records] == [0, 1]
    assert [record["candidate_id"] for record in read(tmp_path / "candidates.json")] == [0, 1]
    assert partial.halving is None
    assert not (tmp_path / "rungs.json").exists()


def test_interrupt_in_a_rung_keeps_the_rungs_before_it(tmp_path: Path) -> None:
    partial = interrupted(tmp_path, Event.RUNG_END, 4).partial_search
    assert len(partial.records) == len(read(tmp_path / "candidates.json")) == 3
    assert len(partial.halving.rounds) == 1
    assert sorted(len(runner.history) for runner in partial.halving.runners) == [1, 1, 2]
    assert all(runner.state is not None for runner in partial.halving.runners)
    assert [row["rung_index"] for row in read(tmp_path / "rungs.json")] == [0]
    assert sum(len(record["rungs"]) for record in read(tmp_path / "candidates.json")) == 4
    assert "phase3" in partial.seconds


def test_interrupt_in_the_final_training_keeps_the_trained_network(tmp_path: Path) -> None:
    partial = interrupted(tmp_path, Event.FINALIST_END, 1).partial_search
    (finalist,) = partial.finalists
    saved = load_folder(tmp_path / "finalists" / f"candidate_{finalist.runner.record['candidate_id']}")
    x = torch.randn(3, L, C)
    torch.testing.assert_close(saved(x), finalist.network(x), rtol=0, atol=0)
    assert len(read(tmp_path / "rungs.json")) == 2


def test_interrupt_inside_a_task_is_raised_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real, calls = tasks.search_epochs, []

    def second_stops(*given: Any, **named: Any) -> Any:
        calls.append(given)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return real(*given, **named)

    monkeypatch.setattr(tasks, "search_epochs", second_stops)
    t = trainer()
    with pytest.raises(KeyboardInterrupt):
        t.multi_fidelity_search(*windows(), **SMALL, run_dir=tmp_path)
    assert sorted(len(runner.history) for runner in t.partial_search.halving.runners) == [0, 0, 1]
    assert sum(len(record["rungs"]) for record in read(tmp_path / "candidates.json")) == 1


def test_a_finished_search_leaves_nothing_partial(tmp_path: Path) -> None:
    t = trainer()
    t.multi_fidelity_search(*windows(), **SMALL, run_dir=tmp_path)
    assert t.partial_search is None
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {
        "candidates.json", "rungs.json", "result.json", "report.html", "events.jsonl", "model",
        "search.sqlite", "search.lock", "states",
    }  # fmt: skip


def diverge(monkeypatch: pytest.MonkeyPatch, candidate: int) -> None:
    """Let one candidate really diverge: its weights learn at a rate that no network survives."""
    real = halving.train_rung

    def train_rung(task: tasks.RungTask) -> dict[str, Any]:
        if task.seed == candidate_seed(0, candidate):
            task = replace(task, config=replace(task.config, model_learning_rate=HUGE))
        return real(task)

    monkeypatch.setattr(halving, "train_rung", train_rung)


def test_a_diverging_candidate_is_marked_and_the_search_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    diverge(monkeypatch, 1)
    seen = Recorder()
    result = trainer().multi_fidelity_search(*windows(), **SMALL, run_dir=tmp_path, callbacks=[seen])
    (reason,) = result["failed_candidates"].values()
    assert list(result["failed_candidates"]) == [1]
    assert re.match(r"DivergedError: the loss stopped being finite in epoch \d", reason)
    assert seen.of(Event.CANDIDATE_FAILED) == [{"candidate_id": 1, "phase": "phase3", "reason": reason}]
    assert read(tmp_path / "failures.json") == {"1": reason}
    survivors = {entry["candidate"]["candidate_id"] for entry in result["trained_candidates"]}
    assert survivors == {0, 2}
    assert all(np.isfinite(entry["val_loss"]) for entry in result["trained_candidates"])


def test_the_others_are_what_they_are_without_the_failing_one(monkeypatch: pytest.MonkeyPatch) -> None:
    def losses() -> dict[int, float]:
        result = trainer().multi_fidelity_search(*windows(), **ONE_RUNG)
        return {entry["candidate"]["candidate_id"]: entry["val_loss"] for entry in result["trained_candidates"]}

    whole = losses()
    diverge(monkeypatch, 1)
    assert losses() == {key: value for key, value in whole.items() if key != 1}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model_learning_rate": HUGE}, "every promoted candidate failed"),
        ({"final_learning_rate": HUGE}, "the final training of every survivor failed"),
    ],
)
def test_all_failed_raises_with_each_reason(tmp_path: Path, changes: dict[str, float], message: str) -> None:
    t = trainer()
    with pytest.raises(SearchFailed, match=message) as error:
        t.multi_fidelity_search(*windows(), **ONE_RUNG, **changes, run_dir=tmp_path)
    for candidate in range(3):
        assert re.search(rf"candidate {candidate}: DivergedError: the loss stopped", str(error.value))
    assert sorted(t.partial_search.failures) == [0, 1, 2]
    assert sorted(read(tmp_path / "failures.json")) == ["0", "1", "2"]
    assert len(read(tmp_path / "candidates.json")) == 3


def test_a_derived_path_that_is_not_finite_is_a_failure() -> None:
    t = trainer()
    model = t.build_candidate(t.make_candidate(0, 0))
    with torch.no_grad():
        model.cells[0].scale.fill_(float("inf"))
    with pytest.raises(DivergedError, match="validation of a searched network"):
        derived_loss(model, windows()[1], LoopLimits())


def broken(values: np.ndarray, row: int) -> np.ndarray:
    values = values.copy()
    values[row, 1] = np.nan
    return values


GAPS = pytest.mark.parametrize(("row", "role"), [(100, "train"), (VAL[1] - 1, "validation")])


@GAPS
def test_a_gap_in_the_data_ends_the_search_and_is_named(row: int, role: str) -> None:
    """It hits every candidate alike: no list of failures, but the one error with batch and channel."""
    parts = windows(broken(series(), row))
    place = rf"{role} data, batch \d+: window \d+ has nan in [xy], channel 1 \('wind'\), step \d+"
    t = trainer()
    with pytest.raises(DataError, match=place):
        t.multi_fidelity_search(*parts, **{**SMALL, "max_train_batches": None})
    assert t.partial_search.failures == {}


@pytest.mark.parametrize("phase", ["darts", "final"])
@GAPS
def test_each_training_names_a_gap_too(phase: str, row: int, role: str) -> None:
    train, val, test = windows(broken(series(), row))
    t = trainer()
    model = t.build_candidate(t.make_candidate(0, 0))
    with pytest.raises(DataError, match=rf"{role} data, batch \d+: .*channel 1 \('wind'\)"):
        if phase == "darts":
            t.train_darts_model(model, train, val, epochs=1, use_bilevel_optimization=False)
        else:
            t.train_final_model(t.derive_final_architecture(model), train, val, test, epochs=1)


def test_a_gap_in_the_test_data_costs_only_the_test_figures(tmp_path: Path) -> None:
    whole = trainer().multi_fidelity_search(*windows(), **SMALL)
    t = trainer()
    with pytest.raises(DataError, match=r"test data, batch \d+: window \d+ has nan in y, channel 1 \('wind'\)"):
        t.multi_fidelity_search(*windows(broken(series(), TEST[1] - 1)), **SMALL, run_dir=tmp_path)
    saved = load_folder(tmp_path / "model").state_dict()
    expected = whole["final_model"].state_dict()
    assert list(saved) == list(expected)
    assert all(torch.equal(value, expected[name]) for name, value in saved.items())
    assert [c["candidate_id"] for c in read(tmp_path / "candidates.json")] == [
        c["candidate_id"] for c in whole["candidates"]
    ]
    assert len(t.partial_search.finalists) == 2


def loader(x: torch.Tensor, y: torch.Tensor) -> DataLoader:
    return DataLoader(TensorDataset(x, y), batch_size=8)


@pytest.mark.parametrize("position", [0, 1])
@pytest.mark.parametrize(
    ("shapes", "message"),
    [
        (((40, L, C + 1), (40, H, C + 1)), f"channels={C + 1}, but input_dim={C}"),
        (((40, L, C), (40, H + 1, C)), f"horizon={H + 1}, but forecast_horizon={H}"),
        (((40, L + 1, C), (40, H, C)), f"lookback={L + 1}, but seq_length={L}"),
        (((0, L, C), (0, H, C)), "empty"),
    ],
)
def test_loaders_that_do_not_fit_are_named(position: int, shapes: tuple, message: str) -> None:
    parts: list[Any] = list(windows())
    parts[position] = loader(*(torch.zeros(shape) for shape in shapes))
    role = ("train", "val")[position]
    with pytest.raises(DataError, match=role) as error:
        trainer().multi_fidelity_search(*parts, **SMALL)
    assert re.search(message, str(error.value))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"top_k": 4}, "top_k=4 must not exceed num_candidates=3"),
        ({"search_epochs": 0}, "search_epochs=0 must be at least 1"),
        ({"final_epochs": 0}, "final_epochs=0 must be at least 1"),
        ({"num_candidates": 0}, "num_candidates=0 must be at least 1"),
        ({"max_workers": 0}, "max_workers=0 must be at least 1"),
        ({"finalists": 0}, "finalists=0 must be at least 1"),
    ],
)
def test_sizes_out_of_range_are_found_before_any_work(tmp_path: Path, changes: dict[str, int], message: str) -> None:
    seen = Recorder()
    with pytest.raises(InvalidArgument, match=message):
        trainer().multi_fidelity_search(*windows(), **{**SMALL, **changes}, callbacks=[seen], run_dir=tmp_path / "run")
    assert seen.events == []
    assert not (tmp_path / "run").exists()


def test_zero_epochs_of_one_training() -> None:
    train, val, test = windows()
    t = trainer()
    model = t.build_candidate(t.make_candidate(0, 0))
    with pytest.raises(InvalidArgument, match="epochs=0 must be at least 1"):
        t.train_darts_model(model, train, val, epochs=0)
    with pytest.raises(InvalidArgument, match="epochs=0 must be at least 1"):
        t.train_final_model(model, train, val, test, epochs=0)


def test_an_unwritable_run_folder_is_found_before_any_work(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("kept")
    seen = Recorder()
    for folder in (tmp_path / "file", tmp_path / "file" / "run"):
        with pytest.raises(InvalidArgument, match=r"run_dir='.*file.*' cannot be written"):
            trainer().multi_fidelity_search(*windows(), **SMALL, run_dir=folder, callbacks=[seen])
    assert seen.events == []
    assert (tmp_path / "file").read_text() == "kept"
