"""Producing: in order, waited for, and patient only where waiting loses nothing."""

from __future__ import annotations

import asyncio
from typing import Any, NamedTuple

import pytest
from aiokafka.errors import KafkaTimeoutError, ProducerFenced
from aiokafka.producer.message_accumulator import BatchBuilder
from structlog.testing import capture_logs

from app.engine.producing import IdempotentProducing
from app.engine.writer import changelog_batch


class Metadata(NamedTuple):
    """What the broker answers."""

    offset: int


class FakeProducer:
    """Takes batches, after the errors it is given; answers when told."""

    def __init__(self, *errors: Exception) -> None:
        self.errors = list(errors)
        self.calls: list[tuple[BatchBuilder, str, int]] = []
        self.answers: list[asyncio.Future[Metadata]] = []

    async def send_batch(self, batch: BatchBuilder, topic: str, *, partition: int) -> asyncio.Future[Metadata]:
        assert batch.closed(), "nobody else may add records"
        self.calls.append((batch, topic, partition))
        if self.errors:
            raise self.errors.pop(0)
        self.answers.append(asyncio.get_running_loop().create_future())
        return self.answers[-1]


def batch(*keys: bytes) -> BatchBuilder:
    """A batch with those keys."""
    return changelog_batch("t", dict.fromkeys(keys, b"v"), 0, 10_000)


def delivery(producer: Any) -> IdempotentProducing:
    """Over that producer."""
    return IdempotentProducing(lambda: producer)


async def test_outputs_are_queued_in_order_and_acknowledged_later() -> None:
    producer = FakeProducer()
    one, two, three = batch(b"1"), batch(b"2"), batch(b"3")
    acks = await delivery(producer).publish([("a", 4, one), ("a", 4, two), ("b", 5, three)])
    assert producer.calls == [(one, "a", 4), (two, "a", 4), (three, "b", 5)]
    assert [ack.done() for ack in acks] == [False] * 3
    producer.answers[1].set_result(Metadata(0))
    assert [ack.done() for ack in acks] == [False, True, False]


async def test_logging_state_waits_for_the_broker_and_gives_the_base_offset() -> None:
    producer = FakeProducer()
    task = asyncio.create_task(delivery(producer).log_state("changelog", 2, batch(b"1", b"2")))
    await asyncio.sleep(0)
    assert not task.done()
    producer.answers[0].set_result(Metadata(77))
    assert await task == 77


async def test_a_full_queue_is_waited_for_with_the_same_batch() -> None:
    producer, one = FakeProducer(KafkaTimeoutError(), KafkaTimeoutError()), batch(b"1")
    with capture_logs() as logs:
        (ack,) = await delivery(producer).publish([("a", 0, one)])
    assert producer.calls == [(one, "a", 0)] * 3
    assert not ack.done()
    assert [(entry["event"], entry["topic"], entry["partition"]) for entry in logs] == [("produce_waits_for_broker", "a", 0)] * 2


async def test_a_later_batch_never_overtakes_one_that_waits() -> None:
    producer, one, two = FakeProducer(KafkaTimeoutError()), batch(b"1"), batch(b"2")
    await delivery(producer).publish([("a", 0, one), ("a", 0, two)])
    assert [call[0] for call in producer.calls] == [one, one, two]


@pytest.mark.parametrize("error", [ProducerFenced(), RuntimeError("closed")])
async def test_any_other_error_goes_to_the_lane(error: Exception) -> None:
    producer = FakeProducer(error)
    with pytest.raises(type(error)):
        await delivery(producer).publish([("a", 0, batch(b"1"))])
    assert len(producer.calls) == 1


async def test_an_error_of_the_broker_goes_to_the_lane() -> None:
    producer = FakeProducer()
    task = asyncio.create_task(delivery(producer).log_state("changelog", 2, batch(b"1")))
    await asyncio.sleep(0)
    producer.answers[0].set_exception(RuntimeError("too large"))
    with pytest.raises(RuntimeError, match="too large"):
        await task


async def test_the_producer_is_asked_for_at_each_send_since_faust_replaces_it() -> None:
    producers = [FakeProducer(), FakeProducer()]
    queue = iter(producers)
    at_least_once = IdempotentProducing(lambda: next(queue))
    await at_least_once.publish([("a", 0, batch(b"1")), ("a", 0, batch(b"2"))])
    assert [len(producer.calls) for producer in producers] == [1, 1]
