"""Writing what people do: the records of one deed in one Kafka transaction, or none of them.

A replay is a record in the source topic, its new state and its audit event. Because these are one transaction, a process
that is killed in the middle has done all of it or nothing, and whoever goes on finds out from the state topic which. The
transactional id is one per application, so a second ``veltrix admin`` ends the writing of the first.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any, Final, NamedTuple, Protocol

from aiokafka.errors import KafkaError, ProducerFenced

from app.dead_letters.api import DeadLettersUnavailable
from app.engine.api import Header
from app.kafka_clients import leave, stray_cancellations

#: One deed; aiokafka itself would wait for a broker for ever.
DEED_TIMEOUT_S: Final = 10.0


class Written(NamedTuple):
    """A record to write. ``partition`` None: by its key; ``timestamp_ms`` None: now."""

    topic: str
    key: bytes | None
    value: bytes | None
    partition: int | None = None
    timestamp_ms: int | None = None
    headers: tuple[Header, ...] = ()


class Place(NamedTuple):
    """Where a record was written."""

    topic: str
    partition: int
    offset: int


class TransactionalProducer(Protocol):
    """What is used of aiokafka's producer with a transactional id."""

    async def start(self) -> None: ...

    async def stop(self) -> None: ...

    async def begin_transaction(self) -> None: ...

    async def send(
        self,
        topic: str,
        value: bytes | None = None,
        key: bytes | None = None,
        partition: int | None = None,
        timestamp_ms: int | None = None,
        headers: Any = None,
    ) -> asyncio.Future[Any]: ...

    async def commit_transaction(self) -> None: ...


class Fenced(DeadLettersUnavailable):
    """Another ``veltrix admin`` of this application writes now."""


class DeedWriter:
    """Writes deeds, one after the other.

    Args:
        new_producer: a producer that is not started; its start completes or aborts what its predecessor left open.
    """

    def __init__(self, new_producer: Callable[[], TransactionalProducer]) -> None:
        self._new_producer = new_producer
        self._producer: TransactionalProducer | None = None
        self._lock = asyncio.Lock()
        self._is_fenced = False

    async def write(self, records: Sequence[Written]) -> list[Place]:
        """All of ``records`` or, when it raises, none, or all of them and nobody knows: then the state topic tells.

        Raises:
            Fenced: another process writes; this one never will again.
            DeadLettersUnavailable: Kafka did not take them.
        """
        async with self._lock:
            if self._is_fenced:
                raise Fenced("another `veltrix admin` of this application has taken over: use that one, or restart this one")
            try:
                async with asyncio.timeout(DEED_TIMEOUT_S):
                    with stray_cancellations():
                        return await self._transaction(records)
            except ProducerFenced as exc:
                self._is_fenced = True
                raise Fenced("another `veltrix admin` of this application has taken over just now") from exc
            except (KafkaError, OSError) as exc:
                raise DeadLettersUnavailable(f"Kafka did not take it: {exc!r}") from exc

    async def _transaction(self, records: Sequence[Written]) -> list[Place]:
        producer = self._producer
        is_new = producer is None
        if producer is None:
            producer = self._new_producer()
        self._producer = None  # a producer whose send has failed is never used again (ADR 0006)
        try:
            if is_new:
                await producer.start()
            await producer.begin_transaction()
            sends = [
                await producer.send(
                    one.topic, one.value, one.key, partition=one.partition, timestamp_ms=one.timestamp_ms, headers=list(one.headers)
                )
                for one in records
            ]
            # Awaited before the commit, which hides failed sends; all of them, so that none is left to fail alone.
            answers = await asyncio.gather(*sends, return_exceptions=True)
            for answer in answers:
                if isinstance(answer, BaseException):
                    raise answer
            await producer.commit_transaction()
        except BaseException:
            await leave(producer)
            raise
        self._producer = producer
        return [Place(sent.topic, sent.partition, sent.offset) for sent in answers if not isinstance(sent, BaseException)]

    async def aclose(self) -> None:
        """Disconnect."""
        async with self._lock:
            producer, self._producer = self._producer, None
            if producer is not None:
                await leave(producer)
