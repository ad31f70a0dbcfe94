"""Reading dead letters straight from Kafka: one long-lived consumer without a group, opened at the first call."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Final

from aiokafka import TopicPartition

from app.dead_letters.api import (
    DeadLetterRecord,
    Filters,
    InvalidQuery,
    Page,
    QueueSummary,
    UnknownQueue,
)
from app.dead_letters.dialects import decode_any
from app.dead_letters.lineage import Origin, parse_origin
from app.dead_letters.scan import Scan, decode_cursor, encode_cursor
from app.dead_letters.topic_log import CALL_TIMEOUT_S, SharedLog, TopicLog, Window
from app.settings import Settings
from app.topics import INTERACTIONS, dead_letters_of

MAX_LIMIT: Final = 500
MAX_SCANNED: Final = 20_000
#: A page with filters ends early, with a cursor to go on, rather than late.
SCAN_TIMEOUT_S: Final = 3.0
#: Letters that are wanted and lie this close together are read in one go, with those between them.
MAX_GAP: Final = 200


class DeadLetterReader:
    """This application's queues and nothing else. Calls take turns, each bounded by ``timeout_s``.

    Raises, in every call:
        DeadLettersUnavailable: Kafka does not answer in time, or the topic is missing.
    """

    def __init__(self, settings: Settings, queues: Sequence[str] | None = None, timeout_s: float = CALL_TIMEOUT_S) -> None:
        self._settings = settings
        self._queues = tuple(queues or (dead_letters_of(settings.app_id, INTERACTIONS),))
        self._log = SharedLog(settings, timeout_s)
        self._edges: dict[tuple[TopicPartition, int], int] = {}

    async def queues(self) -> list[QueueSummary]:
        """Every queue with its size and age."""
        return await self._log.ask(self._summaries)

    async def records(self, queue: str, limit: int = 50, cursor: str | None = None, filters: Filters | None = None) -> Page:
        """One page, newest first.

        Raises:
            UnknownQueue: not a dead letter queue of this application.
            InvalidQuery: limit outside 1..500, or not a cursor of this queue.
        """
        self._check(queue)
        if not 1 <= limit <= MAX_LIMIT:
            raise InvalidQuery(f"limit: 1 to {MAX_LIMIT}, not {limit}")
        if filters is not None and (filters.status is not None or filters.query is not None):
            raise InvalidQuery("status and q: ask `veltrix admin`, which has an index; a worker only reads the topic")
        below = {} if cursor is None else decode_cursor(queue, cursor)
        return await self._log.ask(lambda log: self._page(log, queue, limit, below, filters or Filters()))

    async def record(self, record_id: str) -> DeadLetterRecord | None:
        """The dead letter ``<topic>:<partition>:<offset>``, or None: never written, or taken by retention.

        Raises:
            UnknownQueue: its topic is not a dead letter queue of this application.
            InvalidQuery: not an id.
        """
        origin = parse_origin(record_id)
        if origin is None:
            raise InvalidQuery("id: <topic>:<partition>:<offset>")
        self._check(origin.topic)
        return await self._log.ask(lambda log: self._one(log, TopicPartition(origin.topic, origin.partition), origin.offset))

    async def records_at(self, places: Sequence[Origin]) -> dict[Origin, DeadLetterRecord]:
        """Those of many dead letters that Kafka still holds, with their values. For letters that lie close together.

        Raises:
            UnknownQueue: not a dead letter queue of this application.
        """
        for place in places:
            self._check(place.topic)
        return await self._log.ask(lambda log: self._many(log, places))

    async def aclose(self) -> None:
        """Close the consumer; a later call opens it again."""
        await self._log.aclose()

    # -- the work, inside the lock ----------------------------------------------------------------

    async def _summaries(self, log: TopicLog) -> list[QueueSummary]:
        return [await self._summary(log, queue) for queue in self._queues]

    async def _summary(self, log: TopicLog, queue: str) -> QueueSummary:
        partitions = await log.partitions(queue)
        bounds = {partition: window for partition, window in (await log.bounds(partitions)).items() if window.end > window.begin}
        oldest = await self._timestamps(log, {partition: window.begin for partition, window in bounds.items()})
        newest = await self._timestamps(log, {partition: window.end - 1 for partition, window in bounds.items()})
        return QueueSummary(
            name=queue,
            partitions=len(partitions),
            count=sum(window.end - window.begin for window in bounds.values()),
            oldest_failed_at_ms=min(oldest, default=None),
            newest_failed_at_ms=max(newest, default=None),
            retention_ms=self._settings.dlq_retention_ms,
        )

    async def _timestamps(self, log: TopicLog, offsets: dict[TopicPartition, int]) -> list[int]:
        """Timestamps of single records. A record never changes, so those of the last call are kept."""
        missing = {tp: Window(offset, offset + 1) for tp, offset in offsets.items() if (tp, offset) not in self._edges}
        for partition, records in (await log.read(missing)).items():
            for record in records:
                self._edges[partition, record.offset] = record.timestamp
        found = [self._edges[edge] for edge in offsets.items() if edge in self._edges]
        if len(self._edges) > 10_000:
            self._edges.clear()
        return found

    async def _page(self, log: TopicLog, queue: str, limit: int, below: dict[int, int], filters: Filters) -> Page:
        ranges = await self._ranges(log, queue, below, filters)
        scan = Scan(ranges, limit, filters, MAX_SCANNED)
        clock = asyncio.get_running_loop()
        give_up = clock.time() + SCAN_TIMEOUT_S
        while (windows := scan.wanted()) and clock.time() < give_up:
            read = await log.read({TopicPartition(queue, number): window for number, window in windows.items()})
            for partition, records in read.items():
                scan.feed(partition.partition, windows[partition.partition], map(decode_any, records))
            scan.merge()
        rest = scan.below()
        return Page(tuple(scan.found), None if rest is None else encode_cursor(queue, rest), scan.scanned)

    async def _ranges(self, log: TopicLog, queue: str, below: dict[int, int], filters: Filters) -> dict[int, Window]:
        """What may be looked at: what Kafka holds, below the cursor, within the times asked for (by Kafka's time index)."""
        bounds = await log.bounds(await log.partitions(queue))
        after, before = filters.failed_after_ms, filters.failed_before_ms
        first = {} if after is None else await log.offsets_at(bounds, after)
        last = {} if before is None else await log.offsets_at(bounds, before)
        ranges = {}
        for partition, (begin, end) in bounds.items():
            top = min(end, below.get(partition.partition, end), end if (at := last.get(partition)) is None else at)
            bottom = begin
            if after is not None:
                bottom = end if (at := first.get(partition)) is None else max(begin, at)
            ranges[partition.partition] = Window(min(bottom, max(top, begin)), max(top, begin))
        return ranges

    async def _one(self, log: TopicLog, partition: TopicPartition, offset: int) -> DeadLetterRecord | None:
        if partition not in await log.partitions(partition.topic):
            return None
        begin, end = (await log.bounds([partition]))[partition]
        if not begin <= offset < end:
            return None
        records = (await log.read({partition: Window(offset, offset + 1)}))[partition]
        return decode_any(records[0]) if records else None

    async def _many(self, log: TopicLog, places: Sequence[Origin]) -> dict[Origin, DeadLetterRecord]:
        wanted: dict[TopicPartition, list[int]] = {}
        for place in sorted(places):
            wanted.setdefault(TopicPartition(place.topic, place.partition), []).append(place.offset)
        begins = {partition: window.begin for partition, window in (await log.bounds(list(wanted))).items()}
        runs = {tp: _runs([offset for offset in offsets if offset >= begins[tp]]) for tp, offsets in wanted.items()}
        found: dict[Origin, DeadLetterRecord] = {}
        for number in range(max(map(len, runs.values()), default=0)):  # one run of each partition at a time
            windows = {tp: of_partition[number] for tp, of_partition in runs.items() if number < len(of_partition)}
            for tp, records in (await log.read(windows)).items():
                asked = set(wanted[tp])
                found |= {
                    Origin(tp.topic, tp.partition, record.offset): decode_any(record)
                    for record in records
                    if record.offset in asked
                }
        return found

    def _check(self, queue: str) -> None:
        if queue not in self._queues:
            raise UnknownQueue(queue)


def _runs(offsets: Sequence[int]) -> list[Window]:
    """Windows around ascending offsets."""
    runs: list[Window] = []
    for offset in offsets:
        if runs and offset - runs[-1].end <= MAX_GAP:
            runs[-1] = Window(runs[-1].begin, offset + 1)
        else:
            runs.append(Window(offset, offset + 1))
    return runs
