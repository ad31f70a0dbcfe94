"""Two workers that write one changelog for a while: the state stays what one worker alone would have made."""

from __future__ import annotations

from pathlib import Path

import pytest

from app.engine.marker import MARKER_KEY, Marker, decode_keys, encode_marker
from app.engine.store import PartitionStore
from tests.engine.support import CHANGELOG, COUNTS, SOURCE, Rig, events, new_rig, open_store
from tests.fakes import FakeDelivery, FakeRecord, Produced

LOG = (CHANGELOG, 0)


@pytest.fixture
def disks(tmp_path: Path) -> list[PartitionStore]:
    """The disks of three workers."""
    return [open_store(tmp_path / name) for name in "abc"]


def started(store: PartitionStore, kafka: FakeDelivery) -> Rig:
    """A worker that has restored everything that the changelog holds."""
    restore(store, kafka)
    rig = new_rig(store, delivery=kafka)
    rig.lane.start()
    return rig


def restore(store: PartitionStore, kafka: FakeDelivery) -> None:
    after = store.changelog_offset() + 1
    records = [as_record(produced, after + n) for n, produced in enumerate(kafka.logs[LOG][after:])]
    if records:
        store.restore(records, len(kafka.logs[LOG]))


def as_record(produced: Produced, offset: int) -> FakeRecord:
    return FakeRecord(produced.value, produced.key, offset, topic=CHANGELOG)


async def process(rig: Rig, start: int, stop: int) -> None:
    rig.lane.offer(events(start, stop))
    await rig.acknowledge_all()


async def overtaken(disks: list[PartitionStore]) -> tuple[FakeDelivery, Rig, Rig]:
    """A stood still after 5 events with a computed unit; B took over and did 20; then A's unit arrives all the same."""
    kafka = FakeDelivery()
    a = started(disks[0], kafka)
    await process(a, 0, 5)
    a.lane.offer(events(5, 8))
    await a.acknowledge_outputs()  # its changelog batch waits in a socket while the machine sleeps
    (late,) = kafka.unanswered()
    kafka.states.remove(late)
    b = started(disks[1], kafka)
    await process(b, 5, 20)
    late.ack()
    await a.acknowledge_all()
    return kafka, a, b


async def test_a_worker_that_was_overtaken_ends_and_applies_nothing(disks: list[PartitionStore]) -> None:
    _, a, b = await overtaken(disks)
    assert "another worker writes to it" in a.fatal.reasons[0]
    assert (a.count(), a.durable) == (5, 5)
    assert b.fatal.reasons == []
    await b.stop()


async def test_the_rightful_worker_ends_too_at_its_next_batch(disks: list[PartitionStore]) -> None:
    _, _, b = await overtaken(disks)
    await process(b, 20, 21)
    assert "another worker writes to it" in b.fatal.reasons[0]
    assert b.count() == 20


@pytest.mark.parametrize("disk", [0, 1, 2], ids=["the zombie's disk", "the successor's disk", "an empty disk"])
async def test_every_restore_leaves_the_zombies_unit_out_and_writes_its_keys_again(disks: list[PartitionStore], disk: int) -> None:
    kafka, _, b = await overtaken(disks)
    await process(b, 20, 21)  # appended, and not applied by B, which ends
    c = started(disks[disk], kafka)
    assert decode_keys(disks[disk].get(b"\0veltrix/repair")) == {COUNTS.raw_key("u")}
    await c.acknowledge_all()
    assert (c.count(), c.durable) == (21, 21)
    newest = {record.key: record.value for record in kafka.logs[LOG]}
    assert newest[COUNTS.raw_key("u")] == b"21", "compaction would have kept the zombie's value"
    assert disks[disk].keys_to_repair() == []
    await process(c, 21, 30)
    assert (c.count(), c.fatal.reasons) == (30, [])
    await c.stop()


async def test_a_repair_that_was_written_is_not_repeated_by_the_next_worker(disks: list[PartitionStore]) -> None:
    kafka, _, _ = await overtaken(disks)
    c = started(disks[2], kafka)
    await c.acknowledge_all()
    await c.stop()
    written = len(kafka.logs[LOG])
    d = started(disks[1], kafka)
    await d.acknowledge_all()
    assert [record.key for record in kafka.logs[LOG][written:]].count(COUNTS.raw_key("u")) <= 1
    assert d.count() == 20
    await d.stop()


async def test_a_unit_of_a_zombie_that_still_goes_on_from_our_state_is_taken(disks: list[PartitionStore]) -> None:
    kafka = FakeDelivery()
    a = started(disks[0], kafka)
    await process(a, 0, 5)
    b_disk = disks[1]
    restore(b_disk, kafka)
    await process(a, 5, 8)  # A was thought dead and is not; B has nothing yet
    b = new_rig(b_disk, delivery=kafka)
    b.lane.start()
    await process(b, 5, 6)
    assert b.fatal.reasons != []
    c = started(disks[2], kafka)
    await c.acknowledge_all()
    assert (c.count(), c.durable) == (8, 8)
    await a.stop()
    await c.stop()


async def test_an_answer_without_an_offset_ends_the_process(disks: list[PartitionStore]) -> None:
    """The broker has the batch but does not remember where (DuplicateSequenceNumber): what it says is -1."""
    kafka = FakeDelivery()
    a = started(disks[0], kafka)
    a.lane.offer(events(0, 1))
    await a.acknowledge_outputs()
    kafka.unanswered()[0].answer.set_result(-1)
    await a.acknowledge_all()
    assert a.fatal.reasons != []
    assert disks[0].changelog_offset() == -1


def test_a_marker_is_behind_when_one_topic_is() -> None:
    ours = Marker({SOURCE: 5, "retry": 3})
    assert Marker({SOURCE: 4, "retry": 9}).is_behind(ours)
    assert Marker({SOURCE: 5}).is_behind(ours)
    assert not Marker({SOURCE: 5, "retry": 3}).is_behind(ours)
    assert not ours.is_behind(Marker())


def test_records_whose_marker_was_compacted_away_are_restored(disks: list[PartitionStore]) -> None:
    marker = encode_marker(Marker({SOURCE: 9}))
    records = [
        FakeRecord(b"1", COUNTS.raw_key("old"), 3, topic=CHANGELOG),
        FakeRecord(b"2", COUNTS.raw_key("u"), 7, topic=CHANGELOG),
        FakeRecord(marker, MARKER_KEY, 8, topic=CHANGELOG),
        FakeRecord(b"3", COUNTS.raw_key("later"), 9, topic=CHANGELOG),
    ]
    disks[0].restore(records, 10)
    assert [disks[0].get(COUNTS.raw_key(key)) for key in ("old", "u", "later")] == [b"1", b"2", b"3"]
