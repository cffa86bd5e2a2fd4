"""Counts over the candidates: which parts were offered, which were promoted, which were kept."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from statistics import median
from typing import Any

from .records import SearchRecords
from .table import CHOICES, family_of, op_order

Rows = Sequence[Mapping[str, Any]]


def find_patterns(records: SearchRecords, rows: Rows) -> dict[str, Any]:
    """Return the documented ``patterns``, and ``choices`` and ``families`` beside them.

    * ``component_analysis``: ``encoder``, ``decoder`` (type → figures) and ``rnn_type``, which is empty: this space
      has no recurrent parts.
    * ``attention_analysis``: attention kernel → figures.
    * ``final_analysis``: the best candidate, the finalists and the test errors.
    * ``operation_analysis``: ``overall``, ``top_candidates``, ``trained_candidates`` (op → candidates that offer it,
      every documented op is there) and ``totals``, the candidates whose ops are known.
    * ``choices``: each fixed choice → word → figures.
    * ``families``: see ``family_shares``.

    Figures are ``count`` candidates, ``promoted`` of them, and the medians ``rank_score`` and
    ``first_rung_val_loss``, None where nothing was measured.
    """
    return {
        "component_analysis": {
            "encoder": by_word(rows, "encoder_type"),
            "decoder": by_word(rows, "decoder_type"),
            "rnn_type": {},
        },
        "attention_analysis": by_word(rows, "attention_type"),
        "final_analysis": _final(records, rows),
        "operation_analysis": _operations(records),
        "choices": {name: by_word(rows, name) for name in CHOICES},
        "families": family_shares(records),
    }


def by_word(rows: Rows, key: str) -> dict[str, dict[str, Any]]:
    """Return the figures of the candidates with each value of ``key``, most frequent first."""
    groups: dict[str, list[Mapping[str, Any]]] = {}
    for row in rows:
        if row.get(key) is not None:
            groups.setdefault(str(row[key]), []).append(row)
    ordered = sorted(groups.items(), key=lambda item: (-len(item[1]), item[0]))
    return {
        word: {
            "count": len(group),
            "promoted": sum(row["is_top_candidate"] for row in group),
            "rank_score": _median(group, "rank_score"),
            "first_rung_val_loss": _median(group, "first_rung_val_loss"),
        }
        for word, group in ordered
    }


def family_shares(records: SearchRecords) -> dict[str, dict[str, float]]:
    """Return family → share, each adding up to 1 (or empty).

    * ``offered``: the ops of all candidates;
    * ``offered_promoted``: those of the promoted candidates;
    * ``offered_survivors``: those of the survivors of the last rung: what their edges could choose from;
    * ``kept``: the edges that the survivors kept.
    """
    chosen = {record["candidate_id"]: record.get("selected_ops") or () for record in records.candidates}
    kept: Counter[str] = Counter()
    for counts in records.op_counts.values():
        kept.update(counts)
    return {
        "offered": _shares(_each(chosen.values())),
        "offered_promoted": _shares(_each(chosen.get(i, ()) for i in records.promoted)),
        "offered_survivors": _shares(_each(chosen.get(i, ()) for i in records.op_counts)),
        "kept": _shares(kept),
    }


def _operations(records: SearchRecords) -> dict[str, Any]:
    promoted = set(records.promoted)
    trained = {row["candidate_id"] for rung in records.rungs for row in rung["results"]}
    ops = op_order(records.candidates)
    groups = {
        "overall": list(records.candidates),
        "top_candidates": [record for record in records.candidates if record["candidate_id"] in promoted],
        "trained_candidates": [record for record in records.candidates if record["candidate_id"] in trained],
    }
    counts = {name: _each(record.get("selected_ops") or () for record in group) for name, group in groups.items()}
    return {
        **{name: {op: counts[name][op] for op in ops} for name in groups},
        "totals": {name: sum(bool(r.get("selected_ops")) for r in group) for name, group in groups.items()},
    }


def _final(records: SearchRecords, rows: Rows) -> dict[str, Any]:
    best: Mapping[str, Any] = next((row for row in rows if row["is_best"]), {})
    kept = ("name", "candidate_id", "val_loss", "derived_loss", "weight")
    return {
        "best_candidate_id": records.best_id,
        "zero_cost_rank": best.get("zero_cost_rank"),
        "val_loss": best.get("val_loss"),
        "op_counts": dict(records.op_counts.get(records.best_id, {})),
        "finalists": [{key: entry.get(key) for key in kept} for entry in records.finalists],
        "test_mse": {name: metrics.get("mse") for name, metrics in records.test.items()},
        "verdict": records.verdict,
    }


def _each(op_lists: Iterable[Sequence[str]]) -> Counter[str]:
    return Counter(op for ops in op_lists for op in ops)


def _shares(ops: Mapping[str, int]) -> dict[str, float]:
    families: Counter[str] = Counter()
    for op, count in ops.items():
        families[family_of(op)] += count
    total = sum(families.values())
    return {family: count / total for family, count in sorted(families.items(), key=lambda item: (-item[1], item[0]))}


def _median(group: Rows, key: str) -> float | None:
    values = [row[key] for row in group if row.get(key) is not None]
    return median(values) if values else None
