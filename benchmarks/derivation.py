"""Does ``derive="perturb"`` choose better than ``argmax``? Equal tuning, judged on rows that neither has seen.

    python benchmarks/derivation.py [SEED ...]

One mixed network per seed is searched on ETTm1, 96 to 24; from it come ``argmax``, ``perturb`` and two random paths,
each with the same tuning. Prints validation and test MSE of each with inherited weights (test: 1,280 random windows,
the same for all), and what the collapse watch saw. The data come from FOREBLOCKS_DATA or ../shared/data.
"""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

import torch

from foreblocks.darts import TimeSeriesDARTS
from foreblocks.darts.architecture.build import build_network
from foreblocks.darts.config import DARTSTrainConfig
from foreblocks.darts.data import load_dataset, prepare
from foreblocks.darts.training.bilevel import new_state
from foreblocks.darts.training.darts_loop import SearchData, block_loss, search_epochs
from foreblocks.darts.training.loop import LoopLimits
from foreblocks.darts.training.select import DeriveSettings, select_architecture

OPS = ["Identity", "TimeConv", "TCN", "DLinear", "ResidualMLP"]


def run(seed: int) -> dict[str, float]:
    """Search, derive and print one seed; return the test MSE by rule."""
    folder = os.environ.get("FOREBLOCKS_DATA") or str(Path(__file__).resolve().parents[2] / "shared" / "data")
    parts = prepare(load_dataset("ETTm1", folder), lookback=96, horizon=24)
    torch.manual_seed(seed)
    model = TimeSeriesDARTS(
        input_dim=7, hidden_dim=32, latent_dim=32, forecast_horizon=24, seq_length=96, num_cells=1, num_nodes=4,
        selected_ops=OPS, arch_mode="encoder_only", channel_mode="independent", patch_len=16,
    )  # fmt: skip
    config = DARTSTrainConfig(epochs=4, loss_type="mse", arch_learning_rate=1e-2, patience=99)
    limits = LoopLimits(max_train_batches=40, max_val_batches=24, seed=seed)
    data = SearchData.split(parts.train, parts.val, config, batch_size=32)
    began = time.perf_counter()
    state = search_epochs(new_state(model, config), data, config, limits)
    model.load_state_dict(state.best_state)
    middle = time.perf_counter()
    selection = select_architecture(model, data, config, limits, DeriveSettings("perturb", rivals=2))
    ended = time.perf_counter()
    print(
        f"seed {seed}: search {middle - began:.0f} s, derivation {ended - middle:.0f} s, "
        f"mixture {selection.mixed_loss:.4f}, gap {selection.gap:+.4f}, alphas stopped at {state.collapse.stopped_at}"
    )
    test = {}
    for contender in selection.contenders:
        network = build_network(contender.spec, seed=0)
        network.load_state_dict(contender.state)
        test[contender.name] = block_loss(network.eval(), parts.test, LoopLimits(max_val_batches=40, seed=7))
        print(f"  {contender.name:9s} validation {contender.loss:.4f}  test {test[contender.name]:.4f}")
    return test


if __name__ == "__main__":
    torch.set_num_threads(1)
    found = [run(int(seed)) for seed in sys.argv[1:] or range(5)]
    gains = torch.tensor([entry["argmax"] - entry["perturb"] for entry in found], dtype=torch.float64)
    error = float(gains.std() / len(gains) ** 0.5) if len(gains) > 1 else float("nan")
    print(f"perturb beats argmax by {float(gains.mean()):+.4f} ± {error:.4f} test MSE (mean and standard error)")
