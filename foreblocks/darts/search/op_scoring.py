"""How much each op of each edge matters to a network at initialisation, and alphas that start from it.

Source: Xiang et al., "Zero-Cost Operation Scoring in Differentiable Architecture Search", AAAI 2023: an op is as
important as the network's zero-cost score is worse without it.
"""

from __future__ import annotations

import copy
import math

import torch
from torch import Tensor, nn

from .._core.errors import InvalidArgument
from .._core.logging import get_logger
from .._core.types import WindowSource
from ..architecture.mixed_op import MixedOp
from ..architecture.network import TimeSeriesDARTS
from ..config import DARTSTrainConfig
from .proxies import evaluate_proxies, get_proxy
from .settings import MIN_SCREENING_WINDOWS, screening_count
from .zero_cost import screening_windows

logger = get_logger(__name__)
DEFAULT_PROXY = "jacobian"
START_SPREAD = 0.5  # standard deviation of an edge's starting logits: a preference, not a decision


def score_operations(
    model: nn.Module, x: Tensor, y: Tensor, *, proxy: str = DEFAULT_PROXY, x_future: Tensor | None = None
) -> dict[str, dict[str, float]]:
    """Return ``{"cell_i_edge_j": {op: importance}}`` for every edge with a choice.

    The importance of an op is the score of the whole network minus its score without the op, the weights of the
    other ops unchanged; with a proxy of which less is better the other way round. Every op takes one evaluation of the
    proxy. The network comes back untouched.

    Args:
        model: a ``TimeSeriesDARTS``.
        x: inputs ``[B, L, C]``.
        y: targets ``[B, H, C]``.
        proxy: name of the score.
        x_future: covariates ``[B, H, F]``, for a network that takes them.

    Returns:
        NaN stands for an op without which the proxy has no value; the reason is logged.

    Raises:
        InvalidArgument: the model is of another kind, the proxy is unknown, or it has no value for the whole network.
    """
    model = _searched(model)
    direction = get_proxy(proxy).direction
    twin = copy.deepcopy(model)
    edges = _edges(twin)
    for edge in edges.values():
        if not edge.relaxation.partial:
            edge.set_relaxation("softmax")  # one that samples would not compute every op
    full = evaluate_proxies(twin, x, y, names=[proxy], x_future=x_future)
    if proxy not in full.values:
        raise InvalidArgument(f"proxy={proxy!r} has no value for this network: {full.errors[proxy]}.")
    scores: dict[str, dict[str, float]] = {}
    for name, edge in edges.items():
        scores[name] = {}
        for index, op in enumerate(edge.names):
            edge.drop(index)
            without = evaluate_proxies(twin, x, y, names=[proxy], x_future=x_future)
            if proxy in without.errors:
                logger.warning("%s of %s has no importance: %s.", op, name, without.errors[proxy])
            scores[name][op] = direction * (full.values[proxy] - without.values.get(proxy, math.nan))
        edge.drop(None)
    return scores


def start_alphas(model: nn.Module, train: WindowSource, config: DARTSTrainConfig, seed: int) -> None:
    """Set the op logits of a network that is about to be searched as ``config.alpha_init`` says.

    ``noise`` leaves the small random ones. ``zero_cost`` adds to those of each edge the importance of its ops
    (``score_operations`` on spread training windows), standardised over the edge, times 0.5. Family and edge logits
    stay.

    Raises:
        InvalidArgument: see ``score_operations``.
    """
    if config.alpha_init == "noise":
        return
    count = screening_count(MIN_SCREENING_WINDOWS, 1, [_searched(model).macro])
    windows = screening_windows(train, count, seed).to(next(model.parameters()).device)
    scores = score_operations(model, windows.x, windows.y, x_future=windows.x_future)
    for name, edge in _edges(_searched(model)).items():
        assert edge.op_logits is not None, "these edges have a choice"
        with torch.no_grad():
            edge.op_logits.add_(START_SPREAD * _standardised(list(scores[name].values())).to(edge.op_logits))
    logger.info("the alphas of %d edges start from zero-cost scores.", len(scores))


def _searched(model: nn.Module) -> TimeSeriesDARTS:
    if not isinstance(model, TimeSeriesDARTS):
        raise InvalidArgument(f"model is a {type(model).__name__}; ops are scored in a TimeSeriesDARTS.")
    return model


def _edges(model: TimeSeriesDARTS) -> dict[str, MixedOp]:
    return {
        f"cell_{i}_edge_{j}": edge
        for i, cell in enumerate(model.cells)
        for j, edge in enumerate(cell.edges)
        if edge.op_logits is not None
    }


def _standardised(values: list[float]) -> Tensor:
    """Return mean 0 and standard deviation 1; what is missing is 0, and so is all without a difference."""
    scores = torch.tensor(values, dtype=torch.float64)
    known = scores.isfinite()
    if int(known.sum()) < 2:
        return torch.zeros_like(scores)
    spread = scores[known].std(correction=0)
    if float(spread) <= 1e-12 * float(scores[known].abs().max()):
        return torch.zeros_like(scores)
    return torch.where(known, (scores - scores[known].mean()) / spread, 0.0)
