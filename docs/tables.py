"""Writes the tables of the reference from what the package registers, so that they cannot be out of date."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Sequence
from pathlib import Path


def write_tables(folder: Path) -> None:
    """Write one Markdown file for each table into ``folder``."""
    folder.mkdir(exist_ok=True)
    for name, text in {
        "ops": ops_table(),
        "proxies": proxies_table(),
        "relaxations": relaxations_table(),
        "catalog": catalog_table(),
        "keywords": keywords_table(),
    }.items():
        path = folder / f"{name}.md"
        if not path.is_file() or path.read_text() != text:  # an unchanged file need not be read again
            path.write_text(text)


def ops_table() -> str:
    """Return the ops that a search may draw."""
    from foreblocks.darts.config import DEFAULT_OPS
    from foreblocks.darts.ops import get_op

    rows = []
    for info in map(get_op, DEFAULT_OPS):
        causal = "yes" if info.causal else "no"
        rows.append([f"`{info.name}`", info.family, f"{info.cost:g}", causal, info.min_length, _summary(info.cls)])
    return _table(["op", "family", "cost", "causal", "fewest steps", "what it computes"], rows)


def proxies_table() -> str:
    """Return the zero-cost proxies, those of the documented API first."""
    from foreblocks.darts.search.proxies import get_proxy, proxy_names

    infos = sorted(map(get_proxy, proxy_names()), key=lambda info: (not info.contract, not info.default))
    rows = []
    for info in infos:
        when = "always" if info.default else "when named"
        better = "larger" if info.direction > 0 else "smaller"
        weight = f"{info.weight:+g}" if info.contract else ""
        rows.append([f"`{info.name}`", weight, better, when, _summary(info.cls)])
    return _table(["proxy", "weight in the score", "better", "computed", "definition"], rows)


def relaxations_table() -> str:
    """Return the relaxations of the edge mixture."""
    from foreblocks.darts.architecture.relax import RELAXATIONS

    rows = [[f"`{name}`", _summary(cls)] for name, cls in RELAXATIONS.items()]
    return _table(["relaxation", "how logits become weights"], rows)


def catalog_table() -> str:
    """Return the data sets that are known by name."""
    from foreblocks.darts.data import CATALOG

    rows = [[f"`{e.name}`", str(e.step), e.split, e.period, " ".join(e.traps)] for e in CATALOG.values()]
    return _table(["name", "step", "split", "season (steps)", "know that"], rows)


def keywords_table() -> str:
    """Return the documented keywords that have another name or no effect."""
    from foreblocks.darts._core.keywords import TABLE

    rows = []
    for function, keywords in TABLE.items():
        if function in ("DARTSTrainConfig", "RobustPoolSearchConfig"):  # the same keywords once more
            continue
        for name, entry in keywords.items():
            if function == "multi_fidelity_search" and name in TABLE["train_darts_model"]:
                continue
            what = f"another name of `{entry.replacement}`" if entry.replacement else f"no effect: {entry.reason}"
            rows.append([f"`{function}`", f"`{name}`", what])
    return _table(["of", "keyword", "now"], rows)


def _summary(cls: type) -> str:
    """Return the first paragraph of a docstring on one line."""
    return " ".join((inspect.getdoc(cls) or "").split("\n\n")[0].split()).replace("``", "`")


def _table(headers: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    lines = [headers, ["---"] * len(headers), *rows]
    return "\n".join("| " + " | ".join(str(cell).replace("|", "\\|") for cell in line) + " |" for line in lines) + "\n"
