"""/metrics speaks both formats, holds our metrics and the sidecar's own, and never counts itself."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_text

from tests.sidecar.conftest import Sidecar

NewSidecars = Callable[..., Sidecar]
PROMETHEUS_ACCEPT = (
    "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.5,application/openmetrics-text;version=0.0.1;q=0.4,"
    "text/plain;version=1.0.0;escaping=allow-utf-8;q=0.3,text/plain;version=0.0.4;q=0.2,*/*;q=0.1"
)


async def test_a_plain_request_gets_prometheus_text(sidecar: Sidecar) -> None:
    answer = await sidecar.get("/metrics")

    assert answer.status_code == 200
    assert answer.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
    names = {family.name for family in parse_text(answer.text)}
    assert {"veltrix_consumer_lag", "veltrix_event_latency_seconds", "process_cpu_seconds"} <= names


async def test_openmetrics_is_negotiated(sidecar: Sidecar) -> None:
    answer = await sidecar.get("/metrics", headers={"accept": "application/openmetrics-text"})

    assert answer.headers["content-type"].startswith("application/openmetrics-text; version=1.0.0")
    assert answer.text.endswith("# EOF\n")
    families = {family.name: family for family in parse_openmetrics(answer.text)}  # type: ignore[no-untyped-call]
    assert families["veltrix_consumer_lag"].samples[0].value == 5


async def test_what_prometheus_itself_asks_for_gets_openmetrics(sidecar: Sidecar) -> None:
    answer = await sidecar.get("/metrics", headers={"accept": PROMETHEUS_ACCEPT})

    assert answer.headers["content-type"].startswith("application/openmetrics-text; version=1.0.0")
    assert "# EOF" in answer.text


@pytest.mark.parametrize("accept", ["application/openmetrics-text;version=new", "text/plain;version=old", ";;=,", "image/png"])
async def test_an_accept_header_that_makes_no_sense_gets_prometheus_text(sidecar: Sidecar, accept: str) -> None:
    answer = await sidecar.get("/metrics", headers={"accept": accept})

    assert answer.status_code == 200
    assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")


async def test_requests_are_counted_by_route_and_not_by_path(new_sidecars: NewSidecars) -> None:
    sidecar = new_sidecars()
    for number in range(5):
        await sidecar.get(f"/api/v1/dlq/records/dlq.veltrix.interactions:0:{number}")
        await sidecar.get(f"/made/up/{number}")

    text = (await sidecar.get("/metrics")).text
    counts = {
        sample.labels["handler"]: sample.value
        for family in parse_text(text)
        if family.name == "http_requests"
        for sample in family.samples
        if sample.name == "http_requests_total"
    }
    assert counts == {"/api/v1/dlq/records/{record_id}": 5, "none": 5}


async def test_probes_and_scrapes_are_not_counted(new_sidecars: NewSidecars) -> None:
    sidecar = new_sidecars()
    for path in ("/livez", "/readyz", "/health/live", "/health/ready", "/metrics"):
        await sidecar.get(path)

    assert "http_requests_total{" not in (await sidecar.get("/metrics")).text


async def test_two_sidecars_in_one_process_do_not_share_metrics(new_sidecars: NewSidecars) -> None:
    one, other = new_sidecars(), new_sidecars()
    await one.get("/")

    assert "http_requests_total{" in (await one.get("/metrics")).text
    assert "http_requests_total{" not in (await other.get("/metrics")).text
