"""Known events at a fixed rate, sent by a thread of its own until it is told to stop.

Open loop: a late record is sent at once and the schedule stays, so a stalled broker or worker meets the load that it
would meet in production. What was sent is kept with the broker's answer to each record.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from types import TracebackType
from typing import Any, Self

from confluent_kafka import Producer

from app.cli.clickstream import Click, Clickstream
from app.settings import Settings
from app.topics import INTERACTIONS

USERS = 500
ITEMS = 200
DUPLICATE_SHARE = 0.01
START_TIMEOUT_S = 30.0
FLUSH_TIMEOUT_S = 120.0

NextClick = Callable[[int], Click]


def clickstream(seed: int, tag: str, *, users: int = USERS, bad_share: float = 0.005) -> NextClick:
    """Realistic visitors; ``tag`` begins every messageId, ``bad_share`` of the records are wrong in one of six ways."""
    duplicate_share = min(DUPLICATE_SHARE, 1 - bad_share)
    return Clickstream(seed, users, ITEMS, tag, bad_share=bad_share, duplicate_share=duplicate_share).next


class Traffic:
    """The sender. Use as ``with Traffic(...) as traffic:`` around the faults; it flushes and stops at the end.

    Args:
        settings: whose broker and topic; the real broker, not a proxy, if the sender shall not feel the fault.
        rate: records per second.
        stream: makes the record due at an epoch millisecond; assign ``traffic.stream`` to change it while it runs.
        clock_ahead_ms: added to the event times and to the records' timestamps (CreateTime).
        producer: librdkafka options on top of ours (murmur2, acks=all, idempotent).
    """

    def __init__(
        self, settings: Settings, rate: float, stream: NextClick, *, clock_ahead_ms: int = 0, producer: dict[str, Any] | None = None
    ) -> None:
        self.stream = stream
        self.clock_ahead_ms = clock_ahead_ms
        self.sent: list[Click] = []
        self.acked: list[Click] = []
        self.failed: list[tuple[Click, str]] = []
        """the broker's answer was an error, or none came: may or may not be in the topic"""
        self._rate = rate
        options = {
            "bootstrap.servers": settings.kafka_bootstrap, "partitioner": "murmur2_random", "acks": "all",
            "enable.idempotence": True, "linger.ms": 5, "queue.buffering.max.messages": 1_000_000,
            "log_level": 0,  # a broker that goes away is our doing; what it costs is in `failed`
        }  # fmt: skip
        self._producer = Producer(options | (producer or {}))
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="traffic", daemon=True)
        self._error: BaseException | None = None

    def start(self) -> None:
        """Begin to send; returns when the broker has taken the first record, so that a fault meets flowing traffic."""
        self._thread.start()
        deadline = time.monotonic() + START_TIMEOUT_S
        while not self.acked:
            assert time.monotonic() < deadline, f"the broker took no record in {START_TIMEOUT_S} s"
            time.sleep(0.01)

    def stop(self) -> None:
        """Stop sending and wait for the broker's last answers; a second call does nothing.

        Raises:
            AssertionError: the sender broke, or the broker did not answer in time.
        """
        self._stopping.set()
        if self._thread.ident is not None:
            self._thread.join(FLUSH_TIMEOUT_S)
        assert not self._thread.is_alive(), "the sender hangs"
        if self._error is not None:
            raise AssertionError("the sender broke") from self._error
        unanswered = self._producer.flush(FLUSH_TIMEOUT_S)
        assert unanswered == 0, f"the broker left {unanswered} records of the sender unanswered"

    def wait_sent(self, count: int, timeout_s: float = 60.0) -> None:
        """Wait until ``count`` more records are on their way than now."""
        target, deadline = len(self.sent) + count, time.monotonic() + timeout_s
        while len(self.sent) < target:
            assert self._thread.is_alive(), "the sender does not run"
            assert time.monotonic() < deadline, "the sender is stuck"
            time.sleep(0.02)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._stopping.set()
        if kind is None:
            self.stop()

    def _run(self) -> None:
        try:
            self._send()
        except BaseException as exc:  # noqa: BLE001 - stop() raises it in the test's thread
            self._error = exc

    def _send(self) -> None:
        start, number = time.monotonic(), 0
        while not self._stopping.is_set():
            ahead = start + number / self._rate - time.monotonic()
            self._producer.poll(0)
            if ahead > 0:
                self._stopping.wait(ahead)
                continue
            now_ms = time.time_ns() // 1_000_000 + self.clock_ahead_ms
            self._produce(self.stream(now_ms), now_ms)
            number += 1

    def _produce(self, click: Click, now_ms: int) -> None:
        def on_delivery(error: object, _: object) -> None:
            if error is None:
                self.acked.append(click)
            else:
                self.failed.append((click, str(error)))

        self.sent.append(click)
        self._producer.produce(INTERACTIONS, key=click.key, value=click.value, timestamp=now_ms, on_delivery=on_delivery)
