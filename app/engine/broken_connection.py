"""A write to a connection that was just reset, seen as what it is.

uvloop raises ``RuntimeError`` ("the handler is closed") where asyncio only warns. aiokafka 0.14.0 turns nothing but
``OSError`` into its own ``KafkaConnectionError``, so the error ends the routine that fetches (or sends) for good, unnoticed:
the worker stays in its group, ready, and stands still. ``install`` closes this hole for every client of the process
(no upstream issue found).
"""

from __future__ import annotations

from typing import Any

from aiokafka.conn import AIOKafkaConnection, CloseReason
from aiokafka.errors import KafkaConnectionError

_send = AIOKafkaConnection.send


def install() -> None:
    """Use it from now on."""
    AIOKafkaConnection.send = send


def send(self: Any, request: Any, expect_response: bool = True) -> Any:
    """As aiokafka's; a broken connection is closed and reported, whichever error told of it."""
    try:
        return _send(self, request, expect_response)
    except RuntimeError as exc:
        self.close(reason=CloseReason.CONNECTION_BROKEN)
        raise KafkaConnectionError(f"Connection at {self.host}:{self.port} broken: {exc}") from exc
