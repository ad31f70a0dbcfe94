"""Faust's tables over the engine's stores: Faust declares and restores them, lanes read and write them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, cast

import faust
from faust.stores.base import Store
from faust.tables.manager import TableManager
from faust.types import TP

from app.engine import guard
from app.engine.engine import Engine
from app.engine.identity import ChangelogRecreated, SourceRecreated, TopicIds, stamp_changelog, stamp_sources
from app.engine.recovery import EngineRecovery
from app.engine.store import StoreLocked, StoreUnusable

if TYPE_CHECKING:
    from app.engine.faust_app import EngineApp


class TableIsTheEngines(Exception):
    """Someone used a Faust table directly; an agent's state is reached through ``batch.state`` only."""


class EngineStore(Store[bytes, bytes]):
    """The store Faust sees: it opens and closes the RocksDB of each assigned partition, nothing more."""

    @property
    def _engine(self) -> Engine:
        return cast("EngineApp", self.app).engine

    def _changelog_partitions(self, tps: Iterable[TP]) -> list[int]:
        topic = self.table.changelog_topic.get_topic_name()
        return sorted(tp.partition for tp in tps if tp.topic == topic)

    def persisted_offset(self, tp: TP) -> int | None:
        """Last changelog offset that the local RocksDB contains; None for an empty one."""
        offset = self._engine.open_store(tp.topic, tp.partition).changelog_offset()
        return None if offset < 0 else offset

    async def on_rebalance(self, assigned: set[TP], revoked: set[TP], newly_assigned: set[TP], generation_id: int = 0) -> None:
        """Close what was given away, open what came; runs before recovery asks for persisted offsets.

        Standbys are among them: one that becomes active, and an active one that becomes standby, is in neither set
        of changes and keeps its open store.
        """
        topic = self.table.changelog_topic.get_topic_name()
        for partition in self._changelog_partitions(revoked):
            self._engine.close_store(topic, partition)
        tables = cast("EngineTables", self.app.tables)
        for partition in self._changelog_partitions(assigned):
            try:
                store = self._engine.open_store(topic, partition)
                stamp_changelog(store, topic, partition, tables.topic_ids)
            except (ChangelogRecreated, StoreLocked, StoreUnusable, OSError) as exc:
                tables.refuse(str(exc))

    async def on_recovery_completed(self, active_tps: set[TP], standby_tps: set[TP]) -> None:
        """Check where the restored offsets come from; runs before the lanes open."""
        topic = self.table.changelog_topic.get_topic_name()
        tables = cast("EngineTables", self.app.tables)
        source = self._engine.changelogs[topic].source
        sources = {source: tables.topic_ids[source]} if source in tables.topic_ids else {}
        for partition in self._changelog_partitions(active_tps):
            store = self._engine.open_store(topic, partition)
            try:
                stamp_changelog(store, topic, partition, tables.topic_ids)  # a reset record has wiped it
                stamp_sources(store, partition, sources)
            except (ChangelogRecreated, SourceRecreated) as exc:
                tables.refuse(str(exc))  # Faust never looks at what this raises

    async def on_stop(self) -> None:
        """Release every lock; lanes were stopped before."""
        topic = self.table.changelog_topic.get_topic_name()
        for changelog, partition in list(self._engine.stores):
            if changelog == topic:
                self._engine.close_store(changelog, partition)

    def apply_changelog_batch(self, batch: Iterable[Any], to_key: Any, to_value: Any) -> None:
        """Called by Faust with empty buffers only; changelog records go through ``Engine.restore``."""
        if any(True for _ in batch):
            raise TableIsTheEngines("changelog events reached Faust's table")

    async def backup_partition(self, tp: TP | int, flush: bool = True, purge: bool = False, keep: int = 1) -> None:
        """Not offered: the changelog is the backup."""
        raise TableIsTheEngines("the changelog topic is the backup of a table")

    def restore_backup(self, tp: TP | int, latest: bool = True, backup_id: int = 0) -> None:
        """Not offered: the changelog is the backup."""
        raise TableIsTheEngines("the changelog topic is the backup of a table")

    def reset_state(self) -> None:
        """Not offered: ``faust reset`` would say that it has deleted what lies in the data directory."""
        raise TableIsTheEngines("stop the workers and use `veltrix reset`")

    def __getitem__(self, key: bytes) -> bytes:
        raise TableIsTheEngines("use batch.state in an agent, or the lookups API")

    def __setitem__(self, key: bytes, value: bytes) -> None:
        raise TableIsTheEngines("use batch.state in an agent")

    def __delitem__(self, key: bytes) -> None:
        raise TableIsTheEngines("use batch.state in an agent")

    def __iter__(self) -> Iterator[bytes]:
        raise TableIsTheEngines("use the lookups API")

    def __len__(self) -> int:
        return sum(store.estimated_keys() for store in self._engine.stores.values())


class EngineTable(faust.Table):  # type: ignore[type-arg] # Faust's Table is generic over Any
    """An agent's one table."""

    def _new_store(self) -> EngineStore:
        return EngineStore("rocksdb://", self.app, self, table_name=self.name, key_type=bytes, value_type=bytes, loop=self.loop)


class EngineTables(TableManager):
    """Faust's table manager with the engine's recovery."""

    #: Kafka's ids of changelogs and sources, set at boot; empty: nothing is checked.
    topic_ids: TopicIds = MappingProxyType({})
    #: Ends the process before it works on state that is not its own.
    refuse: Callable[[str], None] = staticmethod(guard.refuse)

    async def on_start(self) -> None:
        """Begin at once: Faust waits a second here for tables declared late, and ``assert_complete`` has refused those."""
        await self._update_channels()
        await self.recovery.start()

    @property
    def recovery(self) -> EngineRecovery:
        """Restores in batches."""
        if self._recovery is None:
            self._recovery = EngineRecovery(self.app, self, beacon=self.beacon, loop=self.loop)
        return cast("EngineRecovery", self._recovery)
