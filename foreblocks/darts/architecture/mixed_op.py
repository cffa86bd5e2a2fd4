"""An edge of the searched network: several ops at once, weighted by what the search learns."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from .. import kernels
from .._core.errors import InvalidArgument, check_real
from ..ops.registry import build_op, get_op, resolve_ops
from .relax import build_relaxation

ALPHA_NOISE = 1e-3
PRUNED = -1e9  # finite, so that no gradient is NaN


@dataclass(frozen=True)
class MixtureSettings:
    """How logits become probabilities.

    Attributes:
        relaxation: name of a relaxation (``architecture.relax``).
        group_temperature_mult: family temperature over op temperature.
        min_group_temperature: lower bound of the family temperature.
        min_op_temperature: lower bound of the op temperature.
        group_min_prob: share of the probability that is spread evenly over the ops of an edge with several families.
    """

    relaxation: str = "softmax"
    group_temperature_mult: float = 1.5
    min_group_temperature: float = 0.7
    min_op_temperature: float = 0.3
    group_min_prob: float = 0.03


class MixedOp(nn.Module):
    """A mixture of ops, ``[N, T, D] -> [N, T, D]``, with two levels of logits: families
    and ops; ``p ∝ exp(op / τ + family / τ_family)``.

    Logits exist only where there is a choice: no family logits with one family, none at all with one op.

    Args:
        dim: width D.
        length: steps T.
        ops: names of the ops, in the order of the weights.
        dropout: rate inside the ops.
        settings: how logits become probabilities.
    """

    def __init__(
        self,
        dim: int,
        length: int,
        ops: Sequence[str],
        *,
        dropout: float = 0.1,
        settings: MixtureSettings | None = None,
    ) -> None:
        super().__init__()
        self.settings = settings or MixtureSettings()
        self.names = tuple(resolve_ops(ops))
        self.ops = nn.ModuleDict({name: build_op(name, dim, length, dropout=dropout) for name in self.names})
        families = [get_op(name).family for name in self.names]
        self.families = tuple(dict.fromkeys(families))
        self.relaxation = build_relaxation(self.settings.relaxation)
        self.temperature = 1.0
        count, groups = len(self.names), len(self.families)
        self.op_logits = nn.Parameter(ALPHA_NOISE * torch.randn(count)) if count > 1 else None
        self.family_logits = nn.Parameter(ALPHA_NOISE * torch.randn(groups)) if groups > 1 else None
        member = torch.tensor([[family == group for group in self.families] for family in families])
        self.register_buffer("member", member, persistent=False)  # [K, F]: op k belongs to family f
        self.register_buffer("alive", torch.ones(count, dtype=torch.bool))  # pruned ops are False
        self._forced: int | None = None
        self._dropped: int | None = None
        self._running: list[int] = list(range(count))
        self.register_load_state_dict_post_hook(_refresh_running)

    def arch_parameters(self) -> Iterator[nn.Parameter]:
        """Yield the logits of this edge."""
        for logits in (self.op_logits, self.family_logits):
            if logits is not None:
                yield logits

    def log_probs(self) -> Tensor:
        """Return log-probabilities ``[K]`` at the current temperature; pruned ops have ``-inf``."""
        if self.op_logits is None:
            return self.member.new_zeros(1, dtype=torch.get_default_dtype())
        s = self.settings
        logits = self.op_logits / max(self.temperature, s.min_op_temperature)
        if self.family_logits is not None:
            # Added and not normalised inside the family: the logit of an op that is alone in its family still counts.
            temperature = max(self.temperature * s.group_temperature_mult, s.min_group_temperature)
            logits = logits + (self.family_logits / temperature * self.member).sum(dim=1)
        result = torch.log_softmax(logits.masked_fill(~self.alive, PRUNED), dim=0)
        if s.group_min_prob and self.family_logits is not None:
            # A floor by mixing with the uniform distribution: unlike clamping, it keeps gradients.
            result = torch.log((1.0 - s.group_min_prob) * result.exp() + s.group_min_prob / self.alive.sum())
        return result.masked_fill(~self.alive, -torch.inf)

    def probabilities(self) -> Tensor:
        """Return detached probabilities ``[K]`` over ``names``."""
        with torch.no_grad():
            return self.log_probs().exp()

    def force(self, index: int | None) -> None:
        """Run only op ``index`` with weight 1 (None: the mixture again). Used to evaluate the derived path."""
        if index is not None and not 0 <= index < len(self.names):
            raise InvalidArgument(f"index={index} must be between 0 and {len(self.names) - 1}.")
        self._forced = index

    def drop(self, index: int | None) -> None:
        """Leave op ``index`` out of the mixture; the weights of the others stay (None: nothing is left out)."""
        if index is not None and not 0 <= index < len(self.names):
            raise InvalidArgument(f"index={index} must be between 0 and {len(self.names) - 1}.")
        self._dropped = index

    def keep_only(self, alive: Tensor) -> None:
        """Prune every op whose entry in ``alive`` (bool ``[K]``) is False; a pruned op is never computed again."""
        merged = self.alive & alive.to(self.alive.device)
        if not bool(merged.any()):
            raise InvalidArgument("pruning would leave an edge without an op.")
        self.alive.copy_(merged)
        _refresh_running(self, None)

    @property
    def running(self) -> list[str]:
        """Names of the ops that are not pruned."""
        return [self.names[k] for k in self._running]

    def forward(self, x: Tensor) -> Tensor:
        """Map ``[N, T, D]`` to ``[N, T, D]``."""
        if self._forced is not None:
            return self.ops[self.names[self._forced]](x)
        if len(self.names) == 1:
            return self.ops[self.names[0]](x)
        weights, active = self.relaxation.weights(self.log_probs(), self.temperature, self.training)
        indices = self._running if active is None else active
        if self._dropped in indices:
            indices = [k for k in indices if k != self._dropped]
            if not indices:
                return torch.zeros_like(x)
        outputs = [self.ops[self.names[k]](x) for k in indices]
        picked = weights if len(indices) == len(self.names) else weights[indices]
        return kernels.mixed_sum(outputs, picked.to(x.dtype))

    def set_temperature(self, temperature: float) -> None:
        """Set the op temperature (above 0); the family temperature follows."""
        self.temperature = check_real("temperature", temperature, low=1e-6)

    def get_alphas(self) -> Tensor:
        """Return detached probabilities ``[K]``; same as ``probabilities``."""
        return self.probabilities()

    def describe(self, top_k: int = 3) -> dict[str, Any]:
        """Return the ``top_k`` most probable ops and their probabilities."""
        probs = self.probabilities().tolist()
        order = sorted(range(len(probs)), key=lambda k: -probs[k])[:top_k]
        return {self.names[k]: probs[k] for k in order}


def _refresh_running(module: MixedOp, _keys: Any) -> None:
    # Kept as a Python list so that a forward pass never has to ask the device which ops are alive.
    module._running = module.alive.nonzero().flatten().tolist()
