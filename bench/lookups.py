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
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from itertools import count
from typing import Final

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


class Client:
    """Connections that stay open; one request at a time on each, whoever is next takes the one that is free."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._free: asyncio.Queue[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = asyncio.Queue()
        self.statuses: dict[int, int] = {}

    @asynccontextmanager
    async def open(self) -> AsyncIterator[Client]:
        """Connect all."""
        pairs = [await asyncio.open_connection(LOOPBACK, self._port) for _ in range(CONNECTIONS)]
        for pair in pairs:
            self._free.put_nowait(pair)
        yield self
        for _, writer in pairs:
            writer.close()

    async def get(self, path: str) -> None:
        """One request; its body is read and dropped."""
        reader, writer = pair = await self._free.get()
        writer.write(f"GET {path} HTTP/1.1\r\nHost: {LOOPBACK}:{self._port}\r\n\r\n".encode())
        head = await reader.readuntil(b"\r\n\r\n")
        length = next((int(line.split(b":")[1]) for line in head.lower().split(b"\r\n") if line.startswith(b"content-length")), 0)
        await reader.readexactly(length)
        status = int(head.split(b" ", 2)[1])
        self.statuses[status] = self.statuses.get(status, 0) + 1
        self._free.put_nowait(pair)


async def ask(port: int) -> tuple[list[int], dict[int, int]]:
    """Latencies in us of all requests, by intended send time; answers by status."""
    chance, latencies, tasks = random.Random(1), list[int](), list[asyncio.Task[None]]()  # noqa: S311 - traffic, no secret

    async def one(client: Client, intended: float) -> None:
        await client.get(f"/api/v1/lookups/users/user-{int(USERS * chance.random() ** 3):06d}")
        latencies.append(int((time.monotonic() - intended) * 1e6))

    async with Client(port).open() as client:
        start = time.monotonic()
        for number in count():
            intended = start + number / RATE
            if intended - start >= SECONDS:
                break
            ahead = intended - time.monotonic()
            if ahead > 0:
                await asyncio.sleep(ahead)
            tasks.append(asyncio.create_task(one(client, intended)))
        await asyncio.gather(*tasks)
    return latencies, client.statuses


def phase(worker: Worker, asked: Worker | Serve | None) -> dict[str, object]:
    """One stretch of the run; ``asked``: who gets the requests, if there are any."""
    subject = asked or worker
    before, latency, asked_before = cpu_seconds(worker.pid), _latency(worker.port), cpu_seconds(subject.pid)
    found: dict[str, object] = {"asked": asked.name if asked else "", "requests_per_second": RATE if asked else 0}
    if asked:
        latencies, statuses = asyncio.run(ask(asked.port))
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
    """Nobody asked, ``veltrix serve`` asked, nobody, the worker asked, nobody; one JSON line each."""
    setup = Setup(APP, 10, redis=True)
    with local_services() as services, stream(services, setup) as worker, Serve(services, setup) as serve:
        serve.wait_ready()
        time.sleep(WARM_S)
        for asked in (None, serve, None, worker, None):
            print(json.dumps(phase(worker, asked)), flush=True)


if __name__ == "__main__":
    main()
