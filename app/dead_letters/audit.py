"""Reading the audit of dead letters: who did what, newest first, straight from its topic."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import msgspec

from app.dead_letters.api import InvalidQuery
from app.dead_letters.topic_log import SharedLog, TopicLog, Window
from app.settings import Settings


class AuditPage(NamedTuple):
    """Events, newest first; ``next_before`` is None at the end. A page may be short before it."""

    events: Sequence[dict[str, Any]]
    next_before: int | None


class AuditReader:
    """Reads the topic. Calls take turns."""

    def __init__(self, settings: Settings, topic: str) -> None:
        self._topic, self._log = topic, SharedLog(settings)

    async def page(self, limit: int, before: int | None = None) -> AuditPage:
        """Up to ``limit`` events below the offset ``before``.

        Raises:
            InvalidQuery: ``before`` is no offset. DeadLettersUnavailable: Kafka does not answer.
        """
        if before is not None and before < 0:
            raise InvalidQuery("before: next_before of the page before")
        return await self._log.ask(lambda log: self._page(log, limit, before))

    async def aclose(self) -> None:
        """Disconnect; a later call connects again."""
        await self._log.aclose()

    async def _page(self, log: TopicLog, limit: int, before: int | None) -> AuditPage:
        (partition,) = await log.partitions(self._topic)
        begin, end = (await log.bounds([partition]))[partition]
        top = end if before is None else max(begin, min(end, before))
        window = Window(max(begin, top - limit), top)
        records = (await log.read({partition: window}))[partition]
        events = [event for record in reversed(records) if (event := _decoded(record.value)) is not None]
        return AuditPage(events, window.begin if window.begin > begin else None)


def _decoded(raw: bytes | None) -> dict[str, Any] | None:
    """None: not an event of ours; whoever may write to the topic may write anything."""
    try:
        return msgspec.json.decode(raw or b"", type=dict[str, Any])
    except msgspec.MsgspecError:
        return None
