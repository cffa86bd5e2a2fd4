"""Ctrl-C that is never lost."""

from __future__ import annotations

import signal
import threading
from types import FrameType
from typing import Any

_WORK_GOES_ON = ("candidate_scored", "candidate_tried", "rung_end", "epoch_end", "finalist_end")


class Interrupts:
    """Raises ``KeyboardInterrupt`` at Ctrl-C, and once more at the next sign of work if the first one was lost.

    Python drops an exception that is raised inside a finaliser or the callback of a weak reference; a search that runs
    through such a callback would go on as if nothing had been pressed.
    """

    def __init__(self) -> None:
        self._asked = False
        self._before: Any = None

    def __enter__(self) -> Interrupts:
        if threading.current_thread() is threading.main_thread():  # nobody else may set a handler
            self._before = signal.signal(signal.SIGINT, self._handle)
        return self

    def __exit__(self, *_exception: object) -> None:
        if self._before is not None:
            signal.signal(signal.SIGINT, self._before)

    def on_event(self, event: Any, _payload: dict[str, Any]) -> None:
        """Raise if Ctrl-C was pressed, and yet work goes on."""
        if self._asked and event.value in _WORK_GOES_ON:
            self._asked = False
            raise KeyboardInterrupt

    def _handle(self, _number: int, _frame: FrameType | None) -> None:
        self._asked = True
        raise KeyboardInterrupt
