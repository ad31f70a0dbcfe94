"""A job over many dead letters: what it is to do, how far it is, how fast it may go, when it must stop.

Pure. A job's record goes out in the same transaction as what it has just done, so after a crash its counts are those of
what was really sent.
"""

from __future__ import annotations

import base64
from dataclasses import replace
from typing import Any, Final, Literal

import msgspec

from app.dead_letters.api import Filters

JobState = Literal["RUNNING", "PAUSED", "COMPLETED", "CANCELLED", "FAILED"]
JobKind = Literal["replay", "discard"]
ACTIVE: Final = frozenset({"RUNNING", "PAUSED"})

#: Letters of one transaction.
BATCH: Final = 500
#: After the canary a job begins at this share of its rate and doubles it in so many seconds.
RAMP_START: Final = 0.1
RAMP_DOUBLES_S: Final = 5.0


class Job(msgspec.Struct, frozen=True, omit_defaults=True):
    """One job. Times are epoch ms; ``filters`` as JSON (``key`` in base64)."""

    id: str
    queue: str
    state: JobState
    kind: JobKind
    filters: dict[str, Any]
    reason: str
    by: str
    created_ms: int
    matched: int
    rate_per_second: float = 10.0
    max_records: int | None = None
    canary_size: int = 100
    canary_min_success: float = 0.95
    max_lag: int = 10_000
    patch: list[dict[str, Any]] | None = None
    force: bool = False
    sent: int = 0
    skipped: int = 0
    exhausted: int = 0
    discarded: int = 0
    cursor_ms: int = 0
    """everything that failed earlier is done"""
    is_canary_passed: bool = False
    note: str | None = None
    updated_ms: int = 0

    @property
    def done(self) -> int:
        """Letters that it has looked at."""
        return self.sent + self.skipped + self.exhausted + self.discarded

    @property
    def is_active(self) -> bool:
        return self.state in ACTIVE

    @property
    def wanted(self) -> Filters:
        """What it works on: what had failed when it was made, and nothing newer (its own failures among them)."""
        filters = decode_filters(self.filters)
        before = filters.failed_before_ms
        return replace(
            filters,
            status=filters.status or "pending",
            failed_before_ms=self.created_ms if before is None else min(before, self.created_ms),
        )

    def next_batch(self, seconds: float) -> int:
        """How many letters may be taken now; ``seconds``: since the canary was passed, or since it began."""
        left = [BATCH, max(1, int(self.rate(seconds) / 2))]
        if self.max_records is not None:
            left.append(self.max_records - self.done)
        if self.has_canary and not self.is_canary_passed:
            left.append(self.canary_size - self.sent)
        return max(0, min(left))

    @property
    def has_canary(self) -> bool:
        """A discard sends nothing, so nothing can fail again."""
        return self.kind == "replay" and self.canary_size > 0

    def rate(self, seconds: float) -> float:
        """Letters per second, ramping up after a canary."""
        if not self.has_canary or not self.is_canary_passed:
            return self.rate_per_second
        return self.rate_per_second * min(1.0, RAMP_START * float(2.0 ** min(seconds / RAMP_DOUBLES_S, 64.0)))

    @property
    def is_at_canary(self) -> bool:
        """As much as the canary is was sent, and it is not judged yet."""
        return self.has_canary and not self.is_canary_passed and self.sent >= self.canary_size

    def judged(self, failed_again: int) -> Job:
        """The job when it is known how many of those that were sent failed again: goes on, or is paused."""
        if self.kind == "discard" or not self.sent:
            return self
        share = 1 - failed_again / self.sent
        if share < self.canary_min_success:
            note = f"{failed_again} of {self.sent} failed again ({share:.0%} passed, {self.canary_min_success:.0%} wanted)"
            return msgspec.structs.replace(self, state="PAUSED", note=note)
        return msgspec.structs.replace(self, is_canary_passed=True) if self.is_at_canary else self

    def held_by_lag(self, lag: int) -> Job:
        """The job when the source is that far behind: the live stream comes first."""
        if lag <= self.max_lag:
            return self
        return msgspec.structs.replace(self, state="PAUSED", note=f"the source is {lag} records behind (limit {self.max_lag})")


encode_job: Final = msgspec.json.Encoder().encode
decode_job: Final = msgspec.json.Decoder(Job).decode


def encode_filters(filters: Filters) -> dict[str, Any]:
    """As a job's record has them."""
    names = [name for name in Filters.__dataclass_fields__ if getattr(filters, name) is not None]
    found = {name: getattr(filters, name) for name in names}
    return found | ({"key": base64.b64encode(found["key"]).decode()} if "key" in found else {})


def decode_filters(raw: dict[str, Any]) -> Filters:
    """Inverse of :func:`encode_filters`."""
    return Filters(**(raw | ({"key": base64.b64decode(raw["key"])} if "key" in raw else {})))
