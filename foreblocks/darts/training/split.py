"""Which training windows teach the weights and which teach the alphas: blocks that share no row."""

from __future__ import annotations

import torch
from torch import Tensor

from .._core.errors import DataError
from .._core.logging import get_logger
from .._core.seeding import generator
from .._core.types import WindowSource

logger = get_logger(__name__)

ALPHA_SHARE = 0.3
MAX_BLOCKS = 4
MAX_LOSS = 0.25  # share of the windows that the gaps may cost


def bilevel_split(source: WindowSource, *, seed: int, batch_size: int) -> tuple[Tensor, Tensor]:
    """Split the windows of a source into weight windows and alpha windows.

    Time is cut into alternating contiguous blocks (weights about 70 %); a window that touches both kinds of block is
    dropped, so no row of the series is seen by both levels. Without known starts the windows are taken as independent
    samples and split at random; that is logged.

    Args:
        source: training windows.
        seed: decides which kind of block comes first (or the random split).
        batch_size: both parts keep at least two batches where possible; else the gap shrinks, with one warning.

    Returns:
        Indices of the weight windows and of the alpha windows, int64, ascending.

    Raises:
        DataError: fewer than two windows.
    """
    count = len(source)
    if count < 2:
        raise DataError(f"the training set has {count} window(s); a bilevel split needs at least 2.")
    starts = source.starts
    if starts is None:
        logger.info("training windows have no known position in time: split at random into weight and alpha windows.")
        order = torch.randperm(count, generator=generator("bilevel_split", seed))
        cut = min(count - 1, max(1, round((1.0 - ALPHA_SHARE) * count)))
        return order[:cut].sort().values, order[cut:].sort().values
    span = source.lookback + source.horizon
    # Both parts want two batches; tiny sets cannot have that, whatever the gap.
    wanted = min(2 * batch_size, max(1, count // 8))
    for gap in (span - 1, span // 2, span // 4, 0):
        weights, alphas = _cut(starts, gap, seed)
        if min(len(weights), len(alphas)) >= wanted:
            break
    if gap < span - 1:
        logger.warning(
            "the series is short: the gap between weight and alpha windows shrinks from %d to %d steps.", span - 1, gap
        )
    return weights, alphas


def _cut(starts: Tensor, gap: int, seed: int) -> tuple[Tensor, Tensor]:
    first, last = int(starts.min()), int(starts.max())
    rows = last - first + 1
    # As many blocks as the gaps allow: more blocks spread both parts over the seasons.
    pairs = max(1, min(MAX_BLOCKS, int(MAX_LOSS * rows / max(1, 2 * gap)) if gap else MAX_BLOCKS))
    length = rows / pairs
    position = starts - first
    within = position - (torch.div(position, length, rounding_mode="floor") * length)
    share = ALPHA_SHARE if seed % 2 else 1.0 - ALPHA_SHARE  # length of the block that comes first in each pair
    border = share * length
    # A window must end inside its block. Behind the last block there is nothing to reach into, so there it may.
    first_kind = within < border - gap
    second_kind = (within >= border) & ((within < length - gap) | (position >= rows - (length - border)))
    first_kind, second_kind = first_kind.nonzero().flatten(), second_kind.nonzero().flatten()
    return (second_kind, first_kind) if seed % 2 else (first_kind, second_kind)
