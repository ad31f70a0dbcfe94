"""aiokafka's fetcher, with two manners of its own for a consumer whose records are processed on the same event loop.

*Patience*: aiokafka asks for more in the moment in which records are taken, so that at low rates the next fetch request is
written before the events of the last one have been looked at. A patient fetcher asks two turns of the event loop later:
the outputs' produce request goes out first, and one request serves all partitions that had something.
*Paused partitions* are not watched one by one (a worker has its changelogs paused for good, and waiting for a future
per partition costs as much as the fetch): who resumes some calls :meth:`EngineFetcher.look_again`.
"""

from __future__ import annotations

import asyncio
from typing import Any

import aiokafka.consumer.consumer
from aiokafka.consumer.fetcher import Fetcher


class EngineFetcher(Fetcher):  # type: ignore[misc]  # aiokafka's fetcher has no types
    """As aiokafka's until told otherwise: every consumer of the process gets one."""

    is_patient = False
    """Set while there is little to do; under load the next fetch must be under way while records are processed"""
    watches_paused = True

    def look_again(self) -> None:
        """Something has changed (partitions were resumed): see what can be fetched."""
        super()._notify(self._wait_consume_future)

    def _notify(self, future: asyncio.Future[None] | None) -> None:
        if self.is_patient and future is self._wait_consume_future:
            loop = asyncio.get_running_loop()
            loop.call_soon(loop.call_soon, super()._notify, future)
        else:
            super()._notify(future)

    def _get_actions_per_node(self, assignment: Any) -> tuple[Any, ...]:
        *actions, resumed = super()._get_actions_per_node(assignment)
        return (*actions, resumed if self.watches_paused else [])


def install() -> None:
    """Consumers that are started from now on have one."""
    aiokafka.consumer.consumer.Fetcher = EngineFetcher
