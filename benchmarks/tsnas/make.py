"""Score and train every architecture, one line of JSON per piece of work; what is there already is skipped."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from foreblocks.darts._core.device import torch_threads
from foreblocks.darts._core.errors import DivergedError, InvalidArgument
from foreblocks.darts._core.seeding import generator
from foreblocks.darts.architecture.build import build_network
from foreblocks.darts.config import FinalTrainConfig
from foreblocks.darts.data import load_dataset, prepare
from foreblocks.darts.data.windows import WindowDataset
from foreblocks.darts.evaluation.losses import get_loss_function
from foreblocks.darts.search.proxies import evaluate_proxies, proxy_names
from foreblocks.darts.search.zero_cost import score_batch, screening_windows
from foreblocks.darts.training.final_trainer import train_final_model
from foreblocks.darts.training.loop import LoopLimits, mean_loss, validation_batches

from .space import HORIZON, LOOKBACK, Architecture, architectures

DATA = ("ETTh1", "ETTm1")
SEEDS = (0, 1, 2)
SHORT_SEED = 100  # of the rival's weights and batches: no training of the table shares them
Row = dict[str, Any]


@dataclass(frozen=True)
class Budget:
    """What is spent on an architecture; a table is of one budget.

    ``windows`` are those of validation and of test: all 2,857 of ETTh1, a seeded draw of as many from ETTm1.
    """

    steps: int = 200
    short_steps: int = 50
    learning_rate: float = 1e-3
    screening: int = 64
    windows: int = 2857


@dataclass(frozen=True)
class Job:
    """A piece of work: ``kind`` is ``score``, ``short`` or ``train``."""

    kind: str
    data: str
    arch: Architecture
    seed: int

    @property
    def key(self) -> tuple[str, str, int, int]:
        return self.kind, self.data, self.arch.arch, self.seed


@dataclass(frozen=True)
class Parts:
    """Windows of a data set."""

    train: WindowDataset
    val: WindowDataset
    test: WindowDataset


def jobs() -> Iterator[Job]:
    """Yield all work so that any beginning is balanced: by seed, then architecture, then data set in turn."""
    listed = architectures()
    for seed in SEEDS:
        for arch in listed:
            for data in DATA:
                if seed == SEEDS[0]:
                    yield Job("score", data, arch, seed)
                    yield Job("short", data, arch, SHORT_SEED)
                yield Job("train", data, arch, seed)


def make(out: Path, data_dir: str, budget: Budget, say: Callable[[str], None]) -> None:
    """Do what ``out/rows.jsonl`` does not hold yet, with one thread.

    Raises:
        InvalidArgument: the file is of another budget, or an architecture of it is another one today.
    """
    out.mkdir(parents=True, exist_ok=True)
    path = out / "rows.jsonl"
    if not path.exists():
        path.write_text(json.dumps({"kind": "budget", **asdict(budget)}) + "\n")
    rows = read_rows(path)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))  # without a line that was cut off
    if rows[0] != {"kind": "budget", **asdict(budget)}:
        raise InvalidArgument(f"{path} is of another budget: {rows[0]}; choose another --out.")
    known = {(row["kind"], row["data"], row["arch"], row["seed"]): row["digest"] for row in rows[1:]}
    parts = {name: load_parts(name, data_dir, budget) for name in DATA}
    with torch_threads(1), path.open("a") as file:
        warm_up = next(jobs())  # the first scoring of a process pays for what it imports
        do(warm_up, parts[warm_up.data], budget)
        for job in jobs():
            digest = known.get(job.key)
            if digest is None:
                row = do(job, parts[job.data], budget)
                file.write(json.dumps(row) + "\n")
                file.flush()
                say(f"{job.data} arch {job.arch.arch} {job.kind} seed {job.seed}: {row['seconds']:.1f} s")
            elif digest != job.arch.spec.digest:
                raise InvalidArgument(
                    f"architecture {job.arch.arch} of {path} is no longer the same; use another --out."
                )


def read_rows(path: Path) -> list[Row]:
    """Return the lines of a file of rows; one that was cut off while it was written is left out."""
    lines = path.read_text().splitlines(keepends=True)
    return [json.loads(line) for line in lines if line.endswith("\n")]


def load_parts(name: str, data_dir: str, budget: Budget) -> Parts:
    """Return the windows of a data set, those of validation and test drawn as the budget says."""
    prepared = prepare(load_dataset(name, data_dir), lookback=LOOKBACK, horizon=HORIZON)

    def drawn(windows: WindowDataset, role: str) -> WindowDataset:
        order = torch.randperm(len(windows), generator=generator("tsnas", name, role))
        return windows.subset(order[: budget.windows].sort().values)

    return Parts(prepared.train, drawn(prepared.val, "val"), drawn(prepared.test, "test"))


def do(job: Job, parts: Parts, budget: Budget) -> Row:
    """Return the row of a job; ``seconds`` are of the processor, so that other work beside does not count."""
    arch = job.arch
    row = {"kind": job.kind, "data": job.data, "arch": arch.arch, "seed": job.seed, "part": arch.part}
    row |= {"digest": arch.spec.digest, "spec": arch.spec.to_dict(), "batch_size": arch.batch_size}
    began = time.process_time()
    if job.kind == "score":
        row |= _score(arch, parts, budget)
    else:
        row |= _train(job, parts, budget)
    return {**row, "seconds": row.get("seconds", time.process_time() - began)}


def _score(arch: Architecture, parts: Parts, budget: Budget) -> Row:
    windows = screening_windows(parts.train, budget.screening)
    network = build_network(arch.spec, seed=SEEDS[0])
    began = time.process_time()
    scored = score_batch(network, windows.x, windows.y, loss_type="mse")
    middle = time.process_time()
    extra = evaluate_proxies(network, windows.x, windows.y, names=proxy_names(default=False))
    return {
        "proxies": {**scored["metrics"], **scored["extras"], **extra.values},
        "missing": {**scored["error_messages"], **scored["extra_errors"], **extra.errors},
        "seconds": middle - began,
        "extra_seconds": time.process_time() - middle,
    }


def _train(job: Job, parts: Parts, budget: Budget) -> Row:
    """Train from scratch with the deep branch alone; the seconds are without the test."""
    steps = budget.steps if job.kind == "train" else budget.short_steps
    config = FinalTrainConfig(
        epochs=1,
        learning_rate=budget.learning_rate,
        loss_type="mse",
        use_onecycle=True,
        swa_start_ratio=1.0,
    )
    limits = LoopLimits(batch_size=job.arch.batch_size, seed=job.seed, max_train_batches=steps)
    network = build_network(job.arch.spec, seed=job.seed)
    began = time.process_time()
    try:
        trained = train_final_model(network, parts.train, parts.val, config, limits)
    except DivergedError as error:
        return {"error": str(error)}
    row = {"val_mse": trained["training_info"]["best_val_loss"], "seconds": time.process_time() - began}
    if job.kind == "train":
        batches = validation_batches(parts.test, limits)
        row["test_mse"] = mean_loss(network, parts.test, batches, get_loss_function("mse"), limits=limits, role="test")
    return row
