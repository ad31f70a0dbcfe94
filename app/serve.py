"""``veltrix serve``: hot lookups over HTTP, from Redis, in a process of their own (docs/adr/0011-where-lookups-are-served.md).

Holds no state and no partition: run as many as the callers need, start and stop them at any time.
"""

from __future__ import annotations

import asyncio
import signal
import sys

import structlog
import uvloop
from prometheus_client import CollectorRegistry

from app.declared import lookup_views, wanted
from app.engine.guard import refuse
from app.lookups.reader import NoTables, RedisLookupReader
from app.settings import Settings, SettingsError, load_settings
from app.sidecar.server import SidecarBindError, SidecarServer
from app.sidecar.serving import create_lookup_server
from app.telemetry.engine import BuildInfo
from app.telemetry.exposition import Catalogue
from app.telemetry.logs import configure_logging
from app.telemetry.lookups import LookupReads

log = structlog.get_logger(__name__)


async def serve(settings: Settings) -> None:
    """Answer until SIGTERM or SIGINT, then finish the requests under way."""
    registry = CollectorRegistry()
    catalogue = Catalogue(registry)
    BuildInfo(catalogue, settings.app_id, settings.app_version)
    reader = RedisLookupReader(settings, NoTables(), lookup_views(wanted(settings)), observe=LookupReads(catalogue).observe)
    app = create_lookup_server(settings, reader, registry)
    server = SidecarServer(app, settings.sidecar_host, settings.serve_port, "VELTRIX_SERVE_PORT")
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, server.stop)
    try:
        await server.bind()
        log.info("lookups_served", url=server.url)
        await server.serve()
    finally:
        await reader.aclose()


def main() -> None:
    """Run one process, or end with what to mend."""
    try:
        settings = load_settings()
    except SettingsError as exc:
        sys.exit(f"{exc}")
    configure_logging(settings)
    if not settings.redis_url:
        refuse("lookups are served from Redis and VELTRIX_REDIS_URL is empty: set it, or ask the sidecars of the workers")
    try:
        uvloop.run(serve(settings))
    except SidecarBindError as exc:
        refuse(str(exc))


if __name__ == "__main__":
    main()
