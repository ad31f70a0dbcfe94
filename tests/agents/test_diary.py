"""At debug level every event says what became of it, by its messageId; at any other level nobody says anything."""

from __future__ import annotations

import json
import logging

import pytest
from structlog.testing import capture_logs

from agents import _diary
from agents.process_interactions import Rules
from tests.agents.test_process_interactions import new_rules, record, run
from tests.fakes import FakeRecord, FakeState


@pytest.fixture
def rules() -> Rules:
    return new_rules()


async def test_each_event_is_told_with_its_outcome_and_its_place(rules: Rules, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, logger=_diary.NAME)
    sent = [record(0, "a"), record(1, "a"), record(2, "b", event=None), FakeRecord(b"{", b"k", 3)]
    with capture_logs() as lines:
        await run(rules, FakeState(), sent)

    told = [(line["offset"], line["event"], line["message_id"], line.get("reason")) for line in lines]
    first = json.loads(sent[0].value or b"")["messageId"]
    assert told == [
        (0, "event_emitted", first, None),
        (1, "event_duplicate", first, None),
        (2, "event_dead_lettered", json.loads(sent[2].value or b"")["messageId"], "missing_event_name"),
        (3, "event_dead_lettered", None, "invalid_json"),
    ]
    assert {line["topic"] for line in lines} == {"interactions"}
    assert not any("user" in str(value) for line in lines for value in line.values())


async def test_otherwise_nothing_is_told(rules: Rules, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, logger=_diary.NAME)
    with capture_logs() as lines:
        await run(rules, FakeState(), [record(0, "a")])

    assert lines == []
