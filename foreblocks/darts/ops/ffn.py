"""Feed-forward blocks: a gated one, and a mixture of gated experts."""

from __future__ import annotations

import math
from typing import Any, final

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .._core.errors import check_int
from ..kernels import gated_act
from .blocks import FeatureDropout, Linear


def gated_width(dim: int, parts: int = 1) -> int:
    """Return the hidden width ``8/3 · dim / parts``, rounded up to a multiple of 8.

    With 8/3 a gated block has as many weights as a plain one of width 4 · dim (Shazeer, "GLU variants", 2020).
    """
    return 8 * math.ceil(dim / (3 * parts))


@final
class SwiGLU(nn.Module):
    """Gated feed-forward block ``W₂ (SiLU(W₀ x) ⊙ W₁ x)`` on each step (Shazeer, "GLU variants", 2020).

    Args:
        dim: D.
        hidden: inner width, at least 1; None means ``gated_width(dim)``.
        dropout: rate on whole output features, in [0, 1).

    Raises:
        InvalidArgument: a value is out of range.
    """

    def __init__(self, dim: int, *, hidden: int | None = None, dropout: float = 0.0) -> None:
        super().__init__()
        width = gated_width(dim) if hidden is None else check_int("hidden", hidden, low=1)
        self.up = Linear(dim, 2 * width, bias=False)
        self.down = Linear(width, dim, bias=False)
        self.dropout = FeatureDropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        """Map ``[N, T, D]`` to ``[N, T, D]``."""
        return self.dropout(self.down(gated_act(self.up(x))))


@final
class MoE(nn.Module):
    """One shared SwiGLU expert plus ``experts`` routed ones, of which each token uses ``top_k``.

    A token's gate is the softmax over its ``top_k`` largest router logits. An expert is small (a shared and ``top_k``
    routed ones together are about as wide as one ``SwiGLU``), so all of them are computed as one wide block whose
    hidden units are scaled by the gate, 0 for an expert that was not chosen: two products, and no control flow that
    depends on data.

    Args:
        dim: D.
        experts: routed experts, at least 1.
        top_k: experts that a token uses, from 1 to ``experts``.
        dropout: rate on whole output features, in [0, 1).

    Raises:
        InvalidArgument: a value is out of range.

    In training mode the routing of the last forward pass is kept for ``balance_loss``. It is no part of the state dict
    and left out of copies and pickles; a forward pass in eval mode drops it.

    Sources: Fedus et al., Switch Transformers, 2021 (balance); Dai et al., DeepSeekMoE, 2024 (shared expert).
    """

    def __init__(self, dim: int, *, experts: int = 4, top_k: int = 2, dropout: float = 0.0) -> None:
        super().__init__()
        self.experts = check_int("experts", experts, low=1)
        self.top_k = check_int("top_k", top_k, low=1, high=experts)
        width = gated_width(dim, 1 + top_k)
        total = (1 + experts) * width
        self.router = Linear(dim, experts, bias=False)
        self.up = Linear(dim, 2 * total, bias=False)
        self.down = Linear(total, dim, bias=False)
        # Each expert is initialised as the block of its own width that it is.
        nn.init.uniform_(self.down.weight, -1.0 / math.sqrt(width), 1.0 / math.sqrt(width))
        self.dropout = FeatureDropout(dropout)
        self._routing: tuple[Tensor, Tensor] | None = None

    def forward(self, x: Tensor) -> Tensor:
        """Map ``[N, T, D]`` to ``[N, T, D]``."""
        logits = self.router(x)  # [N, T, E]
        top, index = logits.topk(self.top_k, dim=-1)
        routed = torch.zeros_like(logits).scatter(-1, index, torch.softmax(top, dim=-1))
        weights = torch.cat([torch.ones_like(top[..., :1]), routed], dim=-1).unsqueeze(-1)  # the shared expert first
        hidden = gated_act(self.up(x)).unflatten(-1, (1 + self.experts, -1)) * weights  # [N, T, 1 + E, width]
        self._routing = (logits, index) if self.training else None
        return self.dropout(self.down(hidden.flatten(-2)))

    def balance_loss(self) -> Tensor:
        """Return ``E · Σ f_e P_e`` of the last training pass: 1 when balanced, up to ``E / top_k``; 0 if none ran.

        ``f_e`` is the share of the assignments that went to expert e, ``P_e`` its mean router probability; only the
        latter has a gradient.
        """
        if self._routing is None:
            return self.router.weight.new_zeros(())
        logits, index = self._routing
        share = F.one_hot(index, self.experts).to(logits.dtype).flatten(0, -2).mean(dim=0)
        probability = torch.softmax(logits, dim=-1).flatten(0, -2).mean(dim=0)
        return self.experts * (share * probability).sum()

    def __getstate__(self) -> dict[str, Any]:
        # The kept routing hangs on a graph, which neither deepcopy nor pickle takes.
        return {**self.__dict__, "_routing": None}
