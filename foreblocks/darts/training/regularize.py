"""The architecture loss: which penalties a search adds to the loss of its alphas, and with what weights."""

from __future__ import annotations

from torch import Tensor

from .._core.errors import InvalidArgument, check_choice
from ..architecture.mixed_op import edge_logits
from ..architecture.network import TimeSeriesDARTS
from ..config import DARTSTrainConfig
from .penalties import (
    OWN_PENALTIES,
    PENALTIES,
    EdgeTable,
    IdentityCap,
    LogitDecay,
    Penalty,
    Sharpening,
    Similarity,
    UsageBalance,
)

DEFAULT_WEIGHT = 0.01


class ArchitecturePenalty:
    """The sum of the penalties that a config asks for.

    Args:
        config: search settings. ``regularization_types`` names entries of ``PENALTIES``; None means the one that
            belongs to the relaxation of the network (``OWN_PENALTIES``), an empty list none of them. The edge terms
            have their own weights.

    Raises:
        InvalidArgument: an unknown type, or weights that do not match the types.
    """

    def __init__(self, config: DARTSTrainConfig) -> None:
        types = list(config.regularization_types or [])
        weights = list(config.regularization_weights or [DEFAULT_WEIGHT] * len(types))
        if len(weights) != len(types):
            raise InvalidArgument(
                f"regularization_weights has {len(weights)} entries for {len(types)} regularization_types."
            )
        for name in types:
            check_choice("regularization_types", name, PENALTIES)
        terms: list[tuple[Penalty, float]] = [
            *((PENALTIES[name], weight) for name, weight in zip(types, weights, strict=True)),
            (Similarity(), config.edge_diversity_weight),
            (UsageBalance(), config.edge_usage_balance_weight),
            (IdentityCap(config.edge_identity_cap), config.edge_identity_cap_weight),
            (Sharpening(config.edge_sharpening_start_frac), config.edge_sharpening_max_weight),
            (LogitDecay(), config.beta_darts_weight),
        ]
        self._terms = [(penalty, weight) for penalty, weight in terms if weight]
        self._own = config.regularization_types is None

    def __call__(self, model: TimeSeriesDARTS, progress: float) -> Tensor:
        """Return the weighted penalty of the current alphas; ``progress`` in [0, 1] counts from the end of warm-up."""
        edges = [edge for edge in model.edges if edge.op_logits is not None]
        terms = list(self._terms)
        if self._own and model.relaxation in OWN_PENALTIES:
            name, weight = OWN_PENALTIES[model.relaxation]
            terms.append((PENALTIES[name], weight))
        total = next(model.parameters()).new_zeros(())
        if not edges or not terms:
            return total
        table = EdgeTable(edge_logits(edges), edges[0].relaxation, edges[0].names, progress)
        for penalty, weight in terms:
            total = total + weight * penalty(table)
        return total
