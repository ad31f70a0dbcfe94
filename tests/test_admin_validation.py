"""Would it pass now? The deployed rules, asked of `veltrix admin`: decoding, validation, and reference data."""

from __future__ import annotations

import json
import sqlite3
from contextlib import AsyncExitStack
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from app.admin import reference_of
from app.dead_letters.replay import Ours
from app.domain.routing import partition_of
from app.settings import Settings
from app.sidecar.dead_letter_trials import Trial, changes
from app.topics import INTERACTIONS
from app.trial import validator
from tests.sidecar.conftest import dead_letter

NOW_MS = 1_700_000_000_000
QUEUE = "dlq.veltrix.interactions"
OURS = Ours(frozenset({QUEUE}), {INTERACTIONS: 10})
TABLES = """
[[reference]]
name = "users"
table = "users"
key = "user_id"
columns = ["plan"]
match = "user"
policy = "retry"
"""


def event(**changes: Any) -> bytes:
    call = {"type": "track", "event": "Cart Viewed", "messageId": "m1", "userId": "ann"} | changes
    return json.dumps({name: value for name, value in call.items() if value is not None}).encode()


async def trial(settings: Settings, value: bytes, age_ms: int = 0) -> Trial:
    partition = partition_of(b"ann", 10)
    letter = dead_letter(topic=QUEUE, key=b"ann", value=value, source_partition=partition, original_timestamp_ms=NOW_MS - age_ms)
    async with AsyncExitStack() as stack:
        return await validator(settings, OURS, await reference_of(settings, stack), lambda: NOW_MS)(letter, None)


@pytest.fixture
def enriching(tmp_path: Path) -> dict[str, Any]:
    """Settings of a deployment whose events must not pass without their user's row."""
    (tmp_path / "tables.toml").write_text(TABLES)
    with sqlite3.connect(tmp_path / "reference.sqlite") as database:
        database.execute("create table users (user_id text primary key, plan text)")
    database.close()
    return {
        "enrichment_enabled": True,
        "reference_file": tmp_path / "tables.toml",
        "reference_url": f"sqlite:///{tmp_path}/reference.sqlite",
        "redis_url": "redis://127.0.0.1:1/0",
    }


async def test_an_event_passes_if_it_is_valid_and_nothing_is_asked_where_nothing_is_joined() -> None:
    assert (await trial(Settings(), event())).passes


async def test_an_event_that_is_not_valid_says_which_rule(enriching: dict[str, Any]) -> None:
    found = await trial(Settings(**enriching), event(messageId=None))
    assert (found.passes, found.stage, found.reason) == (False, "validate", "missing_message_id")


async def test_an_event_passes_while_its_reference_data_can_be_asked_whether_or_not_there_is_a_row(
    enriching: dict[str, Any],
) -> None:
    assert (await trial(Settings(**enriching), event())).passes


async def test_an_event_that_would_wait_for_its_reference_data_does_not_pass(enriching: dict[str, Any]) -> None:
    away = enriching | {"reference_url": "postgresql://nobody@127.0.0.1:1/none", "reference_timeout_ms": 200}
    found = await trial(Settings(**away), event())
    assert (found.passes, found.stage, found.reason) == (False, "enrich", "reference_unavailable")
    assert "reference data" in (found.message or "")


async def test_an_event_that_passes_without_it_passes_while_the_database_is_away(enriching: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "tables.toml").write_text(TABLES.replace("retry", "pass"))
    away = enriching | {"reference_url": "postgresql://nobody@127.0.0.1:1/none", "reference_timeout_ms": 200}
    assert (await trial(Settings(**away), event())).passes


BOUGHT = {"event": "Order Completed", "properties": {"products": [{"product_id": "i1", "quantity": 2, "price": 3}]}}
ALL = {"sessions", "item_5m", "item_1m", "event_5m", "event_1m"}


async def fates(settings: Settings, age_ms: int, value: bytes | None = None) -> dict[str, tuple[int, int, int]]:
    """Of each result: how many are open, revised, and leave the event out."""
    found = changes((await trial(settings, value or event(**BOUGHT), age_ms)).touched)
    return {one.result: (one.open, one.revised, one.left_out) for one in found}


async def test_an_event_of_just_now_changes_nothing_that_was_published() -> None:
    found = await fates(Settings(), 0)
    assert found.keys() == ALL
    assert not any(revised or left_out for _, revised, left_out in found.values())


async def test_an_event_of_yesterday_is_left_out_of_every_window_that_was_published() -> None:
    found = await fates(Settings(), 86_400_000)
    assert found == {
        "sessions": (0, 0, 1),
        "item_5m": (0, 0, 5),
        "item_1m": (0, 0, 1),
        "event_5m": (0, 0, 5),
        "event_1m": (0, 0, 1),
    }


async def test_where_late_events_are_allowed_published_windows_are_published_again() -> None:
    found = await fates(Settings(allowed_lateness_ms=2 * 86_400_000), 86_400_000)
    assert found == {
        "sessions": (0, 1, 0),
        "item_5m": (0, 5, 0),
        "item_1m": (0, 1, 0),
        "event_5m": (0, 5, 0),
        "event_1m": (0, 1, 0),
    }


async def test_a_session_lasts_longer_than_a_window() -> None:
    found = await fates(Settings(), 20 * 60_000)
    assert (found["sessions"], found["item_5m"]) == ((1, 0, 0), (0, 0, 5))


async def test_only_what_counts_the_event_and_is_switched_on_is_named() -> None:
    assert (await fates(Settings(), 0, event())).keys() == {"sessions", "event_5m", "event_1m"}
    assert (await fates(Settings(windows_enabled=False), 0)).keys() == {"sessions"}
    assert await fates(Settings(windows_enabled=False, sessions_enabled=False), 0) == {}
    assert await fates(Settings(), 0, event(messageId=None)) == {}


async def test_of_several_events_each_window_is_named_once_and_the_span_is_that_of_the_published_ones() -> None:
    tried = [await trial(Settings(), event(**BOUGHT), age_ms) for age_ms in (7_200_000, 7_200_000, 3_600_000, 0)]
    (minute,) = [one for one in changes(touched for one in tried for touched in one.touched) if one.result == "item_1m"]
    assert (minute.open, minute.left_out) == (1, 2)
    assert minute.first is not None
    assert minute.last is not None
    assert datetime.fromisoformat(minute.last) - datetime.fromisoformat(minute.first) == timedelta(minutes=61)
