"""Sessions and windows on a real Kafka: closed by event time alone, the same in a replay, late events by the named policy."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable

from prometheus_client.parser import text_string_to_metric_families

from app.cli.clickstream import Click
from app.topics import INTERACTIONS, dead_letters_of
from deploy.local.worker_process import WorkerProcess
from tests.faults import windows
from tests.integration import truth
from tests.integration.conftest import MakeTopics, StartWorker

HOUR_MS = 3_600_000
#: Event times of "yesterday", in broker time of today: the broker's clock may not matter.
YESTERDAY_MS = (time.time_ns() // 1_000_000 - 24 * HOUR_MS) // HOUR_MS * HOUR_MS
USERS = [f"visitor-{n}" for n in range(40)]


def click(number: int, user: str, at_ms: int, name: str = "Product Viewed", item: str = "sku") -> Click:
    """One valid event."""
    seconds, ms = divmod(at_ms, 1000)
    stamp = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds)) + f".{ms:03d}Z"
    event = {"type": "track", "messageId": f"m-{number}", "userId": user, "event": name, "timestamp": stamp}
    value = json.dumps(event | {"properties": {"product_id": item, "price": 1.5, "quantity": 2}}).encode()
    return Click("valid", user.encode(), value)


def yesterday(seconds: int) -> list[Click]:
    """Every user looks at something once in two seconds for so long; then, an hour later, one event each closes all."""
    views = [
        click(n * 100 + u, user, YESTERDAY_MS + n * 2000 + u, item=f"sku-{u % 7}")
        for n in range(seconds // 2)
        for u, user in enumerate(USERS)
    ]
    return views + [click(9_000_000 + u, user, YESTERDAY_MS + 2 * HOUR_MS, "Signed Out") for u, user in enumerate(USERS)]


def wait_until(reached: Callable[[], bool], what: str, timeout_s: float = 40.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not reached():
        assert time.monotonic() < deadline, what
        time.sleep(0.3)


def outputs(clicks: Iterable[Click]) -> list[bytes]:
    """What is expected to count."""
    return [one.value for one in clicks]


def test_yesterday_is_closed_by_its_own_time_and_comes_out_the_same_when_it_is_read_again(
    topics: MakeTopics, worker: StartWorker
) -> None:
    settings, events = topics(watermark_idle_ms=0), yesterday(240)
    views = events[: -len(USERS)]
    worker(settings)
    truth.send(settings, events, truth.Sent())
    wait_until(lambda: windows.Results(settings).counted("event_1m", "events").total() >= len(views), "windows were not closed")
    wait_until(lambda: windows.Results(settings).users().total() >= len(views), "sessions were not closed")
    first = windows.Results(settings)
    assert first.counted("item_1m", "views") == windows.expected_items(outputs(views))
    assert first.counted("event_1m", "events") == windows.expected_names(outputs(views))
    assert first.users() == windows.expected_users(outputs(views))
    assert len(first.sessions) == len(USERS), "one session each; the last event's has not ended yet"
    assert first.different == []

    again = topics(watermark_idle_ms=0)
    worker(again)
    truth.send(again, events, truth.Sent())  # another partitioning of batches, another worker
    wait_until(lambda: windows.Results(again).counted("event_1m", "events").total() >= len(views), "windows were not closed")
    wait_until(lambda: windows.Results(again).users().total() >= len(views), "sessions were not closed")
    second = windows.Results(again)
    assert second.windows == first.windows
    assert second.sessions == first.sessions


def test_what_is_too_late_is_parked_beside_its_event_and_counted(topics: MakeTopics, worker: StartWorker) -> None:
    settings, events = topics(watermark_idle_ms=0, late_policy="dead_letter"), yesterday(20)
    one = worker(settings)
    truth.send(settings, events, truth.Sent())
    truth.wait_consumed([one], len(events))
    late = click(1, USERS[0], YESTERDAY_MS, item="sku-late")
    truth.send(settings, [late], truth.Sent())
    truth.wait_consumed([one], len(events) + 1)

    ledger = truth.ledger(one)
    assert (ledger["emitted"], ledger["dead_lettered"], ledger["residue"]) == (len(events) + 1, 0, 0), "late is no outcome"
    letters = truth.read(settings, dead_letters_of(settings.app_id, INTERACTIONS))
    assert [(letter.value(), truth.header(letter, "dlq.reason")) for letter in letters] == [(late.value, b"late")]
    wait_until(lambda: _late(one) == {"sessions", "item_5m", "event_5m"}, "late events were not counted")
    assert not any(key == "sku-late" for _, key, _ in windows.Results(settings).windows)


def test_a_silent_partition_does_not_hold_results_back_for_ever(topics: MakeTopics, worker: StartWorker) -> None:
    """One user, so one partition with events; all the others never had any."""
    settings = topics(watermark_idle_ms=2_000, watermark_delay_ms=1_000, session_gap_ms=2_000, session_max_length_ms=10_000)
    now_ms = time.time_ns() // 1_000_000
    events = [click(n, USERS[0], now_ms + n) for n in range(10)]
    worker(settings)
    truth.send(settings, events, truth.Sent())
    wait_until(lambda: windows.Results(settings).users().total() == 10, "the session was not closed")
    wait_until(lambda: windows.Results(settings).counted("event_1m", "events").total() == 10, "windows were not closed", 90)


def test_without_windows_there_is_no_second_agent_and_without_sessions_no_sessions(topics: MakeTopics, worker: StartWorker) -> None:
    settings, events = topics(windows_enabled=False, sessions_enabled=False), yesterday(10)
    one = worker(settings)
    truth.send(settings, events, truth.Sent())
    truth.wait_consumed([one], len(events))
    assert {lane["agent"] for lane in truth.lanes(one, None)} == {truth.SOURCE_AGENT}
    assert _waiting(one) == {"user_sessions": 0, "windows_event_5m": 0}


def _late(one: WorkerProcess) -> set[str]:
    return {labels["result"] for labels, count in _samples(one, "veltrix_late_events_total") if count}


def _waiting(one: WorkerProcess) -> dict[str, int]:
    found: dict[str, int] = {}
    for labels, count in _samples(one, "veltrix_waiting_keys"):
        found[labels["view"]] = found.get(labels["view"], 0) + int(count)
    return found


def _samples(one: WorkerProcess, name: str) -> list[tuple[dict[str, str], float]]:
    families = text_string_to_metric_families(one.get("/metrics")[1].decode())
    return [(sample.labels, sample.value) for family in families for sample in family.samples if sample.name == name]
