"""Dead letters out of the index, whole records out of Kafka: what ``veltrix admin`` answers from."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Final, TypeVar

from app.dead_letters.api import DeadLetterRecord, Filters, Group, InvalidQuery, Page, QueueSummary, UnknownQueue
from app.dead_letters.index.queries import IndexReader, encode_cursor
from app.dead_letters.index.schema import ID_BITS
from app.dead_letters.index.states import OPEN
from app.dead_letters.lineage import Origin, parse_origin
from app.dead_letters.reader import MAX_LIMIT, DeadLetterReader

#: Questions at one time; each has a connection of its own.
READERS: Final = 4
#: Over which time the rate of new dead letters is counted, seconds.
RATE_S: Final = 300.0
TOP_GROUPS: Final = 5

T = TypeVar("T")


class DeadLetterIndex:
    """Answers like ``DeadLetterReader`` (``app.dead_letters.api.DeadLetters``), and knows states, groups and words.

    Args:
        path: of the index, which exists.
        kafka: for sizes of queues, and for values and headers of single records.
        queues: those that may be asked for.
    """

    def __init__(self, path: Path, kafka: DeadLetterReader, queues: tuple[str, ...]) -> None:
        self._path, self._kafka, self._queues = path, kafka, queues
        self._local = threading.local()
        self._readers: list[IndexReader] = []
        self._threads = ThreadPoolExecutor(READERS, "dead-letter-reader")

    async def aclose(self) -> None:
        """Close the connections."""
        self._threads.shutdown()
        for reader in self._readers:
            reader.close()

    async def queues(self) -> list[QueueSummary]:
        """Every queue: what Kafka holds, and what of it is still to be done."""
        return [await self.look(partial(_with_index, queue=queue)) for queue in await self._kafka.queues()]

    async def pending(self, queue: str) -> tuple[dict[str, int], int | None]:
        """Letters by status, and when the oldest pending one failed (epoch ms)."""
        return await self.look(lambda index: (index.statuses(queue), index.oldest_ms(queue, "pending")))

    async def records(self, queue: str, limit: int = 50, cursor: str | None = None, filters: Filters | None = None) -> Page:
        """One page, newest first.

        Raises:
            UnknownQueue, InvalidQuery: see ``DeadLetterReader.records``.
        """
        self._check(queue)
        if not 1 <= limit <= MAX_LIMIT:
            raise InvalidQuery(f"limit: 1 to {MAX_LIMIT}, not {limit}")
        return await self.look(lambda index: index.page(queue, limit, cursor, filters or Filters()))

    async def since(self, queue: str, after_ms: int, filters: Filters, limit: int) -> tuple[DeadLetterRecord, ...]:
        """The first letters that failed after that time, oldest first.

        Raises:
            UnknownQueue, InvalidQuery: see ``DeadLetterReader.records``.
        """
        self._check(queue)
        cursor = encode_cursor(max(0, after_ms) << ID_BITS)
        page = await self.look(lambda index: index.page(queue, limit, cursor, filters, oldest_first=True))
        return page.records

    async def record(self, record_id: str) -> DeadLetterRecord | None:
        """One record with everything it holds, and its status."""
        found = await self._kafka.record(record_id)
        if found is None:
            return None
        place = Origin(found.topic, found.partition, found.offset)
        state = await self.look(lambda index: index.state(place))
        return replace(found, status="pending" if state is None else state.status)

    async def letters(self, records: Sequence[DeadLetterRecord]) -> list[DeadLetterRecord | None]:
        """Those rows of the index with all that Kafka has of them, in order; None: retention was quicker."""
        places = [Origin(record.topic, record.partition, record.offset) for record in records]
        found = await self._kafka.records_at(places)
        return [
            replace(found[place], status=record.status) if place in found else None
            for place, record in zip(places, records, strict=True)
        ]

    async def groups(self, queue: str, status: str | None = None) -> list[Group]:
        """Failure groups of a queue, the largest first.

        Raises:
            UnknownQueue: not a queue that is indexed.
        """
        self._check(queue)
        return await self.look(lambda index: index.groups(queue, status))

    async def count(self, queue: str, filters: Filters) -> int:
        """How many letters match.

        Raises:
            UnknownQueue: not a queue that is indexed.
        """
        self._check(queue)
        return await self.look(lambda index: index.count(queue, filters))

    async def ask(self, record_id: str, question: Callable[[IndexReader, Origin], T]) -> T:
        """Ask about one letter.

        Raises:
            UnknownQueue, InvalidQuery: the id names no letter of ours.
        """
        origin = parse_origin(record_id)
        if origin is None:
            raise InvalidQuery("id: <topic>:<partition>:<offset>")
        self._check(origin.topic)
        return await self.look(lambda index: question(index, origin))

    def _check(self, queue: str) -> None:
        if queue not in self._queues:
            raise UnknownQueue(queue)

    async def look(self, question: Callable[[IndexReader], T]) -> T:
        """Ask anything, in a thread of its own."""
        return await asyncio.get_running_loop().run_in_executor(self._threads, lambda: question(self._reader()))

    def _reader(self) -> IndexReader:
        """This thread's connection."""
        reader: IndexReader | None = getattr(self._local, "reader", None)
        if reader is None:
            reader = self._local.reader = IndexReader(self._path)
            self._readers.append(reader)
        return reader


def _with_index(index: IndexReader, queue: QueueSummary) -> QueueSummary:
    statuses = index.statuses(queue.name)
    now_ms = time.time_ns() // 1_000_000
    groups = index.groups(queue.name, "pending")
    return replace(
        queue,
        statuses=statuses,
        open=sum(count for status, count in statuses.items() if status in OPEN),
        oldest_pending_ms=index.oldest_ms(queue.name, "pending"),
        per_minute=index.since(queue.name, now_ms - int(RATE_S * 1000)) * 60 / RATE_S,
        top_groups=tuple(groups[:TOP_GROUPS]),
    )
