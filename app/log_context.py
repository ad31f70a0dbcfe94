"""What a task is working on, so that its log lines say so: an agent's own lines name partition, batch and trace by themselves.

A context variable per run would cost microseconds; this is one per task, whose value is changed in place.
"""

from __future__ import annotations

from contextvars import ContextVar
from dataclasses import dataclass

_WORK: ContextVar[Work | None] = ContextVar("work", default=None)


@dataclass(slots=True)
class Work:
    """One lane's task. Offsets are those of the batch that is being processed, -1 in between."""

    agent: str
    partition: int
    topic: str = ""
    first_offset: int = -1
    last_offset: int = -1
    trace_id: str = ""

    def begin(self, topic: str, first_offset: int, last_offset: int) -> None:
        """A batch is being processed from now on."""
        self.topic, self.first_offset, self.last_offset = topic, first_offset, last_offset

    def end(self) -> None:
        """It is processed, or has failed."""
        self.first_offset, self.trace_id = -1, ""

    def fields(self) -> dict[str, object]:
        """For a log line. ``batch`` is topic:partition:first offset-last offset."""
        found: dict[str, object] = {"agent": self.agent, "partition": self.partition}
        if self.first_offset >= 0:
            found["topic"] = self.topic
            found["batch"] = f"{self.topic}:{self.partition}:{self.first_offset}-{self.last_offset}"
        if self.trace_id:
            found["trace.id"] = self.trace_id
        return found


def work_on(work: Work) -> None:
    """This is what the task works on from now on; tasks that it begins inherit it."""
    _WORK.set(work)


def current_fields() -> dict[str, object]:
    """Of the current task; empty when it is no lane's."""
    work = _WORK.get()
    return {} if work is None else work.fields()
