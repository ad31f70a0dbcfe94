"""What Elasticsearch, Kibana and Filebeat are given: it fits the lines that Veltrix really writes."""

from __future__ import annotations

import contextvars
import fnmatch
import http.server
import json
import logging
import subprocess
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import structlog
import yaml

from app.log_context import Work, work_on
from app.settings import load_settings
from app.telemetry.ecs import ECS_VERSION
from app.telemetry.logs import configure_logging

ROOT = Path(__file__).parents[2]
ELK = ROOT / "deploy" / "elk"
ECS_FIELDS = ROOT / "tests" / "telemetry" / "ecs_fields.csv"
#: ECS type to what a JSON value of it is.
VALUES: dict[str, type | tuple[type, ...]] = {"long": int, "float": (int, float), "boolean": bool}


def ecs() -> dict[str, str]:
    """Field to type, of the published schema."""
    return dict(line.split(",") for line in ECS_FIELDS.read_text().splitlines() if not line.startswith("#"))


def load(name: str) -> Any:
    return json.loads((ELK / name).read_text())


def mapped(properties: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """Dotted field to type, of the template."""
    found: dict[str, str] = {}
    for name, how in properties.items():
        if "properties" in how:
            found |= mapped(how["properties"], f"{prefix}{name}.")
        else:
            found[f"{prefix}{name}"] = how["type"]
    return found


MAPPINGS = load("index-template.json")["template"]["mappings"]
FIELDS = mapped(MAPPINGS["properties"])


@pytest.fixture
def lines(capsys: pytest.CaptureFixture[str]) -> Iterator[list[dict[str, Any]]]:
    """Lines of every kind that a process writes: ours, with an exception, with odd values, a library's, a warning."""
    handlers, level = list(logging.root.handlers), logging.root.level
    configure_logging(load_settings(log_format="json", app_version="1.2.3", worker_id="w1"))
    log = structlog.get_logger("app.engine.lane")
    log.info("recovered", records=10, seconds=0.5, topic="t", partition=3, offset=2**40)
    log.warning("odd", names=["a", "b"], counts={"x": 1}, nothing=None, raw=b"abc", yes=True)
    try:
        raise ValueError("broken")
    except ValueError:
        log.exception("unit_failed", partition="3")
    contextvars.copy_context().run(log_in_a_traced_batch, log)
    logging.getLogger("aiokafka").warning("a sentence of a library")
    logging.getLogger("py.warnings").warning("a warning")
    yield [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    logging.root.handlers[:] = handlers
    logging.root.setLevel(level)
    logging.captureWarnings(False)
    structlog.reset_defaults()


def log_in_a_traced_batch(log: Any) -> None:
    work = Work("process_interactions", 3)
    work_on(work)
    work.begin("interactions", 10, 20)
    work.trace_id = "ab" * 16
    log.info("event_emitted", message_id="m-1", offset=11)


def test_a_line_from_within_a_batch_says_which_and_leads_to_its_trace(lines: list[dict[str, Any]]) -> None:
    (line,) = [line for line in lines if line.get("event.action") == "event_emitted"]

    told = {name: line[f"veltrix.{name}"] for name in ("agent", "topic", "partition", "offset", "batch", "message_id")}
    assert told == {
        "agent": "process_interactions", "topic": "interactions", "partition": 3, "offset": 11, "batch": "interactions:3:10-20",
        "message_id": "m-1",
    }  # fmt: skip
    assert line["trace.id"] == "ab" * 16


def test_every_field_of_a_real_line_is_ecs_or_ours_and_has_a_fitting_value(lines: list[dict[str, Any]]) -> None:
    published = ecs()
    assert len(lines) == 6
    for line in lines:
        assert line["ecs.version"] == ECS_VERSION
        for name, value in line.items():
            if not name.startswith("veltrix."):
                assert isinstance(value, VALUES.get(published[name], str)), name


def test_every_ecs_field_of_a_real_line_is_mapped(lines: list[dict[str, Any]]) -> None:
    written = {name for line in lines for name in line if not name.startswith("veltrix.")}

    assert written - FIELDS.keys() == set()


def test_the_template_gives_ecs_fields_the_types_of_ecs() -> None:
    published = ecs()
    assert {name: kind for name, kind in FIELDS.items() if name != "veltrix" and published[name] != kind} == {}


def test_a_field_of_ours_can_be_a_number_here_and_text_there_without_a_line_being_refused() -> None:
    rules = [next(iter(rule.values())) for rule in MAPPINGS["dynamic_templates"]]
    objects, values = rules

    assert (objects["match_mapping_type"], objects["mapping"]["type"]) == ("object", "flattened")
    assert (values["path_match"], values["mapping"]["type"], "match_mapping_type" in values) == ("veltrix.*", "keyword", False)
    assert MAPPINGS["dynamic"] is False, "what others invent is kept, and not mapped"


def test_template_policy_pipeline_and_filebeat_name_one_another() -> None:
    template, filebeat = load("index-template.json"), yaml.safe_load((ELK / "filebeat.yml").read_text())
    script = (ELK / "load.sh").read_text()
    settings = template["template"]["settings"]

    assert f"_ilm/policy/{settings['index.lifecycle.name']} ilm-policy.json" in script
    assert f"_ingest/pipeline/{settings['index.default_pipeline']} ingest-pipeline.json" in script
    assert fnmatch.fnmatch(filebeat["output.elasticsearch"]["index"], template["index_patterns"][0])


def test_the_pipeline_hashes_what_makes_an_error_the_same_again() -> None:
    (fingerprint,) = [step["fingerprint"] for step in load("ingest-pipeline.json")["processors"] if "fingerprint" in step]

    assert {*fingerprint["fields"], fingerprint["target_field"]} <= FIELDS.keys()


def test_saved_searches_show_fields_that_exist_in_an_index_that_exists() -> None:
    objects = [json.loads(line) for line in (ELK / "saved-searches.ndjson").read_text().splitlines()]
    searches = [each for each in objects if each["type"] == "search"]
    (index,) = [each for each in objects if each["type"] == "index-pattern"]

    assert index["attributes"]["title"] in load("index-template.json")["index_patterns"]
    for search in searches:
        json.loads(search["attributes"]["kibanaSavedObjectMeta"]["searchSourceJSON"])
        assert search["references"][0]["id"] == index["id"]
        assert {name for name in search["attributes"]["columns"] if not name.startswith("veltrix.")} <= FIELDS.keys()


class Recorder(http.server.BaseHTTPRequestHandler):
    """Takes everything; a path with ``refused`` in it is answered 400."""

    seen: list[tuple[str, str, bytes]]

    def _take(self) -> None:
        body = self.rfile.read(int(self.headers["content-length"]))
        self.seen.append((self.command, self.path, body))
        self.send_response(400 if "refused" in self.path else 200)
        self.end_headers()

    do_PUT = do_POST = _take  # noqa: N815  # the names that http.server calls

    def log_message(self, *args: Any) -> None: ...


@pytest.fixture
def server() -> Iterator[tuple[str, list[tuple[str, str, bytes]]]]:
    seen: list[tuple[str, str, bytes]] = []
    server = http.server.HTTPServer(("127.0.0.1", 0), type("One", (Recorder,), {"seen": seen}))
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}", seen
    server.shutdown()
    thread.join()
    server.server_close()


def run_load(url: str, path: str = "") -> subprocess.CompletedProcess[str]:
    env = {"PATH": "/usr/bin:/bin", "ELASTICSEARCH_URL": url + path, "KIBANA_URL": url, "no_proxy": "*"}
    return subprocess.run([str(ELK / "load.sh")], env=env, capture_output=True, text=True, check=False)


@pytest.mark.process
def test_the_script_loads_every_file_of_the_folder(server: tuple[str, list[tuple[str, str, bytes]]]) -> None:
    url, seen = server

    done = run_load(url)

    assert done.returncode == 0, done.stderr
    put = {path: body for command, path, body in seen if command == "PUT"}
    assert put == {
        "/_ilm/policy/veltrix-logs": (ELK / "ilm-policy.json").read_bytes(),
        "/_ingest/pipeline/veltrix-logs": (ELK / "ingest-pipeline.json").read_bytes(),
        "/_index_template/veltrix-logs": (ELK / "index-template.json").read_bytes(),
    }
    ((path, body),) = [(path, body) for command, path, body in seen if command == "POST"]
    assert path == "/api/saved_objects/_import?overwrite=true"
    assert (ELK / "saved-searches.ndjson").read_bytes() in body


@pytest.mark.process
def test_the_script_ends_at_the_first_refusal(server: tuple[str, list[tuple[str, str, bytes]]]) -> None:
    url, seen = server

    done = run_load(url, "/refused")

    assert done.returncode != 0
    assert len(seen) == 1
