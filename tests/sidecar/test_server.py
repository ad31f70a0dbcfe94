"""The sidecar really listens inside a loop that is not its own, and leaves that loop as it was."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import socket
from collections.abc import AsyncIterator

import httpx
import mode
import pytest
from starlette.types import Receive, Scope, Send

from app.sidecar.server import SidecarBindError, SidecarServer
from app.sidecar.service import SidecarService
from tests.sidecar.conftest import Sidecar, assert_problem

pytestmark = pytest.mark.process


async def hello(scope: Scope, receive: Receive, send: Send) -> None:
    """Answers everything, `/slow` after a moment."""
    if scope["path"] == "/slow":
        await asyncio.sleep(0.3)
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/plain")]})
    await send({"type": "http.response.body", "body": b"hello"})


@contextlib.asynccontextmanager
async def started(service: SidecarService) -> AsyncIterator[httpx.AsyncClient]:
    """``service`` while it runs, and a client of it."""
    await service.start()
    try:
        async with httpx.AsyncClient(base_url=service.url) as client:
            yield client
    finally:
        await service.stop()


def is_free(port: int) -> bool:
    with contextlib.closing(socket.socket()) as probe:
        return probe.connect_ex(("127.0.0.1", port)) != 0


async def test_port_0_takes_a_free_port_and_tells_it() -> None:
    service = SidecarService(hello, "127.0.0.1", 0)
    assert service.port == 0

    async with started(service) as client:
        answer = await client.get("/")

        assert service.port > 0
        assert service.url == f"http://127.0.0.1:{service.port}"
        assert answer.text == "hello"
        assert "server" not in answer.headers


async def test_it_answers_as_soon_as_it_has_started(sidecar: Sidecar) -> None:
    async with started(SidecarService(sidecar.app, "127.0.0.1", 0)) as client:
        assert (await client.get("/livez")).json()["status"] == "alive"
        assert (await client.get("/metrics")).status_code == 200


async def test_an_unexpected_failure_is_logged_once_with_its_trace(sidecar: Sidecar, caplog: pytest.LogCaptureFixture) -> None:
    sidecar.dead_letters.failure = RuntimeError("reader broke")

    async with started(SidecarService(sidecar.app, "127.0.0.1", 0)) as client:
        answer = await client.get("/api/v1/dlq/queues")

    assert_problem(answer, 500, "internal-error")
    traces = [record.exc_info for record in caplog.records if record.exc_info]
    assert [str(trace[1]) for trace in traces] == ["reader broke"]


async def test_stopping_frees_the_port() -> None:
    service = SidecarService(hello, "127.0.0.1", 0)
    async with started(service):
        port = service.port
        assert not is_free(port)

    assert is_free(port)


async def test_a_request_under_way_is_answered_before_the_stop() -> None:
    service = SidecarService(hello, "127.0.0.1", 0)
    async with started(service) as client:
        slow = asyncio.create_task(client.get("/slow"))
        await asyncio.sleep(0.1)
        await service.stop()

        assert (await slow).text == "hello"


async def test_an_idle_connection_does_not_hold_the_stop_up() -> None:
    service = SidecarService(hello, "127.0.0.1", 0)
    async with started(service) as client:
        await client.get("/")  # kept alive by the client

        await asyncio.wait_for(service.stop(), timeout=2)


async def test_a_port_in_use_is_a_clear_refusal() -> None:
    with contextlib.closing(socket.create_server(("127.0.0.1", 0))) as taken:
        port = taken.getsockname()[1]
        service = SidecarService(hello, "127.0.0.1", port)

        with pytest.raises(SidecarBindError, match=f"^port {port} is in use: set VELTRIX_SIDECAR_PORT$"):
            await service.start()
        await service.stop()


async def test_a_host_that_is_not_ours_is_a_clear_refusal() -> None:
    server = SidecarServer(hello, "192.0.2.1", 0)

    with pytest.raises(SidecarBindError, match="set VELTRIX_SIDECAR_HOST"):
        await server.bind()


async def test_a_host_that_does_not_exist_is_a_clear_refusal() -> None:
    server = SidecarServer(hello, "no such host", 0)

    with pytest.raises(SidecarBindError, match="cannot listen on no such host"):
        await server.bind()


async def test_it_answers_before_its_siblings_start_and_after_they_stop() -> None:
    """The worker's order: the first dependency starts first and stops last."""
    sidecar, seen = SidecarService(hello, "127.0.0.1", 0), []

    class Stream(mode.Service):
        async def on_start(self) -> None:
            await self.ask("starting")

        async def on_stop(self) -> None:
            await self.ask("stopping")

        async def ask(self, when: str) -> None:
            async with httpx.AsyncClient() as client:
                seen.append((when, (await client.get(sidecar.url)).status_code))

    class Worker(mode.Service):
        def on_init_dependencies(self) -> list[mode.ServiceT]:
            return [sidecar, Stream()]

    worker = Worker()
    await worker.start()
    await worker.stop()

    assert seen == [("starting", 200), ("stopping", 200)]
    assert is_free(sidecar.port)


async def test_signals_stay_with_the_worker() -> None:
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    async with started(SidecarService(hello, "127.0.0.1", 0)):
        during = {number: signal.getsignal(number) for number in before}

    assert during == before
    assert {number: signal.getsignal(number) for number in before} == before


async def test_a_server_that_dies_crashes_the_service() -> None:
    class Dies(SidecarServer):
        async def serve(self) -> None:
            raise RuntimeError("socket gone")

    service = SidecarService(hello, "127.0.0.1", 0)
    service._http = Dies(hello, "127.0.0.1", 0)

    await service.start()
    await asyncio.sleep(0)

    assert service.crashed
    assert str(service.crash_reason) == "socket gone"
    await service.stop()


async def test_serving_without_a_port_is_a_mistake() -> None:
    server = SidecarServer(hello, "127.0.0.1", 0)

    with pytest.raises(RuntimeError, match="bind"):
        await server.serve()
    with pytest.raises(RuntimeError, match="bind"):
        await server.accepting()


def test_an_ipv6_url_has_brackets() -> None:
    assert SidecarServer(hello, "::1", 8080).url == "http://[::1]:8080"
