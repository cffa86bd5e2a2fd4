"""The proxies that are computed by name, and the gradient scores, against naive float64 twins on real networks.

Three architectures of each mode. The twins loop over samples, use ``autograd.grad`` and hooks only, and share no code
with the passes.
"""

from __future__ import annotations

import copy
import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from foreblocks.darts import TimeSeriesDARTS
from foreblocks.darts._core.seeding import generator
from foreblocks.darts.architecture.cell import DARTSCell
from foreblocks.darts.architecture.sequence import Residual
from foreblocks.darts.architecture.spec import ARCH_MODES
from foreblocks.darts.architecture.stem import Stem
from foreblocks.darts.ops.blocks import StepConv, StepConvTranspose, TimeLinear
from foreblocks.darts.search.proxies import evaluate_proxies, get_proxy, proxy_names, prunable_weights, register_block

B, L, C, H = 6, 16, 2, 3
VARIANTS: dict[str, dict[str, Any]] = {
    "mixed": {"channel_mode": "mixed", "patch_len": 1, "head": "flatten", "selected_ops": ["Identity", "GRN"]},
    "patches": {
        "channel_mode": "independent", "patch_len": 8, "head": "last", "series_norm": "last", "num_nodes": 3,
        "transformer_self_attention_type": "linear", "selected_ops": ["TimeConv", "DLinear"],
    },
    "two cells": {
        "channel_mode": "mixed", "patch_len": 8, "head": "factorised", "num_cells": 2, "series_norm": "none",
        "transformer_self_attention_type": "cosine", "selected_ops": ["Identity", "TCN", "ResidualMLP"],
    },
}  # fmt: skip
CASES = [(mode, name) for mode in ARCH_MODES for name in VARIANTS]
NAMES = ["snip", "grad_norm", "l2", *proxy_names(default=False)]


def build(mode: str, name: str) -> TimeSeriesDARTS:
    settings = {
        "input_dim": C, "hidden_dim": 4, "latent_dim": 4, "forecast_horizon": H, "seq_length": L, "num_cells": 1,
        "num_nodes": 2, "arch_mode": mode, **VARIANTS[name],
    }  # fmt: skip
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return TimeSeriesDARTS(**settings)


def data(batch: int = B) -> tuple[Tensor, Tensor]:
    g = torch.Generator().manual_seed(1)
    return torch.randn(batch, L, C, generator=g).cumsum(dim=1), torch.randn(batch, H, C, generator=g)


def sample_gradients(net: nn.Module, x: Tensor, y: Tensor) -> list[list[Tensor]]:
    """Gradients of each sample's own loss, one list of tensors a sample, unused weights as zeros."""
    weights = [w for _, w in prunable_weights(net)]
    rows = []
    for n in range(len(x)):
        loss = (net(x[n : n + 1]) - y[n : n + 1]).square().mean()
        grads = torch.autograd.grad(loss, weights, allow_unused=True)
        rows.append([torch.zeros_like(w) if g is None else g for g, w in zip(grads, weights, strict=True)])
    return rows


def twin_snip(net: nn.Module, x: Tensor, y: Tensor) -> float:
    means = [torch.stack(g).mean(dim=0) for g in zip(*sample_gradients(net, x, y), strict=True)]
    return sum(float((g * w.detach()).abs().sum()) for g, (_, w) in zip(means, prunable_weights(net), strict=True))


def twin_grad_norm(net: nn.Module, x: Tensor, y: Tensor) -> float:
    return sum(float(torch.stack(g).mean(dim=0).norm()) for g in zip(*sample_gradients(net, x, y), strict=True))


def twin_l2(net: nn.Module, x: Tensor, y: Tensor) -> float:
    return sum(math.sqrt(float(w.detach().square().sum())) for _, w in prunable_weights(net))


def twin_grad_sign(net: nn.Module, x: Tensor, y: Tensor) -> float:
    total = 0.0
    for grads in zip(*sample_gradients(net, x, y), strict=True):
        total += float(np.abs(sum(np.sign(g.numpy()) for g in grads)).sum())
    return total


def twin_zico(net: nn.Module, x: Tensor, y: Tensor) -> float:
    total = 0.0
    for grads in zip(*sample_gradients(net, x, y), strict=True):
        halves = [np.mean([g.numpy() for g in part], axis=0) for part in (grads[: B // 2], grads[B // 2 :])]
        mean, deviation = np.mean(np.abs(halves), axis=0), np.std(halves, axis=0)
        inside = deviation > 0
        if inside.any():
            total += float(np.log((mean[inside] / deviation[inside]).sum()))
    return total


def twin_meco(net: nn.Module, x: Tensor, y: Tensor) -> float:
    dims = {nn.Linear: -1, nn.Conv1d: 1, nn.Conv2d: 1, StepConv: -1, StepConvTranspose: -1, TimeLinear: 1}
    maps: dict[str, list[np.ndarray]] = {}

    def hook(name: str, dim: int) -> Any:
        return lambda m, i, out: maps.setdefault(name, []).append(
            np.moveaxis(out.detach().numpy(), dim, 0).reshape(out.shape[dim], -1)
        )

    for name, module in net.named_modules():
        dim = next((dims[cls] for cls in dims if isinstance(module, cls)), None)
        if dim is not None:
            module.register_forward_hook(hook(name, dim))
    net(x[:1])
    total = 0.0
    for parts in maps.values():
        features = np.concatenate(parts, axis=1)
        if 1 < features.shape[0] < features.shape[1] and (features.std(axis=1) > 0).all():
            total += max(float(np.linalg.eigvalsh(np.corrcoef(features))[0]), 0.0)
    return total


def block_calls(net: nn.Module, x: Tensor) -> list[tuple[Tensor, Tensor]]:
    calls: list[tuple[Tensor, Tensor]] = []
    for module in net.modules():
        if isinstance(module, (Stem, DARTSCell, Residual)):
            module.register_forward_hook(lambda m, i, out: calls.append((i[0], out)))
    net(x.clone().requires_grad_(True))
    return calls


def entropies(net: nn.Module, x: Tensor) -> list[float]:
    values = []
    for _, out in block_calls(net, x):
        rows = out.detach().numpy().reshape(-1, out.shape[-1])
        spectrum = np.linalg.svd(np.cov(rows.T, bias=True), compute_uv=False)
        share = spectrum / spectrum.sum()
        values.append(-float((share * np.log(share + 1e-8)).sum()))
    return values


def twin_expressivity(net: nn.Module, x: Tensor, y: Tensor) -> float:
    return sum(entropies(net, x))


def twin_progressivity(net: nn.Module, x: Tensor, y: Tensor) -> float:
    return float(np.diff(entropies(net, x)).min())


def twin_trainability(net: nn.Module, x: Tensor, y: Tensor) -> float:
    terms = []
    for index, (source, out) in enumerate(block_calls(net, x)):
        if source.shape != out.shape:
            continue
        probe = 2.0 * torch.randint(0, 2, out.shape, generator=generator("trainability", index)).double() - 1.0
        back = torch.autograd.grad((out * probe).sum(), source, retain_graph=True)[0]
        jacobian = np.zeros((out.shape[-1], out.shape[-1]))
        for u, v in zip(back.reshape(-1, out.shape[-1]), probe.reshape(-1, out.shape[-1]), strict=True):
            jacobian += np.outer(u.numpy(), v.numpy())
        s = np.linalg.svd(jacobian / (out.numel() // out.shape[-1]), compute_uv=False)[0]
        terms.append(2.0 - s - 1.0 / (s + 1e-6))
    return float(np.mean(terms))


TWINS = {name.removeprefix("twin_"): function for name, function in globals().items() if name.startswith("twin_")}


def test_every_proxy_by_name_has_a_twin() -> None:
    assert set(TWINS) == set(NAMES)
    assert {"zico", "expressivity", "progressivity", "trainability", "meco", "grad_sign"} == set(
        proxy_names(default=False)
    )
    assert all(not get_proxy(name).contract and get_proxy(name).weight == 0.0 for name in proxy_names(default=False))


@pytest.mark.parametrize(("mode", "variant"), CASES)
def test_agrees_with_its_twin(mode: str, variant: str) -> None:
    net = build(mode, variant)
    x, y = data()
    report = evaluate_proxies(net, x, y, names=NAMES)
    for name, naive in TWINS.items():
        exact = copy.deepcopy(net).double().eval()
        # A step in expressivity is a small difference: as exact as the entropies that it is made of.
        slack = 1e-4 if name == "progressivity" else 0.0
        assert name in report.values, report.errors
        assert report.values[name] == pytest.approx(naive(exact, x.double(), y.double()), rel=1e-4, abs=slack), name
        assert report.values[name] != 0.0


def test_they_are_off_unless_named() -> None:
    net, (x, y) = build("encoder_only", "mixed"), data()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    report = evaluate_proxies(net, x, y)
    assert not set(proxy_names(default=False)) & (set(report.values) | set(report.errors))
    first = evaluate_proxies(net, x, y, names=NAMES)
    assert first == evaluate_proxies(net, x, y, names=NAMES)
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    assert not any(module._forward_hooks for module in net.modules())


class Small(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.time = nn.Linear(L, H)

    def forward(self, x: Tensor) -> Tensor:
        return self.time(x.mT).mT


class Flat(nn.Module):
    """A registered block without effect, and one that makes its features constant."""

    def __init__(self, constant: bool) -> None:
        super().__init__()
        self.constant = constant

    def forward(self, x: Tensor) -> Tensor:
        return torch.ones_like(x) if self.constant else x * 1.0


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("expressivity", "no registered block"),
        ("progressivity", "no registered block"),
        ("trainability", "no block"),
        ("meco", "no layer has more positions"),
    ],
)
def test_a_missing_value_has_a_reason(name: str, reason: str) -> None:
    report = evaluate_proxies(Small(), *data(), names=[name])
    assert report.values == {}
    assert reason in report.errors[name]


def test_one_window_has_no_two_batches() -> None:
    report = evaluate_proxies(Small(), *data(1), names=["zico", "grad_sign"])
    assert "two samples" in report.errors["zico"]
    assert report.values["grad_sign"] > 0


def test_equal_halves_have_no_deviation() -> None:
    x, y = data(1)
    report = evaluate_proxies(Small(), x.repeat(4, 1, 1), y.repeat(4, 1, 1), names=["zico"])
    assert "no gradient differs" in report.errors["zico"]


def test_an_identity_block_is_perfectly_trainable() -> None:
    register_block(Flat)
    x, y = data(64)
    report = evaluate_proxies(nn.Sequential(Flat(False), Flat(False), Small()), x, y, names=NAMES)
    # The probe's own covariance is the identity up to sampling noise, so s is about 1 and the score about 0.
    assert report.values["trainability"] == pytest.approx(0.0, abs=0.02)
    assert report.values["progressivity"] == pytest.approx(0.0, abs=1e-6)
    one = evaluate_proxies(nn.Sequential(Flat(False), Small()), x, y, names=NAMES)
    assert "two blocks" in one.errors["progressivity"]
    flat = evaluate_proxies(nn.Sequential(Flat(True), Small()), x, y, names=NAMES)
    assert "constant" in flat.errors["expressivity"]
