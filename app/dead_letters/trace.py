"""What a dead letter says about an exception: its class, its trace, and the fingerprint that groups failures.

The exception's own text is left out: it often quotes the payload (``KeyError: 'jane@example.org'``), and people who
may read metadata need not be allowed to read payloads.
"""

from __future__ import annotations

import hashlib
import traceback
from collections.abc import Iterator
from pathlib import PurePath
from types import CodeType
from typing import Final, NamedTuple

from app.dead_letters.headers import MAX_STACKTRACE_BYTES, clip_start

MAX_CAUSES: Final = 8
MAX_FRAMES: Final = 64

Shape = tuple[tuple[type[BaseException], tuple[tuple[CodeType, int], ...]], ...]


class Described(NamedTuple):
    """An exception in words. ``frame``: where it was raised, without line numbers, so that an edit above keeps it."""

    name: str
    stacktrace: bytes
    frame: str


def shape_of(exception: BaseException) -> Shape:
    """Class and place of an exception and its causes: equal for two failures of the same bug. Cheap and hashable."""
    return tuple((type(exc), _lines(exc)) for exc in _chain(exception))


def describe(exception: BaseException) -> Described:
    """Name, trace (the last 8 KiB) and place of an exception."""
    parts = [_format(exc) for exc in reversed(list(_chain(exception)))]
    text = "\nThe above led to:\n\n".join(parts)
    return Described(qualified_name(type(exception)), clip_start(text, MAX_STACKTRACE_BYTES), _top_frame(exception))


def fingerprint(stage: str, failure: str, place: str) -> bytes:
    """16 hex digits of stage, class or reason, and place."""
    return hashlib.blake2b(f"{stage}\0{failure}\0{place}".encode(errors="replace"), digest_size=8).hexdigest().encode()


def qualified_name(kind: type) -> str:
    """``json.decoder.JSONDecodeError``; builtins without their module."""
    return kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"


def _chain(exception: BaseException) -> Iterator[BaseException]:
    """The exception, then what caused it."""
    seen: set[int] = set()
    current: BaseException | None = exception
    while current is not None and id(current) not in seen and len(seen) < MAX_CAUSES:
        seen.add(id(current))
        yield current
        current = current.__cause__ or (None if current.__suppress_context__ else current.__context__)


def _lines(exception: BaseException) -> tuple[tuple[CodeType, int], ...]:
    lines: list[tuple[CodeType, int]] = []
    tb = exception.__traceback__
    while tb is not None and len(lines) < MAX_FRAMES:
        lines.append((tb.tb_frame.f_code, tb.tb_lineno))
        tb = tb.tb_next
    return tuple(lines)


def _format(exception: BaseException) -> str:
    frames = traceback.format_tb(exception.__traceback__, limit=-MAX_FRAMES)
    return "".join(["Traceback (most recent call last):\n", *frames, qualified_name(type(exception)), "\n"])


def _top_frame(exception: BaseException) -> str:
    """``rules/geo.py:Locator.find`` of the frame that raised; empty without a traceback."""
    tb = exception.__traceback__
    if tb is None:
        return ""
    while tb.tb_next is not None:
        tb = tb.tb_next
    code = tb.tb_frame.f_code
    return f"{'/'.join(PurePath(code.co_filename).parts[-2:])}:{code.co_qualname}"
