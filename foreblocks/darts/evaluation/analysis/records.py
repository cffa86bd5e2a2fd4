"""What the analysis reads of a search, from wherever the search left it."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from ..._core.errors import DataError, InvalidArgument
from ...architecture.spec import ArchSpec

Record = Mapping[str, Any]


@runtime_checkable
class HasSearches(Protocol):
    """A trainer: its last search is analysed."""

    search_history: list[dict[str, Any]]


@dataclass(frozen=True)
class SearchRecords:
    """A search as plain data; what was not recorded is empty.

    Attributes:
        source: where the records come from, for messages.
        candidates: the scored candidates, best first by zero-cost rank.
        promoted: ids of the candidates that were searched, in order of promotion where it is known.
        rungs: rows ``{rung_index, epoch_budget, results: [{candidate_id, val_loss}], ...}``, where ``val_loss`` is
            the validation loss of the derived path.
        op_counts: id → {op: kept edges} of the candidates that survived the last rung.
        best_id: id of the best candidate; None before the end.
        finalists: the retrained survivors, best first.
        test: test metrics by forecaster: the baselines, ``network`` and ``blend``.
        failures: id → reason.
        verdict: the sentence of the search on its baselines.
    """

    source: str
    candidates: Sequence[Record]
    promoted: Sequence[Any] = ()
    rungs: Sequence[Record] = ()
    op_counts: Mapping[Any, Mapping[str, int]] = field(default_factory=dict)
    best_id: Any = None
    finalists: Sequence[Record] = ()
    test: Mapping[str, Record] = field(default_factory=dict)
    failures: Mapping[Any, str] = field(default_factory=dict)
    verdict: str = ""


def load_records(source: Any) -> SearchRecords:
    """Read a search from its result, a trainer, a run folder, or the folder or ``stats.json`` of ``collect_stats``.

    A run folder of an interrupted search is read as far as it goes.

    Raises:
        InvalidArgument: ``source`` is none of these, or holds no search.
        DataError: a file is not what it should be.
    """
    if isinstance(source, (str, Path)):
        return _from_path(Path(source))
    if isinstance(source, Mapping):
        return from_result(source, "the result")
    if isinstance(source, HasSearches):
        if not source.search_history:
            raise InvalidArgument("search_results: this trainer has not finished a multi_fidelity_search() yet.")
        return from_result(source.search_history[-1], "the trainer's last search")
    raise InvalidArgument(
        f"search_results={type(source).__name__} must be the result of multi_fidelity_search(), a trainer, a run "
        "folder or a folder of statistics."
    )


def from_result(result: Mapping[str, Any], source: str) -> SearchRecords:
    """Read the documented dictionary of ``multi_fidelity_search``; only ``candidates`` must be there."""
    candidates = result.get("candidates")
    if not candidates:
        raise InvalidArgument(
            f"search_results: {source} has no 'candidates'; pass what multi_fidelity_search() returns."
        )
    trained = result.get("trained_candidates") or ()
    rungs = result.get("rungs") or _rungs_of(trained)
    promoted = [record["candidate_id"] for record in result.get("top_candidates") or ()] or _promoted_of(rungs)
    best = (result.get("best_candidate") or {}).get("candidate") or {}
    parts = {name: result[name] for name in ("network", "blend") if result.get(name)}
    return SearchRecords(
        source=source,
        candidates=best_first(candidates),
        promoted=promoted,
        rungs=rungs,
        op_counts={t["candidate"]["candidate_id"]: _op_counts(t["arch_spec"]) for t in trained if t.get("arch_spec")},
        best_id=best.get("candidate_id"),
        finalists=result.get("finalists") or (),
        test={**(result.get("baselines") or {}), **parts},
        failures=result.get("failed_candidates") or {},
        verdict=result.get("verdict") or "",
    )


def best_first(candidates: Iterable[Record]) -> list[Record]:
    """Return candidates by falling zero-cost rank (``rank_score``, else ``score``), those without one last."""

    def key(record: Record) -> tuple[bool, float, str]:
        score = record.get("rank_score", record.get("score"))
        known = isinstance(score, (int, float)) and score == score
        return (not known, -float(score) if known else 0.0, str(record["candidate_id"]).zfill(12))

    return sorted(candidates, key=key)


def _from_path(path: Path) -> SearchRecords:
    folder = path.parent if path.is_file() else path
    if path.name == "stats.json" or (folder / "stats.json").is_file():
        return _from_statistics(folder)
    if not (folder / "candidates.json").is_file():
        raise InvalidArgument(
            f"search_results={str(path)!r} is no run folder (candidates.json) and no folder of statistics (stats.json)."
        )
    result = _read_json(folder / "result.json") if (folder / "result.json").is_file() else {}
    candidates = _read_json(folder / "candidates.json")
    # The histories of the candidates know the unfinished rung as well, which the rounds of rungs.json leave out.
    rungs = _rungs_of({"candidate": r, "phase3_round_history": r.pop("rungs", [])} for r in candidates)
    content = {"rungs": rungs, **result, "candidates": candidates}
    if (folder / "failures.json").is_file():
        content.setdefault("failed_candidates", _read_json(folder / "failures.json"))
    return from_result(content, f"the run folder {folder}")


def _from_statistics(folder: Path) -> SearchRecords:
    """Read what the statistics hold: times, scores and losses, but neither zero-cost metrics nor most ops."""
    stats = _read_json(folder / "stats.json")
    path = folder / "per_candidate.csv"
    if not path.is_file():
        raise DataError(f"{path} is missing: it belongs to stats.json.")
    try:
        top = {row["candidate_id"]: row for row in stats["top_candidates"]}
        best = stats["best_candidate"]
        with path.open(newline="", encoding="utf-8") as file:
            rows = [row for row in csv.DictReader(file) if row["phase"] == "phase1"]
        candidates = [_statistics_record(row, top, best) for row in rows]
        rungs = stats["phase_summary"]["phase3"]["rounds"]
    except (KeyError, TypeError, ValueError) as error:
        raise DataError(
            f"{folder} does not hold the statistics of a search: {type(error).__name__} {error}."
        ) from error
    return SearchRecords(
        f"the statistics in {folder}",
        best_first(candidates),
        list(top),
        rungs,
        best_id=best["candidate_id"],
    )


def _statistics_record(row: Record, top: Mapping[Any, Record], best: Record) -> dict[str, Any]:
    identity = int(row["candidate_id"])
    record = {
        "candidate_id": identity,
        "score": float(row["score"]),
        "hidden_dim": int(row["hidden_dim"]),
        "num_ops": int(row["num_ops"]),
    }
    if identity in top:
        cells, _, nodes = top[identity]["arch"].partition("x")
        record |= {"num_cells": int(cells), "num_nodes": int(nodes)}
    if identity == best["candidate_id"]:
        record["selected_ops"] = best["selected_ops"]
    return record


def _rungs_of(trained: Iterable[Record]) -> list[dict[str, Any]]:
    """Return the rungs as far as the histories of the trained candidates tell."""
    rungs: dict[int, dict[str, Any]] = {}
    for entry in trained:
        for row in entry.get("phase3_round_history") or ():
            number = row["rung"]
            rung = rungs.setdefault(
                number, {"rung_index": number, "epoch_budget": row.get("epoch_budget"), "results": []}
            )
            loss = row.get("derived_val_loss", row.get("mixed_val_loss"))
            rung["results"].append({"candidate_id": entry["candidate"]["candidate_id"], "val_loss": loss})
    return [rungs[number] for number in sorted(rungs)]


def _promoted_of(rungs: Sequence[Record]) -> list[Any]:
    return [row["candidate_id"] for row in rungs[0]["results"]] if rungs else []


def _op_counts(spec: ArchSpec | Mapping[str, Any]) -> dict[str, int]:
    return (spec if isinstance(spec, ArchSpec) else ArchSpec.from_dict(spec)).op_counts()


def _read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"{path} cannot be read as JSON: {error}.") from error
