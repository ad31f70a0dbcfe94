"""What a replay sends: the record as it was, to where it came from, and to nowhere else."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from app.dead_letters import headers as h
from app.dead_letters.decode import decode_dead_letter
from app.dead_letters.replay import MAX_REPLAYS, NotReplayable, Ours, release_of, replay_of
from tests.dead_letters.letters import QUEUE, letter
from tests.dead_letters.records import FAILED_AT_MS, FAILURE, FakeRecord, added, encoder

OURS = Ours(frozenset({QUEUE}), {"interactions": 4})
OWN = [("traceparent", b"00-x"), ("x", None), ("x", b"2")]


def test_it_goes_back_with_its_key_value_timestamp_and_headers() -> None:
    record = replay_of(letter(7, partition=3, value=b"v", headers=OWN, key=b"k", timestamp=42), OURS, "job-1")
    assert (record.topic, record.partition, record.key, record.value, record.timestamp) == ("interactions", 3, b"k", b"v", 42)
    assert list(record.headers[: len(OWN)]) == OWN
    ours = dict(record.headers[len(OWN) :])
    assert (ours[h.ID], ours[h.REPLAY_COUNT], ours[h.REPLAY_JOB]) == (b"interactions:3:1007", b"1", b"job-1")
    assert not {h.TOPIC, h.STAGE, h.REASON, h.FINGERPRINT, h.FAILED_AT, h.EDITED, h.RETRY_DUE} & set(ours)


def test_the_next_dead_letter_of_it_continues_the_story() -> None:
    sent = replay_of(letter(7, partition=3), OURS, "job-1")
    again = FakeRecord(sent.topic, sent.partition, 5000, sent.key, sent.value, sent.timestamp, 0, sent.headers)
    told = added(encoder()(again, FAILURE, FAILED_AT_MS + 5))
    assert (told["dlq.id"], told["__dlq.errors.offset"], told["__dlq.errors.delivery.count"]) == (
        "interactions:3:1007",
        "1007",
        "2",
    )
    assert (told["dlq.replay.count"], told["dlq.replay.job"]) == ("1", "job-1")
    assert told["dlq.first.failed.at"] < told["dlq.failed.at"]


def test_an_edited_value_says_so_and_goes_on_saying_so() -> None:
    sent = replay_of(letter(7, partition=3), OURS, "job-1", value=b"mended", edit="p-1")
    assert (sent.value, dict(sent.headers)[h.EDITED]) == (b"mended", b"true p-1")
    parked = encoder()(FakeRecord(sent.topic, 3, 9, sent.key, sent.value, 1, 0, sent.headers), FAILURE, FAILED_AT_MS)
    again = decode_dead_letter(FakeRecord(QUEUE, 3, 8, parked.key, parked.value, FAILED_AT_MS, 0, parked.headers))
    assert dict(replay_of(again, OURS, "job-2").headers)[h.EDITED] == b"true p-1"


@pytest.mark.parametrize(
    ("changes", "kind"),
    [
        ({"source_topic": "payments"}, "foreign-source"),
        ({"source_topic": None}, "foreign-source"),
        ({"source_topic": QUEUE}, "foreign-source"),
        ({"source_partition": None}, "foreign-source"),
        ({"source_partition": 4}, "foreign-source"),
        ({"source_partition": -1}, "foreign-source"),
        ({"topic": "orders-dlt"}, "foreign-queue"),
        ({"replay_count": MAX_REPLAYS}, "exhausted"),
        ({"value": None, "value_bytes": 2_000_000}, "value-elsewhere"),
    ],
)
def test_a_header_never_leads_it_anywhere_else(changes: dict[str, Any], kind: str) -> None:
    with pytest.raises(NotReplayable) as caught:
        replay_of(replace(letter(0), **changes), OURS, "job-1")
    assert caught.value.kind == kind


def test_force_is_for_the_cap_alone() -> None:
    assert dict(replay_of(replace(letter(0), replay_count=7), OURS, "j", force=True).headers)[h.REPLAY_COUNT] == b"8"
    with pytest.raises(NotReplayable):
        replay_of(replace(letter(0), source_topic="payments"), OURS, "j", force=True)


def test_a_null_value_is_a_value() -> None:
    assert replay_of(replace(letter(0), value=None, value_bytes=None), OURS, "j").value is None


TIER = "retry.veltrix.interactions.5s"
ORDERED = replace(OURS, releases={"interactions": TIER})


def test_where_order_is_kept_the_lane_of_a_discarded_letter_is_told() -> None:
    release = release_of(letter(7, partition=3, key=b"k"), ORDERED)
    assert release is not None
    assert (release.topic, release.partition, release.key, release.value) == (TIER, 3, b"k", None)
    assert dict(release.headers) == {h.ID: b"interactions:3:1007", h.DISCARDED: b"true"}


@pytest.mark.parametrize("ours", [OURS, replace(ORDERED, queues=frozenset()), replace(ORDERED, sources={"interactions": 3})])
def test_nobody_is_told_where_nobody_waits(ours: Ours) -> None:
    assert release_of(letter(7, partition=3, key=b"k"), ours) is None


@pytest.mark.parametrize("lacking", ["key", "dlq_id", "source_topic", "source_partition"])
def test_a_letter_that_does_not_say_what_it_was_releases_nothing(lacking: str) -> None:
    changes: dict[str, Any] = {lacking: None}
    assert release_of(replace(letter(7, partition=3, key=b"k"), **changes), ORDERED) is None
