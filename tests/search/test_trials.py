"""Phase 2: the presets and the better half are tried, and what a short training says decides."""

from __future__ import annotations

import logging

import pytest
import torch

from foreblocks.darts import DARTSTrainer
from foreblocks.darts.data.windows import WindowDataset
from foreblocks.darts.search import tasks
from foreblocks.darts.search.candidates import CandidateConfig
from foreblocks.darts.search.trials import in_turns, screened

L, H, C = 24, 4, 3


def record(identity: int, mode: str = "mixed", preset: str | None = None) -> dict:
    return {"candidate_id": identity, "preset": preset, "macro": {"channel_mode": mode}}


def test_screening_keeps_presets_and_the_better_half_of_the_drawn() -> None:
    ranked = [record(0), record(1), record(2), record(3), record(4), record(5, preset="patchtst")]
    assert [r["candidate_id"] for r in screened(ranked, 1)] == [0, 1, 2, 5]
    assert [r["candidate_id"] for r in screened(ranked, 5)] == [0, 1, 2, 3, 4]


def test_channel_modes_take_turns_and_the_best_stays_first() -> None:
    modes = ["independent", "independent", "independent", "variate", "mixed", "variate"]
    ranked = [record(i, mode) for i, mode in enumerate(modes)]
    assert [r["candidate_id"] for r in in_turns(ranked)] == [0, 3, 4, 1, 5, 2]


def windows() -> list[WindowDataset]:
    t = torch.arange(500)[:, None]
    values = torch.sin(t / torch.tensor([3.0, 5.0, 9.0])) + 0.1 * torch.randn(
        500, C, generator=torch.Generator().manual_seed(0)
    )
    return [WindowDataset(values, L, H, first=a, last=b) for a, b in ((0, 300), (276, 400), (376, 500))]


def search(**changes) -> dict:
    trainer = DARTSTrainer(C, [8], H, L, "cpu")
    small = {
        "num_candidates": 5, "top_k": 1, "search_epochs": 1, "final_epochs": 1, "max_train_batches": 4,
        "final_max_train_batches": 4, "trial_steps": 5,
    }  # fmt: skip
    return trainer.multi_fidelity_search(*windows(), **{**small, **changes})


def test_the_lowest_trial_loss_is_searched() -> None:
    result = search()
    tried = {r["candidate_id"]: r["trial"]["val_loss"] for r in result["candidates"] if "trial" in r}
    assert len(tried) >= 3
    assert result["best_candidate"]["candidate"]["candidate_id"] == min(tried, key=tried.get)
    assert all(r["trial"]["steps"] == 5 for r in result["top_candidates"])


def test_without_trials_the_rank_decides() -> None:
    result = search(trial_steps=0)
    assert not any("trial" in r for r in result["candidates"])
    assert result["best_candidate"]["candidate"]["candidate_id"] == result["candidates"][0]["candidate_id"]


def test_a_failing_trial_costs_only_its_candidate(monkeypatch: pytest.MonkeyPatch) -> None:
    first = search()["best_candidate"]["candidate"]
    build = tasks.build_network

    def failing(spec, *, seed):
        if spec.macro == CandidateConfig.from_dict(first).macro:
            raise RuntimeError("planted")
        return build(spec, seed=seed)

    monkeypatch.setattr(tasks, "build_network", failing)
    result = search()
    assert "planted" in result["failed_candidates"][first["candidate_id"]]
    assert result["best_candidate"]["candidate"]["candidate_id"] != first["candidate_id"]


def test_finalists_are_retrained_alike_and_the_best_on_validation_comes_first() -> None:
    result = search(top_k=3, finalists=2)
    losses = [finalist["val_loss"] for finalist in result["finalists"]]
    assert len(losses) == 2
    assert losses == sorted(losses)
    assert result["finalists"][0]["arch_spec"] == result["arch_spec"]
    assert [finalist["name"] for finalist in result["finalists"]] == ["network", "network_2"]
    assert result["network"] == result["finalists"][0]["test"]


def test_candidates_of_many_tokens_take_smaller_batches() -> None:
    trainer = DARTSTrainer(7, [8], 96, 336, "cpu")
    batches = {c.preset: c.search_batch(64) for c in (trainer.make_candidate(0, i) for i in range(3))}
    assert batches["patchtst"] == 4096 // (7 * 41)
    assert batches["itransformer"] == 64


@pytest.mark.parametrize(
    ("space", "level", "drawn", "reasons"),
    [
        ({}, logging.INFO, [None, "mixed_last"], "patchtst (patch_len 16 is more than half of seq_length=24)"),
        (
            {"presets": ("patch_last", "itransformer"), "heads": ("factorised",)}, logging.WARNING, [None, None],
            "patch_last (head 'flatten' is not among ['factorised']); "
            "itransformer (head 'flatten' is not among ['factorised'])",
        ),
    ],
    ids=["default", "chosen"],
)  # fmt: skip
def test_presets_that_do_not_fit_are_said_once(
    space: dict, level: int, drawn: list, reasons: str, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, "foreblocks.darts"):
        result = search(num_candidates=2, trial_steps=0, space=space)
    said = [(record.levelno, record.message) for record in caplog.records if "do not fit" in record.message]
    assert said == [(level, f"presets that do not fit, with a random candidate in their place: {reasons}.")]
    assert [r["preset"] for r in sorted(result["candidates"], key=lambda r: r["candidate_id"])] == drawn
