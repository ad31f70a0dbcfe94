"""Faust's consumer thread without the thread.

Faust runs aiokafka's consumer on a second event loop in a thread of its own; each fetch then crosses
threads twice and waits for the interpreter lock. Here it runs on the worker's loop (measured: about
half the added latency at p99). The class undoes each override of ``mode.threads.ServiceThread``, so it
is a plain service that has the consumer-thread interface.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any, cast

import structlog
from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.errors import IllegalStateError, KafkaError
from faust.transport.drivers.aiokafka import AIOKafkaConsumerThread, Transport
from faust.types import TP
from mode.services import Service
from mode.utils.futures import maybe_async

from app.engine import fetch_codec, fetched, fetcher, guard, membership, produce_codec

if TYPE_CHECKING:
    from app.engine.faust_app import EngineApp
    from app.engine.fetcher import EngineFetcher


log = structlog.get_logger(__name__)


class InLoopConsumerThread(AIOKafkaConsumerThread):
    """The consumer on the worker's own event loop."""

    wait_for_shutdown = False

    async def start(self) -> None:
        """As a plain service."""
        await self._default_start()

    async def maybe_start(self) -> bool:
        """As a plain service."""
        return await Service.maybe_start(self)

    async def stop(self) -> None:
        """As a plain service."""
        await Service.stop(self)

    async def crash(self, exc: BaseException) -> None:
        """As a plain service."""
        await Service.crash(self, exc)

    def _stopped_set(self) -> None:
        self._stopped.set()

    def set_shutdown(self) -> None:
        """As a plain service."""
        self._shutdown.set()

    async def _stop_children(self) -> None:
        await self._default_stop_children()

    async def _stop_futures(self) -> None:
        await self._default_stop_futures()

    async def _stop_exit_stacks(self) -> None:
        await self._default_stop_exit_stacks()

    def _get_tasks(self) -> Iterable[Any]:
        return []  # no keep-alive: there is no second loop to keep awake

    async def on_start(self) -> None:
        """Connect, and watch the membership of the group from its first moment."""
        await super().on_start()
        self.fetcher.watches_paused = False
        membership.install(self._ensure_consumer(), cast("EngineApp", self.app).fatal, guard.refuse)

    async def on_stop(self) -> None:
        """Leave the group and close connections."""
        if self._consumer is not None:
            await self._consumer.stop()

    async def call_thread(self, fun: Callable[..., Awaitable[Any]], *args: Any, **kwargs: Any) -> Any:
        """Call ``fun`` here and now."""
        return await maybe_async(fun(*args, **kwargs))

    async def cast_thread(self, fun: Callable[..., Awaitable[Any]], *args: Any, **kwargs: Any) -> None:
        """Call ``fun`` here and now."""
        await maybe_async(fun(*args, **kwargs))

    @property
    def fetcher(self) -> EngineFetcher:
        """What fetches for the consumer; there once that has started."""
        return cast("EngineFetcher", self._ensure_consumer()._fetcher)

    def is_fetching(self) -> bool:
        """aiokafka's routine that sends fetch requests is alive."""
        return not self.fetcher.error_future.done()

    async def commit(self, offsets: Mapping[TP, int]) -> bool:
        """Commit; False when it failed. Faust would crash the worker: here a commit is a hint, the marker has the position."""
        try:
            await self._ensure_consumer().commit({TopicPartition(*tp): offset for tp, offset in offsets.items()})
        except (KafkaError, IllegalStateError) as exc:
            log.warning("commit_failed", reason=repr(exc))
            return False
        return True

    async def on_partitions_revoked(self, revoked: set[TP]) -> None:
        """Straight to the consumer."""
        await self.consumer.on_partitions_revoked(revoked)

    async def on_partitions_assigned(self, assigned: set[TP], generation_id: int = 0) -> None:
        """Straight to the consumer."""
        await self.consumer.on_partitions_assigned(assigned, generation_id)

    def _create_worker_consumer(self, transport: Transport) -> AIOKafkaConsumer:
        fetched.install()
        fetcher.install()
        fetch_codec.install()
        produce_codec.install()
        consumer = super()._create_worker_consumer(transport)
        # What an aborted transaction left in a changelog or source never happened.
        consumer._isolation_level = "read_committed"
        # Faust passes 1,500 ms and has no setting for it; a partition resumed after back-pressure would wait that long.
        consumer._fetch_max_wait_ms = cast("EngineApp", self.app).engine.settings.fetch_max_wait_ms
        return consumer
