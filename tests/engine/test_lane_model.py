"""A lane against a naive reference: any mix of outcomes, batches, limits and orders of acknowledgement."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from app.engine.status import Ledger
from app.engine.store import PartitionStore
from tests.engine.support import CHANGELOG, COUNTS, DLQ, OUT, SOURCE, Rig, event, new_rig, open_store, settle
from tests.fakes import FakeRecord

COMMANDS = [b"emit", b"emit", b"emit", b"dup", b"drop", b"dead", b"boom"]


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PartitionStore]:
    """One RocksDB for all examples, emptied before each."""
    path: Path = tmp_path_factory.mktemp("model")
    opened = open_store(path)
    yield opened
    opened.close()


def reference(records: list[FakeRecord]) -> tuple[Ledger, dict[str, int], list[tuple[bytes | None, bytes]], list[int]]:
    """Ledger, counts, outputs and offsets of dead letters when each record is looked at alone, in order."""
    counts: Counter[str] = Counter()
    outcomes: Counter[bytes] = Counter()
    outputs, dead = [], []
    for record in records:
        key, value = (record.key or b"").decode(), record.value or b""
        outcomes[b"dead" if value == b"boom" else value] += 1
        if value == b"emit":
            counts[key] += 1
            outputs.append((record.key, b"%d" % counts[key]))
        elif value in (b"dead", b"boom"):
            dead.append(record.offset)
    ledger = Ledger(len(records), outcomes[b"emit"], outcomes[b"dup"], outcomes[b"dead"], 0, outcomes[b"drop"])
    return ledger, dict(counts), outputs, dead


steps = st.lists(st.tuples(st.integers(1, 3), st.sampled_from("abc"), st.sampled_from(COMMANDS)), min_size=1, max_size=40)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    steps=steps,
    cuts=st.integers(1, 9),
    unit=st.integers(1, 9),
    depth=st.integers(1, 4),
    size=st.sampled_from([1, 9, 10_000]),
    hot=st.sampled_from([0, 1, 100]),
    data=st.data(),
)
def test_ledger_state_and_outputs_equal_the_reference(
    table: PartitionStore,
    steps: list[tuple[int, str, bytes]],
    cuts: int,
    unit: int,
    depth: int,
    size: int,
    hot: int,
    data: st.DataObject,
) -> None:
    records, offset = [], 0
    for gap, key, command in steps:
        offset += gap
        records.append(event(offset, key, command))
    table.clear()

    async def run() -> Rig:
        rig = new_rig(table, unit_max_records=unit, unit_max_bytes=size, unit_depth=depth, hot=hot)
        rig.lane.start()
        for start in range(0, len(records), cuts):
            rig.lane.offer(records[start : start + cuts])
        await settle()
        while waiting := rig.delivery.unanswered():
            data.draw(st.sampled_from(waiting), label="acknowledged next").ack()
            await settle()
            assert rig.durable in {-1, *(record.offset + 1 for record in records)}
            # State is exactly that of the durable prefix, never of more.
            done = [record for record in records if record.offset < rig.durable]
            assert {key: rig.count(key) for key in "abc" if rig.count(key)} == reference(done)[1]
            assert table.changelog_offset() == len(rig.delivery.logs[CHANGELOG, 0]) - 1
        await rig.lane.close()
        assert rig.fatal.reasons == []
        assert len(rig.lane.state.hot) <= hot, "everything is in RocksDB, so nothing is kept beyond the limit"
        return rig

    rig = asyncio.run(run())
    ledger, counts, outputs, dead = reference(records)
    assert table.marker().ledger() == ledger
    assert ledger.residue == 0
    assert {key: rig.count(key) for key in counts} == counts
    # In the order in which they were sent; the producer keeps it.
    sent = [record for batch in rig.delivery.outputs if batch.topic == OUT for record in batch.records]
    assert [(record.key, record.value) for record in sent] == outputs
    letters = [record for batch in rig.delivery.outputs if batch.topic == DLQ for record in batch.records]
    assert len(letters) == len(dead)
    assert table.marker().next_offsets == {SOURCE: records[-1].offset + 1}
    # The changelog alone gives the same table.
    rebuilt = {record.key: record.value for record in rig.delivery.logs[CHANGELOG, 0]}
    assert {key: rebuilt.get(COUNTS.raw_key(key)) for key in counts} == {key: b"%d" % n for key, n in counts.items()}
