"""The agent over a fake table: outcomes, profiles, re-runs, and what one event of a hot user writes. Sessions: test_sessions."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agents.process_interactions import RECORDS_PER_SWEEP, Rules, process_interactions
from agents.registry import registry
from app.domain.clickstream import TRACK_CODES
from app.domain.routing import partition_of
from app.engine.api import Effects
from app.settings import Settings
from app.topics import ENRICHED, INTERACTIONS
from tables.seen_ids import seen_ids
from tables.source_clocks import source_clocks
from tables.user_profiles import user_profiles
from tests.fakes import FakeBatch, FakeRecord, FakeState, as_batch

NOW_MS = 1_767_608_553_123
PARTITIONS = 4
#: Users whose key belongs to partition 0.
USERS = [user for user in (f"user-{n}" for n in range(60)) if partition_of(user.encode(), PARTITIONS) == 0]


@pytest.fixture
def rules() -> Rules:
    return new_rules()


def new_rules(**overrides: Any) -> Rules:
    off = {"sessions_enabled": False, "windows_enabled": False}
    return Rules.from_settings(Settings(**({"partitions": PARTITIONS} | off | overrides)))


def record(offset: int, message_id: str | None = None, user: str = USERS[0], **changes: Any) -> FakeRecord:
    event = {"type": "track", "messageId": message_id or f"m-{offset}", "userId": user, "event": "Product Viewed"} | changes
    return FakeRecord(json.dumps(event).encode(), user.encode(), offset, NOW_MS + offset)


async def run(rules: Rules, state: FakeState, records: Sequence[FakeRecord]) -> Effects:
    effects = await process_interactions(as_batch(FakeBatch(records, rules, state)))
    assert effects.outcomes() == len(records)
    return effects


def published(effects: Effects) -> list[tuple[int, bytes | None]]:
    return [(source.offset, output.value) for source, output in effects.outputs]


def test_the_agent_is_declared_with_its_views() -> None:
    [declared] = [agent for agent in registry if agent.name == "process_interactions"]
    assert (declared.source, declared.views[:2], declared.body) == (INTERACTIONS, (user_profiles, seen_ids), process_interactions)
    assert declared.help
    assert (user_profiles.prefix, user_profiles.lookup, seen_ids.prefix, seen_ids.lookup) == (b"p", "users", b"s", None)


async def test_a_valid_event_is_published_with_its_sequence_and_under_its_key(rules: Rules) -> None:
    source = record(5, properties={"product_id": "sku-1", "price": 19.90})
    effects = await run(rules, FakeState(), [source])

    [(origin, output)] = effects.outputs
    assert origin is source
    assert (output.topic, output.key, output.headers) == (ENRICHED, source.key, ())
    assert json.loads(output.value or b"") == json.loads(source.value or b"") | {
        "veltrix": {"sequence": 1, "received_at": NOW_MS + 5}
    }
    assert (effects.emitted, effects.duplicates, effects.dropped) == (1, 0, 0)


async def test_a_sender_cannot_choose_our_member(rules: Rules) -> None:
    effects = await run(rules, FakeState(), [record(0, veltrix={"sequence": 99, "admin": True})])
    assert json.loads(effects.outputs[0][1].value or b"")["veltrix"] == {"sequence": 1, "received_at": NOW_MS}


async def test_duplicates_within_and_across_batches_change_nothing(rules: Rules) -> None:
    state = FakeState()
    first = await run(rules, state, [record(0, "a"), record(1, "b"), record(2, "a")])
    before = dict(state.raw)
    state.writes.clear()
    second = await run(rules, state, [record(3, "b"), record(4, "a")])

    assert (first.emitted, first.duplicates) == (2, 1)
    assert (second.emitted, second.duplicates, second.outputs) == (0, 2, [])
    assert (state.raw, state.writes) == (before, [])


async def test_every_bad_record_becomes_a_dead_letter_and_the_rest_passes(rules: Rules) -> None:
    bad = {
        "empty_value": FakeRecord(None, b"k", 0),
        "invalid_json": FakeRecord(b'{"type":', b"k", 1),
        "missing_message_id": record(2, messageId=None),
        "wrong_type": record(3, properties=[]),
        "oversize": record(4, context="x" * 40_000),
        "too_far_ahead": record(5, timestamp="2999-01-01T00:00:00Z"),
        "misrouted": FakeRecord(record(6).value, None, 6, NOW_MS),
    }
    effects = await run(rules, FakeState(), [*bad.values(), record(7)])

    assert [(source, failure.reason) for source, failure in effects.dead_letters] == [
        (source, reason) for reason, source in bad.items()
    ]
    assert [failure.stage for _, failure in effects.dead_letters] == [
        "decode",
        "decode",
        "validate",
        "validate",
        "decode",
        "validate",
        "validate",
    ]
    assert {failure.reason: failure.disposition for _, failure in effects.dead_letters if failure.disposition != "invalid"} == {
        "oversize": "oversize"
    }
    assert all(type(failure.reason) is str for _, failure in effects.dead_letters)
    assert [source.offset for source, _ in effects.outputs] == [7]


async def test_a_refused_record_touches_no_state_so_its_repaired_replay_passes_once(rules: Rules) -> None:
    state = FakeState()
    await run(rules, state, [record(0, "a", event=None)])
    assert state.raw == {}
    repaired = await run(rules, state, [record(1, "a"), record(2, "a")])
    assert (repaired.emitted, repaired.duplicates) == (1, 1)


async def test_a_user_is_written_once_per_batch(rules: Rules) -> None:
    state = FakeState()
    await run(rules, state, [record(n, user=USERS[n % 2]) for n in range(10)])
    keys = [user_profiles.raw_key(f"u:{user}") for user in USERS[:2]]
    assert [key for key, _ in state.writes if key.startswith(user_profiles.prefix)] == keys
    assert [user_profiles.decode(state.raw[key]).sequence for key in keys] == [5, 5]


records_of = st.lists(st.tuples(st.integers(0, 90), st.sampled_from(USERS[:2]), st.booleans()), min_size=1, max_size=120)


def stream_of(drawn: list[tuple[int, str, bool]]) -> list[FakeRecord]:
    return [record(n, f"m{mid}", user, **({} if good else {"event": ""})) for n, (mid, user, good) in enumerate(drawn)]


@settings(max_examples=40)
@given(records_of, st.lists(st.integers(1, 119), max_size=4))
async def test_splitting_and_discarded_runs_change_neither_outputs_nor_state(
    drawn: list[tuple[int, str, bool]], cuts: list[int]
) -> None:
    """The engine may throw a run away and call again with fewer records; the worker's cache has seen both."""
    small = {"dedupe_min_ids": 16, "dedupe_max_ids": 47, "dedupe_min_age_ms": 0}
    stream = stream_of(drawn)
    once, again = FakeState(), FakeState()
    expected = published(await run(new_rules(**small), once, stream))

    rules, outputs, at = new_rules(**small), [], 0
    for cut in [*sorted(set(cuts)), len(stream)]:
        await run(rules, FakeState(again.raw), stream[at:])  # discarded: too large
        outputs += published(await run(rules, again, stream[at:cut]))
        at = max(at, cut)

    assert outputs == expected
    for state in (again, once):  # when everybody was told of the watermark depends on batches, and no result on that
        state.raw = {key: value for key, value in state.raw.items() if not key.startswith(source_clocks.prefix)}
    assert again.raw == once.raw


async def test_a_run_without_a_poison_record_is_not_misled_by_the_run_with_it(rules: Rules) -> None:
    """Bisecting leaves a record out, so the same chunk number gets other ids than in the discarded run."""
    state, stream = FakeState(), [record(n) for n in range(20)]
    await run(rules, FakeState(), stream)
    kept = [source for source in stream if source.offset != 3]
    await run(rules, state, kept)
    late = await run(rules, state, [record(100, "m-3"), record(101, "m-4")])
    assert (late.emitted, late.duplicates) == (1, 1)


async def test_closed_chunks_are_read_once_and_then_known(rules: Rules) -> None:
    state = FakeState()
    await run(rules, state, [record(n) for n in range(100)])
    restarted = new_rules()
    state.reads.clear()
    assert (await run(restarted, state, [record(200, "m-0")])).duplicates == 1
    assert sum(key.startswith(seen_ids.prefix) for key in state.reads) == 100 // 16
    state.reads.clear()
    assert (await run(restarted, state, [record(201, "m-1")])).duplicates == 1
    assert [key for key in state.reads if not key.startswith(source_clocks.prefix)] == [user_profiles.raw_key(f"u:{USERS[0]}")]


async def test_the_hottest_user_writes_at_most_300_bytes_per_event(rules: Rules) -> None:
    """One event per unit, every name of the Segment e-commerce spec, ids of UUID length, more than max_ids events."""
    chance, state = random.Random(7), FakeState()
    user = next(u for u in (f"9b2ad0be-5a7e-4d9b-8d0f-{n:012x}" for n in range(99)) if partition_of(u.encode(), PARTITIONS) == 0)
    names, events = list(TRACK_CODES), 5000
    for n in range(events):
        source = record(n, None, user, event=chance.choice(names), properties={"product_id": f"sku-{chance.randrange(10**5):05d}"})
        await run(rules, state, [source])

    written = sum(len(key) + len(value or b"") for key, value in state.writes)
    assert written / events <= 300
    assert len(state.raw) <= 2 + rules.dedupe.max_chunks


async def test_settings_reach_the_rules() -> None:
    rules = new_rules(max_id_chars=16, max_event_bytes=300, dedupe_min_ids=16, dedupe_max_ids=31)
    effects = await run(rules, FakeState(), [record(0, "m" * 17), record(1, context="x" * 300)])
    assert [failure.reason for _, failure in effects.dead_letters] == ["id_too_long", "oversize"]
    assert (rules.dedupe.min_ids, rules.dedupe.max_ids) == (16, 31)


async def test_a_user_who_was_away_for_longer_than_the_expiry_is_a_new_one(rules: Rules) -> None:
    day_ms, state = 86_400_000, FakeState()
    first = [record(n, f"old-{n}") for n in range(40)]
    others = [record(100, user=USERS[1]), record(101, user=USERS[1])]
    others[-1].timestamp = NOW_MS + 31 * day_ms  # the watermark follows it
    late = record(102, "old-3")
    late.timestamp = others[-1].timestamp
    await run(rules, state, [*first, *others])
    back = await run(rules, state, [late])
    assert json.loads(back.outputs[0][1].value or b"")["veltrix"]["sequence"] == 1, "its ids are forgotten too"
    assert not any(key.startswith(seen_ids.prefix + b"u:" + USERS[0].encode()) for key in state.raw)


async def test_expired_users_are_deleted_bit_by_bit_while_others_are_busy(rules: Rules) -> None:
    day_ms, state = 86_400_000, FakeState()
    await run(rules, state, [record(n, user=user) for n, user in enumerate(USERS[:8])])
    busy = [record(100 + n, user=USERS[8]) for n in range(10 * RECORDS_PER_SWEEP)]
    for one in busy:
        one.timestamp = NOW_MS + 31 * day_ms
    for start in range(0, len(busy), 2 * RECORDS_PER_SWEEP):
        await run(rules, state, busy[start : start + 2 * RECORDS_PER_SWEEP])
    left = [key for key in state.raw if key.startswith(user_profiles.prefix)]
    assert left == [user_profiles.raw_key(f"u:{USERS[8]}")]
