"""The running pipeline as a graph: nodes from the declarations, numbers from the engine and the last seconds."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from app.engine.status import EngineStatus, LaneStatus
from app.settings import Settings
from app.sidecar.topology import EdgeAnswer, Health, NodeAnswer, PartitionAnswer, TopologyAnswer
from app.telemetry.live import LiveNumbers
from app.topics import AGENTS, INTERACTIONS, Topic, all_topics, changelog_of, dead_letters_of, retry_tiers, running

#: A partition with so many times its fair share of the events is hot, if it gets that many a second at all.
HOT_TIMES: Final = 3.0
HOT_PER_S: Final = 5.0
#: Records behind: more than this much work of a second or two is shown as a warning.
LAG_WARN: Final = 10_000
ORDER: Final[Mapping[Health, int]] = {"ok": 0, "warn": 1, "bad": 2}


@dataclass(frozen=True, slots=True)
class Topology:
    """Looks at one worker. ``degraded``: what does not work although it is ready, as ``/readyz`` says it."""

    settings: Settings
    engine: EngineStatus
    live: LiveNumbers
    degraded: Callable[[], list[str]]

    def look(self) -> TopologyAnswer:
        """As it is now."""
        agents = {agent: AGENTS[agent] for agent in running(self.settings)}
        topics = [topic for topic in all_topics(self.settings) if _is_stream(topic)]
        lanes = self.engine.lanes()
        nodes = [
            NodeAnswer(id=topic.name, kind="topic", title=topic.name, facts={"partitions": topic.partitions}) for topic in topics
        ]
        edges: list[EdgeAnswer] = []
        for agent, source in agents.items():
            own = [lane for lane in lanes if lane.lane.agent == agent]
            nodes += self._nodes_of(agent, source, own)
            edges += self._edges_of(agent, source, own, topics)
        return TopologyAnswer(
            app=self.settings.app_id,
            worker=self.settings.worker_id or f"{self.settings.sidecar_host}:{self.settings.sidecar_port}",
            phase=self.engine.phase(),
            nodes=nodes,
            edges=edges,
        )

    # -- nodes ------------------------------------------------------------------------------------

    def _nodes_of(self, agent: str, source: str, lanes: Sequence[LaneStatus]) -> Iterator[NodeAnswer]:
        partitions = self._partitions(agent, [lane for lane in lanes if not lane.is_tier])
        health = max((each.health for each in partitions), key=ORDER.__getitem__, default="ok")
        yield NodeAnswer(
            id=agent, kind="agent", title=agent, health=health, facts={"partitions": len(partitions)}, partitions=partitions
        )
        keys = {lane.lane: lane.state_keys for lane in lanes}
        changelog = changelog_of(self.settings.app_id, agent)
        yield NodeAnswer(
            id=f"table:{agent}",
            kind="table",
            title="RocksDB table",
            of=agent,
            facts={"keys": sum(keys.values()), "changelog": changelog},
        )
        yield self._dead_letters(agent, source)
        tiers = [lane for lane in lanes if lane.is_tier]
        if retry_tiers(self.settings, source):
            waiting = sum(lane.lag for lane in tiers)
            yield NodeAnswer(
                id=f"retries:{agent}", kind="retries", title=self.settings.retry_delays.replace(",", ", "), of=agent, health="warn" if waiting else "ok",
                facts={"waiting": waiting},
            )  # fmt: skip
        yield from self._stores(agent)

    def _dead_letters(self, agent: str, source: str) -> NodeAnswer:
        queue = dead_letters_of(self.settings.app_id, source)
        per_s, all_per_s = self.live.per_s("dead_lettered", source), self.live.per_s("consumed", source)
        health: Health = "warn" if per_s and all_per_s and per_s > 0.05 * all_per_s else "ok"
        return NodeAnswer(id=queue, kind="dead_letters", title=queue, of=agent, health=health)

    def _stores(self, agent: str) -> Iterator[NodeAnswer]:
        degraded = self.degraded()
        if self.settings.redis_url:
            health: Health = "bad" if "redis" in degraded else "warn" if any("lookups" in text for text in degraded) else "ok"
            yield NodeAnswer(id=f"redis:{agent}", kind="redis", title="Redis", of=agent, health=health)
        if self.settings.enrichment_enabled and AGENTS[agent] == INTERACTIONS:
            health = "bad" if "reference" in degraded else "warn" if "reference cache" in degraded else "ok"
            yield NodeAnswer(
                id=f"database:{agent}",
                kind="database",
                title=self.settings.reference_url.partition(":")[0],
                of=agent,
                health=health,
            )

    def _partitions(self, agent: str, lanes: Sequence[LaneStatus]) -> list[PartitionAnswer]:
        rates = {lane.lane.partition: self.live.per_s("lane", agent, str(lane.lane.partition)) for lane in lanes}
        fair = sum(rate or 0.0 for rate in rates.values()) / len(rates) if rates else 0.0
        return [_partition(lane, rates[lane.lane.partition], fair) for lane in sorted(lanes, key=lambda lane: lane.lane)]

    # -- edges ------------------------------------------------------------------------------------

    def _edges_of(self, agent: str, source: str, lanes: Sequence[LaneStatus], topics: Sequence[Topic]) -> Iterator[EdgeAnswer]:
        live, lags = self.live, [lane.lag for lane in lanes if not lane.is_tier]
        yield EdgeAnswer(
            source=source, target=agent, per_s=live.per_s("consumed", source), lag=sum(lags) if lags else None,
            p50_ms=live.latency_ms(source, 0.5), p99_ms=live.latency_ms(source, 0.99),
        )  # fmt: skip
        for topic in topics:
            if topic.made_by.split(",")[0] == agent:
                yield EdgeAnswer(source=agent, target=topic.name, per_s=live.per_s("out", agent, topic.name))
        queue = dead_letters_of(self.settings.app_id, source)
        yield EdgeAnswer(source=agent, target=queue, per_s=live.per_s("dead_lettered", source))
        if retry_tiers(self.settings, source):
            yield EdgeAnswer(source=agent, target=f"retries:{agent}", per_s=live.per_s("retried", source))


def _is_stream(topic: Topic) -> bool:
    """An agent reads or writes it: no changelog, queue, tier or topic of `veltrix admin`."""
    return topic.name in AGENTS.values() or topic.made_by.split(",")[0] in AGENTS


def _partition(lane: LaneStatus, per_s: float | None, fair_per_s: float) -> PartitionAnswer:
    is_hot = per_s is not None and per_s > HOT_PER_S and per_s > HOT_TIMES * fair_per_s
    known = lane.end_offset >= 0 and lane.next_offset >= 0
    health, says = _health(lane, is_hot)
    return PartitionAnswer(
        partition=lane.lane.partition, per_s=per_s, lag=lane.lag if known else None, hot=is_hot, health=health, says=says
    )


def _health(lane: LaneStatus, is_hot: bool) -> tuple[Health, str]:
    if lane.breaker.state != "closed":
        return "bad", f"breaker {lane.breaker.state.replace('_', ' ')}: most of its events became dead letters"
    if lane.lag > LAG_WARN:
        return "warn", f"{lane.lag:,} records behind"
    return ("warn", "gets more than three times its share") if is_hot else ("ok", "")
