"""Not writing the same line hundreds of times a second.

While a broker is away aiokafka retries without a pause and logs each try: 700 lines a second were seen. One line a
second of each kind says as much and leaves the disk and the core to others.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Collection


class FewRepeats(logging.Filter):
    """Lets each message template of some libraries through once an interval, with a count of what was left out.

    Args:
        libraries: names of their top loggers; records of others always pass.
        interval_s: seconds.
    """

    def __init__(
        self, libraries: Collection[str] = ("aiokafka",), interval_s: float = 1.0, clock: Callable[[], float] = time.monotonic
    ) -> None:
        super().__init__()
        self._libraries = frozenset(libraries)
        self._interval_s = interval_s
        self._clock = clock
        self._kinds: dict[tuple[str, int, object], tuple[float, int]] = {}
        """logger, level, template -> when it was last written, and how many were left out since"""

    def filter(self, record: logging.LogRecord) -> bool:
        """False: leave it out."""
        if record.name.partition(".")[0] not in self._libraries:
            return True
        kind, now = (record.name, record.levelno, record.msg), self._clock()
        written_at, left_out = self._kinds.get(kind, (-self._interval_s, 0))
        if now - written_at < self._interval_s:
            self._kinds[kind] = (written_at, left_out + 1)
            return False
        self._kinds[kind] = (now, 0)
        if left_out:
            record.msg, record.args = f"{record.getMessage()} [{left_out} more like this were left out]", ()
        return True
