"""The open-loop schedule: send times are fixed in advance, nothing is counted before the broker has it."""

from __future__ import annotations

import asyncio
import json
import time
from collections import Counter
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from app.cli.clickstream import BAD_KINDS, Click, Clickstream
from app.cli.console import CommandError
from app.cli.generate import BatchSender, Plan, Tally, run_schedule, summary
from app.cli.main import app
from app.domain.routing import partition_of

pytestmark = pytest.mark.process


class _Batch:
    """A batch that holds ``room`` records."""

    def __init__(self, room: int) -> None:
        self.room, self.records = room, list[tuple[float, bytes, bytes]]()

    def append(self, *, timestamp: float, key: bytes, value: bytes) -> object | None:
        if len(self.records) >= self.room:
            return None
        self.records.append((timestamp, key, value))
        return object()

    def close(self) -> None:
        pass


class _Producer:
    """Acknowledges at once; ``stall_s`` blocks the first send, ``error`` refuses all."""

    def __init__(self, room: int = 1000, stall_s: float = 0, error: Exception | None = None) -> None:
        self.batches: list[tuple[int, _Batch]] = []
        self._room, self._stall_s, self._error = room, stall_s, error

    def create_batch(self) -> _Batch:
        return _Batch(self._room)

    async def send_batch(self, batch: _Batch, topic: str, *, partition: int) -> asyncio.Future[None]:
        if self._stall_s and not self.batches:
            await asyncio.sleep(self._stall_s)
        self.batches.append((partition, batch))
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        if self._error is None:
            future.set_result(None)
        else:
            future.set_exception(self._error)
        return future

    @property
    def records(self) -> list[tuple[float, bytes, bytes]]:
        return [record for _, batch in self.batches for record in batch.records]


async def _run(plan: Plan, producer: _Producer, stopped: asyncio.Event | None = None) -> tuple[Tally, float]:
    sender = BatchSender(producer, "interactions", partitions=4)
    seconds = await run_schedule(Clickstream(1), plan, sender, stopped or asyncio.Event())
    await asyncio.sleep(0)
    return sender.tally, seconds


@given(rate=st.floats(0.5, 1e5), count=st.integers(1, 10_000), elapsed=st.floats(0, 1e4))
def test_everything_due_has_its_time_in_the_past(rate: float, count: int, elapsed: float) -> None:
    plan = Plan(rate, count)
    due = plan.due(elapsed)

    assert 1 <= due <= count
    assert plan.offset_s(due - 1) <= elapsed + 1e-6
    assert due == count or plan.offset_s(due) >= elapsed - 1e-6


def test_a_count_wins_over_a_duration() -> None:
    assert Plan.of(1000, 30, None).count == 30_000
    assert Plan.of(1000, 30, 5).count == 5
    assert Plan.of(0, 30, 5).due(0) == 5


def test_an_unlimited_rate_needs_an_end() -> None:
    with pytest.raises(CommandError, match="--count"):
        Plan.of(0, 30, None)


async def test_all_records_of_a_plan_are_sent_once_and_in_their_partition() -> None:
    producer = _Producer()

    tally, _ = await _run(Plan(20_000, 2_000), producer)

    assert tally.sent == len(producer.records) == 2_000
    for partition, batch in producer.batches:
        assert {partition_of(key, 4) for _, key, _ in batch.records} == {partition}


async def test_records_keep_their_intended_time_when_the_producer_stalls() -> None:
    producer = _Producer(stall_s=0.2)

    _, seconds = await _run(Plan(1_000, 300), producer)

    times = sorted(at_ms for at_ms, _, _ in producer.records)
    assert times[-1] - times[0] == pytest.approx(299, abs=1)
    assert seconds < 0.6, "what is late is sent at once"


async def test_a_full_batch_is_sent_and_the_next_one_begun() -> None:
    producer = _Producer(room=3)

    tally, _ = await _run(Plan(0, 100), producer)

    assert tally.sent == len(producer.records) == 100
    assert max(len(batch.records) for _, batch in producer.batches) == 3


async def test_a_stop_ends_the_schedule_early() -> None:
    stopped = asyncio.Event()
    asyncio.get_running_loop().call_later(0.05, stopped.set)
    started = time.monotonic()

    tally, _ = await _run(Plan(1_000, 60_000), _Producer(), stopped)

    assert 0 < tally.sent < 1_000
    assert time.monotonic() - started < 2


async def test_refused_records_are_not_counted_as_sent_and_end_the_run() -> None:
    tally, _ = await _run(Plan(1_000, 60_000), _Producer(error=RuntimeError("no")))

    assert tally.sent == 0
    assert tally.failed > 0
    assert str(tally.error) == "no"


async def test_nothing_is_counted_before_its_acknowledgement() -> None:
    class Silent(_Producer):
        async def send_batch(self, batch: _Batch, topic: str, *, partition: int) -> asyncio.Future[None]:
            return asyncio.get_running_loop().create_future()

    sender = BatchSender(Silent(), "interactions", partitions=4)
    await sender.send([(Click("valid", b"k", b"v"), 1)])
    await asyncio.sleep(0)

    assert (sender.tally.sent, sender.in_flight) == (0, 1)


@given(st.lists(st.sampled_from(["valid", "duplicate", *BAD_KINDS])))
def test_the_kinds_of_a_summary_add_up_to_sent(kinds: Sequence[str]) -> None:
    result: dict[str, Any] = summary(Counter(kinds), 1.0)

    assert result["valid_unique"] + result["duplicates"] + sum(result["bad"].values()) == result["sent"] == len(kinds)
    assert set(result["bad"]) == set(BAD_KINDS)


def test_the_command_prints_one_json_line_on_stdout(monkeypatch: pytest.MonkeyPatch) -> None:
    async def fake(settings: Any, stream: Any, plan: Plan, progress: Any) -> dict[str, Any]:
        return summary(Counter({"valid": plan.count}), 1.0)

    monkeypatch.setattr("app.cli.main.send_clicks", fake)

    result = CliRunner().invoke(app, ["generate", "--rate", "10", "--duration", "2"])

    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["sent"] == 20


def test_a_plan_without_an_end_is_one_sentence_and_no_traceback() -> None:
    result = CliRunner().invoke(app, ["generate", "--rate", "0"])

    assert result.exit_code == 1
    assert "--count" in result.stderr
    assert "Traceback" not in result.output
