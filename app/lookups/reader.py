"""Reading one hot lookup: from Redis, else from this worker's own table."""

from __future__ import annotations

import struct
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Final, NamedTuple, Protocol

import msgspec
from redis.asyncio import Redis

from app.domain.routing import partition_of
from app.engine.api import LaneId, LookupKeys
from app.engine.status import LaneStatus
from app.lookups.api import Found, InvalidLookupKey, LookupAnswer, LookupUnavailable, LookupView, Reason, UnknownLookup
from app.lookups.connect import redis_client
from app.lookups.gathered import GatheredReads
from app.lookups.keys import Cover, LaneKeys, unpack_cover, unpack_value
from app.settings import Settings

CONNECTIONS: Final = 32
IDENTITY_PREFIXES: Final = ("u:", "a:")


class Tables(Protocol):
    """Tables in this process, where there are any. ``EngineStatus`` fits."""

    def lanes(self) -> list[LaneStatus]: ...

    def owns(self, lane: LaneId) -> bool: ...

    def read(self, lane: LaneId, raw_key: bytes) -> bytes | None: ...


class NoTables:
    """A process that only reads Redis."""

    def lanes(self) -> list[LaneStatus]:
        """See :class:`app.engine.status.EngineStatus`."""
        return []

    def owns(self, lane: LaneId) -> bool:
        """See :class:`app.engine.status.EngineStatus`."""
        return False

    def read(self, lane: LaneId, raw_key: bytes) -> bytes | None:
        """See :class:`app.engine.status.EngineStatus`."""
        raise KeyError(lane)


class RedisLookupReader:
    """Implements ``LookupReader``.

    Args:
        settings: Redis, application id and number of partitions.
        tables: the engine, for lanes of this worker.
        views: what is served, and how a raw value becomes public.
        client: Redis, for tests.
        observe: told the seconds and the answers of each read.
    """

    def __init__(
        self,
        settings: Settings,
        tables: Tables,
        views: Iterable[LookupView],
        client: Redis | None = None,
        observe: Callable[[float, Sequence[Found]], None] = lambda seconds, found: None,
    ) -> None:
        self._observe = observe
        self._app_id = settings.app_id
        self._partitions = settings.partitions
        self._tables = tables
        self._views = {view.resource: view for view in views}
        self._keys: dict[LaneId, LaneKeys] = {}
        timeout_s = settings.redis_timeout_ms / 1000
        if client is None and settings.redis_url:
            client = redis_client(settings, "lookup-reader", timeout_s, CONNECTIONS)
        self._redis = None if client is None else GatheredReads(client, timeout_s, settings.redis_gather_ms / 1000)

    async def read(self, resource: str, key: str) -> LookupAnswer | None:
        """The value of ``key``, None when there is no such key.

        A key that Redis does not have is looked for in the table if the partition is here, so a lane that is
        catching up never makes a known user unknown.

        Raises:
            UnknownLookup, InvalidLookupKey: the question is wrong.
            LookupUnavailable: neither Redis nor a table here can tell.
        """
        (answer,) = await self.read_many([(resource, key)])
        if isinstance(answer, LookupUnavailable):
            raise answer
        return answer

    def keys_of(self, resource: str) -> LookupKeys:
        """See :class:`app.lookups.api.LookupReader`."""
        return self._view(resource).keys

    async def read_many(self, questions: Sequence[tuple[str, str]]) -> list[Found]:
        """See :class:`app.lookups.api.LookupReader`."""
        return await self._read([self._question(resource, key) for resource, key in questions])

    async def read_partitions(self, resource: str, key: str) -> list[Found]:
        """See :class:`app.lookups.api.LookupReader`."""
        view, raw_key = self._view(resource), key.encode(errors="replace")
        lanes = [LaneId(view.agent, partition) for partition in range(self._partitions)]
        return await self._read([self._question_of(view, key, lane, view.prefix + raw_key) for lane in lanes])

    async def aclose(self) -> None:
        """Close Redis."""
        if self._redis is not None:
            await self._redis.aclose()

    async def covers(self) -> dict[LaneId, Cover | None] | None:
        """How far Redis has followed each lane, None where it covers nothing; None at all when it does not answer."""
        lanes = [
            LaneId(agent, number)
            for agent in sorted({view.agent for view in self._views.values()})
            for number in range(self._partitions)
        ]
        held = None if self._redis is None else await self._redis.get([self._keys_of(lane).cover for lane in lanes])
        return None if held is None else {lane: unpack_cover(held[self._keys_of(lane).cover]) for lane in lanes}

    def _view(self, resource: str) -> LookupView:
        view = self._views.get(resource)
        if view is None:
            raise UnknownLookup(resource, sorted(self._views))
        return view

    def _question(self, resource: str, key: str) -> _Question:
        view, routed = self._view(resource), key
        if view.keys == "user":
            if len(key) < 3 or not key.startswith(IDENTITY_PREFIXES):
                raise InvalidLookupKey(key)
            routed = key[2:]
        lane = LaneId(view.agent, partition_of(routed.encode(errors="replace"), self._partitions))
        return self._question_of(view, key, lane, view.prefix + key.encode(errors="replace"))

    def _question_of(self, view: LookupView, key: str, lane: LaneId, raw_key: bytes) -> _Question:
        keys = self._keys_of(lane)
        return _Question(view, key, lane, raw_key, keys.of(raw_key) or b"", keys.cover)

    async def _read(self, questions: list[_Question]) -> list[Found]:
        start = time.monotonic()
        found = await self._find(questions)
        self._observe(time.monotonic() - start, found)
        return found

    async def _find(self, questions: list[_Question]) -> list[Found]:
        if self._redis is None:
            return self._from_tables(questions, "not_configured")
        held = await self._redis.get([key for question in questions for key in (question.redis_key, question.cover_key)])
        if held is None:
            return self._from_tables(questions, "redis_down")
        covers = {key: unpack_cover(held[key]) for key in {question.cover_key for question in questions}}
        answers: list[Found] = []
        left = []
        for number, question in enumerate(questions):
            value, cover = held[question.redis_key], covers[question.cover_key]
            answers.append(None if value is None or cover is None else _from_redis(question, value, cover))
            is_absent = value is None and cover is not None and not self._tables.owns(question.lane)
            if answers[-1] is None and not is_absent:
                left.append(number)
        for number, answer in zip(left, self._from_tables([questions[number] for number in left], "not_covered"), strict=True):
            answers[number] = answer
        return answers

    def _keys_of(self, lane: LaneId) -> LaneKeys:
        keys = self._keys.get(lane)
        if keys is None:
            keys = self._keys[lane] = LaneKeys(self._app_id, lane, self._views.values())
        return keys

    def _from_tables(self, questions: list[_Question], reason: Reason) -> list[Found]:
        """Of the lanes that run here. All lanes are looked at once, however many questions there are."""
        statuses = {status.lane: status for status in self._tables.lanes()} if questions else {}
        return [self._from_table(question, reason, statuses.get(question.lane)) for question in questions]

    def _from_table(self, question: _Question, reason: Reason, status: LaneStatus | None) -> Found:
        view, lane = question.view, question.lane
        try:
            raw = self._tables.read(lane, question.raw_key)
        except KeyError:
            return LookupUnavailable(reason, lane.partition)
        if raw is None:
            return None
        offset = -1 if status is None else status.changelog_offset
        return LookupAnswer(
            resource=view.resource,
            key=question.key,
            value=view.decode(raw),
            raw=raw,
            source="table",
            partition=lane.partition,
            changelog_offset=offset,
            source_offset=-1,
            covered_offset=offset,
            covered_at_ms=None,
            covered_source_offset=-1 if status is None else status.next_offset - 1,
        )


class _Question(NamedTuple):
    """A key of a lookup and where it lives."""

    view: LookupView
    key: str
    lane: LaneId
    raw_key: bytes
    redis_key: bytes
    cover_key: bytes


def _from_redis(question: _Question, held: bytes, cover: Cover) -> LookupAnswer | None:
    """None when the entry cannot be read: written by another version, which the table may still answer."""
    view = question.view
    try:
        stamp, source_offset, raw = unpack_value(held)
        value = view.decode(raw)
    except (struct.error, msgspec.MsgspecError):
        return None
    return LookupAnswer(
        resource=view.resource,
        key=question.key,
        value=value,
        raw=raw,
        source="redis",
        partition=question.lane.partition,
        changelog_offset=stamp,
        source_offset=source_offset,
        covered_offset=max(stamp, cover.position),
        covered_at_ms=cover.written_ms,
        covered_source_offset=max(source_offset, cover.source_offset),
    )
