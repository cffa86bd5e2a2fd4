"""How the command line shows what is going on."""

from __future__ import annotations

import sys
from typing import Any

from .._core.errors import OptionalDependencyError
from .._core.optional import require


class SearchProgress:
    """Shows the phases: bars on a terminal when rich is there, plain lines otherwise."""

    def __init__(self) -> None:
        self._bar: Any = _terminal_bar()
        self._task: Any = None

    def __enter__(self) -> SearchProgress:
        if self._bar is not None:
            self._bar.start()
        return self

    def __exit__(self, *_exception: object) -> None:
        if self._bar is not None:
            self._bar.stop()

    def on_event(self, event: Any, payload: dict[str, Any]) -> None:
        """Show an event."""
        text = f"{event.value}: " + ", ".join(f"{k} {_short(v)}" for k, v in payload.items())
        if self._bar is None:
            print(text, file=sys.stderr, flush=True)
        elif event.value == "phase_start":
            self._task = self._bar.add_task(payload["phase"], total=None)
        elif event.value == "phase_end":
            self._bar.update(self._task, total=1, completed=1)
        else:
            self._bar.update(self._task, description=text)


class DownloadProgress:
    """Shows how much of a file has come: a bar on a terminal when rich is there, nothing otherwise."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._bar: Any = None
        self._task: Any = None

    def __enter__(self) -> DownloadProgress:
        return self

    def __call__(self, done: int, total: int | None) -> None:
        """Show ``done`` of ``total`` bytes; the bar appears with the first of them."""
        if self._task is None:
            self._bar = _terminal_bar(download=True)
            self._task = self._bar.add_task(self._name, total=total) if self._bar is not None else 0
            if self._bar is not None:
                self._bar.start()
        if self._bar is not None:
            self._bar.update(self._task, completed=done, total=total)

    def __exit__(self, *_exception: object) -> None:
        if self._bar is not None:
            self._bar.stop()


def _terminal_bar(*, download: bool = False) -> Any:
    """Return a bar of rich; None without a terminal or without rich, where plain lines do as well."""
    if not sys.stderr.isatty():
        return None
    try:
        rich = require("rich.progress", extra="cli", feature="the progress bar")
        console = require("rich.console", extra="cli", feature="the progress bar")
    except OptionalDependencyError:
        return None
    columns = [rich.TextColumn("{task.description}"), rich.BarColumn(), rich.DownloadColumn()] if download else []
    return rich.Progress(*columns, console=console.Console(stderr=True), transient=True)


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
