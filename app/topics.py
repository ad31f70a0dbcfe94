"""Every topic on one screen: name, partitions, configuration, who writes it.

``veltrix topics apply`` creates and ``veltrix topics check`` compares them; a worker never creates one.
Keyed producers use murmur2 (design: co-partitioning).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final

from app.settings import Settings

INTERACTIONS = "interactions"
ENRICHED = "interactions-enriched"
SESSIONS = "sessions"
ITEM_ACTIVITY = "item-activity"
ITEM_WINDOWS = "item-windows"
REFERENCE_CHANGES = "reference-changes"

#: Agent -> the topic it reads. Each agent has one changelog, each source one dead letter queue.
AGENTS: Mapping[str, str] = {
    "process_interactions": INTERACTIONS,
    "aggregate_items": ITEM_ACTIVITY,
}

#: Written and read by ourselves: what is in them belongs to the state as it was, so a reset skips it.
INTERNAL = frozenset({ITEM_ACTIVITY})

#: Sources whose transient failures wait in retry tiers.
RETRIED = frozenset({INTERACTIONS})
_UNIT_MS = {"ms": 1, "s": 1000, "m": 60_000, "h": 3_600_000}

#: What a header of a dead letter adds at most; its topic must take a source record plus this.
DLQ_HEADROOM_BYTES = 64 * 1024
#: A zombie's late write is found and repaired within seconds by the rightful worker; until then compaction must keep
#: what it overwrote (ADR 0006).
CHANGELOG_COMPACTION_LAG_MS = 60_000
#: Records above max_event_bytes are still consumed, and parked whole, up to this size.
SOURCE_MAX_MESSAGE_BYTES = 1024 * 1024
#: What a dead letter queue takes: the largest source record and the headers added to it.
DEAD_LETTER_MAX_BYTES = SOURCE_MAX_MESSAGE_BYTES + DLQ_HEADROOM_BYTES


@dataclass(frozen=True, slots=True)
class Topic:
    """One topic as it must exist. ``config`` values are Kafka's strings."""

    name: str
    partitions: int
    made_by: str
    config: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class RetryTier:
    """A topic in which failed records wait for ``delay_ms`` (give or take the jitter)."""

    topic: str
    delay_ms: int


def running(settings: Settings, agents: Iterable[str] = tuple(AGENTS)) -> tuple[str, ...]:
    """Those of ``agents`` that the settings do not switch off."""
    return tuple(agent for agent in agents if settings.windows_enabled or AGENTS.get(agent) != ITEM_ACTIVITY)


#: Of every topic that dead letters, or copies that wait for another attempt, are written to.
DEAD_LETTER_PREFIXES: Final = ("dlq.", "retry.")
CHANGELOG_SUFFIX: Final = "-changelog"


def changelog_of(app_id: str, agent: str) -> str:
    """Name of the one changelog topic of an agent (Faust's naming: id-table-changelog)."""
    return f"{app_id}-{agent}{CHANGELOG_SUFFIX}"


def dead_letters_of(app_id: str, source: str) -> str:
    """``dlq.<app>.<source>``: the prefix is fixed by KIP-1191, one queue per consumer app and source."""
    return f"dlq.{app_id}.{source}"


def retry_tiers(settings: Settings, source: str) -> tuple[RetryTier, ...]:
    """``retry.<app>.<source>.<delay>``, in the order in which a record meets them; none for a source without."""
    labels = settings.retry_delays.split(",") if settings.retry_delays and source in RETRIED else []
    return tuple(RetryTier(retry_prefix(settings.app_id, source) + label, _delay_ms(label)) for label in labels)


def retry_prefix(app_id: str, source: str) -> str:
    """Of the names of all tiers of a source, those of earlier settings too; the delay follows."""
    return f"retry.{app_id}.{source}."


def _delay_ms(label: str) -> int:
    """``10m`` in milliseconds."""
    number = label.rstrip("hms")
    return int(number) * _UNIT_MS[label.removeprefix(number)]


def state_of_dead_letters(app_id: str) -> str:
    """What was done about each dead letter; compacted."""
    return f"dlq.{app_id}.state"


def audit_of_dead_letters(app_id: str) -> str:
    """Who did what, once and for all."""
    return f"dlq.{app_id}.audit"


def all_topics(settings: Settings, agents: Iterable[str] = tuple(AGENTS)) -> list[Topic]:
    """Every topic of this deployment, source first: those of what the settings switch off are not among them."""
    agents = running(settings, agents)
    n, durable = settings.partitions, {"min.insync.replicas": str(settings.min_insync_replicas)}
    dlq = durable | {
        "cleanup.policy": "delete",
        "retention.ms": str(settings.dlq_retention_ms),
        "max.message.bytes": str(DEAD_LETTER_MAX_BYTES),
    }
    changelog = durable | {
        "cleanup.policy": "compact",
        "min.compaction.lag.ms": str(CHANGELOG_COMPACTION_LAG_MS),
        "max.message.bytes": str(1024 * 1024 + 4096),
    }
    return [
        Topic(INTERACTIONS, n, "ingest, SDKs, veltrix generate", durable | {"max.message.bytes": str(SOURCE_MAX_MESSAGE_BYTES)}),
        Topic(ENRICHED, n, "process_interactions", durable),
        *([Topic(SESSIONS, n, "process_interactions", durable)] if settings.sessions_enabled else []),
        *(_of_windows(n, durable) if settings.windows_enabled else []),
        *([_changes(n, durable)] if settings.enrichment_enabled else []),
        *(Topic(dead_letters_of(settings.app_id, source), n, "dead letters", dlq) for source in _sources(agents)),
        Topic(state_of_dead_letters(settings.app_id), 1, "veltrix admin", durable | {"cleanup.policy": "compact"}),
        Topic(audit_of_dead_letters(settings.app_id), 1, "veltrix admin", durable | {"retention.ms": "-1"}),
        *(Topic(tier.topic, n, "retries", dlq) for source in _sources(agents) for tier in retry_tiers(settings, source)),
        *(Topic(changelog_of(settings.app_id, agent), n, "engine", changelog) for agent in agents),
    ]


def _of_windows(partitions: int, config: Mapping[str, str]) -> list[Topic]:
    return [
        Topic(ITEM_ACTIVITY, partitions, "process_interactions, for aggregate_items", config),
        Topic(ITEM_WINDOWS, partitions, "aggregate_items", config),
    ]


def _changes(partitions: int, config: Mapping[str, str]) -> Topic:
    return Topic(
        REFERENCE_CHANGES, partitions, "CDC, anyone: rows of reference tables that changed", {**config, "cleanup.policy": "compact"}
    )


def _sources(agents: Iterable[str]) -> list[str]:
    """Distinct source topics of ``agents``; a name that is no agent of ours (a benchmark's) reads ``interactions``."""
    return list(dict.fromkeys(AGENTS.get(agent, INTERACTIONS) for agent in agents))
