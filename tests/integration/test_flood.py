"""Three in ten events are poison, too few for the breaker: a worker that drains a million of them loses none and parks each bad one."""

from __future__ import annotations

import logging
import time
from itertools import islice

import pytest

from app.cli.clickstream import Clickstream
from tests.integration import truth
from tests.integration.conftest import MakeTopics, StartWorker

log = logging.getLogger(__name__)

EVENTS, BAD_SHARE = 1_000_000, 0.3
#: Sent at one time: one in twenty has 40 KB.
PART = 50_000
DRAIN_S = 300.0


@pytest.mark.faults
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("guarantee", ["at_least_once", "exactly_once"])
def test_of_a_million_events_three_in_ten_of_them_bad_none_is_lost(guarantee: str, topics: MakeTopics, worker: StartWorker) -> None:
    settings, sent = (
        topics(processing_guarantee=guarantee, sessions_enabled=False, windows_enabled=False, redis_url=""),
        truth.Sent(),
    )
    stream = Clickstream(7, 20_000, 2_000, "flood", bad_share=BAD_SHARE)
    events = stream.events(EVENTS, time.time_ns() // 1_000_000 - EVENTS)
    while part := list(islice(events, PART)):
        truth.send(settings, part, sent)

    one, started = worker(settings), time.monotonic()
    truth.wait_consumed([one], EVENTS, timeout_s=DRAIN_S)
    seconds = time.monotonic() - started

    log.info("measured: %s, %.0f events a second, %.0f %% bad", guarantee, EVENTS / seconds, BAD_SHARE * 100)
    outcome = truth.assert_exact(settings, sent)
    assert outcome.repeated == 0
    assert truth.ledger(one)["residue"] == 0
    assert truth.ledger(one)["dead_lettered"] == sent.bad.total()
