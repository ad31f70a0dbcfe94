"""Reading the audit of dead letters: who did what, newest first, straight from its topic."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any, Final, NamedTuple

import msgspec
from aiokafka.errors import KafkaError

from app.dead_letters.api import DeadLettersUnavailable, InvalidQuery
from app.dead_letters.topic_log import TopicLog, Window
from app.kafka_clients import KafkaConnectError, stray_cancellations
from app.settings import Settings

CALL_TIMEOUT_S: Final = 10.0


class AuditPage(NamedTuple):
    """Events, newest first; ``next_before`` is None at the end. A page may be short before it."""

    events: Sequence[dict[str, Any]]
    next_before: int | None


class AuditReader:
    """One consumer, opened at the first call. Calls take turns."""

    def __init__(self, settings: Settings, topic: str) -> None:
        self._settings, self._topic = settings, topic
        self._lock = asyncio.Lock()
        self._log: TopicLog | None = None

    async def page(self, limit: int, before: int | None = None) -> AuditPage:
        """Up to ``limit`` events below the offset ``before``.

        Raises:
            InvalidQuery: ``before`` is no offset. DeadLettersUnavailable: Kafka does not answer.
        """
        if before is not None and before < 0:
            raise InvalidQuery("before: next_before of the page before")
        try:
            async with asyncio.timeout(CALL_TIMEOUT_S), self._lock:
                with stray_cancellations():
                    return await self._page(limit, before)
        except (KafkaError, KafkaConnectError, OSError) as exc:
            await self._drop()
            raise DeadLettersUnavailable(f"the audit cannot be read: {exc}") from exc

    async def aclose(self) -> None:
        """Disconnect; a later call connects again."""
        async with self._lock:
            await self._drop()

    async def _page(self, limit: int, before: int | None) -> AuditPage:
        if self._log is None:
            self._log = await TopicLog.open(self._settings)
        (partition,) = await self._log.partitions(self._topic)
        begin, end = (await self._log.bounds([partition]))[partition]
        top = end if before is None else max(begin, min(end, before))
        window = Window(max(begin, top - limit), top)
        records = (await self._log.read({partition: window}))[partition]
        events = [event for record in reversed(records) if (event := _decoded(record.value)) is not None]
        return AuditPage(events, window.begin if window.begin > begin else None)

    async def _drop(self) -> None:
        log, self._log = self._log, None
        if log is not None:
            await log.close()


def _decoded(raw: bytes | None) -> dict[str, Any] | None:
    """None: not an event of ours; whoever may write to the topic may write anything."""
    try:
        return msgspec.json.decode(raw or b"", type=dict[str, Any])
    except msgspec.MsgspecError:
        return None
