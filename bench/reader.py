"""Reads results as an outside consumer would and stamps when each became readable.

A process of its own: ``python -m bench.reader ORDER.json``. It writes one binary file of (intended, read) pairs per
topic and prints a report; all arithmetic happens later, so that reading stays cheap.
"""

from __future__ import annotations

import gc
import sys
import time
from array import array
from collections.abc import Iterable, Sequence
from pathlib import Path

import msgspec
from confluent_kafka import Consumer, KafkaException, Message, TopicPartition

from bench.kafka import reader_config
from bench.load import read_stamp

POLL_S = 0.5
DRAIN = 2000


class ReadOrder(msgspec.Struct, frozen=True):
    """Which topics to read from which offsets, how many events each must bring, and until when to wait."""

    bootstrap: str
    starts: dict[str, dict[int, int]]
    expected: dict[str, int]
    deadline_ns: int
    folder: str
    ready: str


class ReadReport(msgspec.Struct, frozen=True):
    """Distinct events and repeats per topic. Fewer events than expected: something was lost or is too slow."""

    events: dict[str, int]
    repeats: dict[str, int]
    cpu_seconds: float


class Arrivals:
    """(sequence, intended, read) of each event of one topic, first sight only."""

    def __init__(self) -> None:
        self.times = array("q")
        self.seen: set[int] = set()
        self.repeats = 0

    def add(self, sequence: int, intended_ns: int, read_ns: int) -> None:
        if sequence in self.seen:
            self.repeats += 1
            return
        self.seen.add(sequence)
        self.times.extend((intended_ns, read_ns))


def save(path: Path, times: array[int]) -> None:
    path.write_bytes(times.tobytes())


def load(path: Path) -> list[tuple[int, int]]:
    """(intended, read) pairs in ns, in order of arrival."""
    times = array("q")
    times.frombytes(path.read_bytes())
    return list(zip(times[0::2], times[1::2], strict=True))


def read(order: ReadOrder) -> ReadReport:
    """Read until every topic brought what is expected, or until the deadline."""
    # A long poll that is in flight does not see partitions that were full when it was sent: keep it short.
    consumer = Consumer(reader_config(order.bootstrap) | {"fetch.wait.max.ms": 10, "fetch.error.backoff.ms": 0})
    arrivals = {topic: Arrivals() for topic in order.starts}
    assigned = [
        TopicPartition(topic, number, offset) for topic, starts in order.starts.items() for number, offset in starts.items()
    ]
    consumer.assign(assigned)
    consumer.poll(POLL_S)
    Path(order.ready).touch()
    gc.disable()
    try:
        while _missing(order, arrivals) and time.monotonic_ns() < order.deadline_ns:
            # poll returns with the first record; consume alone would wait to fill its batch.
            first = consumer.poll(POLL_S)
            if first is None:
                continue
            _take([first], arrivals)
            _take(consumer.consume(DRAIN, 0), arrivals)
    finally:
        consumer.close()
    for topic, found in arrivals.items():
        save(Path(order.folder) / f"{topic}.bin", found.times)
    events = {topic: len(found.seen) for topic, found in arrivals.items()}
    return ReadReport(events, {topic: found.repeats for topic, found in arrivals.items()}, round(time.process_time(), 3))


def _missing(order: ReadOrder, arrivals: dict[str, Arrivals]) -> bool:
    return any(len(arrivals[topic].seen) < count for topic, count in order.expected.items())


def _take(messages: Iterable[Message], arrivals: dict[str, Arrivals]) -> None:
    now = time.monotonic_ns()
    for message in messages:
        error, value = message.error(), message.value()
        if error is not None:
            raise KafkaException(error)
        if value is not None:
            sequence, intended = read_stamp(value)
            arrivals[message.topic() or ""].add(sequence, intended, now)


def main(arguments: Sequence[str]) -> int:
    """Read a ReadOrder (JSON file), follow it, print the ReadReport (JSON)."""
    report = read(msgspec.json.decode(Path(arguments[0]).read_bytes(), type=ReadOrder))
    sys.stdout.write(msgspec.json.encode(report).decode() + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
