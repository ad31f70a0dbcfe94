"""``veltrix generate``: send a clickstream to Kafka at a fixed rate.

Open loop: the send time of every record is fixed in advance. A late record is sent at once and keeps its
intended time as Kafka timestamp and event time, so that a latency measured from it hides no stall.
"""

from __future__ import annotations

import asyncio
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

import aiokafka

from app.cli.clickstream import BAD_KINDS, Click, Clickstream
from app.cli.console import CommandError
from app.domain.routing import partition_of
from app.kafka_clients import client_options, connected
from app.settings import Settings
from app.topic_admin import open_admin
from app.topics import INTERACTIONS

#: Records due within one tick leave together: a produce request costs 100 us however small it is.
TICK_S: Final = 0.005
#: Most records of one wake-up, so that signals and acknowledgements get their turn when the schedule is behind.
BURST: Final = 2000
#: Largest RecordBatch; the broker takes 1 MiB.
BATCH_BYTES: Final = 512 * 1024
#: Unlimited rate: records that may wait for their acknowledgement.
MAX_IN_FLIGHT: Final = 50_000


@dataclass(frozen=True, slots=True)
class Plan:
    """How much to send. ``rate`` in records per second; 0: as fast as the broker takes them."""

    rate: float
    count: int

    @classmethod
    def of(cls, rate: float, duration_s: float | None, count: int | None) -> Plan:
        """``count`` wins over ``duration_s``.

        Raises:
            CommandError: neither gives an end.
        """
        if count is None and (rate <= 0 or duration_s is None):
            raise CommandError("--rate 0 (as fast as possible) needs --count")
        return cls(rate, int(rate * (duration_s or 0)) if count is None else count)

    def due(self, elapsed_s: float) -> int:
        """How many records must have been sent by now. The first is due at 0."""
        return self.count if self.rate <= 0 else min(self.count, int(elapsed_s * self.rate) + 1)

    def offset_s(self, index: int) -> float:
        """Intended send time of a record, seconds after the start."""
        return index / self.rate if self.rate > 0 else 0.0


class Tally:
    """What the broker acknowledged."""

    def __init__(self) -> None:
        self.kinds: Counter[str] = Counter()
        self.failed = 0
        self.error: BaseException | None = None

    def settle(self, kinds: Sequence[str], future: asyncio.Future[Any]) -> None:
        """Callback of one batch."""
        error = future.exception()
        if error is None:
            self.kinds.update(kinds)
        else:
            self.failed += len(kinds)
            self.error = self.error or error

    @property
    def sent(self) -> int:
        return self.kinds.total()


class BatchSender:
    """Groups records by partition and sends each group as one RecordBatch."""

    def __init__(self, producer: aiokafka.AIOKafkaProducer, topic: str, partitions: int) -> None:
        self.tally = Tally()
        self._producer, self._topic, self._partitions = producer, topic, partitions
        self._unsettled = 0

    @property
    def in_flight(self) -> int:
        """Records without an acknowledgement."""
        return self._unsettled

    async def send(self, records: Sequence[tuple[Click, int]]) -> None:
        """Hand (record, epoch ms) pairs to the producer, in order per partition. Waits only when the producer is full."""
        groups: dict[int, list[tuple[Click, int]]] = {}
        for record in records:
            groups.setdefault(partition_of(record[0].key, self._partitions), []).append(record)
        for partition, group in groups.items():
            await self._send_group(partition, group)

    async def _send_group(self, partition: int, group: Sequence[tuple[Click, int]]) -> None:
        kinds: list[str] = []
        batch = self._producer.create_batch()
        for click, at_ms in group:
            if batch.append(timestamp=at_ms, key=click.key, value=click.value) is None:  # full
                await self._submit(batch, partition, kinds)
                batch, kinds = self._producer.create_batch(), []
                batch.append(timestamp=at_ms, key=click.key, value=click.value)
            kinds.append(click.kind)
        await self._submit(batch, partition, kinds)

    async def _submit(self, batch: Any, partition: int, kinds: list[str]) -> None:
        batch.close()
        self._unsettled += len(kinds)
        future = await self._producer.send_batch(batch, self._topic, partition=partition)
        future.add_done_callback(partial(self._settle, kinds))

    def _settle(self, kinds: list[str], future: asyncio.Future[Any]) -> None:
        self._unsettled -= len(kinds)
        self.tally.settle(kinds, future)


Progress = Callable[[Tally, float], None]


async def generate(settings: Settings, stream: Clickstream, plan: Plan, progress: Progress | None = None) -> dict[str, Any]:
    """Send the plan's records to the source topic and return the summary. SIGINT or SIGTERM ends it early, after a flush.

    Raises:
        KafkaConnectError, UnknownTopicError: nothing was sent.
        CommandError: the broker refused records; says how many it had taken.
    """
    async with open_admin(settings) as admin:
        partitions = len(await admin.partitions(INTERACTIONS))
    options = client_options(settings, client_id=f"{settings.app_id}-generate")
    producer = aiokafka.AIOKafkaProducer(
        **options, acks="all", enable_idempotence=True, max_batch_size=BATCH_BYTES, request_timeout_ms=30_000
    )
    async with connected(producer, settings):
        sender = BatchSender(producer, INTERACTIONS, partitions)
        with _stop_on_signals() as stopped:
            seconds = await run_schedule(stream, plan, sender, stopped, progress)
        await producer.flush()
        await asyncio.sleep(0)  # the callbacks of the last acknowledgements
    if sender.tally.error is not None:
        raise CommandError(f"Kafka refused {sender.tally.failed} records after taking {sender.tally.sent}: {sender.tally.error!r}")
    return summary(sender.tally.kinds, seconds)


async def run_schedule(
    stream: Clickstream, plan: Plan, sender: BatchSender, stopped: asyncio.Event, progress: Progress | None = None
) -> float:
    """Send every record at its time, or at once when that has passed. Returns the seconds it took."""
    start_ms, start = time.time() * 1000, time.monotonic()
    handed, second = 0, 0
    while handed < plan.count and not stopped.is_set() and sender.tally.error is None:
        elapsed = time.monotonic() - start
        due = min(plan.due(elapsed), handed + BURST)
        if plan.rate <= 0 and sender.in_flight > MAX_IN_FLIGHT:
            due = handed
        base_ms = start_ms + (elapsed * 1000 if plan.rate <= 0 else 0)
        await sender.send(list(_records(stream, plan, base_ms, handed, due)))
        behind, handed = due < plan.due(elapsed), due
        if progress is not None and int(elapsed) > second:
            second = int(elapsed)
            progress(sender.tally, elapsed)
        next_due = plan.offset_s(handed) - (time.monotonic() - start)
        await asyncio.sleep(0 if behind and sender.in_flight <= MAX_IN_FLIGHT else max(next_due, TICK_S))
    return time.monotonic() - start


def summary(kinds: Counter[str], seconds: float) -> dict[str, Any]:
    """The last line of stdout. ``valid_unique`` + ``duplicates`` + all of ``bad`` = ``sent``."""
    return {
        "sent": kinds.total(),
        "valid_unique": kinds["valid"],
        "duplicates": kinds["duplicate"],
        "bad": {kind: kinds[kind] for kind in BAD_KINDS},
        "seconds": round(seconds, 3),
    }


def _records(stream: Clickstream, plan: Plan, base_ms: float, start: int, end: int) -> Iterator[tuple[Click, int]]:
    for index in range(start, end):
        at_ms = int(base_ms + plan.offset_s(index) * 1000)
        yield stream.next(at_ms), at_ms


@contextmanager
def _stop_on_signals() -> Iterator[asyncio.Event]:
    """An event that the first SIGINT or SIGTERM sets; the second one acts as usual."""
    stopped, loop = asyncio.Event(), asyncio.get_running_loop()

    def stop(number: signal.Signals) -> None:
        stopped.set()
        loop.remove_signal_handler(number)

    numbers = (signal.SIGINT, signal.SIGTERM)
    for number in numbers:
        loop.add_signal_handler(number, stop, number)
    try:
        yield stopped
    finally:
        for number in numbers:
            loop.remove_signal_handler(number)
