"""Every query of every panel and rule, asked of a real Prometheus that scrapes a real worker under load."""

from __future__ import annotations

import json
import time
import urllib.parse
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from deploy.local.ports import LOOPBACK, free_ports
from deploy.local.prometheus import LocalPrometheus
from deploy.local.worker_process import ROOT, http_get
from deploy.observability.panels import Panel, boards
from deploy.observability.rules import rules
from deploy.observability.slo import load_slo
from tests.integration import truth
from tests.integration.collector import collecting
from tests.integration.conftest import MakeTopics, StartWorker
from tests.integration.test_admin import Admin

#: Three scrapes at least for every rate, and rules evaluated on them.
TRAFFIC_S, RATE, WAIT_S = 30, 300, 60.0


def ask(prometheus: LocalPrometheus, expr: str) -> list[Any]:
    status, body = http_get(prometheus.port, f"/api/v1/query?{urllib.parse.urlencode({'query': expr})}")
    assert status == 200, f"{expr}: {body.decode()}"
    found: list[Any] = json.loads(body)["data"]["result"]
    return found


def wait_for_data(prometheus: LocalPrometheus, panels: list[Panel]) -> None:
    deadline = time.monotonic() + WAIT_S
    while empty := [(panel.title, query.expr) for panel in panels for query in panel.queries if not ask(prometheus, query.expr)]:
        assert time.monotonic() < deadline, f"no data: {empty}"
        time.sleep(2)


@pytest.fixture
def prometheus(tmp_path: Path) -> Iterator[LocalPrometheus]:
    one = LocalPrometheus(tmp_path / "prometheus")
    one.start()
    yield one
    one.stop()


def all_panels() -> list[Panel]:
    return [panel for board in boards(load_slo()) for row in board.rows.values() for panel in row]


def test_every_query_of_every_panel_gives_data_and_every_rule_is_evaluated(
    topics: MakeTopics, worker: StartWorker, prometheus: LocalPrometheus
) -> None:
    with collecting() as collected:
        settings = topics(otlp_endpoint=collected.url, trace_ratio=0.1)
        one = worker(settings)
        prometheus.scrape([one.port])
        truth.send(settings, truth.clicks(TRAFFIC_S * RATE, "panels"), truth.Sent(), rate=RATE)
        wait_for_data(prometheus, [panel for panel in all_panels() if not panel.needs])
        groups = json.loads(http_get(prometheus.port, "/api/v1/rules")[1])["data"]["groups"]
        exemplars = ask_exemplars(prometheus, "veltrix_event_latency_seconds_bucket")
        one.terminate()

    assert [rule["name"] for group in groups for rule in group["rules"] if rule["health"] != "ok"] == []
    assert sum(len(group["rules"]) for group in groups) == sum(len(group["rules"]) for group in rules(load_slo())["groups"])
    assert exemplars
    assert exemplars <= {span.trace_id.hex() for span in collected.spans}


def ask_exemplars(prometheus: LocalPrometheus, expr: str) -> set[str]:
    """Trace ids that a dashboard would show as dots."""
    now = time.time()
    query = urllib.parse.urlencode({"query": expr, "start": now - 120, "end": now})
    series = json.loads(http_get(prometheus.port, f"/api/v1/query_exemplars?{query}")[1])["data"]
    return {one["labels"]["trace_id"] for each in series for one in each["exemplars"]}


def test_panels_of_optional_parts_give_data_where_those_are_there(
    topics: MakeTopics, worker: StartWorker, prometheus: LocalPrometheus, tmp_path: Path
) -> None:
    """Two workers with standbys, events that wait for a database that is away, lookups that are asked, and `veltrix admin`."""
    strict = tmp_path / "strict.toml"
    strict.write_text((ROOT / "app/enrichment/default.toml").read_text().replace('policy = "pass"', 'policy = "retry"'))
    settings = topics(
        standby_replicas=1, enrichment_enabled=True, reference_file=str(strict), retry_delays="1s",
        reference_url=f"postgresql://nobody@{LOOPBACK}:{free_ports(1)[0]}/gone", redis_url="",
    )  # fmt: skip
    workers, admin = [worker(settings), worker(settings)], Admin(settings, tmp_path / "admin")
    admin.process.start()
    try:
        admin.wait_ready()
        prometheus.scrape([*(one.port for one in workers), admin.port])
        truth.send(settings, truth.clicks(TRAFFIC_S * RATE, "optional"), truth.Sent(), rate=RATE)
        for one in workers:
            one.get("/api/v1/lookups/users/u:1")
        wait_for_data(prometheus, [panel for panel in all_panels() if panel.needs])
    finally:
        admin.http.close()
        admin.process.kill()
