"""Membership in a user's closed chunks, without reading them for every batch.

A user with 4,096 remembered ids has 255 chunks: reading and searching those for one event would cost more than
all the rest. So the ids are kept sorted in memory between batches, under a name that states their content: the
chain hash and the first chunk number of the profile that they belong to. An entry is therefore right for whoever
asks for that name: also when the engine discards a run and calls again, after a rebalance, after a restore.
"""

from __future__ import annotations

import sys
from array import array
from bisect import bisect_left
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping

from app.domain.damage import DamagedState
from app.domain.dedupe import Chunk, Recent, chunk_key

ReadChunks = Callable[[Iterable[str]], Mapping[str, Chunk]]


class MissingChunkError(DamagedState):
    """A profile names a closed chunk that the table does not hold: the table is damaged.

    Operator action: stop the worker and delete its data directory; the table is rebuilt from the changelog.
    """

    def __init__(self, key: str) -> None:
        super().__init__(f"remembered ids {key!r} are missing from the table; delete the data directory to rebuild it")
        self.key = key


class ClosedIds:
    """The closed chunks of one user, oldest first, and their ids sorted: 8 bytes an id, 0.4 us a look-up."""

    __slots__ = ("_ids", "chunks")

    def __init__(self, chunks: Iterable[Chunk] = ()) -> None:
        self.chunks = list(chunks)
        joined = array("Q", b"".join(chunk.ids for chunk in self.chunks))
        self._ids = array("Q", sorted(joined))

    def __contains__(self, digest: bytes) -> bool:
        wanted = int.from_bytes(digest, sys.byteorder)
        at = bisect_left(self._ids, wanted)
        return at < len(self._ids) and self._ids[at] == wanted

    def __len__(self) -> int:
        return len(self._ids)

    def append(self, chunk: Chunk) -> None:
        """Add a chunk that was just closed."""
        self.chunks.append(chunk)
        for number in array("Q", chunk.ids):
            self._ids.insert(bisect_left(self._ids, number), number)

    def expire_first(self) -> None:
        """Forget the oldest chunk."""
        for number in array("Q", self.chunks.pop(0).ids):
            del self._ids[bisect_left(self._ids, number)]


class ClosedIdsCache:
    """Least recently used ``ClosedIds`` of all users of a worker, at most ``max_ids`` ids together (~25 bytes each)."""

    def __init__(self, max_ids: int) -> None:
        self._max_ids = max_ids
        self._ids = 0
        self._entries: OrderedDict[tuple[int, int], ClosedIds] = OrderedDict()

    def __len__(self) -> int:
        return len(self._entries)

    @property
    def ids(self) -> int:
        """Ids held now."""
        return self._ids

    def take(self, recents: Mapping[str, Recent], read: ReadChunks) -> dict[str, ClosedIds]:
        """Hand out what belongs to each user that has closed chunks; one ``read`` for all that is not held.

        The entries leave the cache: the caller changes them, then gives them back under their new names.

        Raises:
            MissingChunkError: ``read`` does not know a chunk that must exist.
        """
        taken: dict[str, ClosedIds] = {}
        absent: list[tuple[str, list[str]]] = []
        for user_key, recent in recents.items():
            if recent.next == recent.first:
                continue
            entry = self._entries.pop((recent.chain, recent.first), None)
            if entry is None:
                absent.append((user_key, [chunk_key(user_key, n) for n in range(recent.first, recent.next)]))
            else:
                self._ids -= len(entry)
                taken[user_key] = entry
        if absent:
            found = read([key for _, keys in absent for key in keys])
            for user_key, keys in absent:
                taken[user_key] = ClosedIds([_existing(found, key) for key in keys])
        return taken

    def give_back(self, recent: Recent, entry: ClosedIds) -> None:
        """Keep ``entry`` as the closed ids of ``recent``, then forget the least recently used beyond the bound."""
        name = (recent.chain, recent.first)
        replaced = self._entries.pop(name, None)
        self._ids += len(entry) - (0 if replaced is None else len(replaced))
        self._entries[name] = entry
        while self._ids > self._max_ids:
            self._ids -= len(self._entries.popitem(last=False)[1])


def _existing(found: Mapping[str, Chunk], key: str) -> Chunk:
    chunk = found.get(key)
    if chunk is None:
        raise MissingChunkError(key)
    return chunk
