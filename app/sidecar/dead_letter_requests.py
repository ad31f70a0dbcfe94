"""What is asked about dead letters over HTTP: parameters and bodies, each with an example for whoever reads ``/docs``."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import Header, Path, Query
from pydantic import AwareDatetime, BaseModel, ConfigDict, Field

QueueName = Annotated[
    str | None, Query(max_length=1024, description="Absent: that of the source of events", examples=["dlq.veltrix.interactions"])
]
StatusName = Annotated[str | None, Query(max_length=1024, examples=["pending"])]
RecordId = Annotated[str, Path(examples=["dlq.veltrix.interactions:3:1042"], description="topic:partition:offset")]
Fingerprint = Annotated[str, Path(examples=["9f86d081884c7d65"])]
JobId = Annotated[str, Path(examples=["replay-3f0c2d9a41be"])]
IfMatch = Annotated[
    str | None,
    Header(alias="if-match", max_length=64, description="The state's ETag: nobody has done anything since", examples=['"3"']),
]
IdempotencyKey = Annotated[
    str | None,
    Header(
        alias="idempotency-key", min_length=1, max_length=200, examples=["fix-1.4.2"],
        description="Sent twice with the same one, a request is carried out once and answered twice",
    ),
]  # fmt: skip
BASE64_EXAMPLE = "eyJ0eXBlIjoidHJhY2siLCJ1c2VySWQiOiI0MiJ9"
PATCH_EXAMPLE = [{"op": "replace", "path": "/timestamp", "value": "2026-01-05T10:00:00Z"}]


class Strict(BaseModel):
    """Nothing that it does not know."""

    model_config = ConfigDict(extra="forbid")


class GroupChange(Strict):
    """What people know about a failure group. What is left out stays; null takes it away."""

    note: str | None = Field(None, max_length=2000, examples=["producer 4.2 sends ids as numbers; fix is in 4.3"])
    owner: str | None = Field(None, max_length=200, examples=["team-checkout"])
    muted_until: AwareDatetime | None = Field(None, examples=["2026-01-12T08:00:00Z"])


class Discard(Strict):
    """Why nobody needs the record."""

    reason: str = Field(min_length=1, max_length=2000, examples=["test traffic of last Monday"])


class Replay(Strict):
    """Send the record again; with `value_base64`, with these bytes in place of its own."""

    reason: str = Field(min_length=1, max_length=2000, examples=["release 1.4.2 reads this date format"])
    value_base64: str | None = Field(None, max_length=2_000_000, examples=[BASE64_EXAMPLE])
    force: bool = Field(False, examples=[False])


class Try(Strict):
    """The record as it is, or with other bytes."""

    value_base64: str | None = Field(None, max_length=2_000_000, examples=[BASE64_EXAMPLE])


class TryMany(Strict):
    """The newest pending letters of a group, as they are or patched (RFC 6902)."""

    limit: int = Field(1000, ge=1, le=5000, examples=[1000])
    patch: list[dict[str, Any]] | None = Field(None, max_length=100, examples=[PATCH_EXAMPLE])


class FilterBody(Strict):
    """Which letters; all that is set must match. Without `status` the pending ones."""

    status: str | None = Field(None, max_length=32, examples=["pending"])
    stage: str | None = Field(None, max_length=64, examples=["validate"])
    reason: str | None = Field(None, max_length=256, examples=["invalid_timestamp"])
    disposition: str | None = Field(None, max_length=64, examples=["invalid"])
    fingerprint: str | None = Field(None, max_length=256, examples=["9f86d081884c7d65"])
    exception_class: str | None = Field(None, alias="class", max_length=1024, examples=["ValueError"])
    version: str | None = Field(None, max_length=256, examples=["1.4.1"])
    key: str | None = Field(None, max_length=1024, examples=["user-000042"])
    failed_after: AwareDatetime | None = Field(None, examples=["2026-01-05T10:00:00Z"])
    failed_before: AwareDatetime | None = Field(None, examples=["2026-01-05T12:00:00Z"])
    q: str | None = Field(None, max_length=1024, examples=["Order Completed"])


class Canary(Strict):
    """How many are sent first, and what share of them must pass before the others follow. 0: no canary."""

    size: int = Field(100, ge=0, le=10_000, examples=[100])
    min_success: float = Field(0.95, ge=0, le=1, examples=[0.95])


class DiscardJob(Strict):
    """Discard every letter that matches. With `dry_run` only what would be done is said."""

    queue: str | None = Field(None, max_length=300, examples=["dlq.veltrix.interactions"])
    filter: FilterBody = Field(FilterBody(), examples=[{"fingerprint": "9f86d081884c7d65"}])
    reason: str = Field(min_length=1, max_length=2000, examples=["test traffic of last Monday"])
    max_records: int | None = Field(None, ge=1, examples=[10_000])
    dry_run: bool = Field(False, examples=[True])


class ReplayJob(DiscardJob):
    """Send every letter again that matches: first the canary, then slowly, then at the rate."""

    rate_per_second: float = Field(10, gt=0, examples=[50])
    max_age_ms: int | None = Field(None, ge=1, examples=[86_400_000])
    canary: Canary = Field(Canary(), examples=[{"size": 100, "min_success": 0.95}])
    max_lag: int = Field(10_000, ge=0, examples=[10_000])
    patch: list[dict[str, Any]] | None = Field(None, max_length=100, examples=[PATCH_EXAMPLE])
    force: bool = Field(False, examples=[False])
