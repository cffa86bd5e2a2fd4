"""A search that is killed anywhere goes on to the result that it would have had, bit for bit."""

from __future__ import annotations

import json
import logging
import shutil
import signal
import sqlite3
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset

from foreblocks.darts import DARTSTrainer
from foreblocks.darts._core.errors import DataError, InvalidArgument
from foreblocks.darts.architecture.spec import ArchSpec
from foreblocks.darts.data.windows import WindowDataset
from foreblocks.darts.search import halving
from foreblocks.darts.search.identity import covering_windows, describe_source
from foreblocks.darts.search.store import FORMAT, SearchStore, StoredExecutor, TaskKey
from foreblocks.darts.training.events import Event
from foreblocks.darts.training.state_file import StateFile, pack, tensor_bytes, unpack

L, H, C = 16, 4, 2
SMALL: dict[str, Any] = {
    "num_candidates": 4,
    "top_k": 2,
    "trial_steps": 2,
    "search_epochs": 3,
    "phase3_rung_epochs": [1],
    "final_epochs": 3,
    "max_train_batches": 2,
    "final_max_train_batches": 2,
    "finalists": 2,
    "space": {"presets": ("mixed_last", "itransformer"), "patch_lens": (8,)},
    "max_ops": 3,
    "node_range": (3, 3),
    "cell_range": (1, 1),
}
#: whatever a state may hold: running means of gradients, pruned ops, averages of weights, looks at the curvature
RICH: dict[str, Any] = {
    "arch_grad_ema_beta": 0.5,
    "progressive_shrinking": True,
    "hybrid_pruning_start_epoch": 1,
    "hybrid_pruning_interval": 1,
    "hybrid_pruning_base_threshold": 0.99,
    "use_swa": True,
    "collapse_every": 1,
    "warmup_epochs": 0,
    "architecture_update_freq": 1,
    "perturbation": "random",
}


def windows(seed: int = 0) -> list[WindowDataset]:
    rng = np.random.default_rng(seed)
    t = np.arange(400)[:, None]
    values = np.sin(t / np.array([4.0, 7.0])) + 0.3 * rng.standard_normal((400, C))
    tensor = torch.as_tensor(values, dtype=torch.float32)
    return [WindowDataset(tensor, L, H, first=a, last=b) for a, b in ((0, 240), (240 - L, 320), (320 - L, 400))]


def search(run_dir: Path | None, *, data: list[Any] | None = None, **changes: Any) -> dict[str, Any]:
    trainer = DARTSTrainer(
        input_dim=C, hidden_dims=[8], forecast_horizon=H, seq_length=L, device="cpu", arch_modes=["encoder_only"],
        all_ops=["Identity", "TimeConv", "GRN", "DLinear"],
    )  # fmt: skip
    return trainer.multi_fidelity_search(*(data or windows()), **{**SMALL, "run_dir": run_dir, **changes})


class Killer:
    """Raises at the ``nth`` event of a kind."""

    def __init__(self, event: Event, nth: int, error: type[BaseException] = KeyboardInterrupt) -> None:
        self.event, self.left, self.error = event, nth, error

    def on_event(self, event: Event, payload: dict[str, Any]) -> None:
        self.left -= event is self.event
        if event is self.event and self.left == 0:
            raise self.error


class Counter:
    """Keeps the names of the state files that are written, and what was last written to each."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *, stop_at: tuple[str, int] | None = None) -> None:
        self.written: list[str] = []
        self.last: dict[str, Any] = {}
        write = StateFile.write

        def counted(file: StateFile, text: str, tensors: dict[str, torch.Tensor]) -> None:
            write(file, text, tensors)
            self.written.append(file.path.name.removesuffix(".safetensors"))
            self.last[self.written[-1]] = plain(unpack(text, tensors))
            if stop_at is not None and self.written.count(stop_at[0]) == stop_at[1]:
                raise KeyboardInterrupt

        monkeypatch.setattr(StateFile, "write", counted)


@pytest.fixture(scope="module")
def whole() -> dict[str, Any]:
    """A search without a break and without a folder."""
    return search(None, **RICH)


@pytest.fixture(scope="module")
def states(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What the same search last writes to each state file."""
    with pytest.MonkeyPatch.context() as patch:
        counter = Counter(patch)
        search(tmp_path_factory.mktemp("whole"), **RICH)
    return counter.last


TIMES = ("seconds", "_dt", "time", "time_sec", "search_config", "phase_seconds")


def plain(value: Any) -> Any:
    """Return a result as values that ``==`` compares bit for bit, without what a clock says."""
    if isinstance(value, torch.nn.Module):
        return plain(dict(value.state_dict()))
    if isinstance(value, ArchSpec):
        return value.to_dict()
    if isinstance(value, (torch.Tensor, np.ndarray)):
        tensor = torch.as_tensor(value).detach().contiguous()
        return (str(tensor.dtype), tuple(tensor.shape), bytes(tensor_bytes(tensor)))
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items() if not str(key).endswith(TIMES)}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    return repr(value) if isinstance(value, float) else value


def assert_same(found: dict[str, Any], wanted: dict[str, Any]) -> None:
    assert set(found) == set(wanted)
    for key in wanted:
        assert plain({key: found[key]}) == plain({key: wanted[key]}), key


@pytest.mark.parametrize(
    ("event", "nth"),
    [
        (Event.CANDIDATE_SCORED, 2),
        (Event.CANDIDATE_TRIED, 1),
        (Event.RUNG_END, 2),
        (Event.RUNG_END, 3),
        (Event.CANDIDATE_DERIVED, 1),
        (Event.FINALIST_END, 1),
    ],
    ids=lambda value: getattr(value, "value", value),
)
def test_a_search_that_stops_between_tasks_goes_on(
    tmp_path: Path, whole: dict[str, Any], event: Event, nth: int
) -> None:
    with pytest.raises(KeyboardInterrupt):
        search(tmp_path, callbacks=[Killer(event, nth)], **RICH)
    assert_same(search(tmp_path, resume=True, **RICH), whole)


@pytest.mark.parametrize(
    ("file", "epoch", "left"),
    [("rung_{0}_0.border", 1, 0), ("rung_{0}_1.border", 1, 1), ("rung_{1}_1.border", 2, 0), ("train_{0}.border", 2, 1)],
)
def test_a_search_that_stops_in_a_task_goes_on_from_the_epoch_border(
    tmp_path: Path,
    whole: dict[str, Any],
    states: dict[str, Any],
    monkeypatch: pytest.MonkeyPatch,
    file: str,
    epoch: int,
    left: int,
) -> None:
    ids = [record["candidate_id"] for record in whole["top_candidates"]]
    file = file.format(*ids)
    with monkeypatch.context() as patch:
        Counter(patch, stop_at=(file, epoch))
        with pytest.raises(KeyboardInterrupt):
            search(tmp_path, **RICH)
    assert (tmp_path / "states" / f"{file}.safetensors").exists()
    rest = Counter(monkeypatch)
    assert_same(search(tmp_path, resume=True, **RICH), whole)
    assert rest.written.count(file) == left
    assert rest.last == {name: states[name] for name in rest.last}
    assert not list((tmp_path / "states").glob("*.border.*"))


def test_worker_processes_go_on_where_this_one_stopped(tmp_path: Path, whole: dict[str, Any]) -> None:
    with pytest.raises(SystemExit):
        search(tmp_path, callbacks=[Killer(Event.RUNG_END, 1, SystemExit)], **RICH)
    assert_same(search(tmp_path, resume=True, max_workers=2, **RICH), whole)


def test_a_finished_search_is_read_back_without_training(
    tmp_path: Path, whole: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    first = search(tmp_path, **RICH)
    assert_same(first, whole)
    written = Counter(monkeypatch).written
    data = windows()
    data[2] = windows(seed=1)[2]  # the test set is read once: the figures are those of the first time
    again = search(tmp_path, resume=True, data=data, **RICH)
    assert_same(again, whole)
    assert written == []
    assert again["phase_seconds"]["phase3"] > first["phase_seconds"]["phase3"]


def kept(folder: Path) -> set[str]:
    return {path.name.removesuffix(".safetensors") for path in (folder / "states").iterdir()}


def test_a_finished_search_keeps_only_what_is_read_again(tmp_path: Path, whole: dict[str, Any]) -> None:
    search(tmp_path, **RICH)
    found = [entry["candidate"]["candidate_id"] for entry in whole["trained_candidates"]]
    wanted = {f"{name}_{number}" for number in found for name in ("derive", "train")}
    assert kept(tmp_path) == wanted | {f"rung_{number}_1" for number in found}
    for number in found:
        state = StateFile(tmp_path / "states" / f"rung_{number}_1.safetensors").load()["state"]
        assert not {"weight_optimizer", "arch_optimizer", "average", "alpha_means"} & set(state)
    flip(tmp_path / "states" / f"rung_{found[0]}_1.safetensors")
    assert_same(search(tmp_path, resume=True, **RICH), whole)


def test_a_candidate_that_failed_is_searched_again_without_its_states(
    tmp_path: Path, whole: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    failing = whole["top_candidates"][0]["candidate_id"]
    train_rung = halving.train_rung

    def sometimes(task: Any) -> Any:
        if (task.key.candidate, task.key.rung) == (failing, 1):
            raise RuntimeError("planted")
        return train_rung(task)

    with monkeypatch.context() as patch:
        patch.setattr(halving, "train_rung", sometimes)
        assert list(search(tmp_path, **RICH)["failed_candidates"]) == [failing]
    assert not {name for name in kept(tmp_path) if name.startswith(f"rung_{failing}")}
    assert_same(search(tmp_path, resume=True, **RICH), whole)


def test_dropped_states_leave_their_figures(tmp_path: Path) -> None:
    keys = [TaskKey("rung", number, rung) for number in (0, 1) for rung in (0, 1)]
    result = {"state": {"w": [torch.ones(2)], "loss": 2.0}, "loss": 1.0, "spec": {"text": '"$tensor"'}}
    figures = {**result, "state": None}
    with SearchStore(tmp_path, {}, resume=False) as store:
        for key in [*keys, TaskKey("train", 0)]:
            store.save(key, result)
        left = StateFile(tmp_path / "states" / "rung_0_0.safetensors")
        content = left.path.read_bytes()
        store.drop_states("rung", keep=[keys[3]])
        assert kept(tmp_path) == {"rung_1_1", "train_0"}
        assert [store.load(key) for key in keys[:3]] == [figures] * 3
        assert plain(store.load(keys[3])) == plain(result)
        left.path.write_bytes(content)  # as if killed between the row and the file
        store.drop_states("rung", keep=[keys[3]])
        assert kept(tmp_path) == {"rung_1_1", "train_0"}
        assert store.load(keys[0]) == figures


CHILD = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from test_resume import RICH, search
from foreblocks.darts.training.state_file import StateFile
import os, signal
save, left = StateFile.save, [int(sys.argv[3])]
def counted(file, tree):
    save(file, tree)
    left[0] -= file.path.name.endswith(".border.safetensors")
    if left[0] == 0:
        os.kill(os.getpid(), signal.SIGKILL)
StateFile.save = counted
search(Path(sys.argv[2]), **RICH)
"""


def test_sigkill_in_the_middle_of_a_rung(tmp_path: Path, whole: dict[str, Any]) -> None:
    command = [sys.executable, "-c", CHILD, str(Path(__file__).parent), str(tmp_path / "run"), "3"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == -signal.SIGKILL, done.stderr
    borders = [path.name for path in (tmp_path / "run" / "states").glob("*.border.*")]
    assert len(borders) == 1
    assert borders[0].startswith("rung_")
    assert_same(search(tmp_path / "run", resume=True, **RICH), whole)


@pytest.fixture(scope="module")
def stopped(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder whose search was interrupted after the first task of the second rung."""
    folder = tmp_path_factory.mktemp("stopped")
    with pytest.raises(KeyboardInterrupt):
        search(folder, callbacks=[Killer(Event.RUNG_END, 3)], **RICH)
    return folder


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"final_epochs": 4}, r"search\.final_epochs: 3 in the folder, 4 now"),
        ({"seed": 7}, r"limits\.seed: 0 in the folder, 7 now"),
        ({"max_ops": 4}, r"space\.config\.max_ops: 3 in the folder, 4 now"),
        ({"data": windows(seed=1)}, r"train data\.checksum.*validation data\.checksum"),
    ],
)
def test_another_search_is_refused(stopped: Path, changes: dict[str, Any], message: str) -> None:
    before = (stopped / "search.sqlite").read_bytes()
    with pytest.raises(InvalidArgument, match=rf"holds another search.*{message}"):
        search(stopped, resume=True, **{**RICH, **changes})
    assert (stopped / "search.sqlite").read_bytes() == before


def test_a_search_is_never_replaced_silently(stopped: Path) -> None:
    before = (stopped / "candidates.json").read_bytes()
    with pytest.raises(InvalidArgument, match=r"already holds an unfinished search\. resume=True .* goes on"):
        search(stopped, **RICH)
    assert (stopped / "candidates.json").read_bytes() == before


def test_resume_needs_a_folder_and_begins_where_there_is_nothing(tmp_path: Path) -> None:
    with pytest.raises(InvalidArgument, match="resume=True needs run_dir"):
        search(None, resume=True)
    with pytest.raises(KeyboardInterrupt):
        search(tmp_path / "new", resume=True, callbacks=[Killer(Event.CANDIDATE_SCORED, 1)])
    assert (tmp_path / "new" / "search.sqlite").exists()


def test_states_without_their_search_are_not_taken_up(tmp_path: Path) -> None:
    (tmp_path / "states").mkdir()
    StateFile(tmp_path / "states" / "rung_0_0.border.safetensors").save({})
    with pytest.raises(InvalidArgument, match="states/ that belong to no search"):
        search(tmp_path)


def test_one_search_at_a_time(tmp_path: Path) -> None:
    with SearchStore(tmp_path, {"seed": 1}, resume=False):
        with pytest.raises(InvalidArgument, match="a search is running in this folder"):
            SearchStore(tmp_path, {"seed": 1}, resume=True)
        reader = sqlite3.connect(tmp_path / "search.sqlite")
        assert reader.execute("SELECT * FROM identity").fetchall() == [("seed", "1")]
        reader.close()
    SearchStore(tmp_path, {"seed": 1}, resume=True).close()


def test_a_damaged_database_is_said(tmp_path: Path) -> None:
    (tmp_path / "search.sqlite").write_bytes(b"no database, but long enough to be one" * 100)
    with pytest.raises(DataError, match=r"search\.sqlite is damaged"):
        search(tmp_path, resume=True)


@pytest.mark.parametrize("resume", [False, True])
def test_a_damaged_lock_is_said(tmp_path: Path, resume: bool) -> None:
    (tmp_path / "search.lock").write_bytes(b"no database, but long enough to be one" * 100)
    with pytest.raises(DataError, match=r"search\.lock is damaged.* holds nothing.*delete it"):
        search(tmp_path, resume=resume)
    (tmp_path / "search.lock").unlink()
    SearchStore(tmp_path, {"seed": 1}, resume=resume).close()


def test_a_lock_that_cannot_be_opened_is_not_taken_for_a_running_search(tmp_path: Path) -> None:
    (tmp_path / "search.lock").mkdir()
    with pytest.raises(DataError, match=r"search\.lock is damaged or cannot be opened"):
        SearchStore(tmp_path, {"seed": 1}, resume=False)


def test_damage_that_is_met_later_is_said(tmp_path: Path) -> None:
    with SearchStore(tmp_path, {"seed": 1}, resume=False) as store:
        for number in range(50):
            store.save(TaskKey("score", number), "x" * 500)
    file = tmp_path / "search.sqlite"
    content = bytearray(file.read_bytes())
    pages = slice(4 * 4096, None)  # behind the schema and the identity
    content[pages] = b"\xa5" * len(content[pages])
    file.write_bytes(content)
    with (
        SearchStore(tmp_path, {"seed": 1}, resume=True) as store,
        pytest.raises(DataError, match=r"search\.sqlite is damaged"),
    ):
        for number in range(50):
            store.load(TaskKey("score", number))


def test_a_damaged_row_is_said(tmp_path: Path) -> None:
    with SearchStore(tmp_path, {"seed": 1}, resume=False) as store:
        store.save(TaskKey("score", 0), "x")
    with sqlite3.connect(tmp_path / "search.sqlite") as writer:
        writer.execute("UPDATE results SET value = '{'")
    writer.close()
    with (
        SearchStore(tmp_path, {"seed": 1}, resume=True) as store,
        pytest.raises(DataError, match=r"search\.sqlite is damaged"),
    ):
        store.load(TaskKey("score", 0))


@pytest.mark.parametrize("version", [0, FORMAT + 1])
def test_the_results_of_another_version_are_refused(tmp_path: Path, stopped: Path, version: int) -> None:
    folder = shutil.copytree(stopped, tmp_path / "run")
    with sqlite3.connect(folder / "search.sqlite") as writer:
        assert writer.execute("PRAGMA user_version").fetchone() == (FORMAT,)
        writer.execute(f"PRAGMA user_version = {version}")
    writer.close()
    with pytest.raises(InvalidArgument, match=rf"run'.*format {version} .*{FORMAT} now.*another run_dir.*resume=False"):
        search(folder, resume=True, **RICH)


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-3] ^= 0xFF
    path.write_bytes(content)


def test_a_damaged_state_costs_its_task_and_is_logged(
    tmp_path: Path, whole: dict[str, Any], caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = whole["top_candidates"][0]["candidate_id"]
    with monkeypatch.context() as patch:
        Counter(patch, stop_at=(f"rung_{first}_1.border", 1))
        with pytest.raises(KeyboardInterrupt):
            search(tmp_path, **RICH)
    states = tmp_path / "states"
    truncate(states / f"rung_{first}_1.border.safetensors")
    flip(states / f"rung_{first}_0.safetensors")
    with caplog.at_level(logging.WARNING, logger="foreblocks.darts"):
        assert_same(search(tmp_path, resume=True, **RICH), whole)
    said = [record.getMessage() for record in caplog.records if "is damaged" in record.getMessage()]
    assert len(said) == 2
    assert all("going back to what was saved before it" in text for text in said)


def test_events_say_where_a_resumed_search_begins(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        search(tmp_path, callbacks=[Killer(Event.CANDIDATE_SCORED, 3)])
    search(tmp_path, resume=True)
    events = [json.loads(line)["event"] for line in (tmp_path / "events.jsonl").read_text().splitlines()]
    last = events[events.index("search_resumed") :]
    assert events.count("search_resumed") == 1
    assert last.count("candidate_scored") == 4
    assert last.count("finalist_end") == 2


def test_results_are_reported_in_the_order_of_the_payloads(tmp_path: Path) -> None:
    class Backwards:
        def map(self, task: Any, payloads: Any, on_result: Any) -> list[Any]:
            results = [task(payload) for payload in payloads]
            for number, result in enumerate(results):
                on_result(number, result)
            return results

    class Task:
        def __init__(self, number: int) -> None:
            self.key = TaskKey("score", number)

    with SearchStore(tmp_path, {}, resume=False) as store:
        store.save(TaskKey("score", 1), "stored 1")
        store.save(TaskKey("score", 4), "stored 4")
        seen: list[tuple[int, Any]] = []
        executor = StoredExecutor(Backwards(), store)
        found = executor.map(lambda t: f"run {t.key.candidate}", [Task(i) for i in range(5)], lambda *r: seen.append(r))
        assert found == ["run 0", "stored 1", "run 2", "run 3", "stored 4"]
        assert seen == list(enumerate(found))
        assert store.load(TaskKey("score", 2)) == "run 2"


def test_a_tree_comes_back_exactly(tmp_path: Path) -> None:
    tree = {
        1: (True, None, [float("inf"), -0.0, 0.1], "text"),
        "$tensor": {"bits": torch.tensor([True, False]), "none": torch.empty(0), "step": torch.tensor(3.0)},
        "view": torch.arange(6.0).reshape(2, 3).t(),
        "half": torch.tensor([1.5], dtype=torch.bfloat16),
        "array": np.array([[1.0, 2.0]], dtype=np.float64),
        "shared": [shared := torch.ones(2), shared],
    }
    text, tensors = pack(tree)
    file = StateFile(tmp_path / "x.safetensors")
    file.save(tree)
    for found in (unpack(text, tensors), file.load()):
        assert plain(found) == plain(tree)
        assert [type(v) for v in found.values()] == [type(v) for v in tree.values()]
        assert found["half"].dtype == torch.bfloat16
    assert [path.name for path in tmp_path.iterdir()] == ["x.safetensors"]
    with pytest.raises(TypeError, match="a set cannot be saved"):
        pack({"x": {1}})


def test_a_file_of_another_result_is_not_taken(tmp_path: Path) -> None:
    file = StateFile(tmp_path / "x.safetensors")
    file.write(*(packed := pack({"loss": 1.0, "w": torch.ones(1)})))
    text = packed[0]
    assert file.load(text) is not None
    file.save({"loss": 2.0, "w": torch.ones(1)})
    assert file.load(text) is None


@pytest.mark.parametrize("rows", [[0], list(range(50)), [0, 1, 2, 40, 41, 99], [5, 0, 25, 24, 3]])
def test_few_windows_cover_every_row(rows: list[int]) -> None:
    class Source:
        lookback, horizon, channels = L, H, C
        starts = torch.tensor(rows)

        def __len__(self) -> int:
            return len(rows)

    chosen = covering_windows(Source())

    def held(starts: list[int]) -> set[int]:
        return {row for start in starts for row in range(start, start + L + H)}

    assert held([rows[i] for i in chosen.tolist()]) == held(rows)
    assert len(chosen) <= 2 * len(held(rows)) // (L + H) + 1


def test_each_value_counts_in_the_checksum() -> None:
    source = windows()[0]
    wanted = describe_source("train", source)
    assert describe_source("train", windows()[0]) == wanted
    values = source.values.clone() if isinstance(source.values, torch.Tensor) else torch.as_tensor(source.values)
    for row in (0, 117, 239):
        changed = values.clone()
        changed[row, 1] += 1e-6
        other = describe_source("train", WindowDataset(changed, L, H, first=0, last=240))
        assert other["train.checksum"] != wanted["train.checksum"]


def test_independent_samples_and_a_loader_can_be_resumed(tmp_path: Path) -> None:
    draw = torch.Generator().manual_seed(0)
    parts = [
        TensorDataset(torch.randn(n, L, C, generator=draw), torch.randn(n, H, C, generator=draw)) for n in (80, 40, 40)
    ]
    loaders = [DataLoader(part, batch_size=16, shuffle=i == 0) for i, part in enumerate(parts)]
    with pytest.raises(KeyboardInterrupt):
        search(tmp_path, data=loaders, callbacks=[Killer(Event.RUNG_END, 1)])
    assert_same(search(tmp_path, data=loaders, resume=True), search(None, data=loaders))
