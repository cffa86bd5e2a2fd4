"""A small series of hours in which a season, a trend and noise can be found."""

from __future__ import annotations

from pathlib import Path

import numpy as np

CHANNELS = ("load", "holiday", "price")


def write_series(path: Path, rows: int = 500) -> Path:
    """Write a CSV of hourly rows and return its path."""
    t, channels = np.arange(rows), len(CHANNELS)
    noise = np.random.default_rng(0).standard_normal((rows, channels))
    values = np.stack([np.sin(t / (4.0 + 3 * c)) + 0.001 * t for c in range(channels)], axis=1) + 0.2 * noise
    start = np.datetime64("2024-01-01T00")
    lines = [f"{start + np.timedelta64(i, 'h')}," + ",".join(f"{v:.5f}" for v in row) for i, row in enumerate(values)]
    path.write_text("\n".join([",".join(["date", *CHANNELS]), *lines]) + "\n")
    return path
