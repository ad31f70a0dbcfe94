"""aiokafka's fetcher, with two manners of its own for a consumer whose records are processed on the same event loop.

*Patience*: aiokafka looks for what else to fetch before it hands over what it got, and asks for more as soon as that is
taken: at low rates the outputs wait for the next fetch request to be built. A patient fetcher hands over at once and asks
some turns of the event loop later: the outputs go out first, and one request serves all partitions that had something.
*Paused partitions* are neither looked at nor watched (a worker has its changelogs and retry tiers paused for good: four
of five partitions, and each costs as much as one that is fetched): who resumes some calls :meth:`EngineFetcher.look_again`.
"""

from __future__ import annotations

import asyncio
from typing import Any, Final

import aiokafka.consumer.consumer
from aiokafka.consumer.fetcher import Fetcher

#: Turns of the event loop from a fetch response to the produce request of its outputs: two until the consumer has the
#: records, one in which lanes compute, three until aiokafka's sender has written.
TURNS_TO_OUTPUTS: Final = 6


class EngineFetcher(Fetcher):  # type: ignore[misc]  # aiokafka's fetcher has no types
    """As aiokafka's until told otherwise: every consumer of the process gets one."""

    is_patient = False
    """Set while there is little to do; under load the next fetch must be under way while records are processed"""
    watches_paused = True
    _waiting = 0
    """Fetches whose records are being processed: each asks for more when it ends"""

    def look_again(self) -> None:
        """Something has changed (partitions were resumed): see what can be fetched."""
        super()._notify(self._wait_consume_future)

    async def _proc_fetch_request(self, assignment: Any, node_id: int, request: Any) -> bool:
        has_records: bool = await super()._proc_fetch_request(assignment, node_id, request)
        if not (has_records and self.is_patient):
            return has_records
        for waiter in self._fetch_waiters:
            self._notify(waiter)
        self._waiting += 1
        try:
            for _ in range(TURNS_TO_OUTPUTS):
                await asyncio.sleep(0)
        except asyncio.CancelledError:  # closed, or the partitions were taken away: as upstream answers it
            return False
        finally:
            self._waiting -= 1
        return True

    def _notify(self, future: asyncio.Future[None] | None) -> None:
        if not (self._waiting and future is self._wait_consume_future):
            super()._notify(future)

    def _get_actions_per_node(self, assignment: Any) -> tuple[Any, ...]:
        seen = assignment if self.watches_paused else Unpaused(assignment, self._records)
        return tuple(super()._get_actions_per_node(seen))


class Unpaused:
    """An assignment without its paused partitions, but for those that have records left or no position yet."""

    def __init__(self, assignment: Any, records: Any) -> None:
        self.state_value = of = assignment.state_value
        self.tps = [tp for tp in assignment.tps if not (state := of(tp)).paused or not state.has_valid_position or tp in records]


def install() -> None:
    """Consumers that are started from now on have one."""
    aiokafka.consumer.consumer.Fetcher = EngineFetcher
