"""What a search has so far: it is filled as the phases go, and outlives an interrupt or an error."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from .finish import Finalist, Finished
from .halving import Halving, Runner
from .rivals.beside import Beside
from .run_folder import RunFolder


@dataclass
class Progress:
    """The finished parts of a search; readable after an interrupt (``DARTSTrainer.partial_search``).

    Attributes:
        records: scored candidates, in the order of scoring, best first once phase 1 is over.
        promoted: the records that go into phase 3.
        halving: phase 3; its runners hold the state and the losses of their last finished rung.
        finalists: survivors whose final training is over.
        beside: the best preset and the rival search, if they were asked for.
        finished: result of phases 4 and 5.
        failures: candidate id → reason.
        seconds: phase → wall time.
    """

    records: list[dict[str, Any]] = field(default_factory=list)
    promoted: list[dict[str, Any]] = field(default_factory=list)
    halving: Halving | None = None
    finalists: list[Finalist] = field(default_factory=list)
    beside: Beside = field(default_factory=Beside)
    finished: Finished | None = None
    failures: dict[int, str] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)

    @property
    def runners(self) -> list[Runner]:
        """The candidates of phase 3; none before it."""
        return [] if self.halving is None else self.halving.runners

    @property
    def rounds(self) -> list[dict[str, Any]]:
        """A row per finished rung."""
        return [] if self.halving is None else self.halving.rounds

    def save(self, folder: RunFolder, scaler: Mapping[str, Any] | None) -> None:
        """Write what there is: the candidates with the rungs that each has finished, the rungs, the failures.

        Finalists of a search that has not reached its end are saved too, each in a folder that ``load_folder`` reads.
        """
        rungs = {runner.record["candidate_id"]: runner.history for runner in self.runners}
        if self.records:
            folder.write_json(
                "candidates.json", [{**r, "rungs": rungs.get(r["candidate_id"], [])} for r in self.records]
            )
        if self.halving is not None:
            folder.write_json("rungs.json", self.rounds)
        if self.failures:
            folder.write_json("failures.json", self.failures)
        if self.finished is None:
            for finalist in self.finalists:
                name = f"finalists/candidate_{finalist.runner.record['candidate_id']}"
                folder.save_model(finalist.network, scaler, name)
