"""Which events of which keys wait for one another, as memory, changelog and RocksDB have it (see :mod:`app.engine.key_order`)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Final

import msgspec

from app.engine.store import PartitionStore

#: Before each key of a record that is held, in changelog and RocksDB.
PREFIX: Final = b"\0veltrix/held/"


class Held(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """The events of one key: ``events[0]`` has failed, the others wait. Source offsets; ``since_ms``: epoch ms of its failure."""

    since_ms: int
    events: tuple[int, ...]


Changes = Mapping[bytes, Held | None]
"""By record key; None: not held any more"""

_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(Held).decode


def encoded(changes: Changes) -> dict[bytes, bytes | None]:
    """As changelog and RocksDB have them."""
    return {PREFIX + key: None if held is None else _encode(held) for key, held in changes.items()}


def stored(store: PartitionStore) -> Iterator[tuple[bytes, Held]]:
    """All that is held."""
    return ((key[len(PREFIX) :], _decode(value)) for key, value in store.scan_all(PREFIX))
