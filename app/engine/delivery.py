"""How a lane's units become durable: the one place that decides about guarantees.

A :class:`Delivery` takes every computed unit of a lane (``publish``) and sees to it that it becomes durable
(``settle``). :class:`AtLeastOnce` is below; :class:`app.engine.transactions.ExactlyOnce` does the same in Kafka
transactions. Lanes do not know the difference.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Protocol

from app.engine.api import DeadLetterEncoder
from app.engine.producing import Producing
from app.engine.unit import Unit, output_batches

if TYPE_CHECKING:
    from app.engine.lane import Lane


class ChangelogTaken(Exception):
    """Somebody else wrote to the changelog of a lane that is ours: a worker that was taken for dead, or the reverse.

    Nothing of this unit was applied. The process must end: what it restores at its next start is exact again.
    """

    def __init__(self, changelog: str, partition: int, expected: int, offset: int) -> None:
        super().__init__(
            f"{changelog}[{partition}]: our batch is at offset {offset} where {expected} was next, so another worker writes to it too "
            "(this one stood still, or both run with the same group_instance_id); the next start restores the state and goes on"
        )


class Delivery(Protocol):
    """How units become durable."""

    async def publish(self, lane: Lane, unit: Unit) -> None:
        """Take a computed unit, in order."""
        ...

    async def settle(self, lane: Lane) -> None:
        """Make the units of ``lane`` durable until it is closed and none is left; any exception ends the process."""
        ...

    async def acquire(self, partitions: Iterable[int]) -> None:
        """These partition numbers are ours from now on; called before their committed offsets and changelogs are read."""
        ...

    async def release(self) -> None:
        """No partition is ours any more; the lanes are closed."""
        ...

    @property
    def commits_offsets(self) -> bool:
        """The group's offsets are committed by ``settle``, and by nobody else."""
        ...


class AtLeastOnce:
    """Outputs are sent at once and acknowledged; then a changelog batch that ends in the marker; then RocksDB.

    Args:
        check_alive: called before each changelog batch; ends the process when it stood still for so long that
            its partitions may be another worker's.
    """

    commits_offsets = False

    def __init__(
        self, producing: Producing, dead_letter: DeadLetterEncoder, check_alive: Callable[[], None] = lambda: None
    ) -> None:
        self._producing = producing
        self._dead_letter = dead_letter
        self._check_alive = check_alive

    async def publish(self, lane: Lane, unit: Unit) -> None:
        """See :class:`Delivery`."""
        batches = output_batches([unit.computed], self._dead_letter, lane.id, lane.limits.batch_bytes)
        acks = await self._producing.publish(batches)
        unit.watch([(topic, ack) for (topic, _, _), ack in zip(batches, acks, strict=True)], lane.on_acked)

    async def settle(self, lane: Lane) -> None:
        """See :class:`Delivery`."""
        topic, partition = lane.changelog_topic, lane.id.partition
        while await lane.has_acked():
            await lane.pace(lane.limits.settle_interval_s)
            settlement = lane.next_settlement()
            self._check_alive()
            base = await self._producing.log_state(topic, partition, settlement.changelog_batch(topic, lane.limits.batch_bytes))
            if base != lane.progress.changelog_end:
                raise ChangelogTaken(topic, partition, lane.progress.changelog_end, base)
            lane.make_durable(settlement, base)

    async def acquire(self, partitions: Iterable[int]) -> None:
        """Nothing: the group's membership is all there is."""

    async def release(self) -> None:
        """Nothing."""
