"""Every operation in several shapes and options, each with a twin written out in loops and whole-array arithmetic."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from foreblocks.darts import kernels

from .tools import noise

SQRT2 = math.sqrt(2.0)


def gelu(x: Tensor) -> Tensor:
    return x * 0.5 * (1 + torch.erf(x / SQRT2))


def silu(x: Tensor) -> Tensor:
    return x / (1 + torch.exp(-x))


ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "none": lambda x: x,
    "relu": lambda x: x.clamp_min(0),
    "gelu": gelu,
    "silu": silu,
}


@dataclass(frozen=True)
class Case:
    """One operation with one set of options.

    Attributes:
        name: shown as the test's id.
        call: the operation as a function of its tensors.
        naive: the same from its definition, run in float64.
        shapes: of the tensors, one tuple for each size tried; the first is small enough for derivative checks.
        positive: indices of tensors that must be positive.
        samples: indices of the tensors whose first dimension is the batch.
        constant: indices of tensors that get no gradient.
    """

    name: str
    call: Callable[..., Any]
    naive: Callable[..., Any]
    shapes: list[list[tuple[int, ...]]]
    positive: tuple[int, ...] = ()
    samples: tuple[int, ...] = (0,)
    constant: tuple[int, ...] = ()
    scales: dict[int, float] = field(default_factory=dict)

    def __str__(self) -> str:
        return self.name

    def tensors(self, size: int = 0, dtype: torch.dtype = torch.float32) -> list[Tensor]:
        made = []
        for k, shape in enumerate(self.shapes[size]):
            x = noise(*shape, seed=17 * k + size, dtype=torch.float64) * self.scales.get(k, 1.0)
            x = (x.abs() + 0.05 if k in self.positive else x).to(dtype)
            made.append(x.requires_grad_(k not in self.constant))
        return made


def naive_norm(x: Tensor, weight: Tensor, bias: Tensor | None, centre: bool, eps: float) -> Tensor:
    if centre:
        x = x - x.mean(dim=-1, keepdim=True)
    y = x / torch.sqrt(x.square().mean(dim=-1, keepdim=True) + eps) * weight
    return y if bias is None else y + bias


def norm_cases() -> list[Case]:
    def plain(kind: str, after: str) -> Case:
        return Case(
            f"norm_act-{kind}-{after}",
            lambda x, w, b: kernels.norm_act(x, w, b, kind=kind, after=after),
            lambda x, w, b: ACTIVATIONS[after](naive_norm(x, w, b, kind == "layer", 1e-6)),
            # One feature minus its mean is nothing: LayerNorm would only magnify rounding.
            [[(3, d), (d,), (d,)] for d in (5, 32)]
            + [[(2, 7, d), (d,), (d,)] for d in (3 if kind == "layer" else 1, 15, 17, 129)]
            + [[(7, 1, 4), (4,), (4,)]],
        )

    def full(before: str) -> Case:
        return Case(
            f"norm_act-residual-{before}",
            lambda x, w, r, g, s: kernels.norm_act(x, w, residual=r, gate=g, scale=s, before=before),
            lambda x, w, r, g, s: naive_norm(
                r + ACTIVATIONS[before](x) / (1 + torch.exp(-g)) * s, w, None, False, 1e-6
            ),
            [
                [(n, t, d), (d,), (n, t, d), (n, t, d), (n, 1, d)]
                for n, t, d in ((2, 3, 5), (3, 1, 32), (1, 9, 17), (2, 40, 33))
            ],
            samples=(0, 2, 3, 4),
            constant=(4,),
        )

    return [plain("rms", "none"), plain("layer", "gelu"), plain("rms", "silu"), *map(full, ACTIVATIONS)]


def naive_depthwise(x: Tensor, w: Tensor, b: Tensor | None, dilation: int, causal: bool) -> Tensor:
    steps, reach = x.shape[1], (w.shape[1] - 1) * dilation
    left = reach if causal else reach - reach // 2
    rows = []
    for t in range(steps):
        row = torch.zeros_like(x[:, 0])
        for j in range(w.shape[1]):
            s = t - left + j * dilation
            if 0 <= s < steps:
                row = row + x[:, s] * w[:, j]
        rows.append(row if b is None else row + b)
    return torch.stack(rows, dim=1)


def depthwise_cases() -> list[Case]:
    def case(width: int, dilation: int, causal: bool, activation: str) -> Case:
        sizes = [(2, 4, 3), (1, 1, 32), (3, 9, 17), (2, 33, 15), (7, 20, 1)]
        return Case(
            f"depthwise-{width}-{dilation}-{'causal' if causal else 'centred'}-{activation}",
            lambda x, w, b: kernels.depthwise_conv1d(x, w, b, dilation=dilation, causal=causal, activation=activation),
            lambda x, w, b: ACTIVATIONS[activation](naive_depthwise(x, w, b, dilation, causal)),
            [[(n, t, d), (d, width), (d,)] for n, t, d in sizes],
        )

    return [
        case(1, 1, False, "none"),
        case(3, 1, True, "none"),
        case(4, 2, True, "silu"),
        case(2, 5, False, "relu"),
        case(9, 1, False, "gelu"),
        case(6, 3, False, "none"),
    ]


def block_cases() -> list[Case]:
    sizes = [(2, 4, 3), (1, 1, 32), (3, 9, 17), (2, 33, 15)]

    def case(width: int, causal: bool, kind: str, before: str, after: str) -> Case:
        return Case(
            f"depthwise_norm-{width}-{kind}-{before}-{after}",
            lambda x, w, s, b, o: kernels.depthwise_norm_act(
                x, w, s, b, o, causal=causal, kind=kind, before=before, after=after
            ),
            lambda x, w, s, b, o: ACTIVATIONS[after](
                naive_norm(ACTIVATIONS[before](naive_depthwise(x, w, b, 1, causal)), s, o, kind == "layer", 1e-6)
            ),
            [[(n, t, d), (d, width), (d,), (d,), (d,)] for n, t, d in (*sizes, (7, 6, 1 if kind == "rms" else 5))],
        )

    return [case(3, True, "rms", "none", "gelu"), case(9, False, "layer", "gelu", "none")]


def naive_average(x: Tensor, kernel: int) -> Tensor:
    steps, left = x.shape[1], kernel // 2
    rows = [sum(x[:, min(max(t - left + j, 0), steps - 1)] for j in range(kernel)) / kernel for t in range(steps)]
    return torch.stack(rows, dim=1)


def average_cases() -> list[Case]:
    sizes = [[(2, 5, 2)], [(1, 1, 17)], [(3, 7, 32)], [(2, 61, 15)], [(2, 96, 33)], [(7, 6, 1)]]
    return [
        Case(f"average-{k}", lambda x, k=k: kernels.moving_average(x, k), lambda x, k=k: naive_average(x, k), sizes)
        for k in (2, 3, 25, 70)
    ]


# Taps that bfloat16 holds too; the second pair is near that of Daubechies 2.
HAAR = [[0.5, 0.5], [-0.5, 0.5]]
DB2 = [[-33 / 256, 57 / 256, 107 / 128, 247 / 512], [-247 / 512, 107 / 128, -57 / 256, -33 / 256]]
SIX_TAPS = [[k / 256 for k in (8, -20, -33, 115, 207, 84)], [k / 256 for k in (-84, 207, -115, -33, 20, 8)]]


def naive_split(x: Tensor, filters: list[list[float]]) -> tuple[Tensor, ...]:
    steps, width = x.shape[1], len(filters[0])

    def band(taps: list[float]) -> Tensor:
        starts = range(2 - width, 2 - width + 2 * ((steps + width - 1) // 2), 2)
        return torch.stack(
            [sum(taps[j] * x[:, min(max(s + j, 0), steps - 1)] for j in range(width)) for s in starts], dim=1
        )

    return band(filters[0]), band(filters[1])


def naive_merge(low: Tensor, high: Tensor, filters: list[list[float]], length: int) -> Tensor:
    width = len(filters[0])
    rows = []
    for t in range(length):
        row = torch.zeros_like(low[:, 0])
        for m in range(low.shape[1]):
            j = t + width - 2 - 2 * m
            if 0 <= j < width:
                row = row + filters[0][j] * low[:, m] + filters[1][j] * high[:, m]
        rows.append(row)
    return torch.stack(rows, dim=1)


def wavelet_cases() -> list[Case]:
    sizes = [(2, 5, 2), (1, 1, 17), (3, 7, 32), (2, 61, 15), (7, 6, 1)]

    def split(name: str, filters: list[list[float]]) -> Case:
        return Case(
            f"wavelet_split-{name}",
            lambda x: kernels.wavelet_split(x, torch.tensor(filters, dtype=x.dtype)),
            lambda x: naive_split(x, filters),
            [[size] for size in sizes],
        )

    def merge(name: str, filters: list[list[float]], odd: int) -> Case:
        width = len(filters[0])

        def length(low: Tensor) -> int:
            return 2 * low.shape[1] - width + 1 + odd

        return Case(
            f"wavelet_merge-{name}-{odd}",
            lambda a, b: kernels.wavelet_merge(a, b, torch.tensor(filters, dtype=a.dtype), length(a)),
            lambda a, b: naive_merge(a, b, filters, length(a)),
            [[(n, t // 2 + width // 2, d)] * 2 for n, t, d in sizes],
            samples=(0, 1),
        )

    return [
        split("2", HAAR), split("4", DB2), split("6", SIX_TAPS),
        merge("2", HAAR, 1), merge("4", DB2, 0), merge("6", SIX_TAPS, 1),
    ]  # fmt: skip


def naive_scan(u: Tensor, delta: Tensor, a: Tensor, b: Tensor, c: Tensor, d: Tensor, z: Tensor, bias: Tensor) -> Tensor:
    """``[B, L, D]`` with softplus; B and C ``[B, L, G, N]``."""
    batch, steps, dim = u.shape
    group = dim // b.shape[2]
    delta = torch.log1p(torch.exp(delta + bias))
    rows = []
    h = torch.zeros(batch, dim, a.shape[1], dtype=u.dtype)
    for t in range(steps):
        by_b = torch.stack([b[:, t, i // group] for i in range(dim)], dim=1)
        by_c = torch.stack([c[:, t, i // group] for i in range(dim)], dim=1)
        step = delta[:, t].unsqueeze(-1)
        h = torch.exp(step * a) * h + step * by_b * u[:, t].unsqueeze(-1)
        rows.append(((h * by_c).sum(dim=-1) + d * u[:, t]) * silu(z[:, t]))
    return torch.stack(rows, dim=1)


def scan_cases() -> list[Case]:
    def shapes(batch: int, steps: int, dim: int, states: int, groups: int) -> list[tuple[int, ...]]:
        inner, side = (batch, steps, dim), (batch, steps, groups, states)
        return [inner, inner, (dim, states), side, side, (dim,), inner, (dim,)]

    sizes = [
        (2, 3, 2, 2, 1),
        (2, 1, 15, 7, 1),
        (2, 35, 17, 8, 1),
        (2, 99, 32, 16, 1),
        (1, 192, 1, 1, 1),
        (2, 40, 34, 3, 2),
        (7, 5, 1, 2, 1),
    ]
    full = Case(
        "scan-full",
        lambda u, dt, a, b, c, d, z, bias: kernels.selective_scan_steps(
            u, dt, -a, b, c, d, z, bias, delta_softplus=True
        ),
        lambda u, dt, a, *rest: naive_scan(u, dt, -a, *rest),
        [shapes(*size) for size in sizes],
        positive=(2,),
        samples=(0, 1, 3, 4, 6),
    )
    zeros, silent = torch.zeros, 1.2784645427610738  # silu is 1 there

    def bare(u: Tensor, dt: Tensor, a: Tensor, b: Tensor, c: Tensor) -> Tensor:
        z = torch.full_like(u, silent)
        raw = torch.log(torch.expm1(dt))
        none = zeros(u.shape[2], dtype=u.dtype)
        return naive_scan(u, raw, -a, b.unsqueeze(2), c.unsqueeze(2), none, z, none)

    plain = Case(
        "scan-plain",
        lambda u, dt, a, b, c: kernels.selective_scan(
            u.transpose(1, 2), dt.transpose(1, 2), -a, b.transpose(1, 2), c.transpose(1, 2)
        ).transpose(1, 2),
        bare,
        [[s[0], s[1], s[2], s[3][:2] + s[3][3:], s[4][:2] + s[4][3:]] for s in (shapes(*size) for size in sizes[:5])],
        positive=(1, 2),
        samples=(0, 1, 3, 4),
        scales={1: 0.3},
    )
    return [full, plain]


def conv_cases() -> list[Case]:
    sizes = [(2, 4, 3), (1, 1, 5), (3, 9, 17), (2, 33, 15), (7, 6, 1)]

    def naive(x: Tensor, w: Tensor, b: Tensor, s: Tensor) -> tuple[Tensor, Tensor]:
        whole = torch.cat([s, x], dim=1)
        width = w.shape[1]
        out = torch.stack([(whole[:, t : t + width] * w.T).sum(dim=1) + b for t in range(x.shape[1])], dim=1)
        return silu(out), whole[:, whole.shape[1] - width + 1 :]

    return [
        Case(
            f"causal_conv-{width}",
            lambda x, w, b, s: kernels.causal_conv1d_steps(x, w, b, s, True, "silu"),
            naive,
            [[(n, t, d), (d, width), (d,), (n, width - 1, d)] for n, t, d in sizes],
            samples=(0, 3),
        )
        for width in (2, 4, 5)
    ]


def product_cases() -> list[Case]:
    sizes = [(2, 4, 3, 2), (1, 1, 32, 15), (3, 9, 17, 33), (2, 37, 15, 7), (2, 40, 64, 32), (7, 6, 1, 1)]

    def dense(x: Tensor, w: Tensor, b: Tensor, dilation: int, causal: bool) -> Tensor:
        steps, reach = x.shape[1], (w.shape[2] - 1) * dilation
        left = reach if causal else reach - reach // 2
        rows = []
        for t in range(steps):
            at = [t - left + j * dilation for j in range(w.shape[2])]
            parts = [x[:, s] @ w[:, :, j].T for j, s in enumerate(at) if 0 <= s < steps]
            rows.append(sum(parts, b.expand(x.shape[0], -1)))
        return torch.stack(rows, dim=1)

    def conv(width: int, dilation: int, causal: bool, activation: str) -> Case:
        padding = "causal" if causal else "same"
        return Case(
            f"conv1d-{width}-{dilation}-{'causal' if causal else 'centred'}-{activation}",
            lambda x, w, b: kernels.conv1d(x, w, b, dilation=dilation, padding=padding, activation=activation),
            lambda x, w, b: ACTIVATIONS[activation](dense(x, w, b, dilation, causal)),
            [[(n, t, i), (o, i, width), (o,)] for n, t, i, o in sizes],
        )

    def linear(activation: str) -> Case:
        return Case(
            f"linear-{activation}",
            lambda x, w, b: kernels.linear(x, w, b, activation=activation),
            lambda x, w, b: ACTIVATIONS[activation](torch.einsum("nti,oi->nto", x, w) + b),
            [[(n, t, i), (o, i), (o,)] for n, t, i, o in sizes],
        )

    def over_time(activation: str) -> Case:
        return Case(
            f"time_linear-{activation}",
            lambda x, w, b: kernels.time_linear(x, w, b, activation=activation),
            lambda x, w, b: ACTIVATIONS[activation](torch.einsum("ntd,ot->nod", x, w) + b.unsqueeze(1)),
            [[(n, t, d), (o, t), (o,)] for n, t, d, o in sizes],
        )

    return [
        conv(3, 1, True, "none"),
        conv(2, 3, False, "none"),
        conv(3, 2, True, "relu"),
        conv(2, 1, False, "gelu"),
        *map(linear, ("none", "relu", "silu")),
        *map(over_time, ("none", "relu", "gelu")),
    ]


def naive_spectrum(
    x: Tensor, forth: Tensor, back: Tensor, fr: Tensor, fi: Tensor, weight: Tensor, br: Tensor, bi: Tensor
) -> Tensor:
    dim = x.shape[2]
    total = torch.zeros(x.shape[0], back.shape[0], dim, dtype=x.dtype)
    for m in range(fr.shape[0]):
        re, im = (sum(forth[2 * m + part, t] * x[:, t] for t in range(x.shape[1])) for part in (0, 1))
        re, im = re * fr[m] - im * fi[m], re * fi[m] + im * fr[m]
        by_re, by_im = weight[:dim].T, weight[dim:].T
        parts = gelu(re @ by_re - im @ by_im + br), gelu(re @ by_im + im @ by_re + bi)
        for part, h in enumerate(parts):
            total = total + back[:, 2 * m + part, None] * h[:, None]
    return total


def naive_residual(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    y, last = x, weight.shape[0] - 1
    for k in range(last + 1):
        r = torch.zeros_like(y) + bias[k]
        for j in range(weight.shape[3]):
            back = (weight.shape[3] - 1 - j) * 2**k
            if back < y.shape[1]:
                seen = torch.cat([torch.zeros_like(y[:, :back]), y[:, : y.shape[1] - back]], dim=1)
                r = r + seen @ weight[k, :, :, j].T
        if k == last:
            return r
        y = y + r.clamp_min(0)
        y = y if k else y.clamp_min(0)
    raise AssertionError


def residual_cases() -> list[Case]:
    def sizes(*all_sizes: tuple[int, int, int, int, int]) -> list[list[tuple[int, ...]]]:
        return [[(n, t, d), (k, d, d, w), (k, d)] for n, t, d, k, w in all_sizes]

    shapes = sizes((2, 4, 3, 3, 3), (1, 1, 15, 2, 3), (7, 5, 1, 3, 2), (2, 33, 17, 4, 3), (3, 9, 32, 1, 2))
    return [Case("residual_convs", kernels.residual_convs, naive_residual, shapes, scales={1: 0.3})]


def spectrum_cases() -> list[Case]:
    def fixed(rows: int, columns: int) -> Tensor:
        """Numbers that half precision holds too, without an order."""
        k = torch.arange(rows * columns)
        return ((3 * k * k + k) % 13 - 6).view(rows, columns) / 16

    def case(name: str, made: int, sizes: list[tuple[int, int, int, int]]) -> Case:
        def by(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
            def run(x: Tensor, fr: Tensor, *layer: Tensor) -> Tensor:
                waves = 2 * fr.shape[0]
                forth, back = fixed(waves, x.shape[1]).to(x.dtype), fixed(made, waves).to(x.dtype)
                return function(x, forth, back, fr, *layer)

            return run

        return Case(
            f"spectral_map-{name}",
            by(kernels.spectral_map),
            by(naive_spectrum),
            [[(n, t, d), (m, d), (m, d), (2 * d, d), (d,), (d,)] for n, t, d, m in sizes],
            scales={3: 0.5},
        )

    return [
        case("few", 5, [(2, 4, 3, 2), (1, 1, 15, 1), (7, 5, 1, 3), (2, 33, 17, 17), (3, 9, 32, 5)]),
        # More frequencies than go through the stages with those of another sample.
        case("many", 24, [(2, 3, 2, 4), (1, 7, 16, 97), (3, 96, 5, 33), (2, 20, 7, 48)]),
    ]


def gate_cases() -> list[Case]:
    # A last size is twice the width of a half.
    sizes = [(2, 3, 4), (1, 1, 34), (7, 6, 2), (3, 9, 30), (2, 33, 176)]

    def case(activation: str) -> Case:
        def naive(x: Tensor) -> Tensor:
            width = x.shape[2] // 2
            return ACTIVATIONS[activation](x[:, :, :width]) * x[:, :, width:]

        return Case(
            f"gated_act-{activation}",
            lambda x: kernels.gated_act(x, activation=activation),
            naive,
            [[size] for size in sizes],
        )

    return [case(activation) for activation in ("silu", "gelu", "relu")]


def naive_attention(
    q: Tensor, k: Tensor, v: Tensor, heads: int, scale: float, rotary: bool, seen: Callable[[int], range]
) -> Tensor:
    width = q.shape[2] // heads

    def turned(row: Tensor, step: int) -> Tensor:
        half = width // 2
        angle = step * 10000.0 ** (-torch.arange(half, dtype=row.dtype) / max(half, 1))
        a, b = row[:, :half], row[:, half : 2 * half]
        parts = [a * angle.cos() - b * angle.sin(), b * angle.cos() + a * angle.sin(), row[:, 2 * half :]]
        return torch.cat(parts, dim=1)

    columns = []
    for h in range(heads):
        queries, keys, values = (x[:, :, h * width : (h + 1) * width] for x in (q, k, v))
        rows = []
        for t in range(q.shape[1]):
            query = turned(queries[:, t], t) if rotary else queries[:, t]
            visible = [(turned(keys[:, s], s) if rotary else keys[:, s], values[:, s]) for s in seen(t)]
            powers = [torch.exp(scale * (query * key).sum(dim=1, keepdim=True)) for key, _ in visible]
            rows.append(sum(p * value for p, (_, value) in zip(powers, visible, strict=True)) / sum(powers))
        columns.append(torch.stack(rows, dim=1))
    return torch.cat(columns, dim=2)


def attention_cases() -> list[Case]:
    def case(name: str, sizes: list[tuple[int, ...]], rotary: bool, seen: Callable[[int, int], range]) -> Case:
        """``sizes``: N, T, S, D and heads."""
        heads_of = {size[3]: size[4] for size in sizes}

        def call(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            ranges = [seen(t, k.shape[1]) for t in range(q.shape[1])]
            first, last = (torch.tensor([getattr(r, end) for r in ranges]) for end in ("start", "stop"))
            bounds = {} if name == "all" else {"first": first.to(q.device), "last": last.to(q.device)}
            return kernels.softmax_attention(q, k, v, heads_of[q.shape[2]], rotary=rotary, **bounds)

        def naive(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            heads = heads_of[q.shape[2]]
            return naive_attention(q, k, v, heads, (q.shape[2] // heads) ** -0.5, rotary, lambda t: seen(t, k.shape[1]))

        return Case(
            f"softmax_attention-{name}",
            call,
            naive,
            [[(n, t, d), (n, s, d), (n, s, d)] for n, t, s, d, _ in sizes],
            samples=(0, 1, 2),
        )

    square = [(2, 3, 3, 4, 2), (1, 1, 1, 15, 1), (7, 5, 5, 1, 1), (2, 33, 33, 17, 1), (2, 19, 19, 48, 4)]
    wide = [(2, 3, 5, 4, 2), (1, 1, 7, 15, 3), (7, 5, 1, 1, 1), (2, 18, 35, 17, 1), (1, 40, 17, 64, 2)]
    return [
        case("all", wide, False, lambda t, s: range(s)),
        case("causal", square, True, lambda t, s: range(t + 1)),
        case("band", wide, False, lambda t, s: range(max(0, min(t, s) - 3), max(1, min(t + 2, s)))),
    ]


def mixture_cases() -> list[Case]:
    sizes = [(2, 3, 2), (1, 1, 17), (3, 9, 15), (2, 33, 32), (7, 6, 1)]

    def case(count: int, normalize: bool) -> Case:
        def naive(w: Tensor, *xs: Tensor) -> Tensor:
            return sum(v * x for v, x in zip(w, xs, strict=True)) / (w.sum() if normalize else 1)

        return Case(
            f"mixed_sum-{count}-{normalize}",
            lambda w, *xs: kernels.mixed_sum(xs, w, normalize=normalize),
            naive,
            [[(count,), *[size] * count] for size in sizes],
            positive=(0,),
            samples=tuple(range(1, count + 1)),
        )

    return [case(1, False), case(3, True), case(10, False)]


CASES = [
    *mixture_cases(),
    *norm_cases(),
    *depthwise_cases(),
    *block_cases(),
    *average_cases(),
    *wavelet_cases(),
    *scan_cases(),
    *conv_cases(),
    *product_cases(),
    *gate_cases(),
    *spectrum_cases(),
    *residual_cases(),
    *attention_cases(),
]
