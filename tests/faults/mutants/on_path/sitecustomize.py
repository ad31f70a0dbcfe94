"""Imported by Python at the start of a worker that has this folder on its PYTHONPATH; see ``mutants/apply.py``.

Each mutant takes away one guard of the engine. A guard that is not where it was makes the worker exit, so that a
mutant can never pass for one because it did nothing.
"""

from __future__ import annotations

import asyncio
import os
import sys
import time
import traceback
from collections.abc import Callable
from typing import Any

OUTPUT_DELAY_S = 0.3


def shift_clock(seconds: float) -> None:
    """Wall clock as Python code sees it; monotonic clocks stay."""
    real_time, real_time_ns = time.time, time.time_ns
    time.time = lambda: real_time() + seconds
    time.time_ns = lambda: real_time_ns() + int(seconds * 1e9)


def marker_ignored() -> None:
    """What the marker says is applied is applied again: records between the last commit and the marker count twice."""
    from app.engine.engine import Engine
    from app.engine.progress import Progress

    _replace(Progress, "unseen", lambda self, records: records)
    _replace(Engine, "_start_offset", lambda self, tp, progress, position: max(position.committed, position.begin))


def commits_ahead() -> None:
    """Source offsets are committed when records are fetched, not when they are durable."""
    from app.engine.progress import Progress

    _replace(Progress, "next_offset", lambda self, topic: self._read.get(topic, -1))


def state_before_outputs() -> None:
    """State and marker are written while the outputs are still under way: a replay skips outputs that never arrived."""
    from app.engine.producing import IdempotentProducing

    publish = IdempotentProducing.publish

    async def publish_late(*args: Any) -> list[Any]:
        async def later() -> None:
            await asyncio.sleep(OUTPUT_DELAY_S)
            await publish(*args)

        task = asyncio.get_running_loop().create_task(later())
        _tasks.add(task)
        task.add_done_callback(_tasks.discard)
        return []

    _replace(IdempotentProducing, "publish", publish_late)


def plain_batches() -> None:
    """Outputs and changelog of a transaction are sent outside it: an aborted attempt stays visible."""
    from app.engine import writer

    new_builder = writer.new_builder
    _replace(writer, "new_builder", lambda limit, transactional=False: new_builder(limit))


def zombie_unnoticed() -> None:
    """A worker that slept goes on, a changelog batch that is not where it was expected is applied all the same, and restored."""
    from app.engine import store
    from app.engine.delivery import AtLeastOnce
    from app.engine.fence import Fence

    _replace(store, "without_zombies", lambda records, marker: (records, set()))
    _replace(AtLeastOnce, "settle", _settle_blindly)
    _replace(Fence, "of", classmethod(lambda cls, settings, owns, fatal: cls(float("inf"), owns, fatal)))


async def _settle_blindly(self: Any, lane: Any) -> None:
    topic, partition = lane.changelog_topic, lane.id.partition
    while await lane.has_acked():
        await lane.pace(lane.limits.settle_interval_s)
        settlement = lane.next_settlement()
        batch = settlement.changelog_batch(topic, lane.limits.batch_bytes)
        lane.make_durable(settlement, await self._producing.log_state(topic, partition, batch))


def dedupe_off() -> None:
    """No id is ever recognised."""
    from app.domain import validation

    _replace(validation, "digest_of", lambda message_id: os.urandom(8))


MUTANTS: dict[str, Callable[[], None]] = {
    one.__name__: one for one in (marker_ignored, commits_ahead, state_before_outputs, plain_batches, zombie_unnoticed, dedupe_off)
}
_tasks: set[asyncio.Task[None]] = set()


def _replace(owner: Any, name: str, value: Any) -> None:
    assert hasattr(owner, name), f"{owner} has no {name} any more: bring this mutant up to date"
    setattr(owner, name, value)


def _apply() -> None:
    if ahead := os.environ.get("FAULT_CLOCK_AHEAD_S"):
        shift_clock(float(ahead))
    if mutant := os.environ.get("FAULT_MUTANT"):
        MUTANTS[mutant]()


try:
    _apply()
except BaseException:  # noqa: BLE001 - site would print it and go on without the patch
    traceback.print_exc()
    sys.stderr.flush()
    os._exit(99)
