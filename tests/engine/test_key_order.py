"""Order per key across failures: later events of a key wait behind one that has failed, whatever happens to it."""

from __future__ import annotations

import tempfile
import time
from collections import defaultdict, deque
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.engine import key_order
from app.engine.api import Batch, Effects, Failure, Output
from app.engine.compute import Computed, Computer
from app.engine.held import PREFIX
from app.engine.key_order import KeyOrder, OrderLimits
from app.engine.state import LaneState
from app.engine.status import HeldKey, HeldKeys
from app.engine.store import PartitionStore
from app.settings import SettingsError, load_settings
from tests.engine.support import LANE, OUT, SOURCE, FakeRetries, count, event, open_store
from tests.fakes import FakeRecord

TIER, LAST_TIER = FakeRetries.topics
DAY_MS = 86_400_000
ROOMY = OrderLimits(1000, DAY_MS)


class World:
    """A source, its tiers and its dead letters, and one lane that keeps order. ``mood``: how each event fares now."""

    def __init__(self, store: PartitionStore, limits: OrderLimits = ROOMY) -> None:
        self.store, self.limits, self.retries = store, limits, FakeRetries()
        self.mood: dict[int, bytes] = {}
        self.topics: dict[str, deque[FakeRecord]] = {SOURCE: deque(), TIER: deque(), LAST_TIER: deque()}
        self.ends: defaultdict[str, int] = defaultdict(int)
        self.letters: dict[int, tuple[FakeRecord, Failure]] = {}
        self.passed: defaultdict[bytes, list[int]] = defaultdict(list)
        self.runs = 0
        self.crash()

    def crash(self) -> None:
        """All is lost but what is on disk and in Kafka."""
        self.order = KeyOrder(self.store, self.retries, self.limits)
        state = LaneState(self.store, 1000)
        self.computer = Computer(LANE, self.body, None, state, 1_000_000, retries=self.retries, order=self.order)

    def append(self, topic: str, key: bytes | None, value: bytes | None, headers: list[tuple[str, bytes | None]]) -> int:
        offset = self.ends[topic]
        self.ends[topic] += 1
        self.topics[topic].append(FakeRecord(value, key, offset, topic=topic, headers=headers))
        return offset

    def send(self, key: str, mood: bytes = b"emit") -> int:
        offset = self.append(SOURCE, key.encode(), b"", [])
        self.mood[offset] = mood
        return offset

    def replay(self, origin: int) -> None:
        record, _ = self.letters.pop(origin)
        self.append(SOURCE, record.key, b"", [("origin", b"%d" % origin)])

    def discard(self, origin: int) -> None:
        record, _ = self.letters.pop(origin)
        self.append(TIER, record.key, None, [("origin", b"%d" % origin), ("discarded", b"true")])

    async def body(self, batch: Batch[Any]) -> Effects:
        self.runs += 1
        effects = batch.effects()
        for record in batch.records:
            origin = self.retries.origin(record)
            match self.mood[origin]:
                case b"emit":
                    effects.emit(record, Output(OUT, record.key, b"%d" % origin))
                case b"dead":
                    effects.dead_letter(record, Failure("validate", "bad"))
                case b"later":
                    effects.retry(record, Failure("enrich", "unavailable", disposition="transient_timeout"))
                case b"slow":
                    raise TimeoutError
                case mood:
                    raise ValueError(mood)
        return effects

    async def run(self, topic: str = SOURCE, most: int = 1000) -> None:
        """Take records of one topic, and let happen what follows."""
        taken = [self.topics[topic].popleft() for _ in range(min(most, len(self.topics[topic])))]
        for unit in await self.computer.run(taken) if taken else []:
            self.store.apply(unit.writes, 0)
            self.computer._state.settle(unit.runs)
            self._deliver(unit)

    def _deliver(self, unit: Computed) -> None:
        for record, output in unit.outputs:
            self.passed[record.key or b""].append(int(output.value or b""))
        for record, _, retry in unit.retries:
            self.append(retry.topic, record.key, record.value, [("origin", b"%d" % self.retries.origin(record))])
        for record, failure in unit.dead_letters:
            assert isinstance(record, FakeRecord)
            self.letters[self.retries.origin(record)] = record, failure

    async def finish(self) -> None:
        """All is well again: what waits comes round until nothing does, and dead letters are replayed."""
        self.mood = dict.fromkeys(self.mood, b"emit")
        for _ in range(20):
            for topic in self.topics:
                await self.run(topic)
            for origin in sorted(self.letters):
                self.replay(origin)
        assert not any(self.topics.values()), "something goes round for ever"


MOODS = [b"emit", b"later", b"dead", b"slow", b"boom"]
SENDS = st.tuples(st.just("send"), st.sampled_from("ab"), st.sampled_from([*MOODS, b"emit", b"emit"]))
RUNS = st.tuples(st.just("run"), st.sampled_from([SOURCE, SOURCE, TIER, LAST_TIER]), st.integers(1, 8))
STEPS = st.one_of(
    SENDS,
    SENDS,
    SENDS,
    RUNS,
    st.tuples(st.sampled_from(["replay", "discard", "heal"]), st.integers(0, 9), st.none()),
    st.tuples(st.just("crash"), st.none(), st.none()),
)


@settings(max_examples=150)
@given(steps=st.lists(STEPS, min_size=10, max_size=60))
async def test_events_of_a_key_pass_once_and_in_order_however_they_fail_and_whoever_mends_them(steps: list[Any]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        store = open_store(Path(folder))
        world, discarded, sent = World(store), set[int](), defaultdict[bytes, list[int]](list)
        for step, what, how in steps:
            match step:
                case "send":
                    sent[what.encode()].append(world.send(what, how))
                case "run":
                    await world.run(what, how)
                case "replay" if what in world.letters:
                    world.replay(what)
                case "discard" if what in world.letters:
                    world.discard(what)
                    discarded.add(what)
                case "heal" if what in world.mood:
                    world.mood[what] = b"emit"
                case "crash":
                    world.crash()
        await world.finish()
        for key, origins in sent.items():
            assert world.passed[key] == [origin for origin in origins if origin not in discarded]
        assert world.order.status() == HeldKeys()
        assert store.scan(PREFIX, b"", 10) == [], "nothing stays behind on disk"
        store.close()


async def test_only_the_key_of_a_failed_event_waits(store: PartitionStore) -> None:
    world = World(store)
    world.send("a", b"dead")
    for key in "abab":
        world.send(key)
    await world.run()
    assert (world.passed, list(world.letters)) == ({b"b": [2, 4]}, [0])
    assert [dict(record.headers)["origin"] for record in world.topics[TIER]] == [b"1", b"3"]
    held = world.order.status()
    assert (held.keys, held.waiting, [key.offset for key in held.oldest]) == (1, 2, [0])


async def test_what_waits_passes_in_its_order_once_the_mended_event_was_replayed(store: PartitionStore) -> None:
    world = World(store)
    for mood in (b"dead", b"emit", b"emit"):
        world.send("a", mood)
    await world.run()
    world.mood[0] = b"emit"
    world.replay(0)
    world.send("a")
    await world.run()
    assert world.passed[b"a"] == [0], "the newest one goes behind those that wait"
    await world.run(TIER)
    assert world.passed[b"a"] == [0, 1, 2, 4]


async def test_an_event_before_the_replay_in_one_run_stays_before_those_after_it(store: PartitionStore) -> None:
    world = World(store)
    world.send("a", b"dead")
    await world.run()
    world.mood[0] = b"emit"
    world.send("a")
    world.replay(0)
    last = world.send("a")
    await world.run()
    assert world.passed[b"a"] == [0]
    await world.run(TIER)
    assert world.passed[b"a"] == [0, 1, last]


async def test_a_discarded_event_is_waited_for_no_longer(store: PartitionStore) -> None:
    world = World(store)
    world.send("a", b"dead")
    world.send("a")
    await world.run()
    world.discard(0)
    await world.run(TIER)
    await world.run(TIER)
    assert (world.passed[b"a"], world.order.status().keys) == ([1], 0)


async def test_a_run_that_let_an_event_overtake_a_failed_one_does_not_count(store: PartitionStore) -> None:
    world = World(store)
    for key, mood in (("a", b"emit"), ("a", b"later"), ("a", b"emit"), ("b", b"emit")):
        world.send(key, mood)
    await world.run()
    assert (world.runs, dict(world.passed)) == (2, {b"a": [0], b"b": [3]})


async def test_records_without_a_key_wait_for_nobody(store: PartitionStore) -> None:
    world = World(store)
    for mood in (b"dead", b"emit"):
        world.mood[world.append(SOURCE, None, b"", [])] = mood
    await world.run()
    assert (world.passed[b""], world.order.status()) == ([1], HeldKeys())


async def test_too_many_events_of_one_key_are_dead_letters_that_say_so(store: PartitionStore) -> None:
    world = World(store, OrderLimits(3, DAY_MS))
    world.send("a", b"dead")
    for _ in range(4):
        world.send("a")
    await world.run()
    reasons = {origin: (failure.reason, failure.disposition) for origin, (_, failure) in world.letters.items()}
    assert reasons == {0: ("bad", "invalid"), 3: ("too_many_waiting", "parked"), 4: ("too_many_waiting", "parked")}
    assert world.order.status().waiting == 2


async def test_an_event_that_has_waited_too_long_is_a_dead_letter_and_keeps_its_place(
    store: PartitionStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = World(store)
    monkeypatch.setattr(world.retries, "wait", lambda record, now_ms: None)
    world.send("a", b"dead")
    world.send("a")
    await world.run()
    assert {failure.reason for _, failure in world.letters.values()} == {"bad", "waits_behind"}
    monkeypatch.undo()
    world.replay(1)
    await world.run()
    assert world.passed[b"a"] == [], "it may not pass before the first one"
    await world.finish()
    assert world.passed[b"a"] == [0, 1]


async def test_nobody_waits_for_a_dead_letter_that_retention_has_taken(
    store: PartitionStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = World(store)
    world.send("a", b"dead")
    await world.run()
    monkeypatch.setattr(key_order, "_now_ms", lambda: time.time_ns() // 1_000_000 + DAY_MS + 1)
    world.send("a")
    await world.run()
    assert (world.passed[b"a"], world.order.status().keys) == ([1], 0)


async def test_there_is_a_limit_to_how_many_keys_are_held(store: PartitionStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(key_order, "MAX_KEYS", 2)
    world = World(store)
    for key in "abc":
        world.send(key, b"dead")
    for key in "abc":
        world.send(key)
    await world.run()
    assert world.order.status().keys == 2
    await world.run()
    assert len(world.letters) == 3, "nothing is lost by it"


async def test_switched_off_and_on_again_it_holds_only_what_has_not_moved(store: PartitionStore) -> None:
    world = World(store)
    for key in "ab":
        world.send(key, b"dead")
    await world.run()
    world.limits = OrderLimits(0, DAY_MS)
    world.crash()
    world.send("a")
    await world.run()
    assert world.passed[b"a"] == [2]
    world.limits = ROOMY
    world.crash()
    assert [key.offset for key in world.order.status().oldest] == [1]


async def test_without_order_a_release_is_dropped_and_a_failure_is_not_waited_for(store: PartitionStore) -> None:
    world = World(store, OrderLimits(0, DAY_MS))
    world.send("a", b"dead")
    world.send("a")
    await world.run()
    world.discard(0)
    await world.run(TIER)
    assert (world.passed[b"a"], world.order.status(), list(world.topics[TIER])) == ([1], HeldKeys(), [])


async def test_the_oldest_are_shown_first(store: PartitionStore, monkeypatch: pytest.MonkeyPatch) -> None:
    world = World(store)
    for now_ms, key in ((2000, "a"), (1000, "b")):
        monkeypatch.setattr(key_order, "_now_ms", lambda now_ms=now_ms: now_ms)
        world.send(key, b"dead")
        await world.run()
    assert world.order.status().oldest == (HeldKey(1, 1000, 0), HeldKey(0, 2000, 0))


async def test_state_and_order_change_in_one_unit(store: PartitionStore) -> None:
    order = KeyOrder(store, FakeRetries(), OrderLimits(10, DAY_MS))
    computer = Computer(LANE, count, None, LaneState(store, 10), 100_000, retries=FakeRetries(), order=order)
    (unit,) = await computer.run([event(0), event(1, value=b"boom"), event(2)])
    assert unit.writes[b"cu"] == b"1"
    assert unit.writes[PREFIX + b"u"] is not None
    assert [record.offset for record, _, _ in unit.retries] == [2]


@pytest.mark.parametrize("value", [b"slow", b"dead"])
async def test_an_order_that_does_not_fit_one_unit_is_changed_in_several(store: PartitionStore, value: bytes) -> None:
    order, limit = KeyOrder(store, FakeRetries(), ROOMY), 6_000
    computer = Computer(LANE, count, None, LaneState(store, 10), limit, retries=FakeRetries(), order=order)
    units = await computer.run([event(offset, f"{offset:0100}", value) for offset in range(200)])
    assert len(units) > 1
    assert [record.offset for unit in units for record in unit.records] == list(range(200))
    assert max(unit.changelog_size for unit in units) <= limit
    assert order.status().keys == 200


def test_order_needs_tiers_to_wait_in() -> None:
    with pytest.raises(SettingsError, match="VELTRIX_KEY_ORDER needs VELTRIX_RETRY_DELAYS"):
        load_settings(key_order=True, retry_delays="")
