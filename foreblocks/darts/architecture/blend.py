"""A convex combination of forecasters: the final model joins the linear path and the network with it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import nn

from .._core.errors import InvalidArgument, check_real

_SUM_TOLERANCE = 1e-6


class BlendedForecaster(nn.Module):
    """Weighted sum of forecasters of the same windows, each ``x [B, L, C] -> [B, H, C_out]``.

    The weights are a buffer, so the state dict holds the whole model. ``blend.parts["ridge"]`` is a part.

    Args:
        parts: name → module, in the order of the weights; at least one.
        weights: convex weights ``[P]``: none negative, sum 1; None for equal ones.

    Raises:
        InvalidArgument: no part, or weights that are not convex or of another number.
    """

    weights: torch.Tensor

    def __init__(self, parts: Mapping[str, nn.Module], weights: Sequence[float] | None = None) -> None:
        super().__init__()
        if not parts:
            raise InvalidArgument("parts is empty; a blend needs at least one forecaster.")
        self.parts = nn.ModuleDict(parts)
        count = len(self.parts)
        self.register_buffer("weights", torch.full((count,), 1.0 / count))
        if weights is not None:
            self.set_weights(weights)

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the parts, in the order of the weights."""
        return tuple(self.parts.keys())

    def set_weights(self, weights: Sequence[float] | Mapping[str, float]) -> None:
        """Replace the weights, given in the order of the parts or by name.

        Raises:
            InvalidArgument: a part without a weight, a weight without a part, a negative weight, or a sum other
                than 1.
        """
        if isinstance(weights, Mapping):
            if set(weights) != set(self.names):
                raise InvalidArgument(f"weights has the names {sorted(weights)}; the parts are {sorted(self.names)}.")
            weights = [weights[name] for name in self.names]
        values = [check_real(f"weights[{i}]", value, low=0.0) for i, value in enumerate(weights)]
        if len(values) != len(self.parts):
            raise InvalidArgument(f"weights has {len(values)} values; there are {len(self.parts)} parts.")
        if abs(sum(values) - 1.0) > _SUM_TOLERANCE:
            raise InvalidArgument(f"weights={values} sum to {sum(values)}; they must sum to 1.")
        self.weights.copy_(torch.tensor(values))

    def weight_of(self) -> dict[str, float]:
        """Return name → weight."""
        return dict(zip(self.names, self.weights.tolist(), strict=True))

    def without_idle_parts(self) -> BlendedForecaster:
        """Return the blend of the parts whose weight is not 0, which it shares: the same forecasts for less work."""
        busy = {name: weight for name, weight in self.weight_of().items() if weight > 0}
        made = BlendedForecaster({name: self.parts[name] for name in busy})
        made.weights = self.weights[self.weights > 0]
        return made.train(self.training)

    def forward(self, x: torch.Tensor, x_future: torch.Tensor | None = None) -> torch.Tensor:
        """Return the blended forecast ``[B, H, C_out]`` for windows ``x [B, L, C]``; each part gets ``x_future``."""
        inputs = (x,) if x_future is None else (x, x_future)
        forecasts = [part(*inputs) for part in self.parts.values()]
        weighted = [weight * part for weight, part in zip(self.weights.unbind(), forecasts, strict=True)]
        total = weighted[0]
        for term in weighted[1:]:
            total = total + term
        return total
