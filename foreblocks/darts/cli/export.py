"""``foreblocks-darts export --run RUN --out model.onnx``: the model of a run as one file."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

_USE = {
    "onnx": "onnxruntime.InferenceSession({path!r}).run(None, {{{feed}}})",
    "pt2": "torch.export.load({path!r}).module()({names})",
    "aoti": "torch._inductor.aoti_load_package({path!r})({names})",
}


def add_export(commands: Any) -> None:
    """Add the command."""
    parser = commands.add_parser(
        "export", help="write the model as one file that runs without this package", allow_abbrev=False,
        description="Write the final model of a run as one file: .onnx for ONNX Runtime, .pt2 for torch.export.load "
        "or, with --kind aoti, machine code for this processor. It takes any batch, in the units of the data.",
    )  # fmt: skip
    parser.add_argument("--run", dest="run_folder", metavar="RUN", required=True, help="folder of a run")
    parser.add_argument("--out", required=True, help="file to write: .onnx or .pt2")
    parser.add_argument("--kind", help="onnx, pt2 or aoti; default: by the file's name")
    parser.add_argument(
        "--scaled", action="store_true", help="the file reads and forecasts scaled values, as the model"
    )
    parser.set_defaults(run=_export)


def _export(a: argparse.Namespace) -> int:
    from ..integrations.export import check_export_path, export_model
    from ..search.saved_run import SavedRun

    out, kind = check_export_path(a.out, a.kind, argument="--out")
    run = SavedRun(Path(a.run_folder))
    recipe = None if a.scaled else run.recipe
    written = export_model(run.load_model(), out, kind=kind, recipe=recipe)
    shapes = ", ".join(f"{name} {_shape(shape)}" for name, shape in written.inputs.items())
    units = "scaled values" if a.scaled else "the units of the data"
    print(
        f"{written.path}: {written.kind}, {written.size / 1e6:.1f} MB, {written.seconds:.0f} s",
        f"{shapes} -> forecast {_shape(written.output)}, {written.dtype} in {units}",
        f"differs from the model by at most {written.difference:.1e} deviations of the data",
        "use: " + _use(written.kind, str(written.path), list(written.inputs)),
        sep="\n",
    )
    return 0


def _shape(shape: tuple[int | str, ...]) -> str:
    return f"[{', '.join(map(str, shape))}]"


def _use(kind: str, path: str, names: list[str]) -> str:
    feed = ", ".join(f"{name!r}: {name}" for name in names)
    return _USE[kind].format(path=path, feed=feed, names=", ".join(names))
