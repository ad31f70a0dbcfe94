"""Logs: one JSON object a line in ECS, or a readable line on a terminal; ours and the libraries' alike.

structlog and stdlib records (faust, mode, aiokafka, uvicorn, warnings) meet in one formatter, so both have the
same fields. Field names are ECS's dotted ones; keys of our own live under ``veltrix.``. Logs go to standard error.

Faust calls ``logging.config.dictConfig`` itself when a worker starts: give its ``logging_config`` setting
``logging_config(settings)`` (and no ``loghandlers``), or it would put its own handlers back.
"""

from __future__ import annotations

import logging
import logging.config
import sys
from typing import Any

import structlog
from structlog.types import EventDict, Processor, WrappedLogger

from app.log_context import current_fields
from app.settings import Settings
from app.telemetry.ecs import ToEcs
from app.telemetry.redaction import Redactor
from app.telemetry.repeats import FewRepeats

#: Libraries that tell at INFO what they do every few seconds, or what our own events say better.
NOISY = ("aiokafka", "asyncio", "faust", "httpx", "kafka", "mode", "urllib3", "uvicorn")


def configure_logging(settings: Settings) -> None:
    """Set up structlog and stdlib logging for this process. Safe to call twice."""
    logging.config.dictConfig(logging_config(settings))
    logging.captureWarnings(True)
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            structlog.stdlib.PositionalArgumentsFormatter(),
            *_shared(),
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        wrapper_class=structlog.stdlib.BoundLogger,
        logger_factory=structlog.stdlib.LoggerFactory(),
        cache_logger_on_first_use=False,  # cached loggers escape structlog.testing.capture_logs
    )


def logging_config(settings: Settings) -> dict[str, Any]:
    """The ``dictConfig`` of this process, also for Faust's ``logging_config`` setting."""
    level = settings.log_level.upper()
    noise = "INFO" if settings.log_level == "debug" else max("WARNING", level, key=logging.getLevelNamesMapping().__getitem__)
    return {
        "version": 1,
        "disable_existing_loggers": False,
        "formatters": {
            "veltrix": {
                "()": structlog.stdlib.ProcessorFormatter,
                "foreign_pre_chain": [structlog.stdlib.ExtraAdder(allow=("data",)), *_shared()],
                "processors": [structlog.stdlib.ProcessorFormatter.remove_processors_meta, *_renderer(settings)],
            }
        },
        "filters": {"few_repeats": {"()": FewRepeats}},
        "handlers": {
            "stderr": {
                "class": "logging.StreamHandler",
                "stream": "ext://sys.stderr",
                "formatter": "veltrix",
                "filters": ["few_repeats"],
            }
        },
        "loggers": {name: {"level": noise, "handlers": [], "propagate": True} for name in NOISY},
        "root": {"level": level, "handlers": ["stderr"]},
    }


def _shared() -> list[Processor]:
    """What both kinds of records go through, at the call (exception info is still there)."""
    return [
        structlog.contextvars.merge_contextvars,
        _say_what_is_worked_on,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.StackInfoRenderer(),
        _resolve_exception,
    ]


def _renderer(settings: Settings) -> list[Processor]:
    redact = Redactor(settings)
    if _wants_json(settings):
        return [ToEcs(settings, redact)]
    console = structlog.dev.ConsoleRenderer(
        colors=sys.stderr.isatty(),
        exception_formatter=structlog.dev.plain_traceback,  # rich's would print local variables: payloads, passwords
    )
    return [redact.event, console, redact.line]


def _wants_json(settings: Settings) -> bool:
    return settings.log_format == "json" or (settings.log_format == "auto" and not sys.stderr.isatty())


def _say_what_is_worked_on(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    """Agent, partition, batch and trace of the task that logs; what the line says itself stays."""
    for name, value in current_fields().items():
        event.setdefault(name, value)
    return event


def _resolve_exception(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    """``exc_info`` in any of its forms becomes a tuple, or goes when there is none."""
    found = event.pop("exc_info", None)
    if isinstance(found, BaseException):
        found = (type(found), found, found.__traceback__)
    elif found and not isinstance(found, tuple):
        found = sys.exc_info()
    if isinstance(found, tuple) and found[0] is not None:
        event["exc_info"] = found
    return event
