"""``veltrix doctor``: every fault has its line and its advice."""

from __future__ import annotations

import asyncio
import fcntl
import json
import os
import socket
import zlib
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from typer.testing import CliRunner

from app.cli import doctor, doctor_kafka, doctor_machine
from app.cli.checkup import fail, ok, warn
from app.cli.main import app
from app.domain.routing import partition_of
from app.engine.guard import lock_data_dir
from app.settings import Settings
from app.topic_admin import Problem

PARTITIONS = 10


def records(partitioner: Any, n: int = 200) -> Any:
    keys = [f"user-{i}".encode() for i in range(n)]
    return [SimpleNamespace(key=key, partition=partitioner(key), timestamp=1000) for key in keys]


def murmur2(key: bytes) -> int:
    return partition_of(key, PARTITIONS)


def crc32(key: bytes) -> int:
    return zlib.crc32(key) % PARTITIONS


def test_keys_in_their_partition_are_ok() -> None:
    assert doctor_kafka.check_routing(records(murmur2), PARTITIONS).status == "ok"
    assert doctor_kafka.check_routing([], PARTITIONS).status == "ok"


def test_librdkafkas_default_partitioner_is_named_with_its_cure() -> None:
    check = doctor_kafka.check_routing(records(crc32), PARTITIONS)

    assert check.status == "fail"
    assert "partitioner=murmur2_random" in check.advice
    wrong = sum(crc32(r.key) != murmur2(r.key) for r in records(crc32))
    assert f"({wrong} of these {wrong} are where CRC32 puts them)" in check.advice


def test_a_few_strays_are_a_warning() -> None:
    sample = records(murmur2)
    sample[0].key = None

    check = doctor_kafka.check_routing(sample, PARTITIONS)

    assert check.status == "warn"
    assert "1 have no key" in check.detail


def test_a_record_from_the_future_blames_a_clock() -> None:
    sample = records(murmur2)

    assert doctor_kafka.check_producer_clocks(sample, now_ms=5000).status == "ok"
    assert doctor_kafka.check_producer_clocks(sample, now_ms=-5000).status == "warn"
    assert doctor_kafka.check_producer_clocks([], now_ms=0).status == "ok"


async def test_topics_that_stop_a_worker_fail_and_others_warn(monkeypatch: pytest.MonkeyPatch) -> None:
    async def problems(settings: Settings) -> list[Problem]:
        return [Problem("a", "missing", "missing", "10", "-"), Problem("b", "config", "retention.ms", "1", "2")]

    monkeypatch.setattr(doctor_kafka, "check_topics", problems)

    checks = await doctor_kafka.check_all_topics(Settings())

    assert [check.status for check in checks] == ["fail", "warn"]
    assert all("veltrix topics apply" in check.advice for check in checks)


def test_a_lock_is_only_held_while_its_worker_runs(tmp_path: Path) -> None:
    assert doctor_machine.lock_owner(tmp_path) is None
    handle = lock_data_dir(tmp_path)
    assert doctor_machine.lock_owner(tmp_path) == str(os.getpid())
    handle.close()
    assert doctor_machine.lock_owner(tmp_path) is None


@pytest.mark.parametrize(("sidecar", "status"), [(200, "ok"), (503, "ok"), (None, "warn")])
async def test_a_locked_directory_is_fine_if_it_is_the_worker_of_these_settings(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sidecar: int | None, status: str
) -> None:
    async def livez(host: str, port: int) -> int | None:
        return sidecar

    monkeypatch.setattr(doctor_machine, "livez", livez)
    settings = Settings(data_dir=tmp_path)
    assert (await doctor_machine.check_lock(settings)).status == "ok"
    with lock_data_dir(tmp_path):
        check = await doctor_machine.check_lock(settings)
    assert (check.status, f"pid {os.getpid()}" in check.detail) == (status, True)
    assert ("another VELTRIX_DATA_DIR" in check.advice) == (status == "warn")


def test_looking_at_a_lock_does_not_keep_it(tmp_path: Path) -> None:
    lock_data_dir(tmp_path).close()
    doctor_machine.lock_owner(tmp_path)

    with (tmp_path / "LOCK").open() as handle:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)


def test_a_data_directory_need_not_exist_yet_and_is_not_made(tmp_path: Path) -> None:
    check = doctor_machine.check_data_dir(tmp_path / "a" / "b")

    assert check.status == "ok"
    assert "will make it" in check.detail
    assert list(tmp_path.iterdir()) == []


def test_a_data_directory_that_cannot_be_written_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(**_: Any) -> Any:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("tempfile.NamedTemporaryFile", refuse)

    check = doctor_machine.check_data_dir(tmp_path)

    assert (check.status, "Permission denied" in check.detail) == ("fail", True)


@pytest.mark.parametrize(("free_gib", "status"), [(0.5, "fail"), (3, "warn"), (50, "ok")])
def test_free_disk_has_two_limits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, free_gib: float, status: str) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda path: SimpleNamespace(free=free_gib * 1024**3))

    assert doctor_machine.check_free_disk(tmp_path).status == status


def test_a_low_limit_of_open_files_names_the_number_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("resource.getrlimit", lambda what: (1024, 4096))

    check = doctor_machine.check_open_files(Settings(partitions=10, rocksdb_max_open_files=256))

    assert check.status == "warn"
    assert "ulimit -n 2816" in check.advice


async def test_a_free_port_and_any_port_are_ok() -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]

    assert (await doctor_machine.check_sidecar(Settings(sidecar_port=port))).status == "ok"
    assert (await doctor_machine.check_sidecar(Settings(sidecar_port=0))).status == "ok"


@pytest.mark.parametrize(
    ("answer", "status"),
    [(b"HTTP/1.1 200 OK\r\n\r\n", "ok"), (b"HTTP/1.1 404 Not Found\r\n\r\n", "fail"), (b"SSH-2.0\r\n", "fail")],
)
async def test_a_taken_port_is_ok_only_if_a_sidecar_answers(answer: bytes, status: str) -> None:
    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readline()
        writer.write(answer)
        writer.close()

    server = await asyncio.start_server(handle, "127.0.0.1", 0)
    async with server:
        check = await doctor_machine.check_sidecar(Settings(sidecar_port=server.sockets[0].getsockname()[1]))

    assert check.status == status


@pytest.mark.parametrize(
    ("maxmemory", "policy", "status"), [(2**30, "noeviction", "ok"), (0, "noeviction", "warn"), (2**30, "allkeys-lru", "warn")]
)
def test_redis_must_be_bounded_and_must_not_evict(maxmemory: int, policy: str, status: str) -> None:
    assert doctor_machine.redis_memory(maxmemory, policy).status == status


def test_a_clock_is_only_blamed_beyond_what_the_network_explains() -> None:
    assert doctor_machine.clock(600, 200).status == "ok"
    assert doctor_machine.clock(-900, 200).status == "warn"


async def test_redis_down_is_a_warning_that_hides_the_password() -> None:
    (check,) = await doctor_machine.check_redis(Settings(redis_url="redis://user:canary@127.0.0.1:1/0"))

    assert check.status == "warn"
    assert "canary" not in check.detail + check.advice
    assert (await doctor_machine.check_redis(Settings(redis_url="")))[0].status == "ok"


async def test_without_a_broker_the_other_checks_still_run(tmp_path: Path) -> None:
    settings = Settings(kafka_bootstrap="127.0.0.1:1", redis_url="", data_dir=tmp_path, sidecar_port=0)

    checks = {check.name: check for check in await doctor.examine(settings)}

    assert checks["kafka"].status == "fail"
    assert "nothing listens" in checks["kafka"].advice
    assert {"redis", "data directory", "disk", "open files", "lock", "sidecar"} <= set(checks)


def invoke(monkeypatch: pytest.MonkeyPatch, checks: Any, *args: str) -> Any:
    async def examine(settings: Settings) -> Any:
        return checks

    monkeypatch.setattr("app.cli.main.examining.examine", examine)
    return CliRunner().invoke(app, ["doctor", *args])


def test_a_warning_exits_0_and_a_failure_1(monkeypatch: pytest.MonkeyPatch) -> None:
    sound = invoke(monkeypatch, [ok("a", "fine"), warn("b", "hm", "look [there]")])
    broken = invoke(monkeypatch, [ok("a", "fine"), fail("b", "bad", "mend it")])

    assert (sound.exit_code, broken.exit_code) == (0, 1)
    assert "-> look [there]" in sound.stdout
    assert "ready, 1 warning(s)" in sound.stdout
    assert "1 failed, 0 warning(s)" in broken.stdout


def test_json_lists_every_check(monkeypatch: pytest.MonkeyPatch) -> None:
    result = invoke(monkeypatch, [fail("b", "bad", "mend it")], "--json")

    assert json.loads(result.stdout) == {
        "ok": False,
        "checks": [{"name": "b", "status": "fail", "detail": "bad", "advice": "mend it"}],
    }
