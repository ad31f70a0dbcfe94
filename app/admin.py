"""``veltrix admin``: dead letters with an index, and what can be done about them (docs/adr/0013-dead-letter-index.md).

One process beside the workers, with a directory of its own that can be lost at any time: the index is built from Kafka.
"""

from __future__ import annotations

import asyncio
import signal
import sys
from collections.abc import Mapping
from contextlib import AsyncExitStack

import structlog
import uvloop
from aiokafka import AIOKafkaProducer
from prometheus_client import CollectorRegistry

from agents.process_interactions import Rules
from app.dead_letters.api import DeadLetterRecord
from app.dead_letters.desk import Desk
from app.dead_letters.index.follower import IndexFollower
from app.dead_letters.index.service import DeadLetterIndex
from app.dead_letters.index.writing import IndexWriter
from app.dead_letters.reader import DeadLetterReader
from app.dead_letters.replay import replay_of
from app.declared import wanted
from app.domain.errors import Rejection
from app.domain.validation import classify
from app.engine.guard import DataDirLocked, lock_data_dir, refuse
from app.kafka_clients import KafkaConnectError, client_options, connected
from app.settings import Settings, SettingsError, load_settings
from app.sidecar.administration import AdminDeps, create_admin
from app.sidecar.dead_letter_deeds import Validate, Verdict
from app.sidecar.server import SidecarBindError, SidecarServer
from app.telemetry.catalogue import Catalogue
from app.telemetry.dead_letters import IndexMetrics
from app.telemetry.engine import BuildInfo
from app.telemetry.logs import configure_logging
from app.topics import (
    DEAD_LETTER_MAX_BYTES,
    INTERACTIONS,
    audit_of_dead_letters,
    dead_letters_of,
    state_of_dead_letters,
)

log = structlog.get_logger(__name__)


async def administer(settings: Settings) -> None:
    """Answer until SIGTERM or SIGINT, then finish the requests under way."""
    registry = CollectorRegistry()
    catalogue = Catalogue(registry)
    BuildInfo(catalogue, settings.app_id, settings.app_version)
    path = settings.admin_dir / "dead-letters.sqlite"
    queues = tuple(dict.fromkeys(dead_letters_of(settings.app_id, agent.source) for agent in wanted(settings)))
    state_topic = state_of_dead_letters(settings.app_id)
    async with AsyncExitStack() as stack:
        producer = AIOKafkaProducer(
            **client_options(settings, client_id=f"{settings.app_id}-admin"),
            acks="all",
            enable_idempotence=True,
            max_request_size=DEAD_LETTER_MAX_BYTES,
        )
        await stack.enter_async_context(connected(producer, settings))
        follower = IndexFollower(settings, queues, state_topic, IndexWriter(path))
        reader = DeadLetterReader(settings, queues)
        stack.push_async_callback(reader.aclose)
        index = DeadLetterIndex(path, reader, queues)
        stack.push_async_callback(index.aclose)
        IndexMetrics(catalogue, follower)
        sources = {INTERACTIONS: settings.partitions}
        desk = Desk(index, follower, producer, state_topic, audit_of_dead_letters(settings.app_id), sources)
        deps = AdminDeps(settings, index, follower, desk, validator(settings, sources), registry)
        await _serve(settings, deps)


async def _serve(settings: Settings, deps: AdminDeps) -> None:
    server = SidecarServer(create_admin(deps), settings.sidecar_host, settings.admin_port, "VELTRIX_ADMIN_PORT")
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, server.stop)
    await server.bind()
    log.info("dead_letters_served", url=server.url)
    following = asyncio.create_task(deps.follower.run())
    following.add_done_callback(lambda task: server.stop())  # it never ends by itself: what ended it is raised below
    try:
        await server.serve()
    finally:
        following.cancel()
        await asyncio.wait([following])
    if not following.cancelled():
        following.result()


def validator(settings: Settings, sources: Mapping[str, int]) -> Validate:
    """The deployed rules of decoding and validation, without any effect. Reference data is not asked for."""
    limits = Rules.from_settings(settings).limits

    async def validate(letter: DeadLetterRecord, value: bytes | None) -> Verdict:
        found = classify(replay_of(letter, sources, "validate", value=value, force=True), limits)
        if isinstance(found, Rejection):
            return Verdict(passes=False, stage=found.stage, reason=found.reason.value, message=found.message)
        return Verdict(passes=True)

    return validate


def main() -> None:
    """Run it, or end with what to mend."""
    try:
        settings = load_settings()
    except SettingsError as exc:
        sys.exit(f"{exc}")
    configure_logging(settings)
    try:
        with lock_data_dir(settings.admin_dir):
            uvloop.run(administer(settings))
    except DataDirLocked as exc:
        refuse(f"{exc.path} belongs to another running `veltrix admin`: stop it or set another VELTRIX_ADMIN_DIR")
    except (KafkaConnectError, SidecarBindError) as exc:
        refuse(str(exc))


if __name__ == "__main__":
    main()
