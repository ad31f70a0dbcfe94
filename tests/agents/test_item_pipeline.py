"""Events of several partitions, through both agents, to closed sessions and windows: whatever batches, order and crashes.

The expected results are counted from the events alone, by other code than the agents'.
"""

from __future__ import annotations

import json
import random
from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from agents import aggregate_items as downstream
from agents import process_interactions as upstream
from app.domain.routing import partition_of
from app.engine.api import Effects, LaneId, Output
from app.settings import Settings
from app.topics import ITEM_ACTIVITY, ITEM_WINDOWS, SESSIONS
from tests.fakes import FakeBatch, FakeRecord, FakeState, as_batch

PARTITIONS = 3
MINUTE = 60_000
START_MS = 1_767_600_000_000
BOUND_MS = 30_000
USERS = [f"user-{n}" for n in range(6)]
END_MS = START_MS + 4 * 3_600_000
"""Later than everything that is drawn: closes all"""

SETTINGS = Settings(partitions=PARTITIONS, watermark_idle_ms=0, session_gap_ms=5 * MINUTE, session_max_length_ms=3_600_000)


@dataclass
class Event:
    """One drawn event."""

    user: str
    at_s: int
    item: str | None
    name: str


@dataclass
class Lane:
    """A partition of an agent: its table, and how far it is."""

    state: FakeState = field(default_factory=FakeState)
    applied: int = 0


@dataclass
class World:
    """Topics and lanes of both agents."""

    source: dict[int, list[FakeRecord]] = field(default_factory=lambda: defaultdict(list))
    activity: dict[int, list[FakeRecord]] = field(default_factory=lambda: defaultdict(list))
    sessions: list[dict[str, Any]] = field(default_factory=list)
    windows: list[dict[str, Any]] = field(default_factory=list)
    users: dict[int, Lane] = field(default_factory=lambda: defaultdict(Lane))
    items: dict[int, Lane] = field(default_factory=lambda: defaultdict(Lane))
    rules: upstream.Rules = field(default_factory=lambda: upstream.Rules.from_settings(SETTINGS))
    item_rules: downstream.Rules = field(default_factory=lambda: downstream.Rules.from_settings(SETTINGS))

    def send(self, events: Iterable[Event]) -> None:
        """In arrival order; broker time is never before event time."""
        for number, event in enumerate(events):
            partition, at_ms = partition_of(event.user.encode(), PARTITIONS), START_MS + event.at_s * 1000
            properties = {"product_id": event.item, "price": 2.5} if event.item else {}
            call = {"type": "track", "messageId": f"m{number}", "userId": event.user, "event": event.name, "properties": properties}
            value = json.dumps(call | {"timestamp": _iso(at_ms)}).encode()
            log = self.source[partition]
            log.append(FakeRecord(value, event.user.encode(), len(log), max(at_ms, START_MS) + 60_000, partition))

    async def run_users(self, partition: int, count: int, durable: bool = True) -> None:
        """One batch upstream; a crash before it is durable leaves its outputs visible and its table as it was."""
        lane = self.users[partition]
        records = self.source[partition][lane.applied : lane.applied + count]
        state = lane.state if durable else FakeState(lane.state.raw)
        name = LaneId("process_interactions", partition)
        effects = await upstream.process_interactions(as_batch(FakeBatch(records, self.rules, state, name)))
        self._publish(effects, partition)
        if durable:
            lane.applied += len(records)
        else:
            self.rules = upstream.Rules.from_settings(SETTINGS)

    async def run_items(self, partition: int, count: int, durable: bool = True) -> None:
        """One batch downstream."""
        lane = self.items[partition]
        records = self.activity[partition][lane.applied : lane.applied + count]
        state = lane.state if durable else FakeState(lane.state.raw)
        name = LaneId("aggregate_items", partition)
        effects = await downstream.aggregate_items(as_batch(FakeBatch(records, self.item_rules, state, name, ITEM_ACTIVITY)))
        self._publish(effects, partition)
        if durable:
            lane.applied += len(records)

    def _publish(self, effects: Effects, partition: int) -> None:
        assert not effects.dead_letters
        for output in [output for _, output in effects.outputs] + effects.published:
            self._append(output, partition)

    def _append(self, output: Output, partition: int) -> None:
        if output.topic == SESSIONS:
            self.sessions.append(json.loads(output.value or b""))
        elif output.topic == ITEM_WINDOWS:
            assert partition_of(output.key or b"", PARTITIONS) == partition, "results lie where their key belongs"
            self.windows.append(json.loads(output.value or b""))
        elif output.topic == ITEM_ACTIVITY:
            log = self.activity[partition if output.partition is None else output.partition]
            log.append(FakeRecord(output.value, output.key, len(log), START_MS, topic=ITEM_ACTIVITY))


def _iso(at_ms: int) -> str:
    seconds, ms = divmod(at_ms, 1000)
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%S") + f".{ms:03d}Z"


def closing_events() -> list[Event]:
    """One per partition, far later: their watermark closes all that went before."""
    users = {partition_of(user.encode(), PARTITIONS): user for user in (f"closer-{n}" for n in range(40))}
    return [Event(users[p], (END_MS - START_MS) // 1000, None, "Signed Out") for p in range(PARTITIONS)]


async def play(events: list[Event], chance: random.Random, *, crashes: bool) -> World:
    """All of it, in random batches; with crashes, every batch may be run several times before it counts."""
    world = World()
    world.send([*events, *closing_events()])
    while any(world.users[p].applied < len(log) for p, log in world.source.items()) or any(
        world.items[p].applied < len(log) for p, log in world.activity.items()
    ):
        partition, count = chance.randrange(PARTITIONS), chance.randint(1, 7)
        run, topic = chance.choice([(world.run_users, world.source), (world.run_items, world.activity)])
        if topic[partition]:
            while crashes and chance.random() < 0.4:
                await run(partition, chance.randint(1, 7), durable=False)
            await run(partition, count)
    return world


def last_revisions(rows: list[dict[str, Any]], *identity: str) -> dict[tuple[Any, ...], dict[str, Any]]:
    """The newest of each result; what came twice with one revision must be equal."""
    found: dict[tuple[Any, ...], dict[str, Any]] = {}
    for row in rows:
        key = tuple(row[name] for name in identity)
        known = found.get(key)
        if known is not None and known["revision"] == row["revision"]:
            assert known == row
        if known is None or known["revision"] <= row["revision"]:
            found[key] = row
    return found


def expected_items(events: list[Event], size_ms: int, hop_ms: int) -> dict[tuple[str, int], Counter[str]]:
    """Views and adds per item and window."""
    found: dict[tuple[str, int], Counter[str]] = defaultdict(Counter)
    for event in events:
        if event.item is not None:
            at_ms = START_MS + event.at_s * 1000
            for start in range(at_ms - at_ms % hop_ms - size_ms + hop_ms, at_ms + 1, hop_ms):
                found[event.item, start][event.name] += 1
    return found


def check_items(world: World, events: list[Event], name: str, size_ms: int, hop_ms: int) -> None:
    rows = [row for row in world.windows if row["name"] == name]
    found = {key: (row["results"]["views"], row["results"]["adds"]) for key, row in last_revisions(rows, "key", "start_ms").items()}
    wanted = expected_items(events, size_ms, hop_ms)
    assert found == {key: (counts["Product Viewed"], counts["Product Added"]) for key, counts in wanted.items()}


def expected_sessions(events: list[Event]) -> dict[tuple[str, int], int]:
    """Events per user and start, by the gap alone (nothing drawn is long enough to be cut)."""
    found: dict[tuple[str, int], int] = {}
    for user in {event.user for event in events}:
        start = last = None
        for at_ms in sorted(START_MS + event.at_s * 1000 for event in events if event.user == user):
            if last is None or start is None or at_ms - last >= 5 * MINUTE:
                start = at_ms
            found[f"u:{user}", start] = found.get((f"u:{user}", start), 0) + 1
            last = at_ms
    return found


#: Out of order by less than the bound: each is up to 29 s later or earlier than a clock that goes on.
drawn_events = st.lists(
    st.builds(
        Event,
        user=st.sampled_from(USERS),
        at_s=st.integers(0, 29),
        item=st.sampled_from(["a", "b", "c", None]),
        name=st.sampled_from(["Product Viewed", "Product Added"]),
    ),
    max_size=60,
)


@settings(max_examples=60, deadline=None)
@given(drawn_events, st.integers(0, 2**32), st.booleans())
async def test_results_depend_on_the_events_alone(events: list[Event], seed: int, crashes: bool) -> None:
    """Not on batches, on how partitions interleave, or on crashes that repeat outputs with other neighbours."""
    for number, event in enumerate(events):
        event.at_s += 15 * number
    world = await play(events, random.Random(seed), crashes=crashes)

    check_items(world, events, "item_1m", MINUTE, MINUTE)
    check_items(world, events, "item_5m", 5 * MINUTE, MINUTE)
    names = last_revisions([row for row in world.windows if row["name"] == "event_1m"], "key", "start_ms")
    counted = sum(row["results"]["events"] for (key, _), row in names.items() if key.startswith("Product"))
    assert counted == len(events)
    sessions = {key: row["events"] for key, row in last_revisions(world.sessions, "user", "start_ms").items()}
    assert sessions == expected_sessions(events)


async def test_without_crashes_nothing_is_published_twice() -> None:
    events = [Event(USERS[n % 6], 15 * n, "a", "Product Viewed") for n in range(120)]
    world = await play(events, random.Random(3), crashes=False)
    for rows, identity in (
        (world.windows, ("name", "key", "start_ms", "revision")),
        (world.sessions, ("user", "session_ms", "revision")),
    ):
        keys = [tuple(row[name] for name in identity) for row in rows]
        assert len(keys) == len(set(keys))
