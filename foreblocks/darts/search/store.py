"""What a search has finished, kept in its run folder, so that it can be killed anywhere and go on.

``search.sqlite`` has a row for every finished task, and ``states/`` the tensors that belong to a row, one safetensors
file each. A task depends on nothing but the settings, the data and the tasks before it, so a result that is read back
is the result that running it again would give; whatever is missing or damaged is run again. The tensors of a row go as
soon as nothing reads them any more (``SearchStore.drop_states``); its figures stay. Tasks that go on for several epochs
leave their state in ``states/`` at the end of each, from whichever process they run in; only the parent
writes the database. A task that failed is not kept: a resumed search tries it again.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, final

from .._core.errors import DataError, InvalidArgument
from .._core.logging import get_logger
from ..training.state_file import pack, unpack, without_tensors
from .executor import Executor, Failure
from .identity import ENVIRONMENT, differences
from .task_key import STATES, TaskKey, state_file

logger = get_logger(__name__)

DATABASE = "search.sqlite"
LOCK = "search.lock"
#: What the results and states of a run folder look like; it stands in the database as ``PRAGMA user_version``. Raise it
#: whenever a task returns, or a training leaves at an epoch border, other keys or other meanings than before
#: (``SearchState.to_dict``, ``search.tasks``, ``train_final_model``): what an older version stored is then refused.
FORMAT = 3
_TABLES = """
CREATE TABLE IF NOT EXISTS identity (name TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS seconds (phase TEXT PRIMARY KEY, seconds REAL NOT NULL);
CREATE TABLE IF NOT EXISTS results (
    phase TEXT, candidate INTEGER, rung INTEGER, value TEXT NOT NULL, has_tensors INTEGER NOT NULL,
    PRIMARY KEY (phase, candidate, rung)
);
"""


def refuse_existing(path: Path) -> None:
    """Raise ``InvalidArgument`` if the folder ``path`` holds a search: one is never replaced silently."""
    if (path / DATABASE).exists():
        kind = "a finished" if (path / "result.json").exists() else "an unfinished"
        raise InvalidArgument(
            f"run_dir={str(path)!r} already holds {kind} search. resume=True (foreblocks-darts resume {path}) goes on "
            "with it; for a new one choose another folder or delete this one."
        )


@final
class SearchStore:
    """The database of one run folder, open for the one process that runs the search; a context manager.

    Args:
        path: the run folder.
        identity: what the search is made of (``search_identity``).
        resume: go on with a search that the folder may hold.

    Raises:
        InvalidArgument: the folder holds a search and ``resume`` is False, another search (what differs is named), one
            that is running at this moment, or one whose results another version of this package stored.
        DataError: the database or the lock is damaged, or cannot be opened; later, too, from any method.
    """

    def __init__(self, path: Path, identity: Mapping[str, Any], *, resume: bool) -> None:
        if not resume:
            refuse_existing(path)
        self.path = path
        self._lock = _locked(path)
        try:
            with self._errors():
                self._database = sqlite3.connect(path / DATABASE, isolation_level=None)
        except DataError:
            self._lock.close()
            raise
        try:
            with self._errors():
                self._prepare(identity)
        except (DataError, InvalidArgument):
            self.close()
            raise

    def __enter__(self) -> SearchStore:
        return self

    def __exit__(self, *_exception: object) -> None:
        self.close()

    def __len__(self) -> int:
        """Return the number of finished tasks."""
        with self._errors():
            return int(self._database.execute("SELECT count(*) FROM results").fetchone()[0])

    def close(self) -> None:
        """Let go of the folder."""
        self._database.close()
        self._lock.close()

    def load(self, key: TaskKey) -> Any:
        """Return the result of a finished task; None if there is none, or its tensors are damaged (which is logged)."""
        with self._errors():
            row = self._database.execute(
                "SELECT value, has_tensors FROM results WHERE phase = ? AND candidate = ? AND rung = ?", key.row
            ).fetchone()
            if row is None:
                return None
            text, has_tensors = row
            if not has_tensors:
                return unpack(text, {})
        file = state_file(self.path, str(key))
        if not file.path.exists():
            logger.warning("%s is missing: %s is run again.", file.path, key)
        return file.load(text)

    def save(self, key: TaskKey, result: Any) -> None:
        """Keep the result of a finished task: its tensors first, then its row; its epoch borders are dropped."""
        text, tensors = pack(result)
        if tensors:
            state_file(self.path, str(key)).write(text, tensors)
        with self._errors():
            self._database.execute(
                "INSERT OR REPLACE INTO results VALUES (?, ?, ?, ?, ?)", (*key.row, text, bool(tensors))
            )
        state_file(self.path, f"{key}.border").path.unlink(missing_ok=True)

    def drop_states(self, phase: str, keep: Container[TaskKey] = ()) -> None:
        """Drop the tensors of the finished tasks of a phase; what else they returned stays, with None in their place.

        Killed in the middle, it does the rest when it is called again.
        """
        with self._errors():
            rows = self._database.execute(
                "SELECT phase, candidate, rung, value, has_tensors FROM results WHERE phase = ? OR phase LIKE ?",
                (phase, f"{phase}:%"),
            ).fetchall()
            for *row, text, has_tensors in rows:
                key = TaskKey.of_row(*row)
                if key in keep:
                    continue
                if has_tensors:
                    self._database.execute(
                        "UPDATE results SET value = ?, has_tensors = 0 WHERE phase = ? AND candidate = ? AND rung = ?",
                        (without_tensors(text), *key.row),
                    )
                state_file(self.path, str(key)).path.unlink(missing_ok=True)

    def add_seconds(self, phase: str, seconds: float) -> float:
        """Add the wall time of a phase to that of the runs before; return the sum."""
        with self._errors():
            self._database.execute(
                "INSERT INTO seconds VALUES (?, ?) "
                "ON CONFLICT (phase) DO UPDATE SET seconds = seconds + excluded.seconds",
                (phase, seconds),
            )
            return float(self._database.execute("SELECT seconds FROM seconds WHERE phase = ?", (phase,)).fetchone()[0])

    @contextmanager
    def _errors(self) -> Iterator[None]:
        """Name the file in whatever goes wrong with the database."""
        file = self.path / DATABASE
        try:
            yield
        except sqlite3.OperationalError as error:
            raise DataError(f"{file} cannot be used ({error}).") from error
        except (sqlite3.DatabaseError, json.JSONDecodeError) as error:
            raise DataError(
                f"{file} is damaged ({error}): the search cannot be resumed. Begin anew in another run_dir, or delete "
                "this one."
            ) from error

    def _prepare(self, identity: Mapping[str, Any]) -> None:
        """Make the tables, or see that those that are there belong to the same search."""
        states = self.path / STATES
        self._database.execute("PRAGMA journal_mode = WAL")
        self._database.execute("PRAGMA synchronous = NORMAL")
        self._database.executescript(_TABLES)
        stored = {name: json.loads(value) for name, value in self._database.execute("SELECT * FROM identity")}
        if stored:
            _check_format(self.path, int(self._database.execute("PRAGMA user_version").fetchone()[0]))
            _check_identity(self.path, stored, identity)
        elif states.is_dir() and any(states.iterdir()):
            raise InvalidArgument(
                f"run_dir={str(self.path)!r} has files in {STATES}/ that belong to no search; delete them or choose "
                "another folder."
            )
        else:
            self._database.execute("BEGIN")
            rows = [(name, json.dumps(value)) for name, value in identity.items()]
            self._database.executemany("INSERT INTO identity VALUES (?, ?)", rows)
            self._database.execute(f"PRAGMA user_version = {FORMAT}")
            self._database.execute("COMMIT")
        states.mkdir(exist_ok=True)
        for part in states.glob(".*.part"):  # of a process that was killed while it wrote
            part.unlink(missing_ok=True)


@final
class StoredExecutor:
    """Runs those tasks that the store does not have yet, and keeps what they return.

    Results are reported in the order of the payloads, whether they were read or computed, since lists that are filled
    in this order must come out the same.
    """

    def __init__(self, executor: Executor, store: SearchStore) -> None:
        self._executor = executor
        self._store = store

    def map(
        self, task: Callable[[Any], Any], payloads: Sequence[Any], on_result: Callable[[int, Any], None]
    ) -> list[Any]:
        """Run the tasks that are missing, each with a ``key``; all results come back in the order of the payloads."""
        results: dict[int, Any] = {}
        for position, payload in enumerate(payloads):
            found = None if payload.key is None else self._store.load(payload.key)
            if found is not None:
                results[position] = found
        missing = [position for position in range(len(payloads)) if position not in results]
        waiting = sorted(results, reverse=True)

        def report_stored(before: int) -> None:
            while waiting and waiting[-1] < before:
                position = waiting.pop()
                on_result(position, results[position])

        def record(number: int, result: Any) -> None:
            position = missing[number]
            key = payloads[position].key
            if key is not None and not isinstance(result, Failure):
                self._store.save(key, result)
            report_stored(position)
            results[position] = result
            on_result(position, result)

        report_stored(missing[0] if missing else len(payloads))
        if missing:
            self._executor.map(task, [payloads[position] for position in missing], record)
        report_stored(len(payloads))
        return [results[position] for position in range(len(payloads))]


def remembered(store: SearchStore | None, key: TaskKey, of: list[Any], compute: Callable[[], Any]) -> Any:
    """Return what ``compute`` gave in an earlier run for the same parts ``of``; else run it and keep."""
    found = None if store is None else store.load(key)
    if found is not None and found["candidates"] == of:
        return found["value"]
    value = compute()
    if store is not None:
        store.save(key, {"candidates": of, "value": value})
    return value


def _locked(path: Path) -> sqlite3.Connection:
    """Return an open transaction on a file beside the database: the system ends it with the process, however it ends.

    The database itself stays readable for others while the search runs.
    """
    file = path / LOCK
    lock = None
    try:
        lock = sqlite3.connect(file, timeout=0, isolation_level=None)
        lock.execute("BEGIN EXCLUSIVE")
    except sqlite3.DatabaseError as error:
        if lock is not None:
            lock.close()
        if error.sqlite_errorcode == sqlite3.SQLITE_BUSY:
            raise InvalidArgument(f"run_dir={str(path)!r}: a search is running in this folder ({error}).") from error
        raise DataError(
            f"{file} is damaged or cannot be opened ({error}). It holds nothing: if no search is running in this "
            "folder, delete it and try again."
        ) from error
    return lock


def _check_format(path: Path, found: int) -> None:
    if found != FORMAT:
        raise InvalidArgument(
            f"run_dir={str(path)!r} holds a search that another version of foreblocks-darts began (format {found} of "
            f"its results, {FORMAT} now), so it cannot be resumed. Choose another run_dir for a new search, or delete "
            "this one and begin anew with resume=False."
        )


def _check_identity(path: Path, stored: Mapping[str, Any], wanted: Mapping[str, Any]) -> None:
    changed = differences(stored, wanted)
    settings = [text for name, text in changed.items() if not name.startswith(ENVIRONMENT)]
    if settings:
        raise InvalidArgument(
            f"run_dir={str(path)!r} holds another search, so it cannot be resumed with these arguments. "
            f"It differs in {'; '.join(settings)}."
        )
    if changed:
        logger.warning("the last digits may change with this run: %s.", "; ".join(changed.values()))
