"""Every proxy against a naive float64 twin that loops over samples and uses nothing but ``autograd.grad``."""

import copy
import math
import threading

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from foreblocks.darts._core.errors import InvalidArgument
from foreblocks.darts.search.proxies import (
    SearchableModel,
    base_weights,
    evaluate_proxies,
    get_proxy,
    named_weights,
    proxy_names,
    prunable_weights,
    register_proxy,
    register_synflow_bypass,
)
from foreblocks.darts.search.proxies.recorder import FisherRecorder

BATCH, LENGTH, CHANNELS, HORIZON, WIDTH = 8, 12, 3, 4, 8


class TimeMLP(nn.Module):
    """ReLU network over time with a layer norm; one layer is called once per channel."""

    def __init__(self):
        super().__init__()
        self.norm = nn.LayerNorm(LENGTH)
        self.first = nn.Linear(LENGTH, WIDTH)
        self.act = nn.ReLU()
        self.second = nn.Linear(WIDTH, HORIZON)

    def forward(self, x, taps=None):
        columns = []
        for channel in range(x.shape[2]):
            pre = self.first(self.norm(x[:, :, channel]))
            post = self.act(pre)
            note(taps, pre, post)
            columns.append(self.second(post))
        return torch.stack(columns, dim=2)


class FoldedConv(nn.Module):
    """Convolutions with GELU called as a function; every channel is a series of its own in the batch."""

    def __init__(self):
        super().__init__()
        self.first = nn.Conv1d(1, WIDTH, 3, padding=1)
        self.second = nn.Conv1d(WIDTH, WIDTH, 3, padding=1)
        self.norm = nn.GroupNorm(2, WIDTH)
        self.head = nn.Linear(WIDTH * LENGTH, HORIZON)

    def forward(self, x, taps=None):
        z = self.first(x.transpose(1, 2).reshape(-1, 1, LENGTH))
        h = F.gelu(z)
        note(taps, z, h)
        pre = self.second(h)
        post = F.gelu(pre)
        note(taps, pre, post)
        y = self.head(self.norm(h + post).flatten(1))
        return y.view(x.shape[0], -1, HORIZON).transpose(1, 2)


class TinyAttention(nn.Module):
    """One attention block and a SiLU-gated feed-forward, with a raw position and a raw weight matrix."""

    def __init__(self):
        super().__init__()
        self.embed = nn.Linear(CHANNELS, WIDTH)
        self.position = nn.Parameter(0.1 * torch.randn(LENGTH, WIDTH))
        self.norm = nn.RMSNorm(WIDTH)
        self.qkv = nn.Linear(WIDTH, 3 * WIDTH)
        self.gate = nn.Linear(WIDTH, WIDTH, bias=False)
        self.up = nn.Linear(WIDTH, WIDTH)
        self.time_weight = nn.Parameter(torch.randn(HORIZON, LENGTH) / math.sqrt(LENGTH))
        self.out = nn.Linear(WIDTH, CHANNELS)

    def forward(self, x, taps=None):
        z = self.embed(x) + self.position
        q, k, v = self.qkv(self.norm(z)).chunk(3, dim=-1)
        z = z + torch.softmax(q @ k.transpose(1, 2) / math.sqrt(WIDTH), dim=-1) @ v
        pre = self.gate(z)
        post = F.silu(pre)
        note(taps, pre, post)
        z = z + post * self.up(z)
        return self.out(torch.einsum("ht,btd->bhd", self.time_weight, z))


LAYERS = {  # name -> channel dimension of the output
    TimeMLP: {"first": -1, "second": -1},
    FoldedConv: {"first": 1, "second": 1, "head": -1},
    TinyAttention: {"embed": -1, "qkv": -1, "gate": -1, "up": -1, "out": -1},
}
EXTRA_WEIGHTS = {TimeMLP: [], FoldedConv: [], TinyAttention: ["time_weight"]}
FLOPS = {
    TimeMLP: 2 * CHANNELS * (LENGTH * WIDTH + WIDTH * HORIZON),
    FoldedConv: 2 * CHANNELS * (LENGTH * WIDTH * 3 + LENGTH * WIDTH * WIDTH * 3 + WIDTH * LENGTH * HORIZON),
    TinyAttention: 2
    * (
        LENGTH * CHANNELS * WIDTH
        + LENGTH * WIDTH * 3 * WIDTH
        + 2 * LENGTH * LENGTH * WIDTH
        + 2 * LENGTH * WIDTH * WIDTH
        + HORIZON * LENGTH * WIDTH
        + HORIZON * WIDTH * CHANNELS
    ),
}
NETS = list(LAYERS)
TWINS = {}


def note(taps, pre, post):
    if taps is not None:
        taps.append((pre, post))


def twin(name):
    def keep(function):
        TWINS[name] = function
        return function

    return keep


def build(cls, seed=0):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return cls()


def data(batch=BATCH, seed=1):
    g = torch.Generator().manual_seed(seed)
    return torch.randn(batch, LENGTH, CHANNELS, generator=g), torch.randn(batch, HORIZON, CHANNELS, generator=g)


def weights_of(net):
    return [net.get_submodule(name).weight for name in LAYERS[type(net)]] + [
        net.get_parameter(name) for name in EXTRA_WEIGHTS[type(net)]
    ]


def sample_loss(net, x, y, n, count):
    return (net(x[n : n + 1]) - y[n : n + 1]).square().mean() / count


def naive_gradient(net, x, y, create_graph=False):
    total = None
    for n in range(len(x)):
        grads = torch.autograd.grad(sample_loss(net, x, y, n, len(x)), weights_of(net), create_graph=create_graph)
        total = grads if total is None else [a + b for a, b in zip(total, grads, strict=True)]
    return total


def naive_input_gradients(net, x, scalar):
    rows = []
    for n in range(len(x)):
        one = x[n : n + 1].clone().requires_grad_(True)
        rows.append(torch.autograd.grad(scalar(net(one)), one)[0].flatten())
    return torch.stack(rows)


def naive_activations(net, x):
    """Return, for each activation call, the list over samples of (pre, post)."""
    per_sample = []
    for n in range(len(x)):
        taps = []
        net(x[n : n + 1], taps)
        per_sample.append([(pre.detach().flatten(), post.detach().flatten()) for pre, post in taps])
    return list(zip(*per_sample, strict=True))


@twin("snip")
def twin_snip(net, x, y):
    return sum(
        float((g * w.detach()).abs().sum()) for g, w in zip(naive_gradient(net, x, y), weights_of(net), strict=True)
    )


@twin("grad_norm")
def twin_grad_norm(net, x, y):
    return sum(float(g.norm()) for g in naive_gradient(net, x, y))


@twin("l2")
def twin_l2(net, x, y):
    return sum(float(w.detach().norm()) for w in weights_of(net))


@twin("grasp")
def twin_grasp(net, x, y):
    """-gᵀ (H w): the other order of the same product, one Hessian product per sample."""
    g = naive_gradient(net, x, y)
    total = 0.0
    for n in range(len(x)):
        grads = torch.autograd.grad(sample_loss(net, x, y, n, len(x)), weights_of(net), create_graph=True)
        along = sum((w.detach() * d).sum() for w, d in zip(weights_of(net), grads, strict=True))
        total += sum(float((a * b).sum()) for a, b in zip(g, torch.autograd.grad(along, weights_of(net)), strict=True))
    return -total


@twin("fisher")
def twin_fisher(net, x, y):
    score = 0.0
    for name, dim in LAYERS[type(net)].items():
        layer = net.get_submodule(name)
        rows = []
        for n in range(len(x)):
            seen = []
            handle = layer.register_forward_hook(lambda m, i, out, seen=seen: seen.append(out))
            loss = sample_loss(net, x, y, n, len(x))
            handle.remove()
            grads = torch.autograd.grad(loss, seen)
            row = 0.0
            for a, g in zip(seen, grads, strict=True):
                row = row + (a * g).movedim(dim, -1).flatten(0, -2).sum(dim=0)
            rows.append(row.detach())
        per_channel = 0.5 * torch.stack(rows).square().mean(dim=0)
        score += float(per_channel.sum()) * layer.weight.numel() / len(per_channel)
    return score


@twin("synflow")
def twin_synflow(net, x, y):
    positive = copy.deepcopy(net)
    with torch.no_grad():
        for parameter in positive.parameters():
            parameter.abs_()
    positive.norm = nn.Identity()
    total = positive(torch.ones(1, LENGTH, CHANNELS, dtype=torch.float64)).sum()
    weights = weights_of(positive)
    grads = torch.autograd.grad(total, weights)
    return math.log(sum(float((w.detach() * g).abs().sum()) for w, g in zip(weights, grads, strict=True)))


@twin("jacobian")
def twin_jacobian(net, x, y):
    rows = naive_input_gradients(net, x, torch.sum).numpy()
    values = np.clip(np.linalg.eigvalsh(np.corrcoef(rows)), 0.0, None) + 1e-5
    return -float(np.sum(np.log(values) + 1.0 / values))


@twin("sensitivity")
def twin_sensitivity(net, x, y):
    return float(naive_input_gradients(net, x, lambda out: out.square().mean()).norm(dim=1).mean())


@twin("naswot")
def twin_naswot(net, x, y):
    kernel = np.zeros((len(x), len(x)))
    for call in naive_activations(net, x):
        for i, (a, _) in enumerate(call):
            for j, (b, _) in enumerate(call):
                kernel[i, j] += float(((a > 0) == (b > 0)).sum())
    sign, value = np.linalg.slogdet(kernel)
    assert sign > 0
    return float(value)


@twin("activation_diversity")
def twin_diversity(net, x, y):
    means = []
    for call in naive_activations(net, x):
        cosines = [
            abs(float(F.cosine_similarity(a, b, dim=0)))
            for i, (_, a) in enumerate(call)
            for j, (_, b) in enumerate(call)
            if i != j
        ]
        means.append(np.mean(cosines))
    return 1.0 - float(np.mean(means))


@twin("conditioning")
def twin_conditioning(net, x, y):
    values = [np.linalg.svd(w.detach().flatten(1).numpy(), compute_uv=False) for w in weights_of(net)]
    return float(np.mean([np.log(s[0] / s[-1]) for s in values]))


@twin("params")
def twin_params(net, x, y):
    return float(sum(p.numel() for p in net.parameters()))


@twin("flops")
def twin_flops(net, x, y):
    return float(FLOPS[type(net)])


@pytest.fixture(scope="module", params=NETS, ids=lambda cls: cls.__name__)
def scored(request):
    net = build(request.param)
    x, y = data()
    exact = copy.deepcopy(net).double().eval()
    return (
        evaluate_proxies(net, x, y, fast_mode=False),
        evaluate_proxies(net, x, y),
        lambda name: TWINS[name](exact, x.double(), y.double()),
    )


def test_every_proxy_has_a_twin():
    assert set(TWINS) == set(proxy_names(default=True))  # the others: test_extra_proxies


@pytest.mark.parametrize("name", sorted(TWINS))
def test_proxy_agrees_with_its_twin(scored, name):
    report, _, naive = scored
    assert not report.errors
    assert report.values[name] == pytest.approx(naive(name), rel=1e-4)


def test_fast_mode_changes_only_grasp_and_that_little(scored):
    exact, fast, _ = scored
    assert exact.values.keys() == fast.values.keys()
    for name in exact.values.keys() - {"grasp"}:
        assert fast.values[name] == pytest.approx(exact.values[name], rel=1e-5)
    assert fast.values["grasp"] == pytest.approx(exact.values["grasp"], rel=2e-2)


def test_contract_weights():
    assert proxy_names(contract=True) == [
        "synflow", "grasp", "fisher", "jacobian", "naswot", "snip", "sensitivity", "activation_diversity",
        "conditioning", "params", "flops",
    ]  # fmt: skip
    assert sum(abs(w) for w in base_weights().values()) == pytest.approx(1.5)
    assert all(get_proxy(name).weight == 0 for name in proxy_names(contract=False))


class Searchable(nn.Module):
    """Dropout, batch-norm buffers, a frozen layer and alphas: everything a score could disturb."""

    def __init__(self):
        super().__init__()
        self.alphas = nn.Parameter(torch.zeros(2, 3))
        self.first = nn.Linear(LENGTH, WIDTH)
        self.norm = nn.BatchNorm1d(CHANNELS)
        self.drop = nn.Dropout(0.5)
        self.second = nn.Linear(WIDTH, HORIZON)
        self.second.weight.requires_grad_(False)
        self.drop.eval()
        self.calls = 0

    def arch_parameters(self):
        yield self.alphas

    def weight_parameters(self):
        return (p for p in self.parameters() if p is not self.alphas)

    def forward(self, x):
        hidden = self.drop(F.gelu(self.norm(self.first(x.transpose(1, 2)))))
        return (self.second(hidden) * self.alphas.softmax(dim=1)[0, 0]).transpose(1, 2)


def snapshot(model):
    return {
        "state": {name: value.clone() for name, value in model.state_dict().items()},
        "modes": [module.training for module in model.modules()],
        "needs": [p.requires_grad for p in model.parameters()],
        "grads": [None if p.grad is None else p.grad.clone() for p in model.parameters()],
        "hooks": [(len(m._forward_hooks), "forward" in vars(m)) for m in model.modules()],
        "rng": torch.get_rng_state().clone(),
    }


def assert_same(a, b):
    if isinstance(a, dict):
        assert a.keys() == b.keys()
        for key in a:
            assert_same(a[key], b[key])
    elif isinstance(a, list):
        assert len(a) == len(b)
        for left, right in zip(a, b, strict=True):
            assert_same(left, right)
    elif isinstance(a, torch.Tensor):
        assert torch.equal(a, b)
    else:
        assert a == b


@pytest.mark.parametrize("fast_mode", [True, False])
def test_model_comes_back_bit_identical_and_scores_repeat(fast_mode):
    net = build(Searchable).train()
    net.drop.eval()
    x, y = data()
    net.first.bias.grad = torch.ones(WIDTH)
    x_before = x.clone()
    before = snapshot(net)
    first = evaluate_proxies(net, x, y, fast_mode=fast_mode)
    assert_same(before, snapshot(net))
    assert torch.equal(x, x_before)
    assert not x.requires_grad
    assert first == evaluate_proxies(net, x, y, fast_mode=fast_mode)
    assert not first.errors


def test_alphas_do_not_count():
    net = build(Searchable)
    assert isinstance(net, SearchableModel)
    assert not isinstance(build(TimeMLP), SearchableModel)
    assert [name for name, _ in prunable_weights(net)] == ["first.weight", "second.weight"]
    wrapped = nn.Sequential(net)
    assert "0.alphas" not in [name for name, _ in named_weights(wrapped)]
    x, y = data()
    expected = sum(p.numel() for p in net.parameters()) - 6
    assert evaluate_proxies(wrapped, x, y, names=["params"]).values == {"params": expected}


def test_prunable_weights_are_maps():
    net = build(TinyAttention)
    net.table = nn.Embedding(5, 4)
    net.taps = nn.ParameterList([torch.randn(3, 2), torch.randn(4)])
    net.a_log = nn.Parameter(torch.randn(2, 2))
    names = {name for name, _ in prunable_weights(net)}
    layers = {f"{name}.weight" for name in LAYERS[TinyAttention]}
    assert names == layers | {"time_weight", "taps.0"}


@pytest.mark.parametrize("cls", NETS)
def test_flops_and_synflow_do_not_depend_on_the_batch(cls):
    net = build(cls)
    names = ["flops", "synflow", "params", "conditioning", "l2"]
    reports = [evaluate_proxies(net, *data(batch), names=names) for batch in (2, 8, 33)]
    assert reports[0].values == reports[1].values == reports[2].values


def test_flops_see_fused_attention():
    class Fused(nn.Module):
        def __init__(self):
            super().__init__()
            self.head = nn.Linear(CHANNELS, CHANNELS)

        def forward(self, x):
            return self.head(F.scaled_dot_product_attention(x, x, x))[:, :HORIZON]

    x, y = data()
    values = evaluate_proxies(Fused(), x, y, names=["flops"]).values
    assert values["flops"] == 2 * (2 * LENGTH * LENGTH * CHANNELS + LENGTH * CHANNELS * CHANNELS)


class Deep(nn.Module):
    def __init__(self, depth, width, *, gated, scale=1.0):
        super().__init__()
        self.entry = nn.Linear(CHANNELS, width)
        self.layers = nn.ModuleList(nn.Linear(width, (1 + gated) * width) for _ in range(depth))
        self.gated = gated
        self.head = nn.Linear(width * LENGTH, HORIZON * CHANNELS)
        for layer in self.layers:
            nn.init.normal_(layer.weight, std=scale)

    def forward(self, x):
        z = self.entry(x)
        for layer in self.layers:
            h = layer(F.rms_norm(z, z.shape[-1:]))
            if self.gated:
                a, b = h.chunk(2, dim=-1)
                h = F.silu(a) * b
            z = z + h
        return self.head(z.flatten(1)).view(-1, HORIZON, CHANNELS)


@pytest.mark.parametrize(("gated", "scale"), [(False, 0.05), (False, 1.0), (True, 0.05), (True, 1.0)])
def test_synflow_is_finite_at_depth_50(gated, scale):
    net = build(lambda: Deep(50, 64, gated=gated, scale=scale))
    report = evaluate_proxies(net, *data(), names=["synflow"])
    assert math.isfinite(report.values["synflow"])
    deeper = build(lambda: Deep(60, 64, gated=gated, scale=scale))
    assert evaluate_proxies(deeper, *data(), names=["synflow"]).values["synflow"] > report.values["synflow"]


PRODUCTS = {
    "linear": lambda x, w: F.linear(x, w),
    "operator": lambda x, w: x @ w.T,
    "bmm": lambda x, w: torch.bmm(x, w.T.expand(len(x), -1, -1)),
    "baddbmm": lambda x, w: torch.baddbmm(torch.zeros_like(x), x, w.T.expand(len(x), -1, -1)),
    "einsum": lambda x, w: torch.einsum("btc,dc->btd", x, w),
    "transposed convolution": lambda x, w: F.conv_transpose1d(x.mT, w.T.unsqueeze(-1)).mT,
}


@pytest.mark.parametrize("product", PRODUCTS)
def test_synflow_beyond_float64_is_exact_for_a_chain(product):
    """A chain scaled by s per layer has a flow larger by s^depth: known exactly although it overflows."""

    class Chain(nn.Module):
        def __init__(self):
            super().__init__()
            self.layers = nn.ModuleList([nn.Linear(CHANNELS, CHANNELS, bias=False) for _ in range(20)])

        def forward(self, x):
            for layer in self.layers:
                x = PRODUCTS[product](x, layer.weight)
            return x[:, :HORIZON]

    net = build(Chain)
    small = evaluate_proxies(net, *data(), names=["synflow"]).values["synflow"]
    with torch.no_grad():
        for layer in net.layers:
            layer.weight.mul_(1e20)
    large = evaluate_proxies(net, *data(), names=["synflow"]).values["synflow"]
    assert large == pytest.approx(small + 20 * math.log(1e20), rel=1e-9)


def test_synflow_bypass_of_a_module():
    class Centre(nn.Module):
        def forward(self, x):
            return x - x.mean(dim=1, keepdim=True)

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.centre = Centre()
            self.time = nn.Linear(LENGTH, HORIZON, bias=False)

        def forward(self, x):
            return self.time(self.centre(x).transpose(1, 2)).transpose(1, 2)

    net = build(Net)
    x, y = data()
    dead = evaluate_proxies(net, x, y, names=["synflow"])
    assert "synflow" in dead.errors
    register_synflow_bypass(Centre, lambda module, x: x)
    alive = evaluate_proxies(net, x, y, names=["synflow"])
    expected = math.log(CHANNELS * float(net.time.weight.detach().double().abs().sum()))
    assert alive.values["synflow"] == pytest.approx(expected, rel=1e-9)


def test_failed_proxies_are_absent_and_explained():
    class Linear(nn.Module):
        def __init__(self):
            super().__init__()
            self.time = nn.Linear(LENGTH, HORIZON)

        def forward(self, x):
            return self.time(x.transpose(1, 2)).transpose(1, 2)

    report = evaluate_proxies(build(Linear), *data())
    assert "no activation function" in report.errors["naswot"]
    assert "activation" in report.errors["activation_diversity"]
    assert not set(report.values) & set(report.errors)
    assert set(report.values) | set(report.errors) == set(proxy_names(default=True))


def test_a_network_that_cannot_run_costs_only_its_forward_scores():
    class Broken(nn.Module):
        def __init__(self):
            super().__init__()
            self.time = nn.Linear(LENGTH + 1, HORIZON)

        def forward(self, x):
            return self.time(x.transpose(1, 2)).transpose(1, 2)

    report = evaluate_proxies(Broken(), *data())
    assert set(report.values) == {"params", "conditioning", "l2"}
    assert all(report.errors[name] for name in set(proxy_names(default=True)) - set(report.values))


def test_values_that_are_not_finite_fail():
    net = build(TimeMLP)
    with torch.no_grad():
        net.second.weight[0, 0] = math.nan
    report = evaluate_proxies(net, *data())
    assert "snip" in report.errors
    assert all(math.isfinite(value) for value in report.values.values())


def test_wrong_target_shape_is_said():
    x, y = data()
    report = evaluate_proxies(build(TimeMLP), x, y[:, :, :1], names=["snip", "grasp", "naswot"])
    assert "targets have shape" in report.errors["snip"]
    assert set(report.values) == {"naswot"}


def test_operator_without_second_derivative_keeps_grasp_in_fast_mode():
    class Fused(nn.Module):
        def __init__(self):
            super().__init__()
            self.qkv = nn.Linear(CHANNELS, 3 * CHANNELS)

        def forward(self, x):
            q, k, v = self.qkv(x).unsqueeze(1).chunk(3, dim=-1)
            return F.gelu(F.scaled_dot_product_attention(q, k, v)).squeeze(1)[:, :HORIZON]

    x, y = data()
    exact = evaluate_proxies(build(Fused), x, y, fast_mode=False)
    assert "derivative" in exact.errors["grasp"]
    assert {"snip", "fisher", "jacobian"} <= set(exact.values)
    assert "grasp" in evaluate_proxies(build(Fused), x, y).values


def test_in_place_activations_and_outputs():
    class InPlace(TimeMLP):
        def __init__(self):
            super().__init__()
            self.act = nn.ReLU(inplace=True)

    x, y = data()
    plain, inplace = evaluate_proxies(build(TimeMLP), x, y), evaluate_proxies(build(InPlace), x, y)
    same = set(plain.values) - {"fisher"}
    assert {n: plain.values[n] for n in same} == {n: inplace.values[n] for n in same}
    assert "overwritten in place" in inplace.errors["fisher"]


def test_fisher_recorder_frees_the_graph():
    net = build(TimeMLP)
    recorder = FisherRecorder(net, BATCH)
    recorder.collecting = True
    x, _ = data()
    net(x).sum().backward()
    assert set(recorder.sums) == {"first", "second"}
    assert recorder.sums["first"].shape == (BATCH, WIDTH)


def test_threads_agree_on_one_model():
    net = build(TinyAttention)
    x, y = data()
    expected = evaluate_proxies(net, x, y)
    found = [None] * 3

    def work(index):
        found[index] = evaluate_proxies(net, x, y)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [expected] * 3


def test_registry_refuses_nonsense():
    with pytest.raises(InvalidArgument, match="Did you mean 'synflow'"):
        evaluate_proxies(build(TimeMLP), *data(), names=["sinflow"])
    with pytest.raises(InvalidArgument, match="mze"):
        evaluate_proxies(build(TimeMLP), *data(), loss_type="mze")
    with pytest.raises(InvalidArgument, match="already taken"):
        register_proxy("snip")(type("Other", (), {}))
    with pytest.raises(InvalidArgument, match="norm="):
        register_proxy("new", norm="square")
