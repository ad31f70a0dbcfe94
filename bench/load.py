"""Producing: a whole file as fast as it goes (preload), or a plan of slices at fixed send times (open loop).

The open-loop sender is a process of its own: ``python -m bench.load PLAN.json``. It never waits for an answer:
an event that is late is sent at once and keeps its intended time, which travels in its ``messageId``.
"""

from __future__ import annotations

import gc
import sys
import time
from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import cycle
from pathlib import Path
from typing import Any, Protocol

import msgspec
from confluent_kafka import KafkaError, KafkaException, Producer

from bench.events import read_events
from bench.histogram import Percentiles, histogram_of, summarise
from bench.schedule import Arrivals, Slice, send_times

FLUSH_S = 60.0
LINGER_MS = 5  # default of librdkafka and, since 4.0, of Kafka's own clients; the raw floor contains it too
SLOT = b"t-@@"  # where a template's messageId has its sequence number and intended time
ID_PREFIX = b"t-"


class SendPlan(msgspec.Struct, frozen=True):
    """Everything the sender needs. ``start_ns`` is a reading of ``time.monotonic_ns`` (one clock for all processes)."""

    bootstrap: str
    templates: str
    start_ns: int
    slices: list[Slice]
    arrivals: Arrivals = "uniform"


class SendReport(msgspec.Struct, frozen=True):
    """What was sent: events per slice, how late the generator itself was, and what it cost."""

    sent: list[int]
    lateness: Percentiles
    cpu_seconds: float


class Clock(Protocol):
    """Time as the sender sees it, in ns."""

    def now(self) -> int: ...

    def sleep_until(self, at_ns: int) -> None: ...


class SystemClock:
    """The machine's monotonic clock, the same in every process."""

    def now(self) -> int:
        return time.monotonic_ns()

    def sleep_until(self, at_ns: int) -> None:
        ahead = at_ns - time.monotonic_ns()
        if ahead > 0:
            time.sleep(ahead / 1e9)


class DeliveryError(Exception):
    """Kafka refused an event of the load: the run means nothing."""

    def __init__(self, error: KafkaError) -> None:
        super().__init__(f"The load could not be delivered: {error.str()}")


class Deliveries:
    """Collects failed deliveries of a producer; ``finish`` raises the first."""

    def __init__(self) -> None:
        self.errors: list[KafkaError] = []

    def callback(self, error: KafkaError | None, message: object) -> None:
        if error is not None:
            self.errors.append(error)

    def finish(self, producer: Producer) -> None:
        left = producer.flush(FLUSH_S)
        if self.errors:
            raise DeliveryError(self.errors[0])
        if left:
            raise DeliveryError(KafkaError(KafkaError._MSG_TIMED_OUT))


def producer_config(bootstrap: str, **extra: Any) -> dict[str, Any]:
    """Java's partitioner (design: every keyed producer uses murmur2), all acks, reports of failures only."""
    return {
        "bootstrap.servers": bootstrap,
        "partitioner": "murmur2_random",
        "acks": "all",
        "delivery.report.only.error": True,
        "queue.buffering.max.messages": 1_000_000,
        "queue.buffering.max.kbytes": 1_000_000,
    } | extra


def preload(bootstrap: str, topic: str, records: Iterable[tuple[bytes, bytes]]) -> int:
    """Produce ``records`` (key, value) in order, as fast as the broker takes them. Returns how many."""
    producer, deliveries, count = Producer(producer_config(bootstrap, **{"linger.ms": 50, "batch.size": 500_000})), Deliveries(), 0
    produce, callback = producer.produce, deliveries.callback
    for key, value in records:
        try:
            produce(topic, value, key, on_delivery=callback)
        except BufferError:
            producer.poll(1.0)
            produce(topic, value, key, on_delivery=callback)
        count += 1
        if count % 10_000 == 0:
            producer.poll(0)
    deliveries.finish(producer)
    return count


def open_loop(times: Iterable[int], send: Callable[[int, int], None], clock: Clock) -> array[int]:
    """Call ``send(sequence, intended_ns)`` at each of ``times``, at once when late. Returns the lateness of each in ns."""
    lateness = array("q")
    for sequence, intended in enumerate(times):
        clock.sleep_until(intended)
        lateness.append(max(0, clock.now() - intended))
        send(sequence, intended)
    return lateness


def closed_loop(times: Iterable[int], send: Callable[[int, int], None], clock: Clock) -> array[int]:
    """The meter that must not be used: it starts its stopwatch at the actual send and so leaves out the waiting.

    Kept for the self-test, which shows that it misses what ``open_loop`` sees. Returns ns per call.
    """
    seen = array("q")
    for sequence, intended in enumerate(times):
        clock.sleep_until(intended)
        started = clock.now()
        send(sequence, started)
        seen.append(clock.now() - started)
    return seen


def stamp(sequence: int, intended_ns: int) -> bytes:
    """The part of a ``messageId`` that says which event it is and when it should have been sent."""
    return b"%d-%d" % (sequence, intended_ns)


def read_stamp(value: bytes) -> tuple[int, int]:
    """(sequence, intended send time in ns) of an event or of what the pipeline made of it.

    Raises:
        ValueError: the value holds no stamped ``messageId``.
    """
    start = value.index(b'"' + ID_PREFIX) + 1 + len(ID_PREFIX)
    sequence, _, intended = value[start : value.index(b'"', start)].partition(b"-")
    return int(sequence), int(intended)


def load_templates(path: Path) -> list[tuple[bytes, bytes, bytes]]:
    """(key, value before the stamp, value after it) of each template of a file."""
    found = []
    for key, value in read_events(path):
        head, _, tail = value.partition(SLOT)
        found.append((key, head + ID_PREFIX, tail))
    return found


def send_plan(plan: SendPlan) -> SendReport:
    """Send a whole plan; returns when everything is acknowledged.

    Raises:
        DeliveryError: an event was refused.
    """
    producer, deliveries = Producer(producer_config(plan.bootstrap, **{"linger.ms": LINGER_MS})), Deliveries()
    producer.list_topics(timeout=FLUSH_S)
    pool = cycle(load_templates(Path(plan.templates)))
    gc.collect()
    gc.disable()  # a pause of the sender is not latency of the pipeline
    lateness, sent, base = array("q"), [], 0
    for number, part in enumerate(plan.slices):
        send = _sender(producer, part.target, pool, base, deliveries)
        times = send_times(part, plan.start_ns, plan.arrivals, seed=number)
        late = open_loop(times, send, SystemClock())
        lateness.extend(late)
        sent.append(len(late))
        base += len(late)
    deliveries.finish(producer)
    return SendReport(sent, summarise(histogram_of(ns // 1000 for ns in lateness)), round(time.process_time(), 3))


def _sender(
    producer: Producer, topic: str, pool: Iterator[tuple[bytes, bytes, bytes]], base: int, deliveries: Deliveries
) -> Callable[[int, int], None]:
    produce, poll, callback = producer.produce, producer.poll, deliveries.callback

    def send(sequence: int, intended: int) -> None:
        key, head, tail = next(pool)
        produce(topic, head + stamp(base + sequence, intended) + tail, key, on_delivery=callback)
        poll(0)

    return send


def main(arguments: Sequence[str]) -> int:
    """Read a SendPlan (JSON file), send it, print the SendReport (JSON)."""
    plan = msgspec.json.decode(Path(arguments[0]).read_bytes(), type=SendPlan)
    try:
        report = send_plan(plan)
    except (DeliveryError, KafkaException) as exc:
        sys.stderr.write(f"{exc}\n")
        return 1
    sys.stdout.write(msgspec.json.encode(report).decode() + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
