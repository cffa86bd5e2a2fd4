"""The tabular benchmark: its loader, how it is made and resumed, and what its report computes."""

from __future__ import annotations

import gzip
import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from benchmarks.tsnas import correlation
from benchmarks.tsnas import make as making
from benchmarks.tsnas.card import card
from benchmarks.tsnas.correlation import (
    affordable,
    better_half,
    difference_interval,
    finite,
    partial_interval,
    partial_spearman,
    random_regret,
    regret,
    spearman,
    spearman_interval,
)
from benchmarks.tsnas.export import export, table_of, write_table
from benchmarks.tsnas.report import report_of
from benchmarks.tsnas.scorers import aggregate_scores, fitted_after, transferred
from benchmarks.tsnas.space import GOOD_MACRO, architectures
from foreblocks.darts._core.errors import DataError, InvalidArgument
from foreblocks.darts.architecture.build import build_network
from foreblocks.darts.architecture.spec import ARCH_MODES, ArchSpec
from foreblocks.darts.benchmarks import TsnasEntry, TsnasTable, load_tsnas
from foreblocks.darts.search.proxies import proxy_names

PLANTED = ("snip", "synflow")


def entry(data: str, arch: int, loss: float, size: float, rng: np.random.Generator) -> TsnasEntry:
    """Two proxies follow the loss, params follow ``size``, the other proxies nothing."""
    proxies = {name: float(rng.random()) for name in proxy_names()}
    proxies |= {name: math.exp(5.0 - loss) for name in PLANTED} | {"params": size, "flops": size}
    return TsnasEntry(
        data, arch, "macro" if arch % 3 else "ops", "0" * 12, "{}", 32, (loss, loss + 0.01, math.nan),
        (loss, loss, math.nan), (2.0, 4.0, math.nan), loss + 0.1, 1.0, 0.1, 0.2, proxies,
    )  # fmt: skip


def planted(count: int = 40) -> TsnasTable:
    rng = np.random.default_rng(0)
    losses = 1.0 + rng.random(count)
    sizes = 100.0 + rng.permutation(count)
    rows = [entry(d, i, float(losses[i]), float(sizes[i]), rng) for d in ("A", "B") for i in range(count)]
    return TsnasTable(tuple(rows))


# --- the table that comes with the package


def test_the_table_holds_what_it_says() -> None:
    table = load_tsnas()
    assert table.data_sets == ("ETTh1", "ETTm1")
    assert len(table) <= 240
    assert len({(e.data, e.arch) for e in table}) == len(table)
    for e in table:
        spec = ArchSpec.from_json(e.spec)
        assert spec.digest == e.spec_hash
        assert (e.part == "ops") <= (spec.macro == GOOD_MACRO)
        assert e.proxies["params"] > 0
        assert len(e.val_mse) == len(e.test_mse) == len(e.seconds) == 3
        assert [math.isnan(v) for v in e.val_mse] == [math.isnan(v) for v in e.test_mse]
        assert math.isnan(e.mean_val_mse) or 0.05 < e.mean_val_mse < 5.0
    assert table.trainings == sum(e.trainings for e in table)
    # The same architecture on both data sets.
    shared = {(e.arch, e.spec_hash) for e in table.select(data="ETTm1")}
    assert shared <= {(e.arch, e.spec_hash) for e in table.select(data="ETTh1")}


def test_an_entry_can_be_rebuilt() -> None:
    e = load_tsnas().entries[2]
    network = build_network(ArchSpec.from_json(e.spec), seed=0)
    assert sum(p.numel() for p in network.parameters()) == e.proxies["params"]


def test_selection_and_frame() -> None:
    table = planted(6)
    assert len(table.select(data="A", part="ops")) == 2
    assert len(table.select(trainings=2)) == 12
    assert len(table.select(trainings=3)) == 0
    assert table.trainings == 24
    first = table.entries[0]
    assert first.mean_val_mse == pytest.approx(first.val_mse[0] + 0.005)
    frame = pytest.importorskip("pandas").DataFrame(table.to_pandas())
    assert len(frame) == 12
    assert frame["snip"].iloc[3] == table.entries[3].proxies["snip"]
    assert frame["val_mse_1"].iloc[0] == first.val_mse[1]
    with pytest.raises(InvalidArgument, match="ETTh9"):
        table.select(data="ETTh9")
    with pytest.raises(InvalidArgument, match="part"):
        table.select(part="cells")


def test_a_table_survives_the_file(tmp_path: Path) -> None:
    table = planted(5)
    lacking = {name: value for name, value in table.entries[0].proxies.items() if name != "meco"}
    table = TsnasTable((replace(table.entries[0], proxies=lacking), *table.entries[1:]))
    for name in ("one.csv.gz", "two.csv.gz"):
        write_table(table, tmp_path / name)
    assert (tmp_path / "one.csv.gz").read_bytes() == (tmp_path / "two.csv.gz").read_bytes()
    loaded = load_tsnas(tmp_path / "one.csv.gz")
    assert repr(loaded.entries) == repr(tuple(replace(e, proxies=dict(sorted_like(e))) for e in table))
    assert "meco" not in loaded.entries[0].proxies


def sorted_like(e: TsnasEntry) -> list[tuple[str, float]]:
    return [(name, e.proxies[name]) for name in proxy_names() if name in e.proxies]


def test_what_is_no_table_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="cannot be read"):
        load_tsnas(tmp_path / "none.csv.gz")
    (tmp_path / "plain.csv").write_text("data,arch\nA,0\n")
    with pytest.raises(DataError, match="no TSNAS table"):
        load_tsnas(tmp_path / "plain.csv")
    (tmp_path / "other.csv.gz").write_bytes(gzip.compress(b"data,arch\nA,0\n"))
    with pytest.raises(DataError, match="no TSNAS table"):
        load_tsnas(tmp_path / "other.csv.gz")


# --- making it


@pytest.fixture(scope="module")
def listed() -> list[making.Architecture]:
    return architectures()


def test_the_space_is_as_described(listed: list[making.Architecture]) -> None:
    assert [a.arch for a in listed] == list(range(120))
    assert len({a.spec.digest for a in listed}) == 120
    macros = {a.spec.macro for a in listed if a.part == "macro"}
    assert sum(a.part == "macro" for a in listed) == 80
    assert {a.spec.macro for a in listed if a.part == "ops"} == {GOOD_MACRO}
    assert {m.arch_mode for m in macros} == set(ARCH_MODES)
    assert {m.hidden_dim for m in macros} == {32}
    assert all({a.part for a in listed[i : i + 3]} == {"macro", "ops"} for i in range(0, 120, 3))


def test_work_is_ordered_so_that_a_beginning_is_balanced(
    listed: list[making.Architecture], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(making, "architectures", lambda: listed)
    work = list(making.jobs())
    assert len({job.key for job in work}) == len(work) == 2 * 120 * (3 + 2)
    trainings = [job for job in work if job.kind == "train"]
    assert [job.data for job in trainings[:4]] == ["ETTh1", "ETTm1", "ETTh1", "ETTm1"]
    assert [job.seed for job in trainings] == sorted(job.seed for job in trainings)


@pytest.mark.real_data
def test_making_resumes_and_repeats_itself(
    listed: list[making.Architecture], real_data_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(making, "architectures", lambda: [listed[2]])
    monkeypatch.setattr(making, "DATA", ("ETTh1",))
    budget = making.Budget(steps=3, short_steps=2, screening=8, windows=40)
    said: list[str] = []
    making.make(tmp_path, str(real_data_dir), budget, said.append)
    path = tmp_path / "rows.jsonl"
    whole = making.read_rows(path)
    assert len(whole) == 1 + 5
    assert len(said) == 5

    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join(lines[:4]) + lines[4][:30])  # stopped in the middle of a line
    making.make(tmp_path, str(real_data_dir), budget, said.append)
    again = making.read_rows(path)
    assert len(said) == 7
    strip = ("seconds", "extra_seconds")
    assert [{k: v for k, v in r.items() if k not in strip} for r in again] == [
        {k: v for k, v in r.items() if k not in strip} for r in whole
    ]

    making.make(tmp_path, str(real_data_dir), budget, said.append)
    assert len(said) == 7
    with pytest.raises(InvalidArgument, match="another budget"):
        making.make(tmp_path, str(real_data_dir), replace(budget, steps=4), said.append)
    monkeypatch.setattr(making, "architectures", lambda: [replace(listed[5], arch=2)])
    with pytest.raises(InvalidArgument, match="no longer the same"):
        making.make(tmp_path, str(real_data_dir), budget, said.append)

    line = export(tmp_path, tmp_path / "t.csv.gz", tmp_path / "docs" / "t.md")
    assert line.startswith("3 trainings of 1 entries")
    (e,) = load_tsnas(tmp_path / "t.csv.gz")
    rows = {(r["kind"], r["seed"]): r for r in whole[1:]}
    assert e.val_mse == tuple(rows["train", seed]["val_mse"] for seed in range(3))
    assert e.short_val_mse == rows["short", making.SHORT_SEED]["val_mse"]
    assert e.proxies == rows["score", 0]["proxies"]
    assert "3 of 720 full trainings" in (tmp_path / "docs" / "t.md").read_text()


def test_a_table_of_rows_may_be_unfinished() -> None:
    row = {"kind": "score", "data": "A", "arch": 1, "seed": 0, "part": "ops", "digest": "d", "spec": {}}
    row |= {"batch_size": 32, "proxies": {"params": 3.0}, "seconds": 0.5, "extra_seconds": 0.25}
    diverged = {"kind": "train", "data": "A", "arch": 1, "seed": 0, "error": "diverged"}
    (e,) = table_of([row, diverged])
    assert e.trainings == 0
    assert math.isnan(e.mean_val_mse)
    assert math.isnan(e.short_val_mse)


# --- what the report computes


def naive_ranks(values: list[float]) -> list[float]:
    return [sum(b < a for b in values) + (sum(b == a for b in values) + 1) / 2 for a in values]


def test_correlations_agree_with_their_definitions() -> None:
    rng = np.random.default_rng(3)
    a, b, c = rng.integers(0, 8, 30).astype(float), rng.standard_normal(30), rng.standard_normal(30)
    ranks = [naive_ranks(column.tolist()) for column in (a, b, c)]
    full = np.corrcoef(ranks)
    assert spearman(a, b) == pytest.approx(full[0, 1], abs=1e-12)
    # Partial correlation: of the residuals of both ranks after a line through the third.
    line = np.stack([np.ones(30), ranks[2]], axis=1)
    left = [np.array(r) - line @ np.linalg.lstsq(line, np.array(r), rcond=None)[0] for r in ranks[:2]]
    assert partial_spearman(a, b, c) == pytest.approx(np.corrcoef(left)[0, 1], abs=1e-12)
    assert spearman(np.ones(30), b) == 0.0
    assert partial_spearman(c, b, c) == 0.0
    assert finite([2.0, math.nan, 1.0]).tolist() == [2.0, 0.0, 1.0]


def test_intervals_hold_the_value_and_narrow_with_the_number() -> None:
    rng = np.random.default_rng(0)
    a = rng.standard_normal(400)
    b = a + rng.standard_normal(400)
    wide, narrow = spearman_interval(a[:40], b[:40]), spearman_interval(a, b)
    assert narrow.low < narrow.value < narrow.high
    assert narrow.high - narrow.low < 0.5 * (wide.high - wide.low)
    gap = difference_interval(a, rng.standard_normal(400), b)
    assert 0.0 < gap.low < gap.value < gap.high
    assert difference_interval(a, a, b).high == 0.0


def test_a_resample_is_the_correlation_of_its_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(1)
    a, b, g = rng.integers(0, 5, 12).astype(float), rng.standard_normal(12), rng.standard_normal(12)
    rows = rng.integers(0, 12, 12)
    weights = np.bincount(rows, minlength=12).astype(float)[None]
    monkeypatch.setattr(correlation, "_resamples", lambda count: weights)
    found = spearman_interval(a, b)
    assert found.low == found.high == pytest.approx(spearman(a[rows], b[rows]), abs=1e-12)
    assert found.value == spearman(a, b)
    assert partial_interval(a, b, g).low == pytest.approx(partial_spearman(a[rows], b[rows], g[rows]), abs=1e-12)


def test_regrets_by_hand() -> None:
    loss = np.array([1.0, 1.1, 1.2, 2.0])
    assert regret(np.array([0.0, 3.0, 2.0, 1.0]), loss, 2) == pytest.approx(10.0)
    assert regret(-loss, loss, 1) == pytest.approx(0.0)
    pairs = [min(loss[i], loss[j]) for i in range(4) for j in range(i)]
    assert random_regret(loss, 2) == pytest.approx(100 * (np.mean(pairs) - 1.0))
    assert random_regret(loss, 4) == pytest.approx(0.0)
    assert regret(np.zeros(4), loss, 2) == pytest.approx(random_regret(loss, 2), abs=3.0)
    assert affordable(loss, loss, tried=4, kept=1) == pytest.approx(0.0)
    assert affordable(-loss, loss, tried=2, kept=1) > random_regret(loss, 2)
    assert better_half(loss).tolist() == [True, True, False, False]


def test_the_report_finds_what_is_planted() -> None:
    table = planted(24)
    text = report_of(table, kinds=("ridge",))
    rows = {line[:22].strip(): line for line in text.splitlines() if "[" in line}
    assert rows["snip"][23:28] == "+1.00"
    assert abs(float(rows["more params"][23:28])) < 0.35
    assert float(rows["vote"][23:28]) > 0.2
    assert "best on A (+1.00): snip; there B +1.00" in text
    table = planted()
    entries = list(table.select(data="A"))
    assert fitted_after(entries, np.array([e.mean_val_mse for e in entries]), 20, draws=3) > 0.8
    moved = transferred(entries, list(table.select(data="B")))
    assert spearman(moved, -np.array([e.mean_val_mse for e in entries])) > 0.9
    assert {"vote", "log_rank"} <= set(aggregate_scores(entries))
    assert transferred(entries, []) is None


def test_a_short_table_says_so() -> None:
    table = planted(5)
    assert "too few for a report" in report_of(table)
    budget = json.loads('{"steps": 1, "short_steps": 1, "learning_rate": 0.1, "windows": 2, "screening": 3}')
    assert "Not complete: 20 of 720" in card(table, budget)
