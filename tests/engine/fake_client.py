"""aiokafka's consumer and Faust's consumer thread, as far as the engine's consumer uses them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

from aiokafka import TopicPartition as KafkaPartition
from aiokafka.structs import OffsetAndMetadata
from faust.types import TP

from tests.fakes import FakeRecord

Fetched = Mapping[TP, list[FakeRecord]]


@dataclass
class FakeClient:
    """aiokafka's consumer: what the group has committed, and what it is told."""

    assigned: set[TP] = field(default_factory=set)
    group: dict[TP, int] = field(default_factory=dict)
    paused: set[TP] = field(default_factory=set)
    seeks: dict[TP, int] = field(default_factory=dict)

    def assignment(self) -> set[TP]:
        return self.assigned

    def pause(self, *tps: KafkaPartition) -> None:
        assert all(tp in self.assigned for tp in tps), "aiokafka raises for others"
        self.paused |= {TP(*tp) for tp in tps}

    def resume(self, *tps: KafkaPartition) -> None:
        assert all(tp in self.assigned for tp in tps), "aiokafka raises for others"
        self.paused -= {TP(*tp) for tp in tps}

    def seek(self, tp: KafkaPartition, offset: int) -> None:
        self.seeks[TP(*tp)] = offset

    @property
    def _coordinator(self) -> FakeClient:
        return self

    async def fetch_committed_offsets(self, tps: Iterable[KafkaPartition]) -> dict[KafkaPartition, OffsetAndMetadata]:
        return {tp: OffsetAndMetadata(self.group[TP(*tp)], "") for tp in tps if TP(*tp) in self.group}


@dataclass
class FakeFetcher:
    """What is asked of :class:`app.engine.fetcher.EngineFetcher`."""

    is_patient: bool = False
    watches_paused: bool = True
    looked: int = 0

    def look_again(self) -> None:
        self.looked += 1


@dataclass
class FakeThread:
    """Faust's consumer thread over the fake client."""

    client: FakeClient = field(default_factory=FakeClient)
    fetched: list[Fetched | Exception] = field(default_factory=list)
    asked: list[set[TP]] = field(default_factory=list)
    commits: list[dict[TP, int]] = field(default_factory=list)
    during_fetch: Callable[[], None] = lambda: None
    commit_works: bool = True
    fetches: bool = True
    begin: int = 0
    end: int = 1000
    positions: dict[TP, int] = field(default_factory=dict)

    fetcher: FakeFetcher = field(default_factory=FakeFetcher)

    def _ensure_consumer(self) -> FakeClient:
        return self.client

    async def getmany(self, active: set[TP], timeout: float) -> Fetched:  # noqa: ASYNC109 - Faust's signature
        self.asked.append(set(active))
        self.during_fetch()
        result = self.fetched.pop(0) if self.fetched else {}
        if isinstance(result, Exception):
            raise result
        return result

    def is_fetching(self) -> bool:
        return self.fetches

    def assignment(self) -> set[TP]:
        return self.client.assigned

    async def commit(self, offsets: Mapping[TP, int]) -> bool:
        self.commits.append(dict(offsets))
        return self.commit_works

    async def earliest_offsets(self, *tps: TP) -> dict[TP, int]:
        return dict.fromkeys(tps, self.begin)

    async def highwaters(self, *tps: TP) -> dict[TP, int]:
        return dict.fromkeys(tps, self.end)

    async def position(self, tp: TP) -> int | None:
        return self.positions.get(tp)
