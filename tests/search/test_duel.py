"""What a search has found is held against what chance has drawn, by the same short training."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch

from foreblocks.darts import DARTSTrainer
from foreblocks.darts._core.errors import DivergedError
from foreblocks.darts.architecture.derive import derive_spec
from foreblocks.darts.architecture.spec import ArchSpec
from foreblocks.darts.data.windows import WindowDataset
from foreblocks.darts.search import duel, tasks
from foreblocks.darts.search.candidates import CandidateConfig, build_candidate
from foreblocks.darts.search.settings import candidate_seed

L, H, C = 24, 4, 3
TINY: dict[str, Any] = {
    "num_candidates": 4, "top_k": 2, "search_epochs": 2, "final_epochs": 1, "max_train_batches": 4, "trial_steps": 3,
    "final_max_train_batches": 4, "finalists": 2, "max_val_batches": 2, "cell_range": (1, 1), "node_range": (3, 3),
    "arch_learning_rate": 1.0, "warmup_epochs": 0, "space": {"presets": ("mixed_last", "patchtst")},
}  # fmt: skip


def windows() -> list[WindowDataset]:
    t = torch.arange(500)[:, None]
    draw = torch.Generator().manual_seed(0)
    values = torch.sin(t / torch.tensor([3.0, 5.0, 9.0])) + 0.1 * torch.randn(500, C, generator=draw)
    return [WindowDataset(values, L, H, first=a, last=b) for a, b in ((0, 300), (276, 400), (376, 500))]


def search(**changes: Any) -> dict[str, Any]:
    trainer = DARTSTrainer(C, [8], H, L, "cpu", ["Identity", "TimeConv", "ResidualMLP"], arch_modes=["encoder_only"])
    return trainer.multi_fidelity_search(*windows(), **{**TINY, **changes})


def drawn(finalist: dict[str, Any], result: dict[str, Any]) -> ArchSpec:
    number = finalist["candidate_id"]
    (record,) = [r for r in result["candidates"] if r["candidate_id"] == number]
    return derive_spec(build_candidate(CandidateConfig.from_dict(record), seed=candidate_seed(0, number)))


def ending_with(loss: float, monkeypatch: pytest.MonkeyPatch) -> list[tasks.TrialTask]:
    """Let every duel end with ``loss`` for the architecture found; return the tasks."""
    fought: list[tasks.TrialTask] = []

    def run_trial(task: tasks.TrialTask) -> dict[str, Any]:
        fought.append(task)
        return {**tasks.run_trial(task), "val_loss": loss}

    monkeypatch.setattr(duel, "run_trial", run_trial)
    return fought


def found(finalist: dict[str, Any], result: dict[str, Any]) -> dict[str, Any]:
    number = finalist["candidate_id"]
    return next(e for e in result["trained_candidates"] if e["candidate"]["candidate_id"] == number)


@pytest.mark.parametrize(("loss", "won"), [(0.0, 2), (1e9, 0)])
def test_the_better_of_both_is_retrained(loss: float, won: int, monkeypatch: pytest.MonkeyPatch) -> None:
    fought = ending_with(loss, monkeypatch)
    result = search()
    assert result["duels"] == {"won": won, "of": 2}
    assert f"In {won} of 2 short trainings the operations found did better than drawn ones." in result["verdict"]
    assert {str(task.key) for task in fought} == {f"duel_{f['candidate_id']}" for f in result["finalists"]}
    for finalist in result["finalists"]:
        entry = found(finalist, result)
        trial = entry["candidate"]["trial"]
        assert finalist["duel"] == entry["duel"] == {"found": loss, "drawn": trial["val_loss"], "steps": 3}
        assert entry["arch_spec"] != drawn(finalist, result)  # else there was nothing to compare
        assert finalist["arch_spec"] == (entry["arch_spec"] if won else drawn(finalist, result))
    assert result["arch_spec"] == result["finalists"][0]["arch_spec"]
    network = dict(result["final_model"].parts)["network"]
    assert network.spec == result["arch_spec"]
    assert result["op_counts"] == result["arch_spec"].op_counts()


def test_a_duel_is_the_trial_of_the_architecture_found() -> None:
    """The same task as in phase 2 but for the operations, so given the drawn ones it has the loss of the trial."""
    result = search()
    assert result["duels"]["of"] == 2
    for finalist in result["finalists"]:
        losses = finalist["duel"]
        assert losses["found"] != losses["drawn"]
        better = found(finalist, result)["arch_spec"] if losses["found"] <= losses["drawn"] else drawn(finalist, result)
        assert finalist["arch_spec"] == better


def test_the_drawn_operations_reach_the_loss_of_the_trial_again(monkeypatch: pytest.MonkeyPatch) -> None:
    again: dict[int, float] = {}

    def run_trial(task: tasks.TrialTask) -> dict[str, Any]:
        same = derive_spec(build_candidate(task.candidate, seed=task.seed)).to_dict()
        made = tasks.run_trial(tasks.TrialTask(*(getattr(task, n) for n in _FIELDS), spec=same))
        again[task.key.candidate] = made["val_loss"]
        return made

    monkeypatch.setattr(duel, "run_trial", run_trial)
    result = search()
    assert len(again) == 2
    assert {f["candidate_id"]: f["duel"]["drawn"] for f in result["finalists"]} == again


_FIELDS = ("candidate", "seed", "train", "val", "config", "limits", "key")


def test_a_short_training_that_diverges_has_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    def diverges(_task: tasks.TrialTask) -> None:
        raise DivergedError("the loss is nan.")

    monkeypatch.setattr(duel, "run_trial", diverges)
    result = search()
    assert result["duels"] == {"won": 0, "of": 2}
    assert result["failed_candidates"] == {}
    assert "Infinity" not in json.dumps([finalist["duel"] for finalist in result["finalists"]])
    for finalist in result["finalists"]:
        assert finalist["duel"]["found"] is None
        assert finalist["arch_spec"] == drawn(finalist, result)


@pytest.mark.parametrize("off", [{"duel": False}, {"trial_steps": 0}, {"retrain_final_from_scratch": False}])
def test_without_trials_or_with_inherited_weights_there_is_no_duel(
    off: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    fought = ending_with(1e9, monkeypatch)
    result = search(**off)
    assert not fought
    assert result["duels"] is None
    assert "short trainings" not in result["verdict"]
    for finalist in result["finalists"]:
        assert finalist["duel"] is None
        assert finalist["arch_spec"] == found(finalist, result)["arch_spec"]


def test_only_those_fight_that_are_retrained(monkeypatch: pytest.MonkeyPatch) -> None:
    fought = ending_with(0.0, monkeypatch)
    assert search(finalists=1)["duels"] == {"won": 1, "of": 1}
    assert len(fought) == 1
