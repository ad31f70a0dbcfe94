"""Windows and sessions of a run, counted a second time: from the enriched events alone, without the product's code."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any

from app.settings import Settings
from app.topics import ITEM_WINDOWS, SESSIONS
from tests.integration import truth as integration

MINUTE_MS = 60_000
#: All is closed by then: the rest of a minute, idle time, its steps, delay, gap.
CLOSED_S = 100.0

Row = dict[str, Any]


def expected_names(values: Iterable[bytes]) -> Counter[tuple[str, int]]:
    """Events by name and minute of event time."""
    return Counter((_name(event), _time_ms(event) // MINUTE_MS * MINUTE_MS) for event in map(json.loads, values))


def expected_items(values: Iterable[bytes]) -> Counter[tuple[str, int]]:
    """Views by item and minute of event time."""
    views: Counter[tuple[str, int]] = Counter()
    for event in map(json.loads, values):
        if event.get("event") == "Product Viewed":
            views[str(event["properties"]["product_id"]), _time_ms(event) // MINUTE_MS * MINUTE_MS] += 1
    return views


def expected_users(values: Iterable[bytes]) -> Counter[str]:
    """Events by state key of their user."""
    events = map(json.loads, values)
    return Counter(f"u:{event['userId']}" if event.get("userId") else f"a:{event['anonymousId']}" for event in events)


class Results:
    """What was published, newest revision of each; repeated rows must be equal."""

    def __init__(self, settings: Settings) -> None:
        self.different: list[Row] = []
        self.windows = self._newest(settings, ITEM_WINDOWS, ("name", "key", "start_ms"))
        self.sessions = self._newest(settings, SESSIONS, ("user", "session_ms"))

    def _newest(self, settings: Settings, topic: str, identity: tuple[str, ...]) -> dict[tuple[Any, ...], Row]:
        found: dict[tuple[Any, ...], Row] = {}
        for record in integration.read(settings, topic):
            row = json.loads(record.value() or b"")
            key = tuple(row[name] for name in identity)
            known = found.get(key)
            if known is not None and known["revision"] == row["revision"] and known != row:
                self.different.append(row)
            if known is None or known["revision"] <= row["revision"]:
                found[key] = row
        return found

    def counted(self, window: str, result: str) -> Counter[tuple[str, int]]:
        """One result of one declaration, by key and start; zeros left out."""
        rows = {(key, start): row["results"][result] for (name, key, start), row in self.windows.items() if name == window}
        return Counter({at: number for at, number in rows.items() if number})

    def users(self) -> Counter[str]:
        """Events of all sessions by user."""
        found: Counter[str] = Counter()
        for (user, _), row in self.sessions.items():
            found[user] += row["events"]
        return found


def wait_closed(settings: Settings, values: Mapping[str, bytes]) -> Results:
    """Wait until everything is closed, or as long as that may take: the caller compares."""
    expected = expected_names(values.values()), expected_items(values.values()), expected_users(values.values())
    deadline = time.monotonic() + CLOSED_S
    while True:
        results = Results(settings)
        found = results.counted("event_1m", "events"), results.counted("item_1m", "views"), results.users()
        if found == expected or time.monotonic() > deadline:
            return results
        time.sleep(1.0)


def _name(event: Row) -> str:
    return str(event["event"]) if event["type"] == "track" else f"${event['type']}"


def _time_ms(event: Row) -> int:
    return round(datetime.fromisoformat(event["timestamp"]).timestamp() * 1000)
