"""Does the search find better forecasters than simpler ways to spend the same training steps?

    python benchmarks/search_quality.py --out FOLDER [--tasks ETTm1:96:24 ...] [--seeds 0 1 2 3 4] [--rivals ...]

For each task (data set, lookback, horizon) and seed: one search; random search with halving and regularised evolution
over the same space, with the same presets and as many training steps; the best preset, unsearched; and the network that
was found with Identity on every edge. All are trained and blended alike. Writes a JSON file per task and seed, and
prints mean and standard error of the test MSE. What FOLDER has already is not run again, and a run that was killed goes
on where it was. One process, one thread. The data come from FOREBLOCKS_DATA or ../shared/data. ``--tiny`` only shows
that it runs.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from foreblocks.darts import DARTSTrainer
from foreblocks.darts._core.plain import to_plain
from foreblocks.darts.architecture.build import build_network
from foreblocks.darts.architecture.spec import ArchSpec, OpSpec
from foreblocks.darts.data import load_dataset, prepare
from foreblocks.darts.data.prepare import Prepared
from foreblocks.darts.evaluation.report import format_table
from foreblocks.darts.ops.registry import get_op

TASKS = ("ETTm1:96:24", "ETTm1:336:96", "ETTh1:96:24")
RIVALS = ("random", "evolution")
SMALL: dict[str, Any] = {
    "num_candidates": 8, "top_k": 3, "trial_steps": 100, "search_epochs": 3, "max_train_batches": 40,
    "max_val_batches": 40, "finalists": 3, "final_epochs": 6, "final_max_train_batches": 150, "final_patience": 4,
    "loss_type": "mse", "final_loss_type": "mse",
}  # fmt: skip
TINY = {
    **SMALL, "num_candidates": 3, "top_k": 1, "trial_steps": 3, "search_epochs": 1, "max_train_batches": 4,
    "finalists": 1, "final_epochs": 1, "final_max_train_batches": 4,
}  # fmt: skip
BATCH = 32


def main() -> None:
    """Run what is missing and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder of the JSON files and the runs")
    parser.add_argument("--tasks", nargs="+", default=TASKS, metavar="DATA:LOOKBACK:HORIZON")
    parser.add_argument("--seeds", nargs="+", type=int, default=range(5))
    parser.add_argument("--rivals", nargs="*", default=RIVALS, help="random, random_ws, evolution")
    parser.add_argument("--derive", default="argmax", help="argmax or perturb")
    parser.add_argument("--tiny", action="store_true", help="a search of seconds")
    a = parser.parse_args()
    torch.set_num_threads(1)
    for task in a.tasks:
        rows = [run(task, seed, a) for seed in a.seeds]
        print(f"\n{task}, {len(rows)} seeds: test MSE, mean and standard error\n{table(rows)}", flush=True)


def run(task: str, seed: int, a: argparse.Namespace) -> dict[str, Any]:
    """Return the figures of one task and seed, from its file if it has one with all the rivals."""
    name = f"{task.replace(':', '-')}-{seed}"
    file = a.out / f"{name}.json"
    if file.exists():
        figures = json.loads(file.read_text())
        if set(a.rivals) <= set(figures["rivals"]):
            return figures
    data, lookback, horizon = task.split(":")
    folder = os.environ.get("FOREBLOCKS_DATA") or str(Path(__file__).resolve().parents[2] / "shared" / "data")
    parts = prepare(load_dataset(data, folder), lookback=int(lookback), horizon=int(horizon))
    figures = measure(parts, seed, a, a.out / "runs" / name)
    file.write_text(json.dumps(to_plain({"task": task, "seed": seed, **figures}), indent=2) + "\n")
    return figures


def measure(parts: Prepared, seed: int, a: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Search, let the rivals search, train the network of Identity; return every test MSE, steps and seconds."""
    windows = parts.train
    trainer = DARTSTrainer(windows.channels, [32], windows.horizon, windows.lookback, "cpu")
    settings = {**(TINY if a.tiny else SMALL), "derive": a.derive, "seed": seed, "run_dir": folder, "resume": True}
    loaders = parts.loaders(BATCH, seed)
    result = trainer.multi_fidelity_search(*loaders, **settings, best_preset=True)
    seconds = result["phase_seconds"]
    rivals = {}
    for method in a.rivals:  # the run is read from its folder, so that only the rival is new
        found = trainer.multi_fidelity_search(*loaders, **settings, best_preset=True, baseline=method)
        if found["network"] != result["network"]:
            raise RuntimeError(f"{folder}: the search changed when {method} stood beside it.")
        rivals[method] = found["search_baseline"]
    plain = trainer.train_final_model(
        build_network(with_identity(result["arch_spec"]), seed=seed), *loaders, epochs=settings["final_epochs"],
        patience=settings["final_patience"], loss_type=settings["final_loss_type"], seed=seed,
        max_train_batches=settings["final_max_train_batches"],
    )  # fmt: skip
    mse = {
        "ridge*": result["baselines"][result["ridge_star"]]["mse"],
        "best preset": (result["best_preset"] or {}).get("mse"),
        "network alone": result["network"]["mse"],
        "blend": result["blend"]["mse"],
        "all Identity": plain["final_metrics"]["mse"],
    }
    for method, rival in rivals.items():
        mse[f"{method}: network"] = rival["network"]["mse"]
        mse[f"{method}: blend"] = rival["blend"]["mse"]
    return {
        "mse": mse,
        "weights": result["blend"]["weights"],
        "block_weights": result["blend"]["block_weights"],
        "best_preset": (result["best_preset"] or {}).get("preset"),
        "arch_spec": result["arch_spec"],
        "rivals": rivals,
        "seconds": seconds,
        "verdict": result["verdict"],
    }


def with_identity(spec: ArchSpec) -> ArchSpec:
    """Return the architecture with Identity on every edge."""
    identity = OpSpec("Identity", get_op("Identity").path)
    cells = [replace(cell, edges=tuple(replace(edge, op=identity) for edge in cell.edges)) for cell in spec.cells]
    return replace(spec, cells=tuple(cells))


def table(rows: list[dict[str, Any]]) -> str:
    """Return a line per forecaster that every seed has; for each rival also how far its blend is behind ours."""
    lines: list[list[Any]] = []
    names = [name for name in rows[0]["mse"] if all(name in row["mse"] for row in rows)]
    rivals = [method for method in rows[0]["rivals"] if all(method in row["rivals"] for row in rows)]
    for name in names:
        values = [row["mse"][name] for row in rows if row["mse"].get(name) is not None]
        lines.append([name, *mean_and_error(values)])
    for method in rivals:
        behind = [row["mse"][f"{method}: blend"] - row["mse"]["blend"] for row in rows]
        lines.append([f"{method}: blend less that of the search", *mean_and_error(behind)])
    spread = [max(values) - min(values) for row in rows for values in [[w["ridge"] for w in row["block_weights"]]]]
    lines.append(["weight of ridge: range over validation blocks", *mean_and_error(spread)])
    lines += [[f"{method}: steps of its search", *steps(rows, method)] for method in rivals]
    return format_table(lines, ["forecaster", "mean", "error"])


def steps(rows: list[dict[str, Any]], method: str) -> tuple[float, float | None]:
    """Return mean and error of the training steps that a rival spent on its search."""
    return mean_and_error([row["rivals"][method]["steps"]["search"] for row in rows])


def mean_and_error(values: list[float]) -> tuple[float, float | None]:
    """Return the mean and its standard error; the error of a single value is unknown."""
    error = statistics.stdev(values) / len(values) ** 0.5 if len(values) > 1 else None
    return statistics.fmean(values), error


if __name__ == "__main__":
    main()
