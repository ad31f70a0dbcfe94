"""``veltrix drain``: shows first, refuses while the worker runs, and takes out exactly the member it was told."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from io import BytesIO
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from aiokafka.coordinator.protocol import ConsumerProtocolMemberAssignment
from aiokafka.errors import GroupCoordinatorNotAvailableError, KafkaError
from typer.testing import CliRunner

from app.cli import drain
from app.cli.console import CommandError
from app.cli.main import app
from app.engine.guard import lock_data_dir
from app.kafka_groups import (
    DescribeGroupsResponse_v4,
    DescribeStaticMembersRequest,
    LeaveGroupRequest_v3,
    LeaveGroupResponse_v3,
    LeaveStaticMemberRequest,
    StaticHeartbeatRequest,
    describe_group,
    remove_static_member,
)
from app.settings import Settings

UNKNOWN, FENCED, NOT_AUTHORIZED = 25, 82, 30
ASSIGNED = ConsumerProtocolMemberAssignment(4, [("interactions", [3, 1]), ("changelog", [1, 3])], b"").encode()


def member(instance: str | None, assignment: bytes = ASSIGNED) -> tuple[Any, ...]:
    return (f"id-of-{instance}", instance, "veltrix-worker", "/10.0.0.7", b"", assignment)


class FakeCluster:
    """aiokafka's admin client over one group; answers go over the wire format."""

    def __init__(self, *members: tuple[Any, ...], state: str = "Stable", code: int = 0, leave_code: int = 0) -> None:
        self.members = list(members)
        self.state, self._code, self._leave_code = state, code, leave_code
        self.left: list[str] = []

    async def find_coordinator(self, group: str) -> int:
        return 1

    async def _send_request(self, request: Any, node: int) -> Any:
        if isinstance(request, DescribeStaticMembersRequest):
            state = self.state if self.members else "Empty"
            row = (self._code, request._group, state, "consumer", "faust", self.members, -(2**31))
            return wire(DescribeGroupsResponse_v4(0, [row]))
        assert isinstance(request, LeaveStaticMemberRequest)
        instance = request._fields[1][0][1]
        self.left.append(instance)
        self.members = [one for one in self.members if one[1] != instance]
        return wire(LeaveGroupResponse_v3(0, self._code, [("", instance, self._leave_code)]))


def wire(message: Any) -> Any:
    return type(message).decode(BytesIO(message.encode()))


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> FakeCluster:
    """A group of pod-0, pod-1 and one dynamic member."""
    fake = FakeCluster(member("pod-0"), member("pod-1"), member(None))
    use(monkeypatch, fake)
    return fake


def use(monkeypatch: pytest.MonkeyPatch, fake: Any) -> None:
    @asynccontextmanager
    async def open_admin(settings: Settings) -> AsyncIterator[Any]:
        yield SimpleNamespace(client=fake)

    monkeypatch.setattr(drain, "open_admin", open_admin)


def make(tmp_path: Path, **values: Any) -> Settings:
    return Settings(data_dir=tmp_path, sidecar_port=0, **values)


async def test_the_named_member_leaves_and_what_it_had_is_shown(cluster: FakeCluster, tmp_path: Path) -> None:
    plan = await drain.plan_drain(make(tmp_path), "pod-1")
    done = await drain.carry_out(make(tmp_path), plan)

    assert plan.member.partitions == {"changelog": [1, 3], "interactions": [1, 3]}
    assert plan.others == 2
    assert cluster.left == ["pod-1"]
    assert (done.partitions, done.others, done.state) == (4, 2, "Stable")


async def test_without_a_name_the_member_of_the_settings_is_meant(cluster: FakeCluster, tmp_path: Path) -> None:
    plan = await drain.plan_drain(make(tmp_path, group_instance_id="pod-0"), "")

    assert plan.member.member_id == "id-of-pod-0"


async def test_without_any_name_it_asks_which(cluster: FakeCluster, tmp_path: Path) -> None:
    with pytest.raises(CommandError, match="Give --instance, or set VELTRIX_GROUP_INSTANCE_ID"):
        await drain.plan_drain(make(tmp_path), "")


async def test_a_member_that_does_not_exist_is_refused_with_those_that_do(cluster: FakeCluster, tmp_path: Path) -> None:
    with pytest.raises(
        CommandError, match=r"no member with group_instance_id pod-9 \(its static members: pod-0, pod-1; state Stable\)"
    ):
        await drain.plan_drain(make(tmp_path), "pod-9")


async def test_a_group_without_static_members_says_so(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    use(monkeypatch, FakeCluster(member(None)))

    with pytest.raises(CommandError, match="it has no static members"):
        await drain.plan_drain(make(tmp_path), "pod-0")


async def test_a_running_worker_is_not_drained_unless_forced(cluster: FakeCluster, tmp_path: Path) -> None:
    settings = make(tmp_path, group_instance_id="pod-0")
    with lock_data_dir(tmp_path):
        plan = await drain.plan_drain(settings, "")
        with pytest.raises(CommandError, match=r"worker with pid .* SIGTERM first"):
            await drain.carry_out(settings, plan)
        assert cluster.left == []

        await drain.carry_out(settings, plan, force=True)

    assert cluster.left == ["pod-0"]


async def test_a_sidecar_that_answers_is_a_running_worker(
    cluster: FakeCluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def livez(host: str, port: int) -> int:
        return 503

    monkeypatch.setattr(drain, "livez", livez)
    plan = await drain.plan_drain(Settings(data_dir=tmp_path, sidecar_port=8080, group_instance_id="pod-0"), "")

    assert plan.running == "a worker answers on 127.0.0.1:8080"


async def test_whether_the_worker_of_another_id_runs_is_not_claimed(cluster: FakeCluster, tmp_path: Path) -> None:
    with lock_data_dir(tmp_path):
        plan = await drain.plan_drain(make(tmp_path, group_instance_id="pod-0"), "pod-1")

    assert plan.running is None


async def test_a_member_that_left_meanwhile_is_no_success(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    use(monkeypatch, FakeCluster(member("pod-0"), leave_code=UNKNOWN))
    plan = await drain.plan_drain(make(tmp_path), "pod-0")

    with pytest.raises(CommandError, match="left meanwhile"):
        await drain.carry_out(make(tmp_path), plan)


@pytest.mark.parametrize("code", [NOT_AUTHORIZED, FENCED])
async def test_a_refusal_of_the_broker_is_an_error(code: int) -> None:
    cluster: Any = FakeCluster(member("pod-0"), code=code)

    with pytest.raises(KafkaError):
        await describe_group(cluster, "veltrix")
    with pytest.raises(KafkaError):
        await remove_static_member(cluster, "veltrix", "pod-0")


async def test_a_group_that_nobody_ever_used_has_no_members() -> None:
    async def find_coordinator(group: str) -> int:
        raise GroupCoordinatorNotAvailableError

    cluster: Any = SimpleNamespace(find_coordinator=find_coordinator)

    assert (await describe_group(cluster, "veltrix")).members == ()


async def test_the_others_are_waited_for(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    fake = FakeCluster(member("pod-0"), member("pod-1", b""), state="PreparingRebalance")
    use(monkeypatch, fake)
    plan = await drain.plan_drain(make(tmp_path), "pod-0")
    monkeypatch.setattr(drain, "SETTLE_TIMEOUT_S", 0.0)

    done = await drain.carry_out(make(tmp_path), plan)

    assert drain.done_line(done) == "released 4 partitions; the group is still in state PreparingRebalance"


async def test_the_last_member_leaves_nobody(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    use(monkeypatch, FakeCluster(member("pod-0")))
    plan = await drain.plan_drain(make(tmp_path), "pod-0")

    done = await drain.carry_out(make(tmp_path), plan)

    assert (done.others, done.state) == (0, "Empty")
    assert drain.done_line(done) == "released 4 partitions; the group has no members now"


def test_requests_are_in_the_wire_format_of_kip_345() -> None:
    leave = LeaveStaticMemberRequest("g", "i").prepare({13: (0, 5)})
    heartbeat = StaticHeartbeatRequest("g", 7, "m", "i").prepare({12: (0, 4)})

    assert isinstance(leave, LeaveGroupRequest_v3)
    assert leave.encode() == b"\x00\x01g" + b"\x00\x00\x00\x01" + b"\x00\x00" + b"\x00\x01i"
    assert heartbeat.encode() == b"\x00\x01g" + b"\x00\x00\x00\x07" + b"\x00\x01m" + b"\x00\x01i"
    assert DescribeStaticMembersRequest("g").prepare({15: (0, 6)}).encode() == b"\x00\x00\x00\x01\x00\x01g\x00"


# -- the command -----------------------------------------------------------------------------------------------------


def run(tmp_path: Path, *arguments: str) -> Any:
    environment = {"VELTRIX_DATA_DIR": str(tmp_path), "VELTRIX_SIDECAR_PORT": "0"}
    return CliRunner().invoke(app, ["drain", *arguments], env=environment)


def test_a_dry_run_shows_and_changes_nothing(cluster: FakeCluster, tmp_path: Path) -> None:
    result = run(tmp_path, "--instance", "pod-1")

    assert result.exit_code == 0, result.output
    assert "2 other member(s) take over" in result.stdout
    assert "1, 3" in result.stdout
    assert "cannot be seen" in result.stdout
    assert "--yes" in result.stdout
    assert cluster.left == []


def test_with_yes_it_acts_and_reports(cluster: FakeCluster, tmp_path: Path) -> None:
    result = run(tmp_path, "--instance", "pod-1", "--yes")

    assert result.exit_code == 0, result.output
    assert "released 4 partitions; 2 member(s) have taken them over" in result.stdout
    assert cluster.left == ["pod-1"]


def test_json_has_plan_and_result(cluster: FakeCluster, tmp_path: Path) -> None:
    plan = json.loads(run(tmp_path, "--instance", "pod-1", "--json").stdout)
    done = json.loads(run(tmp_path, "--instance", "pod-1", "--yes", "--json").stdout)

    assert plan["dry_run"]
    assert plan["released"] == {"changelog": [1, 3], "interactions": [1, 3]}
    assert not done["dry_run"]
    assert (done["partitions"], done["others"], done["state"]) == (4, 2, "Stable")
    assert done["released"] == plan["released"]


def test_a_refusal_is_one_sentence_and_exit_code_1(cluster: FakeCluster, tmp_path: Path) -> None:
    result = run(tmp_path, "--instance", "pod-9", "--yes")

    assert result.exit_code == 1
    assert "no member with group_instance_id pod-9" in result.stderr
    assert cluster.left == []


def test_the_last_member_is_warned_about(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    use(monkeypatch, FakeCluster(member("pod-0")))

    assert "nobody will process" in run(tmp_path, "--instance", "pod-0").stdout
