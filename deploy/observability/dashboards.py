"""Grafana's JSON of each dashboard, by Grafana's own typed builders."""

from __future__ import annotations

import itertools
from typing import Final

from grafana_foundation_sdk.builders import dashboard, prometheus, stat, timeseries
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models import dashboard as models

from app.telemetry.catalogue import LATENCY
from deploy.observability.panels import Board, Panel, Query

SOURCE: Final = models.DataSourceRef(type_val="prometheus", uid="${source}")
WIDTH, HEIGHT, STAT_HEIGHT = 24, 8, 4
COLUMNS: Final = {True: 6, False: 2}


def dashboard_json(board: Board) -> str:
    """The file that Grafana's provisioning reads."""
    built = (
        dashboard.Dashboard(board.title)
        .uid(board.uid)
        .description(board.description)
        .tags(["veltrix"])
        .refresh("10s")
        .time("now-1h", "now")
        .timezone("browser")
        .readonly()
        .with_variable(dashboard.DatasourceVariable("source").label("Prometheus").type("prometheus"))
    )
    ids = itertools.count(1)
    for title, panels in board.rows.items():
        built = built.with_row(dashboard.Row(title).id(next(ids)))
        for panel in panels:
            built = built.with_panel((_stat(panel) if panel.stat else _graph(panel)).id(next(ids)))
    return JSONEncoder(sort_keys=True, indent=1).encode(built.build()) + "\n"


def _graph(panel: Panel) -> timeseries.Panel:
    built = timeseries.Panel().title(panel.title).description(panel.action).unit(panel.unit).datasource(SOURCE)
    built = built.span(WIDTH // COLUMNS[False]).height(HEIGHT).line_width(1).fill_opacity(8).min(0)
    for number, query in enumerate(panel.queries):
        built = built.with_target(_target(query, number))
    return built


def _stat(panel: Panel) -> stat.Panel:
    built = stat.Panel().title(panel.title).description(panel.action).unit(panel.unit).datasource(SOURCE)
    built = built.span(WIDTH // COLUMNS[True]).height(STAT_HEIGHT).decimals(2).thresholds(_thresholds(panel))
    return built.with_target(_target(panel.queries[0], 0))


def _target(query: Query, number: int) -> prometheus.Dataquery:
    built = prometheus.Dataquery().expr(query.expr).legend_format(query.legend or "__auto").ref_id("ABCDEFGH"[number])
    return built.exemplar(True) if f"{LATENCY.name}_bucket" in query.expr else built


def _thresholds(panel: Panel) -> dashboard.ThresholdsConfig:
    steps = [models.Threshold(value=None, color="green")]
    if panel.limits is not None:
        steps += [models.Threshold(value=panel.limits[0], color="orange"), models.Threshold(value=panel.limits[1], color="red")]
    return dashboard.ThresholdsConfig().mode(models.ThresholdsMode.ABSOLUTE).steps(steps)
