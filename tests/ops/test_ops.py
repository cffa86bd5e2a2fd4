"""What every op of the registry promises, whatever it computes."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call

from foreblocks.darts import config
from foreblocks.darts._core.errors import InvalidArgument
from foreblocks.darts.ops import build_op, get_op, op_families, op_names

OPS = config.DEFAULT_OPS
SIZES = [(8, 1), (8, 7), (32, 24), (8, 96), (1, 5), (6, 17)]
ANY_LENGTH = {"Identity", "TimeConv", "GRN", "TCN", "ResidualMLP", "ConvMixer", "MultiScaleConv"}


def make(name: str, dim: int, length: int, *, dropout: float = 0.1, seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return build_op(name, dim, length, dropout=dropout).eval()


def noise(*shape: int, seed: int = 1, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def test_registry_holds_the_default_search_space():
    assert set(OPS) <= set(op_names())
    expected = {family: set(names) for family, names in config.DEFAULT_OP_FAMILIES.items()}
    expected["mlp"].add("Identity")
    assert {family: set(names) for family, names in op_families(OPS).items()} == expected


def test_costs_are_those_of_the_efficiency_regulariser():
    costs = dict.fromkeys(["TCN", "DLinear", "TimeMixer", "NBeats", "TimesNet"], 0.5)
    costs |= {"Identity": 0.0, "ResidualMLP": 0.15, "TimeConv": 0.25, "GRN": 0.35, "PatchEmbed": 0.35}
    costs |= {"ConvMixer": 0.45, "Fourier": 0.6, "Wavelet": 0.6, "InvertedAttention": 0.65}
    costs |= {"MultiScaleConv": 0.7, "PyramidConv": 0.8}
    assert {name: get_op(name).cost for name in OPS} == costs


@pytest.mark.parametrize("name", OPS)
@pytest.mark.parametrize(("dim", "length"), SIZES, ids=str)
def test_shape_and_finite_gradients(name: str, dim: int, length: int):
    length = max(length, get_op(name).min_length)
    op = make(name, dim, length)
    for layout in (noise(3, length, dim), noise(length, 3, dim).transpose(0, 1)):
        x = layout.requires_grad_()
        y = op(x)
        assert y.shape == (3, length, dim)
        assert name == "Identity" or y.is_contiguous()
        parameters = dict(op.named_parameters())
        grads = torch.autograd.grad((y * noise(3, length, dim, seed=2)).sum(), [x, *parameters.values()])
        for label, grad in zip(["x", *parameters], grads, strict=True):
            assert grad.isfinite().all(), label


@pytest.mark.parametrize("name", OPS)
def test_every_parameter_matters(name: str):
    op = make(name, 8, 24)
    parameters = dict(op.named_parameters())
    out = (op(noise(4, 24, 8)) * noise(4, 24, 8, seed=2)).sum()
    if not parameters:
        assert name == "Identity"
        return
    grads = torch.autograd.grad(out, list(parameters.values()))
    silent = [label for label, grad in zip(parameters, grads, strict=True) if grad.abs().max() < 1e-6]
    assert silent == []


@pytest.mark.parametrize("name", OPS)
@pytest.mark.parametrize("length", [1, 24])
def test_eval_is_deterministic_and_sees_one_sample_at_a_time(name: str, length: int):
    op = make(name, 8, length)
    x = noise(6, length, 8)
    with torch.no_grad():
        y = op(x)
        assert torch.equal(y, op(x))
        torch.testing.assert_close(op(x[2:5]), y[2:5], rtol=1e-5, atol=1e-5)
        others = 50 * noise(6, length, 8, seed=3)
        others[4] = x[4]
        torch.testing.assert_close(op(others)[4], y[4], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", OPS)
def test_causality_is_declared_truthfully(name: str):
    op = make(name, 8, 24)
    x = noise(3, 24, 8)
    later = x.clone()
    later[:, 13:] = noise(3, 11, 8, seed=3)
    with torch.no_grad():
        change = (op(x) - op(later))[:, :13].abs().max().item()
    if get_op(name).causal:
        assert change == 0.0
    else:
        assert change > 1e-4


@pytest.mark.parametrize("name", OPS)
@pytest.mark.parametrize(("dim", "length"), [(3, 6), (4, 1)])
def test_first_and_second_derivatives(name: str, dim: int, length: int):
    op = make(name, dim, length).double()
    names = [label for label, _ in op.named_parameters()]
    inputs = [noise(2, length, dim, dtype=torch.float64), *(p.detach().clone() for p in op.parameters())]

    def call(x: Tensor, *parameters: Tensor) -> Tensor:
        # A product, so that Identity has a second derivative to check as well.
        return functional_call(op, dict(zip(names, parameters, strict=True)), (x,)) * x

    leaves = tuple(value.requires_grad_() for value in inputs)
    assert torch.autograd.gradcheck(call, leaves, fast_mode=True)
    assert torch.autograd.gradgradcheck(call, leaves, fast_mode=True)


@pytest.mark.parametrize("name", OPS)
def test_pickles_and_copies(name: str):
    op = make(name, 8, 12)
    x = noise(2, 12, 8)
    for twin in (pickle.loads(pickle.dumps(op)), copy.deepcopy(op)):
        assert torch.equal(twin(x), op(x))
    fresh = make(name, 8, 12, seed=9)
    fresh.load_state_dict(op.state_dict())
    assert torch.equal(fresh(x), op(x))


@pytest.mark.parametrize("name", OPS)
def test_exports_with_a_dynamic_batch(name: str):
    op = make(name, 8, 12)
    batch = torch.export.Dim("batch")
    program = torch.export.export(op, (noise(4, 12, 8),), dynamic_shapes=({0: batch},))
    x = noise(7, 12, 8, seed=5)
    torch.testing.assert_close(program.module()(x), op(x), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", OPS)
def test_per_sample_gradients_by_vmap(name: str):
    op = make(name, 4, 8)
    parameters = dict(op.named_parameters())
    if not parameters:
        return
    x = noise(3, 8, 4)

    def loss(values: dict[str, Tensor], sample: Tensor) -> Tensor:
        return functional_call(op, values, (sample.unsqueeze(0),)).square().mul(0.5).sum().tanh()

    batched = torch.func.vmap(torch.func.grad(loss), in_dims=(None, 0))(parameters, x)
    single = torch.func.grad(loss)(parameters, x[1])
    for label, grad in single.items():
        torch.testing.assert_close(batched[label][1], grad, rtol=1e-4, atol=1e-5, msg=label)


@pytest.mark.parametrize("name", OPS)
@pytest.mark.parametrize("length", [1, 24])
@pytest.mark.parametrize("value", [0.0, 3.0])
def test_constant_input(name: str, length: int, value: float):
    op = make(name, 8, length)
    x = torch.full((2, length, 8), value, requires_grad=True)
    y = op(x)
    assert y.isfinite().all()
    grads = torch.autograd.grad(y.square().sum(), [x, *op.parameters()], create_graph=True)
    assert all(grad.isfinite().all() for grad in grads)
    second = torch.autograd.grad(sum(grad.square().sum() for grad in grads), [x, *op.parameters()], allow_unused=True)
    assert all(grad is None or grad.isfinite().all() for grad in second)


@pytest.mark.parametrize("name", OPS)
@pytest.mark.parametrize(("dim", "length"), [(32, 96), (8, 7), (32, 1)])
def test_scale_at_the_start(name: str, dim: int, length: int):
    y = make(name, dim, length)(noise(16, length, dim))
    assert 0.1 < y.std().item() < 10


@pytest.mark.parametrize("name", [name for name in OPS if name != "Identity"])
def test_dropout_acts_in_training_only(name: str):
    x = noise(8, 12, 16)
    op = make(name, 16, 12, dropout=0.5)
    quiet = op(x)
    op.train()
    torch.manual_seed(0)
    first, second = op(x), op(x)
    assert not torch.allclose(first, second)
    torch.manual_seed(0)
    assert torch.equal(op(x), first)
    without = make(name, 16, 12, dropout=0.0).train()
    torch.testing.assert_close(without(x), quiet)


@pytest.mark.parametrize("name", OPS)
def test_another_length_works_or_is_refused(name: str):
    op = make(name, 8, 12)
    x = noise(2, 13, 8)
    if name in ANY_LENGTH:
        assert op(x).shape == x.shape
    else:
        with pytest.raises(InvalidArgument, match=f"{name} was built for length=12 steps, but its input has 13"):
            op(x)


@pytest.mark.parametrize("rate", [-0.1, 1.0])
def test_dropout_out_of_range(rate: float):
    with pytest.raises(InvalidArgument, match="dropout"):
        build_op("GRN", 4, 4, dropout=rate)
