"""Closing a breaker by hand: one lane of this worker, with a reason, and not from somebody else's web page."""

from __future__ import annotations

import pytest
import structlog

from app.engine.api import LaneId
from app.engine.status import BreakerStatus
from tests.sidecar.conftest import Sidecar, assert_problem
from tests.telemetry.fakes import AGENT

PATH = f"/api/v1/breaker/{AGENT}/1/close"
LANE = LaneId(AGENT, 1)
REASON = {"reason": "the producer was rolled back"}


async def test_an_operator_closes_an_open_breaker_and_the_log_says_why(sidecar: Sidecar) -> None:
    sidecar.breakers.known = {LANE: BreakerStatus("open", 1, 30.0)}

    with structlog.testing.capture_logs() as logs:
        answer = await sidecar.post(PATH, REASON)

    assert answer.status_code == 200
    assert answer.json() == {"agent": AGENT, "partition": 1, "was": "open", "state": "closed"}
    assert sidecar.breakers.closed == [LANE]
    assert [(line["event"], line["partition"], line["reason"]) for line in logs] == [
        ("breaker_closed_by_operator", 1, "the producer was rolled back")
    ]


@pytest.mark.parametrize("path", [f"/api/v1/breaker/{AGENT}/9/close", "/api/v1/breaker/nobody/1/close"])
async def test_a_lane_that_does_not_run_here_is_unknown(sidecar: Sidecar, path: str) -> None:
    assert_problem(await sidecar.post(path, REASON), 404, "unknown-lane")

    assert sidecar.breakers.closed == []


async def test_a_lane_without_a_breaker_is_unknown(sidecar: Sidecar) -> None:
    assert_problem(await sidecar.post(PATH, REASON), 404, "unknown-lane")


@pytest.mark.parametrize("body", [{}, {"reason": ""}, {"reason": "x" * 501}, []])
async def test_a_reason_is_needed(sidecar: Sidecar, body: object) -> None:
    assert_problem(await sidecar.post(PATH, body), 422, "invalid-request")

    assert sidecar.breakers.closed == []


async def test_looking_does_not_close(sidecar: Sidecar) -> None:
    assert_problem(await sidecar.get(PATH), 405, "method-not-allowed")


@pytest.mark.parametrize(
    "headers",
    [
        {"sec-fetch-site": "cross-site"},
        {"sec-fetch-site": "same-site", "origin": "http://127.0.0.1:8080"},
        {"origin": "https://evil.example"},
        {"origin": "null"},
        {"origin": "http://127.0.0.1:9999"},
    ],
)
async def test_a_web_page_of_another_origin_changes_nothing(sidecar: Sidecar, headers: dict[str, str]) -> None:
    sidecar.breakers.known = {LANE: BreakerStatus("open", 1, 30.0)}

    assert_problem(await sidecar.post(PATH, REASON, headers), 403, "cross-origin-request")
    assert sidecar.breakers.closed == []


@pytest.mark.parametrize("headers", [{"sec-fetch-site": "same-origin"}, {"origin": "http://127.0.0.1:8080"}])
async def test_the_sidecars_own_page_may_close(sidecar: Sidecar, headers: dict[str, str]) -> None:
    sidecar.breakers.known = {LANE: BreakerStatus("open", 1, 30.0)}

    assert (await sidecar.post(PATH, REASON, headers)).status_code == 200


async def test_a_foreign_page_may_still_be_answered_when_nothing_changes(sidecar: Sidecar) -> None:
    assert (await sidecar.get("/livez", {"sec-fetch-site": "cross-site"})).status_code == 200
