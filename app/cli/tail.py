"""``veltrix tail``: look at the records of any topic."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from typing import Final

from app.cli.reading import follow, open_consumer, partitions_of, read_last
from app.engine.api import Record
from app.settings import Settings

#: Older records shown before new ones are waited for.
CONTEXT_RECORDS: Final = 10

Show = Callable[[Record], None]


async def tail(settings: Settings, topic: str, show: Show, *, count: int | None = None, from_beginning: bool = False) -> None:
    """Show the last ``count`` records (with ``from_beginning`` the first ones) and end; without ``count`` go on for ever.

    If there are fewer than ``count`` records, the missing ones are waited for.

    Raises:
        KafkaConnectError, UnknownTopicError: nothing was shown.
    """
    shown = 0
    async with aclosing(_records(settings, topic, CONTEXT_RECORDS if count is None else count, from_beginning)) as records:
        async for record in records:
            show(record)
            shown += 1
            if shown == count:
                return


async def _records(settings: Settings, topic: str, context: int, from_beginning: bool) -> AsyncGenerator[Record, None]:
    tps = await partitions_of(settings, topic)
    async with open_consumer(settings) as consumer:
        if from_beginning:
            begins = await consumer.beginning_offsets(tps)
            consumer.assign(tps)
            for tp in tps:
                consumer.seek(tp, begins[tp])
        else:
            for record in (await read_last(consumer, tps, context))[-context:]:
                yield record
        async for batch in follow(consumer):
            for record in batch:
                yield record
