"""One log line per event, for ``VELTRIX_LOG_LEVEL=debug``: what became of a ``messageId``, here and on whatever worker it came again.

At any other level this costs one comparison per micro-batch.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any, Final

import msgspec
import structlog

from app.domain.events import Interaction
from app.engine.api import Effects, Record

NAME: Final = "agents.process_interactions"

log = structlog.get_logger(NAME)
_is_kept = logging.getLogger(NAME).isEnabledFor


class _Named(msgspec.Struct, frozen=True, gc=False, rename="camel"):
    message_id: Any = None


_name = msgspec.json.Decoder(_Named).decode


def write(records: Sequence[Record], valid: list[tuple[Record, Interaction]], effects: Effects) -> None:
    """Tell the outcome of each of ``records``, if anybody wants to know."""
    if not _is_kept(logging.DEBUG):
        return
    ids = {record.offset: interaction.event.message_id for record, interaction in valid}
    failures = {record.offset: ("event_dead_lettered", failure.reason) for record, failure in effects.dead_letters}
    failures |= {record.offset: ("event_retried", failure.reason) for record, failure in effects.retrying}
    emitted = {record.offset for record, _ in effects.outputs}
    for record in records:
        offset = record.offset
        outcome, reason = failures.get(offset, ("event_emitted" if offset in emitted else "event_duplicate", None))
        details = {} if reason is None else {"reason": reason}
        message_id = ids.get(offset) or _message_id(record.value)
        log.debug(outcome, message_id=message_id, topic=record.topic, offset=offset, **details)


def _message_id(value: bytes | None) -> str | None:
    """That of an event which was refused, as far as it has one."""
    try:
        found = _name(value or b"").message_id
    except msgspec.MsgspecError:
        return None
    return str(found)[:512] if isinstance(found, str | int) else None
