"""Plain questions for one user are answered ahead of the application, as the application would."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import httpx
import pytest
from starlette.responses import PlainTextResponse
from starlette.types import Receive, Scope, Send

from app.lookups.api import Found, InvalidLookupKey, LookupUnavailable, UnknownLookup
from app.settings import LOOPBACK
from app.sidecar.hot_lookups import HotLookups
from tests.sidecar.conftest import FakeLookups, Sidecar, client_of
from tests.sidecar.test_lookups import ANSWER

PATH = "/api/v1/lookups/users/"


class Behind:
    """The application behind: notes that it was asked."""

    def __init__(self) -> None:
        self.asked = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.asked += 1
        await PlainTextResponse("behind")(scope, receive, send)


def without_clock(answer: httpx.Response) -> tuple[int, dict[str, str], object]:
    """All of an answer but how old it was at that moment."""
    body = answer.json()
    body["freshness"].pop("staleness_ms")
    return answer.status_code, {**answer.headers, "content-length": ""}, body


@pytest.mark.parametrize("path", ["42", "u:42", "a:x", "%C3%A4%20%F0%9F%90%8D", "a/b"])
async def test_an_answer_is_the_one_that_the_application_gives(sidecar: Sidecar, path: str) -> None:
    for key in ("u:42", "a:x", "u:ä 🐍", "u:a/b"):
        sidecar.lookups.answers["users", key] = replace(ANSWER, key=key)
    sidecar.lookups.answers["sessions", "u:42"] = replace(ANSWER, resource="sessions", value={"events": 3})
    behind = Behind()

    async with client_of(HotLookups(behind, sidecar.lookups, frozenset(LOOPBACK))) as client:
        hot = await client.get(PATH + path)

    assert behind.asked == 0
    assert without_clock(hot) == without_clock(await sidecar.get(PATH + path))


@pytest.mark.parametrize(
    ("path", "headers"),
    [
        (PATH, {}),
        (PATH + "x" * 1025, {}),
        (PATH + "42?min_offset=1:2", {}),
        (PATH + "42", {"if-none-match": '"x"'}),
        (PATH + "42", {"host": "evil.example"}),
        ("/api/v1/lookups/items/42", {}),
        ("/livez", {}),
    ],
)
async def test_whatever_is_no_plain_question_is_left_to_the_application(path: str, headers: dict[str, str]) -> None:
    behind, lookups = Behind(), FakeLookups({("users", "u:42"): ANSWER})

    async with client_of(HotLookups(behind, lookups, frozenset(LOOPBACK))) as client:
        assert (await client.get(path, headers=headers)).text == "behind"

    assert (behind.asked, lookups.asked) == (1, [])


async def test_that_nobody_knows_a_user_is_said_as_the_application_says_it(sidecar: Sidecar) -> None:
    behind = Behind()

    async with client_of(HotLookups(behind, sidecar.lookups, None)) as client:
        hot = await client.get(PATH + "43")
    cold = await sidecar.get(PATH + "43")

    assert behind.asked == 0
    assert (hot.status_code, dict(hot.headers), hot.json()) == (cold.status_code, dict(cold.headers), cold.json())


@pytest.mark.parametrize("failure", [LookupUnavailable("redis_down", 3), InvalidLookupKey("u:"), UnknownLookup("users", [])])
async def test_what_cannot_be_answered_is_left_to_the_application(failure: Exception) -> None:
    behind, lookups = Behind(), FakeLookups(failure=failure)

    async with client_of(HotLookups(behind, lookups, None)) as client:
        assert (await client.get(PATH + "42")).text == "behind"

    assert behind.asked == 1


async def test_more_requests_than_the_limit_are_left_to_the_application_and_ended_ones_do_not_count() -> None:
    behind, release = Behind(), asyncio.Event()

    class Slow(FakeLookups):
        async def read_many(self, questions: object) -> list[Found]:
            await release.wait()
            return [ANSWER, None]

    async with client_of(HotLookups(behind, Slow(), None, requests=2)) as client:
        held = [asyncio.create_task(client.get(PATH + "42")) for _ in range(2)]
        await asyncio.sleep(0.01)
        assert (await client.get(PATH + "42")).text == "behind"
        release.set()
        assert [answer.status_code for answer in await asyncio.gather(*held)] == [200, 200]
        assert (await client.get(PATH + "42")).json()["key"] == "u:42"
