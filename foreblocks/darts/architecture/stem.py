"""The way in and out of a network: series normalisation, tokens, and the head that makes the horizon."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ..ops.blocks import Dropout
from .spec import Macro

STD_FLOOR = 1e-5


class SeriesNorm(nn.Module):
    """Per-window, per-channel normalisation whose inverse uses the same statistics.

    ``revin``: subtract the mean, divide by the standard deviation (Kim et al., ICLR 2022, without the affine map).
    ``last``: subtract the last value (Zeng et al., NLinear, AAAI 2023). ``none``: nothing.
    """

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return the normalised ``x [B, L, C]``, its shift and its scale, both ``[B, 1, C]``."""
        shift = torch.zeros_like(x[:, :1])
        scale = torch.ones_like(shift)
        if self.kind == "last":
            shift = x[:, -1:]
        elif self.kind == "revin":
            shift = x.mean(dim=1, keepdim=True)
            # Without gradient: the statistics describe the data, and sqrt has no second derivative at 0.
            scale = (x.var(dim=1, keepdim=True, correction=0) + STD_FLOOR).sqrt()
        return (x - shift) / scale, shift, scale

    @staticmethod
    def inverse(y: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
        """Undo the normalisation on a forecast ``y [B, H, C]``."""
        return torch.addcmul(shift, y, scale)


class Stem(nn.Module):
    """Tokens from a normalised series: ``[B, L, C] -> [N, T, D]``, N = B or B·C by ``channel_mode``."""

    def __init__(self, macro: Macro) -> None:
        super().__init__()
        self.macro = macro
        width = {"mixed": macro.input_dim * macro.patch_len, "independent": macro.patch_len}
        self.embed = nn.Linear(width.get(macro.channel_mode, macro.seq_length), macro.hidden_dim)
        self.position = nn.Parameter(0.02 * torch.randn(macro.num_tokens, macro.hidden_dim))

    def forward(self, x: Tensor) -> Tensor:
        """Return tokens ``[N, T, D]``."""
        m = self.macro
        if m.channel_mode == "variate":
            return self.embed(x.transpose(1, 2)) + self.position
        if m.channel_mode == "independent":
            x = x.transpose(1, 2).reshape(-1, m.seq_length, 1)
        if m.patch_len > 1:
            x = self._patches(x)
        return self.embed(x) + self.position

    def _patches(self, x: Tensor) -> Tensor:
        m = self.macro
        covered = (m.num_tokens - 1) * m.stride + m.patch_len
        front = covered - m.seq_length
        if front:
            x = torch.cat([x[:, :1].expand(-1, front, -1), x], dim=1)
        return x.unfold(1, m.patch_len, m.stride).flatten(2)  # [N, T, C·patch]


class Head(nn.Module):
    """The horizon from tokens: ``[N, T', D] -> [B, H, C_out]`` on the normalised scale.

    ``flatten`` reads all tokens at once, ``factorised`` maps time and then features, ``last`` reads the last token.
    With ``channel_mode="variate"`` each token is a target channel, so every head is one Linear D → H per token.
    """

    def __init__(self, macro: Macro, num_tokens: int) -> None:
        super().__init__()
        self.macro = macro
        outputs = macro.output_dim if macro.channel_mode == "mixed" else 1
        self.dropout = Dropout(macro.dropout)
        self.time: nn.Linear | None = None
        if macro.channel_mode == "variate" or macro.head == "last":
            self.out = nn.Linear(macro.hidden_dim, macro.horizon * outputs)
        elif macro.head == "flatten":
            self.out = nn.Linear(num_tokens * macro.hidden_dim, macro.horizon * outputs)
        else:
            self.time = nn.Linear(num_tokens, macro.horizon)
            self.out = nn.Linear(macro.hidden_dim, outputs)

    def forward(self, tokens: Tensor, batch: int) -> Tensor:
        """Return the forecast ``[B, H, C_out]`` of a batch of ``batch`` windows."""
        m = self.macro
        if m.channel_mode == "variate":
            return self.out(self.dropout(tokens)).transpose(1, 2)
        if self.time is not None:
            y = self.out(self.dropout(self.time(tokens.transpose(1, 2)).transpose(1, 2)))  # [N, H, C or 1]
        else:
            flat = tokens[:, -1] if m.head == "last" else tokens.flatten(1)
            y = self.out(self.dropout(flat)).unflatten(-1, (m.horizon, -1))
        if m.channel_mode == "mixed":
            return y
        return y.squeeze(-1).unflatten(0, (batch, m.output_dim)).transpose(1, 2)
