"""Deeds are whole or not at all, and only one process writes them."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import pytest
from aiokafka.errors import KafkaTimeoutError, ProducerFenced

from app.dead_letters.api import DeadLettersUnavailable
from app.dead_letters.deeds import DeedWriter, Fenced, Place, Written

DEED = [Written("state", b"k", b"v"), Written("source", b"u", b"w", 3, 42, (("dlq.id", b"x"),))]


@dataclass
class FakeKafka:
    """Producers that write to one log; what is committed is seen."""

    committed: list[tuple[Any, ...]] = field(default_factory=list)
    started: list[FakeProducer] = field(default_factory=list)
    fail_at: str = ""
    failure: Exception = field(default_factory=KafkaTimeoutError)

    def producer(self) -> FakeProducer:
        return FakeProducer(self)


@dataclass
class FakeProducer:
    kafka: FakeKafka
    open: list[tuple[Any, ...]] = field(default_factory=list)
    is_stopped: bool = False

    def _step(self, name: str) -> None:
        assert not self.is_stopped
        if self.kafka.fail_at == name:
            raise self.kafka.failure

    async def start(self) -> None:
        self._step("start")
        self.kafka.started.append(self)

    async def stop(self) -> None:
        self.is_stopped = True

    async def begin_transaction(self) -> None:
        self._step("begin")
        self.open = []

    async def send(
        self, topic: str, value: bytes | None = None, key: bytes | None = None, partition: int | None = None,
        timestamp_ms: int | None = None, headers: Any = None,
    ) -> asyncio.Future[Any]:  # fmt: skip
        self._step("send")
        answer: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        if self.kafka.fail_at == "answer":
            answer.set_exception(self.kafka.failure)
        else:
            self.open.append((topic, key, value, partition, timestamp_ms, tuple(headers)))
            offset = len(self.kafka.committed) + len(self.open) - 1
            answer.set_result(SimpleNamespace(topic=topic, partition=partition or 0, offset=offset))
        return answer

    async def commit_transaction(self) -> None:
        self._step("commit")
        self.kafka.committed += self.open


async def test_a_deed_is_one_transaction_and_tells_where_it_is() -> None:
    kafka = FakeKafka()
    writer = DeedWriter(kafka.producer)
    assert await writer.write(DEED) == [Place("state", 0, 0), Place("source", 3, 1)]
    assert kafka.committed == [("state", b"k", b"v", None, None, ()), ("source", b"u", b"w", 3, 42, (("dlq.id", b"x"),))]
    await writer.write(DEED)
    assert len(kafka.started) == 1, "the producer stays"


@pytest.mark.parametrize("step", ["start", "begin", "send", "answer", "commit"])
async def test_a_deed_that_fails_is_not_done_and_its_producer_is_never_used_again(step: str) -> None:
    kafka = FakeKafka(fail_at=step)
    writer = DeedWriter(kafka.producer)
    with pytest.raises(DeadLettersUnavailable):
        await writer.write(DEED)
    assert kafka.committed == []
    assert all(producer.is_stopped for producer in kafka.started)

    kafka.fail_at = ""
    await writer.write(DEED)
    assert len(kafka.committed) == len(DEED)


@pytest.mark.parametrize("step", ["begin", "answer", "commit"])
async def test_whoever_was_fenced_writes_no_more(step: str) -> None:
    kafka = FakeKafka(fail_at=step, failure=ProducerFenced())
    writer = DeedWriter(kafka.producer)
    with pytest.raises(Fenced):
        await writer.write(DEED)
    kafka.fail_at = ""
    with pytest.raises(Fenced, match="taken over"):
        await writer.write(DEED)
    assert (kafka.committed, len(kafka.started)) == ([], 1), "it does not fence back"


async def test_deeds_take_turns() -> None:
    kafka = FakeKafka()
    writer = DeedWriter(kafka.producer)
    await asyncio.gather(*(writer.write([Written("state", b"%d" % n, b"a"), Written("state", b"%d" % n, b"b")]) for n in range(20)))
    keys = [record[1] for record in kafka.committed]
    assert keys[::2] == keys[1::2]
    await writer.aclose()
    assert kafka.started[0].is_stopped
