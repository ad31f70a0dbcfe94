"""What must not leave in a log line: configured secrets, logins in URLs, and values whose name says secret."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Set
from typing import Any
from urllib.parse import unquote, urlsplit

from pydantic import SecretStr
from structlog.types import EventDict, WrappedLogger

from app.settings import Settings

REDACTED = "***"

_SECRET_NAME = re.compile(r"passw|secret|token|credential|authorization|api_?key", re.IGNORECASE)
_URL_LOGIN = re.compile(r"(\b[a-z][a-z0-9+.-]*://[^\s:/@\"]*):[^\s/@\"]+@", re.IGNORECASE)


def without_logins(text: str) -> str:
    """``text`` with the passwords in its URLs left out."""
    return _URL_LOGIN.sub(rf"\1:{REDACTED}@", text)


def _passwords(url: str) -> set[str]:
    try:
        password = urlsplit(url).password or ""
    except ValueError:  # no URL: refused where it is used, with a sentence of its own
        return set()
    return {password, unquote(password)}


class Redactor:
    """Replaces secrets, whoever logged them. Knows the secrets of ``settings`` by value."""

    def __init__(self, settings: Settings) -> None:
        values = [getattr(settings, name) for name in Settings.model_fields]
        secrets = {value.get_secret_value() for value in values if isinstance(value, SecretStr)}
        secrets |= _passwords(settings.redis_url) | _passwords(settings.reference_url)
        longest_first = sorted(filter(None, secrets), key=len, reverse=True)
        self._secrets = re.compile("|".join(map(re.escape, longest_first))) if longest_first else None

    def text(self, text: str) -> str:
        """``text`` without configured secrets and URL logins."""
        text = without_logins(text)
        return self._secrets.sub(REDACTED, text) if self._secrets else text

    def value(self, value: Any) -> Any:
        """Any value as something JSON can hold, containers included. Bytes are payload as a rule: their size is all that a log may show."""
        match value:
            case str():
                return self.text(value)
            case float() if not math.isfinite(value):
                return repr(value)  # JSON has no word for it
            case None | bool() | int() | float():
                return value
            case bytes() | bytearray() | memoryview():
                return f"<{len(value)} bytes>"
            case Mapping():
                return {str(key): REDACTED if _SECRET_NAME.search(str(key)) else self.value(item) for key, item in value.items()}
            case list() | tuple() | Set():
                return [self.value(item) for item in value]
            case _:
                return self.text(repr(value))

    def event(self, logger: WrappedLogger, method: str, event: EventDict) -> EventDict:
        """As a structlog processor: all fields but the exception, which is rendered later."""
        exc_info = event.pop("exc_info", None)
        clean: EventDict = self.value(event)
        if exc_info is not None:
            clean["exc_info"] = exc_info
        return clean

    def line(self, logger: WrappedLogger, method: str, line: Any) -> str:
        """As a structlog processor after a renderer: the whole text, with the exception."""
        return self.text(str(line))
