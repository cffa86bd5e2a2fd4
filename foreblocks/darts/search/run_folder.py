"""The folder of one run: what a user keeps."""

from __future__ import annotations

import dataclasses
import json
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import nn

from .._core.errors import InvalidArgument
from .._core.plain import to_plain
from ..training.checkpoint import save_folder
from ..training.events import Event


class RunFolder:
    """``run_dir``: ``candidates.json``, ``rungs.json``, ``failures.json`` if any candidate failed, ``result.json``,
    ``report.html``, ``events.jsonl``, ``model/``, and what a resumed search reads: ``search.sqlite`` and ``states/``
    (``search.store``).
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    @classmethod
    def open(cls, path: str | Path) -> RunFolder:
        """Create the folder and prove that it can be written.

        Raises:
            InvalidArgument: it cannot be created or written.
        """
        return cls(writable_folder("run_dir", path))

    def write_json(self, name: str, value: Any) -> None:
        """Write plain data; live modules are left out."""
        (self.path / name).write_text(json.dumps(to_plain(_without_modules(value)), indent=2) + "\n")

    def save_model(self, model: nn.Module, scaler: Mapping[str, Any] | None, name: str = "model") -> None:
        """Write the sub-folder ``name``: weights, architecture and scaling."""
        save_folder(model, self.path / name, scaler=None if scaler is None else dict(scaler))

    def write_summary(self, result: Mapping[str, Any]) -> None:
        """Write ``result.json``: every figure of the result, without models and traces."""
        skipped = {"candidates", "top_candidates", "trained_non_derived_candidates", "stats"}
        self.write_json("result.json", {key: value for key, value in result.items() if key not in skipped})


def writable_folder(argument: str, path: str | Path) -> Path:
    """Create a folder that ``argument`` names and prove that it can be written, before any work is done.

    Raises:
        InvalidArgument: it cannot be created or written.
    """
    path = Path(path)
    try:
        path.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(
            dir=path
        ):  # has no name where the system can do without, so an interrupt leaves none
            pass
    except OSError as error:
        raise InvalidArgument(f"{argument}={str(path)!r} cannot be written: {error}.") from error
    return path


class EventFile:
    """Appends each event as one line of JSON to ``events.jsonl``.

    Behind a ``search_resumed`` the events of what was finished before come again, so the lines from there on are whole.
    """

    def __init__(self, folder: RunFolder) -> None:
        self._path = folder.path / "events.jsonl"

    def on_event(self, event: Event, payload: dict[str, Any]) -> None:
        """Write the event."""
        with self._path.open("a") as file:
            file.write(json.dumps({"event": event.value, **to_plain(payload)}) + "\n")


def _without_modules(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {k: _without_modules(v) for k, v in value.items() if not isinstance(v, nn.Module)}
    if isinstance(value, (list, tuple)):
        return [_without_modules(item) for item in value if not isinstance(item, nn.Module)]
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return _without_modules({f.name: getattr(value, f.name) for f in dataclasses.fields(value)})
    return value
