"""What the table says: does any order before training beat the size of a network, and at which cost."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from foreblocks.darts.benchmarks import TsnasEntry, TsnasTable, load_tsnas
from foreblocks.darts.evaluation.analysis.correlations import mean_ranks
from foreblocks.darts.search.combiner import KINDS, MIN_TRAINED, fit_combiner

from .correlation import (
    Array,
    affordable,
    better_half,
    difference_interval,
    finite,
    partial_interval,
    random_regret,
    regret,
    spearman,
    spearman_interval,
)
from .scorers import (
    RIVALS,
    aggregate_scores,
    fitted_after,
    proxy_scores,
    records,
    rival_scores,
    transferred,
)

KEPT = (4, 8, 16)
ETA = 4  # a short training has a quarter of the steps of a full one
LARGEST_SUBSET = 4


def report(path: str | Path | None = None) -> str:
    """Return the report of a table; None means that of the package."""
    return report_of(load_tsnas(path))


def report_of(table: TsnasTable, kinds: Sequence[str] = KINDS) -> str:
    """Return the report of a table, with the given kinds of fitted combiner.

    Architectures without a training are left out; the others have 1 to 3 seeds.
    """
    trained = {data: list(table.select(data=data, trainings=1)) for data in table.data_sets}
    lines = [f"TSNAS: {table.trainings} of {3 * len(table)} trainings of {len(table)} scored entries"]
    for data, entries in trained.items():
        lines += ["", f"== {data}: {len(entries)} architectures, {sum(e.trainings for e in entries)} trainings =="]
        if len(entries) < MIN_TRAINED:
            lines.append(f"too few for a report ({MIN_TRAINED} are needed)")
            continue
        others = [entry for name, rest in trained.items() if name != data for entry in rest]
        lines += _of_data(entries, others, kinds)
    if all(len(entries) >= MIN_TRAINED for entries in trained.values()) and len(trained) > 1:
        lines += ["", *_attempts(trained)]
    return "\n".join(lines) + "\n"


def _of_data(entries: Sequence[TsnasEntry], others: Sequence[TsnasEntry], kinds: Sequence[str]) -> list[str]:
    loss = np.array([entry.mean_val_mse for entry in entries])
    test = np.array([entry.mean_test_mse for entry in entries])
    short = -finite([-entry.short_val_mse for entry in entries])
    scores = {**rival_scores(entries), **aggregate_scores(entries), **proxy_scores(entries)}
    moved = transferred(entries, others)
    if moved is not None:
        scores["ridge from the other"] = moved
    scores["short training"] = -short
    return [
        f"best {loss.min():.4f}, median {np.median(loss):.4f}, worst {loss.max():.4f} (validation MSE); "
        f"test orders as validation: {spearman(test, loss):+.2f}",
        *_noise(entries),
        "",
        *_table(entries, scores, loss),
        "",
        *_against(scores, loss),
        "",
        *_costs(entries, scores["vote"], short, loss),
        "",
        *_fitted(entries, loss, kinds),
    ]


def _noise(entries: Sequence[TsnasEntry]) -> list[str]:
    """How far one seed foretells another: no order can be expected to do better than about that."""
    lines = []
    for a, b in itertools.combinations(range(3), 2):
        pairs = np.array([(e.val_mse[a], e.val_mse[b]) for e in entries])
        pairs = pairs[np.isfinite(pairs).all(axis=1)]
        if len(pairs) >= MIN_TRAINED:
            lines.append(f"seed {a} against seed {b}: {spearman(*pairs.T):+.2f} ({len(pairs)} architectures)")
    return lines


def _table(entries: Sequence[TsnasEntry], scores: dict[str, Array], loss: Array) -> list[str]:
    size = np.array([entry.proxies["params"] for entry in entries])
    half = better_half(loss)
    fixed = np.array([entry.part == "ops" for entry in entries])
    lines = [
        "Spearman with -validation MSE, 95 % bootstrap intervals; regret in % of the best validation MSE",
        f"{'order':22s} {'all':21s} {'log params':10s} {'given log params':21s} {'better half':21s} "
        f"{f'any macro ({(~fixed).sum()})':21s} {f'one macro ({fixed.sum()})':21s} regret@4   @8  @16",
    ]
    for name, score in scores.items():
        cells = [
            f"{spearman_interval(score, -loss)!s:21s}",
            f"{spearman(score, size):+.2f}      ",
            f"{partial_interval(score, -loss, size)!s:21s}",
            *(f"{spearman_interval(score[rows], -loss[rows])!s:21s}" for rows in (half, ~fixed, fixed)),
            *(f"{regret(score, loss, k):6.1f}" for k in KEPT),
        ]
        lines.append(f"{name:22s} " + " ".join(cells))
    losses = " ".join(f"{random_regret(loss, k):6.1f}" for k in KEPT)
    return [*lines, f"{'random':22s} {'+0.00':21s} {'':10s} {'':87s} {losses}"]


def _against(scores: dict[str, Array], loss: Array) -> list[str]:
    """Say whether the joined orders really beat size and each other: the same resamples for both."""
    rivals = (*(f"more {name}" for name in RIVALS), "vote")
    lines = [f"{'Spearman above that of':22s} " + " ".join(f"{rival:21s}" for rival in rivals)]
    for name in ("vote", "log_rank", "pool z-score", "short training"):
        gaps = [difference_interval(scores[name], scores[rival], -loss) for rival in rivals]
        lines.append(f"{name:22s} " + " ".join(f"{gap!s:21s}" for gap in gaps))
    return lines


def _costs(entries: Sequence[TsnasEntry], vote: Array, short: Array, loss: Array) -> list[str]:
    """Compare orders at equal processor seconds: score all and train k, or spend the same on training."""
    proxy = float(np.mean([entry.proxy_seconds for entry in entries]))
    brief = float(np.nanmean([entry.short_seconds for entry in entries]))
    full = float(np.nanmean([entry.seconds for entry in entries]))
    count = len(entries)
    lines = [
        f"processor seconds of one: default proxies {proxy:.2f}, short training {brief:.2f}, full training {full:.2f}",
        "regret in % at equal seconds, all proxies + k full trainings:",
        f"{'k':>3s} {'vote':>6s} {'short for the same, k kept':>28s} {'halving':>16s} {'random':>14s}"
        f" {'short of all (dearer)':>22s}",
    ]
    for k in KEPT:
        tried = max(k, int(count * proxy / brief))
        budget = count * proxy + k * full
        bracket = min(count, max(ETA, int(budget / (brief + full / ETA))))
        drawn = min(count, int(budget / full))
        lines.append(
            f"{k:3d} {regret(vote, loss, k):6.1f}"
            f" {affordable(short, loss, tried=tried, kept=k):16.1f} ({tried:3d} tried)"
            f" {affordable(short, loss, tried=bracket, kept=bracket // ETA):6.1f} ({bracket:3d} in)"
            f" {random_regret(loss, drawn):6.1f} ({drawn:3d})"
            f" {regret(-short, loss, k):14.1f} ({(count * brief + k * full) / budget:.1f}x)"
        )
    return lines


def _fitted(entries: Sequence[TsnasEntry], loss: Array, kinds: Sequence[str]) -> list[str]:
    lines = ["fitted combiner (on trained architectures of the same data set), Spearman on those it has not seen:"]
    pool, losses = records(entries), loss.tolist()
    for kind in kinds:
        fitted = fit_combiner(pool, losses, kind=kind)
        lines.append(f"  {kind}, leave-one-out of {fitted.trained}: {fitted.loo_spearman:+.2f}")
    for trained in (20, 40):
        if len(entries) >= 2 * trained:
            lines.append(f"  ridge, fitted to {trained} random ones: {fitted_after(entries, loss, trained):+.2f}")
    return lines


def _attempts(trained: dict[str, list[TsnasEntry]]) -> list[str]:
    """Try every vote of up to four proxies or sizes: choose on one data set, read on the other."""
    candidates = {data: {**proxy_scores(entries), **rival_scores(entries)} for data, entries in trained.items()}
    members = sorted(next(iter(candidates.values())))
    subsets = [s for size in range(1, LARGEST_SUBSET + 1) for s in itertools.combinations(members, size)]
    losses = {data: np.array([e.mean_val_mse for e in entries]) for data, entries in trained.items()}
    columns = {data: {name: mean_ranks(score) for name, score in of.items()} for data, of in candidates.items()}
    found = {
        data: [spearman(np.mean([columns[data][name] for name in s], axis=0), -losses[data]) for s in subsets]
        for data in trained
    }
    lines = [f"all {len(subsets)} votes of up to {LARGEST_SUBSET} of {len(members)}, chosen on one data set:"]
    for data in trained:
        best = int(np.argmax(found[data]))
        read = ", ".join(f"{other} {found[other][best]:+.2f}" for other in trained if other != data)
        lines.append(f"  best on {data} ({found[data][best]:+.2f}): {', '.join(subsets[best])}; there {read}")
    worst = np.min([found[data] for data in trained], axis=0)
    best = int(np.argmax(worst))
    both = ", ".join(f"{data} {found[data][best]:+.2f}" for data in trained)
    return [*lines, f"  best by the worse of both (optimistic: chosen here): {', '.join(subsets[best])}; {both}"]
