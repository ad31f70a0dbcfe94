"""The Faust app of a worker: Faust's own classes replaced by ours through its documented settings.

What stays Faust's: the ``faust`` command, worker and service start order, consumer group, assignor, table
and changelog declaration, recovery phases, rebalance, shutdown. What is ours: transport (consumer,
producer), agents (a body per batch), tables' stores, recovery's inner loop.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, cast

import faust
import faust.streams
from aiokafka.record import default_records
from faust.agents import Agent
from faust.app.base import BootStrategy
from yarl import URL

from app.engine.assignor import assignor_of
from app.engine.consumer import EngineTransport
from app.engine.declare import AgentDeclaration, DeclarationError
from app.engine.engine import Engine
from app.engine.guard import Fatal
from app.engine.tables import EngineTable, EngineTables
from app.kafka_clients import faust_credentials
from app.settings import Settings
from app.topics import AGENTS


class MissingExtension(Exception):
    """A compiled extension did not load. Install the wheels of the lock file (``make setup``); never run without."""


class BatchAgent(Agent):
    """A Faust agent whose body runs once per micro-batch, called by the lane of its partition.

    It has no actors: subscribing its topic is all that starting means. ``fun`` is the declared body.
    """

    async def on_start(self) -> None:
        """Subscribe to the source topic."""
        aiter(self.channel)

    async def on_stop(self) -> None:
        """Lanes are stopped by the consumer, before this."""


class LaneTopic(faust.Topic):
    """What an agent reads: its source, then the retry tiers of that."""

    def get_topic_name(self) -> str:
        """The source. Faust has no name for several topics, and ``faust agents`` asks for one."""
        return self.topics[0] if self.topics else super().get_topic_name()


class WithoutWeb(BootStrategy):
    """Faust's own web server stays off; its command line would turn it on again by default."""

    enable_web = False


class EngineApp(faust.App):
    """A Faust app with an engine. ``engine`` is set right after construction, by the composition root."""

    BootStrategy = WithoutWeb

    engine: Engine
    fatal: Fatal

    @property
    def web_server_url(self) -> URL:
        """Where this worker is seen over HTTP, for Faust's banner: the sidecar. Its own server is off."""
        settings = self.engine.settings
        return URL(f"http://{settings.sidecar_host}:{settings.sidecar_port}")

    def _new_transport(self) -> EngineTransport:
        return EngineTransport(self.conf.broker_consumer, self)

    def _new_producer_transport(self) -> EngineTransport:
        return EngineTransport(self.conf.broker_producer, self)

    def bind(self, agents: Iterable[AgentDeclaration], partitions: int) -> None:
        """Make Faust agents and tables of the declarations; an agent reads all topics of its lanes."""
        for agent in agents:
            read = [name for name, reader in self.engine.sources.items() if reader.name == agent.name]
            topic = self.topic(*read, key_type=bytes, value_type=bytes, value_serializer="raw", partitions=partitions)
            self.agent(topic, name=agent.name)(cast("Any", agent.body))
            views = ", ".join(view.name for view in agent.views)
            table = EngineTable(self, name=agent.name, key_type=bytes, value_type=bytes, partitions=partitions, help=views)
            self.tables.add(table)


def new_faust_app(settings: Settings, logging_config: dict[str, Any] | None) -> EngineApp:
    """A Faust app configured from ``settings``; binds and starts nothing."""
    servers = [f"kafka://{server.strip()}" for server in settings.kafka_bootstrap.split(",")]
    return EngineApp(
        settings.app_id,
        broker=servers,
        broker_credentials=faust_credentials(settings),
        broker_client_id=f"{settings.app_id}-worker",
        broker_session_timeout=settings.kafka_session_timeout_ms / 1000,
        broker_heartbeat_interval=settings.kafka_heartbeat_interval_ms / 1000,
        # Faust refuses a request timeout below the session timeout.
        broker_request_timeout=max(settings.kafka_request_timeout_ms, settings.kafka_session_timeout_ms) / 1000,
        broker_commit_interval=settings.commit_interval_ms / 1000,
        consumer_auto_offset_reset="earliest",
        consumer_max_fetch_size=settings.fetch_max_partition_bytes,
        consumer_group_instance_id=settings.group_instance_id or None,
        producer_max_batch_size=settings.produce_max_batch_bytes,
        producer_max_request_size=settings.produce_max_batch_bytes + 65_536,
        producer_request_timeout=settings.kafka_request_timeout_ms / 1000,
        stream_wait_empty=True,
        table_standby_replicas=settings.standby_replicas,
        topic_partitions=settings.partitions,
        topic_allow_declare=False,
        topic_disable_leader=True,
        web_enabled=False,
        worker_redirect_stdouts=False,
        logging_config=logging_config,
        store="rocksdb://",  # for the banner: EngineTable brings its own
        datadir=settings.data_dir,
        Agent=BatchAgent,
        Topic=LaneTopic,
        TableManager=EngineTables,
        PartitionAssignor=assignor_of(settings),
    )


def assert_complete(app: EngineApp, declared: Iterable[AgentDeclaration], files: frozenset[str]) -> None:
    """Refuse to run a worker that lacks a compiled extension or an agent.

    Without Faust's Cython stream the Python fallback acknowledges events it skipped after a rebalance.
    """
    if getattr(faust.streams, "_CStreamIterator", None) is None:
        raise MissingExtension("faust's Cython extension is not loaded: install the wheels of the lock file (make setup)")
    if default_records.DefaultRecordBatchBuilder is default_records._DefaultRecordBatchBuilderPy:
        raise MissingExtension("aiokafka's C extension is not loaded: install the wheels of the lock file (make setup)")
    missing = files - set(app.agents)
    if missing:
        raise DeclarationError(f"agents/{min(missing)}.py declares no agent of its own name")
    for agent in declared:
        if AGENTS.get(agent.name) != agent.source:
            raise DeclarationError(f"agents/{agent.name}.py reads {agent.source}: say so in AGENTS of app/topics.py")
