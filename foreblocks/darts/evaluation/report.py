"""Plain-text tables of results."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from .._core.errors import InvalidArgument

_MISSING = "-"
#: Relative differences of the MSE below this are noise for one seed: over five seeds, published MLP heads on the ETT
#: sets at horizon 96 (MSE about .3) have a standard deviation of .0023 in the median and .0034 at most.
NOISE = 0.01
RIVAL_NAMES = {
    "random": "random search",
    "random_ws": "random search with shared weights",
    "evolution": "regularised evolution",
}


def figure(value: float) -> str:
    """Return a score with four decimals, or four digits where these would hide it or fill the line."""
    return f"{value:.4f}" if value == 0 or 1e-3 <= abs(value) < 1e6 or not math.isfinite(value) else f"{value:.4g}"


def format_table(rows: Sequence[Sequence[Any]], headers: Sequence[str]) -> str:
    """Return an aligned table: text columns to the left, columns of numbers to the right.

    Args:
        rows: cells; floats are shown as ``figure`` does, None as ``-``.
        headers: one per column.

    Raises:
        InvalidArgument: a row has another number of cells than there are headers.
    """
    for row in rows:
        if len(row) != len(headers):
            raise InvalidArgument(f"the row {list(row)} has {len(row)} cells; there are {len(headers)} headers.")
    cells = [[_cell(value) for value in row] for row in rows]
    columns = range(len(headers))
    widths = [max(len(str(headers[c])), *(len(row[c]) for row in cells), 0) for c in columns]
    numeric = [bool(rows) and all(_is_number(row[c]) or row[c] is None for row in rows) for c in columns]

    def line(values: Sequence[str]) -> str:
        padded = [v.rjust(widths[c]) if numeric[c] else v.ljust(widths[c]) for c, v in enumerate(values)]
        return "  ".join(padded).rstrip()

    rule = "  ".join("-" * width for width in widths)
    return "\n".join([line([str(header) for header in headers]), rule, *(line(row) for row in cells)])


def format_result_table(results: Mapping[str, Any]) -> str:
    """Return the closing report of a search: scores, size, chosen ops, wall time, and a plain verdict.

    Args:
        results: ``baselines`` (name → ``{"mse", "mae"}``), ``ridge_star`` (a name in it), ``network`` and ``blend``
            (``{"mse", "mae"}``, the blend with ``weights``: part → weight), ``num_parameters``, ``op_counts``
            (op → edges), ``phase_seconds`` (phase → seconds), ``arch`` (text). All are test scores; what is absent
            is left out.
    """
    sections = [_score_table(results)]
    facts = _facts(results)
    if facts:
        sections.append(facts)
    seconds = results.get("phase_seconds") or {}
    if seconds:
        rows = [[phase, f"{value:.1f}"] for phase, value in seconds.items()]
        rows.append(["total", f"{sum(seconds.values()):.1f}"])
        sections.append(format_table(rows, ["phase", "seconds"]))
    sentence = verdict(results)
    if sentence:
        sections.append(sentence)
    return "\n\n".join(sections)


def verdict(results: Mapping[str, Any]) -> str:
    """Return what the test scores say, a sentence a line.

    Whether the network and the blend beat the best baseline; whether a simple forecaster, baseline or best preset, is
    so close to the best of both that searching further is unlikely to pay; and how a rival with as many steps did.
    """
    usable = {name: m["mse"] for name, m in (results.get("baselines") or {}).items() if math.isfinite(m["mse"])}
    judged = [(name, results[name]["mse"]) for name in ("network", "blend") if results.get(name)]
    if not usable or not judged:
        return ""
    best = min(usable, key=lambda name: usable[name])
    sentences = []
    for name, mse in judged:
        if mse < usable[best]:
            gain = 100 * (1 - mse / usable[best])
            sentences.append(
                f"The {name} (MSE {figure(mse)}) beats the best baseline, {best} ({figure(usable[best])}), "
                f"by {gain:.1f} %."
            )
        else:
            sentences.append(
                f"The {name} (MSE {figure(mse)}) does not beat the best baseline, {best} ({figure(usable[best])})."
            )
    found = min(mse for _, mse in judged)
    simple = {best: usable[best]}
    if results.get("best_preset"):
        simple[f"the preset {results['best_preset']['preset']}"] = results["best_preset"]["mse"]
    sentences += [*_unlikely_to_pay(found, simple), *_duels(results), *_against_rival(results)]
    return "\n".join(sentences)


def _unlikely_to_pay(found: float, simple: Mapping[str, float]) -> list[str]:
    """Return the sentence that says so, if the best simple forecaster is not beaten by more than the noise."""
    name = min(simple, key=lambda key: simple[key])
    if not math.isfinite(found) or found < (1 - NOISE) * simple[name]:
        return []
    closeness = f"within {100 * NOISE:.0f} % of" if found < simple[name] else "not behind"
    return [
        f"Searching further is unlikely to pay: {name} (MSE {figure(simple[name])}) is {closeness} the best "
        f"that was found ({figure(found)})."
    ]


def _duels(results: Mapping[str, Any]) -> list[str]:
    """Return the sentence on what the operations found are worth, if they were held against drawn ones."""
    duels = results.get("duels")
    if not duels:
        return []
    return [f"In {duels['won']} of {duels['of']} short trainings the operations found did better than drawn ones."]


def _against_rival(results: Mapping[str, Any]) -> list[str]:
    """Return the sentence on the rival search, if one was asked for."""
    rival = results.get("search_baseline")
    if not rival:
        return []
    name = RIVAL_NAMES[rival["method"]]
    if "blend" not in rival:
        return [f"The rival, {name}, failed: none of its architectures could be trained."]
    ours, theirs = results["blend"]["mse"], rival["blend"]["mse"]
    if theirs:
        gain = 100 * (1 - ours / theirs)
    else:  # constant data, which a blend forecasts exactly
        gain = 0.0 if ours == 0 else -math.inf
    judged = "is within the noise of" if abs(gain) < 100 * NOISE else "beats" if gain > 0 else "loses to"
    return [
        f"With as many training steps ({rival['steps']['search']:,}) the search {judged} {name}: blend against blend, "
        f"MSE {figure(ours)} to {figure(theirs)} ({-gain:+.1f} %)."
    ]


def summarise_searches(history: Sequence[Mapping[str, Any]]) -> str:
    """Return a paragraph for each result of ``multi_fidelity_search``, oldest first."""
    if not history:
        return "No searches performed yet."
    return "\n".join(_search_lines(number, result) for number, result in enumerate(history, start=1))


def _search_lines(number: int, result: Mapping[str, Any]) -> str:
    config = result["search_config"]
    seconds = sum((result.get("phase_seconds") or {}).values())
    ops = ", ".join(f"{op} x{count}" for op, count in (result.get("op_counts") or {}).items())
    size = result.get("num_parameters")
    found = [f"{size:,} parameters"] * (size is not None) + [ops] * bool(ops)
    head = (
        f"search {number}: {config['num_candidates']} candidates, {config['top_k']} searched, {seconds:.1f} s: "
        f"test MSE {figure(result['final_results']['final_metrics']['mse'])}"
    )
    texts = [", ".join(found), *(result.get("verdict") or "").splitlines()]
    lines = [head, *(f"  {text}" for text in texts if text)]
    return "\n".join(lines)


def summarise_trainings(history: Sequence[Mapping[str, Any]]) -> str:
    """Return a line for each result of ``train_darts_model`` and ``train_final_model``, oldest first.

    The metrics of a searched model are on validation, those of a final training on test.
    """
    if not history:
        return "No training sessions completed yet."
    lines = []
    for number, result in enumerate(history, start=1):
        info = result.get("training_info")
        best = result["best_val_loss"] if info is None else info["best_val_loss"]
        kind, part = ("search", "validation") if info is None else ("final", "test")
        epochs = len(result["train_losses"])
        plural = "" if epochs == 1 else "s"
        line = f"training {number} ({kind}): {epochs} epoch{plural}, best validation loss {figure(best)}"
        metrics = result.get("final_metrics")
        line += f", {part} MSE {figure(metrics['mse'])}" if metrics else ""
        lines.append(f"{line}, {result['training_time']:.1f} s")
    return "\n".join(lines)


def beside_scores(results: Mapping[str, Any]) -> dict[str, Mapping[str, float]]:
    """Return the test scores of what was trained beside the search, label → scores: best preset and rival search."""
    scores = {}
    if results.get("best_preset"):
        scores[f"preset {results['best_preset']['preset']}"] = results["best_preset"]
    rival = results.get("search_baseline") or {}
    for part in ("network", "blend"):
        if rival.get(part):  # not there if the rival failed
            scores[f"{RIVAL_NAMES[rival['method']]}, {part}"] = rival[part]
    return scores


def _score_table(results: Mapping[str, Any]) -> str:
    star = results.get("ridge_star")
    rows: list[list[Any]] = []
    for name, metrics in (results.get("baselines") or {}).items():
        label = f"{name} *" if name == star else name
        rows.append([label, metrics.get("mse"), metrics.get("mae")])
    found = {"network alone": results.get("network"), "blend": results.get("blend")}
    others = {**beside_scores(results), **{label: metrics for label, metrics in found.items() if metrics}}
    rows += [[label, metrics.get("mse"), metrics.get("mae")] for label, metrics in others.items()]
    table = format_table(rows, ["forecaster", "test MSE", "test MAE"])
    return f"{table}\n* the better ridge on validation" if star in (results.get("baselines") or {}) else table


def _facts(results: Mapping[str, Any]) -> str:
    lines = []
    weights = (results.get("blend") or {}).get("weights")
    if weights:
        lines.append("blend:   " + " + ".join(f"{value:.3f} {name}" for name, value in weights.items()))
    if results.get("arch"):
        lines.append("network: " + "\n         ".join(str(results["arch"]).splitlines()))
    if results.get("num_parameters") is not None:
        lines.append(f"size:    {results['num_parameters']:,} parameters")
    if results.get("op_counts"):
        counts = sorted(results["op_counts"].items(), key=lambda item: (-item[1], item[0]))
        lines.append("ops:     " + ", ".join(f"{op} x{count}" for op, count in counts))
    return "\n".join(lines)


def _is_number(value: Any) -> bool:
    if isinstance(value, str):
        return value.replace(".", "", 1).isdigit()
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _cell(value: Any) -> str:
    if value is None:
        return _MISSING
    return figure(value) if isinstance(value, float) else str(value)
