"""Dead letters as they come: each once, in the order in which they failed, from the moment on that somebody looks."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any, cast

import pytest

from app.dead_letters.api import DeadLetterRecord, Filters
from app.dead_letters.index.service import DeadLetterIndex
from app.sidecar import dead_letter_stream as stream
from app.sidecar.problems import Problem
from tests.sidecar.conftest import dead_letter

NOW_MS = 1_700_000_000_000
QUEUE = "dlq.veltrix.interactions"


class FakeIndex:
    """Letters that a test adds; answers as the real one."""

    def __init__(self) -> None:
        self.letters: list[DeadLetterRecord] = []
        self.asked: list[int] = []

    def add(self, offset: int, after_ms: int, partition: int = 0) -> None:
        self.letters.append(dead_letter(offset=offset, partition=partition, failed_at_ms=NOW_MS + after_ms))

    async def since(self, queue: str, after_ms: int, filters: Filters, limit: int) -> tuple[DeadLetterRecord, ...]:
        self.asked.append(after_ms)
        late = [letter for letter in self.letters if letter.failed_at_ms > after_ms]
        return tuple(sorted(late, key=lambda letter: letter.failed_at_ms)[:limit])


@pytest.fixture(autouse=True)
def _no_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream, "LOOK_S", 0.0)


@pytest.fixture
def index() -> FakeIndex:
    return FakeIndex()


def watched(index: FakeIndex, stopping: asyncio.Event | None = None) -> AsyncIterator[str]:
    known = cast("DeadLetterIndex", index)
    return stream.watch(known, QUEUE, NOW_MS, Filters(), lambda letter: str(letter.offset), stopping or asyncio.Event())


async def offsets(events: AsyncIterator[str], count: int) -> list[int]:
    found: list[int] = []
    async for event in events:
        if event.startswith("event: letter\n"):
            assert event.endswith("\n\n")
            found.append(int(event.rpartition("data: ")[2]))
        if len(found) == count:
            return found
    raise AssertionError("a stream has no end")


async def test_what_came_before_is_not_told_and_what_comes_is_told_once(index: FakeIndex) -> None:
    index.add(1, -5_000)
    index.add(2, 10)
    events = watched(index)
    assert await offsets(events, 1) == [2]
    index.add(4, 300)
    index.add(3, 200)
    assert await offsets(events, 2) == [3, 4]


async def test_a_letter_that_is_indexed_after_later_ones_is_told_all_the_same(index: FakeIndex) -> None:
    index.add(1, 9_000)
    events = watched(index)
    assert await offsets(events, 1) == [1]
    index.add(2, 4_000, partition=1)
    index.add(3, 9_500)
    assert await offsets(events, 2) == [2, 3]


async def test_a_letter_from_the_future_hides_none_that_comes_now(index: FakeIndex) -> None:
    index.add(1, 100 * 365 * 86_400_000)
    events = watched(index)
    assert await offsets(events, 1) == [1]
    index.add(2, 100)
    assert await offsets(events, 1) == [2]


async def test_a_flood_is_told_in_pieces_and_whole(index: FakeIndex) -> None:
    for offset in range(3 * stream.MOST):
        index.add(offset, offset)
    assert await offsets(watched(index), 3 * stream.MOST) == list(range(3 * stream.MOST))


async def test_who_waits_hears_that_it_is_still_there(index: FakeIndex, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream, "BEAT_S", 0.0)
    events = watched(index)
    assert [await anext(events), await anext(events)] == [": what comes from now on\n\n", ": still here\n\n"]


async def test_it_ends_when_the_process_stops_and_not_after_the_next_look(
    index: FakeIndex, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stream, "LOOK_S", 3600.0)
    stopping = asyncio.Event()
    events = watched(index, stopping)
    await anext(events)
    asyncio.get_running_loop().call_soon(stopping.set)
    assert [event async for event in events] == []


async def test_there_is_a_bound_and_who_leaves_makes_room() -> None:
    streams, index = stream._Streams(), FakeIndex()
    open_ones = [cast("Any", streams.counted(watched(index))) for _ in range(stream.MAX_STREAMS)]
    for one in open_ones:
        streams.check()
        await anext(one)
    with pytest.raises(Problem) as caught:
        streams.check()
    assert (caught.value.status, caught.value.kind) == (503, "too-many-streams")
    await open_ones[0].aclose()
    streams.check()
