"""One row per candidate: what it is made of, how it scored, how far it came."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from ...config import DEFAULT_OP_FAMILIES, DEFAULT_OPS
from .records import Record, SearchRecords

#: fixed choices of a candidate that are words, in the order in which figures show them
CHOICES = ("arch_mode", "channel_mode", "series_norm", "head", "attention_type", "ffn_type")
SIZES = ("num_operations", "hidden_dim", "num_cells", "num_nodes", "num_edges", "patch_len")
#: what a candidate is judged by; the losses are each measured alike for all candidates that have them
METRICS = ("zero_cost_score", "rank_score", "trial_val_loss", "first_rung_val_loss")
LOSSES = ("trial_val_loss", "first_rung_val_loss")
LABELS = {
    "zero_cost_score": "zero-cost score",
    "rank_score": "zero-cost rank",
    "trial_val_loss": "trial loss",
    "first_rung_val_loss": "first-rung loss",
    "num_operations": "number of ops",
    "hidden_dim": "width D",
    "num_cells": "cells",
    "num_nodes": "nodes per cell",
    "num_edges": "edges",
    "patch_len": "patch length",
    "arch_mode": "sequence part",
    "channel_mode": "channels",
    "series_norm": "series norm",
    "head": "head",
    "attention_type": "attention",
    "ffn_type": "feed-forward",
}
_FAMILY_OF = {op: family for family, ops in DEFAULT_OP_FAMILIES.items() for op in ops} | {"Identity": "identity"}


def family_of(op: str) -> str:
    """Return the documented family of an op, ``identity``, or ``other`` for an op of the user's."""
    return _FAMILY_OF.get(op, "other")


def analysis_rows(records: SearchRecords) -> list[dict[str, Any]]:
    """Return the rows of ``analysis_df``, best zero-cost rank first; every row has the same keys, None where unknown.

    ``trial_val_loss`` is the loss of the short training before promotion, ``first_rung_val_loss`` the derived loss
    after the first rung: both are measured alike for all that have them. ``val_loss`` is the derived loss at the last
    rung that the candidate reached, so it compares only candidates with equal ``epochs_trained``.
    """
    ops = op_order(records.candidates)
    zero_cost = list(dict.fromkeys(name for record in records.candidates for name in _metrics(record)))
    reached = _reached(records.rungs)
    finalists = {entry["candidate_id"]: entry for entry in records.finalists}
    promoted = set(records.promoted)
    rows = []
    for place, record in enumerate(records.candidates, start=1):
        identity = record["candidate_id"]
        rows.append(
            {
                "candidate_id": identity,
                "zero_cost_score": _finite(record.get("score")),
                "rank_score": _finite(record.get("rank_score")),
                "zero_cost_rank": place,
                **_architecture(record),
                **{f"zcm_{name}": _finite(_metrics(record).get(name)) for name in zero_cost},
                "zcm_aggregate_score": _finite((record.get("metrics") or {}).get("aggregate_score")),
                **_ops(record, ops),
                "is_top_candidate": identity in promoted,
                "was_trained": identity in reached,
                "trial_val_loss": _finite((record.get("trial") or {}).get("val_loss")),
                **reached.get(identity, dict.fromkeys(("first_rung_val_loss", "val_loss", "epochs_trained"))),
                "is_best": records.best_id is not None and identity == records.best_id,
                **_final(finalists.get(identity)),
            }
        )
    return rows


def op_order(candidates: Iterable[Record]) -> list[str]:
    """Return the documented ops in their order, then further ones by name."""
    seen = {op for record in candidates for op in record.get("selected_ops") or ()}
    return [*DEFAULT_OPS, *sorted(seen - set(DEFAULT_OPS))]


def features(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return the keys of numbers that describe an architecture: sizes, ops, and one 0/1 column per word chosen."""
    ops = [key for key in rows[0] if key.startswith("op_")] if rows else []
    return [*SIZES, *ops, *_all_indicators(rows)]


def with_indicators(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return the rows with a 0/1 column ``choice=word`` for every word that occurs; unknown choices stay unknown."""
    columns = _all_indicators(rows)
    wide = []
    for row in rows:
        known = {key: int(key in indicators(row)) for key in columns if row.get(key.partition("=")[0]) is not None}
        wide.append({**row, **known})
    return wide


def indicators(row: Mapping[str, Any]) -> list[str]:
    """Return ``choice=word`` for each choice of a row."""
    return [f"{name}={row[name]}" for name in CHOICES if row.get(name) is not None]


def score_key(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return the column that orders all candidates: ``rank_score``, or the weighted score where there is none."""
    return "rank_score" if any(row["rank_score"] is not None for row in rows) else "zero_cost_score"


def label(key: str) -> str:
    """Return the words for a key of the table."""
    name, _, word = key.partition("=")
    if word:
        return f"{LABELS.get(name, name)}: {word.replace('_', ' ')}"
    if key.startswith("op_"):
        return key.removeprefix("op_")
    return LABELS.get(key, key.removeprefix("zcm_").replace("_", " "))


def _all_indicators(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    found = {key for row in rows for key in indicators(row)}
    return sorted(found, key=lambda key: (CHOICES.index(key.partition("=")[0]), key))


def _architecture(record: Record) -> dict[str, Any]:
    macro = record.get("macro") or {}
    mode = record.get("arch_mode")
    ops = record.get("selected_ops")
    cells, nodes = record.get("num_cells"), record.get("num_nodes")
    attention_ops = [op for op in ops or () if family_of(op) == "attention"]
    known = mode is not None
    return {
        "num_operations": len(ops) if ops is not None else record.get("num_ops"),
        "hidden_dim": record.get("hidden_dim"),
        "num_cells": cells,
        "num_nodes": nodes,
        "num_edges": cells * nodes * (nodes - 1) // 2 if cells and nodes else None,
        "patch_len": macro.get("patch_len"),
        "arch_mode": mode,
        "encoder_type": {"mamba": "mamba", "decoder_only": "none"}.get(mode or "", "transformer") if known else None,
        "decoder_type": ("transformer" if mode in ("encoder_decoder", "decoder_only") else "none") if known else None,
        "attention_type": record.get("transformer_self_attention_type") if mode != "mamba" else "none",
        "ffn_type": record.get("transformer_ffn_variant"),
        "channel_mode": macro.get("channel_mode"),
        "series_norm": macro.get("series_norm"),
        "head": macro.get("head"),
        "uses_attention": bool(attention_ops) or mode != "mamba" if known else None,
        "likely_attention": bool(attention_ops) or mode != "mamba" if known else None,
        "attention_weight": len(attention_ops) / len(ops) if ops else None,
    }


def _ops(record: Record, ops: Sequence[str]) -> dict[str, int | None]:
    chosen = record.get("selected_ops")
    return {f"op_{op}": None if chosen is None else int(op in chosen) for op in ops}


def _metrics(record: Record) -> Mapping[str, Any]:
    metrics = record.get("metrics") or {}
    return metrics.get("metrics") or {}


def _reached(rungs: Sequence[Record]) -> dict[Any, dict[str, Any]]:
    """Return id → losses at the first rung and at the last one reached, with its epochs."""
    reached: dict[Any, dict[str, Any]] = {}
    for number, rung in enumerate(rungs):
        for row in rung["results"]:
            entry = reached.setdefault(row["candidate_id"], {"first_rung_val_loss": None})
            loss = _finite(row.get("val_loss"))
            if number == 0:
                entry["first_rung_val_loss"] = loss
            entry.update(val_loss=loss, epochs_trained=row.get("epochs", rung.get("epoch_budget")))
    return reached


def _final(finalist: Record | None) -> dict[str, Any]:
    test = (finalist or {}).get("test") or {}
    return {
        "final_val_loss": _finite((finalist or {}).get("val_loss")),
        **{f"final_{name}": _finite(test.get(name)) for name in ("mse", "rmse", "mae", "mape", "r2_score")},
        "final_blend_weight": _finite((finalist or {}).get("weight")),
    }


def _finite(value: Any) -> float | None:
    """Return the number, or None for what is none."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    return float(value) if math.isfinite(value) else None
