"""One life of a process that works on 40 records and dies of some: ``python -m tests.engine.crashing_lane <directory> <offset>...``.

Exit status 0 when every record is durable; then ``result.json`` in the directory says what became of them.
A dead letter is a line of ``letters`` from the moment at which it is sent, so one that is sent twice is seen twice.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from aiokafka.producer.message_accumulator import BatchBuilder

from app.engine.api import Batch, Effects
from app.engine.journal import CrashJournal
from app.engine.writer import Addressed
from tests.engine.support import DLQ, LANE, SOURCE, count, event, new_rig, open_store, settle
from tests.fakes import FakeDelivery, produced

RECORDS = 40
ATTEMPTS = 2


class WritingDelivery(FakeDelivery):
    """Acknowledges at once; dead letters reach the disk, and the changelog goes on where the life before left it."""

    def __init__(self, letters: Path, changelog_end: int) -> None:
        super().__init__(acknowledge=True)
        self._letters = letters
        self._changelog_end = changelog_end

    async def log_state(self, topic: str, partition: int, batch: BatchBuilder) -> int:
        return self._changelog_end + await super().log_state(topic, partition, batch)

    async def publish(self, batches: Iterable[Addressed]) -> list[asyncio.Future[Any]]:
        sent = list(batches)
        with self._letters.open("ab") as file:
            for batch in [batch for topic, _, batch in sent if topic == DLQ]:
                file.writelines(b" ".join((letter.value or b"", letter.headers[0][1] or b"")) + b"\n" for letter in produced(batch))
        return await super().publish(sent)


async def live(directory: Path, poison: set[int]) -> None:
    """Work on what is not durable yet."""

    async def body(batch: Batch[Any]) -> Effects:
        if poison & {record.offset for record in batch.records}:
            os.abort()
        return await count(batch)

    store = open_store(directory)
    rig = new_rig(store, body, WritingDelivery(directory / "letters", store.changelog_offset() + 1), unit_max_records=25)
    rig.lane._parts.computer._journal = CrashJournal(directory / "crashes", ATTEMPTS).open(LANE, rig.lane.progress.is_applied)
    start = max(0, rig.durable)
    rig.lane.progress.start_at(SOURCE, start)
    rig.lane.start()
    values = {offset: b"%d" % offset for offset in poison}
    rig.lane.offer([event(offset, f"k{offset % 4}", values.get(offset, b"emit")) for offset in range(start, RECORDS)])
    async with asyncio.timeout(20):
        while rig.durable < RECORDS and not rig.fatal.reasons:
            await settle()
    await rig.lane.close()
    counts, ledger = {f"k{n}": rig.count(f"k{n}") for n in range(4)}, rig.lane.progress.durable_marker
    result = {"counts": counts, "emitted": ledger.emitted, "dead": ledger.dead_lettered, "consumed": ledger.consumed}
    (directory / "result.json").write_text(json.dumps(result | {"fatal": rig.fatal.reasons}))
    store.close()


if __name__ == "__main__":
    asyncio.run(live(Path(sys.argv[1]), {int(offset) for offset in sys.argv[2:]}))
