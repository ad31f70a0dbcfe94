"""What is started before the stream, what refuses to start, and a Faust app that is complete."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import faust.streams
import pytest
from aiokafka import TopicPartition
from aiokafka.errors import CommitFailedError, IllegalStateError, KafkaConnectionError
from aiokafka.record import default_records
from faust.types import TP
from structlog.testing import capture_logs

from app.engine import worker as module
from app.engine.declare import DeclarationError
from app.engine.faust_app import BatchAgent, EngineApp, MissingExtension, assert_complete, new_faust_app
from app.engine.guard import DataDirLocked, lock_data_dir
from app.engine.in_loop import InLoopConsumerThread
from app.engine.worker import Background, BootChecks, Closing, relax_garbage_collector, worker_class
from app.settings import Settings
from tests.engine.fake_client import FakeFetcher
from tests.engine.support import EngineRig


class Refused(Exception):
    """Stands for the end of the process."""


@pytest.fixture
def refuse(monkeypatch: pytest.MonkeyPatch) -> None:
    """``refuse`` raises instead of ending the process."""

    def raises(reason: str) -> None:
        raise Refused(reason)

    monkeypatch.setattr(module, "refuse", raises)
    monkeypatch.setattr(module, "relax_garbage_collector", lambda: None)


def checks(path: Path, *problems: str) -> BootChecks:
    """Boot checks that find these problems."""

    async def check() -> list[str]:
        return list(problems)

    return BootChecks(Settings(data_dir=path), check)


async def test_a_worker_that_is_fine_holds_its_data_directory_until_it_stops(tmp_path: Path, refuse: None) -> None:
    boot = checks(tmp_path)
    await boot.on_start()
    with pytest.raises(DataDirLocked):
        lock_data_dir(tmp_path)
    await boot.on_stop()
    lock_data_dir(tmp_path).close()


async def test_every_problem_is_named_in_one_message(tmp_path: Path, refuse: None) -> None:
    boot = checks(tmp_path, "topic a is missing", "topic b has 3 partitions, not 10")
    with pytest.raises(Refused, match="topic a is missing; topic b has 3 partitions, not 10"):
        await boot.on_start()
    await boot.on_stop()


async def test_a_data_directory_in_use_is_a_refusal(tmp_path: Path, refuse: None) -> None:
    with lock_data_dir(tmp_path), pytest.raises(Refused, match="VELTRIX_DATA_DIR"):
        await checks(tmp_path).on_start()


async def test_a_data_directory_that_cannot_be_made_is_a_refusal(tmp_path: Path, refuse: None) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(Refused, match="file"):
        await checks(tmp_path / "file").on_start()


def test_the_garbage_collector_walks_no_longer_over_what_start_up_made() -> None:
    before = gc.get_threshold()
    try:
        relax_garbage_collector()
        assert gc.get_freeze_count() > 0
        assert gc.get_threshold()[0] > 10 * 700
    finally:
        gc.unfreeze()
        gc.set_threshold(*before)


async def test_clients_are_closed_when_everything_else_has_stopped() -> None:
    closed: list[str] = []

    def closing(name: str) -> Callable[[], Awaitable[None]]:
        async def close() -> None:
            closed.append(name)

        return close

    service = Closing(closing("a"), closing("b"))
    await service.start()
    assert closed == []
    await service.stop()
    assert closed == ["a", "b"]


async def test_background_work_runs_until_the_service_stops() -> None:
    running, ended = asyncio.Event(), asyncio.Event()

    async def run() -> None:
        try:
            running.set()
            await asyncio.Event().wait()
        finally:
            ended.set()

    service = Background(run)
    await service.start()
    await asyncio.wait_for(running.wait(), 1)
    await service.stop()
    assert ended.is_set()


def test_our_services_start_before_the_stream_app(tmp_path: Path) -> None:
    made: list[Any] = []

    def services() -> list[Any]:
        made.append(checks(tmp_path))
        return made

    cls = worker_class(services)
    worker = cls(app_of(tmp_path))
    dependencies = list(worker.on_init_dependencies())
    assert dependencies[0] is made[0]
    assert len(dependencies) > 1


# -- the app ------------------------------------------------------------------------------------------


def app_of(path: Path) -> EngineApp:
    """The app of a worker with the agent ``count``."""
    rig = EngineRig.new(path)
    app = new_faust_app(rig.settings, None)
    app.engine, app.fatal = rig.engine, rig.fatal
    app.bind(rig.agents, 10)
    return app


def test_a_complete_app_passes(tmp_path: Path) -> None:
    app = app_of(tmp_path)
    assert_complete(app, [], frozenset({"count"}))
    assert isinstance(app.agents["count"], BatchAgent)


def test_an_agent_whose_source_the_topics_do_not_list_is_refused(tmp_path: Path) -> None:
    app, agents = app_of(tmp_path), EngineRig.new(tmp_path).agents
    with pytest.raises(DeclarationError, match=r"AGENTS of app/topics\.py"):
        assert_complete(app, agents, frozenset())


def test_a_missing_agent_is_named_with_its_file(tmp_path: Path) -> None:
    with pytest.raises(DeclarationError, match=r"agents/absent\.py"):
        assert_complete(app_of(tmp_path), [], frozenset({"count", "absent"}))


@pytest.mark.parametrize(
    ("owner", "name", "value"),
    [
        (faust.streams, "_CStreamIterator", None),
        (default_records, "DefaultRecordBatchBuilder", default_records._DefaultRecordBatchBuilderPy),
    ],
    ids=["faust", "aiokafka"],
)
def test_a_missing_extension_refuses_to_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, owner: Any, name: str, value: Any
) -> None:
    app = app_of(tmp_path)
    monkeypatch.setattr(owner, name, value)
    with pytest.raises(MissingExtension, match="make setup"):
        assert_complete(app, [], frozenset())


def test_settings_reach_faust(tmp_path: Path) -> None:
    rig = EngineRig.new(tmp_path, kafka_bootstrap="a:1, b:2", commit_interval_ms=250, group_instance_id="pod-0")
    conf = new_faust_app(rig.settings, None).conf
    assert [str(url) for url in conf.broker] == ["kafka://a:1", "kafka://b:2"]
    assert (conf.broker_commit_interval, conf.consumer_group_instance_id, conf.table_standby_replicas) == (0.25, "pod-0", 0)
    assert (conf.topic_allow_declare, conf.topic_disable_leader, conf.stream_wait_empty) == (False, True, True)
    assert EngineApp.BootStrategy.enable_web is False


# -- the consumer thread without a thread -------------------------------------------------------------


@pytest.fixture
async def thread(tmp_path: Path) -> InLoopConsumerThread:
    """As the worker builds it, not started."""

    async def nothing(*arguments: Any) -> None: ...

    app = app_of(tmp_path)
    consumer = app._new_transport().create_consumer(nothing, on_partitions_revoked=nothing, on_partitions_assigned=nothing)
    found = consumer._thread  # type: ignore[attr-defined]
    assert isinstance(found, InLoopConsumerThread)
    return found


async def test_calls_run_on_this_loop_and_at_once(thread: InLoopConsumerThread) -> None:
    loops: list[Any] = []

    async def note(value: int, *, factor: int = 1) -> int:
        loops.append(asyncio.get_running_loop())
        return value * factor

    assert await thread.call_thread(note, 3, factor=2) == 6
    await thread.cast_thread(note, 1)
    assert loops == [asyncio.get_running_loop()] * 2
    assert thread.thread_loop is asyncio.get_running_loop()


async def test_assignments_go_straight_to_the_consumer(thread: InLoopConsumerThread, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[Any] = []

    def noting(name: str) -> Callable[..., Any]:
        async def note(*arguments: Any) -> None:
            calls.append((name, *arguments))

        return note

    for name in ("on_partitions_revoked", "on_partitions_assigned"):
        monkeypatch.setattr(thread.consumer, name, noting(name))
    await thread.on_partitions_revoked({1})  # type: ignore[arg-type]
    await thread.on_partitions_assigned({2}, 7)  # type: ignore[arg-type]
    assert calls == [("on_partitions_revoked", {1}), ("on_partitions_assigned", {2}, 7)]


async def test_the_fetch_wait_is_ours(thread: InLoopConsumerThread) -> None:
    client = thread._create_worker_consumer(thread.transport)  # type: ignore[arg-type]
    assert client._fetch_max_wait_ms == Settings().fetch_max_wait_ms == 30
    await client.stop()


async def test_it_starts_and_stops_as_a_plain_service_without_a_thread(
    thread: InLoopConsumerThread, monkeypatch: pytest.MonkeyPatch
) -> None:
    stopped: list[bool] = []
    fetcher = FakeFetcher()

    class Client:
        _fetcher = fetcher

        async def start(self) -> None: ...

        async def stop(self) -> None:
            stopped.append(True)

    monkeypatch.setattr(thread, "_create_consumer", lambda loop: Client())
    watched: list[object] = []
    monkeypatch.setattr("app.engine.membership.install", lambda client, *ends: watched.append(client))
    assert await asyncio.wait_for(thread.maybe_start(), 1) is True
    assert await asyncio.wait_for(thread.maybe_start(), 1) is False
    assert thread.started
    assert thread._thread is None
    assert [type(client) for client in watched] == [Client]
    assert not fetcher.watches_paused
    await asyncio.wait_for(thread.stop(), 2)
    assert stopped == [True]
    assert thread.should_stop


async def test_a_crash_is_kept_for_the_worker(thread: InLoopConsumerThread) -> None:
    error = RuntimeError("lost the group")
    await thread.crash(error)
    assert thread.crashed
    assert thread.crash_reason is error


@pytest.mark.parametrize("error", [CommitFailedError("rebalanced"), KafkaConnectionError("broker down"), IllegalStateError("gone")])
async def test_a_failed_commit_is_logged_and_crashes_nothing(
    thread: InLoopConsumerThread, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    class Failing:
        async def commit(self, offsets: dict[TopicPartition, int]) -> None:
            raise error

    monkeypatch.setattr(thread, "_ensure_consumer", Failing)
    with capture_logs() as logs:
        assert await thread.commit({TP("source", 0): 4}) is False
    assert [entry["event"] for entry in logs] == ["commit_failed"]
    assert thread.crash_reason is None


def test_the_banner_of_a_worker_names_its_sidecar_and_its_store(tmp_path: Path) -> None:
    rig = EngineRig.new(tmp_path, sidecar_port=18080)
    app = new_faust_app(rig.settings, None)
    app.engine = rig.engine
    assert str(app.web_server_url) == "http://127.0.0.1:18080"
    assert str(app.conf.store).startswith("rocksdb:")
