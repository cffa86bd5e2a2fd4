"""The collapse watch: the eigenvalue against a full Hessian, and what happens when it grows."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn.functional import mse_loss

from foreblocks.darts import TimeSeriesDARTS
from foreblocks.darts._core.errors import InvalidArgument
from foreblocks.darts._core.types import Batch
from foreblocks.darts.config import DARTSTrainConfig
from foreblocks.darts.data.windows import WindowDataset
from foreblocks.darts.training.bilevel import SearchState, new_state
from foreblocks.darts.training.collapse import (
    DELAY,
    WINDOW,
    CollapseTrace,
    CollapseWatch,
    alpha_summary,
    dominant_eigenvalue,
)
from foreblocks.darts.training.darts_loop import SearchData, search_epochs, train_darts_model
from foreblocks.darts.training.loop import LoopLimits

L, H, C = 12, 3, 2


def network(seed: int = 0, spread: float = 0.5, **changes) -> TimeSeriesDARTS:
    torch.manual_seed(seed)
    settings = {
        "input_dim": C, "hidden_dim": 4, "latent_dim": 4, "forecast_horizon": H, "seq_length": L, "num_cells": 1,
        "num_nodes": 3, "selected_ops": ["Identity", "GRN", "TimeConv"], "arch_mode": "encoder_only", "num_layers": 0,
    }  # fmt: skip
    model = TimeSeriesDARTS(**{**settings, **changes})
    with torch.no_grad():
        for alpha in model.arch_parameters():
            alpha.copy_(spread * torch.randn_like(alpha))
    return model


def batch(dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
    torch.manual_seed(1)
    return torch.randn(6, L, C, dtype=dtype), torch.randn(6, H, C, dtype=dtype)


def full_hessian(model: TimeSeriesDARTS, x: Tensor, y: Tensor) -> Tensor:
    """The Hessian of the loss in all alphas, row by row."""
    alphas = list(model.arch_parameters())
    gradient = torch.autograd.grad(mse_loss(model(x), y), alphas, create_graph=True)
    entries = torch.cat([g.reshape(-1) for g in gradient])
    rows = [torch.autograd.grad(entry, alphas, retain_graph=True) for entry in entries]
    return torch.stack([torch.cat([r.reshape(-1) for r in row]) for row in rows])


def watch(model: TimeSeriesDARTS, *, every: int = 1, limit: float | None = 1.3, dtype=torch.float64) -> CollapseWatch:
    return CollapseWatch(model, mse_loss, Batch(*batch(dtype)), every=every, limit=limit)


@pytest.mark.parametrize("seed", range(3))
def test_power_iteration_finds_the_dominant_eigenvalue_of_the_full_hessian(seed: int) -> None:
    model = network(seed).double().eval()
    x, y = batch()
    values, vectors = torch.linalg.eigh(full_hessian(model, x, y))
    place = int(values.abs().argmax())
    alphas = list(model.arch_parameters())
    found, vector = dominant_eigenvalue(mse_loss(model(x), y), alphas, iterations=200)
    assert found == pytest.approx(float(values[place]), rel=1e-6)
    cosine = torch.cat([v.reshape(-1) for v in vector]) @ vectors[:, place]
    assert abs(float(cosine)) == pytest.approx(1.0, abs=1e-4)
    again, _ = dominant_eigenvalue(mse_loss(model(x), y), alphas, start=vector, iterations=1)
    assert again == pytest.approx(found, rel=1e-6)


def test_a_loss_without_curvature_has_eigenvalue_zero() -> None:
    a = torch.nn.Parameter(torch.ones(3))
    assert dominant_eigenvalue((2.0 * a).sum(), [a])[0] == 0.0


def test_the_falling_temperature_alone_is_no_growth() -> None:
    model = network(spread=0.0).double()  # equal logits: the mixture is the same at every temperature
    looks = []
    for temperature in (1.0, 0.5, 0.4):
        model.set_temperature(temperature)
        start = None
        for _ in range(10):
            value, start = watch(model).eigenvalue(start)
        looks.append(value)
    assert looks == pytest.approx([looks[0]] * 3, rel=1e-3)


def test_a_sampled_relaxation_is_judged_by_its_mixture_and_stays_as_it_was() -> None:
    plain, sampled = network().double(), network(use_gdas=True).double()
    sampled.train()
    assert watch(sampled).eigenvalue()[0] == watch(plain).eigenvalue()[0] != 0.0
    assert sampled.training
    assert sampled.cells[0].edges[0].relaxation.name == "gdas"


def test_growth_compares_local_averages() -> None:
    trace = CollapseTrace()
    values = [1.0, -2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 9.0]
    for step, value in enumerate(values):
        assert trace.growth is None
        trace.add(step, value, [], [torch.tensor(float(step))], 0.1 * step)
    assert trace.growth == pytest.approx((5 + 6 + 7 + 8 + 9) / (1 + 2 + 3 + 4 + 5))
    assert [float(a[0]) for a in trace.alphas] == [4, 5, 6, 7, 8]
    again = CollapseTrace.from_dict(trace.to_dict())
    assert (again.growth, again.eigenvalues) == (trace.growth, trace.eigenvalues)


class Planted:
    """An eigenvalue that grows by 10 % a look; with ``identity`` all edges turn to Identity before the ninth look."""

    def __init__(self, state: SearchState, identity: bool) -> None:
        self.state = state
        self.identity = identity
        self.seen: list[list[Tensor]] = []

    def __call__(self, _start: list[Tensor] | None) -> tuple[float, list[Tensor]]:
        self.seen.append([a.detach().clone() for a in self.state.model.arch_parameters()])
        if self.identity and len(self.seen) == WINDOW + DELAY - 1:
            with torch.no_grad():
                for edge in self.state.model.edges:
                    edge.op_logits[0] += 50.0
        return 1.1 ** len(self.seen), []


def searched(
    monkeypatch: pytest.MonkeyPatch, *, identity: bool = True, **changes
) -> tuple[SearchState, Planted, SearchState]:
    """Two epochs of 15 weight and alpha steps under a planted eigenvalue; the state after one and after both."""
    settings = {"epochs": 2, "warmup_epochs": 0, "architecture_update_freq": 1, "collapse_every": 1}
    config = DARTSTrainConfig(**{**settings, **changes})
    source = WindowDataset(torch.randn(400, C, generator=torch.Generator().manual_seed(0)), L, H)
    data = SearchData.split(source, source, config, batch_size=8)
    limits = LoopLimits(batch_size=8, max_train_batches=15, max_val_batches=1)
    states = []
    for until in (1, 2):
        state = new_state(network(), config)
        planted = Planted(state, identity)
        monkeypatch.setattr(CollapseWatch, "eigenvalue", lambda self, start, planted=planted: planted(start))
        states.append(search_epochs(state, data, config, limits, until=until))
    return states[0], planted, states[1]


def test_growth_stops_the_alphas_inside_an_epoch_and_takes_them_back(monkeypatch: pytest.MonkeyPatch) -> None:
    first, planted, both = searched(monkeypatch)
    fired = WINDOW + DELAY  # 1.1^4 = 1.46: as soon as there are two averages
    for state in (first, both):
        assert state.collapse.stopped_at == state.alpha_steps == fired
        assert len(planted.seen) == fired
        kept = list(state.model.arch_parameters())
        assert all(torch.equal(a, b) for a, b in zip(kept, planted.seen[-1 - DELAY], strict=True))
        assert not all(torch.equal(a, b) for a, b in zip(kept, planted.seen[-1], strict=True))
        best = network()
        best.load_state_dict(state.best_state)
        assert all(torch.equal(a, b) for a, b in zip(kept, best.arch_parameters(), strict=True))
    assert both.step == 2 * first.step
    weights = list(both.model.weight_parameters())
    assert any(not torch.equal(a, b) for a, b in zip(weights, first.model.weight_parameters(), strict=True))


def test_growth_alone_is_recorded_only(monkeypatch: pytest.MonkeyPatch) -> None:
    _, _, state = searched(monkeypatch, identity=False, arch_learning_rate=1e-5)
    assert state.collapse.growth > 1.3
    assert state.collapse.stopped_at is None


def test_the_watch_can_be_told_to_record_only_or_to_look_away(monkeypatch: pytest.MonkeyPatch) -> None:
    _, planted, state = searched(monkeypatch, collapse_growth=None)
    assert state.collapse.stopped_at is None
    assert len(planted.seen) == len(state.collapse.eigenvalues) == state.alpha_steps == 30
    _, planted, state = searched(monkeypatch, collapse_every=0)
    assert planted.seen == state.collapse.eigenvalues == []
    assert state.history["eigenvalues"] == [None, None]
    _, _, state = searched(monkeypatch, collapse_every=None, collapse_growth=None)
    assert state.collapse.alpha_steps == [5, 10, 15, 20, 25, 30]  # a short search is not slowed down by looks
    for wrong in ({"collapse_growth": 0.5}, {"collapse_every": -1}):
        with pytest.raises(InvalidArgument, match=next(iter(wrong))):
            DARTSTrainConfig(**wrong)


def test_a_state_hands_on_what_the_watch_has_seen() -> None:
    config = DARTSTrainConfig(epochs=2, warmup_epochs=0, architecture_update_freq=1, collapse_every=2)
    source = WindowDataset(torch.randn(300, C, generator=torch.Generator().manual_seed(0)), L, H)
    data = SearchData.split(source, source, config, batch_size=8)
    limits = LoopLimits(batch_size=8, max_train_batches=6, max_val_batches=1)
    whole = search_epochs(new_state(network(), config), data, config, limits)
    half = search_epochs(new_state(network(), config), data, config, limits, until=1)
    rest = new_state(network(3), config)
    rest.load_dict(half.to_dict())
    search_epochs(rest, data, config, limits)
    assert len(whole.collapse.eigenvalues) == 6
    assert whole.collapse.eigenvalues == rest.collapse.eigenvalues
    assert whole.history["entropy"] == rest.history["entropy"]


def test_the_result_records_every_epoch() -> None:
    config = DARTSTrainConfig(epochs=3, warmup_epochs=0, architecture_update_freq=1, collapse_every=3)
    source = WindowDataset(torch.randn(300, C, generator=torch.Generator().manual_seed(0)), L, H)
    limits = LoopLimits(batch_size=8, max_train_batches=6, max_val_batches=1)
    report = train_darts_model(network(), source, source, config, limits)["collapse"]
    assert [len(report[key]) for key in ("eigenvalues", "eigenvalue_growth", "identity_share", "entropy")] == [3] * 4
    assert [step for step, _ in report["looks"]] == [3, 6, 9, 12, 15, 18]
    assert report["eigenvalues"] == [report["looks"][place][1] for place in (1, 3, 5)]
    assert all(value != 0.0 for value in report["eigenvalues"])
    assert report["stopped_at"] is None


def test_share_of_identity_and_entropy() -> None:
    model = network(spread=0.0)
    assert alpha_summary(model)["entropy"] == pytest.approx(1.0, abs=0.01)
    with torch.no_grad():
        for edge, place in zip(model.cells[0].edges, (0, 1, 0), strict=True):
            edge.op_logits[place] = 50.0
    summary = alpha_summary(model)
    assert summary["identity_share"] == pytest.approx(2 / 3)
    assert summary["entropy"] < 0.2
