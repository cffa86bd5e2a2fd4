"""What makes two searches the same: settings and data, as plain values with names."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from typing import Any

import torch

from .._core.plain import to_plain
from .._core.seeding import generator
from .._core.types import WindowSource, gather_batch, layout_of
from ..training.state_file import tensor_bytes
from .settings import SearchSettings

ENVIRONMENT = "environment."  # begins the names of what may change the last digits only
MAX_WINDOWS = 4096  # windows without a position in time that are read for a checksum
_CHUNK = 1024

#: settings that change nothing in what a search finds; a finished one may be resumed with another rival beside it
_WITHOUT_EFFECT = frozenset(
    {
        "run_dir", "resume", "callbacks", "keep_models", "scaler", "baseline", "best_preset", "search.max_workers",
        "search.collect_stats", "search.parallelism_levels", "search.stats_dir", "search.run_name",
        "search.est_overhead_per_task", "search.est_fixed_overhead_phase1", "search.est_fixed_overhead_phase3",
        "search.benchmark_phase1_workers", "search.benchmark_phase1_candidates", "train.verbose",
    }
)  # fmt: skip


def search_identity(train: WindowSource, val: WindowSource, settings: SearchSettings) -> dict[str, Any]:
    """Return name → plain value: every setting that has an effect, the data, and versions (``ENVIRONMENT``).

    Test data are left out: they are read once, at the very end.
    """
    described = to_plain({name: value for name, value in vars(settings).items() if name not in _WITHOUT_EFFECT})
    flat = {name: value for name, value in _flat(described).items() if name not in _WITHOUT_EFFECT}
    return {
        **flat,
        **describe_source("train data", train),
        **describe_source("validation data", val),
        f"{ENVIRONMENT}torch": torch.__version__,
        f"{ENVIRONMENT}kernels": os.environ.get("FOREBLOCKS_DARTS_KERNELS", "auto"),
    }


def describe_source(name: str, source: WindowSource) -> dict[str, Any]:
    """Return the shape of a source and a checksum of its values.

    Windows that overlap are read as far as needed to see each row once; of windows without a position in time at most
    ``MAX_WINDOWS``, drawn by a fixed seed.
    """
    digest = hashlib.blake2b(digest_size=16)
    starts = source.starts
    if starts is not None:
        digest.update(tensor_bytes(starts.cpu()))
    for part in covering_windows(source).split(_CHUNK):
        batch = gather_batch(source, part).to("cpu")
        for tensor in (*batch.inputs, batch.y):
            digest.update(tensor_bytes(tensor))
    return {
        f"{name}.windows": len(source),
        f"{name}.lookback": source.lookback,
        f"{name}.horizon": source.horizon,
        f"{name}.channels": source.channels,
        f"{name}.checksum": digest.hexdigest(),
    }


def covering_windows(source: WindowSource) -> torch.Tensor:
    """Return few windows that hold every row, int64; where rows do not tell windows apart, up to ``MAX_WINDOWS``."""
    starts = source.starts
    if starts is None or len(starts.unique()) < len(starts):
        order = torch.randperm(len(source), generator=generator("checksum"))
        return order[:MAX_WINDOWS].sort().values
    rows, order = starts.cpu().sort(stable=True)
    # Covariates are read for the future only, so they need windows closer to each other.
    span = source.horizon if layout_of(source).future_dim != 0 else source.lookback + source.horizon
    chosen, position = [], 0
    while position < len(rows):
        chosen.append(position)
        # The last window that begins where the chosen one ends or before; else, after a gap, the next one.
        reach = int(torch.searchsorted(rows, rows[position] + span, right=True)) - 1
        position = max(position + 1, reach)
    return order[torch.tensor(chosen, dtype=torch.int64)]


def differences(stored: Mapping[str, Any], wanted: Mapping[str, Any]) -> dict[str, str]:
    """Return name → a sentence for each entry that is not equal in both."""
    missing = object()
    found = {}
    for name in sorted({*stored, *wanted}):
        there, here = stored.get(name, missing), wanted.get(name, missing)
        if there is missing or here is missing or json.dumps(there) != json.dumps(here):
            texts = ["nothing" if value is missing else repr(value) for value in (there, here)]
            found[name] = f"{name.removeprefix(ENVIRONMENT)}: {texts[0]} in the folder, {texts[1]} now"
    return found


def _flat(value: Any, prefix: str = "") -> dict[str, Any]:
    """Return nested dicts as one, with dots in the names."""
    if not isinstance(value, dict) or not value:
        return {prefix: value}
    flat: dict[str, Any] = {}
    for key, item in value.items():
        flat.update(_flat(item, f"{prefix}.{key}" if prefix else key))
    return flat
