"""Dockerfile and compose.yaml, where no engine can run them: every path, command, version and name they use exists."""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Iterator
from fnmatch import fnmatch
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import pytest
import yaml
from typer.testing import CliRunner

from app.cli.main import app as veltrix
from app.settings import ENV_PREFIX, load_settings
from deploy.local.demo_docker import PROJECT, DockerStack
from deploy.local.kafka_config import ONE_BROKER, QUICK, server_properties

ROOT = Path(__file__).parents[2]
OBSERVABILITY = ROOT / "deploy" / "observability"
WORKER = ["faust", "-A", "app.main", "worker", "-l", "info"]


def instructions() -> list[tuple[str, str]]:
    """(INSTRUCTION, rest) of the Dockerfile, continued lines joined, comments dropped."""
    text = re.sub(r"^\s*#.*\n", "", (ROOT / "Dockerfile").read_text(), flags=re.MULTILINE)
    lines = re.sub(r"\\\n", " ", text).splitlines()
    return [(words[0], words[1]) for line in lines if len(words := line.split(None, 1)) == 2]


def one(instruction: str) -> str:
    """The last (and thereby effective) instruction of a kind."""
    return [rest for name, rest in instructions() if name == instruction][-1]


def compose() -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.safe_load((ROOT / "compose.yaml").read_text())
    return loaded


def services() -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = compose()["services"]
    return found


def ours() -> Iterator[str]:
    return (name for name, service in services().items() if "build" in service)


def dockerfile_env() -> dict[str, str]:
    return dict(re.findall(r"(\w+)=(\S+)", one("ENV")))


def kafka_version() -> str:
    found = ET.parse(ROOT / "deploy" / "local" / "pom.xml").getroot().findtext(".//{*}kafka.version")
    assert found is not None
    return found


def is_sent_to_the_engine(path: str) -> bool:
    """.dockerignore as far as ours goes: exclude all, take some back."""
    sent = True
    for pattern in (ROOT / ".dockerignore").read_text().splitlines():
        if pattern and not pattern.startswith("#"):
            wanted = pattern.removeprefix("!").removesuffix("/**")
            if fnmatch(path, wanted):
                sent = pattern.startswith("!")
    return sent


# -- paths --------------------------------------------------------------------------------------------------------
def test_everything_the_image_copies_exists_and_is_sent() -> None:
    sources = [rest.split()[0] for name, rest in instructions() if name == "COPY" and not rest.startswith("--from")]

    assert {"agents", "app", "tables", "requirements.lock"} <= set(sources)
    for source in sources:
        assert (ROOT / source).exists(), source
        assert is_sent_to_the_engine(source), source


def test_what_the_image_does_not_need_is_not_sent() -> None:
    assert not any(is_sent_to_the_engine(path) for path in (".git", ".venv", "var", "tests", "deploy", ".env"))


def test_profiles_are_in_the_image_once_there_are_any() -> None:
    copied = any(name == "COPY" and rest.split()[0] == "profiles" for name, rest in instructions())

    assert copied == any((ROOT / "profiles").glob("*.toml"))


def test_every_stage_that_is_copied_from_or_built_exists() -> None:
    stages = re.findall(r"^FROM \S+ AS (\w+)$", (ROOT / "Dockerfile").read_text(), re.MULTILINE)
    copied_from = re.findall(r"--from=(\w+)", (ROOT / "Dockerfile").read_text())

    assert set(copied_from) <= set(stages)
    assert {services()[name]["build"]["target"] for name in ours()} <= set(stages)


def test_named_volumes_are_declared_and_used() -> None:
    used = {mount.split(":")[0] for service in services().values() for mount in service.get("volumes", [])}

    assert {name for name in used if not name.startswith(("./", "/"))} == set(compose()["volumes"])


def test_what_is_mounted_from_this_folder_exists_and_cannot_be_written() -> None:
    mounts = [mount.split(":") for service in services().values() for mount in service.get("volumes", []) if mount.startswith("./")]

    assert mounts
    assert [mount for mount in mounts if not (ROOT / mount[0]).exists() or mount[2] != "ro"] == []


def test_prometheus_and_grafana_find_what_they_are_given_and_start_only_when_wanted() -> None:
    prometheus, grafana = services()["prometheus"], services()["grafana"]
    assert prometheus["profiles"] == grafana["profiles"] == ["observability"]
    inside = {mount.split(":")[1] for mount in [*prometheus["volumes"], *grafana["volumes"]]}
    (provider,) = yaml.safe_load((OBSERVABILITY / "grafana/provisioning/dashboards/veltrix.yml").read_text())["providers"]
    targets = yaml.safe_load((OBSERVABILITY / "prometheus/targets.compose.json").read_text())

    assert {provider["options"]["path"], "/etc/grafana/provisioning", "/etc/prometheus/targets.json"} <= inside
    for target in targets:
        (address,) = target["targets"]
        name, port = address.split(":")
        assert services()[name]["ports"][0].endswith(f":{port}")


def test_the_workers_volume_holds_its_data_directory() -> None:
    mounts = [mount.split(":")[1] for mount in services()["worker"]["volumes"]]

    assert any(dockerfile_env()["VELTRIX_DATA_DIR"].startswith(f"{mount}/") for mount in mounts)
    assert one("VOLUME") in mounts


# -- commands -----------------------------------------------------------------------------------------------------
def test_image_and_compose_start_the_worker_by_the_documented_command() -> None:
    assert json.loads(one("CMD")) == WORKER
    assert services()["worker"]["command"] == WORKER
    assert (ROOT / "app" / "main.py").is_file()
    assert "faust" in {script.name for script in entry_points(group="console_scripts")}


def test_topics_and_lookups_run_a_command_that_exists() -> None:
    for service in ("topics", "lookups"):
        program, *words = services()[service]["command"]
        assert program == "veltrix"
        assert CliRunner().invoke(veltrix, [*words, "--help"]).exit_code == 0
    assert CliRunner().invoke(veltrix, ["topics", "no-such-command", "--help"]).exit_code != 0


def test_the_veltrix_command_of_the_image_is_the_projects_script() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    module = re.search(r"python -m ([\w.]+)", (ROOT / "Dockerfile").read_text().split("printf")[1])

    assert module is not None
    assert project["scripts"]["veltrix"] == f"{module[1]}:app"
    assert '__name__ == "__main__"' in (ROOT / module[1].replace(".", "/")).with_suffix(".py").read_text()


def test_the_health_check_asks_liveness_of_the_port_the_sidecar_listens_on() -> None:
    health = one("HEALTHCHECK")
    port = dockerfile_env()["VELTRIX_SIDECAR_PORT"]

    assert f"http://127.0.0.1:{port}/livez" in health
    assert one("EXPOSE") == port
    assert services()["worker"]["ports"] == [f"127.0.0.1:${{SIDECAR_PORT:-8080}}:{port}"]


def test_lookups_of_their_own_are_asked_on_the_port_they_listen_on_and_start_only_when_wanted() -> None:
    lookups, port = services()["lookups"], load_settings().serve_port

    assert f"http://127.0.0.1:{port}/livez" in lookups["healthcheck"]["test"][-1]
    assert lookups["ports"] == [f"127.0.0.1:{port}:{port}"]
    assert lookups["profiles"] == ["lookups"]


def test_dead_letters_are_asked_on_their_port_with_tokens_and_start_only_when_wanted() -> None:
    admin, port = services()["dead-letters"], load_settings().admin_port

    assert f"http://127.0.0.1:{port}/livez" in admin["healthcheck"]["test"][-1]
    assert admin["ports"] == [f"127.0.0.1:{port}:{port}"]
    assert admin["profiles"] == ["dead-letters"]
    (secret,) = admin["secrets"]
    assert admin["environment"]["VELTRIX_ADMIN_TOKENS_FILE"] == f"/run/secrets/{secret}"
    assert secret in compose()["secrets"]


# -- versions -----------------------------------------------------------------------------------------------------
def test_compose_and_the_native_path_run_the_same_kafka() -> None:
    assert services()["kafka"]["image"] == f"apache/kafka:{kafka_version()}"


def test_every_image_has_a_pinned_version() -> None:
    dockerfile = (ROOT / "Dockerfile").read_text()
    arguments = dict(re.findall(r"^ARG (\w+)=(\S+)$", dockerfile, re.MULTILINE))
    bases = [
        re.sub(r"\$\{(\w+)\}", lambda match: arguments[match[1]], base)
        for base in re.findall(r"^FROM (\S+)", dockerfile, re.MULTILINE)
    ]
    pulled = [service["image"] for service in services().values() if "build" not in service]

    for image in bases + pulled:
        assert re.fullmatch(r"[a-z/]+:v?\d+\.?\d[\w.-]*", image), image


def test_the_images_python_is_one_we_support() -> None:
    version = re.search(r"^ARG PYTHON=3\.(\d+)$", (ROOT / "Dockerfile").read_text(), re.MULTILINE)

    assert version is not None
    assert int(version[1]) in (11, 12, 13)


def test_both_brokers_have_the_same_settings_for_a_single_node() -> None:
    env = services()["kafka"]["environment"]
    native = server_properties(Path("/data"), 1, 2, {})
    shared = ONE_BROKER | {
        "group.initial.rebalance.delay.ms": QUICK["group.initial.rebalance.delay.ms"],
        "auto.create.topics.enable": "false",
    }

    for name, value in shared.items():
        assert env[f"KAFKA_{name.upper().replace('.', '_')}"] == value
        assert f"{name}={value}\n" in native


# -- settings -----------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("service", ["worker", "topics", "lookups", "dead-letters"])
def test_every_variable_is_a_setting_with_a_valid_value(service: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (dockerfile_env() | services()[service]["environment"]).items():
        if name.startswith(ENV_PREFIX):
            monkeypatch.setenv(name, re.sub(r"\$\{\w+:-(.*?)\}", r"\1", value).replace("$VERSION", "dev"))

    settings = load_settings()

    assert settings.kafka_bootstrap == "kafka:19092"
    assert settings.redis_url == "redis://redis:6379/0"
    assert settings.sidecar_host == "0.0.0.0"


def test_inner_addresses_name_services_and_their_listeners() -> None:
    env = services()["worker"]["environment"]
    kafka = services()["kafka"]["environment"]

    assert f"INTERNAL://{env['VELTRIX_KAFKA_BOOTSTRAP']}" in kafka["KAFKA_ADVERTISED_LISTENERS"]
    assert "HOST://127.0.0.1:${KAFKA_PORT:-9092}" in kafka["KAFKA_ADVERTISED_LISTENERS"]
    assert "INTERNAL://:19092,HOST://:9092" in kafka["KAFKA_LISTENERS"]
    assert set(services()) == {
        "kafka",
        "redis",
        "postgres",
        "topics",
        "worker",
        "lookups",
        "dead-letters",
        "prometheus",
        "grafana",
        "jaeger",
        "elasticsearch",
        "kibana",
        "filebeat",
    }


# -- operation ----------------------------------------------------------------------------------------------------
def test_every_service_has_limits_and_every_lasting_one_a_health_check() -> None:
    for name, service in services().items():
        limits = service["deploy"]["resources"]["limits"]
        assert set(limits) == {"cpus", "memory"}, name
        assert name in set(ours()) or "test" in service["healthcheck"], name


def test_nothing_starts_before_what_it_needs_is_healthy() -> None:
    needs = {name: {on: how["condition"] for on, how in services()[name]["depends_on"].items()} for name in ours()}

    assert needs == {
        "topics": {"kafka": "service_healthy"},
        "lookups": {"redis": "service_healthy"},
        "dead-letters": {"topics": "service_completed_successfully", "kafka": "service_healthy"},
        "worker": {"topics": "service_completed_successfully", "kafka": "service_healthy", "redis": "service_healthy"},
    }


def test_ports_are_published_to_this_machine_alone() -> None:
    published = [port for service in services().values() for port in service.get("ports", [])]

    assert published
    assert all(port.startswith("127.0.0.1:") for port in published)


def test_the_image_does_not_run_as_root() -> None:
    assert one("USER") == "10001:10001"


def test_traces_go_where_readme_and_grafana_say(monkeypatch: pytest.MonkeyPatch) -> None:
    endpoint = re.findall(r"OTLP_ENDPOINT=(\S+) docker compose", (ROOT / "README.md").read_text())
    sources = yaml.safe_load((OBSERVABILITY / "grafana/provisioning/datasources/prometheus.yml").read_text())["datasources"]
    (exemplars,) = sources[0]["jsonData"]["exemplarTraceIdDestinations"]

    assert endpoint == ["http://jaeger:4318"]
    assert load_settings(otlp_endpoint=endpoint[0]).otlp_endpoint
    assert (exemplars["datasourceUid"], exemplars["name"]) == (sources[1]["uid"], "trace_id")
    assert sources[1]["url"].startswith("http://jaeger:")
    assert "--enable-feature=exemplar-storage" in services()["prometheus"]["command"]


def test_the_worker_has_time_to_drain_before_it_is_killed() -> None:
    grace_s = int(services()["worker"]["stop_grace_period"].removesuffix("s"))

    assert grace_s * 1000 > load_settings().drain_timeout_ms


def test_the_demo_moves_exactly_the_ports_that_compose_lets_it_move(tmp_path: Path) -> None:
    variables = set(re.findall(r"\$\{(\w+_PORT):-\d+\}", (ROOT / "compose.yaml").read_text()))

    assert variables == {"KAFKA_PORT", "REDIS_PORT", "SIDECAR_PORT", "PROMETHEUS_PORT", "GRAFANA_PORT", "JAEGER_PORT"}
    assert set(DockerStack(tmp_path, lambda: False).ports()) == variables
    assert PROJECT.startswith(compose()["name"])
