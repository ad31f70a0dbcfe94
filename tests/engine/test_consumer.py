"""Between Faust's consumer group and the lanes: what is handed on, sought and committed. The client is a fake."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from aiokafka.errors import ConsumerStoppedError
from faust.types import TP

from app.engine.consumer import EngineConsumer, EngineProducer, EngineTransport
from app.engine.engine import SourcePosition
from app.engine.faust_app import new_faust_app
from app.engine.in_loop import InLoopConsumerThread
from tests.engine.fake_client import FakeThread
from tests.engine.support import COUNTS, SOURCE, EngineRig, event, events, settle
from tests.fakes import FakeRecord

CHANGELOG = "veltrix-count-changelog"
S0, S1, C0 = TP(SOURCE, 0), TP(SOURCE, 1), TP(CHANGELOG, 0)


@dataclass
class Wired:
    """An engine's consumer with the fakes under it."""

    rig: EngineRig
    consumer: EngineConsumer
    thread: FakeThread
    app: Any

    def assign(self, *tps: TP) -> None:
        """The group has given us these partitions."""
        self.thread.client.assigned = set(tps)
        self.consumer._set_active_tps(set(tps))

    async def open(self, *tps: TP, committed: int | None = None) -> Mapping[TP, int]:
        """Assignment, then seek as Faust does at the end of recovery."""
        self.assign(*tps)
        if committed is not None:
            self.thread.client.group = dict.fromkeys(tps, committed)
        await self.consumer.perform_seek()
        return self.thread.client.seeks


@pytest.fixture
async def wired(tmp_path: Path) -> AsyncIterator[Wired]:
    """A consumer as the worker builds it, on a fake thread."""
    rig = EngineRig.new(tmp_path)
    app = new_faust_app(rig.settings, None)
    app.engine, app.fatal = rig.engine, rig.fatal
    transport = app._new_transport()

    async def nothing(*arguments: Any) -> None: ...

    consumer = transport.create_consumer(nothing, on_partitions_revoked=nothing, on_partitions_assigned=nothing)
    assert isinstance(consumer, EngineConsumer)
    assert isinstance(consumer._thread, InLoopConsumerThread)
    thread = FakeThread()
    consumer._thread = thread  # type: ignore[assignment]
    yield Wired(rig, consumer, thread, app)
    await rig.shut()


# -- fetch --------------------------------------------------------------------------------------------


async def test_source_records_go_to_their_lanes_and_changelog_records_to_the_stores_without_one(wired: Wired) -> None:
    await wired.open(S0, S1)
    warm = TP(CHANGELOG, 3)  # a standby
    wired.rig.engine.open_store(*warm)
    wired.assign(S0, S1, C0, warm)
    stale = FakeRecord(b"7", b"cx", 3)
    wired.thread.fetched = [{S0: events(0, 2), S1: [event(5)], C0: [stale], warm: [FakeRecord(b"7", b"cx", 3)]}]
    await wired.consumer._drain_once()
    await wired.rig.acknowledge_all()
    assert wired.rig.engine.committable() == {S0: 2, S1: 6}
    assert wired.rig.engine.stores[warm].get(b"cx") == b"7"
    assert wired.rig.engine.stores[CHANGELOG, 0].get(b"cx") is None, "a lane is the only writer of its store"


async def test_the_next_fetch_waits_for_outputs_only_while_there_is_little_to_do(wired: Wired) -> None:
    await wired.open(S0)
    wired.assign(S0)
    wired.thread.fetched = [{S0: events(0, 99)}, {S0: events(99, 199)}, {}]
    patient = []
    for _ in range(3):
        await wired.consumer._drain_once()
        patient.append(wired.thread.fetcher.is_patient)
    assert patient == [True, False, True]


async def test_a_changelog_batch_is_restored_up_to_its_last_offset(wired: Wired) -> None:
    wired.assign(C0)
    store = wired.rig.engine.open_store(CHANGELOG, 0)
    wired.thread.fetched = [{C0: [FakeRecord(b"7", b"cx", 3), FakeRecord(b"8", b"cx", 9)]}]
    await wired.consumer._drain_once()
    assert (store.get(b"cx"), store.changelog_offset()) == (b"8", 9)


async def test_records_of_a_topic_that_is_nobodys_are_ignored(wired: Wired) -> None:
    wired.assign(TP("elsewhere", 0))
    wired.thread.fetched = [{TP("elsewhere", 0): events(0, 2)}]
    await wired.consumer._drain_once()
    assert wired.rig.delivery.outputs == []


async def test_what_was_fetched_before_the_flow_stopped_is_dropped(wired: Wired) -> None:
    await wired.open(S0)
    wired.thread.during_fetch = wired.consumer.stop_flow
    wired.thread.fetched = [{S0: events(0, 2)}]
    await wired.consumer._drain_once()
    await settle()
    assert len(wired.thread.asked) == 1
    assert wired.rig.delivery.outputs == []


async def test_nothing_is_fetched_while_the_flow_is_stopped(wired: Wired) -> None:
    await wired.open(S0)
    wired.consumer.stop_flow()
    task = asyncio.create_task(wired.consumer._drain_once())
    await settle()
    assert not task.done()
    assert wired.thread.asked == []
    wired.consumer.resume_flow()
    await asyncio.wait_for(task, 1)


async def test_nothing_is_fetched_without_an_active_partition(wired: Wired) -> None:
    wired.assign()
    await wired.consumer._drain_once()
    assert wired.thread.asked == [], "aiokafka takes an empty set for all partitions"


async def test_everything_assigned_and_not_paused_is_fetched_at_once(wired: Wired) -> None:
    wired.assign(S0, S1, C0)
    wired.consumer.pause_partitions([C0])
    await wired.consumer._drain_once()
    assert wired.thread.asked == [{S0, S1}]


async def test_positions_are_read_after_a_fetch_during_recovery_only(wired: Wired) -> None:
    wired.assign(C0)
    recovery = wired.app.tables.recovery
    recovery.active_tps, recovery.active_offsets = {C0}, {C0: -1}
    wired.app._consumer = wired.consumer
    wired.thread.positions = {C0: 12}
    await wired.consumer._drain_once()
    assert recovery.active_offsets == {C0: -1}
    wired.app.in_recovery = True
    await wired.consumer._drain_once()
    assert recovery.active_offsets == {C0: 11}


class Fetcher:
    """Faust's fetcher service, as far as the loop looks at it."""

    should_stop = False


async def test_an_error_while_fetching_ends_the_process(wired: Wired) -> None:
    wired.assign(S0)
    wired.thread.fetched = [{}, RuntimeError("corrupt record")]
    await wired.consumer._drain_messages(Fetcher())
    assert wired.rig.fatal.reasons == ["fetching failed: RuntimeError: corrupt record"]


async def test_a_client_whose_routine_has_ended_ends_the_process(wired: Wired) -> None:
    wired.assign(S0)
    wired.thread.fetches = False
    await wired.consumer._drain_once()
    assert wired.rig.fatal.reasons == ["the Kafka client has stopped fetching; its log lines above say why"]


async def test_a_stopped_client_is_an_error_unless_the_worker_stops(wired: Wired) -> None:
    wired.assign(S0)
    wired.thread.fetched = [ConsumerStoppedError()]
    with pytest.raises(ConsumerStoppedError):
        await wired.consumer._drain_messages(Fetcher())
    wired.app._stopped.set()
    wired.thread.fetched = [ConsumerStoppedError()]
    await wired.consumer._drain_messages(Fetcher())
    assert wired.rig.fatal.reasons == []


# -- pause --------------------------------------------------------------------------------------------


async def test_fausts_pause_and_resume_reach_the_client(wired: Wired) -> None:
    wired.assign(S0, C0)
    wired.consumer.pause_partitions([C0, S1])  # S1 was given away
    assert (wired.thread.client.paused, wired.consumer._get_active_partitions()) == ({C0}, {S0})
    assert wired.thread.fetcher.looked == 0
    wired.consumer.resume_partitions([C0])
    assert wired.thread.fetcher.looked == 1, "nobody else tells the fetcher"
    assert (wired.thread.client.paused, wired.consumer._get_active_partitions() >= {S0, C0}) == (set(), True)


async def test_a_full_lane_pauses_at_the_client_and_stays_in_the_fetch_set(wired: Wired) -> None:
    await wired.open(S0, S1)
    wired.consumer._new_consumer_thread()  # binds the engine to this consumer
    wired.rig.engine.set_paused((SOURCE, 0), True)
    assert wired.thread.client.paused == {S0}
    await wired.consumer._drain_once()
    assert wired.thread.asked == [{S0, S1}], "what is buffered must be drained all the same"
    wired.rig.engine.set_paused((SOURCE, 0), False)
    assert wired.thread.client.paused == set()


# -- positions ----------------------------------------------------------------------------------------


async def test_lanes_open_and_read_on_from_the_greater_of_committed_and_applied(wired: Wired) -> None:
    wired.thread.begin = 2
    assert await wired.open(S0, S1) == {S0: 2, S1: 2}
    assert sorted(lane.partition for lane in wired.rig.engine.lanes) == [0, 1]
    wired.rig.delivery.acknowledge = True
    wired.rig.engine.submit(SOURCE, 0, events(2, 9))
    await settle()
    wired.rig.engine.submit(SOURCE, 1, events(2, 3))
    await settle()
    wired.thread.client.group = {S0: 5, S1: 30}
    assert await wired.consumer.seek_to_committed() == {S0: 9, S1: 30}
    assert wired.thread.client.seeks == {S0: 9, S1: 30}


async def test_a_committed_offset_of_zero_is_an_offset(wired: Wired) -> None:
    wired.thread.begin = 0
    await wired.open(S0, committed=0)
    (lane,) = wired.rig.engine.lanes.values()
    assert lane.progress.committed == {SOURCE: 0}


async def test_changelog_partitions_are_not_sought(wired: Wired) -> None:
    assert await wired.open(C0) == {}


async def test_lanes_of_an_earlier_assignment_are_closed_first(wired: Wired) -> None:
    await wired.open(S0)
    (before,) = wired.rig.engine.lanes.values()
    await wired.open(S0)
    (after,) = wired.rig.engine.lanes.values()
    assert after is not before
    assert wired.rig.listener.stopped == [before.id]


async def test_a_source_that_was_recreated_ends_the_process(wired: Wired) -> None:
    await wired.open(S0)
    wired.rig.delivery.acknowledge = True
    wired.rig.engine.submit(SOURCE, 0, events(0, 9))
    await settle()
    wired.thread.end = 3
    with pytest.raises(Exception, match="re-created"):
        await wired.open(S0)
    assert "veltrix reset --to-earliest" in wired.rig.fatal.reasons[0]


# -- commit -------------------------------------------------------------------------------------------


async def test_a_commit_is_the_durable_prefix_and_each_offset_is_committed_once(wired: Wired) -> None:
    await wired.open(S0, S1)
    wired.rig.engine.submit(SOURCE, 0, events(0, 4))
    await settle()
    assert await wired.consumer.commit() is False
    assert wired.thread.commits == [], "nothing is durable yet"
    await wired.rig.acknowledge_all()
    assert await wired.consumer.commit() is True
    assert await wired.consumer.commit() is False
    assert wired.thread.commits == [{S0: 4}]
    lanes = {lane.id.partition: lane for lane in wired.rig.engine.lanes.values()}
    assert lanes[0].progress.committed == {SOURCE: 4}


async def test_a_commit_may_be_for_some_topics_only(wired: Wired) -> None:
    await wired.open(S0)
    wired.rig.engine.submit(SOURCE, 0, events(0, 4))
    await wired.rig.acknowledge_all()
    await wired.consumer.commit({"elsewhere"})
    assert wired.thread.commits == []
    await wired.consumer.commit({SOURCE})
    assert wired.thread.commits == [{S0: 4}]


async def test_partitions_that_were_given_away_are_not_committed(wired: Wired) -> None:
    wired.assign(S1)
    assert await wired.consumer._commit_offsets({S0: 4, S1: 5}) is True
    assert await wired.consumer._commit_offsets({S0: 4}) is False
    assert wired.thread.commits == [{S1: 5}]


async def test_a_refused_commit_is_tried_again(wired: Wired) -> None:
    await wired.open(S0)
    wired.rig.engine.submit(SOURCE, 0, events(0, 4))
    await wired.rig.acknowledge_all()
    wired.thread.commit_works = False
    assert await wired.consumer.commit() is False
    wired.thread.commit_works = True
    assert await wired.consumer.commit() is True
    assert wired.thread.commits == [{S0: 4}, {S0: 4}]
    assert wired.rig.observer.commits == [False, True]


async def test_before_a_rebalance_units_in_flight_are_finished_and_committed(wired: Wired) -> None:
    await wired.open(S0)
    wired.rig.engine.submit(SOURCE, 0, events(0, 4))
    await settle()
    emptying = asyncio.create_task(wired.consumer.wait_empty())
    await settle()
    assert not emptying.done()
    assert wired.thread.commits == []
    await wired.rig.acknowledge_all()
    await emptying
    assert wired.thread.commits == [{S0: 4}]
    assert wired.rig.engine.lanes == {}


@pytest.mark.parametrize("is_first_given_up", [False, True])
async def test_a_stop_in_the_middle_of_a_rebalance_waits_for_the_same_lanes(
    wired: Wired, is_first_given_up: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    released = list[int]()

    async def release() -> None:
        released.append(len(wired.thread.commits))

    monkeypatch.setattr(wired.rig.engine, "release", release)
    await wired.open(S0)
    wired.rig.engine.submit(SOURCE, 0, events(0, 4))
    await settle()
    rebalance = asyncio.create_task(wired.consumer.wait_empty())
    await settle()
    if is_first_given_up:
        rebalance.cancel()
    stop = asyncio.create_task(wired.consumer.wait_empty())
    await settle()

    assert (stop.done(), released) == (False, [])
    await wired.rig.acknowledge_all()
    await stop
    assert wired.thread.commits == [{S0: 4}]
    assert released == [1], "once, after the commit"


async def test_a_commit_that_never_ends_does_not_hold_a_stop_back_for_ever(wired: Wired, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("app.engine.consumer._DRAIN_LIMITS", 0.1)  # of 500 ms
    await wired.open(S0)
    wired.rig.engine.submit(SOURCE, 0, events(0, 4))
    await wired.rig.acknowledge_all()

    async def never(offsets: Mapping[TP, int]) -> bool:
        await asyncio.Event().wait()
        return True

    wired.thread.commit = never  # type: ignore[method-assign]
    async with asyncio.timeout(1):
        await wired.consumer.wait_empty()
    assert wired.rig.fatal.reasons == ["lanes were not given up within 0.05 s (twice drain_timeout_ms)"]


async def test_before_a_rebalance_nothing_is_committed_when_nothing_is_durable(wired: Wired) -> None:
    await wired.open(S0)
    await wired.consumer.wait_empty()
    assert wired.thread.commits == []


async def test_lanes_are_closed_and_their_state_is_kept_when_the_last_commit_fails(wired: Wired) -> None:
    await wired.open(S0)
    wired.rig.engine.submit(SOURCE, 0, events(0, 4))
    await wired.rig.acknowledge_all()

    async def gone(offsets: Mapping[TP, int]) -> bool:
        return False

    wired.thread.commit = gone  # type: ignore[method-assign]
    await wired.consumer.wait_empty()
    assert wired.rig.engine.lanes == {}
    assert wired.rig.engine.stores[CHANGELOG, 0].get(COUNTS.raw_key("u")) == b"4"


async def test_gaps_in_the_offsets_do_not_hold_a_commit_back(wired: Wired) -> None:
    await wired.open(S0)
    wired.rig.engine.submit(SOURCE, 0, [event(3), event(70)])
    await wired.rig.acknowledge_all()
    await wired.consumer._add_gap(S0, 4, 69)
    await wired.consumer.commit()
    assert wired.thread.commits == [{S0: 71}]


async def test_an_offset_is_unknown_for_a_partition_without_a_lane(wired: Wired) -> None:
    assert wired.consumer._new_offset(S0) is None
    wired.rig.engine.open_lanes({S0: SourcePosition(0, 9, -1)}, {})
    assert wired.consumer._new_offset(S0) is None


# -- producer, topics ---------------------------------------------------------------------------------


async def test_producing_is_idempotent_and_waits_for_all_replicas(wired: Wired) -> None:
    producer = wired.app._new_producer_transport().create_producer()
    assert isinstance(producer, EngineProducer)
    assert producer._settings_extra() == {"acks": "all", "enable_idempotence": True}


async def test_a_worker_creates_no_topic(wired: Wired) -> None:
    wired.thread.create_topic = None  # type: ignore[attr-defined]
    await wired.consumer.create_topic("interactions", 10, 1)


def test_both_transports_are_the_engines(tmp_path: Path) -> None:
    app = new_faust_app(EngineRig.new(tmp_path).settings, None)
    transports: Iterable[Any] = (app._new_transport(), app._new_producer_transport())
    assert all(isinstance(transport, EngineTransport) for transport in transports)
