"""What happens during a search, as values that plain callback objects receive."""

from __future__ import annotations

import enum
from collections.abc import Sequence
from typing import Any, Protocol


class Event(enum.Enum):
    """Moments of a search; the payload keys of each are listed beside it."""

    SEARCH_RESUMED = "search_resumed"  # tasks: how many were finished; their events are sent again
    PHASE_START = "phase_start"  # phase, total
    PHASE_END = "phase_end"  # phase, seconds
    CANDIDATE_SCORED = "candidate_scored"  # candidate_id, score
    CANDIDATE_TRIED = "candidate_tried"  # candidate_id, val_loss
    CANDIDATE_FAILED = "candidate_failed"  # candidate_id, phase, reason
    RUNG_END = "rung_end"  # candidate_id, rung, epochs, val_loss
    CANDIDATE_DERIVED = "candidate_derived"  # candidate_id, rule, val_loss
    FINALIST_END = "finalist_end"  # candidate_id, epochs, val_loss
    EPOCH_END = "epoch_end"  # epoch, epochs, train_loss, val_loss


class Callback(Protocol):
    """Receives every event of a search, in the parent process."""

    def on_event(self, event: Event, payload: dict[str, Any]) -> None:
        """Handle ``event``; ``payload`` has the keys listed in ``Event``."""
        ...


def emit(callbacks: Sequence[Callback], event: Event, **payload: Any) -> None:
    """Send an event to every callback, in order."""
    for callback in callbacks:
        callback.on_event(event, payload)
