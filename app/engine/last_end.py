"""Why a process ended itself, told by the next one on its data directory: its own metrics end with it."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Final

import msgspec
import structlog

from app.engine.guard import Fatal
from app.engine.producing import SendFailed
from app.engine.status import EndCause, LastEnd
from app.topics import CHANGELOG_SUFFIX, DEAD_LETTER_PREFIXES

log = structlog.get_logger(__name__)

_FILE: Final = "last-end.json"


def noting(directory: Path, end_process: Fatal) -> Fatal:
    """``end_process``, which leaves a note for the next process first; a disk that takes none does not keep this one alive."""

    def end(reason: str, exc: BaseException | None) -> None:
        try:
            note = LastEnd(time.time(), _cause(exc), reason)
            (directory / _FILE).write_bytes(msgspec.json.encode(note))
        except OSError as error:
            log.warning("end_not_noted", error=repr(error))
        finally:
            end_process(reason, exc)

    return end


def last_end(directory: Path) -> LastEnd | None:
    """How the last process that ended itself did; None: none did, or its note cannot be read."""
    try:
        return msgspec.json.decode((directory / _FILE).read_bytes(), type=LastEnd)
    except FileNotFoundError:
        return None
    except (OSError, msgspec.DecodeError) as exc:
        log.warning("note_of_last_end_not_read", error=repr(exc))
        return None


def _cause(exc: BaseException | None) -> EndCause:
    if not isinstance(exc, SendFailed):
        return "other"
    if exc.topic.startswith(DEAD_LETTER_PREFIXES):
        return "dead_letters"
    return "changelog" if exc.topic.endswith(CHANGELOG_SUFFIX) else "outputs"
