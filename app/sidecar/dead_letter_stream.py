"""Dead letters as they come, over HTTP: server-sent events for whoever watches a queue while a fix goes out."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from typing import Annotated, Final

from fastapi import APIRouter, Depends
from fastapi.responses import StreamingResponse

from app.dead_letters.api import DeadLetterRecord, Filters, Page
from app.dead_letters.index.service import DeadLetterIndex
from app.sidecar.access import Access, Asker, identified
from app.sidecar.dead_letter_requests import QueueName
from app.sidecar.dead_letter_views import page_view
from app.sidecar.dead_letters import check_filters, filters, read_problems
from app.sidecar.masking import Masks
from app.sidecar.problems import Problem

EVENTS: Final = "text/event-stream"
#: The index is asked this often.
LOOK_S: Final = 1.0
#: Most letters of one look: of a flood the others follow later.
MOST: Final = 200
#: Workers' clocks and batches: a letter may be indexed after one that failed this much later.
OVERLAP_MS: Final = 10_000
#: Proxies close what is silent.
BEAT_S: Final = 10.0
MAX_STREAMS: Final = 8


def stream_router(index: DeadLetterIndex, access: Access, default_queue: str, hidden: Masks, stopping: asyncio.Event) -> APIRouter:
    """``/dlq/records/stream``. Before the router of ``/dlq/records/{id}``, which would take it for an id.

    ``stopping`` ends the streams: a server waits for what is open.
    """
    router = APIRouter(prefix="/dlq", tags=["dead letters"], dependencies=[identified(access)])
    streams = _Streams()

    @router.get("/records/stream", response_class=StreamingResponse, responses={200: {"content": {EVENTS: {}}}})
    async def stream(narrowed: Annotated[Filters, Depends(filters)], caller: Asker, queue: QueueName = None) -> StreamingResponse:
        """Letters that match as they are indexed, without values: events `letter`, each a record as of the list. It has no end."""
        check_filters(narrowed, caller, hidden)
        streams.check()
        name, since_ms = queue or default_queue, time.time_ns() // 1_000_000
        with read_problems():
            await index.since(name, since_ms, narrowed, 1)  # what can be wrong is an answer, not a broken stream

        def show(letter: DeadLetterRecord) -> str:
            page = page_view(Page((letter,), None, 1))
            seen = page if caller.may("payload-reader") else hidden.page(page)
            return seen.records[0].model_dump_json()

        return StreamingResponse(streams.counted(watch(index, name, since_ms, narrowed, show, stopping)), media_type=EVENTS)

    return router


class _Streams:
    """How many are open."""

    def __init__(self) -> None:
        self._open = 0

    def check(self) -> None:
        """Raises Problem 503 when there is no room for another."""
        if self._open >= MAX_STREAMS:
            detail = f"{MAX_STREAMS} streams are open already."
            raise Problem(503, "too-many-streams", detail, headers={"retry-after": "10"})

    async def counted(self, events: AsyncIterator[str]) -> AsyncIterator[str]:
        """``events``, for as long as somebody reads them."""
        self._open += 1
        try:
            async for event in events:
                yield event
        finally:
            self._open -= 1


async def watch(
    index: DeadLetterIndex,
    queue: str,
    since_ms: int,
    narrowed: Filters,
    show: Callable[[DeadLetterRecord], str],
    stopping: asyncio.Event,
) -> AsyncIterator[str]:
    """Events of the letters that failed from ``since_ms`` (epoch ms) on, each once, as soon as they are indexed; until ``stopping``."""
    newest_ms, sent, beat = since_ms, dict[str, int](), time.monotonic()
    yield ": what comes from now on\n\n"
    while not await _is_set_within(stopping, LOOK_S):
        found = await index.since(queue, newest_ms - OVERLAP_MS, narrowed, MOST + len(sent))
        for letter in [letter for letter in found if letter.id not in sent and letter.failed_at_ms >= since_ms]:
            sent[letter.id] = letter.failed_at_ms
            yield f"event: letter\nid: {letter.id}\ndata: {show(letter)}\n\n"
        now_ms = time.time_ns() // 1_000_000  # anybody may write a letter from the future, and it must not hide what comes now
        newest_ms = max([newest_ms, *(at_ms for at_ms in sent.values() if at_ms <= now_ms)])
        sent = {ident: at_ms for ident, at_ms in sent.items() if at_ms >= newest_ms - OVERLAP_MS}
        if time.monotonic() - beat >= BEAT_S:
            beat = time.monotonic()
            yield ": still here\n\n"


async def _is_set_within(event: asyncio.Event, seconds: float) -> bool:
    try:
        async with asyncio.timeout(seconds):
            return await event.wait()
    except TimeoutError:
        return False
