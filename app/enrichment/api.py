"""What a lookup of reference data gives, and how it can fail.

    reference data
    |- Known         the row, or that there is none; fresh, or stale within the bounds of its table
    `- Unavailable   the world is bad: the caller applies the table's policy (pass with the default, or retry)

    at start
    |- ReferenceConfigError   the declaration is wrong
    `- ReferenceSchemaError   the database does not have what is declared

Only the start raises to an operator; a lookup never does because a service is down.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

Row = Mapping[str, Any]
"""Column to plain JSON value"""
Rows = dict[str, dict[str, Any]]
"""Key to row, of the keys that exist"""
Tier = Literal["process", "redis", "database"]
Trouble = Literal["database_down", "breaker_open", "over_budget", "failed"]


class ReferenceConfigError(Exception):
    """The declaration of reference tables is wrong. The message says where and what to do; start again after that."""


class ReferenceSchemaError(Exception):
    """The database lacks a declared table or column, or its key is of a type that cannot be looked up.

    Operator action: as the message says, make it or correct the declaration, then start again.
    """

    def __init__(self, problems: Iterable[str]) -> None:
        self.problems = tuple(problems)
        super().__init__("The reference database does not have what is declared:\n" + "\n".join(f"  {p}" for p in self.problems))


class StoreUnavailable(Exception):
    """The database did not answer: down, too slow, or it refused. Try again later."""

    def __init__(self, table: str, cause: BaseException) -> None:
        super().__init__(f"reference table {table} cannot be read: {cause!r}")
        self.table = table


class UnknownReference(Exception):
    """Nobody declared this reference table."""

    def __init__(self, name: str, known: Iterable[str]) -> None:
        super().__init__(f"no reference table {name!r}; declared are: {', '.join(sorted(known)) or 'none'}")
        self.name = name


@dataclass(frozen=True, slots=True)
class Known:
    """What the database said at ``as_of_ms``."""

    value: Row
    """The row, or the table's default"""
    raw: bytes
    """``value`` as a compact JSON object, columns in the order of their declaration"""
    found: bool
    """False: there is no such row"""
    as_of_ms: int
    """Nothing older than this (epoch ms): when the query began"""
    tier: Tier
    """Where this answer came from"""
    is_stale: bool = False
    """Past its ttl, within the bounds for stale answers"""
    part: bytes = field(init=False, repr=False, compare=False)
    """What an event is joined with: the row, as of when, and what is the matter with it; made once, joined many times"""

    def __post_init__(self) -> None:
        flags = (b"" if self.found else b',"found":false') + (b',"stale":true' if self.is_stale else b"")
        object.__setattr__(self, "part", b'{"as_of":%d%b,"row":%b}' % (self.as_of_ms, flags, self.raw))


@dataclass(frozen=True, slots=True)
class Unavailable:
    """Nobody can tell, and nothing remembered is young enough."""

    reason: Trouble


Answer = Known | Unavailable


@dataclass(slots=True)
class ReferenceCounters:
    """Cumulative counts for metrics, all tables together. Counted per key unless it says otherwise."""

    process_hits: int = 0
    redis_hits: int = 0
    database_rows: int = 0
    """Rows that the database gave"""
    negative: int = 0
    """Keys of which the database said that there is no row"""
    misses: int = 0
    """Keys that the process cache could not answer"""
    stale: int = 0
    """Stale answers while a refresh is due"""
    stale_on_error: int = 0
    """Stale answers because the database did not answer"""
    unavailable: int = 0
    refreshes: int = 0
    """Refreshes behind the caller's back"""
    shed: int = 0
    """Keys not fetched, or not refreshed, because of the load budget"""
    queries: int = 0
    """Queries, not keys"""
    errors: int = 0
    """Queries that failed"""
    redis_errors: int = 0
    """Calls to Redis that failed"""
    lease_waits: int = 0
    """Keys that another worker was fetching"""
    invalidated: int = 0
    overtaken: int = 0
    """Loads whose result was dropped because the key was invalidated meanwhile"""
    evicted: int = 0
    """Entries that left the process cache for want of room"""
