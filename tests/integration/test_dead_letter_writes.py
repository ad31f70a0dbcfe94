"""A dead letter queue that takes nothing: the worker ends itself or waits, says so in its metrics, and loses nothing."""

from __future__ import annotations

import json
import time

from prometheus_client.parser import text_string_to_metric_families

from app.topics import INTERACTIONS, dead_letters_of
from deploy.local.worker_process import WorkerProcess
from tests.integration import truth
from tests.integration.conftest import MakeTopics, StartWorker
from tests.integration.transactions_support import set_max_message_bytes

EVENTS = 2_000
#: Below any dead letter, above a transaction's marker.
SMALL, USUAL = 100, 2_000_000


def samples(worker: WorkerProcess, name: str) -> dict[str, float]:
    """Values of a metric by its last label."""
    families = text_string_to_metric_families(worker.get("/metrics")[1].decode())
    return {list(s.labels.values())[-1]: s.value for family in families for s in family.samples if s.name == name}


def test_a_worker_whose_dead_letters_are_refused_ends_says_why_and_its_successor_loses_nothing(
    topics: MakeTopics, worker: StartWorker
) -> None:
    settings, sent = topics(), truth.Sent()
    queue = dead_letters_of(settings.app_id, INTERACTIONS)
    one = worker(settings)
    assert samples(one, "veltrix_last_end_timestamp_seconds") == {}
    set_max_message_bytes(settings, queue, SMALL)
    began = time.time()
    truth.send(settings, truth.clicks(EVENTS, "refused"), sent)
    assert sent.bad
    assert one.wait(60) == 70
    note = json.loads((one.run_dir / "data" / "last-end.json").read_bytes())
    assert note["cause"] == "dead_letters"
    assert queue in note["reason"]
    assert "max.message.bytes" in note["reason"]

    set_max_message_bytes(settings, queue, USUAL)
    again = worker(settings, run_dir=one.run_dir)
    (cause, at_s), *others = samples(again, "veltrix_last_end_timestamp_seconds").items()
    assert (cause, others) == ("dead_letters", [])
    assert began <= at_s <= time.time()
    truth.wait_consumed([again], EVENTS)
    truth.assert_exact(settings, sent)
    assert set(samples(again, "veltrix_dead_letter_write_wait_seconds").values()) == {0.0}


def test_partitions_whose_dead_letters_wait_for_the_broker_say_for_how_long(topics: MakeTopics, worker: StartWorker) -> None:
    """Under exactly once a refusal is tried again before the worker gives up: long enough to be seen."""
    settings, sent = topics(processing_guarantee="exactly_once"), truth.Sent()
    queue = dead_letters_of(settings.app_id, INTERACTIONS)
    one = worker(settings)
    set_max_message_bytes(settings, queue, SMALL)
    truth.send(settings, truth.clicks(EVENTS, "waiting"), sent)
    deadline = time.monotonic() + 30
    while max(samples(one, "veltrix_dead_letter_write_wait_seconds").values(), default=0.0) < 1.0:
        assert time.monotonic() < deadline
        time.sleep(0.1)
    set_max_message_bytes(settings, queue, USUAL)
    truth.wait_consumed([one], EVENTS)
    assert truth.assert_exact(settings, sent).repeated == 0
    assert set(samples(one, "veltrix_dead_letter_write_wait_seconds").values()) == {0.0}
