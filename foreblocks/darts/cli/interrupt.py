"""Ctrl-C, and the request to end that other programs send, which are never lost."""

from __future__ import annotations

import signal
import threading
from types import FrameType
from typing import Any

_SIGNALS = (signal.SIGINT, signal.SIGTERM)
_WORK_GOES_ON = ("candidate_scored", "candidate_tried", "rung_end", "epoch_end", "finalist_end")


class Interrupts:
    """Raises ``KeyboardInterrupt`` at SIGINT (Ctrl-C) and SIGTERM, with the number of the signal.

    SIGTERM is what ``kill``, ``timeout``, containers and batch systems send; left alone it ends the process at once,
    and its workers stay behind. Python drops an exception that is raised inside a finaliser or the callback of a weak
    reference; a search that runs through such a callback would go on as if nothing had been asked, so it is raised once
    more at the next sign of work.
    """

    def __init__(self) -> None:
        self._asked = 0
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Interrupts:
        if threading.current_thread() is threading.main_thread():  # nobody else may set a handler
            self._before = {number: signal.signal(number, self._handle) for number in _SIGNALS}
        return self

    def __exit__(self, *_exception: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def on_event(self, event: Any, _payload: dict[str, Any]) -> None:
        """Raise if the end was asked for, and yet work goes on."""
        if self._asked and event.value in _WORK_GOES_ON:
            number, self._asked = self._asked, 0
            raise KeyboardInterrupt(number)

    def _handle(self, number: int, _frame: FrameType | None) -> None:
        self._asked = number
        raise KeyboardInterrupt(number)
