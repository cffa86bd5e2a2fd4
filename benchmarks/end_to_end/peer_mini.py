"""The smallest honest search: ETTh1, L 96, H 24, 256/96/96 windows, two candidates, in each of the four modes.

    python benchmarks/end_to_end/peer_mini.py [MODE ...]

Prints, per mode: seconds, memory beyond the imports, alpha steps, and the test MSE of ridge, network and final model.
The data come from FOREBLOCKS_DATA or ../shared/data.
"""

from __future__ import annotations

import os
import resource
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
MODES = ("encoder_only", "encoder_decoder", "decoder_only", "mamba")


def run(mode: str) -> None:
    import numpy as np
    from torch.utils.data import DataLoader, Subset

    from foreblocks.darts import DARTSTrainer
    from foreblocks.darts.data import load_dataset, prepare

    prepared = prepare(load_dataset("ETTh1", data_dir()), lookback=96, horizon=24)

    def loader(part, count, shuffle=False):
        picked = np.linspace(0, len(part) - 1, count).astype(int).tolist()
        return DataLoader(Subset(part, picked), batch_size=32, shuffle=shuffle)

    loaders = (loader(prepared.train, 256, True), loader(prepared.val, 96), loader(prepared.test, 96))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    began = time.perf_counter()
    trainer = DARTSTrainer(7, [32], 24, 96, device="cpu", arch_modes=[mode])
    result = trainer.multi_fidelity_search(
        *loaders, num_candidates=2, top_k=1, search_epochs=2, final_epochs=2, max_samples=16, max_workers=1
    )
    seconds = time.perf_counter() - began
    memory = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    steps = result["trained_candidates"][0]["search_results"]["alpha_steps"]
    ridge = result["baselines"][result["ridge_star"]]["mse"]
    print(
        f"{mode:16s} {seconds:6.1f} s  {memory:6.0f} MB  alpha steps {steps}  ridge* {ridge:.4f}  "
        f"network {result['network']['mse']:.4f}  final model {result['blend']['mse']:.4f}"
    )


def data_dir() -> str:
    return os.environ.get("FOREBLOCKS_DATA") or str(ROOT.parent / "shared" / "data")


if __name__ == "__main__":
    if len(sys.argv) == 3 and sys.argv[1] == "--one":
        run(sys.argv[2])
    else:
        for name in sys.argv[1:] or MODES:  # a process each, so that memory is measured per mode
            subprocess.run([sys.executable, __file__, "--one", name], check=True)
