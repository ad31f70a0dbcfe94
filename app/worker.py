"""The composition root: builds one worker out of settings, agents and services."""

from __future__ import annotations

import sys
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, cast

import structlog
from aiokafka import AIOKafkaProducer
from fastapi import FastAPI
from mode.types import ServiceT
from prometheus_client import CollectorRegistry

from agents.process_interactions import Rules
from agents.registry import registry
from app.cli.forgotten_tiers import forgotten_tiers
from app.dead_letters import headers as h
from app.dead_letters.reader import DeadLetterReader
from app.dead_letters.record import DeadLetterRecordEncoder
from app.dead_letters.retries import TieredRetries
from app.dead_letters.roles import BadTokensFile
from app.declared import AGENT_FILES, lookup_views, wanted
from app.engine import broken_connection
from app.engine.api import Retries
from app.engine.consumer import EngineConsumer, EngineProducer
from app.engine.declare import AgentDeclaration
from app.engine.delivery import AtLeastOnce, Delivery
from app.engine.engine import Engine, EngineParts, TopicPartition
from app.engine.faust_app import EngineApp, assert_complete, new_faust_app
from app.engine.fence import Fence
from app.engine.guard import fatal, refuse
from app.engine.identity import TopicIds, watch
from app.engine.introspect import RunningEngine
from app.engine.last_end import last_end, noting
from app.engine.local_tables import recreated_changelogs
from app.engine.producing import IdempotentProducing
from app.engine.status import DurableListener, NoListener
from app.engine.tables import EngineTables
from app.engine.tracing import PassOn, Tracing
from app.engine.transactions import ExactlyOnce, TransactionParts
from app.engine.watchdog import EndOffsetClient, StallWatchdog
from app.engine.worker import Background, BootChecks, Closing, worker_class
from app.enrichment.api import ReferenceConfigError
from app.enrichment.join import Joiner
from app.kafka_clients import KafkaConnectError, transactional_producer
from app.lookups.reader import RedisLookupReader
from app.lookups.writer import LookupWriter
from app.reference_service import ReferenceService
from app.settings import Settings, SettingsError, load_settings
from app.sidecar.app import allowed_hosts, create_sidecar
from app.sidecar.deps import SidecarDeps
from app.sidecar.hot_lookups import HotLookups
from app.sidecar.references import NoReferences
from app.sidecar.server import SidecarBindError
from app.sidecar.service import SidecarService
from app.telemetry.disk import DiskMetrics
from app.telemetry.engine import BuildInfo, EngineMetrics
from app.telemetry.exposition import Catalogue
from app.telemetry.live import LiveNumbers
from app.telemetry.logs import configure_logging, logging_config
from app.telemetry.lookups import LookupMetrics, LookupReads
from app.telemetry.loop_lag import LoopLagMonitor
from app.telemetry.pipeline import PipelineMetrics
from app.telemetry.reference import ReferenceMetrics
from app.telemetry.watch import LastEndMetrics, WatchMetrics
from app.topic_admin import TopicAdminError, check_topics, topic_ids
from app.topics import AGENTS, dead_letters_of, retry_tiers

log = structlog.get_logger(__name__)


def build(settings: Settings) -> EngineApp:
    """One worker, wired and not started."""
    broken_connection.install()
    declarations = wanted(settings)
    registry_of_metrics = CollectorRegistry()
    catalogue = Catalogue(registry_of_metrics)
    stream_app = new_faust_app(settings, logging_config(settings))
    known_ends: dict[TopicPartition, int] = {}
    status = RunningEngine(stream_app, known_ends)
    fence = Fence.of(settings, lambda: bool(stream_app.engine.lanes), lambda reason, _: stream_app.engine.fatal(reason, None))
    watchdog = StallWatchdog(status, EndOffsetClient(settings), settings.stall_timeout_ms / 1000, known_ends)
    views, metrics = lookup_views(declarations), PipelineMetrics(catalogue)
    follower = LookupWriter(settings, views) if settings.redis_url else None
    delivery = new_delivery(settings, declarations, stream_app, metrics, fence.check)
    tracing, close_tracing = new_tracing(settings)
    stream_app.engine = new_engine(settings, declarations, delivery, metrics, follower or NoListener(), tracing)
    stream_app.fatal = stream_app.engine.fatal
    stream_app.bind(declarations, settings.partitions)
    switched_off = {agent.name for agent in registry} - {agent.name for agent in declarations}
    assert_complete(stream_app, declarations, AGENT_FILES - switched_off)
    loop_lag, live = LoopLagMonitor(catalogue), LiveNumbers(metrics, status)
    EngineMetrics(catalogue, status, metrics.newest_ms)
    DiskMetrics(catalogue, settings.data_dir)
    WatchMetrics(catalogue, status, watchdog, fence)
    LastEndMetrics(catalogue, last_end(settings.data_dir))
    BuildInfo(catalogue, settings.app_id, settings.app_version)
    if follower is not None:
        LookupMetrics(catalogue, follower)
    joiner = cast("Rules", stream_app.engine.contexts["process_interactions"]).reference

    def services() -> list[ServiceT]:
        lookups = RedisLookupReader(settings, status, views, observe=LookupReads(catalogue).observe)
        letters = DeadLetterReader(settings, [dead_letters_of(settings.app_id, agent.source) for agent in declarations])
        breakers, references = stream_app.engine.breakers, None
        if joiner is not None:
            references = ReferenceService(settings, joiner)
            ReferenceMetrics(catalogue, lambda: joiner.cache, references)
        deps = SidecarDeps(
            settings, status, lookups, letters, registry_of_metrics, loop_lag, live, lambda: degraded(follower, joiner), watchdog,
            breakers, references or NoReferences(),
        )  # fmt: skip
        return [
            BootChecks(settings, lambda: boot_problems(settings, stream_app)),
            Closing(lookups.aclose, letters.aclose, *([follower.aclose] if follower else []), *close_tracing),
            Sidecar(HotLookups(_sidecar_of(deps), lookups, allowed_hosts(settings)), settings.sidecar_host, settings.sidecar_port),
            *([references] if references else []),
            Background(loop_lag.run),
            Background(live.run),
            Background(
                lambda: watch(
                    lambda: tables_of(stream_app).topic_ids, lambda: ids_now(settings, stream_app), stream_app.engine.fatal
                )
            ),
            Background(watchdog.run),
            Background(fence.run),
        ]

    stream_app.conf.Worker = cast("Any", worker_class(services))
    return stream_app


def _sidecar_of(deps: SidecarDeps) -> FastAPI:
    try:
        return create_sidecar(deps)
    except BadTokensFile as exc:
        refuse(str(exc))
        raise


class Sidecar(SidecarService):
    """The sidecar, refusing to start in one line when its port is taken."""

    async def on_start(self) -> None:
        """Bind and answer."""
        try:
            await super().on_start()
        except SidecarBindError as exc:
            refuse(str(exc))


def new_engine(
    settings: Settings,
    declarations: Sequence[AgentDeclaration],
    delivery: Delivery,
    metrics: PipelineMetrics,
    listener: DurableListener,
    tracing: Tracing,
) -> Engine:
    """The engine with its real parts."""
    return Engine(
        EngineParts(
            settings=settings,
            agents=declarations,
            delivery=delivery,
            observer=metrics,
            listener=listener,
            fatal=noting(settings.data_dir, fatal),
            retries=retries_of(settings, declarations),
            tracing=tracing,
        )
    )


def new_tracing(settings: Settings) -> tuple[Tracing, list[Callable[[], Awaitable[None]]]]:
    """How records are traced, and what is to be closed in the end. Without a collector the SDK is not even imported."""
    if not settings.otlp_endpoint:
        return PassOn(), []
    from app.telemetry.exporting import Export

    export = Export(settings)
    return export.tracing(h.TRACEPARENT), [export.aclose]


def retries_of(settings: Settings, declarations: Sequence[AgentDeclaration]) -> dict[str, Retries]:
    """The retry tiers of those sources that have some."""
    found = {agent.source: TieredRetries.of(settings, agent.source) for agent in declarations}
    return {source: retries for source, retries in found.items() if retries is not None}


def new_delivery(
    settings: Settings,
    declarations: Sequence[AgentDeclaration],
    stream_app: EngineApp,
    metrics: PipelineMetrics,
    check_alive: Callable[[], None],
) -> Delivery:
    """How units become durable, by ``processing_guarantee``."""
    queues = {agent.source: dead_letters_of(settings.app_id, agent.source) for agent in declarations}
    tiers = {tier.topic: source for source in queues for tier in retry_tiers(settings, source)}
    dead_letter = DeadLetterRecordEncoder(settings, queues, retried=tiers)
    if settings.processing_guarantee == "at_least_once":
        return AtLeastOnce(IdempotentProducing(lambda: producer_of(stream_app)), dead_letter, check_alive)
    return ExactlyOnce(
        TransactionParts(
            app_id=settings.app_id,
            groups=settings.transaction_groups,
            interval_s=settings.transaction_interval_ms / 1000,
            new_producer=lambda transactional_id: transactional_producer(settings, transactional_id),
            is_member=lambda: consumer_of(stream_app).is_member(),
            committed=lambda tps: consumer_of(stream_app).commits(tps),
            dead_letter=dead_letter,
            observer=metrics,
            check_alive=check_alive,
        )
    )


def producer_of(stream_app: EngineApp) -> AIOKafkaProducer:
    """aiokafka's producer inside Faust's; there once the app has started."""
    return cast("EngineProducer", stream_app.producer)._ensure_producer()


def consumer_of(stream_app: EngineApp) -> EngineConsumer:
    """Our consumer, as what it is."""
    return cast("EngineConsumer", stream_app.consumer)


def degraded(follower: LookupWriter | None, joiner: Joiner | None) -> list[str]:
    """What does not work although the worker is ready."""
    found = ["redis"] if follower is not None and "down" in follower.states().values() else []
    if follower is not None:
        found += [
            f"lookups of {lane} rebuilding: {done} of at most {total} keys" for lane, (done, total) in follower.rebuilding().items()
        ]
    return found if joiner is None or joiner.cache is None else found + joiner.cache.away


def tables_of(stream_app: EngineApp) -> EngineTables:
    """Faust's table manager, which is ours."""
    return cast("EngineTables", stream_app.tables)


async def ids_now(settings: Settings, stream_app: EngineApp) -> TopicIds:
    """Kafka's ids of the engine's topics; none while the cluster does not answer."""
    engine = stream_app.engine
    try:
        return await topic_ids(settings, [*engine.sources, *engine.changelogs])
    except (KafkaConnectError, TopicAdminError) as exc:
        log.info("topic_ids_unknown", reason=str(exc))
        return {}


async def boot_problems(settings: Settings, stream_app: EngineApp) -> list[str]:
    """What keeps this worker from starting, each with its cure; differences that lose nothing are only logged."""
    try:
        problems = await check_topics(settings)
        tables_of(stream_app).topic_ids = ids = await ids_now(settings, stream_app)
        recreated = recreated_changelogs(settings.data_dir, settings.app_id, AGENTS, ids)
        tiers = [f"{tier}: {tier.advice}" for tier in await forgotten_tiers(settings)]
    except (KafkaConnectError, TopicAdminError) as exc:
        return [str(exc)]
    for problem in problems:
        if not problem.stops_worker:
            log.warning("topic_differs", problem=str(problem))
    return [*recreated, *tiers, *(str(problem) for problem in problems if problem.stops_worker)]


def build_from_environment() -> EngineApp:
    """One worker of the settings in the environment; ends the process with what is wrong with them."""
    try:
        settings = load_settings()
        configure_logging(settings)
        return build(settings)
    except (SettingsError, ReferenceConfigError) as exc:
        sys.exit(f"{exc}")
