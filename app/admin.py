"""``veltrix admin``: dead letters with an index, and what can be done about them (docs/adr/0013-dead-letter-index.md).

One process beside the workers, with a directory of its own that can be lost at any time: the index is built from Kafka.
"""

from __future__ import annotations

import asyncio
import signal
import sys
from collections.abc import Coroutine
from contextlib import AsyncExitStack

import structlog
import uvloop
from aiokafka import AIOKafkaProducer
from prometheus_client import CollectorRegistry

from app.dead_letters.audit import AuditReader
from app.dead_letters.deeds import DeedWriter
from app.dead_letters.desk import Desk, DeskTopics
from app.dead_letters.index.follower import IndexFollower
from app.dead_letters.index.service import DeadLetterIndex
from app.dead_letters.index.writing import IndexWriter
from app.dead_letters.job_board import JobBoard
from app.dead_letters.reader import DeadLetterReader
from app.dead_letters.replay import Ours
from app.dead_letters.replayer import Tools
from app.dead_letters.roles import BadTokensFile
from app.dead_letters.source_watch import SourceWatch
from app.declared import wanted
from app.engine.guard import DataDirLocked, lock_data_dir, refuse
from app.enrichment.api import ReferenceConfigError, ReferenceSchemaError
from app.enrichment.join import Joiner, joiner_of
from app.kafka_clients import KafkaConnectError, client_options
from app.settings import Settings, SettingsError, load_settings
from app.sidecar.administration import AdminDeps, create_admin
from app.sidecar.log_ins import admin_access
from app.sidecar.server import SidecarBindError, SidecarServer
from app.telemetry.dead_letters import IndexMetrics, QueueNumbers
from app.telemetry.engine import BuildInfo
from app.telemetry.exposition import Catalogue
from app.telemetry.logs import configure_logging
from app.topic_admin import TopicAdminError, open_admin
from app.topics import (
    DEAD_LETTER_MAX_BYTES,
    INTERACTIONS,
    audit_of_dead_letters,
    dead_letters_of,
    retry_tiers,
    state_of_dead_letters,
)
from app.trial import validator

log = structlog.get_logger(__name__)


async def administer(settings: Settings) -> None:
    """Answer until SIGTERM or SIGINT, then finish the requests under way."""
    registry = CollectorRegistry()
    catalogue = Catalogue(registry)
    BuildInfo(catalogue, settings.app_id, settings.app_version)
    path = settings.admin_dir / "dead-letters.sqlite"
    own = frozenset(dead_letters_of(settings.app_id, agent.source) for agent in wanted(settings))
    queues = (*sorted(own), *await _others(settings))
    ours = Ours(own, {INTERACTIONS: settings.partitions}, releases_of(settings))
    topics = DeskTopics(state_of_dead_letters(settings.app_id), audit_of_dead_letters(settings.app_id), ours)
    async with AsyncExitStack() as stack:
        follower = IndexFollower(settings, queues, topics.state, IndexWriter(path))
        metrics = IndexMetrics(catalogue, follower, settings.dlq_retention_ms)
        reader, source = DeadLetterReader(settings, queues), SourceWatch(settings, ours.sources)
        index, deeds = DeadLetterIndex(path, reader, queues), DeedWriter(lambda: _producer(settings))
        board = JobBoard(Tools(index, follower, deeds, source, topics), settings.dlq_replay_max_per_s)
        audit = AuditReader(settings, topics.audit)
        for close in (index.aclose, reader.aclose, audit.aclose, source.aclose, deeds.aclose, board.aclose):
            stack.push_async_callback(close)
        desk, validate = Desk(index, follower, deeds, topics), validator(settings, ours, await reference_of(settings, stack))

        async def numbers() -> dict[str, QueueNumbers]:
            return {queue: QueueNumbers(*await index.pending(queue)) for queue in queues}

        deps = AdminDeps(settings, index, audit, follower, desk, board, validate, admin_access(settings), registry)
        await _serve(settings, deps, metrics.watch(numbers))


def releases_of(settings: Settings) -> dict[str, str]:
    """Where lanes are told what was discarded, by source: the tier that is looked at soonest."""
    tiers = retry_tiers(settings, INTERACTIONS)
    return {INTERACTIONS: tiers[0].topic} if settings.key_order and tiers else {}


async def _others(settings: Settings) -> list[str]:
    """Those of the other teams' topics that exist."""
    asked = [name.strip() for name in settings.dlq_extra_topics.split(",") if name.strip()]
    if not asked:
        return []
    async with open_admin(settings) as admin:
        present = await admin.names()
    if missing := sorted(set(asked) - set(present)):
        log.warning("extra_dead_letter_topics_missing", topics=missing, hint="restart `veltrix admin` when they exist")
    return [name for name in dict.fromkeys(asked) if name in present]


def _producer(settings: Settings) -> AIOKafkaProducer:
    """One transactional id for all of them: whoever starts last is the one who writes."""
    return AIOKafkaProducer(
        **client_options(settings, client_id=f"{settings.app_id}-admin"),
        transactional_id=f"{settings.app_id}-dead-letters",
        transaction_timeout_ms=settings.transaction_timeout_ms,
        max_request_size=DEAD_LETTER_MAX_BYTES,
    )


async def _serve(settings: Settings, deps: AdminDeps, watch: Coroutine[None, None, None]) -> None:
    server = SidecarServer(create_admin(deps), settings.sidecar_host, settings.admin_port, "VELTRIX_ADMIN_PORT")

    def stop(*_: object) -> None:
        deps.stopping.set()
        server.stop()

    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop)
    await server.bind()
    log.info("dead_letters_served", url=server.url)
    background = [asyncio.create_task(work) for work in (deps.follower.run(), _take_up(deps), watch)]
    background[0].add_done_callback(stop)  # it never ends by itself: what ended it is raised below
    try:
        await server.serve()
    finally:
        await deps.board.aclose()
        for task in background:
            task.cancel()
        await asyncio.wait(background)
    for task in background:
        if not task.cancelled():
            task.result()


async def _take_up(deps: AdminDeps) -> None:
    """Jobs that were RUNNING, once the index has all that was written before this process."""
    while not deps.follower.is_built:  # noqa: ASYNC110 - there is no event for it, and it happens once
        await asyncio.sleep(0.2)
    await deps.board.resume_all()


async def reference_of(settings: Settings, stack: AsyncExitStack) -> Joiner | None:
    """Reference data as workers join it, without their Redis: trying an event must not fill what they share."""
    joiner = joiner_of(settings)
    if joiner is not None:
        from app.enrichment.opening import open_reference  # SQLAlchemy, for those who enrich

        joiner.cache = await open_reference(settings, None)
        stack.push_async_callback(joiner.cache.aclose)
    return joiner


def main() -> None:
    """Run it, or end with what to mend."""
    try:
        settings = load_settings()
    except SettingsError as exc:
        sys.exit(f"{exc}")
    configure_logging(settings)
    try:
        admin_access(settings)
        with lock_data_dir(settings.admin_dir):
            uvloop.run(administer(settings))
    except DataDirLocked as exc:
        refuse(f"{exc.path} belongs to another running `veltrix admin`: stop it or set another VELTRIX_ADMIN_DIR")
    except (BadTokensFile, ReferenceConfigError, ReferenceSchemaError, KafkaConnectError, SidecarBindError, TopicAdminError) as exc:
        refuse(str(exc))


if __name__ == "__main__":
    main()
