"""Every query of every panel and rule, asked of a real Prometheus that scrapes a real worker under load."""

from __future__ import annotations

import json
import time
import urllib.parse
from pathlib import Path
from typing import Any

from deploy.local.prometheus import LocalPrometheus
from deploy.local.worker_process import http_get
from deploy.observability.panels import boards
from deploy.observability.rules import rules
from deploy.observability.slo import load_slo
from tests.integration import truth
from tests.integration.conftest import MakeTopics, StartWorker

#: Three scrapes at least for every rate, and rules evaluated on them.
TRAFFIC_S, RATE, WAIT_S = 30, 300, 60.0


def ask(prometheus: LocalPrometheus, expr: str) -> list[Any]:
    status, body = http_get(prometheus.port, f"/api/v1/query?{urllib.parse.urlencode({'query': expr})}")
    assert status == 200, f"{expr}: {body.decode()}"
    found: list[Any] = json.loads(body)["data"]["result"]
    return found


def test_every_query_of_every_panel_gives_data_and_every_rule_is_evaluated(
    topics: MakeTopics, worker: StartWorker, tmp_path: Path
) -> None:
    settings, slo = topics(), load_slo()
    one, prometheus = worker(settings), LocalPrometheus(tmp_path / "prometheus")
    panels = [panel for board in boards(slo) for row in board.rows.values() for panel in row if not panel.needs]
    prometheus.start()
    try:
        prometheus.scrape([one.port])
        truth.send(settings, truth.clicks(TRAFFIC_S * RATE, "panels"), truth.Sent(), rate=RATE)
        deadline = time.monotonic() + WAIT_S
        while empty := [
            (panel.title, query.expr) for panel in panels for query in panel.queries if not ask(prometheus, query.expr)
        ]:
            assert time.monotonic() < deadline, f"no data: {empty}"
            time.sleep(2)
        groups = json.loads(http_get(prometheus.port, "/api/v1/rules")[1])["data"]["groups"]
    finally:
        prometheus.stop()

    assert [rule["name"] for group in groups for rule in group["rules"] if rule["health"] != "ok"] == []
    assert sum(len(group["rules"]) for group in groups) == sum(len(group["rules"]) for group in rules(slo)["groups"])
