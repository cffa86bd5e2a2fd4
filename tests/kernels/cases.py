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
            [[(3, d), (d,), (d,)] for d in (5, 32)] + [[(2, 7, d), (d,), (d,)] for d in (1, 15, 17, 129)],
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
        sizes = [(2, 4, 3), (1, 1, 32), (3, 9, 17), (2, 33, 15), (4, 20, 1)]
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


def naive_average(x: Tensor, kernel: int) -> Tensor:
    steps, left = x.shape[1], kernel // 2
    rows = [sum(x[:, min(max(t - left + j, 0), steps - 1)] for j in range(kernel)) / kernel for t in range(steps)]
    return torch.stack(rows, dim=1)


def average_cases() -> list[Case]:
    sizes = [[(2, 5, 2)], [(1, 1, 17)], [(3, 7, 32)], [(2, 61, 15)], [(2, 96, 33)]]
    return [
        Case(f"average-{k}", lambda x, k=k: kernels.moving_average(x, k), lambda x, k=k: naive_average(x, k), sizes)
        for k in (2, 3, 25, 70)
    ]


CASES = [*norm_cases(), *depthwise_cases(), *average_cases()]
