"""Each compiled kernel against the best plain PyTorch forms of the same thing, at the size of a search step."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from foreblocks.darts import kernels
from foreblocks.darts.architecture.mixed_op import EdgeMix, MixedOp
from foreblocks.darts.kernels import attention as attentions
from foreblocks.darts.kernels import (
    averages,
    dispatch,
    mixture,
    reference,
    residuals,
    saliencies,
    scan,
    spectra,
    wavelets,
)
from foreblocks.darts.ops.spectral import fourier_basis

Function = Callable[..., Tensor]
Floors = tuple[float | None, float | None]


@dataclass(frozen=True)
class Contest:
    """One comparison.

    Attributes:
        name: shown in the table.
        ours: what runs by default.
        plain: other ways to write it, by name; some are rewritten for speed, too.
        usual: which of them most code is written as.
        inputs: tensors for all of them; those that require a gradient get one.
        floors: least ratio best plain / ours, forward and forward + backward; None for no promise.
        usual_floors: the same for usual / ours.
        bytes_moved: of one forward pass over data that is read and written once, or 0.
        flops: of one forward pass, where arithmetic is the limit, or 0.
    """

    name: str
    ours: Function
    plain: dict[str, Function]
    usual: str
    inputs: list[Tensor]
    floors: Floors = (None, None)
    usual_floors: Floors = (None, None)
    bytes_moved: int = 0
    flops: int = 0


@contextmanager
def forced(choice: str) -> Iterator[None]:
    """Run with ``FOREBLOCKS_DARTS_KERNELS=choice``."""
    before = os.environ.get(dispatch.VARIABLE)
    os.environ[dispatch.VARIABLE] = choice
    dispatch.reset()
    try:
        yield
    finally:
        os.environ.pop(dispatch.VARIABLE)
        if before is not None:
            os.environ[dispatch.VARIABLE] = before
        dispatch.reset()


def leaf(*shape: int) -> Tensor:
    return torch.randn(*shape).requires_grad_()


def size(*tensors: Tensor) -> int:
    return sum(x.numel() * x.element_size() for x in tensors)


def mixed_sum(
    count: int, shape: tuple[int, int, int], floors: Floors = (None, None), usual_floors: Floors = (None, None)
) -> Contest:
    xs = [leaf(*shape) for _ in range(count)]
    return Contest(
        f"mixed_sum K={count} {list(shape)}",
        lambda w, *data: kernels.mixed_sum(data, w),
        {
            "loop": lambda w, *data: sum(v * x for v, x in zip(w.unbind(), data, strict=True)),
            "addcmul": lambda w, *data: mixture.reference(data, w)[0],
            "einsum": lambda w, *data: torch.einsum("k...,k->...", torch.stack(data), w),
            "mv": lambda w, *data: (torch.stack(data).flatten(1).T @ w).view(data[0].shape),
        },
        "loop",
        [torch.rand(count).requires_grad_(), *xs],
        floors,
        usual_floors,
        bytes_moved=size(*xs, xs[0]),
    )


def selective_scan(shape: tuple[int, int, int, int], floor: float) -> Contest:
    batch, steps, dim, states = shape
    u, side = leaf(batch, steps, dim), leaf(batch, steps, 1, states)
    delta = (0.1 * torch.rand(batch, steps, dim)).requires_grad_()
    rates = (-1 - 15 * torch.rand(dim, states)).requires_grad_()
    return Contest(
        f"selective_scan {list(shape)}",
        lambda *tensors: kernels.selective_scan_steps(*tensors),
        {"unbind": lambda *tensors: scan.reference(*tensors, None, None, None, False)[0]},
        "unbind",
        [u, delta, rates, side, leaf(batch, steps, 1, states)],
        (None, floor),
    )


def saliency() -> Contest:
    shapes = [(32, 32), (32,), (96, 96), (64, 32), (32, 32, 3), (32, 3)] * 20
    params, grads = [torch.randn(s) for s in shapes], [torch.randn(s) for s in shapes]
    half = len(params)
    return Contest(
        f"saliency of {half} weights",
        lambda *both: kernels.saliency(both[:half], both[half:]),
        {"loop": lambda *both: saliencies.reference(both[:half], both[half:])},
        "loop",
        [*params, *grads],
        (3.0, None),
        bytes_moved=size(*params, *grads),
    )


def block(samples: int, floors: Floors, usual_floors: Floors) -> Contest:
    x, w, scale = leaf(samples, 96, 32), leaf(32, 3), leaf(32)

    def shifted(x: Tensor, w: Tensor) -> Tensor:
        padded = F.pad(x, (0, 0, 2, 0))
        return padded[:, :-2] * w[:, 0] + padded[:, 1:-1] * w[:, 1] + x * w[:, 2]

    def transposed(x: Tensor, w: Tensor) -> Tensor:
        return F.conv1d(F.pad(x.mT, (2, 0)), w.unsqueeze(1), groups=w.shape[0]).mT

    def ending(function: Function) -> Function:
        return lambda x, w, s: F.gelu(F.rms_norm(function(x, w), s.shape, s, 1e-6))

    return Contest(
        f"depthwise + norm + GELU [{samples}, 96, 32]",
        lambda x, w, s: kernels.depthwise_norm_act(x, w, s, causal=True, after="gelu"),
        {
            "shifted": ending(shifted),
            "transposed": ending(transposed),
            "channels last": ending(lambda x, w: reference.conv1d(x, w.unsqueeze(1), groups=32, padding="causal")),
        },
        "transposed",
        [x, w, scale],
        floors,
        usual_floors,
        bytes_moved=size(x, x),
    )


def moving_average(samples: int, floors: Floors, usual_floors: Floors) -> Contest:
    x = leaf(samples, 96, 32)
    matrix = averages.reference(torch.eye(96).unsqueeze(0), 25, 12)[0]

    def pooled(x: Tensor) -> Tensor:
        return F.avg_pool1d(F.pad(x.mT, (12, 12), mode="replicate"), 25, 1).mT

    return Contest(
        f"moving average 25 [{samples}, 96, 32]",
        lambda x: kernels.moving_average(x, 25),
        {
            "pool": pooled,
            "convolution": lambda x: averages.reference(x, 25, 12),
            "matrix": lambda x: torch.matmul(matrix, x),
        },
        "pool",
        [x],
        floors,
        usual_floors,
        bytes_moved=size(x, x),
    )


def wavelet() -> Contest:
    """Split and merge with filters of the length of Daubechies 2; their values cost nothing."""
    filters = torch.randn(2, 4)

    def there_and_back(split: Function, merge: Function) -> Function:
        return lambda x: merge(*split(x, filters), filters, x.shape[1])

    return Contest(
        "wavelet split + merge [32, 96, 32]",
        there_and_back(kernels.wavelet_split, kernels.wavelet_merge),
        {"convolutions": there_and_back(wavelets.reference_split, wavelets.reference_merge)},
        "convolutions",
        [leaf(32, 96, 32)],
    )


def spectral() -> Contest:
    """The 32 lowest of 49 frequencies, as in the op Fourier."""
    modes, steps, dim = 32, 96, 32
    forth, back = fourier_basis(steps, torch.arange(modes))
    # Real and imaginary part of a frequency in adjacent rows.
    forth, back = forth.view(2, modes, steps).transpose(0, 1).flatten(0, 1), back.view(steps, 2, modes).mT.flatten(1)

    def by_fft(x: Tensor, fr: Tensor, fi: Tensor, weight: Tensor, br: Tensor, bi: Tensor) -> Tensor:
        spectrum = torch.fft.rfft(x, dim=1, norm="ortho")[:, :modes] * torch.complex(fr, fi)
        hidden = spectrum @ torch.complex(*weight.chunk(2)).T + torch.complex(br, bi)
        return torch.fft.irfft(torch.complex(F.gelu(hidden.real), F.gelu(hidden.imag)), n=steps, dim=1, norm="ortho")

    inputs = [(32, steps, dim), (modes, dim), (modes, dim), (2 * dim, dim), (dim,), (dim,)]
    return Contest(
        "spectral map [32, 96, 32], 32 frequencies",
        lambda x, *layer: kernels.spectral_map(x, forth, back, *layer),
        {"products": lambda x, *layer: spectra.reference(x, forth, back, *layer), "FFT": by_fft},
        "FFT",
        [leaf(*shape) for shape in inputs],
        (1.6, 1.7),
        (4.0, 4.0),
        flops=2 * 32 * modes * dim * (4 * steps + 4 * dim),
    )


def residual_convs(samples: int) -> Contest:
    """The three convolutions of a temporal convolutional net, with dilations 1, 2 and 4."""
    count, steps, dim, width = 3, 96, 32, 3
    inputs = ((samples, steps, dim), (count, dim, dim, width), (count, dim))
    return Contest(
        f"residual convolutions [{samples}, {steps}, {dim}]",
        kernels.residual_convs,
        {"convolutions": residuals.reference},
        "convolutions",
        [leaf(*shape) for shape in inputs],
        (1.2, 1.2),
        (1.2, 1.2),
        flops=2 * samples * steps * count * width * dim * dim,
    )


def attention(samples: int, steps: int, floor: float) -> Contest:
    """Self-attention of 4 heads of 8 features over time, as in a search."""
    heads, scale = 4, 8**-0.5

    def usual(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        q, k, v = (attentions.split_heads(x, heads) for x in (q, k, v))
        shares = torch.softmax(attentions.rotate(q) * scale @ attentions.rotate(k).mT, dim=-1)
        return attentions.merge_heads(shares @ v)

    def fused(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        q, k, v = (attentions.split_heads(x, heads) for x in (q, k, v))
        return attentions.merge_heads(F.scaled_dot_product_attention(attentions.rotate(q), attentions.rotate(k), v))

    return Contest(
        f"attention [{samples}, {steps}, 32], 4 heads",
        lambda q, k, v: kernels.softmax_attention(q, k, v, heads, rotary=True),
        {
            "products": usual,
            "turned products": lambda q, k, v: attentions.reference(q, k, v, None, None, heads, scale, True),
            "torch's fused": fused,
        },
        "products",
        [leaf(samples, steps, 32) for _ in range(3)],
        (None, floor),
    )


def products() -> list[Contest]:
    x, over_time, over_features, taps = leaf(32, 96, 32), leaf(96, 96), leaf(32, 32), leaf(32, 32, 3)
    return [
        Contest("time_linear [32, 96, 32] → 96", kernels.time_linear, {"bmm": reference.time_linear}, "bmm",
                [x, over_time], flops=2 * x.numel() * 96),
        Contest("linear [32, 96, 32] → 32", kernels.linear, {"F.linear": F.linear}, "F.linear", [x, over_features],
                flops=2 * x.numel() * 32),
        Contest("linear [32, 96, 32] → 64 + GELU", lambda x, w: kernels.linear(x, w, activation="gelu"),
                {"F.linear": lambda x, w: F.gelu(F.linear(x, w))}, "F.linear", [x, leaf(64, 32)]),
        Contest(
            "conv1d [32, 96, 32] → 32, 3 taps",
            lambda x, w: kernels.conv1d(x, w, padding="causal"),
            {
                "channels last": lambda x, w: reference.conv1d(x, w, padding="causal"),
                "transposed": lambda x, w: F.conv1d(F.pad(x.mT, (2, 0)), w).mT,
            },
            "transposed",
            [x, taps],
            flops=2 * x.numel() * 96,
        ),
    ]  # fmt: skip


def gate() -> Contest:
    def halves(x: Tensor) -> Tensor:
        gate, value = x.chunk(2, dim=-1)
        return F.silu(gate) * value

    return Contest(
        "gated_act [32, 96, 176], SiLU", kernels.gated_act, {"chunk": halves}, "chunk", [leaf(32, 96, 176)], (2.2, 2.0)
    )


def edge() -> Contest:
    names = ["Identity", "TimeConv", "TCN", "DLinear", "Fourier"]
    torch.manual_seed(0)
    mixed = MixedOp(32, 96, names, dropout=0.0)

    def run(x: Tensor, w: Tensor, *_parameters: Tensor) -> Tensor:
        return mixed(x, EdgeMix(w, list(range(len(names)))))

    def plain(*tensors: Tensor) -> Tensor:
        with forced("reference"):
            return run(*tensors)

    parameters = list(mixed.ops.parameters())
    return Contest(
        f"edge {names}",
        run,
        {"reference": plain},
        "reference",
        [leaf(32, 96, 32), torch.rand(5).requires_grad_(), *parameters],
        (1.4, 1.4),
    )


def contests() -> list[Contest]:
    """All of them, on fresh tensors of seed 0."""
    torch.manual_seed(0)
    return [
        mixed_sum(8, (32, 96, 64), (1.6, 1.5), (2.7, 1.8)),
        mixed_sum(5, (32, 96, 32)),
        mixed_sum(4, (256, 96, 64)),
        selective_scan((32, 96, 128, 16), 7.0),
        selective_scan((8, 1024, 128, 16), 20.0),
        saliency(),
        block(32, (1.5, 2.1), (2.3, 2.9)),
        block(512, (1.4, 2.0), (2.7, 3.0)),
        moving_average(32, (2.5, 3.0), (25.0, 15.0)),
        moving_average(512, (1.7, 2.3), (30.0, 12.0)),
        wavelet(),
        spectral(),
        residual_convs(32),
        attention(32, 96, 2.0),
        attention(224, 12, 3.5),
        *products(),
        gate(),
        edge(),
    ]
