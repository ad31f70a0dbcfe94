"""How a record looks on a terminal, and as one JSON object a line."""

from __future__ import annotations

import base64
import json
from datetime import UTC, datetime
from typing import Any, Final

from rich.console import Console
from rich.json import JSON
from rich.padding import Padding
from rich.text import Text

from app.engine.api import Record

TIMESTAMP_TYPES: Final = {0: "CreateTime", 1: "LogAppendTime"}
#: Longest value that is shown whole; ``--json`` has no limit.
SHOWN_BYTES: Final = 4096
SHOWN_HEADER_CHARS: Final = 300
INDENT: Final = (0, 0, 0, 2)


def show(console: Console, record: Record) -> None:
    """Position, time and key on one line; headers and value below it."""
    line = Text()
    line.append(f"{record.topic}[{record.partition}]@{record.offset}", "bold cyan")
    line.append(f"  {rfc3339(record.timestamp)}", "dim")
    line.append("  key ", "dim").append("none" if record.key is None else printable(_text(record.key)), "green")
    console.print(line, soft_wrap=True)
    for name, value in record.headers:
        text = "null" if value is None else printable(_text(value))
        shown = text if len(text) <= SHOWN_HEADER_CHARS else f"{text[:SHOWN_HEADER_CHARS]} ... ({len(text)} characters)"
        console.print(Padding(Text.assemble((f"{printable(name)}: ", "yellow"), shown), INDENT))
    console.print(Padding(_value(record.value), INDENT))


def as_json(record: Record) -> dict[str, Any]:
    """All of a record. Bytes that are not UTF-8 text become ``{"base64": ...}``."""
    return {
        "topic": record.topic,
        "partition": record.partition,
        "offset": record.offset,
        "timestamp_ms": record.timestamp,
        "timestamp_type": TIMESTAMP_TYPES.get(record.timestamp_type, "NoTimestampType"),
        "key": _plain(record.key),
        "headers": [[name, _plain(value)] for name, value in record.headers],
        "value": _parsed(record.value),
    }


def rfc3339(epoch_ms: int) -> str:
    """UTC with milliseconds; the number itself when no calendar has it."""
    try:
        return datetime.fromtimestamp(epoch_ms / 1000, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    except (ValueError, OverflowError, OSError):
        return f"{epoch_ms} ms"


def printable(text: str) -> str:
    """Without characters that could steer a terminal: records are written by strangers."""
    return "".join(char if char.isprintable() or char == "\n" else repr(char)[1:-1] for char in text)


def _value(value: bytes | None) -> Text | JSON:
    if value is None:
        return Text("null", "dim")
    if len(value) <= SHOWN_BYTES:
        try:
            shown = JSON(printable(json.dumps(json.loads(value), ensure_ascii=False)))
            shown.text.no_wrap = False  # rich would cut each line at the width of the terminal
            return shown
        except ValueError:
            return Text(f"{printable(_text(value))}  (no JSON, {len(value)} bytes)")
    return Text(f"{printable(_text(value[:SHOWN_BYTES]))} ... ({len(value)} bytes)")


def _text(raw: bytes) -> str:
    return raw.decode("utf-8", errors="backslashreplace")


def _plain(raw: bytes | None) -> Any:
    if raw is None:
        return None
    try:
        return raw.decode()
    except UnicodeDecodeError:
        return {"base64": base64.b64encode(raw).decode()}


def _parsed(raw: bytes | None) -> Any:
    try:
        return None if raw is None else json.loads(raw)
    except ValueError:
        return _plain(raw)
