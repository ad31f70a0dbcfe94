"""One log event as one line of JSON in the Elastic Common Schema, with dotted field names throughout.

Keys of our own go under ``veltrix.``, so that they never collide with a field whose type ECS fixes.
"""

from __future__ import annotations

import json
import re
import traceback
from typing import Any

from structlog.types import EventDict, WrappedLogger

from app.settings import Settings
from app.telemetry.redaction import Redactor

ECS_VERSION = "8.17.0"
#: Indexers cut or refuse longer fields; the end of a trace names the culprit.
STACK_TRACE_CHARS = 16_384

_EVENT_NAME = re.compile(r"[a-z][a-z0-9_]*")
_ECS_NAMES = {"logger": "log.logger", "error": "error.message", "stack": "veltrix.stack"}


class ToEcs:
    """Last structlog processor: event dictionary in, one line of JSON out."""

    def __init__(self, settings: Settings, redact: Redactor) -> None:
        self._redact = redact
        self._service = {
            "ecs.version": ECS_VERSION,
            "service.name": settings.app_id,
            "service.version": settings.app_version,
            "event.dataset": f"{settings.app_id}.log",
        }
        if settings.worker_id:
            self._service["service.node.name"] = settings.worker_id

    def __call__(self, logger: WrappedLogger, method: str, event: EventDict) -> str:
        line = {"@timestamp": event.pop("timestamp"), "log.level": event.pop("level")}
        exception = event.pop("exc_info", None)
        message = self._redact.text(str(event.pop("event", "")))
        line["message"] = message
        line |= self._service
        if _EVENT_NAME.fullmatch(message):  # our own events are named, libraries write sentences
            line["event.action"] = message
        line |= self._redact.value({_field(key): value for key, value in event.items()})
        if exception is not None:
            line |= self._redact.value(_error(*exception))
        return json.dumps(line, separators=(",", ":"))  # ASCII: a lone surrogate in a key must not break the line


def _field(key: str) -> str:
    return _ECS_NAMES.get(key) or (key if "." in key else f"veltrix.{key}")


def _error(kind: type[BaseException], value: BaseException, trace: Any) -> dict[str, str]:
    name = kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"
    text = "".join(traceback.format_exception(kind, value, trace))
    return {"error.type": name, "error.message": str(value), "error.stack_trace": text[-STACK_TRACE_CHARS:]}
