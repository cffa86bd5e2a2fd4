"""The names of a search's tasks, and of the files in which their states stand."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ..training.state_file import StateFile
from .settings import SearchSettings

STATES = "states"  # sub-folder of a run


@dataclass(frozen=True)
class TaskKey:
    """Which task of a search it is.

    Attributes:
        phase: ``score``, ``trial``, ``rung``, ``derive``, ``train``, ``blend`` or ``test``; of what stands beside
            the search ``preset_train``, and the method of a rival, alone or with ``_train`` or ``_blend``.
        candidate: candidate id; -1 for a task of the whole search.
        rung: number of the rung; -1 outside phase 3 and a rival search.
    """

    phase: str
    candidate: int = -1
    rung: int = -1

    def __str__(self) -> str:
        return "_".join([self.phase, *(str(n) for n in (self.candidate, self.rung) if n >= 0)])


def state_file(run_dir: Path, name: str) -> StateFile:
    """Return the file of a state of the run."""
    return StateFile(run_dir / STATES / f"{name}.safetensors")


def border_file(settings: SearchSettings, key: TaskKey) -> StateFile | None:
    """Return the file that has the state of an unfinished task at its last epoch border; None without a run folder."""
    return None if settings.run_dir is None else state_file(Path(settings.run_dir), f"{key}.border")
