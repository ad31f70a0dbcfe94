"""``veltrix admin`` on a real Kafka: what it lists is what the topic holds, and what is done about a letter is done once."""

from __future__ import annotations

import base64
import json
import os
import shutil
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from select import select
from typing import Any, Protocol

import httpx
import pytest
from confluent_kafka import Producer
from typer.testing import CliRunner

from app.cli.main import app as cli
from app.settings import Settings, load_settings
from app.topics import INTERACTIONS, Topic, all_topics, audit_of_dead_letters, dead_letters_of
from deploy.local.kafka import LocalKafka
from deploy.local.ports import LOOPBACK, free_ports
from deploy.local.process import Command, ManagedProcess
from deploy.local.worker_process import ROOT, WorkerProcess, clean_environment
from tests.integration import truth
from tests.integration.conftest import MakeTopics, StartWorker, environment, environment_of
from tests.integration.topic_admin import recreate

EVENTS = 4_000
WAIT_S = 90.0


class Admin:
    """One ``veltrix admin`` process."""

    def __init__(self, settings: Settings, directory: Path, **overrides: Any) -> None:
        self.port = free_ports(1)[0]
        variables = environment(settings) | environment_of({"admin_port": self.port, "admin_dir": directory, **overrides})
        argv = [str(Path(sys.executable).with_name("veltrix")), "admin"]
        self.log = directory.with_suffix(".log")
        self.process = ManagedProcess(Command("admin", argv, self.log, cwd=ROOT, env=clean_environment() | variables))
        self.http = httpx.Client(base_url=f"http://{LOOPBACK}:{self.port}/api/v1/dlq", timeout=20.0)

    def is_ready(self) -> bool:
        try:
            return httpx.get(f"http://{LOOPBACK}:{self.port}/readyz", timeout=5.0).status_code == 200
        except httpx.HTTPError:
            return False

    def wait_ready(self) -> None:
        self.process.wait_until(self.is_ready, WAIT_S)

    def get(self, path: str, **query: Any) -> Any:
        answer = self.http.get(path, params=query)
        assert answer.status_code == 200, answer.text
        return answer.json()

    def records(self, **query: Any) -> list[dict[str, Any]]:
        """All pages."""
        found, cursor = list[dict[str, Any]](), None
        while True:
            page = self.get("/records", **query, **({"cursor": cursor} if cursor else {}))
            found += page["records"]
            cursor = page["next_cursor"]
            if cursor is None:
                return found

    def post(self, path: str, body: Any, **headers: str) -> httpx.Response:
        return self.http.post(path, json=body, headers={name.replace("_", "-"): value for name, value in headers.items()})


class StartAdmin(Protocol):
    def __call__(self, settings: Settings, directory: Path | None = None, **overrides: Any) -> Admin: ...


@pytest.fixture
def admin(tmp_path: Path) -> Iterator[StartAdmin]:
    """Start such processes; all are killed when the test ends."""
    started: list[Admin] = []

    def start(settings: Settings, directory: Path | None = None, **overrides: Any) -> Admin:
        one = Admin(settings, directory or tmp_path / f"admin-{len(started) + 1}", **overrides)
        started.append(one)
        one.process.start()
        return one

    yield start
    for one in started:
        one.http.close()
        one.process.kill()


def until(reached: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + WAIT_S
    while not reached():
        assert time.monotonic() < deadline, what
        time.sleep(0.1)


def park(settings: Settings, one: WorkerProcess, sent: truth.Sent, count: int = EVENTS, tag: str = "park") -> None:
    """Send events, some of them bad, and wait until they are dealt with."""
    truth.send(settings, truth.clicks(count, tag), sent)
    truth.wait_consumed([one], len(sent.clicks))


def test_it_lists_groups_and_finds_what_the_topic_holds_and_builds_it_again_when_lost(
    topics: MakeTopics, worker: StartWorker, admin: StartAdmin, tmp_path: Path
) -> None:
    settings, sent = topics(), truth.Sent()
    one = worker(settings)
    park(settings, one, sent)
    first = admin(settings, tmp_path / "admin")
    first.wait_ready()
    reasons = Counter(reason for reason, _ in sent.bad.elements())

    records = first.records(limit=7)
    assert Counter(record["reason"] for record in records) == reasons
    assert [record["failed_at"] for record in records] == sorted((record["failed_at"] for record in records), reverse=True)
    for reason, count in reasons.items():
        assert len(first.records(reason=reason)) == count
    assert {group["reason"]: group["count"] for group in first.get("/groups")["groups"]} == reasons
    (queue,) = [queue for queue in first.get("/queues")["queues"] if queue["name"].endswith(INTERACTIONS)]
    assert (queue["open"], queue["statuses"]) == (reasons.total(), {"pending": reasons.total()})

    # More come while it is away, killed; then its directory is lost.
    first.process.kill()
    park(settings, one, sent, tag="more")
    reasons = Counter(reason for reason, _ in sent.bad.elements())
    again = admin(settings, tmp_path / "admin")
    again.wait_ready()
    until(lambda: len(again.records()) == reasons.total(), "it did not go on where it was")
    known = again.records()
    again.process.kill()
    shutil.rmtree(tmp_path / "admin")
    rebuilt = admin(settings, tmp_path / "admin")
    rebuilt.wait_ready()
    assert sorted(record["id"] for record in rebuilt.records()) == sorted(record["id"] for record in known)
    assert Counter(record["reason"] for record in rebuilt.records()) == reasons
    assert rebuilt.process.stop(15) == 0


def no_identity(message_id: str) -> bytes:
    return json.dumps({"type": "track", "messageId": message_id, "event": "Signed Up", "email": "jane@example.org"}).encode()


def one_letter(settings: Settings, one: WorkerProcess, message_id: str) -> None:
    """An event that names nobody."""
    before = truth.ledger(one)["dead_lettered"]
    click = truth.clicks(1, message_id)[0]._replace(kind="missing_identity", key=b"42", value=no_identity(message_id))
    truth.send(settings, [click], truth.Sent())
    until(lambda: truth.ledger(one)["dead_lettered"] > before, "it was not parked")


def b64(raw: bytes) -> str:
    return base64.b64encode(raw).decode()


def test_a_letter_is_found_tried_mended_and_sent_again_exactly_once(
    topics: MakeTopics, worker: StartWorker, admin: StartAdmin
) -> None:
    settings = topics()
    one = worker(settings)
    one_letter(settings, one, "mend-1")
    desk = admin(settings)
    desk.wait_ready()
    until(lambda: len(desk.records(q="mend-1")) == 1, "not found by its messageId")
    (letter,) = desk.records(q="jane@example.org", status="pending", reason="missing_identity")
    path = f"/records/{letter['id']}"
    mended = json.dumps({"userId": "42", **json.loads(no_identity("mend-1"))}).encode()

    verdicts = [desk.post(f"{path}/validate", body).json() for body in ({}, {"value_base64": b64(mended)})]
    assert [(verdict["passes"], verdict["reason"]) for verdict in verdicts] == [(False, "missing_identity"), (True, None)]
    assert {one["result"]: one["left_out"] for one in verdicts[1]["results"]}["sessions"] == 0, "it comes in time for its session"
    assert desk.get(f"{path}/state")["status"] == "pending"

    done = desk.post(f"{path}/replay", {"reason": "names him", "value_base64": b64(mended)}, x_veltrix_user="ann", if_match='"0"')
    assert (done.status_code, done.json()["status"], done.json()["by"]) == (200, "replayed", "ann")
    until(lambda: "mend-1" in truth.Outcome.of(settings).values, "it did not come out")
    again = desk.post(f"{path}/replay", {"reason": "twice"})
    assert (again.status_code, again.json()["type"]) == (409, "urn:veltrix:problem:conflict")
    stale = desk.post(f"{path}/discard", {"reason": "late"}, if_match='"0"')
    assert (stale.status_code, stale.headers["etag"]) == (409, f'"{done.json()["version"]}"')

    # By force it is sent once more, and it is a duplicate: its id was marked when it passed.
    assert desk.post(f"{path}/replay", {"reason": "sure", "value_base64": b64(mended), "force": True}).status_code == 200
    until(lambda: truth.ledger(one)["duplicates"] == 1, "the second one was not dropped")
    assert list(truth.Outcome.of(settings).values) == ["mend-1"]
    record = next(message for message in truth.read(settings, INTERACTIONS) if message.value() == mended)
    assert (record.key(), truth.header(record, "dlq.id").decode()) == (b"42", letter["dlq_id"])
    audits = [json.loads(message.value() or b"") for message in read_single(settings, audit_of_dead_letters(settings.app_id))]
    assert [(audit["who"], audit["action"], audit["result"]) for audit in audits] == [
        ("ann", "replay", "replayed"), ("operator", "replay", "replayed"),
    ]  # fmt: skip


def test_a_request_that_is_sent_twice_with_one_key_is_carried_out_once_and_answered_twice(
    topics: MakeTopics, worker: StartWorker, admin: StartAdmin, tmp_path: Path
) -> None:
    settings = topics()
    one = worker(settings)
    one_letter(settings, one, "once-1")
    desk = admin(settings, tmp_path / "admin")
    desk.wait_ready()
    until(lambda: len(desk.records(q="once-1")) == 1, "the letter is not indexed")
    path = f"/records/{desk.records(q='once-1')[0]['id']}"
    order = {"reason": "again", "value_base64": b64(json.dumps({"userId": "42", **json.loads(no_identity("once-1"))}).encode())}

    first = desk.post(f"{path}/replay", order, idempotency_key="try-1")
    desk.process.kill()  # the answer may have been lost with it
    desk = admin(settings, tmp_path / "admin")
    desk.wait_ready()
    second = desk.post(f"{path}/replay", order, idempotency_key="try-1")
    assert (first.status_code, second.status_code) == (200, 200)
    assert first.json() == second.json()
    assert desk.post(f"{path}/replay", order, idempotency_key="try-2").status_code == 409
    assert desk.post(f"{path}/replay", order, idempotency_key="try-1", x_veltrix_user="bob").status_code == 409, "another's key"
    other = desk.post(f"{path}/discard", {"reason": "no"}, idempotency_key="try-1")
    assert (other.status_code, "try-1" in other.json()["detail"]) == (409, True)
    until(lambda: "once-1" in truth.Outcome.of(settings).values, "it did not come out")
    assert truth.ledger(one)["duplicates"] == 0, "sent once"


def read_single(settings: Settings, topic: str) -> list[Any]:
    """Records of a topic with one partition."""
    return truth.read(settings.model_copy(update={"partitions": 1}), topic)


def test_what_fails_again_says_how_often_and_stops_at_the_cap(topics: MakeTopics, worker: StartWorker, admin: StartAdmin) -> None:
    settings = topics()
    one = worker(settings)
    one_letter(settings, one, "loop-1")
    desk = admin(settings)
    desk.wait_ready()
    for count in (0, 1, 2):
        expected = count + 1
        until(lambda: len(desk.records(q="loop-1")) == expected, "the next failure did not come")  # noqa: B023 - called at once
        letter = desk.records(q="loop-1")[0]
        assert (letter["replay_count"], letter["delivery_count"]) == (count, count + 1)
        answer = desk.post(f"/records/{letter['id']}/replay", {"reason": "again"})
        assert answer.status_code == (200 if count < 2 else 422)
    assert answer.json()["type"] == "urn:veltrix:problem:exhausted"
    assert Counter(record["status"] for record in desk.records(q="loop-1")) == {"replayed": 2, "exhausted": 1}
    assert len({record["dlq_id"] for record in desk.records(q="loop-1")}) == 1, "one story"


def test_a_discarded_letter_and_a_note_survive_the_loss_of_the_index(
    topics: MakeTopics, worker: StartWorker, admin: StartAdmin, tmp_path: Path
) -> None:
    settings, sent = topics(), truth.Sent()
    one = worker(settings)
    park(settings, one, sent)
    desk = admin(settings, tmp_path / "admin")
    desk.wait_ready()
    group = desk.get("/groups")["groups"][0]
    letter = desk.records(fingerprint=group["fingerprint"])[0]
    assert desk.post(f"/records/{letter['id']}/discard", {"reason": "test traffic"}).json()["status"] == "discarded"
    noted = desk.http.patch(f"/groups/{group['fingerprint']}", json={"note": "known", "owner": "team-a"})
    assert (noted.status_code, noted.json()["owner"], noted.json()["counts"]["discarded"]) == (200, "team-a", 1)

    desk.process.kill()
    shutil.rmtree(tmp_path / "admin")
    desk = admin(settings, tmp_path / "admin")
    desk.wait_ready()
    assert [record["id"] for record in desk.records(status="discarded")] == [letter["id"]]
    (found,) = [one for one in desk.get("/groups")["groups"] if one["fingerprint"] == group["fingerprint"]]
    assert (found["note"], found["counts"]["discarded"]) == ("known", 1)


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "kind"),
    [
        ("GET", "/groups?queue=interactions", None, 404, "unknown-queue"),
        ("POST", "/records/interactions:0:0/discard", {"reason": "x"}, 404, "unknown-queue"),
        ("POST", "/records/{queue}:0:999999/discard", {"reason": "x"}, 404, "unknown-record"),
        ("POST", "/records/{queue}:0:999999/validate", {}, 404, "unknown-record"),
        ("POST", "/records/nonsense/replay", {"reason": "x"}, 422, "invalid-request"),
        ("POST", "/records/{queue}:0:0/discard", {}, 422, "invalid-request"),
        ("POST", "/records/{queue}:0:0/replay", {"reason": "x", "value_base64": "?"}, 422, "invalid-request"),
        ("PATCH", "/groups/0123456789abcdef", {"note": "x"}, 404, "unknown-record"),
        ("PATCH", "/groups/0123456789abcdef", {"nota": "x"}, 422, "invalid-request"),
        ("GET", "/records?q=!!", None, 422, "invalid-request"),
    ],
)  # fmt: skip
def test_what_cannot_be_done_says_why(
    method: str, path: str, body: Any, status: int, kind: str, quiet_desk: tuple[Admin, str]
) -> None:
    desk, queue = quiet_desk
    answer = desk.http.request(method, path.format(queue=queue), json=body)
    assert (answer.status_code, answer.json()["type"]) == (status, f"urn:veltrix:problem:{kind}")


@pytest.fixture(scope="module")
def quiet_desk(kafka: LocalKafka, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Admin, str]]:
    """A desk without letters, shared by tests that change nothing."""
    settings = load_settings(app_id="t-quiet", partitions=2, kafka_bootstrap=kafka.bootstrap)
    recreate(settings.kafka_bootstrap, all_topics(settings))
    one = Admin(settings, tmp_path_factory.mktemp("quiet") / "admin")
    one.process.start()
    one.wait_ready()
    yield one, dead_letters_of(settings.app_id, INTERACTIONS)
    one.http.close()
    one.process.kill()


def test_a_second_one_on_the_same_directory_is_refused_and_missing_topics_are_waited_for(
    topics: MakeTopics, admin: StartAdmin, tmp_path: Path
) -> None:
    settings = topics(create=False)
    waiting = admin(settings, tmp_path / "admin")
    until(lambda: "veltrix topics apply" in waiting.log.read_text(), "it does not say what is missing")
    assert not waiting.is_ready()
    second = admin(settings, tmp_path / "admin")
    assert second.process.wait(WAIT_S) == 78
    assert "VELTRIX_ADMIN_DIR" in second.log.read_text()


def test_another_teams_letters_are_shown_in_their_own_words_and_not_touched(
    topics: MakeTopics, admin: StartAdmin, tmp_path: Path
) -> None:
    settings = topics()
    recreate(settings.kafka_bootstrap, [Topic("orders-dlt", 2, "another team")])
    producer = Producer({"bootstrap.servers": settings.kafka_bootstrap})
    place = {
        "kafka_dlt-original-topic": INTERACTIONS.encode(),
        "kafka_dlt-original-partition": bytes(4),
        "kafka_dlt-original-offset": bytes(8),
    }
    headers: list[tuple[str, str | bytes | None]] = [
        *(place | {"kafka_dlt-exception-fqcn": b"java.lang.IllegalStateException"}).items()
    ]
    producer.produce("orders-dlt", b'{"order":"o-77"}', b"k", partition=1, headers=headers)
    producer.flush()
    desk = admin(settings, tmp_path / "admin", dlq_extra_topics="orders-dlt, no-such-topic")
    desk.wait_ready()

    (letter,) = desk.records(queue="orders-dlt", q="o-77")
    assert (letter["exception_class"], letter["source"]["topic"]) == ("java.lang.IllegalStateException", INTERACTIONS)
    assert [group["count"] for group in desk.get("/groups", queue="orders-dlt")["groups"]] == [1]
    refused = desk.post(f"/records/{letter['id']}/replay", {"reason": "x", "force": True})
    assert (refused.status_code, refused.json()["type"]) == (422, "urn:veltrix:problem:foreign-queue")
    assert truth.read(settings, INTERACTIONS) == []
    assert "no-such-topic" in desk.log.read_text()


def test_the_command_line_shows_the_same_and_acts_only_with_yes(topics: MakeTopics, worker: StartWorker, admin: StartAdmin) -> None:
    settings = topics()
    one = worker(settings)
    one_letter(settings, one, "cli-1")
    one_letter(settings, one, "cli-2")
    desk = admin(settings)
    desk.wait_ready()
    until(lambda: len(desk.records()) == 2, "they did not come")
    ids = [record["id"] for record in desk.records()]

    def dlq(*arguments: str) -> Any:
        clean = {name: None for name in os.environ if name.startswith("VELTRIX_")}
        env = {**clean, **environment(settings), "VELTRIX_ADMIN_URL": f"http://{LOOPBACK}:{desk.port}"}
        return CliRunner().invoke(cli, ["dlq", *arguments], env=env)

    assert [record["id"] for record in json.loads(dlq("ls", "--json").stdout)] == ids
    assert "missing_identity" in dlq("groups").stdout
    assert dlq("ls", "--q", "cli-2", "--status", "pending").stdout.count(ids[0]) == 1
    assert "jane@example.org" in dlq("show", ids[0]).stdout
    (queue,) = [queue for queue in json.loads(dlq("queues", "--json").stdout) if queue["count"]]
    assert queue["open"] == 2
    failing = dlq("validate", ids[0])
    assert (failing.exit_code, "missing_identity" in failing.stdout) == (1, True)
    verdict = json.loads(dlq("validate", "--fingerprint", desk.records()[0]["fingerprint"], "--json").stdout)
    assert (verdict["checked"], verdict["passed"], verdict["failed"]) == (2, 0, {"validate missing_identity": 2})

    plan = dlq("replay", "--why", "again")
    assert (plan.exit_code, "2 letters" in plan.stdout, "Nothing was changed" in plan.stdout) == (0, True, True)
    plan = dlq("replay", "--why", "again", "--fingerprint", desk.records()[0]["fingerprint"])
    assert "Of the newest 2 of this group 0 would pass now." in plan.stdout
    assert replayed(settings) == Counter()
    assert dlq("discard", ids[1], "--why", "a test").exit_code == 0
    done = dlq("discard", "--why", "tests", "--yes", "--json")
    assert (done.exit_code, json.loads(done.stdout)["discarded"]) == (0, 1)
    assert Counter(record["status"] for record in desk.records()) == {"discarded": 2}
    exported = [json.loads(line) for line in dlq("export").stdout.splitlines()]
    assert [(letter["value"]["text"], letter["status"]) for letter in exported] == [
        (no_identity("cli-2").decode(), "discarded"), (no_identity("cli-1").decode(), "discarded"),
    ]  # fmt: skip
    assert dlq("jobs").stdout.count("COMPLETED") == 1
    audited = json.loads(dlq("audit", "--json").stdout)
    assert [(event["action"], event["result"]) for event in audited] == [
        ("discard", "COMPLETED"), ("discard", "started"), ("discard", "discarded"),
    ]  # fmt: skip
    assert "a test" in dlq("audit").stdout
    with httpx.Client() as client:
        first = client.get(f"{desk.http.base_url}export", params={"limit": 1})
        second = client.get(f"{desk.http.base_url}export", params={"limit": 1, "cursor": first.headers["x-next-cursor"]})
    assert [json.loads(answer.text)["id"] for answer in (first, second)] == ids
    assert "x-next-cursor" not in second.headers
    wrong = dlq("show", "nonsense")
    assert (wrong.exit_code, "<topic>:<partition>:<offset>" in wrong.stderr) == (1, True)
    desk.process.kill()
    gone = dlq("ls")
    assert (gone.exit_code, "start `veltrix admin`" in gone.stderr) == (1, True)


def test_who_watches_sees_each_letter_as_it_comes_and_only_what_was_asked_for(
    topics: MakeTopics, worker: StartWorker, admin: StartAdmin
) -> None:
    settings = topics()
    one = worker(settings)
    one_letter(settings, one, "before")
    desk = admin(settings)
    desk.wait_ready()
    until(lambda: len(desk.records()) == 1, "the index is behind")
    clean = {name: held for name, held in os.environ.items() if not name.startswith("VELTRIX_")}
    env = clean | environment(settings) | {"VELTRIX_ADMIN_URL": f"http://{LOOPBACK}:{desk.port}"}
    argv = [str(Path(sys.executable).with_name("veltrix")), "dlq", "tail", "--reason", "missing_identity", "--limit", "2", "--json"]
    watching = subprocess.Popen(argv, env=env, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    other = truth.clicks(1, "other")[0]._replace(kind="truncated_json", key=b"42", value=b"{")
    try:
        for number in range(60):  # when it begins to watch is not known
            truth.send(settings, [other], truth.Sent())
            one_letter(settings, one, f"letter-{number}")
            if watching.poll() is not None:
                break
        told = [json.loads(line)["id"] for line in watching.communicate(timeout=30)[0].splitlines()]
    finally:
        watching.kill()
        watching.wait()
    known = [letter["id"] for letter in reversed(desk.records(reason="missing_identity"))]
    at = known.index(told[0])
    assert at > 0, "what was there before is not told"
    assert told == known[at : at + 2]
    left = subprocess.Popen([*argv[:3]], env=env, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert left.stdout is not None
    try:
        for number in range(60):
            one_letter(settings, one, f"later-{number}")
            if select([left.stdout], [], [], 0.2)[0]:
                break
        with desk.http.stream("GET", "/records/stream") as answer:
            assert (answer.status_code, answer.headers["content-type"].partition(";")[0]) == (200, "text/event-stream")
            assert desk.process.stop(15) == 0, "whoever watches does not keep it from ending"
            assert answer.read().startswith(b": what comes from now on"), "and is told that it ends"
        said = left.communicate(timeout=30)[1]
    finally:
        left.kill()
        left.wait()
    assert (left.returncode, "was stopped" in said) == (1, True), said


# -- jobs ---------------------------------------------------------------------------------------------


def parked_by_a_mistake(
    settings: Settings, worker: StartWorker, directory: Path, count: int, *, limit_bytes: int = 420, mended: bool = True
) -> tuple[truth.Sent, WorkerProcess]:
    """Events parked by a worker with too small a limit, and the worker after it; its limit is right if ``mended``."""
    sent = truth.Sent()
    mistake: dict[str, Any] = {"max_event_bytes": limit_bytes, "breaker_enabled": False}
    wrong = worker(settings, run_dir=directory, **mistake)
    truth.send(settings, truth.clicks(count, "mistake"), sent)
    truth.wait_consumed([wrong], count, 300)
    assert wrong.terminate() == 0
    return sent, worker(settings, run_dir=directory, **({} if mended else mistake))


def replayed(settings: Settings) -> Counter[bytes]:
    """How often each dead letter was sent to the source again."""
    again = [message for message in truth.read(settings, INTERACTIONS) if message.headers()]
    return Counter(truth.header(message, "dlq.id") for message in again)


def ended(desk: Admin, job: str, state: str = "COMPLETED") -> dict[str, Any]:
    until(lambda: bool(desk.get(f"/replays/{job}")["state"] != "RUNNING"), "the job does not end")
    answer: dict[str, Any] = desk.get(f"/replays/{job}")
    assert answer["state"] == state, answer
    return answer


@pytest.mark.parametrize(
    ("guarantee", "events", "limit_bytes", "rate"),
    [
        ("at_least_once", 6_000, 420, 800),
        pytest.param("exactly_once", 6_000, 420, 800, marks=pytest.mark.faults),
        pytest.param("at_least_once", 102_000, 256, 2_000, marks=pytest.mark.faults),
        pytest.param("exactly_once", 102_000, 256, 2_000, marks=pytest.mark.faults),
    ],
)
def test_a_replay_that_is_killed_three_times_sends_each_letter_once_and_its_counts_add_up(
    guarantee: str,
    events: int,
    limit_bytes: int,
    rate: int,
    topics: MakeTopics,
    worker: StartWorker,
    admin: StartAdmin,
    tmp_path: Path,
) -> None:
    settings = topics(processing_guarantee=guarantee, dlq_replay_max_per_s=rate)
    sent, one = parked_by_a_mistake(settings, worker, tmp_path / "worker", events, limit_bytes=limit_bytes)
    desk = admin(settings, tmp_path / "admin")
    desk.wait_ready()
    body = {"filter": {"reason": "oversize"}, "reason": "the limit is right now", "rate_per_second": rate, "canary": {"size": 100}}
    planned = desk.post("/replays", body | {"dry_run": True}).json()
    assert (planned["state"], planned["sent"], planned["matched"]) == (
        "DRY_RUN",
        0,
        len(desk.records(reason="oversize", limit=500)),
    )
    started = desk.post("/replays", body, idempotency_key="fix-1")
    assert started.status_code == 202
    job = started.json()["id"]
    again = desk.post("/replays", body, idempotency_key="fix-1")
    assert (again.status_code, again.json()["id"]) == (200, job)
    assert desk.post("/replays", body).json()["job"] == job, "one at a time"

    for kill in (1, 2, 3):
        done = kill * planned["matched"] // 5
        until(lambda: desk.get(f"/replays/{job}")["sent"] >= done, "it does not go on")  # noqa: B023 - called at once
        desk.process.kill()
        if kill == 2:
            shutil.rmtree(tmp_path / "admin")
        desk = admin(settings, tmp_path / "admin")
        desk.wait_ready()
    answer = ended(desk, job)

    # Letters whose events are bad in another way, too, fail again; all others pass.
    assert answer["sent"] == answer["matched"] == planned["matched"]
    assert answer["skipped"] == answer["exhausted"] == 0
    counts = replayed(settings)
    assert (len(counts), set(counts.values())) == (planned["matched"], {1})
    until(lambda: set(truth.Outcome.of(settings).values) == set(sent.valid), "not every event came out")
    outcome = truth.Outcome.of(settings)
    assert all(sorted(numbers) == list(range(1, len(numbers) + 1)) for numbers in outcome.sequences.values())
    assert truth.ledger(one)["residue"] == 0
    assert answer["failed_again"] == len([record for record in desk.records(status="pending", limit=500) if record["replay_count"]])
    assert answer["succeeded"] == answer["sent"] - answer["failed_again"]


def test_a_canary_that_fails_again_pauses_the_job_and_one_more_cancels_it(
    topics: MakeTopics, worker: StartWorker, admin: StartAdmin, tmp_path: Path
) -> None:
    settings = topics()
    parked_by_a_mistake(settings, worker, tmp_path / "worker", 1_000, mended=False)
    desk = admin(settings)
    desk.wait_ready()
    matched = len(desk.records(reason="oversize", limit=500))
    body = {"filter": {"reason": "oversize"}, "reason": "hope", "rate_per_second": 500, "canary": {"size": 50, "min_success": 0.9}}
    job = desk.post("/replays", body).json()["id"]

    paused = ended(desk, job, "PAUSED")
    assert (paused["sent"], paused["failed_again"], paused["matched"]) == (50, 50, matched)
    assert "50 of 50 failed again" in paused["note"]
    assert desk.post("/replays", body).status_code == 409
    assert desk.post(f"/replays/{job}/cancel", None).json()["state"] == "CANCELLED"
    assert desk.post(f"/replays/{job}/resume", None).status_code == 409
    assert sum(replayed(settings).values()) == 50

    # A new one may begin; what is left can be discarded at once.
    done = ended(desk, desk.post("/discards", {"filter": {"reason": "oversize"}, "reason": "not needed"}).json()["id"])
    assert done["discarded"] == done["matched"] == matched
    assert Counter(record["status"] for record in desk.records(reason="oversize", limit=500)) == {
        "discarded": matched,
        "replayed": 50,
    }


def test_a_patch_mends_what_it_fits_and_the_rest_is_skipped_and_says_why(
    topics: MakeTopics, worker: StartWorker, admin: StartAdmin
) -> None:
    settings = topics()
    one = worker(settings)
    one_letter(settings, one, "patch-1")
    click = truth.clicks(1, "x")[0]._replace(kind="truncated_json", key=b"42", value=b'{"type":')
    truth.send(settings, [click], truth.Sent())
    desk = admin(settings)
    desk.wait_ready()
    until(lambda: len(desk.records()) == 2, "they did not come")
    patch = [{"op": "test", "path": "/messageId", "value": "patch-1"}, {"op": "add", "path": "/userId", "value": "42"}]

    answer = ended(desk, desk.post("/replays", {"reason": "his id", "patch": patch}).json()["id"])

    assert (answer["matched"], answer["sent"], answer["skipped"], answer["failed_again"]) == (2, 1, 1, 0)
    assert list(truth.Outcome.of(settings).values) == ["patch-1"]
    (left,) = desk.records(status="pending")
    state = desk.get(f"/records/{left['id']}/state")
    assert ("not JSON" in state["note"], state["version"]) == (True, 1)
    ended(desk, desk.post("/replays", {"reason": "once more", "patch": patch}).json()["id"])
    assert desk.get(f"/records/{left['id']}/state")["version"] == 2, "who has seen the first one is told"
    refused = desk.post("/replays", {"reason": "x", "patch": [{"op": "wish", "path": "/a"}]})
    assert (refused.status_code, refused.json()["type"]) == (422, "urn:veltrix:problem:invalid-request")
    assert desk.post("/replays", {"reason": "x", "rate_per_second": 10**9}).status_code == 422
    assert desk.http.get("/replays/none").status_code == 404


def test_while_kafka_is_away_it_says_so_and_goes_on_by_itself_and_can_be_stopped(
    topics: MakeTopics, worker: StartWorker, admin: StartAdmin, own_kafka: LocalKafka
) -> None:
    settings, sent = topics(kafka_bootstrap=own_kafka.bootstrap), truth.Sent()
    one = worker(settings)
    park(settings, one, sent, 1_000)
    desk = admin(settings)
    desk.wait_ready()
    count = len(desk.records())

    own_kafka.stop()
    assert len(desk.records()) == count, "the index answers"
    until(lambda: not desk.is_ready(), "it does not say that Kafka is away")
    assert desk.post(f"/records/{desk.records()[0]['id']}/discard", {"reason": "x"}).status_code == 503

    own_kafka.start()
    until(desk.is_ready, "it does not come back")
    assert desk.post(f"/records/{desk.records()[0]['id']}/discard", {"reason": "x"}).status_code == 200
    own_kafka.stop()
    assert desk.process.stop(30) == 0, "without Kafka"
