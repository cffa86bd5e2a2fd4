"""Every relaxation: valid weights, equal scale in training and eval, a gradient for every logit, and its price."""

from __future__ import annotations

import copy
import pickle
from collections import Counter

import pytest
import torch
from torch import Tensor

from foreblocks.darts import TimeSeriesDARTS
from foreblocks.darts._core.errors import InvalidArgument
from foreblocks.darts._core.seeding import seeded
from foreblocks.darts.architecture.derive import derive_network, derived_path
from foreblocks.darts.architecture.relax import PRUNED, RELAXATIONS, EdgeLogits, build_relaxation, concentration
from foreblocks.darts.config import DEFAULT_OPS
from foreblocks.darts.config import RELAXATIONS as NAMES

OPS = ["Identity", "TimeConv", "GRN", "DLinear", "Fourier"]
MEMBER = torch.tensor([[1, 0, 0], [0, 1, 0], [0, 1, 0], [0, 0, 1], [0, 0, 1]], dtype=torch.float64)
every_relaxation = pytest.mark.parametrize("name", RELAXATIONS)


def table(seed: int = 0, *, edges: int = 4, pruned: bool = True, floor: float = 0.03, scale: float = 1.0) -> EdgeLogits:
    draw = torch.Generator().manual_seed(seed)
    alive = torch.ones(edges, 5, dtype=torch.bool)
    if pruned:
        alive[1, [0, 3]] = False
        alive[2] = torch.tensor([False, False, True, False, False])
    return EdgeLogits(
        op=scale * torch.randn(edges, 5, generator=draw, dtype=torch.float64),
        family=scale * torch.randn(edges, 3, generator=draw, dtype=torch.float64),
        member=MEMBER,
        alive=alive,
        temperature=0.7,
        family_temperature=1.1,
        floor=floor,
    )


def network(name: str = "softmax", **changes) -> TimeSeriesDARTS:
    torch.manual_seed(0)
    settings = {
        "input_dim": 3, "hidden_dim": 8, "latent_dim": 8, "forecast_horizon": 5, "seq_length": 24, "num_cells": 2,
        "num_nodes": 4, "selected_ops": OPS, "arch_mode": "encoder_only", "relaxation": name, "dropout": 0.0,
    }  # fmt: skip
    return TimeSeriesDARTS(**{**settings, **changes})


def op_calls(model: TimeSeriesDARTS) -> Counter:
    """Count the calls of every op from now on, by (edge, op)."""
    calls: Counter = Counter()
    for number, edge in enumerate(model.edges):
        for name, op in edge.ops.items():
            op.register_forward_hook(lambda *_a, key=(number, name): calls.update([key]))
    return calls


def test_the_names_are_those_of_the_config() -> None:
    assert tuple(RELAXATIONS) == NAMES
    with pytest.raises(InvalidArgument, match="Did you mean 'softmax'"):
        build_relaxation("soft-max")


@every_relaxation
@pytest.mark.parametrize("scale", [0.0, 1.0, 40.0])
@pytest.mark.parametrize("training", [True, False])
def test_weights_and_probabilities_are_valid(name: str, scale: float, training: bool) -> None:
    edges = table(scale=scale)
    relaxation = build_relaxation(name)
    p = relaxation.probabilities(edges)
    assert (p >= 0).all()
    assert (p[~edges.alive] == 0).all()
    torch.testing.assert_close(p.sum(dim=1), torch.ones(4, dtype=torch.float64))
    with seeded("valid"):
        w, chosen = relaxation.weights(edges, training)
    assert ((w > -1e-9) & (w < 1 + 1e-9)).all()
    assert (w[~edges.alive] == 0).all()
    if name != "fair":
        torch.testing.assert_close(w.sum(dim=1), torch.ones(4, dtype=torch.float64))
    assert chosen is None or all(bool(edges.alive[e, k]) and float(w[e, k]) > 1 - 1e-9 for e, k in enumerate(chosen))


@every_relaxation
def test_training_and_eval_have_the_same_scale_in_expectation(name: str) -> None:
    edges = table()
    relaxation = build_relaxation(name)
    with seeded("scale"):
        draws = torch.stack([relaxation.weights(edges, True)[0] for _ in range(4000)])
    # GDAS samples an op with its probability; in eval it runs the most probable one, with the same total weight.
    wanted = relaxation.probabilities(edges) if name == "gdas" else relaxation.weights(edges, False)[0]
    error = 5 * draws.std(dim=0) / 4000**0.5 + 1e-9
    assert ((draws.mean(dim=0) - wanted).abs() <= error).all()
    torch.testing.assert_close(draws.mean(dim=0).sum(dim=1), relaxation.weights(edges, False)[0].sum(dim=1))


def test_softmax_equals_its_closed_form() -> None:
    edges = table(pruned=False)
    z = edges.op / 0.7 + torch.stack([edges.family[:, f] for f in (0, 1, 1, 2, 2)], dim=1) / 1.1
    p = z.exp() / z.exp().sum(dim=1, keepdim=True)
    wanted = 0.97 * p + 0.03 / 5
    for name in ("softmax", "pc", "gdas"):
        torch.testing.assert_close(build_relaxation(name).probabilities(edges), wanted, atol=1e-12, rtol=0)


def test_the_floor_of_an_edge_is_shared_by_its_living_ops() -> None:
    p = build_relaxation("softmax").probabilities(table(floor=0.3))
    assert float(p[1, [1, 2, 4]].min()) >= 0.1
    assert float(p[2, 2]) == pytest.approx(1.0, abs=1e-12)


def test_fair_gates_equal_their_closed_form_and_do_not_compete() -> None:
    edges = table(pruned=False)
    z = edges.op / 0.7 + edges.family @ MEMBER.T / 1.1
    w, _ = build_relaxation("fair").weights(edges, True)
    torch.testing.assert_close(w, 1 / (1 + (-z).exp()), atol=1e-12, rtol=0)
    raised = edges.op.clone()
    raised[0, 0] += 3.0
    other, _ = build_relaxation("fair").weights(EdgeLogits(raised, edges.family, MEMBER, edges.alive, 0.7, 1.1), True)
    assert float(other[0, 0]) > float(w[0, 0])
    torch.testing.assert_close(other[0, 1:], w[0, 1:])


@every_relaxation
def test_gradients_are_finite_however_far_the_logits_are(name: str) -> None:
    for low in (-12.0, -20.0, -100.0):
        logits = torch.randn(40, 5, generator=torch.Generator().manual_seed(0))
        logits[:, 1:3] = low
        logits[:4] = low
        logits.requires_grad_()
        edges = EdgeLogits(logits, None, torch.ones(5, 1), torch.ones(40, 5, dtype=torch.bool), temperature=0.3)
        with seeded("far"):
            weights, _ = build_relaxation(name).weights(edges, True)
        assert torch.isfinite(weights).all()
        (weights * torch.arange(5.0)).sum().backward()
        assert torch.isfinite(logits.grad).all()


def test_drnas_draws_a_dirichlet_with_pathwise_gradients() -> None:
    """Mean and variance of Dir(β), and ∂E[θ_k²]/∂β_j, against their closed forms."""
    edges = table(edges=3, pruned=False)
    z = edges.op + edges.family @ MEMBER.T
    beta = torch.where(z > 0, z + 1, z.exp())
    torch.testing.assert_close(concentration(edges), beta, atol=1e-12, rtol=0)
    total = beta.sum(dim=1, keepdim=True)
    logits = edges.op.clone().requires_grad_()
    free = EdgeLogits(logits.repeat(20_000, 1), edges.family.repeat(20_000, 1), MEMBER, edges.alive.repeat(20_000, 1))
    with seeded("dirichlet"):
        draws = build_relaxation("drnas").weights(free, True)[0].view(20_000, 3, 5)
    error = 5 / 20_000**0.5
    variance = beta * (total - beta) / (total**2 * (total + 1))
    assert ((draws.mean(dim=0) - beta / total).abs() < error * variance.sqrt() + 1e-9).all()
    torch.testing.assert_close(draws.var(dim=0), variance, atol=4e-3, rtol=0)
    draws.square().mean(dim=0).sum().backward()
    exact = z.clone().requires_grad_()
    b = torch.nn.functional.elu(exact) + 1
    s = b.sum(dim=1, keepdim=True)
    (b * (b + 1) / (s * (s + 1))).sum().backward()
    torch.testing.assert_close(logits.grad, exact.grad, atol=1e-2, rtol=0)


def test_gdas_backward_is_that_of_the_soft_sample() -> None:
    edges = table(pruned=False)
    logits = edges.op.clone().requires_grad_()
    free = EdgeLogits(logits, edges.family, MEMBER, edges.alive, 0.7, 1.1, 0.03)
    value = torch.arange(20, dtype=torch.float64).view(4, 5)
    with seeded("gdas"):
        w, chosen = build_relaxation("gdas").weights(free, True)
    (w * value).sum().backward()
    again = edges.op.clone().requires_grad_()
    with seeded("gdas"):
        gumbel = -torch.empty(4, 5, dtype=torch.float64).exponential_().log()
    p = torch.softmax(again / 0.7 + edges.family @ MEMBER.T / 1.1, dim=1)
    soft = torch.softmax(((0.97 * p + 0.006).log() + gumbel) / 0.7, dim=1)
    assert soft.argmax(dim=1).tolist() == chosen
    (soft * value).sum().backward()
    torch.testing.assert_close(logits.grad, again.grad, atol=1e-12, rtol=0)


@every_relaxation
def test_the_gradient_reaches_every_alpha(name: str) -> None:
    model = network(name).train()
    with seeded("reach"):
        model(torch.randn(4, 24, 3)).square().mean().backward()
    for alpha in model.arch_parameters():
        assert torch.isfinite(alpha.grad).all()
        assert (alpha.grad != 0).all()
    assert [n for n, p in model.cells[0].named_parameters() if p.grad is None] == [] or name == "gdas"


@every_relaxation
@pytest.mark.parametrize("training", [True, False])
def test_only_the_active_ops_are_computed(name: str, training: bool) -> None:
    model = network(name).train(training)
    model.edges[1].keep_only(torch.tensor([True, False, True, False, False]))
    calls = op_calls(model)
    model(torch.randn(2, 24, 3))
    assert set(calls.values()) == {1}
    per_edge = Counter(edge for edge, _ in calls)
    wanted = {edge: 1 if name == "gdas" else 2 if edge == 1 else 5 for edge in range(12)}
    assert dict(per_edge) == wanted
    assert {op for edge, op in calls if edge == 1} <= {"Identity", "GRN"}


def test_a_sampled_relaxation_asks_the_device_once_a_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    model = network("gdas").train()
    asked: list[str] = []
    for method in ("tolist", "item", "__int__", "__bool__", "__float__", "__index__", "nonzero", "cpu", "numpy"):
        original = getattr(Tensor, method)
        monkeypatch.setattr(
            Tensor, method, lambda self, *a, _m=method, _o=original, **k: asked.append(_m) or _o(self, *a, **k)
        )
    model(torch.randn(2, 24, 3))
    assert asked == ["tolist"]


def test_partial_channels_are_the_only_ones_an_op_sees() -> None:
    model = network("pc", pc_ratio=0.5).eval()
    edge = model.edges[0]
    seen: list[tuple[int, ...]] = []
    for op in edge.ops.values():
        op.register_forward_hook(lambda _m, args, _o: seen.append(tuple(args[0].shape)))
    x = torch.randn(2, 24, 8)
    y = edge(x)
    assert set(seen) == {(2, 24, 4)}
    # The shuffle interleaves: computed channels on even places, the bypass on odd ones.
    torch.testing.assert_close(y[..., 1::2], x[..., 4:])
    p = edge.probabilities()
    mixed = sum(p[k] * op(x[..., :4].contiguous()) for k, op in enumerate(edge.ops.values()))
    torch.testing.assert_close(y[..., 0::2], mixed)
    full = sum(w.numel() for w in network().edges[0].ops.parameters())
    assert sum(w.numel() for w in edge.ops.parameters()) < full


def test_edges_into_a_node_are_normalised() -> None:
    model = network("pc")
    for node in (1, 2, 3):
        weights = model.cells[0].edge_weights(node).detach()
        assert float(weights.sum()) == pytest.approx(1.0)
        assert weights.shape == (node,)


@pytest.mark.parametrize(("ratio", "dim"), [(0.3, 8), (0.25, 6)])
def test_a_share_that_does_not_divide_the_width_is_named(ratio: float, dim: int) -> None:
    with pytest.raises(InvalidArgument, match="pc_ratio"):
        network("pc", pc_ratio=ratio, hidden_dim=dim, latent_dim=dim)


@every_relaxation
def test_switching_keeps_alphas_and_all_weights_that_fit(name: str) -> None:
    model = network()
    before = copy.deepcopy(model.state_dict())
    model.set_relaxation(name)
    assert (model.relaxation, model.get_config()["relaxation"]) == (name, name)
    after = model.state_dict()
    assert list(before) == list(after)
    changed = {key for key in before if not torch.equal(before[key], after[key])} if name != "pc" else set()
    assert not changed
    assert all(torch.equal(before[key], after[key]) for key in before if "logits" in key)
    again = TimeSeriesDARTS.from_config(model.get_config())
    again.load_state_dict(after)
    x = torch.randn(2, 24, 3)
    torch.testing.assert_close(again.eval()(x), model.eval()(x))


def test_contradicting_keywords_raise() -> None:
    with pytest.raises(InvalidArgument, match="use_gdas=True means"):
        network("drnas", use_gdas=True)
    assert network(None, use_gdas=True).relaxation == "gdas"


@every_relaxation
def test_the_same_seed_gives_the_same_pass_and_a_pickle_goes_on_alike(name: str) -> None:
    model = network(name).train()
    x = torch.randn(2, 24, 3)
    outputs = []
    for part in (model, model, pickle.loads(pickle.dumps(model))):
        with seeded("pass"):
            outputs.append(part(x))
    assert torch.equal(outputs[0], outputs[1])
    assert torch.equal(outputs[0], outputs[2])


@pytest.mark.parametrize("name", ["gdas", "drnas"])
def test_two_passes_differ(name: str) -> None:
    model = network(name).train()
    x = torch.randn(2, 24, 3)
    with seeded("differ"):
        assert not torch.equal(model(x), model(x))


@every_relaxation
def test_the_derived_path_runs_one_op_an_edge(name: str) -> None:
    model = network(name).eval()
    calls = op_calls(model)
    x = torch.randn(2, 24, 3)
    with derived_path(model):
        path = model(x)
    assert len(calls) == 10  # of 12 edges, the two-input rule keeps 5 in each cell
    fixed = derive_network(model)
    if name == "pc":
        assert fixed(x).shape == path.shape
    else:
        torch.testing.assert_close(fixed(x), path, atol=1e-5, rtol=1e-5)


def test_one_pass_for_all_edges_equals_one_for_each() -> None:
    model = network("drnas").eval()
    x = torch.randn(2, 24, 3)
    together = model(x)
    alone = model.skeleton(x, model.cells)
    torch.testing.assert_close(together, alone)


def test_pruned_logits_are_far_below_the_others() -> None:
    edges = table()
    assert (edges.joint()[~edges.alive] == PRUNED).all()


def test_every_op_can_be_searched_on_a_part_of_the_channels() -> None:
    model = network("pc", selected_ops=DEFAULT_OPS, num_cells=1, num_nodes=2).train()
    assert {edge.groups for edge in model.edges} == {4}
    model(torch.randn(2, 24, 3)).square().mean().backward()
    assert [name for name, p in model.named_parameters() if p.grad is None] == []
