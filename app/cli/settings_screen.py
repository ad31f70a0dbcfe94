"""What this process is configured with, as it would read it: for a look before a start, and beside one that runs."""

from __future__ import annotations

import os
from dataclasses import asdict, dataclass
from typing import Any

from pydantic import SecretStr
from rich.console import Console
from rich.markup import escape
from rich.padding import Padding

from app.settings import ENV_PREFIX, Settings, SettingsError, load_settings
from app.telemetry.redaction import REDACTED, without_logins


@dataclass(frozen=True, slots=True)
class Setting:
    """One setting. ``value`` and ``default`` as text, secrets and logins in URLs left out."""

    name: str
    value: str
    default: str
    source: str
    """``environment``, ``file`` (of a secret), ``profile`` or ``default``"""
    description: str


def read() -> tuple[Settings, SettingsError | None]:
    """The settings of this process; the defaults, and why, when one is wrong: whoever looks for the right name finds it here."""
    try:
        return load_settings(), None
    except SettingsError as exc:
        return Settings.model_construct(), exc


def settings_of(settings: Settings) -> list[Setting]:
    """All of them, in the order of ``app.settings``."""
    defaults = Settings.model_construct().model_dump()
    return [_setting(name, getattr(settings, name), defaults[name], settings) for name in Settings.model_fields]


def _setting(name: str, value: object, default: object, settings: Settings) -> Setting:
    shown = _text(value)
    return Setting(
        name=f"{ENV_PREFIX}{name.upper()}",
        value=shown,
        default=shown if value == default else _text(default),  # 1000.0 and 1000
        source=_source(name, settings),
        description=Settings.model_fields[name].description or "",
    )


def matching(found: list[Setting], word: str, *, is_set: bool) -> list[Setting]:
    """Those with ``word`` in name or description, and of them those that somebody has set."""
    word = word.lower()
    hits = [one for one in found if word in one.name.lower() or word in one.description.lower()]
    return [one for one in hits if one.source != "default"] if is_set else hits


def show(out: Console, found: list[Setting]) -> None:
    """As one would set it, and below that what it is."""
    for one in found:
        came = (
            "" if one.source == "default" else f"  [dim]from the {one.source}; the default is {escape(one.default or 'empty')}[/]"
        )
        name = one.name if one.source == "default" else f"[bold]{one.name}[/]"
        out.print(f"{name}={escape(one.value)}{came}", soft_wrap=True)
        if one.description:
            out.print(Padding(escape(one.description), (0, 0, 0, 4)), style="dim")


def as_json(found: list[Setting]) -> list[dict[str, Any]]:
    """The same, for programs."""
    return [asdict(one) for one in found]


def _text(value: object) -> str:
    if isinstance(value, SecretStr):
        return REDACTED if value.get_secret_value() else ""
    return "" if value is None else without_logins(str(value))


def _source(name: str, settings: Settings) -> str:
    if name not in settings.model_fields_set:
        return "default"
    variable = f"{ENV_PREFIX}{name.upper()}"
    return "environment" if variable in os.environ else "file" if f"{variable}_FILE" in os.environ else "profile"
