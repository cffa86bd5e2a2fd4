"""What covariates that are known ahead add to a forecast."""

from __future__ import annotations

from typing import final

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..ops.blocks import Dropout
from .spec import Macro

EMBEDDING_NOISE = 0.02


@final
class FutureEffect(nn.Module):
    """A term of the forecast for every step, from the covariates of that step and the state of the series.

    The temporal decoder of TiDE (Das et al., Long-term Forecasting with TiDE, TMLR 2023, section 4.2): a small network
    of one hidden layer, the same for all steps, whose path from a step's covariates to its forecast is short.

        effect[t] = W_o silu(W_f x_future[t] + W_s state + e)

    The state is the mean of the tokens of a series or, with ``channel_mode="variate"``, the token of a channel; ``e``
    tells channels apart that share all other weights.

    Args:
        macro: the fixed choices, with ``future_dim`` above 0.
    """

    def __init__(self, macro: Macro) -> None:
        super().__init__()
        self.macro = macro
        mixed = macro.channel_mode == "mixed"
        series = 1 if mixed else macro.output_dim
        self.known = nn.Linear(macro.future_dim, macro.hidden_dim, bias=False)
        self.state = nn.Linear(macro.hidden_dim, macro.hidden_dim)
        self.channel_embedding = nn.Parameter(EMBEDDING_NOISE * torch.randn(series, macro.hidden_dim))
        self.dropout = Dropout(macro.dropout)
        self.out = nn.Linear(macro.hidden_dim, macro.output_dim if mixed else 1, bias=False)

    def forward(self, tokens: Tensor, x_future: Tensor) -> Tensor:
        """Return ``[B, H, C_out]``, on the scale of the head.

        Args:
            tokens: what the head sees, ``[N, T, D]``; with variate tokens those of the target channels.
            x_future: ``[B, H, F]``.
        """
        variate = self.macro.channel_mode == "variate"
        series = tokens if variate else tokens.mean(dim=1).unflatten(0, (x_future.shape[0], -1))  # [B, S, D]
        state = self.state(series) + self.channel_embedding
        hidden = F.silu(self.known(x_future)[:, None] + state[:, :, None])  # [B, S, H, D]
        effect = self.out(self.dropout(hidden))
        return effect[:, 0] if self.macro.channel_mode == "mixed" else effect[..., 0].transpose(1, 2)
