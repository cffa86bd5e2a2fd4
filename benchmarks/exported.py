"""How fast an exported model answers: ONNX, ``torch.export`` and AOTInductor beside the model in PyTorch.

    python benchmarks/exported.py [--run FOLDER] [--batches 1 32] [--kinds onnx pt2 aoti]

Without ``--run``: a blend of ridge and three networks of width 32, 7 channels, 96 → 24, weights at random. Least ms of
one thread over interleaved rounds, in one process; what differs from the model by more than 1e-4 deviations is not
written in the first place.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

import racing
import torch
from torch import Tensor, nn

from foreblocks.darts.architecture.blend import BlendedForecaster
from foreblocks.darts.architecture.build import build_network
from foreblocks.darts.architecture.linear import LinearForecaster, LinearSpec
from foreblocks.darts.architecture.spec import ArchSpec, CellSpec, EdgeSpec, Macro, OpSpec
from foreblocks.darts.integrations.export import KINDS, SUFFIXES, export_model
from foreblocks.darts.ops.registry import get_op
from foreblocks.darts.search.saved_run import SavedRun

CHANNELS, LOOKBACK, HORIZON = 7, 96, 24
NETWORKS = {
    "encoder_only": ("TimeConv", "TCN", "DLinear", "Fourier"),
    "encoder_decoder": ("GRN", "ResidualMLP", "TCN", "TimeConv"),
    "mamba": ("TCN", "DLinear", "ConvMixer", "Identity"),
}


def blend() -> nn.Module:
    """Return the model that is timed without ``--run``."""
    parts: dict[str, nn.Module] = {"ridge": LinearForecaster(LinearSpec("shared", "last", CHANNELS, LOOKBACK, HORIZON))}
    for mode, names in NETWORKS.items():
        edges = tuple(EdgeSpec(i, i + 1, OpSpec(name, get_op(name).path)) for i, name in enumerate(names))
        macro = Macro(CHANNELS, LOOKBACK, HORIZON, hidden_dim=32, arch_mode=mode)
        parts[mode] = build_network(ArchSpec(macro, (CellSpec(len(names) + 1, edges),)), seed=0)
    return BlendedForecaster(parts)


def loaded(path: Path, kind: str) -> Callable[[Tensor], object]:
    """Return what runs an exported file."""
    if kind == "onnx":
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        session = onnxruntime.InferenceSession(str(path), options)
        return lambda x: session.run(None, {"x": x.numpy()})
    if kind == "aoti":
        return torch._inductor.aoti_load_package(str(path))
    return torch.export.load(path).module()


def main() -> None:
    """Print a row for each batch size."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=Path, help="folder of a run; its model is timed in scaled values")
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 32])
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=KINDS)
    a = parser.parse_args()
    torch.set_num_threads(1)
    model = (blend() if a.run is None else SavedRun(a.run).load_model()).eval()
    calls: dict[str, Callable[[Tensor], object]] = {"model": model}
    with tempfile.TemporaryDirectory() as folder:
        for kind in a.kinds:
            written = export_model(model, Path(folder) / f"{kind}{SUFFIXES[kind]}", kind=kind)
            print(f"{kind}: {written.size / 1e6:.1f} MB in {written.seconds:.0f} s, differs {written.difference:.0e}")
            calls[kind] = loaded(written.path, kind)
        _, lookback, channels = written.inputs["x"]
        for batch in a.batches:
            x = torch.randn(batch, lookback, channels)
            with torch.no_grad():
                times = racing.race({name: partial(call, x) for name, call in calls.items()}, 100, seconds=20)
            cells = [f"{name} {1e3 * time:.2f} ms ({times['model'] / time:.2f}x)" for name, time in times.items()]
            print(f"batch {batch}: {', '.join(cells)}")


if __name__ == "__main__":
    main()
