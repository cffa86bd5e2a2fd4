"""The running mean of a model's weights over epochs."""

from __future__ import annotations

from typing import Any, final

from torch import Tensor, nn

from .loop import cpu_state


@final
class WeightAverage:
    """Running mean of weights over epochs (Izmailov et al., SWA, UAI 2018); what is not floating point is the latest.

    Attributes:
        count: epochs so far.
        state: state dict of the mean (CPU).
    """

    def __init__(self) -> None:
        self.count = 0
        self.state: dict[str, Tensor] = {}

    def add(self, model: nn.Module) -> None:
        """Take the current weights of ``model`` into the mean."""
        self.count += 1
        for name, value in cpu_state(model).items():
            if self.count == 1 or not value.is_floating_point():
                self.state[name] = value
            else:
                self.state[name].lerp_(value, 1.0 / self.count)

    def to_dict(self) -> dict[str, Any]:
        """Return plain Python and CPU tensors that share nothing with the average."""
        return {"count": self.count, "state": {name: value.clone() for name, value in self.state.items()}}

    def load_dict(self, data: dict[str, Any]) -> None:
        """Inverse of ``to_dict``."""
        self.count = data["count"]
        self.state = {name: value.clone() for name, value in data["state"].items()}
