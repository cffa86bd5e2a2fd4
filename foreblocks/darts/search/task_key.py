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
        variant: digest of the architecture, where the number of the candidate does not settle it: the children of an
            evolution depend on which of the earlier ones failed.
    """

    phase: str
    candidate: int = -1
    rung: int = -1
    variant: str = ""

    def __str__(self) -> str:
        numbers = (str(n) for n in (self.candidate, self.rung) if n >= 0)
        return "_".join([self.phase, *numbers, *([self.variant] if self.variant else [])])

    @property
    def row(self) -> tuple[str, int, int]:
        """What the store finds it by."""
        return f"{self.phase}:{self.variant}" if self.variant else self.phase, self.candidate, self.rung

    @classmethod
    def of_row(cls, phase: str, candidate: int, rung: int) -> TaskKey:
        """Inverse of ``row``."""
        name, _, variant = phase.partition(":")
        return cls(name, candidate, rung, variant)


def state_file(run_dir: Path, name: str) -> StateFile:
    """Return the file of a state of the run."""
    return StateFile(run_dir / STATES / f"{name}.safetensors")


def border_file(settings: SearchSettings, key: TaskKey) -> StateFile | None:
    """Return the file that has the state of an unfinished task at its last epoch border; None without a run folder."""
    return None if settings.run_dir is None else state_file(Path(settings.run_dir), f"{key}.border")
