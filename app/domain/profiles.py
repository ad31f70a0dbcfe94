"""What is known about one user, folded event by event.

Stored as a MessagePack array whose first element is the format's version. Fields may be added at the end, with a
default: values written before still decode. Any other change needs a new version and a branch in ``decode_profile``.
"""

from __future__ import annotations

from typing import Any, Final

import msgspec

from app.domain.clickstream import NAMES, OTHER_CODE, TRACK, TRACK_CODES, TYPE_CODES
from app.domain.damage import DamagedState
from app.domain.dedupe import Recent
from app.domain.events import Event, Interaction

VERSION: Final = 1
LAST_ITEMS: Final = 5
#: Custom event names that one profile lists; all further ones are counted together.
MAX_CUSTOM_NAMES: Final = 24
#: A longer custom name is counted with the others: it would be rewritten with every event of the user.
MAX_NAME_CHARS: Final = 64

NameCode = int | str


class UserProfile(msgspec.Struct, frozen=True, gc=False, array_like=True):
    """State of one user. Times are UTC epoch ms; the mapping in it is never changed after construction."""

    version: int
    #: Earliest and latest event time.
    first_seen_ms: int
    last_seen_ms: int
    #: Latest broker time of its records: never goes back.
    received_ms: int
    #: Unique valid events so far; also the number of the last one.
    sequence: int
    #: Events by name: a code of ``clickstream`` or a custom name.
    counts: dict[NameCode, int]
    #: Last distinct product ids, newest first.
    last_items: tuple[str, ...]
    recent: Recent


class UnreadableProfileError(DamagedState):
    """A stored profile has a format version that this build does not know.

    Operator action: run a build at least as new as the one that wrote it.
    """

    def __init__(self, version: object) -> None:
        super().__init__(f"stored profile has format version {version}, this build reads up to {VERSION}")
        self.version = version


_decode: Final = msgspec.msgpack.Decoder(UserProfile).decode


def decode_profile(raw: bytes) -> UserProfile:
    """Read a stored value of any known version.

    Raises:
        UnreadableProfileError: a newer build wrote it.
        msgspec.DecodeError: it is not a stored profile at all.
    """
    profile = _decode(raw)
    if profile.version != VERSION:
        raise UnreadableProfileError(profile.version)
    return profile


def apply(profile: UserProfile | None, interaction: Interaction, received_ms: int, recent: Recent) -> UserProfile:
    """The profile after one more unique event.

    Args:
        profile: None for the user's first event.
        received_ms: the record's timestamp.
        recent: the remembered ids, this event's included.
    """
    time_ms = interaction.time_ms
    if profile is None:
        items = _newest_first(interaction.items, ())
        return UserProfile(VERSION, time_ms, time_ms, received_ms, 1, {_code_of(interaction.event, {}): 1}, items, recent)
    counts = profile.counts.copy()
    event = interaction.event
    # Most events are track calls of a well-known name: those are spared the call.
    code = (TRACK_CODES.get(event.event or "") if event.type == TRACK else None) or _code_of(event, counts)
    counts[code] = counts.get(code, 0) + 1
    first, last, received = profile.first_seen_ms, profile.last_seen_ms, profile.received_ms
    # Per event, so comparisons and not calls: min() and max() cost four times as much.
    return UserProfile(
        VERSION,
        first if first <= time_ms else time_ms,  # noqa: FURB136
        last if last >= time_ms else time_ms,  # noqa: FURB136
        received if received >= received_ms else received_ms,  # noqa: FURB136
        profile.sequence + 1,
        counts,
        _newest_first(interaction.items, profile.last_items) if interaction.items else profile.last_items,
        recent,
    )


def to_json(profile: UserProfile) -> dict[str, Any]:
    """The public representation, as lookups serve it: names restored, nothing of the remembered ids."""
    counts: dict[str, int] = {}
    for code, count in profile.counts.items():
        name = code if isinstance(code, str) else NAMES.get(code, f"${code}")
        counts[name] = counts.get(name, 0) + count
    return {
        "sequence": profile.sequence,
        "first_seen_ms": profile.first_seen_ms,
        "last_seen_ms": profile.last_seen_ms,
        "received_ms": profile.received_ms,
        "counts": counts,
        "last_items": list(profile.last_items),
    }


def _code_of(event: Event, counts: dict[NameCode, int]) -> NameCode:
    name = event.event
    if event.type != TRACK or name is None:
        return TYPE_CODES[event.type or ""]
    code = TRACK_CODES.get(name)
    return _custom_code(name, counts) if code is None else code


def _custom_code(name: str, counts: dict[NameCode, int]) -> NameCode:
    if name in counts:
        return name
    full = len(counts) >= MAX_CUSTOM_NAMES and sum(isinstance(c, str) for c in counts) >= MAX_CUSTOM_NAMES
    return OTHER_CODE if full or len(name) > MAX_NAME_CHARS else name


def _newest_first(items: tuple[str, ...], last: tuple[str, ...]) -> tuple[str, ...]:
    """Put each of ``items`` in front of ``last``, the final one foremost; distinct, at most ``LAST_ITEMS``."""
    for item in items:
        if item not in last:
            last = (item,) + last[: LAST_ITEMS - 1]  # noqa: RUF005 - unpacking builds a list first
        elif item != last[0]:
            last = (item, *[other for other in last if other != item])
    return last
