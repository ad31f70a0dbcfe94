"""Ending the process when it cannot keep a promise, and making sure that a data directory has one owner."""

from __future__ import annotations

import fcntl
import logging
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import IO

import structlog

log = structlog.get_logger(__name__)

Fatal = Callable[[str, BaseException | None], None]
"""Reason and cause; ends the process. :func:`fatal`, or a fake."""
Refuse = Callable[[str], None]
"""Reason; ends a process that has not started to work. :func:`refuse`, or a fake."""

#: sysexits.h EX_SOFTWARE: a guarantee could not be kept; the next start repeats what was not durable.
EXIT_FATAL = 70
#: sysexits.h EX_CONFIG: refused to start; the message says what to mend.
EXIT_REFUSED = 78


def fatal(reason: str, exc: BaseException | None) -> None:
    """Log and end this process at once, without a graceful stop (that would commit).

    An exception raised into Faust instead would be logged and the offsets committed all the same.
    """
    _end("cannot_go_on", reason, exc, EXIT_FATAL)


def refuse(reason: str) -> None:
    """End this process before it has started to work."""
    _end("refused_to_start", reason, None, EXIT_REFUSED)


def _end(event: str, reason: str, exc: BaseException | None, status: int) -> None:
    try:
        log.critical(event, reason=reason, exc_info=exc)
        logging.shutdown()
        sys.stdout.flush()
        sys.stderr.flush()
    finally:
        os._exit(status)  # whatever logging says: a signal handler may have interrupted a write to the same stream


class DataDirLocked(Exception):
    """Another worker runs on this data directory. Stop it, or set another VELTRIX_DATA_DIR."""

    def __init__(self, path: Path, owner: str) -> None:
        super().__init__(f"{path} belongs to the running worker with pid {owner}: stop it or set another VELTRIX_DATA_DIR")
        self.path = path


def lock_data_dir(path: Path) -> IO[str]:
    """Take the directory for this process until the returned file is closed or the process ends.

    Raises:
        DataDirLocked: another process holds it.
    """
    path.mkdir(parents=True, exist_ok=True)
    handle = (path / "LOCK").open("a+", encoding="ascii")
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as exc:
        handle.seek(0)
        owner = handle.read().strip() or "unknown"
        handle.close()
        raise DataDirLocked(path, owner) from exc
    handle.truncate(0)
    handle.write(f"{os.getpid()}\n")
    handle.flush()
    return handle
