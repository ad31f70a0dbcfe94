"""Every failure is problem+json; every answer carries the security headers; every request is bounded."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable

import httpx
import pytest
from fastapi import FastAPI
from starlette.requests import Request

from app.sidecar import problems
from app.sidecar.middleware import HostCheck, Limits, SecurityHeaders
from app.sidecar.problems import SECURITY_HEADERS
from tests.sidecar.conftest import Sidecar, assert_problem, client_of


async def test_an_unknown_path_is_a_problem(sidecar: Sidecar) -> None:
    body = assert_problem(await sidecar.get("/nowhere"), 404, "not-found")

    assert body["detail"] == "Nothing is served at /nowhere."
    assert body["instance"] == "/nowhere"


async def test_a_wrong_method_is_a_problem_and_names_the_right_ones(sidecar: Sidecar) -> None:
    answer = await sidecar.client.delete("/api/v1/dlq/queues")

    assert_problem(answer, 405, "method-not-allowed")
    assert answer.headers["allow"] == "GET"


async def test_a_wrong_parameter_is_a_problem_that_names_it(sidecar: Sidecar) -> None:
    body = assert_problem(await sidecar.get("/api/v1/dlq/records?limit=0"), 422, "invalid-request")

    assert body["errors"] == [{"at": "query.limit", "message": "Input should be greater than or equal to 1"}]


async def test_an_unexpected_failure_is_a_problem_without_its_message(sidecar: Sidecar) -> None:
    sidecar.dead_letters.failure = RuntimeError("password is hunter2")
    client = client_of(sidecar.app, raise_app_exceptions=False)

    answer = await client.get("/api/v1/dlq/queues")

    assert_problem(answer, 500, "internal-error")
    assert "hunter2" not in answer.text
    assert SECURITY_HEADERS.items() <= answer.headers.items()


async def test_an_unexpected_failure_reaches_the_server_to_be_logged(sidecar: Sidecar) -> None:
    sidecar.dead_letters.failure = RuntimeError("oh no")

    with pytest.raises(RuntimeError, match="oh no"):
        await sidecar.get("/api/v1/dlq/queues")


@pytest.mark.parametrize("path", ["/", "/livez", "/metrics", "/nowhere", "/api/v1/ledger", "/openapi.json"])
async def test_every_answer_has_the_security_headers(sidecar: Sidecar, path: str) -> None:
    answer = await sidecar.get(path)

    assert SECURITY_HEADERS.items() <= answer.headers.items()


async def test_the_documentation_page_may_load_its_script(sidecar: Sidecar) -> None:
    answer = await sidecar.get("/docs")

    assert answer.status_code == 200
    assert "swagger-ui" in answer.text
    assert "script-src https://cdn.jsdelivr.net" in answer.headers["content-security-policy"]


async def test_the_index_leads_to_paths_that_exist(sidecar: Sidecar) -> None:
    links = (await sidecar.get("/")).json()["links"]
    paths = (await sidecar.get("/openapi.json")).json()["paths"]

    assert set(links.values()) - set(paths) == {"/docs", "/openapi.json", "/topology"}


@pytest.mark.parametrize("host", ["127.0.0.1:8080", "localhost", "LOCALHOST:1", "[::1]:8080"])
async def test_loopback_names_are_answered(sidecar: Sidecar, host: str) -> None:
    assert (await sidecar.get("/livez", headers={"host": host})).status_code == 200


@pytest.mark.parametrize("host", ["evil.example", "127.0.0.1.evil.example:8080", ""])
async def test_other_names_are_refused_on_loopback(sidecar: Sidecar, host: str) -> None:
    assert_problem(await sidecar.get("/api/v1/dlq/records", headers={"host": host}), 421, "misdirected-request")


async def test_any_name_is_answered_when_remote_use_is_allowed(new_sidecars: Callable[..., Sidecar]) -> None:
    in_a_pod = new_sidecars(sidecar_host="0.0.0.0", sidecar_allow_remote=True)

    assert (await in_a_pod.get("/livez", headers={"host": "veltrix-0.veltrix:8080"})).status_code == 200


@pytest.fixture
def limited() -> FastAPI:
    """An application with small limits and slow or hungry routes."""
    app = FastAPI()
    problems.install(app)

    @app.post("/echo")
    async def echo(request: Request) -> int:
        return len(await request.body())

    @app.get("/slow")
    async def slow() -> None:
        await asyncio.sleep(30)

    @app.get("/livez")
    async def livez() -> str:
        return "ok"

    app.add_middleware(Limits, requests=2, timeout_s=0.05, body_bytes=10)
    app.add_middleware(HostCheck, allowed=frozenset({"127.0.0.1"}))
    app.add_middleware(SecurityHeaders)
    return app


async def chunks(count: int) -> AsyncIterator[bytes]:
    for _ in range(count):
        yield b"12345"


async def test_a_body_within_the_limit_passes(limited: FastAPI) -> None:
    async with client_of(limited) as client:
        assert (await client.post("/echo", content=b"1234567890")).json() == 10
        assert (await client.post("/echo", content=chunks(2))).json() == 10


async def test_a_body_over_the_limit_is_refused_announced_or_not(limited: FastAPI) -> None:
    async with client_of(limited) as client:
        assert_problem(await client.post("/echo", content=b"12345678901"), 413, "body-too-large")
        assert_problem(await client.post("/echo", content=chunks(3)), 413, "body-too-large")


async def test_a_slow_request_is_ended(limited: FastAPI) -> None:
    async with client_of(limited) as client:
        body = assert_problem(await client.get("/slow"), 504, "timeout")

    assert body["detail"] == "No answer within 0.05 s."


async def test_too_many_requests_are_refused_but_probes_are_not(limited: FastAPI) -> None:
    async with client_of(limited) as client:
        slow = [asyncio.create_task(client.get("/slow")) for _ in range(2)]
        await asyncio.sleep(0.01)

        refused = await client.get("/slow")
        probe = await client.get("/livez")
        await asyncio.gather(*slow)
        later = await client.post("/echo", content=b"1")

    assert_problem(refused, 503, "too-many-requests-at-once")
    assert refused.headers["retry-after"] == "1"
    assert probe.status_code == 200
    assert later.status_code == 200


async def test_a_problem_is_one_shape(limited: FastAPI) -> None:
    async with client_of(limited) as client:
        answer: httpx.Response = await client.get("/none")

    assert set(answer.json()) == {"type", "title", "status", "detail", "instance"}
