"""How Redis follows the tables, read from the lookup writer when ``/metrics`` is scraped."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Protocol

from app.engine.api import LaneId
from app.telemetry import catalogue as m
from app.telemetry.exposition import Catalogue
from app.telemetry.histogram import Histogram
from app.telemetry.metric import Reading

STATES = ("live", "catching_up", "rebuilding", "down")


class LookupCounters(Protocol):
    """Cumulative counts, all lanes together. ``app.lookups.lane.LookupCounters`` fits."""

    @property
    def units(self) -> int: ...
    @property
    def keys(self) -> int: ...
    @property
    def failures(self) -> int: ...
    @property
    def gaps(self) -> int: ...
    @property
    def overflows(self) -> int: ...
    @property
    def catch_ups(self) -> int: ...
    @property
    def rebuilds(self) -> int: ...


class LookupFollower(Protocol):
    """What writes lookups through. ``app.lookups.writer.LookupWriter`` fits."""

    @property
    def counters(self) -> LookupCounters: ...

    def states(self) -> Mapping[LaneId, str]:
        """One of ``STATES`` for each followed lane."""
        ...

    def behind(self) -> Mapping[LaneId, int]:
        """Changelog records per lane that Redis does not cover yet."""
        ...

    def rebuilding(self) -> Mapping[LaneId, tuple[int, int]]:
        """Keys written and about how many there are at most, of each lane that is filled from its table."""
        ...


class LookupMetrics:
    """A source over a ``LookupFollower``; leave it out where there is no Redis."""

    def __init__(self, catalogue: Catalogue, follower: LookupFollower) -> None:
        self._follower = follower
        catalogue.add(self)

    def readings(self) -> Iterator[Reading]:
        counters = self._follower.counters
        yield m.REDIS_WRITES, (), counters.units
        yield m.REDIS_KEYS, (), counters.keys
        yield m.REDIS_FAILURES, (), counters.failures
        yield m.REDIS_LOSSES, ("gap",), counters.gaps
        yield m.REDIS_LOSSES, ("overflow",), counters.overflows
        yield m.REDIS_SYNCS, ("catch_up",), counters.catch_ups
        yield m.REDIS_SYNCS, ("rebuild",), counters.rebuilds
        lanes = Counter(self._follower.states().values())
        for state in STATES:
            yield m.REDIS_LANES, (state,), lanes[state]
        for lane, records in self._follower.behind().items():
            yield m.REDIS_BEHIND, (lane.agent, str(lane.partition)), records
        for lane, (written, total) in self._follower.rebuilding().items():
            yield m.REDIS_REBUILT, (lane.agent, str(lane.partition)), written / max(1, total)


class LookupReads:
    """Counts what a ``RedisLookupReader`` answers: give it ``observe``."""

    def __init__(self, catalogue: Catalogue) -> None:
        self._answers: Counter[str] = Counter()
        self._seconds = Histogram(m.LOOKUP_READ_SECONDS.bounds)
        catalogue.add(self)

    def observe(self, seconds: float, found: Sequence[object]) -> None:
        """One read: an answer has a ``source``, a refusal a ``reason``, an unknown key is None."""
        self._seconds.observe(seconds)
        self._answers.update(str(getattr(each, "source", None) or getattr(each, "reason", "absent")) for each in found)

    def readings(self) -> Iterator[Reading]:
        for answer, count in self._answers.items():
            yield m.LOOKUPS_READ, (answer,), count
        yield m.LOOKUP_READ_SECONDS, (), self._seconds
