"""Plain answers to what one wants to know of a search, no surer than its number of candidates allows."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

from .correlations import correlation
from .patterns import Rows, family_shares
from .records import SearchRecords
from .table import LOSSES, label, score_key

UNKNOWN = "too few candidates to tell"
ENOUGH_POINTS = 10  # below this, a correlation that shows nothing is no sign that there is none
COLLAPSE_SHARE = 0.8  # of the kept edges in one family
COLLAPSE_EXCESS = 0.25  # above the share that the family had among the ops to choose from
ENOUGH_EDGES = 6


@dataclass(frozen=True)
class Finding:
    """An answer.

    Attributes:
        question: what was asked.
        answer: ``yes``, ``no``, ``partly``, ``not clearly`` or ``too few candidates to tell``.
        evidence: sentences with the figures.
    """

    question: str
    answer: str
    evidence: tuple[str, ...]

    def __str__(self) -> str:
        return "\n".join(
            [f"{self.question} {self.answer[0].upper()}{self.answer[1:]}.", *map("  {}".format, self.evidence)]
        )


def findings(records: SearchRecords, rows: Rows) -> list[Finding]:
    """Return the answers to the four questions, in the order of the phases."""
    return [
        zero_cost_finding(records, rows),
        improvement_finding(records),
        retraining_finding(records),
        collapse_finding(records),
    ]


def zero_cost_finding(records: SearchRecords, rows: Rows) -> Finding:
    """Did zero-cost rank plausible candidates? Spearman of its order with the losses that followed, alike for all."""
    question = "Did the zero-cost rank order the candidates plausibly?"
    answers, evidence, score = [], [], score_key(rows)
    for metric in LOSSES:
        known = [row for row in rows if row[metric] is not None]
        if not known:
            continue
        order = [row[score] for row in known]
        result = correlation(order, [-row[metric] for row in known], method="spearman")
        name = label(metric)
        if result is None:
            evidence.append(f"Only {_count(len(known), 'candidate')} with a {name}.")
            continue
        answers.append(_sign(result.low, result.high, result.count))
        evidence.append(
            f"Agreement with the {name} of {result.count} candidates: Spearman {result.value:+.2f} "
            f"(95 % interval {result.low:+.2f} to {result.high:+.2f}; +1 is the same order)."
        )
    best = next((row for row in rows if row["is_best"]), None)
    if best is not None:
        evidence.append(f"The best candidate was number {best['zero_cost_rank']} of {len(rows)} by zero-cost.")
    untrained = sum(all(row[metric] is None for metric in LOSSES) for row in rows)
    if untrained:
        evidence.append(f"{_count(untrained, 'candidate')} never trained: nothing is known of them.")
    if records.failures:
        evidence.append(f"{_count(len(records.failures), 'candidate')} failed.")
    return Finding(question, _most_certain(answers), tuple(evidence))


def improvement_finding(records: SearchRecords) -> Finding:
    """Did promoted models improve? Derived loss at the first and at the last rung of each candidate that saw two."""
    question = "Did the promoted models improve while they were searched?"
    losses: dict[Any, list[float]] = {}
    for rung in records.rungs:
        for row in rung["results"]:
            if row.get("val_loss") is not None:
                losses.setdefault(row["candidate_id"], []).append(float(row["val_loss"]))
    pairs = [(values[0], values[-1]) for values in losses.values() if len(values) > 1]
    if not pairs:
        return Finding(question, UNKNOWN, (f"No candidate was measured at two rungs ({len(losses)} at one).",))
    better = sum(last < first for first, last in pairs)
    changes = [100.0 * (last / first - 1.0) for first, last in pairs if first > 0]
    change = f"; median change {median(changes):+.1f} %" if changes else ""
    p = sign_test(better, len(pairs))
    budgets = [rung.get("epoch_budget") for rung in records.rungs]
    evidence = (
        f"{better} of {len(pairs)} derived models have a lower validation loss after their last rung than after "
        f"their first (budgets {', '.join(map(str, budgets))} epochs){change}.",
        f"Sign test: p = {p:.2g}.",
    )
    if p >= 0.05:
        unanimous = better in (0, len(pairs))
        return Finding(question, UNKNOWN if unanimous or len(pairs) < ENOUGH_POINTS else "partly", evidence)
    return Finding(question, "yes" if 2 * better > len(pairs) else "no", evidence)


def retraining_finding(records: SearchRecords) -> Finding:
    """Did retraining keep the advantage? The order of the finalists before and after, and the test set."""
    question = "Did retraining keep the advantage over rivals and baselines?"
    scored = [f for f in records.finalists if f.get("derived_loss") is not None and f.get("val_loss") is not None]
    baselines = {k: m["mse"] for k, m in records.test.items() if k not in ("network", "blend") and _known(m.get("mse"))}
    if not scored and not baselines:
        return Finding(question, UNKNOWN, ("No retrained model is recorded.",))
    evidence, answers = [], []
    if len(scored) > 1:
        before = sorted(scored, key=lambda f: f["derived_loss"])
        after = sorted(scored, key=lambda f: f["val_loss"])
        place = after.index(before[0]) + 1
        evidence.append(
            f"The leader of the search (candidate {before[0]['candidate_id']}) is number {place} of {len(scored)} "
            f"after retraining, by validation loss; chance alone puts it first in 1 of {len(scored)} cases."
        )
    elif scored:
        evidence.append("One finalist was retrained: there is no other to lose its lead to.")
    for name in ("network", "blend"):
        mse = (records.test.get(name) or {}).get("mse")
        if baselines and _known(mse):
            rival = min(baselines, key=lambda key: baselines[key])
            change = 100.0 * (mse / baselines[rival] - 1.0) if baselines[rival] else math.nan
            answers.append(mse < baselines[rival])
            evidence.append(
                f"Test MSE of the {name}: {mse:.4f}, {change:+.1f} % against the best baseline, {rival} "
                f"({baselines[rival]:.4f})."
            )
    if not answers:
        return Finding(question, UNKNOWN, tuple(evidence))
    evidence.append("One seed: differences of a few thousandths are within its noise.")
    answer = "yes" if all(answers) else "partly" if any(answers) else "no"
    return Finding(question, answer, tuple(evidence))


def collapse_finding(records: SearchRecords) -> Finding:
    """Did the search collapse onto one family? The kept edges against what their candidates could choose from."""
    question = "Did the search collapse onto one family of operations?"
    shares = family_shares(records)
    edges = sum(sum(counts.values()) for counts in records.op_counts.values())
    if not edges:
        return Finding(question, UNKNOWN, ("No derived architecture is recorded.",))
    family, share = next(iter(shares["kept"].items()))
    offered = shares["offered_survivors"].get(family, 0.0)
    models = _count(len(records.op_counts), "derived model")
    evidence = [
        f"{_count(edges, 'kept edge')} in {models}: {_percentages(shares['kept'])}.",
        f"Their candidates could choose from: {_percentages(shares['offered_survivors'])}.",
        f"All candidates were offered: {_percentages(shares['offered'])}; the promoted ones: "
        f"{_percentages(shares['offered_promoted'])}.",
    ]
    if edges < ENOUGH_EDGES:
        return Finding(question, UNKNOWN, tuple(evidence))
    if share < COLLAPSE_SHARE:
        return Finding(question, "no", tuple(evidence))
    if share - offered < COLLAPSE_EXCESS:
        evidence.append(
            f"{family} has most edges, but these candidates were offered little else: the draw, not the search."
        )
        return Finding(question, "partly", tuple(evidence))
    evidence.append(
        f"{family} holds {100 * share:.0f} % of the edges, of the ops to choose from {100 * offered:.0f} %."
    )
    return Finding(question, "yes", tuple(evidence))


def sign_test(better: int, count: int) -> float:
    """Return the two-sided p-value of ``better`` successes in ``count`` tosses of a fair coin."""
    tail = min(better, count - better)
    return min(1.0, 2.0 * sum(math.comb(count, k) for k in range(tail + 1)) / 2.0**count)


def correlation_sentences(table: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return what the correlations of architecture and performance amount to."""
    if not table:
        return [f"No pair of feature and metric has enough different values: {UNKNOWN}."]
    first = table[0]
    significant = [row for row in table if row["significant"]]
    head = (
        f"{len(table)} pairs of feature and metric, {first['method'].capitalize()}, intervals by {first['interval']}, "
        f"p-values corrected by {first['correction'].capitalize()}: {len(significant)} significant."
    )
    lines = [
        f"  {label(row['architectural_feature'])} and {label(row['performance_metric'])}: {row['correlation']:+.2f} "
        f"({row['ci_low']:+.2f} to {row['ci_high']:+.2f}), corrected p = {row['p_value_corrected']:.2g}, "
        f"n = {row['sample_size']}."
        for row in significant[:10]
    ]
    if not significant and max(row["sample_size"] for row in table) < 3 * ENOUGH_POINTS:
        lines.append(f"  With at most {max(row['sample_size'] for row in table)} points each: {UNKNOWN}.")
    return [head, *lines]


def _sign(low: float, high: float, count: int) -> str:
    if low > 0:
        return "yes"
    if high < 0:
        return "no"
    return UNKNOWN if count < ENOUGH_POINTS or high - low > 1.0 else "not clearly"


def _most_certain(answers: Sequence[str]) -> str:
    """Return the one clear answer, ``partly`` when clear ones contradict each other, else the first."""
    clear = {answer for answer in answers if answer in ("yes", "no")}
    if len(clear) > 1:
        return "partly"
    return next(iter(clear), answers[0] if answers else UNKNOWN)


def _percentages(shares: Mapping[str, float]) -> str:
    return ", ".join(f"{family} {100 * share:.0f} %" for family, share in shares.items()) or "not recorded"


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def _known(value: Any) -> bool:
    return isinstance(value, (int, float)) and math.isfinite(value)
