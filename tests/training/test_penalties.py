"""Every penalty against its closed form in float64, its sign, and a finite gradient for every logit."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from foreblocks.darts import TimeSeriesDARTS
from foreblocks.darts._core.errors import InvalidArgument
from foreblocks.darts.architecture.relax import RELAXATIONS, EdgeLogits, build_relaxation
from foreblocks.darts.config import DARTSTrainConfig
from foreblocks.darts.ops.registry import get_op
from foreblocks.darts.training.penalties import PENALTIES, EdgeTable, IdentityCap, Sharpening, UsageBalance
from foreblocks.darts.training.regularize import ArchitecturePenalty

OPS = ("Identity", "TimeConv", "GRN", "DLinear")
MEMBER = torch.tensor([[1, 0], [0, 1], [1, 0], [0, 1]], dtype=torch.float64)
ALL = {**PENALTIES, "usage_balance": UsageBalance(), "identity_cap": IdentityCap(0.1), "sharpening": Sharpening(0.2)}


def table(
    op: Tensor, *, progress: float = 0.6, family: Tensor | None = None, alive: Tensor | None = None, name="softmax"
) -> EdgeTable:
    alive = torch.ones(op.shape, dtype=torch.bool) if alive is None else alive
    return EdgeTable(EdgeLogits(op, family, MEMBER, alive), build_relaxation(name), OPS, progress)


def random_logits(edges: int = 3, seed: int = 0) -> Tensor:
    return torch.randn(edges, 4, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def naive(name: str, z: Tensor, progress: float) -> float:
    """The definitions once more, in plain Python floats."""
    rows = z.tolist()
    edges = [[math.exp(v) / sum(math.exp(u) for u in row) for v in row] for row in rows]
    entropies = [-sum(p * math.log(p) for p in edge) / math.log(4) for edge in edges]
    entropy = sum(entropies) / len(edges)
    flat = [v for row in rows for v in row]
    mean = [sum(column) / len(edges) for column in zip(*edges, strict=True)]

    def cosine(a: list[float], b: list[float]) -> float:
        return sum(x * y for x, y in zip(a, b, strict=True)) / math.hypot(*a) / math.hypot(*b)

    def gate(v: float) -> float:
        return 1 / (1 + math.exp(-v))

    pairs = [(a, b) for i, a in enumerate(edges) for j, b in enumerate(edges) if i != j]
    ramp = 0.5 - 0.5 * math.cos(math.pi * min(1.0, max(0.0, (progress - 0.4) / 0.3)))
    return {
        "entropy": 1 - entropy,
        "kl_divergence": (1 - progress) * sum(p * math.log(4 * p) for e in edges for p in e) / len(edges) / math.log(4),
        "l2_norm": sum(v * v for v in flat) / len(flat),
        "diversity": sum(cosine(a, b) for a, b in pairs) / len(pairs),
        "sparsity": min(1.0, progress / 0.8) * entropy,
        "efficiency": sum(p * get_op(op).cost for e in edges for p, op in zip(e, OPS, strict=True)) / len(edges),
        "scheduled": (2 * ramp - 1) * entropy,
        "beta_darts": progress * sum(math.log(sum(math.exp(v) for v in row)) for row in rows) / len(rows),
        "zero_one": 1 - sum(4 * (gate(v) - 0.5) ** 2 for v in flat) / len(flat),
        "concentration": sum((v if v > 0 else math.exp(v) - 1) ** 2 for v in flat) / len(flat),
        "usage_balance": 1 + sum(p * math.log(p) for p in mean) / math.log(4),
        "identity_cap": max(0.0, mean[0] - 0.1),
        "sharpening": max(0.0, progress - 0.2) / 0.8 * entropy,
    }[name]


@pytest.mark.parametrize("progress", [0.0, 0.55, 1.0])
@pytest.mark.parametrize("name", ALL)
def test_equals_its_closed_form(name: str, progress: float) -> None:
    z = random_logits()
    value = ALL[name](table(z, progress=progress))
    assert float(value) == pytest.approx(naive(name, z, progress), abs=1e-10)


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("relaxation", RELAXATIONS)
def test_gradients_are_right_and_finite(name: str, relaxation: str) -> None:
    """Against central differences, also where ops are pruned; pruned logits get none."""
    alive = torch.ones(3, 4, dtype=torch.bool)
    alive[1, :2] = False
    alive[2] = torch.tensor([False, True, False, False])
    family = 0.3 * random_logits(seed=1)[:, :2]

    def loss(z: Tensor) -> Tensor:
        return ALL[name](table(z, family=family, alive=alive, name=relaxation))

    z = random_logits().requires_grad_()
    value = loss(z)
    assert torch.isfinite(value)
    (slope,) = torch.autograd.grad(value, z, allow_unused=True, materialize_grads=True)
    step = 1e-6
    for edge in range(3):
        for op in range(4):
            moved = torch.zeros_like(z)
            moved[edge, op] = step
            wanted = float((loss(z.detach() + moved) - loss(z.detach() - moved)) / (2 * step))
            assert float(slope[edge, op]) == pytest.approx(wanted, abs=1e-6), (edge, op)
    if name != "l2_norm":
        assert (slope[~alive] == 0).all()


@pytest.mark.parametrize(
    ("name", "progress", "sign"),
    [
        ("entropy", 0.5, 1), ("kl_divergence", 0.5, 1), ("sparsity", 0.5, -1), ("sharpening", 0.5, -1),
        ("scheduled", 0.1, 1), ("scheduled", 0.9, -1), ("l2_norm", 0.5, 1), ("beta_darts", 0.5, 1),
        ("zero_one", 0.5, -1), ("concentration", 0.5, 1), ("identity_cap", 0.5, 1), ("usage_balance", 0.5, 1),
    ],
)  # fmt: skip
def test_the_sign_is_the_documented_one(name: str, progress: float, sign: int) -> None:
    """Raising one logit of an undecided edge: what keeps choices open says no (+1), what decides says yes (-1)."""
    flat, raised = torch.zeros(2, 4, dtype=torch.float64), torch.zeros(2, 4, dtype=torch.float64)
    raised[:, 0] = 2.0
    change = float(ALL[name](table(raised, progress=progress)) - ALL[name](table(flat, progress=progress)))
    assert change * sign > 1e-3


def test_beta_darts_pushes_by_the_softmax() -> None:
    z = random_logits().requires_grad_()
    PENALTIES["beta_darts"](table(z, progress=0.5)).backward()
    torch.testing.assert_close(z.grad, 0.5 * torch.softmax(z.detach(), dim=1) / 3)


def network(relaxation: str = "softmax") -> TimeSeriesDARTS:
    torch.manual_seed(0)
    return TimeSeriesDARTS(
        input_dim=2, hidden_dim=8, latent_dim=8, forecast_horizon=4, seq_length=16, num_cells=1, num_nodes=3,
        selected_ops=list(OPS), arch_mode="encoder_only", relaxation=relaxation,
    )  # fmt: skip


OFF = {
    "edge_diversity_weight": 0.0,
    "edge_usage_balance_weight": 0.0,
    "edge_identity_cap_weight": 0.0,
    "edge_sharpening_max_weight": 0.0,
}


def penalty(model: TimeSeriesDARTS, progress: float, **settings) -> float:
    return float(ArchitecturePenalty(DARTSTrainConfig(**OFF, **settings))(model, progress).detach())


def test_the_penalty_is_the_weighted_sum_of_its_terms() -> None:
    model = network()
    types = ["entropy", "efficiency"]
    alone = [penalty(model, 0.7, regularization_types=[name], regularization_weights=[1.0]) for name in types]
    decay = penalty(model, 0.7, beta_darts_weight=1.0)
    assert decay > 0
    both = penalty(model, 0.7, regularization_types=types, regularization_weights=[0.5, 2.0], beta_darts_weight=3.0)
    assert both == pytest.approx(0.5 * alone[0] + 2.0 * alone[1] + 3.0 * decay, rel=1e-5)


@pytest.mark.parametrize(("relaxation", "type_"), [("fair", "zero_one"), ("drnas", "concentration")])
def test_a_relaxation_brings_its_own_penalty_unless_types_are_given(relaxation: str, type_: str) -> None:
    model = network(relaxation)
    with torch.no_grad():
        for alpha in model.arch_parameters():
            alpha.normal_()
    own = penalty(model, 0.5)
    weight = {"zero_one": 0.1, "concentration": 1e-3}[type_]
    named = penalty(model, 0.5, regularization_types=[type_], regularization_weights=[weight])
    assert own == pytest.approx(named)
    assert own > 0
    assert penalty(model, 0.5, regularization_types=[]) == 0.0
    assert penalty(network(), 0.5) == 0.0


def test_bad_types_and_weights_are_named() -> None:
    with pytest.raises(InvalidArgument, match="Did you mean 'entropy'"):
        ArchitecturePenalty(DARTSTrainConfig(regularization_types=["entropi"]))
    with pytest.raises(InvalidArgument, match="2 entries for 1"):
        ArchitecturePenalty(DARTSTrainConfig(regularization_types=["entropy"], regularization_weights=[1.0, 2.0]))
