"""What lookups cost a worker that is busy, and its stream: ``python -m bench.lookups``.

One worker with everything on, events at 1,000/s; then, at the same time, requests for users at 1,000/s, of `veltrix serve` and of
the worker itself: open loop, send times fixed in advance, latency from the intended send time, on connections that stay open.
CPU is read from /proc; the stream's latency is the worker's own histogram (record's timestamp to output acknowledged).
"""

from __future__ import annotations

import asyncio
import json
import random
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final, cast

import uvloop

from app.topics import all_topics
from bench.histogram import histogram_of, summarise
from bench.procfs import cpu_seconds
from bench.services import ROOT, Serve, Services, Setup, Worker, local_services
from deploy.local.demo_metrics import Buckets, quantile_ms, read_metrics, since
from deploy.local.ports import LOOPBACK
from deploy.local.process import Command, ManagedProcess
from deploy.local.worker_process import clean_environment, http_get

RATE, SECONDS, WARM_S, EVENTS, USERS = 1_000, 30, 20, 1_000, 20_000
CONNECTIONS: Final = 64
APP = "bench-lookups"


@contextmanager
def stream(services: Services, setup: Setup) -> Iterator[Worker]:
    """A worker that is ready, under traffic."""
    worker = Worker(services, setup)
    services.kafka.recreate(all_topics(setup.settings(services)))
    environment = {f"VELTRIX_{name.upper()}": value for name, value in setup.variables(services).items()}
    argv = [sys.executable, "-m", "app.cli.main", "generate", "--rate", str(EVENTS), "--duration", "600", "--users", str(USERS)]
    sender = ManagedProcess(
        Command("generate", argv, services.folder / "generate.log", cwd=ROOT, env=clean_environment() | environment)
    )
    with worker:
        worker.wait_ready()
        sender.start()
        try:
            yield worker
        finally:
            sender.kill()


class Connection(asyncio.Protocol):
    """One connection that stays open, one request at a time. Cheap: the client shares the machine with what it measures."""

    def __init__(self) -> None:
        self._received = b""
        self._answer: asyncio.Future[int] | None = None
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        self._received += data
        head, end, body = self._received.partition(b"\r\n\r\n")
        if not end:
            return
        _, found, rest = head.lower().partition(b"content-length:")
        if self._answer is not None and len(body) >= int(rest.split(b"\r\n", 1)[0] if found else 0):
            self._received = b""
            self._answer.set_result(int(head[9:12]))

    def connection_lost(self, exc: Exception | None) -> None:
        if self._answer is not None and not self._answer.done():
            self._answer.set_exception(exc or ConnectionResetError("closed by the server"))

    async def get(self, path: str) -> int:
        """Status; the body is dropped."""
        if self._transport is None:
            raise ConnectionError("not connected")
        self._answer = asyncio.get_running_loop().create_future()
        self._transport.write(f"GET {path} HTTP/1.1\r\nHost: {LOOPBACK}\r\n\r\n".encode())
        return await self._answer


async def ask(port: int) -> tuple[list[int], dict[int, int]]:
    """Latencies in us of all requests, by intended send time; answers by status."""
    chance, latencies, statuses = random.Random(1), list[int](), Counter[int]()  # noqa: S311 - traffic, no secret
    loop, free = asyncio.get_running_loop(), asyncio.Queue[Connection]()
    for _ in range(CONNECTIONS):
        free.put_nowait((await loop.create_connection(Connection, LOOPBACK, port))[1])

    async def one(intended: float) -> None:
        connection = await free.get()
        statuses[await connection.get(f"/api/v1/lookups/users/user-{int(USERS * chance.random() ** 3):06d}")] += 1
        latencies.append(int((time.monotonic() - intended) * 1e6))
        free.put_nowait(connection)

    start = time.monotonic()
    async with asyncio.TaskGroup() as requests:
        for number in range(RATE * SECONDS):
            intended = start + number / RATE
            if (ahead := intended - time.monotonic()) > 0:
                await asyncio.sleep(ahead)
            requests.create_task(one(min(intended, time.monotonic())))  # a timer may be up to a millisecond early
    return latencies, dict(statuses)


def phase(worker: Worker, asked: Worker | Serve | None) -> dict[str, object]:
    """One stretch of the run; ``asked``: who gets the requests, if there are any."""
    subject = asked or worker
    before, latency, asked_before = cpu_seconds(worker.pid), _latency(worker.port), cpu_seconds(subject.pid)
    found: dict[str, object] = {"asked": asked.name if asked else "", "requests_per_second": RATE if asked else 0}
    if asked:
        latencies, statuses = uvloop.run(ask(asked.port))
        total = summarise(histogram_of(latencies))
        found |= {"request_p50_ms": total.p50_ms, "request_p99_ms": total.p99_ms, "answers": statuses}
    else:
        time.sleep(SECONDS)
    recent = since(_latency(worker.port), latency)
    return found | {
        "asked_cores": round((cpu_seconds(subject.pid) - asked_before) / SECONDS, 3) if asked else 0.0,
        "worker_cores": round((cpu_seconds(worker.pid) - before) / SECONDS, 3),
        "stream_p50_ms": quantile_ms(recent, 0.5),
        "stream_p99_ms": quantile_ms(recent, 0.99),
    }


def _latency(port: int) -> Buckets:
    return read_metrics(http_get(port, "/metrics")[1].decode()).latency


def main() -> None:
    """Nobody asked, ``veltrix serve`` asked, nobody, ... the worker asked, nobody; one JSON line each."""
    setup = Setup(APP, int(sys.argv[1]) if len(sys.argv) > 1 else 10, redis=True)
    with local_services() as services, stream(services, setup) as worker, Serve(services, setup) as serve:
        serve.wait_ready()
        time.sleep(WARM_S)
        for asked in (None, serve, None, serve, None, worker, None):
            print(json.dumps(phase(worker, asked)), flush=True)


if __name__ == "__main__":
    main()
