"""Activities: what events say of items, on their way from the users' partitions to those of the windows' keys.

One event gives an activity per item that it names, or one without an item, also where no window looks at its items
(``activity_keys``). A window's key (``item_of``, ``event_of``,
``category_of``) says where an activity goes: to the partition of the key's murmur2 hash, together with all others of
its batch that go there. So one Kafka record carries many, and costs what one record costs. Windows with few keys are
counted where the events are, and their parts go the same way (``partials``).

Delivery may repeat a record, with other neighbours than before. Every batch holds all activities of an event that go
to its partition, and the events of one upstream partition come in the order of their offsets; so the highest offset
applied per upstream partition says of each activity whether it is new.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Final

import msgspec

from app.domain.partials import Part
from app.domain.routing import hash_of
from app.domain.session_events import MAX_CATEGORY_CHARS, NameCode, OrderLine, SessionEvent, whole_units

VERSION: Final = 1


class Activity(msgspec.Struct, frozen=True, gc=False, array_like=True):
    """What an event does with one item, or with none. Times are UTC epoch ms, ``price`` is of one unit, as it was sent."""

    #: Of the event, in its upstream partition.
    offset: int
    time_ms: int
    #: The upstream partition's, after this event.
    watermark_ms: int
    name: NameCode
    user: str
    item: str | None = None
    units: int = 1
    price: int | float | str | None = None
    category: str | None = None
    #: The event's n-th item, from 0.
    line: int = 0


class ActivityBatch(msgspec.Struct, frozen=True, gc=False, array_like=True):
    """One record of the topic: what a batch of an upstream partition has for one downstream partition, maybe nothing."""

    version: int
    upstream: int
    #: The upstream partition's, after the last event of its batch.
    watermark_ms: int
    #: By the name of the key function, in the order of offsets.
    activities: dict[str, list[Activity]]
    #: Windows that the upstream partition has closed for itself.
    parts: list[Part] = []


KeyOf = Callable[[Activity], str | None]


class UnreadableActivities(Exception):
    """A record is no batch of activities that this build can read. The message holds no payload."""

    reason: Final = "unreadable_activities"


encode_batch: Final = msgspec.msgpack.Encoder().encode
_decode: Final = msgspec.msgpack.Decoder(ActivityBatch).decode


def decode_batch(raw: bytes | None) -> ActivityBatch:
    """Read a record's value.

    Raises:
        UnreadableActivities: it is something else, or of a newer build.
    """
    try:
        batch = _decode(raw or b"")
    except msgspec.MsgspecError as exc:
        raise UnreadableActivities("not a batch of activities") from exc
    if batch.version != VERSION:
        raise UnreadableActivities(f"format version {batch.version}, this build reads {VERSION}")
    return batch


class Router:
    """Gathers the activities of one batch of an upstream partition.

    Args:
        keys: key functions by name.
        partitions: of the topic.
    """

    __slots__ = ("_by_partition", "_keys", "_partitions", "_parts", "_upstream")

    def __init__(self, keys: Mapping[str, KeyOf], partitions: int, upstream: int) -> None:
        #: With the list that activities of a key go to, as far as there were any.
        self._keys = tuple((name, key_of, dict[str, list[Activity]]()) for name, key_of in keys.items())
        self._partitions = partitions
        self._upstream = upstream
        self._by_partition: dict[int, dict[str, list[Activity]]] = {}
        self._parts: dict[int, list[Part]] = {}

    def add_part(self, part: Part) -> None:
        """A window that this partition has closed for itself."""
        self._parts.setdefault(hash_of(part.key) % self._partitions, []).append(part)

    def add(self, activity: Activity) -> None:
        """Of valid, unique events, in the order of offsets."""
        for name, key_of, lists in self._keys:
            key = key_of(activity)
            if key is None:
                continue
            found = lists.get(key)
            if found is None:
                to = self._by_partition.setdefault(hash_of(key) % self._partitions, {})
                found = lists[key] = to.setdefault(name, [])
            found.append(activity)

    def batches(self, watermark_ms: int, everyone: bool) -> Iterable[tuple[int, ActivityBatch]]:
        """What to send, by partition; to all of them if ``everyone`` is to know the watermark."""
        found, parts = self._by_partition, self._parts
        for partition in range(self._partitions) if everyone else sorted(found.keys() | parts):
            batch = ActivityBatch(VERSION, self._upstream, watermark_ms, found.get(partition, {}), parts.get(partition, []))
            yield partition, batch


def activities_of(offset: int, user: str, event: SessionEvent, lines: Sequence[OrderLine], watermark_ms: int) -> Sequence[Activity]:
    """One per line of a valid, unique event, or one without an item; ``watermark_ms`` after it."""
    if not lines:
        return (Activity(offset, event.time_ms, watermark_ms, event.name, user),)
    return [_activity(offset, user, event, watermark_ms, line, number) for number, line in enumerate(lines)]


def _activity(offset: int, user: str, event: SessionEvent, watermark_ms: int, line: OrderLine, number: int) -> Activity:
    item, units, category = str(line.product_id), whole_units(line.quantity), line.category
    category = category[:MAX_CATEGORY_CHARS] if category else None
    return Activity(offset, event.time_ms, watermark_ms, event.name, user, item, units, line.price, category, number)
