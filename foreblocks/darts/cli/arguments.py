"""The arguments of a search, kept in its run folder so that ``resume`` needs nothing but the folder."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any, final

from .._core.errors import DataError, InvalidArgument
from .sources import is_file

ARGUMENTS = "arguments.json"


def add_resume(commands: Any, run: Any) -> None:
    """Add the command; ``run`` is what it calls."""
    parser = commands.add_parser(
        "resume", help="go on with a search that was interrupted", allow_abbrev=False,
        description="Go on with a search of the command line from its last finished task or epoch, to the result that "
        "it would have had without the interruption. The data must be where they were.",
    )  # fmt: skip
    parser.add_argument("run_folder", metavar="RUN", help="folder of a run")
    parser.add_argument("--workers", type=int, help="worker processes; default: as before (the result is the same)")
    parser.set_defaults(run=run)


def run_folder(run_dir: str | None, name: str, seed: int) -> Path:
    """Return the folder of a new search: ``run_dir``, else ``runs/<name>-<seed>``, numbered where that is taken."""
    if run_dir is not None:
        return Path(run_dir)
    first = folder = Path("runs") / f"{name}-{seed}"
    number = 1
    while folder.exists():
        number += 1
        folder = first.with_name(f"{first.name}-{number}")
    return folder


@final
class ArgumentFile:
    """Writes the arguments of a search into its folder once the search has begun, so after all checks.

    Args:
        a: what was parsed.
        folder: the run folder.
    """

    def __init__(self, a: argparse.Namespace, folder: Path) -> None:
        self._path = folder / ARGUMENTS
        self._kept = {name: value for name, value in vars(a).items() if name not in ("run", "run_dir")}
        # The search may be resumed from another working folder.
        if is_file(a):
            self._kept["data"] = str(Path(a.data).resolve())
        if a.data_dir is not None:
            self._kept["data_dir"] = str(Path(a.data_dir).resolve())

    def on_event(self, _event: Any, _payload: dict[str, Any]) -> None:
        """Write at the first event."""
        if not self._path.exists():
            self._path.write_text(json.dumps(self._kept, indent=2) + "\n", encoding="utf-8")


def stored_arguments(parser: argparse.ArgumentParser, folder: str) -> argparse.Namespace:
    """Return the arguments of the search in a folder, as ``parser`` would.

    Raises:
        DataError: there is no such folder, the command line did not begin its search, or the file is damaged.
        InvalidArgument: the file has an argument that this version does not know.
    """
    path = Path(folder) / ARGUMENTS
    if not path.is_file():
        if not Path(folder).is_dir():
            raise DataError(f"run {folder!r}: there is no such folder.")
        raise DataError(
            f"run {folder!r}: {ARGUMENTS} is missing. The command line writes it; a search that was begun in Python "
            "goes on with multi_fidelity_search(..., run_dir=..., resume=True)."
        )
    try:
        stored = dict(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, TypeError, ValueError) as error:
        raise DataError(f"{path}: cannot be read ({error}).") from error
    arguments = parser.parse_args(["search"])
    unknown = sorted(set(stored) - set(vars(arguments)))
    if unknown:
        raise InvalidArgument(f"{path}: this version does not know {unknown}.")
    vars(arguments).update(stored, run_dir=folder)
    return arguments
