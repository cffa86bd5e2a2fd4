"""A candidate that fails costs only itself: its reason is kept, said once as an event, and the search goes on."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..training.events import Event, emit
from .executor import Failure
from .settings import SearchSettings


def has_failed(result: Any, candidate_id: int, phase: str, failures: dict[int, str], settings: SearchSettings) -> bool:
    """Return whether a task ended in a ``Failure``; if so, enter its reason into ``failures`` and emit the event."""
    if not isinstance(result, Failure):
        return False
    failures[candidate_id] = result.reason
    emit(settings.callbacks, Event.CANDIDATE_FAILED, candidate_id=candidate_id, phase=phase, reason=result.reason)
    return True


def reasons(failures: Mapping[int, str]) -> str:
    """Return every reason in one line, for the error that ends a search without a candidate left."""
    return "; ".join(f"candidate {key}: {reason}" for key, reason in failures.items())
