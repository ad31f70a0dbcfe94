"""Exactly once: what happens when any step of a transaction fails, and when the group has become another worker's."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from aiokafka import TopicPartition
from aiokafka.errors import (
    GroupCoordinatorNotAvailableError,
    KafkaConnectionError,
    KafkaTimeoutError,
    MessageSizeTooLargeError,
    ProducerFenced,
)

from app.engine import transactions
from app.engine.api import Batch, Effects, Output
from app.engine.lane import Ticks
from app.engine.transactions import ATTEMPTS, NotOurs
from tests.engine.support import CHANGELOG, COUNTS, DLQ, OUT, SOURCE, count, event, events, settle
from tests.engine.transactions_support import World, in_need_of_repair, worlds

STEPS = ("begin", "send", "ack", "offsets", "commit")


@pytest.fixture
async def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[World]:
    """Four groups, no pacing, no back-off."""
    monkeypatch.setattr(transactions, "BACK_OFF_S", 0.0)
    async with worlds(tmp_path) as make:
        yield make()


@pytest.mark.parametrize("step", STEPS)
async def test_after_a_failed_step_a_new_producer_sends_the_same_units_again(world: World, step: str) -> None:
    rig = await world.one_lane()
    world.take()
    world.kafka.fail[step].append(KafkaTimeoutError())
    rig.lane.offer([event(0), event(1, value=b"dead")])
    await settle(60)
    steps = [name for name in world.take() if name not in ("send", "committed?")]
    failed, again = steps[: steps.index("member")], steps[steps.index("member") :]
    assert failed == ["begin", "offsets", "commit"][: {"offsets": 2, "commit": 3}.get(step, 1)]
    assert again == ["member", "stop", "new", "start", "member", "begin", "offsets", "commit"]
    assert (len(world.kafka.transactions), rig.count(), rig.durable) == (1, 1, 2)
    assert (world.kafka.values(OUT), world.kafka.values(DLQ)) == ([b"1"], [b"dead"])
    assert [ok for ok in world.observer.commits if ok] == [True]


async def test_every_send_may_fail_and_all_are_sent_again(world: World) -> None:
    rig = await world.one_lane()
    world.kafka.fail["ack"].extend([None, None, MessageSizeTooLargeError()])  # the changelog's
    rig.lane.offer([event(0), event(1, value=b"dead")])
    await settle(60)
    assert [tp.topic for tp, _, _ in world.kafka.transactions[0].sends] == [OUT, DLQ, CHANGELOG]
    assert rig.store.changelog_offset() == 1


async def test_a_commit_that_took_effect_is_not_repeated(world: World) -> None:
    rig = await world.one_lane()
    world.kafka.fail["committed"].append(KafkaConnectionError())
    rig.lane.offer(events(0, 3))
    await settle(60)
    assert len(world.kafka.transactions) == 1
    assert (rig.count(), rig.durable, rig.store.changelog_offset()) == (3, 3, 1)
    rig.lane.offer(events(3, 5))
    await settle(60)
    assert world.kafka.values(OUT) == [b"1", b"2", b"3", b"4", b"5"]
    assert rig.listener.units == [(1, -1, 2), (4, 1, 4)]


async def test_the_stamp_is_that_of_the_attempt_that_was_committed(world: World) -> None:
    rig = await world.one_lane()
    world.kafka.fail["commit"].append(ProducerFenced())
    world.kafka.fail["committed"].append(KafkaConnectionError())
    rig.lane.offer(events(0, 3))
    await settle(60)
    assert (len(world.kafka.transactions), rig.store.changelog_offset()) == (1, 4)


async def test_a_repair_in_the_transaction_whose_commit_is_unknown_is_done_too(world: World) -> None:
    await world.exactly_once.acquire([0, 4])
    rig = await world.lane(0, store=in_need_of_repair(world))
    await settle()
    world.take()
    other = await world.lane(4)
    world.kafka.fail["committed"].append(KafkaConnectionError())
    other.lane.offer([event(0)])
    await settle(60)
    assert (len(world.kafka.transactions), other.count(), rig.store.keys_to_repair()) == (2, 1, [])


@pytest.mark.parametrize("answers", [[False], [True, False]], ids=["before", "after the new producer's start"])
async def test_a_worker_that_is_no_member_sends_nothing_again(world: World, answers: list[bool]) -> None:
    rig = await world.one_lane()
    world.take()
    world.kafka.fail["ack"].append(ProducerFenced())
    world.kafka.members.extend([*answers, *[False] * 9])
    rig.lane.offer(events(0, 3))
    await settle(60)
    steps = world.take()
    assert steps.count("begin") == 1
    assert steps.count("start") == len(answers) - 1
    assert "belongs to another worker" in rig.fatal.reasons[0]
    assert (rig.store.changelog_offset(), world.kafka.transactions) == (-1, [])


async def test_not_ours_names_the_group_and_ends_every_lane_of_it(world: World) -> None:
    await world.exactly_once.acquire([3, 7])
    rigs = [await world.lane(3), await world.lane(7)]
    world.kafka.fail["begin"].append(ProducerFenced())
    world.kafka.members.extend([False] * 9)
    for rig in rigs:
        rig.lane.offer([event(0)])
    await settle(60)
    assert all(str(NotOurs(3)) in rig.fatal.reasons[0] for rig in rigs)


async def test_a_worker_whose_offsets_another_has_moved_sends_nothing_again(world: World) -> None:
    """The question for the membership is answered "yes" while a group coordinator loads: the offsets decide."""
    rig = await world.one_lane()
    source = TopicPartition(SOURCE, 0)
    world.kafka.fail["ack"].append(ProducerFenced())
    world.kafka.at_takeover = lambda transactional_id: world.kafka.transact(transactional_id, {source: 20})
    rig.lane.offer(events(0, 3))
    await settle(60)
    assert (world.kafka.transactions, world.kafka.group) == ([], {source: 20})
    assert "belongs to another worker" in rig.fatal.reasons[0]


@pytest.mark.parametrize("step", ["start", "offsets?", "stop"])
async def test_replacing_the_producer_may_fail_too_and_is_tried_again(world: World, step: str) -> None:
    rig = await world.one_lane()
    world.kafka.fail["commit"].append(ProducerFenced())
    world.kafka.fail[step].append(KafkaConnectionError())
    rig.lane.offer(events(0, 3))
    await settle(60)
    assert (rig.fatal.reasons, rig.count(), len(world.kafka.transactions)) == ([], 3, 1)


async def test_a_coordinator_that_cannot_be_asked_is_asked_again(world: World) -> None:
    rig = await world.one_lane()
    world.kafka.fail["commit"].append(ProducerFenced())
    world.kafka.members.append(GroupCoordinatorNotAvailableError())
    rig.lane.offer(events(0, 3))
    await settle(60)
    assert (rig.fatal.reasons, rig.count(), len(world.kafka.transactions)) == ([], 3, 1)


async def test_the_process_ends_when_nothing_helps_and_says_why(world: World) -> None:
    rig = await world.one_lane()
    world.kafka.fail["ack"].extend([MessageSizeTooLargeError()] * 99)
    rig.lane.offer(events(0, 3))
    await settle(200)
    assert world.kafka.steps().count("begin") == ATTEMPTS
    assert "MessageSizeTooLargeError" in rig.fatal.reasons[0]
    assert (rig.store.changelog_offset(), rig.durable, world.kafka.transactions) == (-1, -1, [])


async def test_the_last_attempt_counts(world: World) -> None:
    rig = await world.one_lane()
    world.kafka.fail["begin"].extend([ProducerFenced()] * (ATTEMPTS - 1))
    rig.lane.offer(events(0, 3))
    await settle(200)
    assert (rig.fatal.reasons, rig.count()) == ([], 3)


async def test_a_failure_in_one_group_leaves_the_others_alone(world: World) -> None:
    await world.exactly_once.acquire([0, 1])
    broken, sound = await world.lane(0), await world.lane(1)
    world.kafka.held = []
    broken.lane.offer([event(0)])
    await settle()
    stuck, world.kafka.held = world.kafka.held, None
    for offset in range(3):
        sound.lane.offer([event(offset)])
        await settle()
    assert (sound.count(), broken.lane.units_in_flight) == (3, 1)
    for acknowledge in stuck:
        acknowledge()
    await settle()
    assert broken.count() == 1


async def test_no_failed_send_is_left_unread(world: World) -> None:
    """asyncio would log each as an error whenever the collector finds it."""
    unread: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda loop, context: unread.append(context))
    rig = await world.one_lane()
    world.kafka.fail["send"].extend([None, None, KafkaTimeoutError()])
    world.kafka.fail["ack"].extend([ProducerFenced(), ProducerFenced()])
    rig.lane.offer([event(0), event(1, value=b"dead")])
    await settle(60)
    gc.collect()
    assert (unread, rig.count()) == ([], 1)


# -- runs without records: the group's offsets do not move ----------------------------------------------


class TicksOnce:
    """Counts records, and publishes one output and writes one key at its first tick."""

    def __init__(self) -> None:
        self.has_ticked = False

    async def __call__(self, batch: Batch[Any]) -> Effects:
        if batch.records:
            return await count(batch)
        effects = batch.effects()
        if not self.has_ticked:
            self.has_ticked = True
            batch.state.view(COUNTS).put("tick", 1)
            effects.publish(Output(OUT, None, b"tick"))
        return effects


TICKS = Ticks(SOURCE, 0.01, lambda: True)


@pytest.mark.parametrize("records", [0, 3], ids=["before the first record", "after records"])
@pytest.mark.parametrize("failure", ["commit", "committed", "ack"])
async def test_a_tick_is_published_once_whatever_becomes_of_its_first_transaction(world: World, records: int, failure: str) -> None:
    body = TicksOnce()
    body.has_ticked = True
    rig = await world.one_lane(body=body, ticks=TICKS)
    rig.lane.progress.start_at(SOURCE, 0)
    rig.lane.offer(events(0, records))
    await settle(60)
    assert rig.durable == (records or -1)
    world.kafka.fail[failure].append(KafkaConnectionError())
    body.has_ticked = False
    await asyncio.sleep(0.3)
    await settle(60)
    assert world.kafka.values(OUT) == [*[b"%d" % number for number in range(1, records + 1)], b"tick"]
    assert (rig.count("tick"), rig.durable) == (1, records or -1)
    rig.lane.offer(events(records, records + 2))
    await asyncio.sleep(0.05)
    await settle(60)
    assert rig.durable == records + 2
    assert rig.fatal.reasons == []
