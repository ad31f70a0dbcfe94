"""What readers of hot lookups get, and how a lookup can fail.

Redis is a copy for reading: never truth (that is the changelog, then RocksDB), never in the way of the stream.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol, Self

from app.engine.api import LookupKeys, View

Source = Literal["redis", "table"]
Reason = Literal["redis_down", "not_covered", "not_configured"]


class UnknownLookup(Exception):
    """No view declares this lookup resource."""

    def __init__(self, resource: str, known: list[str]) -> None:
        super().__init__(f"no lookup {resource!r}; there are: {', '.join(known) or 'none'}")
        self.resource = resource


class InvalidLookupKey(Exception):
    """The key is not ``u:<userId>`` or ``a:<anonymousId>``."""

    def __init__(self, key: str) -> None:
        super().__init__(f"lookup key {key!r}: give u:<userId> or a:<anonymousId>")
        self.key = key


class LookupUnavailable(Exception):
    """Nobody here can say whether the key exists: try again later, or ask the worker that owns the partition.

    ``redis_down``: Redis does not answer. ``not_covered``: Redis is being refilled. ``not_configured``: there is no
    Redis. In all three cases the partition is not on this worker, or its table would have answered.
    """

    def __init__(self, reason: Reason, partition: int) -> None:
        super().__init__(f"lookup unavailable ({reason}); partition {partition} is not on this worker")
        self.reason: Reason = reason
        self.partition = partition


@dataclass(frozen=True, slots=True)
class LookupView:
    """One resource that is served: which agent's table, under which key prefix, and how a raw value becomes public."""

    agent: str
    resource: str
    prefix: bytes
    decode: Callable[[bytes], Any]
    keys: LookupKeys = "user"

    @classmethod
    def of(cls, agent: str, view: View[Any], public: Callable[[Any], Any]) -> Self:
        """The lookup that ``view`` declares; ``public`` turns its value into what the API shows."""
        if view.lookup is None:
            raise ValueError(f"view {view.name} declares no lookup")
        decode = view.decode
        return cls(agent, view.lookup, view.prefix, lambda raw: public(decode(raw)), view.lookup_keys)


@dataclass(frozen=True, slots=True)
class LookupAnswer:
    """One value and how fresh it is."""

    resource: str
    key: str
    value: Any
    """As ``LookupView.decode`` gives it"""
    raw: bytes
    """The state's own bytes"""
    source: Source
    partition: int
    changelog_offset: int
    """Stamp of the write that brought the value"""
    source_offset: int
    """Source offset of that write; -1 when unknown (after a catch-up, or from the table)"""
    covered_offset: int
    """Nothing newer was written to this key up to this changelog offset of its partition"""
    covered_at_ms: int | None
    """When Redis was last known to be that far (epoch ms); None from the table"""
    covered_source_offset: int = -1
    """All source records of the partition up to this one are in the copy that answered; -1 when it cannot tell"""


Found = LookupAnswer | LookupUnavailable | None
"""What a read comes to; None: there is no such key"""


class LookupReader(Protocol):
    """Reading hot lookups: what the sidecar needs."""

    async def read(self, resource: str, key: str) -> LookupAnswer | None:
        """The value of ``key`` (``u:42``), None when there is no such key.

        Raises:
            UnknownLookup, InvalidLookupKey: the question is wrong.
            LookupUnavailable: it cannot be answered here and now.
        """
        ...

    def keys_of(self, resource: str) -> LookupKeys:
        """How this resource's keys are spelled.

        Raises:
            UnknownLookup: nobody declares it.
        """
        ...

    async def read_many(self, questions: Sequence[tuple[str, str]]) -> list[Found]:
        """Values of many (resource, key) in one round trip, in their order; what cannot be answered says why.

        Raises:
            UnknownLookup, InvalidLookupKey: one of the questions is wrong.
        """
        ...

    async def read_partitions(self, resource: str, key: str) -> list[Found]:
        """The value that each partition has of its own under ``key``, by number of the partition.

        Raises:
            UnknownLookup: the question is wrong.
        """
        ...
