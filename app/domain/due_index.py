"""Which keys have something to close at a watermark, without reading their states.

Nothing of it is stored: every state has its own ``due_ms``, so the index is built again from the states of a partition
when that is assigned. A key is noted once and not moved with every event: when its time comes and its state is due
later by then, the caller notes it again. So an event of an open session costs one look-up.
"""

from __future__ import annotations

from collections.abc import Iterable
from heapq import heapify, heappop, heappush
from typing import Generic, TypeVar

K = TypeVar("K", str, bytes)


class DueIndex(Generic[K]):
    """Keys by the watermark from which on they may be due: one entry a key, never later than its state says.

    Args:
        dues: key and ``due_ms`` of every stored state.
    """

    __slots__ = ("_heap", "_noted")

    def __init__(self, dues: Iterable[tuple[K, int]] = ()) -> None:
        self._noted: dict[K, int] = dict(dues)
        self._heap: list[tuple[int, K]] = [(due_ms, key) for key, due_ms in self._noted.items()]
        heapify(self._heap)

    def __len__(self) -> int:
        return len(self._noted)

    def note(self, key: K, due_ms: int) -> None:
        """The state of ``key`` was written. An entry that is not later already does.

        Only to be called once the unit that wrote it is certain: an index cannot be rolled back.
        """
        noted_ms = self._noted.get(key)
        if noted_ms is None or due_ms < noted_ms:
            self._noted[key] = due_ms
            heappush(self._heap, (due_ms, key))

    def due(self, watermark_ms: int, limit: int = 1 << 62) -> list[K]:
        """Up to ``limit`` keys that may be due, the earliest; sorted, so that a restart closes in the same order. They leave.

        The caller closes them and notes those that still have a state, also those for which nothing was due.
        """
        found: list[K] = []
        heap, noted = self._heap, self._noted
        while heap and heap[0][0] <= watermark_ms and len(found) < limit:
            due_ms, key = heappop(heap)
            if noted.get(key) == due_ms:  # else it was noted again, for an earlier time
                del noted[key]
                found.append(key)
        return sorted(found)
