"""Reading one hot lookup: from Redis, else from this worker's own table."""

from __future__ import annotations

import asyncio
import struct
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Final, NamedTuple, cast

import msgspec
from redis.asyncio import Redis
from redis.exceptions import RedisError

from app.domain.routing import partition_of
from app.engine.api import LaneId, LookupKeys
from app.engine.status import EngineStatus, LaneStatus
from app.lookups.api import InvalidLookupKey, LookupAnswer, LookupUnavailable, LookupView, Reason, UnknownLookup
from app.lookups.connect import redis_client
from app.lookups.keys import Cover, LaneKeys, unpack_cover, unpack_value
from app.settings import Settings

CONNECTIONS: Final = 32
FIRST_PAUSE_S: Final = 0.5
LAST_PAUSE_S: Final = 5.0
IDENTITY_PREFIXES: Final = ("u:", "a:")


class Circuit:
    """After a failure Redis is not asked for a while, so that an outage does not cost its timeout in every call."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._pause_s = FIRST_PAUSE_S
        self._closed_at = 0.0

    def allows(self) -> bool:
        """Whether to ask. When a pause is over one caller probes; the others wait for its result."""
        now = self._clock()
        if now < self._closed_at:
            return False
        if self._pause_s > FIRST_PAUSE_S:
            self._closed_at = now + FIRST_PAUSE_S
        return True

    def failed(self) -> None:
        """It did not answer: leave it alone, longer each time."""
        self._closed_at = self._clock() + self._pause_s
        self._pause_s = min(LAST_PAUSE_S, self._pause_s * 2)

    def answered(self) -> None:
        """It works."""
        self._pause_s, self._closed_at = FIRST_PAUSE_S, 0.0


class RedisLookupReader:
    """Implements ``LookupReader``.

    Args:
        settings: Redis, application id and number of partitions.
        status: the engine, for lanes of this worker.
        views: what is served, and how a raw value becomes public.
        client: Redis, for tests.
    """

    def __init__(self, settings: Settings, status: EngineStatus, views: Iterable[LookupView], client: Redis | None = None) -> None:
        self._app_id = settings.app_id
        self._partitions = settings.partitions
        self._status = status
        self._views = {view.resource: view for view in views}
        self._keys: dict[LaneId, LaneKeys] = {}
        self._timeout_s = settings.redis_timeout_ms / 1000
        self._client = client
        if client is None and settings.redis_url:
            self._client = redis_client(settings, "lookup-reader", self._timeout_s, CONNECTIONS)
        self.circuit = Circuit()

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

    async def read_many(self, questions: Sequence[tuple[str, str]]) -> list[LookupAnswer | LookupUnavailable | None]:
        """See :class:`app.lookups.api.LookupReader`."""
        return await self._read([self._question(resource, key) for resource, key in questions])

    async def read_partitions(self, resource: str, key: str) -> list[LookupAnswer | LookupUnavailable | None]:
        """See :class:`app.lookups.api.LookupReader`."""
        view, raw_key = self._view(resource), key.encode(errors="replace")
        lanes = [LaneId(view.agent, partition) for partition in range(self._partitions)]
        return await self._read([_Question(view, key, lane, view.prefix + raw_key) for lane in lanes])

    async def aclose(self) -> None:
        """Close Redis."""
        if self._client is not None:
            await self._client.aclose()

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
        return _Question(view, key, lane, view.prefix + key.encode(errors="replace"))

    async def _read(self, questions: list[_Question]) -> list[LookupAnswer | LookupUnavailable | None]:
        if self._client is None:
            return self._from_tables(questions, "not_configured")
        held = await self._ask_redis(self._client, questions)
        if held is None:
            return self._from_tables(questions, "redis_down")
        values, covers = held
        answers: list[LookupAnswer | LookupUnavailable | None] = []
        left = []
        for number, (question, value) in enumerate(zip(questions, values, strict=True)):
            cover = covers[question.lane]
            answers.append(None if value is None or cover is None else _from_redis(question, value, cover))
            is_absent = value is None and cover is not None and not self._status.owns(question.lane)
            if answers[-1] is None and not is_absent:
                left.append(number)
        for number, answer in zip(left, self._from_tables([questions[number] for number in left], "not_covered"), strict=True):
            answers[number] = answer
        return answers

    async def _ask_redis(
        self, client: Redis, questions: list[_Question]
    ) -> tuple[list[bytes | None], dict[LaneId, Cover | None]] | None:
        """Values, and the covers of their lanes, of one moment; None when Redis does not answer."""
        if not self.circuit.allows():
            return None
        lanes = {question.lane: self._keys_of(question.lane) for question in questions}
        values = [lanes[question.lane].of(question.raw_key) or b"" for question in questions]
        try:
            async with asyncio.timeout(self._timeout_s):
                held = cast("list[bytes | None]", await client.mget(*values, *(keys.cover for keys in lanes.values())))
        except (RedisError, OSError):
            self.circuit.failed()
            return None
        self.circuit.answered()
        return held[: len(values)], dict(zip(lanes, map(unpack_cover, held[len(values) :]), strict=True))

    def _keys_of(self, lane: LaneId) -> LaneKeys:
        keys = self._keys.get(lane)
        if keys is None:
            keys = self._keys[lane] = LaneKeys(self._app_id, lane, self._views.values())
        return keys

    def _from_tables(self, questions: list[_Question], reason: Reason) -> list[LookupAnswer | LookupUnavailable | None]:
        """Of the lanes that run here. All lanes are looked at once, however many questions there are."""
        statuses = {status.lane: status for status in self._status.lanes()} if questions else {}
        return [self._from_table(question, reason, statuses.get(question.lane)) for question in questions]

    def _from_table(
        self, question: _Question, reason: Reason, status: LaneStatus | None
    ) -> LookupAnswer | LookupUnavailable | None:
        view, lane = question.view, question.lane
        try:
            raw = self._status.read(lane, question.raw_key)
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
