"""Multi-head attention in five forms.

All softmaxes go through ``kernels.softmax_attention``: the fused CPU kernel of ``scaled_dot_product_attention`` has no
second derivative, and choosing its back-end is global to the process.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from dataclasses import dataclass
from typing import TypedDict, final

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .._core.errors import InvalidArgument, check_choice, check_int
from ..kernels import softmax_attention
from ..kernels.attention import merge_heads, rotate, split_heads
from .blocks import FeatureDropout, Linear

SPARSE_FACTOR = 5
SMALLEST_WINDOW = 4
START_TEMPERATURE = 10.0
LARGEST_TEMPERATURE = 100.0
_EPS = 1e-6


class Range(TypedDict, total=False):
    """Two arguments of ``softmax_attention``; empty for all keys."""

    first: Tensor
    last: Tensor


@dataclass(frozen=True)
class Geometry:
    """Which query may see which key.

    Attributes:
        causal: query t sees keys up to t only.
        ordered: tokens follow each other in time; False for tokens that are a set, such as channels.
    """

    causal: bool = False
    ordered: bool = True

    def rotary(self, cross: bool) -> bool:
        """Return whether queries and keys are turned by their steps: in self-attention over time."""
        return self.ordered and not cross


def local_window(length: int) -> int:
    """Return how many of ``length`` keys a query of local attention sees: a quarter, at least 4."""
    return max(SMALLEST_WINDOW, length // 4)


def sparse_queries(length: int) -> int:
    """Return how many of ``length`` queries ProbSparse attention computes: ``5 ⌈ln(T + 1)⌉``, at most T."""
    return min(length, SPARSE_FACTOR * math.ceil(math.log(length + 1)))


def _past(q: Tensor, geometry: Geometry) -> Range:
    """Return the keys up to the query's own step, if causal."""
    if not geometry.causal:
        return {}
    step = torch.arange(q.shape[1], device=q.device)
    return {"first": torch.zeros_like(step), "last": step + 1}


class _Kernel(nn.Module):
    """Abstract: attention of several heads, without the maps around it.

    Args:
        heads: heads of E features each, side by side in the D features of a row.
        geometry: which query may see which key.
    """

    def __init__(self, heads: int, geometry: Geometry) -> None:
        super().__init__()
        self.heads = heads
        self.geometry = geometry

    @abstractmethod
    def forward(self, q: Tensor, k: Tensor, v: Tensor, *, cross: bool) -> Tensor:
        """Map ``q [N, T, D]``, ``k`` and ``v [N, S, D]`` to ``[N, T, D]``; ``cross``: they are of two series."""


@final
class SoftmaxAttention(_Kernel):
    """Scaled dot-product attention (Vaswani et al., 2017)."""

    def forward(self, q: Tensor, k: Tensor, v: Tensor, *, cross: bool) -> Tensor:
        """Map ``q [N, T, D]``, ``k`` and ``v [N, S, D]`` to ``[N, T, D]``."""
        seen = _past(q, self.geometry)
        return softmax_attention(q, k, v, self.heads, rotary=self.geometry.rotary(cross), **seen)


@final
class LinearAttention(_Kernel):
    """Attention with the kernel ``φ(q) · φ(k)``, ``φ = ELU + 1``; the cost grows with T, not with T².

    Source: Katharopoulos et al., "Transformers are RNNs", 2020. The causal form keeps running sums of ``φ(k) vᵀ``.
    Queries and keys are not rotated: that would break the positivity that the normaliser needs.
    """

    def forward(self, q: Tensor, k: Tensor, v: Tensor, *, cross: bool) -> Tensor:
        """Map ``q [N, T, D]``, ``k`` and ``v [N, S, D]`` to ``[N, T, D]``."""
        q, k, v = (split_heads(x, self.heads) for x in (q, k, v))
        q, k = F.elu(q) + 1.0, F.elu(k) + 1.0
        # A column of ones among the values makes the normaliser in the same products.
        v = torch.cat([v, torch.ones_like(v[..., :1])], dim=-1)
        if self.geometry.causal:
            sums = (k.unsqueeze(-1) * v.unsqueeze(-2)).cumsum(dim=2)  # [N, heads, T, E, E + 1]
            out = torch.matmul(q.unsqueeze(-2), sums).squeeze(-2)
        else:
            out = torch.matmul(q, torch.matmul(k.transpose(-1, -2), v))
        return merge_heads(out[..., :-1] / (out[..., -1:] + _EPS))


@final
class ProbSparseAttention(_Kernel):
    """Softmax attention for the few queries that matter, the mean value for the others.

    A query matters by ``max(score) - mean(score)``. It is measured on all keys, so nothing is drawn at random, and
    ``sparse_queries(T)`` queries with the largest measure are kept. In the causal form a measure counts the keys up to
    its own step, a query is kept if it is among the largest *so far* (a later query never decides about an earlier
    one), and the others get the running mean. Source: Zhou et al., Informer, AAAI 2021, eq. 2-4, which samples keys.
    """

    def forward(self, q: Tensor, k: Tensor, v: Tensor, *, cross: bool) -> Tensor:
        """Map ``q [N, T, D]``, ``k`` and ``v [N, S, D]`` to ``[N, T, D]``."""
        rotary, kept = self.geometry.rotary(cross), sparse_queries(q.shape[1])
        if kept == q.shape[1] or self.geometry.causal:
            attended = softmax_attention(q, k, v, self.heads, rotary=rotary, **_past(q, self.geometry))
            if kept == q.shape[1]:
                return attended
        q, k, v = (split_heads(x, self.heads) for x in (q, k, v))
        if rotary:
            q, k = rotate(q), rotate(k)
        # Which queries are kept is a step function of the scores; there is no gradient to follow.
        scores = torch.matmul(q.detach() * q.shape[-1] ** -0.5, k.detach().transpose(-1, -2))
        if self.geometry.causal:
            return merge_heads(_sparse_causal(split_heads(attended, self.heads), v, scores, kept))
        index = (scores.amax(dim=-1) - scores.mean(dim=-1)).topk(kept, dim=-1).indices.unsqueeze(-1)
        index = index.expand(-1, -1, -1, v.shape[-1])  # [N, heads, kept, E]
        attended = softmax_attention(merge_heads(q.gather(2, index)), merge_heads(k), merge_heads(v), self.heads)
        mean = v.mean(dim=2, keepdim=True).expand(-1, -1, q.shape[2], -1)
        return merge_heads(mean.scatter(2, index, split_heads(attended, self.heads)))


def _sparse_causal(attended: Tensor, v: Tensor, scores: Tensor, kept: int) -> Tensor:
    """Return causal ProbSparse attention ``[N, heads, T, E]``; ``scores [N, heads, T, T]`` carry no gradient."""
    step = torch.arange(v.shape[2], device=v.device)
    future = step > step.unsqueeze(-1)
    count = (step + 1).to(v.dtype)
    mean = scores.masked_fill(future, 0.0).sum(dim=-1) / count
    measure = scores.masked_fill(future, -math.inf).amax(dim=-1) - mean  # [N, heads, T]
    larger = (measure.unsqueeze(-2) > measure.unsqueeze(-1)) & ~future
    chosen = (larger.sum(dim=-1) < kept).unsqueeze(-1)
    running = v.cumsum(dim=2) / count.unsqueeze(-1)
    return torch.where(chosen, attended, running)


@final
class CosineAttention(_Kernel):
    """Softmax of the cosine between query and key times a temperature that each head learns.

    The temperature starts at 10 and stays at most 100. Source: Liu et al., Swin Transformer V2, CVPR 2022.
    """

    def __init__(self, heads: int, geometry: Geometry) -> None:
        super().__init__(heads, geometry)
        self.log_temperature = nn.Parameter(torch.full((heads, 1, 1), math.log(START_TEMPERATURE)))

    def forward(self, q: Tensor, k: Tensor, v: Tensor, *, cross: bool) -> Tensor:
        """Map ``q [N, T, D]``, ``k`` and ``v [N, S, D]`` to ``[N, T, D]``."""
        temperature = self.log_temperature.clamp(max=math.log(LARGEST_TEMPERATURE)).exp().flatten(1)  # [heads, 1]
        q, k = (self._unit(q) * temperature).flatten(2), self._unit(k).flatten(2)
        seen = _past(q, self.geometry)
        return softmax_attention(q, k, v, self.heads, scale=1.0, rotary=self.geometry.rotary(cross), **seen)

    def _unit(self, x: Tensor) -> Tensor:
        """Map ``[N, T, D]`` to ``[N, T, heads, E]`` of length 1 each; turning it later does not change that."""
        x = x.unflatten(-1, (self.heads, -1))
        # Smooth at zero, unlike a division by the norm: its second derivative is finite there.
        return x * torch.rsqrt(x.square().sum(dim=-1, keepdim=True) + _EPS)


@final
class LocalAttention(_Kernel):
    """Softmax attention within a band of ``local_window(S)`` keys.

    Self-attention sees ``window // 2`` steps on each side, or the last ``window`` steps if causal. In cross-attention
    the queries follow the memory in time, so its last ``window`` steps are the near ones; where the tokens have no
    order in time, a query sees the band around the key of its own index (scaled if there are more keys than queries).
    """

    def forward(self, q: Tensor, k: Tensor, v: Tensor, *, cross: bool) -> Tensor:
        """Map ``q [N, T, D]``, ``k`` and ``v [N, S, D]`` to ``[N, T, D]``."""
        seen = self._seen(q.shape[1], k.shape[1], cross, q.device)
        return softmax_attention(q, k, v, self.heads, rotary=self.geometry.rotary(cross), **seen)

    def _seen(self, length: int, keys: int, cross: bool, device: torch.device) -> Range:
        window = local_window(keys)
        step = torch.arange(length, device=device)
        if self.geometry.causal:
            return {"first": (step - window + 1).clamp(min=0), "last": step + 1}
        if cross and self.geometry.ordered:
            first = torch.full_like(step, max(0, keys - window))
            return {"first": first, "last": torch.full_like(step, keys)}
        centre = step * keys // length
        reach = window // 2
        return {"first": (centre - reach).clamp(min=0), "last": (centre + reach + 1).clamp(max=keys)}


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
        self.causal = causal
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
        q, (k, v) = self.query(x), self.key_value(x if memory is None else memory).chunk(2, dim=-1)
        return self.dropout(self.out(self.kernel(q, k, v, cross=memory is not None)))
