"""Would it pass now? The deployed rules, asked of `veltrix admin`: decoding, validation, and reference data."""

from __future__ import annotations

import json
import sqlite3
import time
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest

from app.admin import reference_of, validator
from app.dead_letters.replay import Ours
from app.domain.routing import partition_of
from app.settings import Settings
from app.sidecar.dead_letter_deeds import Verdict
from app.topics import INTERACTIONS
from tests.sidecar.conftest import dead_letter

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


async def verdict(settings: Settings, value: bytes) -> Verdict:
    now_ms = time.time_ns() // 1_000_000
    partition = partition_of(b"ann", 10)
    letter = dead_letter(topic=QUEUE, key=b"ann", value=value, source_partition=partition, original_timestamp_ms=now_ms)
    async with AsyncExitStack() as stack:
        return await validator(settings, OURS, await reference_of(settings, stack))(letter, None)


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
    assert await verdict(Settings(), event()) == Verdict(passes=True)


async def test_an_event_that_is_not_valid_says_which_rule(enriching: dict[str, Any]) -> None:
    found = await verdict(Settings(**enriching), event(messageId=None))
    assert (found.passes, found.stage, found.reason) == (False, "validate", "missing_message_id")


async def test_an_event_passes_while_its_reference_data_can_be_asked_whether_or_not_there_is_a_row(
    enriching: dict[str, Any],
) -> None:
    assert await verdict(Settings(**enriching), event()) == Verdict(passes=True)


async def test_an_event_that_would_wait_for_its_reference_data_does_not_pass(enriching: dict[str, Any]) -> None:
    away = enriching | {"reference_url": "postgresql://nobody@127.0.0.1:1/none", "reference_timeout_ms": 200}
    found = await verdict(Settings(**away), event())
    assert (found.passes, found.stage, found.reason) == (False, "enrich", "reference_unavailable")
    assert "reference data" in (found.message or "")


async def test_an_event_that_passes_without_it_passes_while_the_database_is_away(enriching: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "tables.toml").write_text(TABLES.replace("retry", "pass"))
    away = enriching | {"reference_url": "postgresql://nobody@127.0.0.1:1/none", "reference_timeout_ms": 200}
    assert await verdict(Settings(**away), event()) == Verdict(passes=True)
