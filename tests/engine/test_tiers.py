"""A lane's waiting rooms: what is not due waits without being in anybody's way, and tiers cost nothing while nothing fails."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest

from app.engine.tiers import LOOK_S, PEEK_S, Tier, Tiers
from tests.engine.support import FakeRetries, event

TOPIC = FakeRetries.topics[0]


@dataclass
class Room:
    """A tier on clocks that a test moves. Records are due at their offset, in ms."""

    now_ms: int = 0
    is_at_end: bool = False
    look_s: float = LOOK_S
    pauses: list[bool] = field(default_factory=list)
    tier: Tier = field(init=False)

    def __post_init__(self) -> None:
        self.tier = Tier(
            TOPIC,
            FakeRetries(),
            self.pauses.append,
            lambda since_ms: self.is_at_end,
            lambda: self.look_s,
            lambda: self.now_ms / 1000,
            lambda: self.now_ms,
        )

    @property
    def wait_s(self) -> float:
        return self.tier.wake_at - self.now_ms / 1000

    def fetch(self, *due_ms: int) -> None:
        self.tier.hold([event(at, topic=TOPIC) for at in due_ms])

    def due(self, at_ms: int) -> list[int]:
        self.now_ms = at_ms
        return [record.offset for record in self.tier.due()]


def test_records_come_out_in_order_when_they_are_due_and_not_before() -> None:
    room = Room()
    room.fetch(1000, 2000, 5000)

    assert (room.wait_s, room.due(999)) == (1.0, [])
    assert room.due(2500) == [1000, 2000]
    assert (room.tier.held, room.wait_s) == (1, 2.5)
    assert room.due(5000) == [5000]


def test_one_that_is_due_earlier_waits_behind_the_first() -> None:
    room = Room()
    room.fetch(2000, 1900)

    assert room.due(1950) == []
    assert room.due(2000) == [2000, 1900]


def test_while_a_record_waits_no_more_is_fetched_and_then_the_next_at_once() -> None:
    room = Room()
    room.fetch(1000)
    assert room.pauses == [True]
    room.fetch(1500)  # Faust resumed everything after a recovery
    assert room.pauses == [True, True]

    room.due(1000)
    assert room.pauses == [True, True], "one is left"
    room.due(1500)
    assert room.pauses == [True, True, False]
    assert room.wait_s == PEEK_S


def test_a_tier_at_its_end_is_not_fetched_and_looked_at_once_a_minute() -> None:
    room = Room(is_at_end=True)
    assert room.due(250) == []
    assert (room.pauses, room.wait_s) == ([True], LOOK_S)

    room.due(250 + int(LOOK_S * 1000))
    assert (room.pauses, room.wait_s) == ([True, False], PEEK_S)


def test_while_events_wait_for_others_it_is_looked_at_more_often() -> None:
    room = Room(is_at_end=True, look_s=3.0)
    room.due(250)
    assert room.wait_s == 3.0


def test_a_tier_that_was_written_to_is_fetched_before_long() -> None:
    room = Room(is_at_end=True)
    room.due(250)

    room.tier.wrote()

    assert room.wait_s == PEEK_S
    room.due(500)
    assert room.pauses == [True, False]


def test_a_tier_without_an_answer_yet_stays_open() -> None:
    room = Room(is_at_end=False)
    room.due(250)
    room.due(500)
    assert (room.pauses, room.wait_s) == ([], PEEK_S)


def test_a_write_does_not_wake_a_tier_whose_first_record_is_not_due() -> None:
    room = Room()
    room.fetch(60_000)
    room.tier.wrote()
    assert room.wait_s == 60.0


def test_a_lane_without_tiers_waits_for_none() -> None:
    tiers = Tiers()
    assert (tiers.wait_s(), tiers.due(), TOPIC in tiers, tiers.held(TOPIC)) == (None, [], False, 0)


def test_the_tier_that_is_due_first_sets_the_alarm(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("app.engine.tiers.time.monotonic", lambda: 0.0)
    rooms = [Room(), Room()]
    rooms[0].fetch(7_000)
    rooms[1].tier.topic = FakeRetries.topics[1]
    rooms[1].fetch(3_000)

    assert Tiers(room.tier for room in rooms).wait_s() == 3.0
