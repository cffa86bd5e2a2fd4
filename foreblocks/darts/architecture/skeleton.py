"""What the searched and the derived network share: everything of a ``Macro`` that is not a cell."""

from __future__ import annotations

from collections.abc import Iterable

from torch import Tensor, nn

from .._core.errors import DataError
from ..ops.blocks import rms_norm
from .sequence import build_sequence
from .spec import Macro
from .stem import Head, SeriesNorm, Stem


class Skeleton(nn.Module):
    """Series norm, stem, sequence part and head around a stack of cells.

    Args:
        macro: the fixed choices.
    """

    def __init__(self, macro: Macro) -> None:
        super().__init__()
        self.macro = macro
        self.norm = SeriesNorm(macro.series_norm)
        self.stem = Stem(macro)
        self.dropout = nn.Dropout(macro.dropout)
        self.sequence = build_sequence(macro)
        self.final_norm = rms_norm(macro.hidden_dim)
        self.head = Head(macro, self.sequence.num_tokens_out)

    def forward(self, x: Tensor, cells: Iterable[nn.Module]) -> Tensor:
        """Map ``x [B, L, C]`` to the forecast ``[B, H, C]`` through ``cells`` (each ``[N, T, D] -> [N, T, D]``).

        Raises:
            DataError: ``x`` has another shape than the macro says.
        """
        m = self.macro
        if x.dim() != 3 or x.shape[1] != m.seq_length or x.shape[2] != m.input_dim:
            raise DataError(f"x has shape {tuple(x.shape)}; this network takes [B, {m.seq_length}, {m.input_dim}].")
        series, shift, scale = self.norm(x)
        tokens = self.dropout(self.stem(series))
        for cell in cells:
            tokens = cell(tokens)
        tokens = self.final_norm(self.sequence(tokens))
        return self.norm.inverse(self.head(tokens, x.shape[0]), shift, scale)
