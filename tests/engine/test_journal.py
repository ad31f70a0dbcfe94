"""A record that the process died on is known at the next start, and nobody else is blamed.

A process that dies is an abandoned journal: its notes are on disk as they were at that moment.
"""

from __future__ import annotations

import asyncio
import json
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from structlog.testing import capture_logs

from app.engine.api import Batch, Effects, LaneId, Record
from app.engine.crash_files import History, Run, RunNote, Suspects
from app.engine.engine import SourcePosition
from app.engine.journal import CrashJournal, LaneJournal
from app.engine.marker import Marker
from app.engine.progress import Progress
from tests.engine.support import LANE, SOURCE, EngineRig, agent, count, event, events, offsets, settle
from tests.fakes import FakeRecord

OTHER = LaneId("count", 1)


class Disk:
    """A worker's directory, over several starts. Everything below ``applied`` is durable."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.applied = 0

    def start(self, limit: int = 3) -> CrashJournal:
        """A new process on this disk."""
        return CrashJournal(self.path, limit)

    def open(self, lane: LaneId = LANE) -> LaneJournal:
        """A new process, and one lane of it."""
        return self.start().open(lane, self.is_applied)

    def die_in(self, records: Sequence[Record], lane: LaneId = LANE) -> None:
        """A process starts, works on ``records`` of a lane, and dies."""
        self.open(lane).begin(records)

    def is_applied(self, topic: str, offset: int) -> bool:
        return offset < self.applied

    def files(self) -> list[str]:
        return sorted(path.name for path in self.path.iterdir())


@pytest.fixture
def disk(tmp_path: Path) -> Disk:
    return Disk(tmp_path / "crashes")


# -- counting -----------------------------------------------------------------------------------------


def test_each_death_with_one_record_alone_is_one_attempt_of_it(disk: Disk) -> None:
    counted = []
    for _ in range(3):
        disk.die_in([event(7)])
        counted.append(disk.open().attempts(event(7)))
    assert counted == [1, 2, 3]


def test_a_death_with_many_records_makes_suspects_and_counts_for_none(disk: Disk) -> None:
    disk.die_in(events(10, 20))
    journal = disk.open()
    assert not journal.worker.is_calm
    assert [offsets(group) for group in journal.groups(events(8, 23))] == [[8, 9], *([n] for n in range(10, 20)), [20, 21, 22]]
    assert {journal.attempts(record) for record in events(8, 23)} == {0}


def test_a_death_between_runs_leaves_nothing(disk: Disk) -> None:
    journal = disk.open()
    journal.begin(events(0, 4))
    journal.end()
    assert disk.open().worker.is_calm
    assert disk.files() == ["count-0.note"]


def test_a_start_without_work_counts_nothing_again(disk: Disk) -> None:
    disk.die_in([event(7)])
    for _ in range(5):
        disk.open()
    assert disk.open().attempts(event(7)) == 1


def test_a_worker_that_is_refused_before_it_opens_a_lane_touches_nothing(disk: Disk) -> None:
    disk.die_in([event(7)])
    before = (disk.path / "count-0.note").read_bytes()
    disk.start()
    assert (disk.path / "count-0.note").read_bytes() == before
    assert disk.open().attempts(event(7)) == 1


def test_the_attempts_of_one_record_outlive_the_deaths_on_the_next(disk: Disk) -> None:
    for record in [event(7)] * 3 + [event(8)] * 2:
        disk.die_in([record])
    journal = disk.open()
    assert [journal.attempts(record) for record in events(6, 10)] == [0, 3, 2, 0]


def test_of_two_runs_in_progress_none_is_counted_and_both_are_suspects(disk: Disk) -> None:
    worker = disk.start()
    for lane in (LANE, OTHER):
        worker.open(lane, disk.is_applied).begin([event(7)])
    worker = disk.start()
    for lane in (LANE, OTHER):
        journal = worker.open(lane, disk.is_applied)
        assert journal.attempts(event(7)) == 0
        assert [offsets(group) for group in journal.groups(events(6, 9))] == [[6], [7], [8]]


@pytest.mark.parametrize(
    "other",
    [event(8), event(7, topic="retry"), FakeRecord(b"emit", b"u", 7, timestamp=1, topic=SOURCE)],
    ids=["offset", "topic", "re-created topic"],
)
def test_another_record_has_no_attempts(disk: Disk, other: FakeRecord) -> None:
    disk.die_in([event(7)])
    journal = disk.open()
    assert (journal.attempts(event(7)), journal.attempts(other)) == (1, 0)


def test_another_partition_has_no_attempts_and_no_suspects(disk: Disk) -> None:
    disk.die_in([event(7)])
    journal = disk.open(OTHER)
    assert journal.worker.is_calm
    assert journal.attempts(event(7)) == 0
    assert disk.open(LANE).attempts(event(7)) == 1, "and the right one still knows"


# -- taking back --------------------------------------------------------------------------------------


def test_a_success_takes_the_attempts_back_for_good(disk: Disk) -> None:
    disk.die_in([event(7)])
    disk.die_in([event(8)])
    disk.open().survived([event(7)])
    journal = disk.open()
    assert [journal.attempts(record) for record in events(7, 9)] == [0, 1]


def test_the_success_of_a_batch_takes_nothing_back(disk: Disk) -> None:
    disk.die_in([event(7)])
    journal = disk.open()
    journal.survived(events(7, 9))
    assert journal.attempts(event(7)) == 1


def test_suspects_are_watched_until_they_are_durable_and_then_forgotten(disk: Disk) -> None:
    disk.die_in(events(0, 10))
    disk.die_in([event(4)])
    worker = disk.start()
    journal = worker.open(LANE, disk.is_applied)
    for applied in (4, 9):
        disk.applied = applied
        worker.check()
        assert not worker.is_calm
        assert journal.attempts(event(4)) == 1
    assert disk.files() == ["count-0.json", "count-0.note"]
    disk.applied = 10
    worker.check()
    assert worker.is_calm
    assert disk.files() == ["count-0.note"]


def test_what_became_durable_elsewhere_is_no_suspect_here(disk: Disk) -> None:
    disk.die_in(events(0, 10))
    disk.applied = 50
    assert disk.open().worker.is_calm


def test_a_lane_that_is_given_away_makes_nobody_wait_but_stays_suspect_for_its_return(disk: Disk) -> None:
    disk.die_in(events(0, 10))
    worker = disk.start()
    worker.open(LANE, disk.is_applied)
    worker.open(OTHER, disk.is_applied)
    calm = [worker.is_calm]
    worker.close(LANE)
    calm.append(worker.is_calm)
    worker.open(LANE, disk.is_applied)
    assert [*calm, worker.is_calm] == [False, True, False]


def test_a_lane_that_stops_cleanly_leaves_no_history(disk: Disk) -> None:
    disk.die_in(events(0, 10))
    worker = disk.start()
    worker.open(LANE, disk.is_applied)
    disk.applied = 10
    worker.close(LANE)
    assert disk.files() == ["count-0.note"]


def test_an_end_of_our_own_blames_no_record(disk: Disk) -> None:
    reasons: list[str] = []
    worker = disk.start()
    worker.open(LANE, disk.is_applied).begin([event(7)])
    worker.open(OTHER, disk.is_applied).begin(events(0, 5))
    worker.sparing(lambda reason, exc: reasons.append(reason))("changelog refused", None)
    assert reasons == ["changelog refused"]
    worker = disk.start()
    assert [worker.open(lane, disk.is_applied).attempts(event(7)) for lane in (LANE, OTHER)] == [0, 0]
    assert worker.is_calm


def test_the_log_says_on_what_the_process_died(disk: Disk) -> None:
    disk.die_in([event(7)])
    with capture_logs() as logs:
        disk.open()
    died = {"lane": "count-0", "topic": SOURCE, "first": 7, "last": 7, "attempts": 1}
    assert [entry for entry in logs if entry["event"] == "died_while_processing"] == [
        {"event": "died_while_processing", "log_level": "warning", **died}
    ]


# -- grouping -----------------------------------------------------------------------------------------


@given(ranges=st.lists(st.tuples(st.integers(0, 30), st.integers(0, 5)), max_size=4))
def test_groups_keep_every_record_in_order_and_each_suspect_alone(
    tmp_path_factory: pytest.TempPathFactory, ranges: list[tuple[int, int]]
) -> None:
    disk = Disk(tmp_path_factory.mktemp("disk"))
    for first, more in ranges:
        disk.die_in(events(first, first + more + 1))
    groups = list(disk.open().groups(events(0, 30)))
    assert [record.offset for group in groups for record in group] == list(range(30))
    suspects = {offset for first, more in ranges for offset in range(first, first + more + 1)}
    assert all(len(group) == 1 for group in groups if suspects & set(offsets(group)))
    assert sum(len(group) == 1 for group in groups) <= len(suspects & set(range(30))) + len(ranges) + 1


def test_a_range_that_is_known_is_not_kept_twice() -> None:
    history = History()
    for run in (Run(SOURCE, 0, 9, 5), Run(SOURCE, 4, 4, 5), Run(SOURCE, 0, 9, 5), Run("retry", 4, 4, 5)):
        history.add(run, is_alone=True)
    assert history.suspects == [Suspects(SOURCE, 0, 9), Suspects("retry", 4, 4)]


# -- damaged files ------------------------------------------------------------------------------------


@pytest.mark.parametrize("byte", [0, 1, 5, 12, 28, 29, 31])
def test_a_torn_note_says_nothing(disk: Disk, byte: int) -> None:
    disk.die_in([event(7)])
    path = disk.path / "count-0.note"
    content = bytearray(path.read_bytes())
    content[byte] ^= 0xFF
    path.write_bytes(content)
    journal = disk.open()
    assert journal.attempts(event(7)) == 0
    assert journal.worker.is_calm


@pytest.mark.parametrize("content", [b"", b"\1", b"\1" * 100, b"\1" * 5000], ids=["empty", "short", "shorter", "long"])
def test_a_note_of_another_size_is_made_anew(disk: Disk, content: bytes) -> None:
    disk.path.mkdir()
    (disk.path / "count-0.note").write_bytes(content)
    assert disk.open().worker.is_calm
    disk.die_in([event(7)])
    assert disk.open().attempts(event(7)) == 1


@pytest.mark.parametrize("content", [b"", b"{", b'{"suspects": 4}', b"\xff\xfe"])
def test_an_unreadable_history_is_reported_and_counted_anew(disk: Disk, content: bytes) -> None:
    disk.die_in([event(7)])
    disk.open()
    (disk.path / "count-0.json").write_bytes(content)
    with capture_logs() as logs:
        journal = disk.open()
    assert [entry["event"] for entry in logs] == ["crash_history_unreadable"]
    assert journal.attempts(event(7)) == 0
    disk.die_in([event(7)])
    assert disk.open().attempts(event(7)) == 1


def test_a_directory_that_cannot_be_made_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(NotADirectoryError):
        Disk(tmp_path / "file" / "crashes").open()


def test_forgetting_does_not_fail_for_lack_of_disk_but_counting_does(disk: Disk) -> None:
    disk.die_in(events(0, 10))
    worker = disk.start()
    worker.open(LANE, disk.is_applied).begin([event(4)])
    (disk.path / "count-0.new").mkdir()  # what is written first is in the way
    with pytest.raises(IsADirectoryError):
        disk.open()
    (disk.path / "count-0.new").rmdir()
    worker = disk.start()
    journal = worker.open(LANE, disk.is_applied)
    (disk.path / "count-0.new").mkdir()
    with capture_logs() as logs:
        journal.survived([event(4)])
    assert [entry["event"] for entry in logs] == ["crash_history_not_saved"]
    assert journal.attempts(event(4)) == 0


@pytest.mark.parametrize("topic", ["t", "t" * 249])
def test_a_note_holds_any_topic_and_offset(tmp_path: Path, topic: str) -> None:
    note = RunNote(tmp_path / "lane.note")
    note.begin(topic, 0, 2**63 - 1, -1)
    assert note.read() == Run(topic, 0, 2**63 - 1, -1)


# -- real processes -----------------------------------------------------------------------------------

DIES = """
import os, sys
from pathlib import Path
from app.engine.api import LaneId
from app.engine.engine import SourcePosition
from app.engine.journal import CrashJournal
from tests.fakes import FakeRecord
worker = CrashJournal(Path(sys.argv[1]), 3)
worker.open(LaneId("count", 0), lambda topic, offset: False).begin([FakeRecord(b"", b"", 7, 5, topic="source")])
{end}
"""


@pytest.mark.process
@pytest.mark.parametrize(
    ("end", "attempts"),
    [
        ("os.abort()", 1),
        ("os._exit(0)", 1),
        ("os.kill(os.getpid(), 9)", 1),
        ("from app.engine.guard import fatal; worker.sparing(fatal)('changelog refused', None)", 0),
        ("from app.engine.guard import refuse; worker.sparing(refuse)('not a member any more')", 0),
    ],
    ids=["abort", "exit", "kill -9", "fatal", "refused"],
)
def test_a_note_outlives_the_process_that_made_it(disk: Disk, end: str, attempts: int) -> None:
    root = Path(__file__).parents[2]
    subprocess.run([sys.executable, "-c", DIES.format(end=end), str(disk.path)], cwd=root, check=False, capture_output=True)
    assert disk.open().attempts(FakeRecord(b"", b"", 7, 5, topic="source")) == attempts


@pytest.mark.process
@pytest.mark.timeout(300)
@pytest.mark.parametrize("poison", [[7], [7, 8, 31]], ids=["one", "neighbours and one in the next unit"])
def test_a_crash_loop_ends_with_the_guilty_parked_and_their_neighbours_processed_exactly_once(
    tmp_path: Path, poison: list[int]
) -> None:
    root, deaths = Path(__file__).parents[2], 0
    argv = [sys.executable, "-m", "tests.engine.crashing_lane", str(tmp_path), *map(str, poison)]
    while (life := subprocess.run(argv, cwd=root, check=False, capture_output=True, timeout=60)).returncode:
        assert life.returncode == -signal.SIGABRT, life.stderr.decode()
        deaths += 1
        assert deaths < 20, "it loops for ever"
    result = json.loads((tmp_path / "result.json").read_text())
    good = [offset for offset in range(40) if offset not in poison]
    assert result == {
        "counts": {f"k{n}": sum(offset % 4 == n for offset in good) for n in range(4)},
        "emitted": len(good), "dead": len(poison), "consumed": 40, "fatal": [],
    }  # fmt: skip
    letters = dict.fromkeys((tmp_path / "letters").read_text().splitlines())  # one in flight at a death is sent again
    assert list(letters) == [f"{offset} crashed_worker" for offset in poison]
    assert deaths == 2 * len(poison) + len({offset // 25 for offset in poison}), "two each, and one per unit to narrow it down"


# -- in an engine -------------------------------------------------------------------------------------


@pytest.fixture
async def waiting(tmp_path: Path) -> AsyncIterator[EngineRig]:
    """An engine whose only body works on offsets 3 to 6 and waits."""

    async def waits(batch: Batch[Any]) -> Effects:
        await proceed.wait()
        return await count(batch)

    proceed, rig = asyncio.Event(), EngineRig.new(tmp_path, agent(waits))
    rig.engine.open_lanes({(SOURCE, 0): SourcePosition(3, 7, -1)}, {})
    rig.engine.submit(SOURCE, 0, events(3, 7))
    await settle()
    yield rig
    proceed.set()
    await rig.shut()


def noted(rig: EngineRig) -> Run | None:
    """What the process would have died in, if it died now."""
    return RunNote(rig.settings.data_dir / "crashes" / "count-0.note").read()


async def test_the_runs_of_a_lane_are_noted(waiting: EngineRig) -> None:
    run = noted(waiting)
    assert run is not None
    assert (run.topic, run.first, run.last) == (SOURCE, 3, 6)


async def test_an_engine_that_ends_the_process_blames_no_record(waiting: EngineRig) -> None:
    waiting.engine.fatal("changelog refused", None)
    assert waiting.fatal.reasons == ["changelog refused"]
    assert noted(waiting) is None


async def test_a_lane_that_does_not_finish_in_time_blames_no_record(waiting: EngineRig) -> None:
    await waiting.engine.close_lanes()  # ends the process after drain_timeout_ms
    assert len(waiting.fatal.reasons) == 1
    assert noted(waiting) is None


# -- what is applied ----------------------------------------------------------------------------------


def test_a_record_below_the_marker_or_below_the_start_of_reading_is_applied() -> None:
    progress = Progress(Marker(next_offsets={SOURCE: 10}), -1)
    assert [progress.is_applied(SOURCE, offset) for offset in (9, 10)] == [True, False]
    assert not progress.is_applied("retry", 0)
    progress.start_at(SOURCE, 20)
    assert [progress.is_applied(SOURCE, offset) for offset in (19, 20)] == [True, False]
