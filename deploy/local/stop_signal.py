"""Ctrl-C as a flag: the first one asks for a clean stop, a second one interrupts whatever runs."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


class StopSignal:
    """Set by SIGINT or SIGTERM."""

    def __init__(self) -> None:
        self._event = threading.Event()

    def is_set(self) -> bool:
        return self._event.is_set()

    def wait(self, timeout_s: float) -> bool:
        """True as soon as it is set, False after ``timeout_s``."""
        return self._event.wait(timeout_s)

    def handle(self, number: int, frame: FrameType | None) -> None:
        """The signal handler."""
        if self._event.is_set():
            raise KeyboardInterrupt
        self._event.set()


@contextmanager
def stop_on_signals() -> Iterator[StopSignal]:
    """Handle SIGINT and SIGTERM for the length of the block. Only in the main thread."""
    stop = StopSignal()
    before = {number: signal.signal(number, stop.handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
