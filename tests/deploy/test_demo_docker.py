"""The Compose path of the demo against a ``docker`` that only writes down what it is told."""

from __future__ import annotations

from pathlib import Path

import pytest

from deploy.local import demo_docker
from deploy.local.demo_docker import DockerStack
from deploy.local.process import ProcessError

pytestmark = pytest.mark.process

COMPOSE = "compose --project-name veltrix-demo --file"


class FakeDocker:
    """A ``docker`` on PATH. ``behave`` gives a shell ``case`` branch by compose command."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.folder, self.told = folder / "bin", folder / "told"
        self.folder.mkdir()
        self.behave({})
        monkeypatch.setenv("PATH", f"{self.folder}:/usr/bin:/bin")

    def behave(self, branches: dict[str, str]) -> None:
        cases = "".join(f"{command}) {code};;\n" for command, code in branches.items())
        script = f'#!/bin/sh\necho "$KAFKA_PORT $COMPOSE_PROFILES $OTLP_ENDPOINT $GUARANTEE $@" >> {self.told}\nshift 5\ncase "$1" in\n{cases}*) ;;\nesac\n'
        (self.folder / "docker").write_text(script)
        (self.folder / "docker").chmod(0o755)

    def commands(self) -> list[str]:
        return [line.split("compose.yaml ")[1] for line in self.told.read_text().splitlines()]


@pytest.fixture
def docker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeDocker:
    monkeypatch.setattr(demo_docker, "http_get", lambda port, path: (200, b""))
    return FakeDocker(tmp_path, monkeypatch)


@pytest.fixture
def stack(tmp_path: Path) -> DockerStack:
    return DockerStack(tmp_path / "demo", lambda: False)


def test_it_starts_fresh_and_stops_everything(docker: FakeDocker, stack: DockerStack) -> None:
    docker.behave({"ps": "echo 0"})
    steps: list[str] = []

    stack.start(steps.append)
    stack.check()
    stack.stop_worker()
    stack.close()

    assert docker.commands() == [
        "down --volumes --remove-orphans",
        "up --detach --build",
        "stop worker",
        "ps --all --format {{.ExitCode}} worker",
        "down --volumes --remove-orphans",
    ]
    assert [step.split(" (")[0] for step in steps] == ["Docker Compose project veltrix-demo"]


def test_compose_publishes_the_ports_that_the_tools_are_given(docker: FakeDocker, stack: DockerStack) -> None:
    stack.close()

    port = docker.told.read_text().split()[0]
    assert stack.env()["VELTRIX_KAFKA_BOOTSTRAP"] == f"127.0.0.1:{port}"
    assert COMPOSE in docker.told.read_text()


def test_the_demo_brings_dashboards_and_traces_with_it(docker: FakeDocker, stack: DockerStack) -> None:
    stack.close()

    assert docker.told.read_text().split()[1:3] == ["observability", "http://jaeger:4318"]
    assert stack.pages().keys() == {"Prometheus", "Grafana", "Traces"}
    assert f":{stack.ports()['GRAFANA_PORT']}" in stack.pages()["Grafana"]


def test_the_guarantee_that_was_asked_for_reaches_the_worker(docker: FakeDocker, tmp_path: Path) -> None:
    stack = DockerStack(tmp_path / "demo", lambda: False, "exactly_once")
    stack.start(lambda _: None)
    assert " exactly_once " in docker.told.read_text().splitlines()[-1]
    assert stack.env()["VELTRIX_PROCESSING_GUARANTEE"] == "exactly_once"


def test_an_image_that_cannot_be_built_is_shown(docker: FakeDocker, stack: DockerStack) -> None:
    docker.behave({"up": "echo no space left >&2; exit 17"})

    with pytest.raises(ProcessError, match=r"docker compose up failed \(exit status 17\)[\s\S]*no space left"):
        stack.start(lambda step: None)


def test_a_worker_that_never_gets_ready_shows_its_log(
    docker: FakeDocker, stack: DockerStack, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(demo_docker, "http_get", lambda port, path: (503, b""))
    monkeypatch.setattr(demo_docker, "READY_TIMEOUT_S", 0.1)
    docker.behave({"logs": "echo waiting for partitions"})

    with pytest.raises(ProcessError, match=r"worker-1 did not become ready within 0\.1 s[\s\S]*waiting for partitions"):
        stack.start(lambda step: None)


def test_a_worker_that_falls_silent_is_an_error_only_after_a_while(
    docker: FakeDocker, stack: DockerStack, monkeypatch: pytest.MonkeyPatch
) -> None:
    def silent(port: int, path: str) -> tuple[int, bytes]:
        raise ConnectionRefusedError

    monkeypatch.setattr(demo_docker, "http_get", silent)
    stack.check()
    monkeypatch.setattr(demo_docker, "SILENCE_S", -1)

    with pytest.raises(ProcessError, match="does not answer any more"):
        stack.check()


def test_a_worker_that_failed_to_stop_is_an_error(docker: FakeDocker, stack: DockerStack) -> None:
    docker.behave({"ps": "echo 137", "logs": "echo killed"})

    with pytest.raises(ProcessError, match=r"did not stop cleanly[\s\S]*killed"):
        stack.stop_worker()
