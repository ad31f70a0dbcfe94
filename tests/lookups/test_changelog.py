"""Replaying a changelog: exactly the records asked for, whatever compaction left of them."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import pytest
from aiokafka import TopicPartition

from app.engine.api import RESET_KEY
from app.lookups import changelog
from app.lookups.changelog import CannotReplay, Chunk, _replay

SOURCE = TopicPartition("changelog", 3)
Row = tuple[int, bytes | None, bytes | None]


class FakeConsumer:
    """A partition of ``rows``, two a fetch; its last offset holds no record (a transaction's end, say)."""

    def __init__(self, rows: Sequence[Row], end: int, begin: int = 0) -> None:
        self._rows, self._end, self._begin = rows, end, begin
        self._position = 0

    async def beginning_offsets(self, partitions: Any) -> dict[TopicPartition, int]:
        return dict.fromkeys(partitions, self._begin)

    def assign(self, partitions: Any) -> None:
        assert partitions == [SOURCE]

    def seek(self, partition: TopicPartition, offset: int) -> None:
        self._position = offset

    async def position(self, partition: TopicPartition) -> int:
        return self._position

    async def getmany(self, *partitions: TopicPartition, timeout_ms: int, max_records: int) -> dict[TopicPartition, list[Any]]:
        await asyncio.sleep(0)
        rest = [row for row in self._rows if row[0] >= self._position]
        self._position = rest[1][0] + 1 if len(rest) > 2 else self._end
        return {SOURCE: [SimpleNamespace(offset=o, key=k, value=v) for o, k, v in rest if o < self._position]}


async def replayed(consumer: FakeConsumer, after: int, until: int) -> list[tuple[Chunk, int]]:
    chunks: list[tuple[Chunk, int]] = []

    async def on_chunk(chunk: Chunk, position: int) -> None:
        chunks.append((chunk, position))

    await _replay(consumer, SOURCE, after, until, on_chunk)
    return chunks


async def test_only_the_records_asked_for_are_given_newest_per_key() -> None:
    rows: list[Row] = [(n, b"k%d" % (n % 2), b"%d" % n) for n in range(9)]

    assert await replayed(FakeConsumer(rows, 9), 1, 6) == [
        ({b"k0": b"2", b"k1": b"3"}, 3),
        ({b"k0": b"4", b"k1": b"5"}, 5),
        ({b"k0": b"6"}, 6),
    ]


async def test_gaps_of_compaction_and_of_transactions_do_not_stop_it() -> None:
    rows: list[Row] = [(2, b"a", b"1"), (7, b"b", None), (9, None, b"no key")]

    assert await replayed(FakeConsumer(rows, 12), 0, 11) == [({b"a": b"1", b"b": None}, 7), ({}, 11)]


async def test_a_changelog_that_begins_later_cannot_be_replayed() -> None:
    with pytest.raises(CannotReplay, match="begins at 5, needed from 4"):
        await replayed(FakeConsumer([], 9, begin=5), 3, 8)


async def test_a_reset_cannot_be_replayed_across() -> None:
    with pytest.raises(CannotReplay, match="reset"):
        await replayed(FakeConsumer([(4, RESET_KEY, b"")], 9), 3, 8)


async def test_a_changelog_that_gives_nothing_ends_in_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(changelog, "STALL_TIMEOUT_S", 0.01)
    with pytest.raises(TimeoutError, match="stopped at 4, needed to 8"):
        await replayed(FakeConsumer([], 4), 3, 8)
