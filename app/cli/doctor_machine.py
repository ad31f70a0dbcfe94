"""Checks of ``veltrix doctor`` on this machine: disk, limits, lock, sidecar port, Redis."""

from __future__ import annotations

import asyncio
import fcntl
import os
import resource
import shutil
import socket
import tempfile
import time
from pathlib import Path
from typing import Final

from app.cli.checkup import Check, fail, ok, warn
from app.cli.redis_tools import RedisUnavailable, open_redis
from app.settings import Settings

GIB: Final = 1024**3
FREE_FAIL: Final = 1 * GIB
FREE_WARN: Final = 5 * GIB
#: Sockets, logs and libraries beside RocksDB.
OTHER_FILES: Final = 256
#: A difference that a network cannot explain; limits on event time are minutes.
SKEW_WARN_MS: Final = 500.0
PROBE_TIMEOUT_S: Final = 2.0


def check_machine(settings: Settings) -> list[Check]:
    """Data directory, disk, open files."""
    return [check_data_dir(settings.data_dir), check_free_disk(settings.data_dir), check_open_files(settings)]


def check_data_dir(path: Path) -> Check:
    """Can a worker write here? Makes and removes one file."""
    home = existing_parent(path)
    try:
        with tempfile.NamedTemporaryFile(dir=home, prefix=".veltrix-doctor-"):
            pass
    except OSError as exc:
        return fail(
            "data directory",
            f"{home} is not writable: {exc.strerror}",
            "give the worker's user that directory, or set VELTRIX_DATA_DIR",
        )
    made = "" if home == path else " (a worker will make it)"
    return ok("data directory", f"{path} is writable{made}")


def check_free_disk(path: Path) -> Check:
    free = shutil.disk_usage(existing_parent(path)).free
    detail = f"{free / GIB:.1f} GiB free for {path}"
    if free < FREE_WARN:
        return (fail if free < FREE_FAIL else warn)(
            "disk", detail, "free some space or set VELTRIX_DATA_DIR; compaction needs room for a second copy"
        )
    return ok("disk", detail)


def check_open_files(settings: Settings) -> Check:
    """RocksDB may hold ``rocksdb_max_open_files`` per partition, when this worker has all partitions."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    need = settings.partitions * settings.rocksdb_max_open_files + OTHER_FILES
    if soft == resource.RLIM_INFINITY or soft >= need:
        return ok("open files", f"limit {soft}, at most {need} needed")
    advice = f"`ulimit -n {need}` before the start (hard limit {hard}), or lower VELTRIX_ROCKSDB_MAX_OPEN_FILES"
    return warn("open files", f"limit {soft}, up to {need} needed if this worker gets all {settings.partitions} partitions", advice)


def lock_owner(path: Path) -> str | None:
    """Pid of the worker that holds the data directory; None when nobody does."""
    try:
        with (path / "LOCK").open(encoding="ascii") as handle:
            try:
                # Shared, and given back at once: the shortest disturbance of a worker that starts just now.
                fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                return handle.read().strip() or "unknown"
            fcntl.flock(handle, fcntl.LOCK_UN)
    except FileNotFoundError:
        return None
    return None


async def check_lock(settings: Settings) -> Check:
    """Nobody holds the data directory, or the worker of these very settings does."""
    path = settings.data_dir
    try:
        owner = lock_owner(path)
    except OSError as exc:
        return fail("lock", f"{path / 'LOCK'} cannot be opened: {exc.strerror}", "run as the worker's user")
    if owner is None:
        return ok("lock", "no worker runs on this data directory")
    if await livez(settings.sidecar_host, settings.sidecar_port) is not None:
        return ok("lock", f"the worker with pid {owner} runs on this data directory; a second one needs another VELTRIX_DATA_DIR")
    advice = "a second worker here refuses to start: stop the first, or set another VELTRIX_DATA_DIR"
    return warn(
        "lock", f"the worker with pid {owner} runs on this data directory, but does not answer on this sidecar port", advice
    )


async def check_sidecar(settings: Settings) -> Check:
    """The port is free, or a Veltrix sidecar answers on it."""
    host, port = settings.sidecar_host, settings.sidecar_port
    if port == 0:
        return ok("sidecar", "takes any free port")
    if _can_bind(host, port):
        return ok("sidecar", f"{host}:{port} is free")
    answer = await livez(host, port)
    if answer in (200, 503):
        return ok("sidecar", f"a worker answers on {host}:{port} (/livez says {answer})")
    return fail("sidecar", f"{host}:{port} is taken by another program", "stop that program, or set VELTRIX_SIDECAR_PORT")


async def livez(host: str, port: int) -> int | None:
    """HTTP status of ``GET /livez``; None when no HTTP server answers in time."""
    try:
        async with asyncio.timeout(PROBE_TIMEOUT_S):
            reader, writer = await asyncio.open_connection(host, port)
            try:
                writer.write(f"GET /livez HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n".encode())
                status = await reader.readline()
            finally:
                writer.close()
    except (OSError, TimeoutError):
        return None
    version, _, rest = status.partition(b" ")
    return int(rest[:3]) if version.startswith(b"HTTP/") and rest[:3].isdigit() else None


async def check_redis(settings: Settings) -> list[Check]:
    """Reachable, how it evicts, and its clock."""
    if not settings.redis_url:
        return [ok("redis", "not used: lookups come from the tables of the worker that has the key")]
    try:
        async with open_redis(settings) as client:
            before = time.time()
            seconds, micros = await client.time()
            after = time.time()
            memory = await client.info("memory")
    except RedisUnavailable as exc:
        advice = "processing goes on without Redis; lookups come from the worker's tables, or are 503 for keys of other workers"
        return [warn("redis", str(exc), advice)]
    skew_ms = (int(seconds) + int(micros) / 1e6 - (before + after) / 2) * 1000
    return [redis_memory(memory["maxmemory"], memory["maxmemory_policy"]), clock(skew_ms, (after - before) * 500)]


def redis_memory(maxmemory: int, policy: str) -> Check:
    """Hot lookups are rebuilt when Redis loses all of them, but one evicted key looks like a user nobody knows."""
    limit = f"maxmemory {maxmemory / 1024**2:.0f} MiB" if maxmemory else "no maxmemory"
    detail = f"reachable; {limit}, policy {policy}"
    if policy != "noeviction":
        return warn(
            "redis", detail, "`maxmemory-policy noeviction`: an evicted lookup looks like an unknown user until it is written again"
        )
    if not maxmemory:
        return warn("redis", detail, "set maxmemory below the machine's memory: without it Redis grows until the system ends it")
    return ok("redis", detail)


def clock(skew_ms: float, error_ms: float) -> Check:
    """``skew_ms``: Redis' clock minus ours; ``error_ms``: half the round trip, which is as exact as this can be."""
    detail = f"Redis' machine is {round(skew_ms):+d} ms off this one (+-{error_ms:.1f} ms)"
    if abs(skew_ms) - error_ms > SKEW_WARN_MS:
        return warn("clock", detail, "synchronise both machines (NTP)")
    return ok("clock", detail)


def existing_parent(path: Path) -> Path:
    """The path itself, or the nearest directory above it that exists."""
    return next(folder for folder in (path, *path.absolute().parents) if folder.is_dir())


def _can_bind(host: str, port: int) -> bool:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        if os.name == "posix":
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # closed connections in TIME_WAIT do not count
        try:
            probe.bind((host, port))
        except OSError:
            return False
    return True
