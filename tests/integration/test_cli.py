"""The ``veltrix`` command against a real Kafka and a real Redis."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import redis as redis_client
from confluent_kafka import Consumer, KafkaException, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, AlterConfigOpType, ConfigEntry, ConfigResource  # type: ignore[attr-defined]
from typer.testing import CliRunner

from app.cli import reset
from app.cli.clickstream import BAD_KINDS, Clickstream
from app.cli.console import CommandError
from app.cli.main import app
from app.domain.routing import partition_of
from app.engine.api import RESET_KEY
from app.settings import Settings
from app.topics import INTERACTIONS, all_topics, changelog_of
from bench.kafka import NO_LEADER_YET
from tests.integration import truth
from tests.integration.conftest import StartWorker

ROOT = Path(__file__).resolve().parents[2]
TIMEOUT_S = 15.0
pytestmark = pytest.mark.timeout(90)

Cli = Callable[..., Any]
MakeTopics = Callable[..., Settings]


def environment(settings: Settings, data_dir: Path) -> dict[str, str]:
    return {
        "VELTRIX_KAFKA_BOOTSTRAP": settings.kafka_bootstrap,
        "VELTRIX_REDIS_URL": settings.redis_url,
        "VELTRIX_APP_ID": settings.app_id,
        "VELTRIX_PARTITIONS": str(settings.partitions),
        "VELTRIX_DATA_DIR": str(data_dir),
        "VELTRIX_SIDECAR_PORT": "0",
    }


@pytest.fixture
def topics(topics: MakeTopics) -> MakeTopics:
    """A fresh deployment whose topics the broker shows: it answers a little before it has them."""

    def make(**overrides: Any) -> Settings:
        settings = topics(**overrides)
        if overrides.get("create", True):
            admin = AdminClient({"bootstrap.servers": settings.kafka_bootstrap})
            names = {topic.name for topic in all_topics(settings)}
            wait_until(lambda: names <= set(admin.list_topics(timeout=TIMEOUT_S).topics))
        return settings

    return make


@pytest.fixture
def cli(tmp_path: Path) -> Cli:
    """Run a command for a deployment in this process."""

    def run(settings: Settings, *args: str, **environ: str) -> Any:
        return CliRunner().invoke(app, list(args), env=environment(settings, tmp_path / "data") | environ)

    return run


def end_offsets(settings: Settings, topic: str) -> dict[int, tuple[int, int]]:
    """Partition to (first offset, next offset), by an independent client."""
    consumer = Consumer({"bootstrap.servers": settings.kafka_bootstrap, "group.id": "watch"})
    try:
        return {p: watermarks(consumer, TopicPartition(topic, p)) for p in range(settings.partitions)}
    finally:
        consumer.close()


def watermarks(consumer: Consumer, tp: TopicPartition) -> tuple[int, int]:
    """A topic that was just made anew has no leader for a moment, and this call does not repeat itself."""
    deadline = time.monotonic() + TIMEOUT_S
    while True:
        try:
            return consumer.get_watermark_offsets(tp, timeout=TIMEOUT_S)
        except KafkaException as exc:
            if exc.args[0].code() not in NO_LEADER_YET or time.monotonic() > deadline:
                raise
            time.sleep(0.1)


def produce(settings: Settings, topic: str, keys: list[str], **options: str) -> None:
    producer = Producer({"bootstrap.servers": settings.kafka_bootstrap, **options})
    for key in keys:
        producer.produce(topic, b"{}", key=key)
    assert producer.flush(TIMEOUT_S) == 0


def config_of(admin: AdminClient, topic: str) -> Any:
    return next(iter(admin.describe_configs([ConfigResource(ConfigResource.Type.TOPIC, topic)]).values())).result()


def wait_until(is_done: Callable[[], bool]) -> None:
    deadline = time.monotonic() + TIMEOUT_S
    while not is_done():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def lines(result: Any) -> list[Any]:
    return [json.loads(line) for line in result.stdout.splitlines()]


# -- topics ------------------------------------------------------------------------------------------------


def test_topics_are_created_once_and_then_left_alone(topics: MakeTopics, cli: Cli) -> None:
    settings = topics(create=False)

    before = cli(settings, "topics", "check", "--json")
    first = cli(settings, "topics", "apply", "--json")
    second = cli(settings, "topics", "apply", "--json")
    after = cli(settings, "topics", "check")

    names = [topic.name for topic in all_topics(settings)]
    assert (before.exit_code, len(json.loads(before.stdout)["problems"])) == (1, len(names))
    assert json.loads(first.stdout)["created"] == names
    assert json.loads(second.stdout) == {"created": [], "altered": [], "left": []}
    assert (first.exit_code, second.exit_code, after.exit_code) == (0, 0, 0)


def test_apply_corrects_configuration_and_keeps_other_settings(topics: MakeTopics, cli: Cli) -> None:
    settings = topics()
    changelog = changelog_of(settings.app_id, "process_interactions")
    changes = [
        ConfigEntry(name, value, incremental_operation=AlterConfigOpType.SET)
        for name, value in (("cleanup.policy", "delete"), ("segment.bytes", "2000000"))
    ]
    resource = ConfigResource(ConfigResource.Type.TOPIC, changelog, incremental_configs=changes)
    alter = AdminClient({"bootstrap.servers": settings.kafka_bootstrap})
    alter.incremental_alter_configs([resource])[resource].result()
    wait_until(lambda: config_of(alter, changelog)["segment.bytes"].value == "2000000")

    check = json.loads(cli(settings, "topics", "check", "--json").stdout)
    applied = cli(settings, "topics", "apply")

    assert ("cleanup.policy", "delete", "compact") in {(p["setting"], p["actual"], p["expected"]) for p in check["problems"]}
    assert "cleanup.policy delete -> compact" in applied.stdout
    assert cli(settings, "topics", "check").exit_code == 0
    assert config_of(alter, changelog)["segment.bytes"].value == "2000000"


def test_a_partition_count_is_never_changed(topics: MakeTopics, cli: Cli) -> None:
    settings = topics(partitions=4)

    result = cli(settings, "topics", "apply", VELTRIX_PARTITIONS="6")

    assert result.exit_code == 1
    assert "migration" in result.stdout
    assert set(end_offsets(settings, INTERACTIONS)) == {0, 1, 2, 3}
    assert cli(settings, "topics", "check").exit_code == 0


# -- generate ----------------------------------------------------------------------------------------------


def test_generated_traffic_arrives_as_it_was_counted(topics: MakeTopics, cli: Cli) -> None:
    settings = topics()

    sent = json.loads(cli(settings, "generate", "--rate", "0", "--count", "3000", "--seed", "3", "--run-tag", "it").stdout)
    records = lines(cli(settings, "tail", INTERACTIONS, "--from-beginning", "-n", "3000", "--json"))

    expected = Counter(click.kind for click in Clickstream(3, run_tag="it").events(3000, 0))
    assert sent["sent"] == len(records) == 3000
    assert (sent["valid_unique"], sent["duplicates"]) == (expected["valid"], expected["duplicate"])
    assert sent["bad"] == {kind: expected[kind] for kind in BAD_KINDS}
    assert all(partition_of(record["key"].encode(), settings.partitions) == record["partition"] for record in records)


def test_a_key_goes_where_other_murmur2_producers_put_it(topics: MakeTopics, cli: Cli) -> None:
    settings = topics()
    keys = [f"user-{i}" for i in range(50)]

    produce(settings, INTERACTIONS, keys, partitioner="murmur2_random")

    records = lines(cli(settings, "tail", INTERACTIONS, "--from-beginning", "-n", "50", "--json"))
    assert {r["key"]: r["partition"] for r in records} == {key: partition_of(key.encode(), settings.partitions) for key in keys}


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_generate_after_a_flush(topics: MakeTopics, tmp_path: Path, number: signal.Signals) -> None:
    settings = topics()
    env = {**os.environ, **environment(settings, tmp_path)}
    command = [sys.executable, "-m", "app.cli.main", "generate", "--rate", "500", "--duration", "600"]
    with subprocess.Popen(command, cwd=ROOT, env=env, stdout=subprocess.PIPE, text=True) as process:
        try:
            wait_until(lambda: sum(end for _, end in end_offsets(settings, INTERACTIONS).values()) > 0)
            process.send_signal(number)
            stdout, _ = process.communicate(timeout=TIMEOUT_S)
        finally:
            process.kill()  # a generator left alive would send into the tests after this one

    arrived = sum(end for _, end in end_offsets(settings, INTERACTIONS).values())
    assert process.returncode == 0
    assert json.loads(stdout.splitlines()[-1])["sent"] == arrived > 0


# -- send and tail -----------------------------------------------------------------------------------------


def test_a_sent_event_is_what_tail_shows(topics: MakeTopics, cli: Cli, tmp_path: Path) -> None:
    settings = topics()
    event = tmp_path / "event.json"
    event.write_text('{"type": "page", "userId": "u1"}\n')

    sent = json.loads(cli(settings, "send", str(event), "--fill", "--json").stdout)
    (record,) = lines(cli(settings, "tail", INTERACTIONS, "-n", "1", "--json"))

    assert sent["refusal"] is None
    assert (record["partition"], record["offset"], record["key"]) == (sent["partition"], sent["offset"], "u1")
    assert record["partition"] == partition_of(b"u1", settings.partitions)
    assert record["value"]["userId"] == "u1"
    assert "u1" in cli(settings, "tail", INTERACTIONS, "-n", "1").stdout


def test_tail_shows_the_newest_records_of_all_partitions_in_order(topics: MakeTopics, cli: Cli) -> None:
    settings = topics()
    cli(settings, "generate", "--rate", "2000", "--count", "400")

    all_of_them = lines(cli(settings, "tail", INTERACTIONS, "-n", "400", "--json"))
    newest = lines(cli(settings, "tail", INTERACTIONS, "-n", "25", "--json"))

    assert newest == all_of_them[-25:]
    assert [r["timestamp_ms"] for r in newest] == sorted(r["timestamp_ms"] for r in newest)


@pytest.mark.parametrize("args", [("tail", "absent-topic", "-n", "1"), ("send", "-", "--topic", "absent-topic")])
def test_a_topic_that_does_not_exist_is_reported_and_not_created(topics: MakeTopics, cli: Cli, args: tuple[str, ...]) -> None:
    settings = topics()

    result = (
        cli(settings, *args)
        if args[0] == "tail"
        else CliRunner().invoke(app, list(args), input="{}", env=environment(settings, Path("unused")))
    )

    assert result.exit_code == 1
    assert "absent-topic does not exist" in result.stderr
    names = AdminClient({"bootstrap.servers": settings.kafka_bootstrap}).list_topics(timeout=TIMEOUT_S).topics
    assert "absent-topic" not in names


# -- doctor ------------------------------------------------------------------------------------------------


def test_a_sound_deployment_has_no_failure(topics: MakeTopics, cli: Cli) -> None:
    settings = topics()
    cli(settings, "generate", "--rate", "0", "--count", "500")

    report = cli(settings, "doctor", "--json")

    checks = {check["name"]: check for check in json.loads(report.stdout)["checks"]}
    assert report.exit_code == 0, report.stdout
    assert checks["routing"]["status"] == checks["topics"]["status"] == checks["clock"]["status"] == "ok"


def test_doctor_finds_a_producer_with_librdkafkas_partitioner(topics: MakeTopics, cli: Cli) -> None:
    settings = topics()
    produce(settings, INTERACTIONS, [f"user-{i}" for i in range(200)])

    result = cli(settings, "doctor")

    assert result.exit_code == 1
    assert "partitioner=murmur2_random" in result.stdout


def test_doctor_finds_missing_topics(topics: MakeTopics, cli: Cli) -> None:
    result = cli(topics(create=False), "doctor")

    assert result.exit_code == 1
    assert "veltrix topics apply" in result.stdout


# -- reset -------------------------------------------------------------------------------------------------


def committed(settings: Settings) -> list[int]:
    consumer = Consumer({"bootstrap.servers": settings.kafka_bootstrap, "group.id": settings.app_id})
    try:
        asked = [TopicPartition(INTERACTIONS, p) for p in range(settings.partitions)]
        return [tp.offset for tp in consumer.committed(asked, timeout=TIMEOUT_S)]
    finally:
        consumer.close()


@pytest.fixture
def used(topics: MakeTopics, cli: Cli) -> Settings:
    """A deployment that has processed something: committed offsets, a changelog, lookups."""
    settings = topics()
    cli(settings, "generate", "--rate", "0", "--count", "400")
    produce(settings, changelog_of(settings.app_id, "process_interactions"), [f"k{i}" for i in range(100)])
    consumer = Consumer({"bootstrap.servers": settings.kafka_bootstrap, "group.id": settings.app_id})
    ends = end_offsets(settings, INTERACTIONS)
    consumer.commit(offsets=[TopicPartition(INTERACTIONS, p, end) for p, (_, end) in ends.items()], asynchronous=False)
    consumer.close()
    with redis_client.Redis.from_url(settings.redis_url) as client:
        client.mset({f"{settings.app_id}:lookup:users:{i}": b"x" for i in range(1500)})
        client.mset({f"{settings.app_id}:cover:p:0": b"5", "other:lookup:users:1": b"x", f"{settings.app_id}-2:lookup:a": b"x"})
    return settings


def state(settings: Settings) -> Any:
    with redis_client.Redis.from_url(settings.redis_url) as client:
        keys = sorted(client.keys("*"))
    return committed(settings), end_offsets(settings, changelog_of(settings.app_id, "process_interactions")), keys


def test_a_dry_run_changes_nothing(used: Settings, cli: Cli) -> None:
    before = state(used)

    plan = json.loads(cli(used, "reset", "--to-earliest", "--json").stdout)

    assert state(used) == before
    assert plan["dry_run"]
    assert sum(row["end"] - row["target"] for row in plan["source"]) == 400
    assert plan["changelog_records"] == {
        changelog_of(used.app_id, "process_interactions"): 100,
        changelog_of(used.app_id, "aggregate_items"): 0,
    }
    assert plan["redis_keys"] == 1501


def test_a_reset_forgets_state_and_rewinds_and_can_be_repeated(used: Settings, cli: Cli) -> None:
    changelog = changelog_of(used.app_id, "process_interactions")
    ends = {p: end for p, (_, end) in end_offsets(used, changelog).items()}

    done = cli(used, "reset", "--to-earliest", "--yes")

    offsets, log, keys = state(used)
    assert done.exit_code == 0, done.output
    assert offsets == [0] * used.partitions
    assert log == {p: (end, end + 1) for p, end in ends.items()}, "nothing is left but one reset record"
    assert set(keys) == {f"{used.app_id}-2:lookup:a".encode(), b"other:lookup:users:1"}
    records = lines(cli(used, "tail", changelog, "--from-beginning", "-n", str(used.partitions), "--json"))
    assert {record["key"] for record in records} == {RESET_KEY.decode()}
    assert cli(used, "topics", "check").exit_code == 0, "the changelog is compacted as before"

    assert cli(used, "reset", "--to-earliest", "--yes").exit_code == 0
    assert state(used)[0] == offsets


def test_a_reset_to_a_time_starts_at_the_first_record_from_then_on(topics: MakeTopics, cli: Cli) -> None:
    settings = topics(redis_url="")
    cli(settings, "generate", "--rate", "0", "--count", "200")
    time.sleep(1.1)
    middle = time.time()
    cli(settings, "generate", "--rate", "0", "--count", "100")
    text = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(middle)) + f".{int(middle % 1 * 1000):03d}Z"

    result = cli(settings, "reset", "--to-time", text, "--yes")

    ends = end_offsets(settings, INTERACTIONS)
    assert result.exit_code == 0, result.output
    assert sum(end for _, end in ends.values()) - sum(committed(settings)) == 100


def test_a_reset_is_refused_while_the_group_has_a_member(used: Settings, cli: Cli) -> None:
    member = Consumer({"bootstrap.servers": used.kafka_bootstrap, "group.id": used.app_id, "auto.offset.reset": "latest"})
    member.subscribe([INTERACTIONS])
    try:
        deadline = time.monotonic() + 20
        while not member.assignment() and time.monotonic() < deadline:
            member.poll(0.1)
        result = cli(used, "reset", "--to-earliest", "--yes")
    finally:
        member.close()

    assert result.exit_code == 1
    assert "1 member(s)" in result.stderr
    assert end_offsets(used, changelog_of(used.app_id, "process_interactions"))[0][0] == 0


def test_a_worker_on_its_old_disk_starts_anew_after_a_reset(
    topics: MakeTopics, worker: StartWorker, cli: Cli, tmp_path: Path
) -> None:
    settings, sent = topics(), truth.Sent()
    truth.send(settings, truth.clicks(4_000, "reset"), sent)
    first = worker(settings, run_dir=tmp_path / "disk")
    truth.wait_consumed([first], 4_000)
    before = truth.ledger(first)
    running = cli(settings, "reset", "--to-earliest", "--yes")
    assert first.terminate() == 0

    done = cli(settings, "reset", "--to-earliest", "--yes")
    second = worker(settings, run_dir=tmp_path / "disk")
    truth.wait_consumed([second], 4_000)

    assert (running.exit_code, done.exit_code) == (1, 0), running.output + done.output
    assert truth.ledger(second) == before, "the ledger began at zero and counted the same"
    outcome = truth.assert_exact(settings, sent)
    assert outcome.repeated == len(outcome.values), "every output was published once more, byte for byte"


def test_a_reset_that_dies_after_its_first_step_has_changed_nothing_for_a_worker(
    topics: MakeTopics, worker: StartWorker, cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def die(*args: Any) -> Any:
        raise CommandError("killed here")

    settings, sent = topics(), truth.Sent()
    events = truth.clicks(3_000, "half")
    truth.send(settings, events[:2_000], sent)
    first = worker(settings, run_dir=tmp_path / "disk")
    truth.wait_consumed([first], 2_000)
    assert first.terminate() == 0
    monkeypatch.setattr(reset, "_append_resets", die)

    half = cli(settings, "reset", "--to-earliest", "--yes")
    second = worker(settings, run_dir=tmp_path / "disk")
    truth.send(settings, events[2_000:], sent)
    truth.wait_consumed([second], 3_000)

    assert (half.exit_code, "killed here" in half.stderr) == (1, True)
    assert truth.assert_exact(settings, sent).repeated == 0
