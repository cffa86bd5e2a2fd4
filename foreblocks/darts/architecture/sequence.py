"""The sequence part of a network: what happens to the tokens between the cells and the head."""

from __future__ import annotations

from collections.abc import Callable
from typing import final

import torch
from torch import Tensor, nn

from ..ops.attention import MultiHeadAttention
from ..ops.blocks import TimeLinear, rms_norm
from ..ops.ffn import MoE, SwiGLU
from ..ops.ssm import SelectiveSSM
from .cell import LAYER_SCALE
from .spec import Macro

QUERY_NOISE = 0.02

_FFNS: dict[str, Callable[..., nn.Module]] = {"swiglu": SwiGLU, "moe": MoE}


@final
class Residual(nn.Module):
    """``x + scale · branch(RMSNorm(x))``: the main path is untouched, the branch starts small.

    ``scale`` ``[D]`` starts at 0.1 (LayerScale; Touvron et al., CaiT, ICCV 2021).

    Args:
        dim: D.
        branch: maps ``[N, T, D]``, and perhaps a memory ``[N, S, D]``, to ``[N, T, D]``.
    """

    def __init__(self, dim: int, branch: nn.Module) -> None:
        super().__init__()
        self.norm = rms_norm(dim)
        self.branch = branch
        self.scale = nn.Parameter(torch.full((dim,), LAYER_SCALE))

    def forward(self, x: Tensor, *memory: Tensor) -> Tensor:
        """Map ``[N, T, D]`` to ``[N, T, D]``; ``memory`` goes to the branch as it is."""
        return torch.addcmul(x, self.branch(self.norm(x), *memory), self.scale)


@final
class HorizonTokens(nn.Module):
    """First guess of the horizon tokens: a learned query each, plus a linear map over time of the context.

    With ``channel_mode="variate"`` there is one token a channel, and no map: its query is added to it.

    Args:
        macro: the fixed choices.
    """

    def __init__(self, macro: Macro) -> None:
        super().__init__()
        steps = horizon_tokens(macro)
        self.queries = nn.Parameter(QUERY_NOISE * torch.randn(steps, macro.hidden_dim))
        self.time = nn.Identity() if macro.channel_mode == "variate" else TimeLinear(macro.num_tokens, steps)

    def forward(self, context: Tensor) -> Tensor:
        """Map the context ``[N, T, D]`` to horizon tokens ``[N, Q, D]``."""
        return self.time(context) + self.queries


@final
class EncoderOnly(nn.Module):
    """Self-attention blocks on the tokens.

    Args:
        macro: the fixed choices.

    ``num_tokens_out`` is T.
    """

    def __init__(self, macro: Macro) -> None:
        super().__init__()
        self.num_tokens_out = macro.num_tokens
        self.blocks = nn.Sequential(*(_block(macro) for _ in range(macro.num_layers)))

    def forward(self, tokens: Tensor) -> Tensor:
        """Map ``[N, T, D]`` to ``[N, T, D]``."""
        return self.blocks(tokens)


@final
class DecoderBlock(nn.Module):
    """Self-attention among the horizon tokens, attention to the encoded context, feed-forward.

    Args:
        macro: the fixed choices.
    """

    def __init__(self, macro: Macro) -> None:
        super().__init__()
        self.own = Residual(macro.hidden_dim, _attention(macro))
        self.cross = Residual(macro.hidden_dim, _attention(macro))
        self.ffn = Residual(macro.hidden_dim, _ffn(macro))

    def forward(self, horizon: Tensor, context: Tensor) -> Tensor:
        """Map ``horizon [N, Q, D]``, seeing ``context [N, T, D]``, to ``[N, Q, D]``."""
        return self.ffn(self.cross(self.own(horizon), context))


@final
class EncoderDecoder(nn.Module):
    """An encoder, then horizon tokens that read from it, all of them in parallel.

    Args:
        macro: the fixed choices.

    ``num_tokens_out`` is Q, see ``horizon_tokens``.
    """

    def __init__(self, macro: Macro) -> None:
        super().__init__()
        self.num_tokens_out = horizon_tokens(macro)
        self.encoder = nn.Sequential(*(_block(macro) for _ in range(macro.num_layers)))
        self.horizon = HorizonTokens(macro)
        self.decoder = nn.ModuleList(DecoderBlock(macro) for _ in range(macro.num_layers))

    def forward(self, tokens: Tensor) -> Tensor:
        """Map ``[N, T, D]`` to ``[N, Q, D]``."""
        context = self.encoder(tokens)
        horizon = self.horizon(context)
        for block in self.decoder:
            horizon = block(horizon, context)
        return horizon


@final
class DecoderOnly(nn.Module):
    """Context and horizon tokens one after the other in a single causal stack.

    With ``channel_mode="variate"`` the tokens are channels, which have no before and after: the stack is not causal.

    Args:
        macro: the fixed choices.

    ``num_tokens_out`` is Q, see ``horizon_tokens``.
    """

    def __init__(self, macro: Macro) -> None:
        super().__init__()
        self.num_tokens_out = horizon_tokens(macro)
        self.horizon = HorizonTokens(macro)
        causal = macro.channel_mode != "variate"
        self.blocks = nn.Sequential(*(_block(macro, causal=causal) for _ in range(macro.num_layers)))

    def forward(self, tokens: Tensor) -> Tensor:
        """Map ``[N, T, D]`` to ``[N, Q, D]``."""
        stacked = torch.cat([tokens, self.horizon(tokens)], dim=1)
        return self.blocks(stacked)[:, tokens.shape[1] :].contiguous()


@final
class Mamba(nn.Module):
    """Selective state-space blocks on the tokens; causal.

    Args:
        macro: the fixed choices.

    ``num_tokens_out`` is T.
    """

    def __init__(self, macro: Macro) -> None:
        super().__init__()
        dim = macro.hidden_dim
        self.num_tokens_out = macro.num_tokens
        self.blocks = nn.Sequential(
            *(Residual(dim, SelectiveSSM(dim, dropout=macro.dropout)) for _ in range(macro.num_layers))
        )

    def forward(self, tokens: Tensor) -> Tensor:
        """Map ``[N, T, D]`` to ``[N, T, D]``."""
        return self.blocks(tokens)


SequencePart = EncoderOnly | EncoderDecoder | DecoderOnly | Mamba
_PARTS: dict[str, Callable[[Macro], SequencePart]] = {
    "encoder_only": EncoderOnly,
    "encoder_decoder": EncoderDecoder,
    "decoder_only": DecoderOnly,
    "mamba": Mamba,
}


def build_sequence(macro: Macro) -> SequencePart:
    """Build the sequence part for ``macro.arch_mode``.

    Returns:
        A module with ``num_tokens_out`` that maps ``[N, T, D]`` to ``[N, num_tokens_out, D]``. With ``num_layers=0``
        it is the identity, or for the modes with a decoder only the first guess of the horizon tokens.
    """
    return _PARTS[macro.arch_mode](macro)


def horizon_tokens(macro: Macro) -> int:
    """Return Q: one token for every ``patch_len`` steps of the horizon, or one a channel with variate tokens."""
    if macro.channel_mode == "variate":
        return macro.num_tokens
    return -(-macro.horizon // macro.patch_len)


def moe_balance_loss(module: nn.Module) -> Tensor:
    """Return the sum of the balance losses of every ``MoE`` inside ``module``; 0 if there is none."""
    losses = [part.balance_loss() for part in module.modules() if isinstance(part, MoE)]
    return torch.stack(losses).sum() if losses else torch.zeros(())


def _attention(macro: Macro, *, causal: bool = False) -> nn.Module:
    return MultiHeadAttention(
        macro.hidden_dim,
        macro.num_heads,
        variant=macro.attention,
        causal=causal,
        dropout=macro.dropout,
        ordered=macro.channel_mode != "variate",
    )


def _ffn(macro: Macro) -> nn.Module:
    return _FFNS[macro.ffn](macro.hidden_dim, dropout=macro.dropout)


def _block(macro: Macro, *, causal: bool = False) -> nn.Module:
    """Return a pre-norm block: attention, then feed-forward."""
    dim = macro.hidden_dim
    return nn.Sequential(Residual(dim, _attention(macro, causal=causal)), Residual(dim, _ffn(macro)))
