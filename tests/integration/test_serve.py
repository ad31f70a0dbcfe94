"""``veltrix serve`` beside workers: the same answers, without them, and what it says when Redis refuses or is away."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Protocol

import pytest
import redis as redis_py

from app.settings import Settings
from deploy.local.ports import LOOPBACK, free_ports
from deploy.local.process import Command, ManagedProcess
from deploy.local.redis import LocalRedis
from deploy.local.worker_process import ROOT, WorkerProcess, clean_environment, http_get
from tests.integration import truth
from tests.integration.conftest import MakeTopics, StartWorker, environment, environment_of

WAIT_S = 60.0
PASSWORD = "s3cret"
#: As docs/runbooks/redis.md gives it.
RIGHTS = ["+@read", "+@write", "+@scripting", "+@connection", "+time"]


class Serve:
    """One ``veltrix serve`` process."""

    def __init__(self, settings: Settings, log: Path, **overrides: Any) -> None:
        self.port = free_ports(1)[0]
        variables = environment(settings) | environment_of({"serve_port": self.port, **overrides})
        argv = [str(Path(sys.executable).with_name("veltrix")), "serve"]
        self.process = ManagedProcess(Command("serve", argv, log, cwd=ROOT, env=clean_environment() | variables))
        self.log = log

    def get(self, path: str) -> tuple[int, Any]:
        """Status and body; status 0 while nobody answers."""
        try:
            status, body = http_get(self.port, path)
        except OSError:
            return 0, {}
        return status, json.loads(body)

    def user(self, key: str) -> Any:
        """Status, and the value if there is one."""
        status, body = self.get(f"/api/v1/lookups/users/{key}")
        return status, body.get("value")


class StartServe(Protocol):
    def __call__(self, settings: Settings, **overrides: Any) -> Serve: ...


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[StartServe]:
    """Start such processes; all are killed when the test ends."""
    started: list[Serve] = []

    def start(settings: Settings, **overrides: Any) -> Serve:
        one = Serve(settings, tmp_path / f"serve-{len(started) + 1}.log", **overrides)
        started.append(one)
        one.process.start()
        return one

    yield start
    for one in started:
        one.process.kill()


def wait_until(reached: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + WAIT_S
    while not reached():
        assert time.monotonic() < deadline, what
        time.sleep(0.1)


def send(settings: Settings, one: WorkerProcess, count: int = 2_000, tag: str = "serve", users: int = 50) -> list[str]:
    """Send events, wait until they are applied; the users of them."""
    sent = truth.Sent()
    truth.send(settings, truth.clicks(count, tag, users=users), sent)
    truth.wait_consumed([one], count)
    return sorted({f"u:{user}" for value in sent.valid.values() if (user := json.loads(value).get("userId"))})


def values(ask: Callable[[str], tuple[int, Any]], users: list[str]) -> dict[str, tuple[int, Any]]:
    return {user: ask(user) for user in users}


def by_worker(one: WorkerProcess) -> Callable[[str], tuple[int, Any]]:
    def ask(user: str) -> tuple[int, Any]:
        status, body = one.get(f"/api/v1/lookups/users/{user}")
        return status, json.loads(body).get("value")

    return ask


def test_it_answers_as_a_worker_does_and_goes_on_without_one(topics: MakeTopics, worker: StartWorker, serve: StartServe) -> None:
    settings = topics()
    one, served = worker(settings), serve(settings)
    users = send(settings, one)
    wait_until(lambda: served.get("/readyz")[0] == 200, "not ready")
    wait_until(lambda: values(served.user, users) == values(by_worker(one), users), "other answers than the worker's")
    known = values(served.user, users)
    assert {status for status, _ in known.values()} == {200}
    assert served.get("/readyz")[1]["unfilled"] == []
    assert served.get("/api/v1/lookups/totals")[1]["partial"] is False

    one.kill9()

    assert values(served.user, users) == known
    assert served.user("u:nobody")[0] == 404
    assert served.process.stop(10) == 0


def test_without_redis_it_refuses_and_says_so_and_is_back_by_itself(
    topics: MakeTopics, worker: StartWorker, serve: StartServe, own_redis: LocalRedis
) -> None:
    settings = topics(redis_url=own_redis.url)
    one, served = worker(settings), serve(settings)
    users = send(settings, one)
    wait_until(lambda: served.user(users[0])[0] == 200, "no answer")

    own_redis.stop()
    wait_until(lambda: served.get("/readyz")[0] == 503, "ready without Redis")
    assert served.get("/livez")[0] == 200
    status, body = served.get(f"/api/v1/lookups/users/{users[0]}")
    assert (status, body["reason"]) == (503, "redis_down")
    assert "start Redis or check VELTRIX_REDIS_URL" in served.log.read_text()

    own_redis.start()
    wait_until(lambda: served.user(users[0])[0] == 200, "not back")


def test_an_empty_redis_is_filled_again_at_the_set_rate_and_progress_is_shown_while_the_stream_goes_on(
    topics: MakeTopics, worker: StartWorker, serve: StartServe, own_redis: LocalRedis
) -> None:
    settings = topics(partitions=1, redis_url=own_redis.url, redis_rebuild_keys_per_s=100, windows_enabled=False)
    one, served = worker(settings), serve(settings)
    users = send(settings, one, 6_000, users=1_000)[:50]
    wait_until(lambda: served.user(users[0])[0] == 200, "no answer")
    with redis_py.Redis.from_url(own_redis.url) as client:
        keys = len(client.keys(f"{settings.app_id}:lookup:*"))

    own_redis.flush()
    began = time.monotonic()
    wait_until(lambda: "rebuilding" in one.get("/readyz")[1].decode(), "nobody noticed, or nobody says so")
    assert 'veltrix_redis_rebuilt_ratio{agent="process_interactions",partition="0"}' in one.get("/metrics")[1].decode()
    send(settings, one, 1_000, "meanwhile", users=1_000)
    wait_until(lambda: served.get("/readyz")[1]["unfilled"] == [], "not filled")
    seconds = time.monotonic() - began

    assert keys > 500, "it was over at once"
    assert seconds >= (keys - 100) / 100 * 0.9, "faster than was allowed"
    assert "lookups_rebuilt" in one.log.read_text()
    wait_until(lambda: values(served.user, users) == values(by_worker(one), users), "other answers than the worker's")


@pytest.fixture
def guarded_redis(tmp_path: Path) -> Iterator[tuple[LocalRedis, str, Path]]:
    """A Redis that takes TLS, with a user that has the documented rights alone; its URL and its CA file."""
    key, certificate, port = tmp_path / "redis.key", tmp_path / "redis.crt", free_ports(1)[0]
    made = ["-keyout", str(key), "-out", str(certificate), "-days", "2", "-subj", f"/CN={LOOPBACK}"]
    curve = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-addext", f"subjectAltName=IP:{LOOPBACK}"]
    subprocess.run(["openssl", "req", "-x509", *curve, *made], check=True, capture_output=True)
    tls = ["--tls-port", str(port), "--tls-cert-file", str(certificate), "--tls-key-file", str(key), "--tls-auth-clients", "no"]
    with LocalRedis(tmp_path / "guarded", extra=tls) as server:
        yield server, f"rediss://{LOOPBACK}:{port}/0", certificate


def test_tls_and_a_user_with_few_rights_are_enough_and_a_wrong_password_is_named(
    topics: MakeTopics, worker: StartWorker, serve: StartServe, guarded_redis: tuple[LocalRedis, str, Path]
) -> None:
    server, url, certificate = guarded_redis
    login: dict[str, Any] = {"redis_username": "veltrix", "redis_password": PASSWORD, "redis_ssl_ca_file": certificate}
    settings = topics(redis_url=url, **login)
    with redis_py.Redis.from_url(server.url) as admin:
        admin.execute_command("ACL", "SETUSER", "veltrix", "on", f">{PASSWORD}", f"~{settings.app_id}:*", *RIGHTS)
        admin.execute_command("ACL", "SETUSER", "default", "off")
    one, served = worker(settings), serve(settings)
    users = send(settings, one)
    wait_until(lambda: values(served.user, users) == values(by_worker(one), users), "other answers than the worker's")
    status, body = one.get(f"/api/v1/lookups/users/{users[0]}")
    assert (status, json.loads(body)["freshness"]["source"]) == (200, "redis")
    assert one.terminate() == 0

    stranger, refused = worker(settings, redis_password="wrong"), serve(settings, redis_password="wrong")

    send(settings, stranger, 500, "stranger")  # the stream does not need Redis
    assert json.loads(stranger.get("/readyz")[1])["degraded"] == ["redis"]
    wait_until(lambda: refused.get("/readyz")[0] == 503, "ready with a wrong password")
    for log in (stranger.log, refused.log):
        assert "check VELTRIX_REDIS_USERNAME and VELTRIX_REDIS_PASSWORD" in log.read_text()
