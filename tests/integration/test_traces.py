"""Traces of a real worker, as a collector gets them: from the producer's span to outputs, dead letters, Redis and the database."""

from __future__ import annotations

import asyncio
import socket
import time
import urllib.request
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import cast

import pytest
from confluent_kafka import Message, Producer

from app.cli.clickstream import Click
from app.cli.seed import seed
from app.settings import Settings
from app.topics import ENRICHED, INTERACTIONS, dead_letters_of
from tests.integration import truth
from tests.integration.collector import Collected, collecting
from tests.integration.conftest import MakeTopics, StartWorker

EVENTS, EVERY = 2_000, 40
PARENT = "00f067aa0ba902b7"
STOP_S = 15.0


def trace_id(number: int) -> str:
    return f"{number + 1:032x}"


def send_traced(settings: Settings, clicks: Iterable[Click]) -> None:
    """Every 40th event comes from a producer that records its traces, the one after it from one that does not."""
    producer = Producer({"bootstrap.servers": settings.kafka_bootstrap, "partitioner": "murmur2_random", "acks": "all"})
    for number, click in enumerate(clicks):
        flags = {0: "01", 1: "00"}.get(number % EVERY)
        headers: dict[str, str | bytes | None] = {} if flags is None else {"traceparent": f"00-{trace_id(number)}-{PARENT}-{flags}"}
        producer.produce(INTERACTIONS, key=click.key, value=click.value, headers=headers)
    assert producer.flush(30) == 0


def headers_by_offset(messages: Iterable[Message], identity: str) -> dict[bytes, dict[str, bytes]]:
    found = {}
    for message in messages:
        headers = dict(cast("list[tuple[str, bytes]]", message.headers()))
        found[b":".join(headers[identity].split(b":")[:3])] = headers
    return found


def recorded(collected: Collected) -> dict[bytes, tuple[str, str]]:
    """Source record to trace id and ``traceparent`` of its span."""
    found = {}
    for span in collected.named("process interactions"):
        attributes = {one.key: one.value for one in span.attributes}
        partition = attributes["messaging.destination.partition.id"].string_value
        where = f"{INTERACTIONS}:{partition}:{attributes['messaging.kafka.offset'].int_value}".encode()
        found[where] = span.trace_id.hex(), f"00-{span.trace_id.hex()}-{span.span_id.hex()}"
    return found


def traceparents(headers: Mapping[bytes, Mapping[str, bytes]], name: str) -> dict[bytes, str]:
    """Without their flags."""
    return {where: one[name].decode().rpartition("-")[0] for where, one in headers.items() if name in one}


@pytest.mark.parametrize("guarantee", ["at_least_once", "exactly_once"])
def test_a_trace_leads_from_the_producer_to_outputs_dead_letters_redis_and_the_database(
    guarantee: str, topics: MakeTopics, worker: StartWorker, tmp_path: Path
) -> None:
    clicks = truth.clicks(EVENTS, "traced")
    url = f"sqlite:///{tmp_path / 'reference.sqlite'}"
    with collecting() as collected:
        settings = topics(
            processing_guarantee=guarantee, enrichment_enabled=True, reference_url=url,
            otlp_endpoint=collected.url, trace_ratio=0.1, trace_max_per_s=1000,
        )  # fmt: skip
        asyncio.run(seed(settings, 100, 100))
        one = worker(settings, worker_id="pod-7")
        send_traced(settings, clicks)
        truth.wait_consumed([one], EVENTS)
        outputs = headers_by_offset(truth.read(settings, ENRICHED), "veltrix-source")
        letters = headers_by_offset(truth.read(settings, dead_letters_of(settings.app_id, INTERACTIONS)), "dlq.id")
        scrape = one.get("/metrics")[1]
        assert one.terminate() == 0  # sends the last spans

    spans = recorded(collected)
    asked = {trace_id(number) for number in range(0, EVENTS, EVERY)}
    refused = {trace_id(number) for number in range(1, EVENTS, EVERY)}
    ids = {trace for trace, _ in spans.values()}
    assert asked <= ids
    assert not refused & ids
    assert len(ids - asked) == pytest.approx(0.1 * EVENTS, rel=0.5)  # those that began here
    parents = {span.trace_id.hex(): span.parent_span_id.hex() for span in collected.named("process interactions")}
    assert {parents[trace] for trace in asked} == {PARENT}
    assert {parents[trace] for trace in ids - asked} == {""}

    carried = traceparents(outputs, "traceparent")
    assert {where: parent for where, parent in carried.items() if where in spans} == {
        where: spans[where][1] for where in spans.keys() & outputs.keys()
    }
    passed_on = {parent for where, parent in carried.items() if where not in spans}
    assert passed_on <= {f"00-{trace}-{PARENT}" for trace in refused}
    assert len(passed_on) > len(refused) // 2
    assert traceparents(letters, "dlq.traceparent") == {where: spans[where][1] for where in spans.keys() & letters.keys()}
    assert_calls_belong_to_batches(collected)
    assert {one["service.instance.id"] for one in collected.resources} == {"pod-7"}
    assert b"trace_id" not in scrape, "a scraper that does not ask for OpenMetrics gets no exemplars"


def assert_calls_belong_to_batches(collected: Collected) -> None:
    """Redis and database were asked on behalf of micro-batches that the spans of records are linked to."""
    batches = {span.span_id: span for span in collected.spans if span.name.startswith("batch ")}
    for name in ("SELECT users", "MGET", "EVALSHA"):
        calls = collected.named(name)
        assert calls, name
        assert {span.parent_span_id for span in calls} <= batches.keys(), name
        assert all(span.trace_id == batches[span.parent_span_id].trace_id for span in calls)
    for span in collected.named("process interactions"):
        assert [link.span_id in batches for link in span.links] == [True]


def test_the_latency_histogram_names_a_trace_that_the_collector_has(topics: MakeTopics, worker: StartWorker) -> None:
    with collecting() as collected:
        settings = topics(otlp_endpoint=collected.url, trace_ratio=1.0)
        one = worker(settings)
        send_traced(settings, truth.clicks(200, "exemplar"))
        truth.wait_consumed([one], 200)
        text = openmetrics(one.url)
        assert one.terminate() == 0

    lines = [line for line in text.splitlines() if line.startswith("veltrix_event_latency_seconds_bucket") and " # " in line]
    assert {line.partition('stage="')[2].partition('"')[0] for line in lines} == {
        "fetched",
        "taken",
        "decoded",
        "computed",
        "produced",
        "visible",
        "durable",
    }
    named = {line.partition('trace_id="')[2].partition('"')[0] for line in lines}
    assert named <= {span.trace_id.hex() for span in collected.spans}


def openmetrics(url: str) -> str:
    request = urllib.request.Request(f"{url}/metrics", headers={"Accept": "application/openmetrics-text; version=1.0.0"})  # noqa: S310
    with urllib.request.urlopen(request, timeout=10) as answer:  # noqa: S310
        return str(answer.read().decode())


@pytest.mark.parametrize("is_silent", [False, True], ids=["away", "silent"])
def test_a_collector_that_does_not_answer_costs_neither_events_nor_the_stop(
    is_silent: bool, topics: MakeTopics, worker: StartWorker
) -> None:
    listener = socket.create_server(("127.0.0.1", 0))
    port = listener.getsockname()[1]
    if not is_silent:
        listener.close()
    settings, sent = topics(otlp_endpoint=f"http://127.0.0.1:{port}", trace_ratio=1.0, trace_max_per_s=10_000), truth.Sent()
    one = worker(settings)
    truth.send(settings, truth.clicks(20_000, "away"), sent)
    truth.wait_consumed([one], 20_000)
    started = time.monotonic()
    assert one.terminate() == 0
    assert time.monotonic() - started < STOP_S
    listener.close()
    truth.assert_exact(settings, sent)
