"""Finding the record that kills the process (segfault, out of memory, ``os._exit`` in an extension), so that it is parked.

Nothing can be caught then, so it is written down before: each run of an agent's body is noted (see
:mod:`app.engine.crash_files`). A worker that finds a run still noted when it starts knows which records it died on:
these are *suspects*, and the body gets each of them alone until they are durable. A record that was alone when the
process died has one attempt more; at ``crash_attempts`` it becomes a dead letter without being run again.

Suspicion holds for the worker: as long as one lane has suspects, all lanes take turns, for a body that waits lets
others run, and of two runs in progress nobody could tell which one was guilty (an end with two notes counts for no
record). A kill -9 or the out-of-memory killer counts one attempt for an innocent record at most, which its next
success takes back. Ends of our own (:mod:`app.engine.guard`) count for none: see :meth:`CrashJournal.sparing`.

The limit: only the body is watched. Attempts live on the worker's disk: an empty disk, and another worker, count anew.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import ParamSpec

import structlog

from app.engine.api import LaneId, Record
from app.engine.crash_files import Crashed, History, RunNote, load_history, save_history

log = structlog.get_logger(__name__)

P = ParamSpec("P")
IsApplied = Callable[[str, int], bool]
"""Topic and offset of a source record -> it is durable, or will never be read again"""


class CrashJournal:
    """The journal of one worker: a directory with two files per lane. Touch it only while holding the data directory's lock.

    Args:
        directory: made on first use.
        limit: attempts after which a record is not run again (setting ``crash_attempts``).
    """

    def __init__(self, directory: Path, limit: int) -> None:
        self.limit = limit
        self.is_calm = True
        """No lane has suspects: the body runs as if there were no journal, but noted"""
        self.turn = asyncio.Lock()
        """Held during a run while not calm"""
        self._directory = directory
        self._lanes: dict[LaneId, LaneJournal] = {}
        self._is_read = False

    def open(self, lane: LaneId, is_applied: IsApplied) -> LaneJournal:
        """The journal of a lane that is about to start; the first call reads what the process before this one left.

        Raises:
            OSError: the directory cannot be written.
        """
        if not self._is_read:
            self._directory.mkdir(parents=True, exist_ok=True)
            self._read_notes()
            self._is_read = True
        self.close(lane)
        opened = self._lanes[lane] = LaneJournal(self, lane, self._directory, is_applied)
        self.check()
        return opened

    def close(self, lane: LaneId) -> None:
        """The lane has stopped; its suspects no longer slow the others down. They are kept for its next start."""
        closed = self._lanes.pop(lane, None)
        if closed is not None:
            closed.has_suspects()  # what became durable is forgotten now, and not at the next start
            closed.end()
            closed.close()
            self.check()

    def check(self) -> None:
        """Forget suspects that are durable by now; without any left, all lanes run freely again."""
        suspicious = [str(lane) for lane, journal in self._lanes.items() if journal.has_suspects()]
        if self.is_calm and suspicious:
            log.warning("processing_cautiously", lanes=suspicious)
        elif suspicious == [] and not self.is_calm:
            log.info("processing_freely")
        self.is_calm = not suspicious

    def sparing(self, end_process: Callable[P, None]) -> Callable[P, None]:
        """``end_process`` (``fatal``, ``refuse``), but runs in progress are not to blame: it was our own decision."""

        def end(*args: P.args, **kwargs: P.kwargs) -> None:
            for journal in self._lanes.values():
                journal.end()
            end_process(*args, **kwargs)

        return end

    def _read_notes(self) -> None:
        """Turn every run that was in progress into suspects, and into an attempt when there was only one."""
        notes = {path: RunNote(path) for path in sorted(self._directory.glob("*.note"))}
        runs = {path: run for path, note in notes.items() if (run := note.read()) is not None}
        for path, run in runs.items():
            history = load_history(path.with_suffix(".json"))
            attempts = history.add(run, is_alone=len(runs) == 1)
            save_history(path.with_suffix(".json"), history)
            log.warning("died_while_processing", lane=path.stem, topic=run.topic, first=run.first, last=run.last, attempts=attempts)
        for note in notes.values():
            note.end()
            note.close()


class LaneJournal:
    """What one lane writes down, and what it knows of earlier ends."""

    def __init__(self, worker: CrashJournal, lane: LaneId, directory: Path, is_applied: IsApplied) -> None:
        self.worker = worker
        self._is_applied = is_applied
        self._path = directory / f"{lane}.json"
        self._note = RunNote(directory / f"{lane}.note")
        self._history: History = load_history(self._path)

    def begin(self, records: Sequence[Record]) -> None:
        """The body is about to run over ``records``: one topic, offset order, at least one."""
        first = records[0]
        self._note.begin(first.topic, first.offset, records[-1].offset, first.timestamp)

    def end(self) -> None:
        """The body has returned or raised: nothing after this is the records' doing."""
        self._note.end()

    def close(self) -> None:
        """Release the note; the history stays."""
        self._note.close()

    def has_suspects(self) -> bool:
        """Records that may have ended a process are still to come, or are not durable yet."""
        history = self._history
        if not history.suspects:
            return False
        left = [suspects for suspects in history.suspects if not self._is_applied(suspects.topic, suspects.last)]
        if left != history.suspects:
            history.suspects = left
            self._keep([c for c in history.crashed if not self._is_applied(c.topic, c.offset)])
        return bool(left)

    def groups(self, records: Sequence[Record]) -> Iterator[list[Record]]:
        """``records`` in order: each suspect alone, those between them together."""
        for is_suspect, group in itertools.groupby(records, self._is_suspect):
            if is_suspect:
                yield from ([record] for record in group)
            else:
                yield list(group)

    def attempts(self, record: Record) -> int:
        """How often the process died while ``record`` was processed alone."""
        return next((crashed.attempts for crashed in self._history.crashed if crashed.is_of(record)), 0)

    def survived(self, records: Sequence[Record]) -> None:
        """The body ran over ``records`` and the process lives: an attempt counted for one of them was not its doing."""
        if len(records) == 1 and self.attempts(records[0]):
            self._keep([crashed for crashed in self._history.crashed if not crashed.is_of(records[0])])

    def _is_suspect(self, record: Record) -> bool:
        return any(s.first <= record.offset <= s.last and s.topic == record.topic for s in self._history.suspects)

    def _keep(self, crashed: list[Crashed]) -> None:
        self._history.crashed = crashed
        try:
            save_history(self._path, self._history)
        except OSError as exc:  # harmless: what is forgotten in memory only is forgotten again at the next start
            log.warning("crash_history_not_saved", path=str(self._path), error=str(exc))
