"""What `veltrix admin` says of its queues."""

from __future__ import annotations

import asyncio
import itertools
import sqlite3
import time

import pytest
from prometheus_client import CollectorRegistry

from app.telemetry.dead_letters import IndexMetrics, QueueNumbers
from app.telemetry.exposition import Catalogue


class FakeFollower:
    added = 3
    problem: str | None = None
    lag: int | None = None


async def watched(numbers: QueueNumbers) -> CollectorRegistry:
    """A registry whose metrics have looked once."""
    registry = CollectorRegistry()
    metrics = IndexMetrics(Catalogue(registry), FakeFollower(), 30 * 86_400_000)

    async def look() -> dict[str, QueueNumbers]:
        return {"dlq.veltrix.interactions": numbers}

    watching = asyncio.create_task(metrics.watch(look))
    await asyncio.sleep(0)
    watching.cancel()
    return registry


async def test_letters_are_counted_by_what_was_done_about_them() -> None:
    registry = await watched(QueueNumbers({"pending": 5, "replayed": 2}, None))

    counts = {status: value(registry, "veltrix_dead_letter_queue_records", status=status) for status in ("pending", "replayed")}
    assert counts == {"pending": 5, "replayed": 2}


async def test_a_queue_in_which_nothing_is_pending_says_so_with_zeros() -> None:
    registry = await watched(QueueNumbers({}, None))

    assert value(registry, "veltrix_dead_letter_queue_records", status="pending") == 0
    assert value(registry, "veltrix_dead_letter_oldest_pending_seconds") == 0


async def test_the_age_of_the_oldest_pending_one_grows_between_two_looks() -> None:
    registry = await watched(QueueNumbers({"pending": 1}, int((time.time() - 100) * 1000)))

    assert value(registry, "veltrix_dead_letter_oldest_pending_seconds") == pytest.approx(100, abs=5)
    assert registry.get_sample_value("veltrix_dead_letter_retention_seconds") == 30 * 86_400


async def test_an_index_that_cannot_be_read_gives_no_numbers_and_is_asked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("app.telemetry.dead_letters.REFRESH_S", 0)
    registry = CollectorRegistry()
    metrics = IndexMetrics(Catalogue(registry), FakeFollower(), 1)
    answers = itertools.cycle([{"q": QueueNumbers({"pending": 1}, None)}, None])
    seen, enough = list[float | None](), asyncio.Event()

    async def look() -> dict[str, QueueNumbers]:
        seen.append(registry.get_sample_value("veltrix_dead_letter_queue_records", {"queue": "q", "status": "pending"}))
        if len(seen) == 4:
            enough.set()
        answer = next(answers)
        if answer is None:
            raise sqlite3.OperationalError("unable to open database file")
        return answer

    watching = asyncio.create_task(metrics.watch(look))
    await enough.wait()
    watching.cancel()
    assert seen[:4] == [None, 1, None, 1]


def value(registry: CollectorRegistry, name: str, **labels: str) -> float | None:
    return registry.get_sample_value(name, {"queue": "dlq.veltrix.interactions", **labels})
