"""The pipeline as a graph, and its page in a real browser."""

from __future__ import annotations

import asyncio
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import CollectorRegistry

from app.engine.status import BreakerStatus, Ledger
from app.settings import load_settings
from app.sidecar.service import SidecarService
from app.sidecar.topology import POLICY, TopologyAnswer
from app.sidecar.topology_graph import Topology
from app.telemetry.exposition import Catalogue
from app.telemetry.live import LiveNumbers
from app.telemetry.pipeline import PipelineMetrics
from tests.sidecar.conftest import Sidecar
from tests.telemetry.fakes import AGENT, FakeClock, FakeEngine, lane, unit


class Rig:
    """A topology whose worker has ten partitions and has worked for two seconds."""

    def __init__(self, **settings: Any) -> None:
        self.engine, self.clock, self.down = FakeEngine(), FakeClock(), list[str]()
        self.pipeline = PipelineMetrics(Catalogue(CollectorRegistry()))
        self.live = LiveNumbers(self.pipeline, self.engine, self.clock)
        chosen: dict[str, Any] = {"enrichment_enabled": True, **settings}
        self.topology = Topology(load_settings(**chosen), self.engine, self.live, lambda: self.down)

    def work(self, *consumed: int, **changes: Any) -> None:
        """A second in which the partitions consumed so many records each."""
        for number in (0, 1):
            counts = [number * count for count in consumed]
            self.engine.statuses = [
                lane(partition, ledger=Ledger(consumed=count, emitted=count), **changes) for partition, count in enumerate(counts)
            ]
            self.live.sample()
            self.clock.now += 1
            self.pipeline.unit_done(unit(sum(consumed), outputs={"interactions-enriched": sum(consumed)}))

    def look(self) -> TopologyAnswer:
        return self.topology.look()


def node(answer: TopologyAnswer, name: str) -> Any:
    return next(each for each in answer.nodes if each.id == name)


def test_every_topic_that_an_agent_reads_or_writes_is_there_and_no_other() -> None:
    answer = Rig().look()

    assert {each.id for each in answer.nodes if each.kind == "topic"} == {
        "interactions", "interactions-enriched", "sessions", "item-activity", "item-windows",
    }  # fmt: skip


def test_edges_lead_from_source_through_agents_to_outputs_and_dead_letters() -> None:
    pairs = {(edge.source, edge.target) for edge in Rig().look().edges}

    assert {
        ("interactions", "process_interactions"),
        ("process_interactions", "interactions-enriched"),
        ("process_interactions", "item-activity"),
        ("process_interactions", "dlq.veltrix.interactions"),
        ("item-activity", "aggregate_items"),
        ("aggregate_items", "item-windows"),
    } <= pairs


def test_what_the_settings_switch_off_is_not_there() -> None:
    answer = Rig(windows_enabled=False, sessions_enabled=False, enrichment_enabled=False, redis_url="", retry_delays="").look()

    assert {each.kind for each in answer.nodes} == {"topic", "agent", "table", "dead_letters"}
    assert {each.id for each in answer.nodes if each.kind == "agent"} == {"process_interactions"}


def test_edges_carry_rates_lag_and_latency() -> None:
    rig = Rig()
    rig.work(100, 100)

    read, written = (
        next(edge for edge in rig.look().edges if (edge.source, edge.target) == pair)
        for pair in (("interactions", AGENT), (AGENT, "interactions-enriched"))
    )
    assert (read.per_s, read.lag) == (200, 10)
    assert read.p99_ms is not None
    assert written.per_s == 200


def test_rates_are_null_before_anything_is_known() -> None:
    assert {edge.per_s for edge in Rig().look().edges} == {None}


def test_a_partition_with_many_times_its_share_is_hot_and_says_so() -> None:
    rig = Rig()
    rig.work(10, 10, 10, 10, 10, 400)

    partitions = node(rig.look(), AGENT).partitions
    assert [each.hot for each in partitions] == [False] * 5 + [True]
    assert "three times its share" in partitions[5].says
    assert node(rig.look(), AGENT).health == "warn"


def test_a_trickle_is_never_hot() -> None:
    rig = Rig()
    rig.work(0, 0, 0, 0, 0, 2)

    assert not any(each.hot for each in node(rig.look(), AGENT).partitions)


def test_an_open_breaker_and_a_long_queue_show_in_their_partition() -> None:
    rig = Rig()
    rig.work(10, breaker=BreakerStatus("open"))
    assert "breaker open" in node(rig.look(), AGENT).partitions[0].says
    assert node(rig.look(), AGENT).health == "bad"

    rig.work(10, end_offset=50_000)
    assert "records behind" in node(rig.look(), AGENT).partitions[0].says


def test_an_unknown_lag_is_null() -> None:
    rig = Rig()
    rig.work(10, end_offset=-1)

    assert node(rig.look(), AGENT).partitions[0].lag is None


@pytest.mark.parametrize(("down", "name"), [("redis", f"redis:{AGENT}"), ("reference", f"database:{AGENT}")])
def test_a_store_that_is_away_is_bad(down: str, name: str) -> None:
    rig = Rig()
    assert node(rig.look(), name).health == "ok"

    rig.down.append(down)
    assert node(rig.look(), name).health == "bad"


def test_a_database_whose_cache_in_redis_is_away_is_asked_more_and_is_not_away_itself() -> None:
    rig = Rig()
    rig.down.append("reference cache")

    assert node(rig.look(), f"database:{AGENT}").health == "warn"


def test_waiting_retries_and_many_dead_letters_are_a_warning() -> None:
    rig = Rig()
    rig.work(10, is_tier=True)
    rig.pipeline.unit_done(unit(10, emitted=5, dead_letters=[("decode", "invalid_json")] * 5))
    rig.live.sample()

    answer = rig.look()
    assert (node(answer, f"retries:{AGENT}").health, node(answer, f"retries:{AGENT}").facts["waiting"]) == ("warn", 5)
    assert node(answer, "dlq.veltrix.interactions").health == "warn"


async def test_the_api_gives_it_as_json_and_the_index_names_the_page(sidecar: Sidecar) -> None:
    answer = TopologyAnswer.model_validate((await sidecar.get("/api/v1/topology")).json())

    assert answer.phase == "running"
    assert (await sidecar.get("/")).json()["links"]["topology"] == "/topology"


@pytest.mark.parametrize("path", ["/topology", "/topology/topology.js", "/topology/topology.css"])
async def test_the_page_and_its_files_load_nothing_from_elsewhere(sidecar: Sidecar, path: str) -> None:
    answer = await sidecar.get(path)

    assert answer.status_code == 200
    assert answer.headers["content-security-policy"] == POLICY
    assert set(re.findall(r"https?://[^\"' )]+", answer.text)) <= {"http://www.w3.org/2000/svg"}


async def test_no_other_file_is_served(sidecar: Sidecar) -> None:
    assert (await sidecar.get("/topology/..%2Ftopology.py")).status_code in {404, 422}


def chromium() -> str:
    found = shutil.which("chromium") or shutil.which("chromium-browser")
    assert found, "no Chromium: run `make setup-tests`"
    return found


async def browse(service: SidecarService, profile: Path, *options: str) -> str:
    """The page's document after some seconds, in a browser that reaches this machine alone."""
    arguments = [
        chromium(), "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={profile}", "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
        "--virtual-time-budget=5000", "--window-size=1500,1100", *options, f"{service.url}/topology",
    ]  # fmt: skip
    process = await asyncio.create_subprocess_exec(*arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    out, errors = await asyncio.wait_for(process.communicate(), 50)
    assert process.returncode == 0, errors.decode()
    return out.decode()


@pytest.mark.process
async def test_a_browser_without_internet_draws_it(new_sidecars: Callable[..., Sidecar], tmp_path: Path) -> None:
    sidecar = new_sidecars()
    sidecar.engine.statuses = [
        lane(0), lane(1, end_offset=50_000), lane(2, breaker=BreakerStatus("open")), lane(0, topic="retry.veltrix.interactions.5s", is_tier=True),
    ]  # fmt: skip
    service = SidecarService(sidecar.app, "127.0.0.1", 0)
    await service.start()
    boxes = len((await sidecar.get("/api/v1/topology")).json()["nodes"])
    try:
        document = await browse(service, tmp_path / "profile", "--dump-dom")
        await browse(service, tmp_path / "profile", f"--screenshot={tmp_path / 'topology.png'}")
    finally:
        await service.stop()

    assert document.count('tabindex="0"') == document.count('role="img"') == boxes, "every box can be reached and is read out"
    assert document.count('class="partition') == 3
    assert "breaker open" in document
    assert 'class="bad">✖' in document.replace('role="status" ', "")
    assert "<td>process_interactions</td><td>interactions-enriched</td>" in document.replace(' class=""', "")
    assert (tmp_path / "topology.png").stat().st_size > 20_000


@pytest.mark.process
async def test_a_browser_says_when_the_worker_is_gone(new_sidecars: Callable[..., Sidecar], tmp_path: Path) -> None:
    sidecar = new_sidecars()
    sidecar.engine.lanes = broken  # type: ignore[method-assign]
    service = SidecarService(sidecar.app, "127.0.0.1", 0)
    await service.start()
    try:
        document = await browse(service, tmp_path / "profile", "--dump-dom")
    finally:
        await service.stop()

    assert "The worker does not answer (it answers 500)" in document


def broken() -> list[Any]:
    raise RuntimeError("broken on purpose")
