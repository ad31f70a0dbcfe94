"""Dashboards: every panel asks for what exists, says what to do, and has its place."""

from __future__ import annotations

import itertools
import json
import re
from typing import Any

import pytest
import yaml
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models.dashboard import Dashboard

from deploy.observability.__main__ import HERE, ROOT
from deploy.observability.dashboards import dashboard_json
from deploy.observability.panels import Board, Panel, boards
from deploy.observability.rules import rules
from deploy.observability.slo import load_slo
from tests.observability.names import unknown_names

BOARDS = boards(load_slo())
PANELS = [(board, panel) for board in BOARDS for panels in board.rows.values() for panel in panels]
RECORDED = {rule["record"] for group in rules(load_slo())["groups"] for rule in group["rules"] if "record" in rule}


def panel_id(value: Board | Panel) -> str:
    return value.uid if isinstance(value, Board) else value.title


@pytest.mark.parametrize(("board", "panel"), PANELS, ids=panel_id)
def test_a_panel_names_only_metrics_and_labels_that_exist(board: Board, panel: Panel) -> None:
    unknown = {query.expr: unknown_names(query.expr, RECORDED) for query in panel.queries}

    assert {expr: names for expr, names in unknown.items() if names} == {}


@pytest.mark.parametrize(("board", "panel"), PANELS, ids=panel_id)
def test_a_panel_says_what_to_do_and_its_runbook_exists(board: Board, panel: Panel) -> None:
    named = re.findall(r"[Rr]unbook ([a-z-]+)", panel.action)

    assert panel.action
    assert [name for name in named if not (ROOT / "docs" / "runbooks" / f"{name}.md").is_file()] == []


@pytest.mark.parametrize("board", BOARDS, ids=panel_id)
def test_panels_do_not_overlap_and_have_ids_of_their_own(board: Board) -> None:
    panels: list[dict[str, Any]] = json.loads(dashboard_json(board))["panels"]
    places = [panel["gridPos"] for panel in panels]

    assert len(panels) == len(board.rows) + sum(map(len, board.rows.values()))
    assert [(a, b) for a, b in itertools.combinations(places, 2) if overlap(a, b)] == []
    assert all(place["x"] + place["w"] <= 24 for place in places)
    assert len({panel["id"] for panel in panels}) == len(panels)


def overlap(a: dict[str, int], b: dict[str, int]) -> bool:
    return all(max(a[at], b[at]) < min(a[at] + a[size], b[at] + b[size]) for at, size in (("x", "w"), ("y", "h")))


def test_dashboards_have_distinct_ids_and_all_panels_the_chosen_data_source() -> None:
    assert len({board.uid for board in BOARDS}) == len(BOARDS)
    sources = {
        panel["datasource"]["uid"]
        for board in BOARDS
        for panel in json.loads(dashboard_json(board))["panels"]
        if panel["type"] != "row"
    }
    assert sources == {"${source}"}


@pytest.mark.parametrize("board", BOARDS, ids=panel_id)
def test_a_dashboard_is_what_grafanas_schema_knows_and_nothing_else(board: Board) -> None:
    """The models are generated from Grafana's schema of this version: what they do not know is lost on the way through them."""
    written = json.loads(dashboard_json(board))

    assert json.loads(JSONEncoder().encode(Dashboard.from_json(written))) == written


def test_grafana_finds_the_data_source_and_the_files() -> None:
    folder = ROOT / HERE / "grafana" / "provisioning"
    source, _ = yaml.safe_load((folder / "datasources" / "prometheus.yml").read_text())["datasources"]
    (provider,) = yaml.safe_load((folder / "dashboards" / "veltrix.yml").read_text())["providers"]

    assert source["type"] == "prometheus"
    assert provider["options"]["path"].endswith("/dashboards")
