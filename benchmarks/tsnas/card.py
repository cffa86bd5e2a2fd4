"""The data card: what the table is, how it came about, what was really spent, and what it shows."""

from __future__ import annotations

import math

from foreblocks.darts.benchmarks.tsnas import SEEDS, TsnasTable

from .make import Row
from .report import report_of

TEXT = """\
# TSNAS: a tabular benchmark for forecasting

Does a score of an untrained network foretell how well it will forecast? This table answers such questions without
training: 120 architectures on ETTh1 and ETTm1 (lookback 96, horizon 24, 7 channels), each with its validation and test
error for {seeds} seeds, the error of a much shorter training, and every zero-cost metric of this package.

```python
from foreblocks.darts.benchmarks import load_tsnas

table = load_tsnas()
for entry in table.select(data="ETTm1", part="ops", trainings=1):
    print(entry.arch, entry.mean_val_mse, entry.proxies["synflow"])
```

## State

{state}

## What is in it

- **Architectures.** 80 (`part` = `macro`) are drawn over everything that a candidate fixes: sequence part, series norm,
  channel mode, patch length, head, attention, feed-forward, 1-2 cells of 2-4 nodes, 16 ops; width 32. 40 (`ops`) share
  one macro that is known to be good (encoder only, channels mixed, patches of 8, last value subtracted, flatten head)
  and differ in the ops of 1-2 cells of 3 nodes. The ops are those that the alphas of an untrained candidate point to,
  so they are random. `ArchSpec.from_json(entry.spec)` rebuilds an architecture, `build_network(spec, seed=s)` its
  initial weights.
- **Training.** {steps} steps of AdamW (1-cycle, peak {rate:g}, weight decay 1e-5, gradient norm at most 1) on the
  MSE of random training windows, 32 in a batch (25 where channels are series of their own and patches have 8 steps).
  Only the network is trained: no linear path, no blend. One figure at the end, no choice among epochs.
- **Error.** MSE on the z-scale (mean and deviation of the training rows) over {windows:,} windows of validation and of
  test: all windows of ETTh1, a seeded draw of as many from ETTm1.
- **Short training.** {short_steps} steps in the same manner from other weights: what a search could do instead of
  metrics.
- **Metrics.** Computed once per architecture and data set, on the initial weights of seed 0 and {screening} training
  windows spread over the series. A metric without a value is an empty cell.
- **Seconds** are of one thread's processor time, without reading the files; a training includes its validation.
  `proxy_seconds` is for all default metrics together, which share passes, `extra_seconds` for the others.

## What it is not

The budget is small: {steps} steps are less than an epoch, so the table orders networks by how fast they learn as much
as by how well they end. Two data sets of one domain, one horizon and one width say nothing about others. The errors are
not those of tuned models and must not be quoted as such. The 40 of one good macro are
both large and good, so a correlation over all 120 is partly one of two groups: read those inside each part beside it.

## How to make it again

    python -m benchmarks.tsnas make --out FOLDER       # resumes; one thread
    python -m benchmarks.tsnas export --out FOLDER     # this page and the table
    python -m benchmarks.tsnas report

The kernels were the reference ones (`FOREBLOCKS_DARTS_KERNELS=reference`), torch on a CPU. ETT data: Zhou et al., AAAI
2021, CC BY-ND 4.0; the table holds no value of the series.

## What it shows

```text
{report}```
"""


def card(table: TsnasTable, budget: Row) -> str:
    """Return the page for a table, in the state it is in."""
    return TEXT.format(
        seeds=len(SEEDS),
        state=_state(table),
        steps=budget["steps"],
        rate=budget["learning_rate"],
        windows=budget["windows"],
        short_steps=budget["short_steps"],
        screening=budget["screening"],
        report=report_of(table),
    )


def _state(table: TsnasTable) -> str:
    wanted = 240
    full = [s for entry in table for s in entry.seconds if math.isfinite(s)]
    short = [entry.short_seconds for entry in table if math.isfinite(entry.short_seconds)]
    scored = [entry.proxy_seconds + entry.extra_seconds for entry in table]
    seeds = [sum(math.isfinite(entry.val_mse[seed]) for entry in table) for seed in range(len(SEEDS))]
    complete = table.trainings == wanted * len(SEEDS)
    return (
        f"{'Complete' if complete else 'Not complete'}: {table.trainings} of {wanted * len(SEEDS)} full trainings are "
        f"in (seeds {', '.join(f'{s}: {n} of {wanted}' for s, n in zip(SEEDS, seeds, strict=True))}), {len(short)} of "
        f"{wanted} short ones, metrics of {len(scored)} of {wanted}.\n"
        f"Spent: {sum(full) / 60:.1f} minutes of one processor on full trainings, {sum(short) / 60:.1f} on short ones, "
        f"{sum(scored) / 60:.1f} on metrics."
    )
