"""From a record to a valid interaction, or to the one reason why not. A pure function of the record and the limits."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from app.domain.clickstream import EVENT_TYPES, TRACK
from app.domain.codec import Limits, decode
from app.domain.dedupe import digest_of
from app.domain.errors import Reason, Rejection
from app.domain.events import Event, Interaction, product_ids
from app.domain.routing import hash_of
from app.domain.times import BadTimestamp, broker_time_ms, event_time_ms, in_words


class SourceRecord(Protocol):
    """What classification reads of a consumed record. ``timestamp`` is epoch ms."""

    @property
    def partition(self) -> int: ...
    @property
    def key(self) -> bytes | None: ...
    @property
    def value(self) -> bytes | None: ...
    @property
    def timestamp(self) -> int: ...
    @property
    def headers(self) -> Sequence[tuple[str, bytes | None]]: ...


def classify(record: SourceRecord, limits: Limits) -> Interaction | Rejection:
    """Decode and validate one record; all checks of all stages, in a fixed order."""
    event = decode(record.value, limits)
    if isinstance(event, Rejection):
        return event
    headers = record.headers
    limits_ms = broker_time_ms(record.timestamp, headers) if headers else record.timestamp
    interaction = validate(event, record.timestamp, limits_ms, limits)
    if isinstance(interaction, Rejection):
        return interaction
    return check_route(interaction, record.key, record.partition, limits.partitions) or interaction


def validate(event: Event, record_ms: int, limits_ms: int, limits: Limits) -> Interaction | Rejection:
    """Check fields and event time.

    Args:
        record_ms: the record's timestamp, the last resort for an event without any time of its own.
        limits_ms: broker time that ``max_age_ms`` and ``max_ahead_ms`` are measured from (see ``broker_time_ms``).
    """
    properties = event.properties
    items = () if properties is None else product_ids(properties)
    message_id, user_id, anonymous_id = event.message_id or "", event.user_id or "", event.anonymous_id or ""
    complete = message_id and (user_id or anonymous_id) and (event.event or event.type != TRACK) and event.type in EVENT_TYPES
    # Nothing is too long when all together are not: one comparison for nearly every event.
    if not complete or len(message_id) + len(user_id) + len(anonymous_id) + len("".join(items)) > limits.max_id_chars:
        rejection = check_fields(event, items, limits.max_id_chars)
        if rejection is not None:
            return rejection
    try:
        time_ms = event_time_ms(event, record_ms)
    except BadTimestamp as exc:
        return Rejection(Reason.BAD_TIMESTAMP, str(exc))
    if not limits_ms - limits.max_age_ms <= time_ms <= limits_ms + limits.max_ahead_ms:
        return _out_of_time(time_ms - limits_ms, limits)
    user_key = f"u:{user_id}" if user_id else f"a:{anonymous_id}"
    return Interaction(event, user_key, digest_of(message_id), time_ms, items)


def check_fields(event: Event, items: tuple[str, ...], max_id_chars: int) -> Rejection | None:
    """What the type of the call demands is there, and no id is too long."""
    if event.type not in EVENT_TYPES:
        return Rejection(Reason.UNKNOWN_TYPE, "`type` is missing or not a call of the Segment spec")
    if not event.message_id:
        return Rejection(Reason.MISSING_MESSAGE_ID, "`messageId` is missing or empty")
    if not event.user_id and not event.anonymous_id:
        return Rejection(Reason.MISSING_IDENTITY, "neither `userId` nor `anonymousId` is set")
    if event.type == TRACK and not event.event:
        return Rejection(Reason.MISSING_EVENT_NAME, "a track call without `event`")
    return _too_long(event, items, max_id_chars)


def check_route(interaction: Interaction, key: bytes | None, partition: int, partitions: int) -> Rejection | None:
    """The record's key must be the event's identity and its partition must be the key's."""
    if key is None:
        return Rejection(Reason.MISROUTED, "the record has no key")
    identity = interaction.event.user_id or interaction.event.anonymous_id or ""
    if key != identity.encode():
        return Rejection(Reason.KEY_MISMATCH, "the record's key is not `userId`, else `anonymousId`")
    expected = hash_of(identity) % partitions
    if expected != partition:
        return Rejection(Reason.MISROUTED, f"partition {partition}, but murmur2 of the key gives {expected} of {partitions}")
    return None


def _too_long(event: Event, items: tuple[str, ...], max_chars: int) -> Rejection | None:
    ids = [("messageId", event.message_id), ("userId", event.user_id), ("anonymousId", event.anonymous_id)]
    for name, value in ids + [("product_id", item) for item in items]:
        if value is not None and len(value) > max_chars:
            return Rejection(Reason.ID_TOO_LONG, f"`{name}` has {len(value)} characters, the limit is {max_chars}")
    return None


def _out_of_time(ahead_ms: int, limits: Limits) -> Rejection:
    if ahead_ms < 0:
        return Rejection(Reason.TOO_OLD, _beyond(-ahead_ms, "before", limits.max_age_ms))
    return Rejection(Reason.TOO_FAR_AHEAD, _beyond(ahead_ms, "after", limits.max_ahead_ms))


def _beyond(ms: int, side: str, limit_ms: int) -> str:
    found, limit = in_words(ms), in_words(limit_ms)
    if found == limit:  # a hair beyond it
        found, limit = f"{ms} ms", f"{limit_ms} ms"
    return f"event time is {found} {side} the record's, the limit is {limit}"
