"""What the searched and the derived network share: everything of a ``Macro`` that is not a cell."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn

from .._core.errors import DataError
from ..ops.blocks import Dropout, rms_norm
from .future import FutureEffect
from .sequence import build_sequence
from .spec import Macro
from .stem import Head, SeriesNorm, Stem

EVAL_TOKENS = 1 << 14  # in a forward pass without gradients: changes memory and speed only


class Skeleton(nn.Module):
    """Series norm, stem, sequence part and head around a stack of cells.

    Args:
        macro: the fixed choices.
    """

    targets: Tensor | None

    def __init__(self, macro: Macro) -> None:
        super().__init__()
        self.macro = macro
        self.norm = SeriesNorm(macro.series_norm)
        self.stem = Stem(macro)
        self.dropout = Dropout(macro.dropout)
        self.sequence = build_sequence(macro)
        self.final_norm = rms_norm(macro.hidden_dim)
        self.head = Head(macro, self.sequence.num_tokens_out)
        self.future = FutureEffect(macro) if macro.future_dim else None
        targets = None if macro.target_channels is None else torch.tensor(macro.target_channels)
        self.register_buffer("targets", targets, persistent=False)

    def forward(self, x: Tensor, cells: Iterable[nn.Module], x_future: Tensor | None = None) -> Tensor:
        """Map ``x [B, L, C]`` to the forecast ``[B, H, C_out]`` through ``cells`` (each ``[N, T, D] -> [N, T, D]``).

        ``x_future`` is ``[B, H, F]``, or longer: the first H steps count. It is required where ``future_dim`` is above
        0, and refused otherwise.

        Raises:
            DataError: ``x`` or ``x_future`` has another shape than the macro says.
        """
        m = self.macro
        if x.dim() != 3 or x.shape[1] != m.seq_length or x.shape[2] != m.input_dim:
            raise DataError(f"x has shape {tuple(x.shape)}; this network takes [B, {m.seq_length}, {m.input_dim}].")
        known = self._known(x, x_future)
        if m.channel_mode == "independent":
            x = self._picked(x)  # the other channels say nothing about these
        series, shift, scale = self.norm(x)
        tokens = self.dropout(self.stem(series))
        for cell in cells:
            tokens = cell(tokens)
        tokens = self.final_norm(self.sequence(tokens))
        if m.channel_mode == "variate" and self.targets is not None:
            tokens = tokens.index_select(1, self.targets)
        y = self.head(tokens, x.shape[0])
        if self.future is not None:
            y = y + self.future(tokens, known)
        if m.channel_mode != "independent":
            shift, scale = self._picked(shift), self._picked(scale)
        return self.norm.inverse(y, shift, scale)

    def _picked(self, x: Tensor) -> Tensor:
        """Return the target channels of ``x [B, T, C]``."""
        return x if self.targets is None else x.index_select(2, self.targets)

    def _known(self, x: Tensor, x_future: Tensor | None) -> Tensor | None:
        """Return the covariates of the horizon, ``[B, H, F]``; None where the network takes none."""
        m = self.macro
        if x_future is None and not m.future_dim:
            return None
        takes = f"this network takes [B, >= {m.horizon}, {m.future_dim}]" if m.future_dim else "this network takes none"
        if x_future is None:
            raise DataError(f"x_future is missing; {takes} (future_dim={m.future_dim}).")
        shape = tuple(x_future.shape)  # and never len(): it would fix B in an exported network
        if not m.future_dim:
            raise DataError(f"x_future of shape {shape} was given; {takes}: build it with future_dim={shape[-1]}.")
        if len(shape) != 3 or shape[0] != x.shape[0] or shape[1] < m.horizon or shape[2] != m.future_dim:
            raise DataError(f"x_future has shape {shape} for B={x.shape[0]}; {takes}.")
        return x_future[:, : m.horizon]


def forward_in_parts(model: nn.Module) -> Callable[..., Tensor]:
    """Return ``model`` as a function that splits a large batch, so that the memory of an evaluation stays bounded.

    For passes in eval mode and without gradients, where the forecast of a window does not depend on its batch. A batch
    of 256 windows is 600,000 tokens where each of 7 channels is a series of 336 steps, and a mixture keeps several
    tensors of that size.
    """
    costs = [part.macro.tokens_per_window for part in model.modules() if isinstance(part, Skeleton)]
    windows = max(1, EVAL_TOKENS // max(costs)) if costs else None

    def forward(*inputs: Tensor) -> Tensor:
        if windows is None or len(inputs[0]) <= windows:
            return model(*inputs)
        parts = zip(*(x.split(windows) for x in inputs), strict=True)
        return torch.cat([model(*part) for part in parts])

    return forward
