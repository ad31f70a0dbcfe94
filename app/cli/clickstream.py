"""Realistic clickstream traffic: seeded, without a clock and without Kafka.

Visitors and items follow Zipf laws; every session walks the funnel of the Segment e-commerce spec:
page -> Product List Viewed -> Product Viewed -> Product Added -> Checkout Started -> Order Completed.
A stated share of the records is wrong on purpose, another is a valid event sent again later.
The same seed, run tag and times give the same bytes.
"""

from __future__ import annotations

import random
from bisect import bisect_left
from collections import deque
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from itertools import accumulate
from typing import Any, Final, Literal, NamedTuple

import msgspec

from app.cli.storefront import Item, Visit, Visitor
from app.domain.errors import Reason

BadKind = Literal["truncated_json", "missing_identity", "missing_message_id", "wrong_type", "oversize", "future_time"]
Kind = Literal["valid", "duplicate"] | BadKind

#: Every way to be wrong, with the reason that validation gives for it.
BAD_KINDS: Final[Mapping[BadKind, Reason]] = {
    "truncated_json": Reason.INVALID_JSON,
    "missing_identity": Reason.MISSING_IDENTITY,
    "missing_message_id": Reason.MISSING_MESSAGE_ID,
    "wrong_type": Reason.WRONG_TYPE,
    "oversize": Reason.OVERSIZE,
    "future_time": Reason.TOO_FAR_AHEAD,
}
#: How many of the newest valid events may be sent again. Below the smallest de-duplication horizon (1024 ids of one user).
RESEND_WINDOW: Final = 1000
#: An oversize event is this long; the limit (setting max_event_bytes) is 32 KiB.
OVERSIZE_BYTES: Final = 40 * 1024
#: A far-future event is this far ahead; the limit (setting max_ahead_ms) is 5 minutes.
FUTURE_MS: Final = 30 * 86_400_000
# Exponents: 20,000 visitors at 0.8 give the busiest 3 % of the sessions (1.0 would give 9.5 %, more than a real shop has).
VISITOR_EXPONENT: Final = 0.8
ITEM_EXPONENT: Final = 1.0

_BAD: Final = tuple(BAD_KINDS)
_encode = msgspec.json.Encoder().encode


class Click(NamedTuple):
    """One record to send. ``kind`` says what it is; it is not part of the record."""

    kind: Kind
    key: bytes
    value: bytes


class Zipf:
    """Ranks 0 .. n-1, rank r with weight 1 / (r + 1) ** exponent."""

    def __init__(self, n: int, exponent: float) -> None:
        if n < 1:
            raise ValueError("a Zipf law needs at least one rank")
        self._cumulative = list(accumulate((r + 1) ** -exponent for r in range(n)))

    def rank(self, uniform: float) -> int:
        """The rank at ``uniform`` in [0, 1)."""
        return bisect_left(self._cumulative, uniform * self._cumulative[-1])


class Clickstream:
    """Endless traffic of a shop. Time is an argument: ``next(at_ms)`` makes the record due at that epoch millisecond.

    Args:
        seed: of all choices.
        users: how many visitors there are (known and anonymous together).
        items: how many products the shop has.
        run_tag: first part of every messageId; another tag makes other ids, so that a rerun is not de-duplicated.
        duplicate_share: share of records that repeat an earlier valid one, byte for byte.
        bad_share: share of records that are wrong, all of ``BAD_KINDS`` equally often.
        anonymous_share: share of sessions without ``userId``.
        concurrent_sessions: how many sessions are open at any time; a session ends, the next one begins.
    """

    def __init__(
        self,
        seed: int,
        users: int = 20_000,
        items: int = 2_000,
        run_tag: str = "run",
        *,
        duplicate_share: float = 0.01,
        bad_share: float = 0.005,
        anonymous_share: float = 0.2,
        concurrent_sessions: int = 500,
    ) -> None:
        if min(duplicate_share, bad_share, anonymous_share) < 0 or duplicate_share + bad_share > 1 or anonymous_share > 1:
            raise ValueError("shares lie between 0 and 1, duplicates and bad events together too")
        self._random = random.Random(seed)
        self._visitors, self._items = Zipf(users, VISITOR_EXPONENT), Zipf(items, ITEM_EXPONENT)
        self._run_tag = run_tag
        self._bad_below, self._duplicate_below = bad_share, bad_share + duplicate_share
        self._anonymous_share = anonymous_share
        self._made = 0
        self._recent: deque[Click] = deque(maxlen=RESEND_WINDOW)
        self._second, self._second_text = -1, ""
        self._visits = [self._new_visit() for _ in range(concurrent_sessions)]

    def next(self, at_ms: int) -> Click:
        """The next record, due at ``at_ms`` (epoch milliseconds: its event time)."""
        draw = self._random.random()
        if self._bad_below <= draw < self._duplicate_below and self._recent:
            return self._recent[int(self._random.random() * len(self._recent))]._replace(kind="duplicate")
        key, event = self._event(at_ms)
        if draw < self._bad_below:
            kind = self._random.choice(_BAD)
            return Click(kind, key, self._spoil(kind, event, at_ms))
        click = Click("valid", key, _encode(event))
        self._recent.append(click)
        return click

    def events(self, n: int, start_ms: int, interval_ms: float = 1.0) -> Iterator[Click]:
        """``n`` records, the i-th due at ``start_ms + i * interval_ms``."""
        for i in range(n):
            yield self.next(start_ms + int(i * interval_ms))

    def _event(self, at_ms: int) -> tuple[bytes, dict[str, Any]]:
        slot = int(self._random.random() * len(self._visits))
        visit = self._visits[slot]
        kind, name, properties = visit.advance(self._random.random, self._item)
        self._made += 1
        at = self._rfc3339(at_ms)
        event: dict[str, Any] = {"type": kind, "messageId": f"{self._run_tag}-{self._made:08x}", **visit.visitor.ids()}
        if kind == "track":
            event["event"] = name
        elif kind == "page":
            event["name"] = name
        event |= {"timestamp": at, "sentAt": at, "traits" if kind == "identify" else "properties": properties}
        event["context"] = visit.context
        if visit.ended:
            self._visits[slot] = self._new_visit()
        return visit.visitor.key, event

    def _spoil(self, kind: BadKind, event: dict[str, Any], at_ms: int) -> bytes:
        """The event as bytes, wrong in exactly one way."""
        match kind:
            case "truncated_json":
                text = _encode(event)
                return text[: 1 + int(self._random.random() * (len(text) - 1))]
            case "missing_identity":
                event.pop("userId", None)
                event.pop("anonymousId", None)
            case "missing_message_id":
                del event["messageId"]
            case "wrong_type":
                event["messageId"] = self._made
            case "oversize":
                event["context"] = {"padding": "x" * (OVERSIZE_BYTES - len(_encode(event)))}
            case "future_time":
                event["timestamp"] = event["sentAt"] = self._rfc3339(at_ms + FUTURE_MS)
        return _encode(event)

    def _new_visit(self) -> Visit:
        anonymous = self._random.random() < self._anonymous_share
        visitor = Visitor(self._visitors.rank(self._random.random()), anonymous)
        return Visit.begin(visitor, f"{self._random.getrandbits(48):012x}", self._random.random)

    def _item(self) -> Item:
        return Item(self._items.rank(self._random.random()))

    def _rfc3339(self, at_ms: int) -> str:
        second, ms = divmod(at_ms, 1000)
        if second != self._second:  # formatting the date is half the cost of an event, and neighbours share it
            self._second, self._second_text = second, datetime.fromtimestamp(second, UTC).strftime("%Y-%m-%dT%H:%M:%S")
        return f"{self._second_text}.{ms:03d}Z"
