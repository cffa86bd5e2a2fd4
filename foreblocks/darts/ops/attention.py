"""Multi-head attention in five forms, written as plain products and softmaxes so that it differentiates twice.

The fused CPU kernel of ``scaled_dot_product_attention`` has no second derivative, and choosing its back-end is global
to the process; the explicit form needs neither.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar, final

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .._core.errors import InvalidArgument, check_choice, check_int
from ..kernels.dispatch import observed
from .blocks import FeatureDropout, Linear

ROPE_BASE = 10000.0
SPARSE_FACTOR = 5
SMALLEST_WINDOW = 4
START_TEMPERATURE = 10.0
LARGEST_TEMPERATURE = 100.0
_EPS = 1e-6


@dataclass(frozen=True)
class Geometry:
    """Which query may see which key.

    Attributes:
        causal: query t sees keys up to t only.
        ordered: tokens follow each other in time; False for tokens that are a set, such as channels.
    """

    causal: bool = False
    ordered: bool = True


def rotate(x: Tensor) -> Tensor:
    """Turn pairs of features by an angle that grows with the step: rotary position embedding.

    Args:
        x: queries or keys ``[N, heads, T, E]``. Features i and i + E // 2 are a pair; of an odd E the last one stays.

    Returns:
        ``[N, heads, T, E]``. The product of a rotated query and a rotated key depends on their distance only.

    The angles are made for the T at hand and kept nowhere: nothing to store, cast or move. Source: Su et al.,
    RoFormer, 2021, base 10000.
    """
    half = x.shape[-1] // 2
    if half == 0:
        return x
    # At least float32: bfloat16 holds an angle of 300 to the nearest 2 only.
    exact = torch.promote_types(x.dtype, torch.float32)
    rate = torch.pow(ROPE_BASE, -torch.arange(half, dtype=exact, device=x.device) / half)
    angle = torch.arange(x.shape[2], dtype=exact, device=x.device).unsqueeze(-1) * rate  # [T, E // 2]
    cos, sin = angle.cos().to(x.dtype), angle.sin().to(x.dtype)
    pairs = x[..., : 2 * half]
    # Rolling by a half swaps the halves in one copy; slices would each fill a gradient of the full size.
    turned = torch.addcmul(pairs * torch.cat([cos, cos], -1), pairs.roll(half, -1), torch.cat([-sin, sin], -1))
    return turned if x.shape[-1] == 2 * half else torch.cat([turned, x[..., 2 * half :]], dim=-1)


def local_window(length: int) -> int:
    """Return how many of ``length`` keys a query of local attention sees: a quarter, at least 4."""
    return max(SMALLEST_WINDOW, length // 4)


def sparse_queries(length: int) -> int:
    """Return how many of ``length`` queries ProbSparse attention computes: ``5 ⌈ln(T + 1)⌉``, at most T."""
    return min(length, SPARSE_FACTOR * math.ceil(math.log(length + 1)))


def _gaps(q: Tensor, k: Tensor) -> Tensor:
    """Return query step minus key step, ``[T, S]``."""
    queries = torch.arange(q.shape[2], device=q.device).unsqueeze(-1)
    return queries - torch.arange(k.shape[2], device=q.device)


def _turned(a: Tensor, b: Tensor) -> Tensor:
    """Return ``a b`` as ``(bᵀ aᵀ)ᵀ``: with few columns in ``b`` a batched product is three times as fast this way."""
    return torch.matmul(b.transpose(-1, -2), a.transpose(-1, -2)).transpose(-1, -2)


class _Score(torch.autograd.Function):
    """``q kᵀ``, ``[N, heads, T, E]`` by ``[N, heads, S, E]``; both gradients as turned products."""

    @staticmethod
    def forward(q: Tensor, k: Tensor) -> Tensor:
        return torch.matmul(q, k.transpose(-1, -2))

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor], output: Tensor) -> None:
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor]:
        q, k = ctx.saved_tensors
        return _turned(grad, k), _turned(grad.transpose(-1, -2), q)


class _Mix(torch.autograd.Function):
    """``a v``, ``[N, heads, T, S]`` by ``[N, heads, S, E]``, and the gradient of ``v`` as turned products."""

    @staticmethod
    def forward(a: Tensor, v: Tensor) -> Tensor:
        return _turned(a, v)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor], output: Tensor) -> None:
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor]:
        a, v = ctx.saved_tensors
        # Not turned: the softmax before it reads this gradient row by row.
        return torch.matmul(grad, v.transpose(-1, -2)), _turned(a.transpose(-1, -2), grad)


def _turning_pays(x: Tensor) -> bool:
    # Where something looks into the graph it has to see plain products, and the compiler makes its own choice.
    return x.device.type == "cpu" and not torch.compiler.is_compiling() and not observed()


def _softmax_attention(q: Tensor, k: Tensor, v: Tensor, hidden: Tensor | None) -> Tensor:
    """Attend with queries that are already scaled; ``hidden [T, S]`` is True where a key must not be seen."""
    turn = _turning_pays(q)
    scores = _Score.apply(q, k) if turn else torch.matmul(q, k.transpose(-1, -2))
    if hidden is not None:
        scores = scores.masked_fill(hidden, -math.inf)
    shares = torch.softmax(scores, dim=-1)
    return _Mix.apply(shares, v) if turn else torch.matmul(shares, v)


def _future(q: Tensor, k: Tensor, geometry: Geometry) -> Tensor | None:
    return _gaps(q, k) < 0 if geometry.causal else None


@final
class SoftmaxAttention(nn.Module):
    """Scaled dot-product attention (Vaswani et al., 2017)."""

    rotary: ClassVar[bool] = True

    def __init__(self, heads: int, geometry: Geometry) -> None:
        super().__init__()
        self.geometry = geometry

    def forward(self, q: Tensor, k: Tensor, v: Tensor, *, cross: bool) -> Tensor:
        """Map ``q [N, heads, T, E]``, ``k`` and ``v [N, heads, S, E]`` to ``[N, heads, T, E]``."""
        return _softmax_attention(q * q.shape[-1] ** -0.5, k, v, _future(q, k, self.geometry))


@final
class LinearAttention(nn.Module):
    """Attention with the kernel ``φ(q) · φ(k)``, ``φ = ELU + 1``; the cost grows with T, not with T².

    Source: Katharopoulos et al., "Transformers are RNNs", 2020. The causal form keeps running sums of ``φ(k) vᵀ``.
    Queries and keys are not rotated: that would break the positivity that the normaliser needs.
    """

    rotary: ClassVar[bool] = False

    def __init__(self, heads: int, geometry: Geometry) -> None:
        super().__init__()
        self.geometry = geometry

    def forward(self, q: Tensor, k: Tensor, v: Tensor, *, cross: bool) -> Tensor:
        """Map ``q [N, heads, T, E]``, ``k`` and ``v [N, heads, S, E]`` to ``[N, heads, T, E]``."""
        q, k = F.elu(q) + 1.0, F.elu(k) + 1.0
        # A column of ones among the values makes the normaliser in the same products.
        v = torch.cat([v, torch.ones_like(v[..., :1])], dim=-1)
        if self.geometry.causal:
            sums = (k.unsqueeze(-1) * v.unsqueeze(-2)).cumsum(dim=2)  # [N, heads, T, E, E + 1]
            out = torch.matmul(q.unsqueeze(-2), sums).squeeze(-2)
        else:
            out = torch.matmul(q, torch.matmul(k.transpose(-1, -2), v))
        return out[..., :-1] / (out[..., -1:] + _EPS)


@final
class ProbSparseAttention(nn.Module):
    """Softmax attention for the few queries that matter, the mean value for the others.

    A query matters by ``max(score) - mean(score)``. It is measured on all keys, so nothing is drawn at random, and
    ``sparse_queries(T)`` queries with the largest measure are kept. In the causal form a measure counts the keys up to
    its own step, a query is kept if it is among the largest *so far* (a later query never decides about an earlier
    one), and the others get the running mean. Source: Zhou et al., Informer, AAAI 2021, eq. 2-4, which samples keys.
    """

    rotary: ClassVar[bool] = True

    def __init__(self, heads: int, geometry: Geometry) -> None:
        super().__init__()
        self.geometry = geometry

    def forward(self, q: Tensor, k: Tensor, v: Tensor, *, cross: bool) -> Tensor:
        """Map ``q [N, heads, T, E]``, ``k`` and ``v [N, heads, S, E]`` to ``[N, heads, T, E]``."""
        q = q * q.shape[-1] ** -0.5
        kept = sparse_queries(q.shape[2])
        future = _future(q, k, self.geometry)
        if kept == q.shape[2]:
            return _softmax_attention(q, k, v, future)
        # Which queries are kept is a step function of the scores; there is no gradient to follow.
        scores = torch.matmul(q.detach(), k.detach().transpose(-1, -2))
        if future is not None:
            return _sparse_causal(q, k, v, scores, future, kept)
        index = (scores.amax(dim=-1) - scores.mean(dim=-1)).topk(kept, dim=-1).indices.unsqueeze(-1)
        index = index.expand(-1, -1, -1, v.shape[-1])  # [N, heads, kept, E]
        attended = _softmax_attention(q.gather(2, index), k, v, None)
        return v.mean(dim=2, keepdim=True).expand(-1, -1, q.shape[2], -1).scatter(2, index, attended)


def _sparse_causal(q: Tensor, k: Tensor, v: Tensor, scores: Tensor, future: Tensor, kept: int) -> Tensor:
    """Return causal ProbSparse attention ``[N, heads, T, E]``; ``scores [N, heads, T, T]`` carry no gradient."""
    count = torch.arange(1, q.shape[2] + 1, dtype=v.dtype, device=v.device)
    mean = scores.masked_fill(future, 0.0).sum(dim=-1) / count
    measure = scores.masked_fill(future, -math.inf).amax(dim=-1) - mean  # [N, heads, T]
    larger = (measure.unsqueeze(-2) > measure.unsqueeze(-1)) & ~future
    chosen = (larger.sum(dim=-1) < kept).unsqueeze(-1)
    running = v.cumsum(dim=2) / count.unsqueeze(-1)
    return torch.where(chosen, _softmax_attention(q, k, v, future), running)


@final
class CosineAttention(nn.Module):
    """Softmax of the cosine between query and key times a temperature that each head learns.

    The temperature starts at 10 and stays at most 100. Source: Liu et al., Swin Transformer V2, CVPR 2022.
    """

    rotary: ClassVar[bool] = True

    def __init__(self, heads: int, geometry: Geometry) -> None:
        super().__init__()
        self.geometry = geometry
        self.log_temperature = nn.Parameter(torch.full((heads, 1, 1), math.log(START_TEMPERATURE)))

    def forward(self, q: Tensor, k: Tensor, v: Tensor, *, cross: bool) -> Tensor:
        """Map ``q [N, heads, T, E]``, ``k`` and ``v [N, heads, S, E]`` to ``[N, heads, T, E]``."""
        temperature = self.log_temperature.clamp(max=math.log(LARGEST_TEMPERATURE)).exp()
        return _softmax_attention(_unit(q) * temperature, _unit(k), v, _future(q, k, self.geometry))


def _unit(x: Tensor) -> Tensor:
    # Smooth at zero, unlike a division by the norm: its second derivative is finite there.
    return x * torch.rsqrt(x.square().sum(dim=-1, keepdim=True) + _EPS)


@final
class LocalAttention(nn.Module):
    """Softmax attention within a band of ``local_window(S)`` keys.

    Self-attention sees ``window // 2`` steps on each side, or the last ``window`` steps if causal. In cross-attention
    the queries follow the memory in time, so its last ``window`` steps are the near ones; where the tokens have no
    order in time, a query sees the band around the key of its own index (scaled if there are more keys than queries).
    """

    rotary: ClassVar[bool] = True

    def __init__(self, heads: int, geometry: Geometry) -> None:
        super().__init__()
        self.geometry = geometry

    def forward(self, q: Tensor, k: Tensor, v: Tensor, *, cross: bool) -> Tensor:
        """Map ``q [N, heads, T, E]``, ``k`` and ``v [N, heads, S, E]`` to ``[N, heads, T, E]``."""
        return _softmax_attention(q * q.shape[-1] ** -0.5, k, v, self._hidden(q, k, cross))

    def _hidden(self, q: Tensor, k: Tensor, cross: bool) -> Tensor:
        length, keys = q.shape[2], k.shape[2]
        window = local_window(keys)
        if self.geometry.causal:
            gaps = _gaps(q, k)
            return (gaps < 0) | (gaps >= window)
        if cross and self.geometry.ordered:
            return (torch.arange(keys, device=q.device) < keys - window).expand(length, keys)
        centre = torch.arange(length, device=q.device) * keys // length
        return (centre.unsqueeze(-1) - torch.arange(keys, device=q.device)).abs() > window // 2


_Kernel = SoftmaxAttention | LinearAttention | ProbSparseAttention | CosineAttention | LocalAttention

ATTENTION_KERNELS: dict[str, type[_Kernel]] = {
    "sdp": SoftmaxAttention,
    "linear": LinearAttention,
    "probsparse": ProbSparseAttention,
    "cosine": CosineAttention,
    "local": LocalAttention,
}


@final
class MultiHeadAttention(nn.Module):
    """Self- or cross-attention with a choice of kernel.

    Args:
        dim: D.
        heads: heads, at least 1; must divide ``dim``.
        variant: a key of ``ATTENTION_KERNELS``.
        causal: output t depends on inputs up to t only; then there can be no memory.
        dropout: rate on whole output features, in [0, 1).
        ordered: whether the tokens follow each other in time; False leaves out the rotary position, which tells
            steps apart in self-attention (all kernels but ``linear``).

    Raises:
        InvalidArgument: a value is out of range.

    Deterministic in eval mode, independent of the other samples of a batch, twice differentiable.
    """

    def __init__(
        self,
        dim: int,
        heads: int,
        *,
        variant: str,
        causal: bool = False,
        dropout: float = 0.0,
        ordered: bool = True,
    ) -> None:
        super().__init__()
        check_int("heads", heads, low=1)
        if dim % heads:
            raise InvalidArgument(f"dim={dim} must be divisible by heads={heads}.")
        kernel = ATTENTION_KERNELS[check_choice("variant", variant, ATTENTION_KERNELS)]
        self.heads = heads
        self.causal = causal
        self.rotary = ordered and kernel.rotary
        # No bias: softmax does not see one that is added to every key.
        self.query = Linear(dim, dim, bias=False)
        self.key_value = Linear(dim, 2 * dim, bias=False)
        self.kernel = kernel(heads, Geometry(causal=causal, ordered=ordered))
        self.out = Linear(dim, dim)
        self.dropout = FeatureDropout(dropout)

    def forward(self, x: Tensor, memory: Tensor | None = None) -> Tensor:
        """Attend from ``x [N, T, D]`` to itself, or to ``memory [N, S, D]``; returns ``[N, T, D]``.

        Raises:
            InvalidArgument: a memory is given, but the attention is causal.
        """
        if memory is not None and self.causal:
            raise InvalidArgument("memory is given, but causal=True: cross-attention has no common time axis.")
        q = self._split(self.query(x))
        k, v = (self._split(part) for part in self.key_value(x if memory is None else memory).chunk(2, dim=-1))
        if memory is None and self.rotary:
            q, k = rotate(q), rotate(k)
        mixed = self.kernel(q, k, v, cross=memory is not None)
        return self.dropout(self.out(mixed.transpose(1, 2).flatten(2)))

    def _split(self, x: Tensor) -> Tensor:
        """Map ``[N, T, D]`` to ``[N, heads, T, D / heads]``."""
        return x.unflatten(-1, (self.heads, -1)).transpose(1, 2)
