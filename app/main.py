"""The composition root: builds one worker out of settings, agents and services.

``faust -A app.main worker`` imports this module and asks for ``app``; only then is anything built.
(``-A app`` would name the package, which has no Faust app in it.)
"""

from __future__ import annotations

import asyncio
import importlib
import pkgutil
import sys

import structlog
import uvloop
from mode.types import ServiceT
from prometheus_client import CollectorRegistry

import agents
from agents.registry import registry
from app.dead_letters.record import DeadLetterRecordEncoder
from app.engine.declare import AgentDeclaration
from app.engine.delivery import AtLeastOnce
from app.engine.engine import Engine, EngineParts
from app.engine.faust_app import EngineApp, assert_complete, new_faust_app
from app.engine.guard import fatal
from app.engine.introspect import RunningEngine
from app.engine.worker import Background, BootChecks, worker_class
from app.kafka_clients import KafkaConnectError
from app.settings import Settings, SettingsError, load_settings
from app.telemetry.catalogue import Catalogue
from app.telemetry.engine import BuildInfo, EngineMetrics
from app.telemetry.logs import configure_logging, logging_config
from app.telemetry.loop_lag import LoopLagMonitor
from app.telemetry.pipeline import PipelineMetrics
from app.topic_admin import TopicAdminError, check_topics
from app.topics import dead_letters_of

log = structlog.get_logger(__name__)


def declared_agents() -> tuple[AgentDeclaration, ...]:
    """Import every file under ``agents/``; an import error stops the worker instead of losing an agent silently."""
    for module in pkgutil.iter_modules(agents.__path__):
        importlib.import_module(f"agents.{module.name}")
    return tuple(registry)


def agent_files() -> set[str]:
    """Names of the files under ``agents/`` that must each declare an agent of that name."""
    return {module.name for module in pkgutil.iter_modules(agents.__path__)} - {"registry"}


class NoFollower:
    """A durable listener for a worker without Redis."""

    def lane_started(self, table: object) -> None: ...

    def unit_durable(self, lane: object, writes: object, stamp: int, source_offset: int, previous: int) -> None: ...

    async def lane_stopped(self, lane: object) -> None: ...


def build(settings: Settings) -> EngineApp:
    """One worker, wired and not started."""
    declarations = declared_agents()
    catalogue = Catalogue(CollectorRegistry())
    metrics = PipelineMetrics(catalogue)
    loop_lag = LoopLagMonitor(catalogue)

    def services() -> list[ServiceT]:
        return [
            BootChecks(settings, lambda: boot_problems(settings, declarations)),
            Background(loop_lag.run),
        ]

    stream_app = new_faust_app(settings, worker_class(services), logging_config(settings))
    stream_app.fatal = fatal
    stream_app.engine = Engine(
        EngineParts(
            settings=settings,
            agents=declarations,
            delivery=AtLeastOnce(lambda: stream_app.producer._ensure_producer()),  # type: ignore[attr-defined]
            dead_letter=DeadLetterRecordEncoder(settings, {a.source: dead_letters_of(settings.app_id, a.source) for a in declarations}),
            observer=metrics,
            listener=NoFollower(),
            fatal=fatal,
        )
    )
    stream_app.bind(declarations, settings.partitions)
    assert_complete(stream_app, agent_files())
    status = RunningEngine(stream_app)
    EngineMetrics(catalogue, status)
    BuildInfo(catalogue, settings.app_id, settings.app_version)
    return stream_app


async def boot_problems(settings: Settings, declarations: tuple[AgentDeclaration, ...]) -> list[str]:
    """What keeps this worker from starting, each with its cure; differences that lose nothing are only logged."""
    try:
        problems = await check_topics(settings, [agent.name for agent in declarations])
    except (KafkaConnectError, TopicAdminError) as exc:
        return [str(exc)]
    for problem in problems:
        if not problem.stops_worker:
            log.warning("topic_differs", problem=str(problem))
    return [str(problem) for problem in problems if problem.stops_worker]


def __getattr__(name: str) -> EngineApp:
    """Build the app when Faust's command line asks for it, so that importing this module has no effect."""
    if name != "app":
        raise AttributeError(f"module {__name__} has no attribute {name}")
    asyncio.set_event_loop_policy(uvloop.EventLoopPolicy())
    try:
        settings = load_settings()
    except SettingsError as exc:
        sys.exit(f"{exc}")
    configure_logging(settings)
    globals()["app"] = built = build(settings)
    return built
