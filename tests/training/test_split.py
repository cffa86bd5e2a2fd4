"""Weight and alpha windows share no row of the series."""

from __future__ import annotations

import pytest
import torch

from foreblocks.darts.data.windows import WindowDataset
from foreblocks.darts.training.split import bilevel_split


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize(("rows", "lookback", "horizon"), [(2000, 24, 12), (8640, 336, 96), (600, 20, 5)])
def test_no_row_is_seen_by_both(rows: int, lookback: int, horizon: int, seed: int) -> None:
    source = WindowDataset(torch.randn(rows, 2), lookback, horizon)
    weights, alphas = bilevel_split(source, seed=seed, batch_size=32)
    seen = [
        {row for start in source.starts[part].tolist() for row in range(start, start + lookback + horizon)}
        for part in (weights, alphas)
    ]
    assert not seen[0] & seen[1]
    assert 0.5 * len(source) < len(weights) + len(alphas) < len(source)
    assert len(weights) > len(alphas) > 0


def test_tiny_series_shrinks_the_gap_with_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    source = WindowDataset(torch.randn(60, 2), 24, 12)
    weights, alphas = bilevel_split(source, seed=0, batch_size=4)
    assert len(weights)
    assert len(alphas)
    assert not set(weights.tolist()) & set(alphas.tolist())
    assert "gap" in caplog.text
