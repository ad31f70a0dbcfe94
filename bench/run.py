"""One benchmark run: its sizes, its services, the events that all cases share."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import count, islice
from pathlib import Path

from app.cli.clickstream import Click
from app.settings import Settings
from app.topics import INTERACTIONS, Topic, all_topics
from bench.events import Expected, clicks, read_events, write_events
from bench.load import preload
from bench.services import HandLoop, Services, Setup, Subject, Worker
from bench.sink import start_sink

#: Event times lie in the past of the records, well within the 7 days that are accepted.
EVENT_AGE_MS = 3_600_000
WARM_RECORDS = 200_000
Say = Callable[[str], None]
#: The job that the hand-written loop does too: what else a worker does is measured by the subject ``whole``.
MAIN_JOB = {"sessions_enabled": "false", "windows_enabled": "false"}
#: Settings of the worker by the subject's name; ``eos`` is the main job with transactions, ``whole`` has the defaults,
#: ``blinking`` keeps metrics and sends spans to a collector in every second turn (``bench.blinking``).
WORKERS: Mapping[str, Mapping[str, str]] = {
    "worker": MAIN_JOB,
    "eos": MAIN_JOB | {"processing_guarantee": "exactly_once"},
    "whole": {},
    "blinking": MAIN_JOB,
}


@dataclass(frozen=True, slots=True)
class Sizes:
    """How much each case does. Seconds are measured seconds, without warm-up."""

    drain_events: int
    wide_events: int
    worker_s: float
    hand_s: float
    floor_s: float
    rounds: int
    warmup_s: float
    hot_events: int
    hot_paced_s: float


FULL = Sizes(1_000_000, 400_000, worker_s=60, hand_s=24, floor_s=16, rounds=4, warmup_s=5, hot_events=100_000, hot_paced_s=15)
QUICK = Sizes(150_000, 80_000, worker_s=8, hand_s=6, floor_s=4, rounds=2, warmup_s=5, hot_events=100_000, hot_paced_s=5)


@dataclass(slots=True)
class Run:
    """State of a run. ``subjects`` are the names to measure, in the order of the first case."""

    services: Services
    sizes: Sizes
    subjects: Sequence[str]
    say: Say
    #: How often a drain is repeated, in ABBA order; the median counts.
    repeat: int = 1
    #: Stopped subjects by name and partitions whose topics still hold a complete drain: what recovery restores.
    drained: dict[tuple[str, int], Subject] = field(default_factory=dict)
    _numbers: Iterator[int] = field(default_factory=lambda: count(1))
    _expected: dict[int, Expected] = field(default_factory=dict)
    _loaded: tuple[int, int] | None = None

    @property
    def kafka_bootstrap(self) -> str:
        return self.services.broker.bootstrap

    def warm_broker(self) -> None:
        """A fresh JVM interprets its code: give it work before anything is measured."""
        topic = Topic("bench-warm", 4, "bench")
        self.services.kafka.recreate([topic])
        preload(self.kafka_bootstrap, topic.name, ((b"%d" % number, bytes(400)) for number in range(WARM_RECORDS)))
        for _ in self.services.kafka.read_all(topic.name):
            pass
        self.services.kafka.delete([topic.name])

    def make(
        self, name: str, partitions: int, redis: bool, source: str = INTERACTIONS, extra: Mapping[str, str] | None = None
    ) -> Subject:
        """A subject of its own name, group, topics (made empty here) and data directory; Redis is emptied.

        ``extra``: settings by name, over those that the name stands for.
        """
        settings = dict(WORKERS.get(name, MAIN_JOB)) | dict(extra or {})
        if name == "blinking":
            settings["otlp_endpoint"] = start_sink()
        setup = Setup(f"bench-{name}-{next(self._numbers)}", partitions, redis, source, settings)
        app = "bench.blinking" if name == "blinking" else "app.main"
        subject: Subject = HandLoop(self.services, setup) if name == "hand" else Worker(self.services, setup, app)
        self.services.kafka.recreate(subject.topics(self.services))
        if redis:
            self.services.flush_redis()
        return subject

    def fill_source(self, events: int, partitions: int) -> Expected:
        """Have the first ``events`` of the shared traffic in the source topic; nothing to do when they are there."""
        if self._loaded != (events, partitions):
            expected = self._events_file(events)
            self.empty_source(partitions)
            self.say(f"loading {events:,} events into {partitions} partitions")
            preload(self.kafka_bootstrap, INTERACTIONS, islice(read_events(self._file), events))
            self._loaded = (events, partitions)
            return expected
        return self._expected[events]

    def load_source(self, stream: Iterable[Click], partitions: int) -> Expected:
        """Have ``stream`` in the source topic, in place of what was there."""
        file = self.services.folder / "stream.bin"
        (expected,) = write_events(file, stream).values()
        self.empty_source(partitions)
        preload(self.kafka_bootstrap, INTERACTIONS, read_events(file))
        return expected

    def empty_source(self, partitions: int) -> None:
        """Make the source topic anew, without records."""
        self._loaded = None
        self.drained.clear()
        self.services.kafka.recreate([self.source_topic(INTERACTIONS, partitions)])

    def source_topic(self, name: str, partitions: int) -> Topic:
        """A topic configured as the source."""
        settings: Settings = Setup("bench", partitions, redis=False).settings(self.services)
        original = next(topic for topic in all_topics(settings) if topic.name == INTERACTIONS)
        return Topic(name, partitions, original.made_by, original.config)

    @property
    def _file(self) -> Path:
        return self.services.folder / "events.bin"

    def _events_file(self, events: int) -> Expected:
        if events not in self._expected:
            largest = max(self.sizes.drain_events, self.sizes.wide_events, events)
            self.say(f"generating {largest:,} events")
            stream: Iterator[Click] = clicks(largest, now_ms() - EVENT_AGE_MS - largest)
            self._expected |= write_events(self._file, stream, {self.sizes.drain_events, self.sizes.wide_events, events})
        return self._expected[events]


def now_ms() -> int:
    return time.time_ns() // 1_000_000


@contextmanager
def running(subject: Subject) -> Iterator[Subject]:
    """Start a subject, stop it however the block ends."""
    subject.start()
    try:
        yield subject
    finally:
        subject.stop()
