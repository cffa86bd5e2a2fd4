"""Scores of single ops: against networks in which the op really gives nothing, and as a start for alphas."""

from __future__ import annotations

import copy
import logging
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from foreblocks.darts import DARTSTrainConfig, DARTSTrainer, TimeSeriesDARTS
from foreblocks.darts._core.errors import InvalidArgument
from foreblocks.darts.data.windows import WindowDataset
from foreblocks.darts.search import op_scoring
from foreblocks.darts.search.op_scoring import START_SPREAD, score_operations, start_alphas
from foreblocks.darts.search.proxies import evaluate_proxies

L, H, C = 16, 2, 2
OPS = ["Identity", "GRN", "TimeConv"]


def build(**changes: Any) -> TimeSeriesDARTS:
    settings = {
        "input_dim": C, "hidden_dim": 4, "latent_dim": 4, "forecast_horizon": H, "seq_length": L, "num_cells": 1,
        "num_nodes": 3, "selected_ops": OPS, "arch_mode": "encoder_only", **changes,
    }  # fmt: skip
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return TimeSeriesDARTS(**settings)


def data() -> tuple[Tensor, Tensor]:
    g = torch.Generator().manual_seed(0)
    return torch.randn(8, L, C, generator=g), torch.randn(8, H, C, generator=g)


def source(seed: int = 0) -> WindowDataset:
    g = torch.Generator().manual_seed(seed)
    return WindowDataset(torch.randn(260, C, generator=g), L, H, first=0, last=260)


def trainer() -> DARTSTrainer:
    return DARTSTrainer(
        input_dim=C, hidden_dims=[4], forecast_horizon=H, seq_length=L, device="cpu", all_ops=OPS,
    )  # fmt: skip


class Nothing(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.zeros_like(x)


@pytest.mark.parametrize("proxy", ["jacobian", "snip", "sensitivity"])
def test_importance_is_what_the_score_loses_when_the_op_gives_nothing(proxy: str) -> None:
    model, (x, y) = build(), data()
    scores = score_operations(model, x, y, proxy=proxy)
    assert list(scores) == ["cell_0_edge_0", "cell_0_edge_1", "cell_0_edge_2"]
    full = evaluate_proxies(model, x, y, names=[proxy]).values[proxy]
    for number, row in enumerate(scores.values()):
        assert list(row) == OPS
        for op, importance in row.items():
            mute = copy.deepcopy(model)
            mute.cells[0].edges[number].ops[op] = Nothing()
            without = evaluate_proxies(mute, x, y, names=[proxy]).values[proxy]
            assert importance == pytest.approx(full - without, rel=1e-3, abs=1e-5 * abs(full))


def test_the_network_comes_back_untouched_and_scores_repeat() -> None:
    model, (x, y) = build(use_gdas=True).train(), data()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    first = score_operations(model, x, y)
    assert first == score_operations(model, x, y)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert model.training
    assert model.cells[0].edges[0].relaxation.name == "gdas"
    # A relaxation that samples one op must not hide the others.
    assert all(value != 0.0 for row in first.values() for value in row.values())


def test_less_is_better_turns_the_sign(monkeypatch: pytest.MonkeyPatch) -> None:
    model, (x, y) = build(num_nodes=2), data()
    plus = score_operations(model, x, y, proxy="snip")
    info = op_scoring.get_proxy("snip")
    monkeypatch.setattr(op_scoring, "get_proxy", lambda name: type(info)(**{**vars(info), "direction": -1}))
    minus = score_operations(model, x, y, proxy="snip")
    assert minus == {edge: {op: -v for op, v in row.items()} for edge, row in plus.items()}


def test_what_cannot_be_scored_is_said(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    x, y = data()
    with pytest.raises(InvalidArgument, match="a Linear"):
        score_operations(nn.Linear(2, 2), x, y)
    with pytest.raises(InvalidArgument, match=r"proxy='jacobian' has no value.*two samples"):
        score_operations(build(), x[:1], y[:1])
    real = op_scoring.evaluate_proxies
    calls: list[int] = []

    def second_fails(*args: Any, **kwargs: Any) -> Any:
        calls.append(1)
        report = real(*args, **kwargs)
        return type(report)({}, {"jacobian": "planted"}) if len(calls) == 2 else report

    monkeypatch.setattr(op_scoring, "evaluate_proxies", second_fails)
    with caplog.at_level(logging.WARNING, "foreblocks.darts"):
        scores = score_operations(build(num_nodes=2), x, y)
    assert np.isnan(scores["cell_0_edge_0"]["Identity"])
    assert np.isfinite(scores["cell_0_edge_0"]["GRN"])
    assert "planted" in caplog.text


def test_alphas_start_from_the_scores(monkeypatch: pytest.MonkeyPatch) -> None:
    planted = {"Identity": 1.0, "GRN": 4.0, "TimeConv": 1.0}
    monkeypatch.setattr(
        op_scoring, "score_operations", lambda model, x, y, **_: {f"cell_0_edge_{i}": planted for i in range(3)}
    )
    model, plain = build(), build()
    start_alphas(model, source(), DARTSTrainConfig(alpha_init="zero_cost"), 0)
    for edge, noise in zip(model.cells[0].edges, plain.cells[0].edges, strict=True):
        moved = (edge.op_logits - noise.op_logits).detach().numpy()
        assert moved == pytest.approx(START_SPREAD * np.array([-0.5, 1.0, -0.5]) * np.sqrt(2.0), abs=1e-6)
        assert edge.op_logits.requires_grad
    start_alphas(plain, source(), DARTSTrainConfig(), 0)
    assert torch.equal(plain.cells[0].edges[0].op_logits, build().cells[0].edges[0].op_logits)


def test_equal_or_missing_scores_leave_the_noise() -> None:
    assert op_scoring._standardised([2.0, 2.0]).tolist() == [0.0, 0.0]
    assert op_scoring._standardised([2.0, np.nan]).tolist() == [0.0, 0.0]
    assert op_scoring._standardised([1.0, np.nan, 3.0]).tolist() == [-1.0, 0.0, 1.0]


def test_the_trainer_scores_operations() -> None:
    found = trainer().score_operations(build(), source(), max_samples=8, proxy="snip")
    windows = op_scoring.screening_windows(source(), 8, 0)
    assert found == score_operations(build(), windows.x, windows.y, proxy="snip")


def test_train_darts_model_takes_it() -> None:
    settings = {"epochs": 1, "max_train_batches": 2, "warmup_epochs": 1}
    plain = trainer().train_darts_model(build(), source(), source(1), **settings)
    scored = trainer().train_darts_model(build(), source(), source(1), alpha_init="zero_cost", **settings)
    again = trainer().train_darts_model(build(), source(), source(1), alpha_init="zero_cost", **settings)
    first, second, third = (dict(r["alpha_values"][0]) for r in (plain, scored, again))
    assert np.abs(first["cell_0_edge_0"] - 1 / 3).max() < 0.01
    assert np.abs(second["cell_0_edge_0"] - 1 / 3).max() > 0.05
    assert all(np.array_equal(second[name], third[name]) for name in second)
    with pytest.raises(InvalidArgument, match="Did you mean 'zero_cost'"):
        trainer().train_darts_model(build(), source(), source(1), alpha_init="zerocost", **settings)


def test_a_search_takes_it_in_one_process_or_two() -> None:
    def search(**changes: Any) -> Any:
        return trainer().multi_fidelity_search(
            source(), source(1), source(2), num_candidates=2, top_k=2, search_epochs=2, phase3_min_epoch_budget=1,
            final_epochs=1, trial_steps=0, max_train_batches=1, max_val_batches=1, rank_method="log_rank", **changes,
        )["trained_candidates"]  # fmt: skip

    plain, serial = search(), search(alpha_init="zero_cost")
    parallel = search(alpha_init="zero_cost", max_workers=2)

    def traces(found: Any) -> list[float]:
        return [v for c in found for _, values in c["search_results"]["alpha_values"][0] for v in np.ravel(values)]

    assert traces(serial) == traces(parallel)
    assert traces(serial) != traces(plain)
