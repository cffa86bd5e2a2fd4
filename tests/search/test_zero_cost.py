"""Screening of one candidate: result shapes, honesty about failures, one evaluation, spread windows."""

import math

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from foreblocks.darts import DARTSTrainer
from foreblocks.darts._core.errors import DataError, InvalidArgument
from foreblocks.darts.architecture.spec import Macro
from foreblocks.darts.data.windows import WindowDataset
from foreblocks.darts.search import settings
from foreblocks.darts.search.nas_metrics import Config, Result
from foreblocks.darts.search.proxies import base_weights, evaluate_proxies, proxy_names
from foreblocks.darts.search.scoring import score_from_metrics
from foreblocks.darts.search.weight_schemes import build_weight_schemes
from foreblocks.darts.search.zero_cost import (
    evaluate_zero_cost_metrics,
    evaluate_zero_cost_metrics_raw,
    score_batch,
    screening_windows,
)

LENGTH, CHANNELS, HORIZON = 10, 2, 3
CONTRACT = set(proxy_names(contract=True))


class Counted(nn.Module):
    """Counts the forward passes of every copy of itself."""

    calls = 0

    def __init__(self, *, activation=True):
        super().__init__()
        self.first = nn.Linear(LENGTH, 8)
        self.act = nn.GELU() if activation else nn.Identity()
        self.second = nn.Linear(8, HORIZON)

    def forward(self, x):
        Counted.calls += 1
        return self.second(self.act(self.first(x.transpose(1, 2)))).transpose(1, 2)


def net(**kwargs):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return Counted(**kwargs)


def tensors(count=40):
    g = torch.Generator().manual_seed(2)
    return torch.randn(count, LENGTH, CHANNELS, generator=g), torch.randn(count, HORIZON, CHANNELS, generator=g)


def loader(batch_size=16, **kwargs):
    return DataLoader(TensorDataset(*tensors()), batch_size=batch_size, **kwargs)


def forwards(**kwargs):
    Counted.calls = 0
    evaluate_zero_cost_metrics(net(), loader(), **kwargs)
    return Counted.calls


def test_ablation_evaluates_once():
    plain = forwards()
    assert 0 < plain <= 4
    assert forwards(ablation=True, n_random=50) == plain
    assert forwards(num_batches=2) == 2 * plain


def test_result_shape():
    result = evaluate_zero_cost_metrics(net(), loader(), max_samples=8)
    assert set(result["metrics"]) == CONTRACT
    assert result["success_rates"] == dict.fromkeys(result["metrics"], True)
    assert result["error_messages"] == {}
    assert isinstance(result["config"], Config)
    assert result["config"].weights == base_weights()
    assert result["aggregate_score"] == pytest.approx(score_from_metrics(result["metrics"]))
    assert set(result["extras"]) == {"grad_norm", "l2"}
    x, y = tensors()
    expected = evaluate_proxies(net(), x[:8], y[:8]).values
    assert {**result["metrics"], **result["extras"]} == expected


def test_further_proxies_by_name():
    result = evaluate_zero_cost_metrics(net(), loader(), extra_proxies=["zico", "trainability"])
    assert set(result["metrics"]) == CONTRACT
    assert set(result["extras"]) == {"grad_norm", "l2", "zico"}
    assert "no block" in result["extra_errors"]["trainability"]
    raw = evaluate_zero_cost_metrics_raw(net(), loader(), extra_proxies=["zico", "trainability"])
    assert raw["extras"]["zico"] == result["extras"]["zico"]
    assert set(raw["extra_errors"]) == {"trainability"}
    with pytest.raises(InvalidArgument, match="Did you mean 'zico'"):
        evaluate_zero_cost_metrics(net(), loader(), extra_proxies=["zicko"])


def test_score_batch_uses_all_windows_and_weights():
    x, y = tensors()
    result = score_batch(net(), x, y, weights={"snip": 1.0})
    assert result["metrics"] == {n: v for n, v in evaluate_proxies(net(), x, y).values.items() if n in CONTRACT}
    assert result["aggregate_score"] == pytest.approx(math.log1p(result["metrics"]["snip"]))
    assert result["config"].max_samples == 40


def test_ablation_shape():
    result = evaluate_zero_cost_metrics(net(), loader(), ablation=True, n_random=2, random_sigma=0.3, seed=5)
    schemes = build_weight_schemes(2, 0.3, 5)
    assert result["ablation"] is True
    assert result["schemes"] == list(schemes)
    assert result["base_weights"] == base_weights()
    plain = evaluate_zero_cost_metrics(net(), loader())
    assert result["per_scheme"]["baseline"]["aggregate_score"] == plain["aggregate_score"]
    for name, weights in schemes.items():
        row = result["per_scheme"][name]
        assert set(row) == {"aggregate_score", "metrics", "success_rates"}
        assert row["aggregate_score"] == pytest.approx(score_from_metrics(plain["metrics"], weights))


def test_raw_metrics_are_means_over_batches():
    raw = evaluate_zero_cost_metrics_raw(net(), loader(), max_samples=16, num_batches=5)
    x, y = tensors()
    parts = [evaluate_proxies(net(), x[i : i + 16], y[i : i + 16]).values for i in (0, 16, 32)]
    assert set(raw["raw_metrics"]) == CONTRACT
    assert raw["raw_metrics"]["snip"] == pytest.approx(sum(p["snip"] for p in parts) / 3)
    assert raw["success_rates"] == dict.fromkeys(raw["raw_metrics"], 1.0)
    assert raw["errors"] == {}
    assert raw["base_weights"] == base_weights()


def test_failed_metric_is_absent_never_zero():
    model = net(activation=False)
    result = evaluate_zero_cost_metrics(model, loader())
    assert "naswot" not in result["metrics"]
    assert result["success_rates"]["naswot"] is False
    assert "no activation function" in result["error_messages"]["naswot"]
    assert set(result["error_messages"]) == CONTRACT - set(result["metrics"])
    raw = evaluate_zero_cost_metrics_raw(model, loader())
    assert "naswot" not in raw["raw_metrics"]
    assert raw["success_rates"]["naswot"] == 0.0
    assert raw["errors"]["naswot"]
    ablation = evaluate_zero_cost_metrics(model, loader(), ablation=True, n_random=0)
    assert ablation["per_scheme"]["subset_act"]["success_rates"]["naswot"] is False
    assert "naswot" in ablation["error_messages"]


def test_a_metric_that_fails_on_some_batches_says_so():
    x, y = tensors(9)
    data = DataLoader(TensorDataset(x, y), batch_size=8)  # the last batch has one sample: no correlation
    raw = evaluate_zero_cost_metrics_raw(net(), data, num_batches=2)
    assert raw["success_rates"]["jacobian"] == 0.5
    assert "two samples" in raw["errors"]["jacobian"]
    expected = evaluate_proxies(net(), x[:8], y[:8]).values["jacobian"]
    assert raw["raw_metrics"]["jacobian"] == pytest.approx(expected)
    result = evaluate_zero_cost_metrics(net(), data, num_batches=2)
    assert result["success_rates"]["jacobian"] is True
    assert "jacobian" not in result["error_messages"]


def test_outliers_are_clipped():
    x, y = tensors(160)
    y[:16] *= 1e4
    data = DataLoader(TensorDataset(x, y), batch_size=16)
    clipped = evaluate_zero_cost_metrics(net(), data, num_batches=10)["metrics"]["snip"]
    raw = evaluate_zero_cost_metrics_raw(net(), data, num_batches=10)["raw_metrics"]["snip"]
    assert clipped < raw / 100


@pytest.mark.parametrize("shuffle", [False, True])
def test_repeats_and_leaves_the_random_state_alone(shuffle):
    before = torch.get_rng_state()
    model = net().train()
    first = evaluate_zero_cost_metrics(model, loader(shuffle=shuffle))
    assert torch.equal(before, torch.get_rng_state())
    assert model.training
    torch.rand(5)
    assert evaluate_zero_cost_metrics(model, loader(shuffle=shuffle)) == first


def test_a_dataset_is_read_in_batches():
    first = next(iter(loader(32)))
    from_data = evaluate_zero_cost_metrics(net(), TensorDataset(*tensors()), max_samples=32)
    assert from_data["metrics"] == evaluate_zero_cost_metrics(net(), [first], max_samples=32)["metrics"]
    with pytest.raises(DataError, match="dataloader=None must be a DataLoader, a Dataset or batches"):
        evaluate_zero_cost_metrics(net(), None)


def test_bad_batches():
    x, y = tensors()
    assert evaluate_zero_cost_metrics_raw(net(), [])["errors"] == {"_global": "the loader yields no batch"}
    with pytest.raises(DataError, match="no batch"):
        evaluate_zero_cost_metrics(net(), [])
    with pytest.raises(DataError, match="with targets"):
        evaluate_zero_cost_metrics(net(), [(x,)])
    with pytest.raises(DataError, match="with targets"):
        evaluate_zero_cost_metrics(net(), [x])
    with pytest.raises(DataError, match=r"x \[B, L, C\]"):
        evaluate_zero_cost_metrics(net(), [(x[0], y[0])])
    with pytest.raises(DataError, match="not finite"):
        evaluate_zero_cost_metrics(net(), [(x / 0.0, y)])
    with pytest.raises(InvalidArgument, match="max_samples=0"):
        evaluate_zero_cost_metrics(net(), [(x, y)], max_samples=0)


class Rows:
    """A window source whose windows hold their own index."""

    lookback, horizon, channels, starts = LENGTH, HORIZON, CHANNELS, None

    def __init__(self, count):
        self.count = count

    def __len__(self):
        return self.count

    def gather(self, indices):
        index = indices.float().view(-1, 1, 1)
        return index.expand(-1, LENGTH, CHANNELS), index.expand(-1, HORIZON, CHANNELS)


@pytest.mark.parametrize(("total", "count"), [(1000, 64), (65, 64), (64, 64), (10, 64), (1, 1)])
def test_screening_windows_take_one_of_each_stratum(total, count):
    windows = screening_windows(Rows(total), count, seed=3)
    x, y = windows.x, windows.y
    index = x[:, 0, 0]
    size = min(count, total)
    assert torch.equal(index, y[:, 0, 0])
    borders = torch.arange(size + 1) * total // size
    assert torch.equal(torch.bucketize(index, borders, right=True) - 1, torch.arange(size))
    assert torch.equal(screening_windows(Rows(total), count, seed=3).x, x)
    if total == 1000:
        assert not torch.equal(screening_windows(Rows(total), count, seed=4).x, x)


def test_screening_windows_need_data():
    with pytest.raises(DataError, match="no window"):
        screening_windows(Rows(0), 4, seed=0)


def test_config_and_result():
    assert Config().weights == base_weights()
    assert Config().jacobian_probes == 2
    assert Result("snip", None, success=False, error="why").value is None


def test_wide_candidates_are_screened_on_fewer_windows(caplog):
    """The passes of a dense network over 64 windows of 321 channels took 12 GB; all candidates get the same number."""
    narrow, wide = Macro(7, 96, 24, hidden_dim=32), Macro(321, 96, 24, hidden_dim=32, channel_mode="independent")
    assert settings.screening_count(32, 1, [narrow]) == 64
    assert settings.screening_count(100, 2, [narrow]) == 200
    assert settings.screening_count(64, 1, []) == 64
    with caplog.at_level("INFO", logger="foreblocks"):
        assert settings.screening_count(32, 1, [narrow, wide]) == settings.FEWEST_SCREENING_WINDOWS == 8
    assert "screening on 8 windows instead of 64" in caplog.text
    tokens = Macro(321, 96, 24, hidden_dim=32, patch_len=16, channel_mode="independent")
    found = settings.screening_count(32, 1, [tokens])
    assert 8 < found < 64
    assert found * tokens.tokens_per_window * 32 <= settings.SCREENING_VALUES


def test_a_search_says_on_how_many_windows_it_screened(monkeypatch):
    values = torch.randn(200, 2, generator=torch.Generator().manual_seed(0))
    parts = [WindowDataset(values, 12, 2, first=a, last=b) for a, b in ((0, 120), (108, 160), (148, 200))]
    monkeypatch.setattr(settings, "SCREENING_VALUES", 1)
    found = DARTSTrainer(2, [8], 2, 12, "cpu", ["Identity", "TimeConv"]).multi_fidelity_search(
        *parts, num_candidates=2, top_k=1, trial_steps=0, search_epochs=1, final_epochs=1, max_train_batches=1
    )
    assert found["search_config"]["screening_windows"] == settings.FEWEST_SCREENING_WINDOWS
