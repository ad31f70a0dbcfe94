"""A real Prometheus with the shipped configuration, scraping something that looks like a worker."""

from __future__ import annotations

import json
import time
import urllib.parse
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from deploy.local.prometheus import LocalPrometheus
from deploy.local.worker_process import http_get
from tests.deploy.fake_sidecar import FakeSidecar

pytestmark = pytest.mark.process
WAIT_S = 40.0


def ask(prometheus: LocalPrometheus, path: str, **query: str) -> Any:
    return json.loads(http_get(prometheus.port, f"/api/v1/{path}?{urllib.parse.urlencode(query)}")[1])["data"]


def test_it_scrapes_the_workers_it_is_told_loads_every_rule_and_stops(fake: Callable[[str], FakeSidecar], tmp_path: Path) -> None:
    sidecar, prometheus = fake("worker-1"), LocalPrometheus(tmp_path / "prometheus")
    prometheus.start()
    try:
        prometheus.scrape([sidecar.ref.port])
        deadline = time.monotonic() + WAIT_S
        while not (found := ask(prometheus, "query", query='up{job="veltrix-worker"} == 1')["result"]):
            assert time.monotonic() < deadline, "it was never scraped"
            time.sleep(0.2)
        groups = ask(prometheus, "rules")["groups"]
    finally:
        prometheus.stop()

    assert [series["metric"]["instance"] for series in found] == [f"127.0.0.1:{sidecar.ref.port}"]
    assert {group["name"] for group in groups} == {"veltrix-slo", "veltrix-common", "veltrix-alerts"}
    assert [rule["lastError"] for group in groups for rule in group["rules"] if rule.get("lastError")] == []
    assert not prometheus.is_running()
