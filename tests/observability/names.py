"""Which names in a PromQL expression are not those of the catalogue."""

from __future__ import annotations

import re
from collections.abc import Collection
from functools import cache

from prometheus_client import CollectorRegistry

from app.telemetry.catalogue import METRICS
from app.telemetry.exposition import Catalogue

#: What Prometheus adds to every series, and to those of alerts.
TARGET_LABELS = {"job", "instance", "le", "alertname", "alertstate"}
FOREIGN = {"up"}
SUFFIXES = {"counter": ("",), "gauge": ("",), "info": ("",), "histogram": ("_bucket", "_count", "_sum")}


def unknown_names(expr: str, recorded: Collection[str]) -> set[str]:
    """Series that nobody makes, and labels that none of the expression's series has."""
    bare = re.sub(r'"(?:[^"\\]|\\.)*"', '""', expr)
    series = set(re.findall(r"\b(?:veltrix|process|python|http)_[a-z0-9_]+|\bveltrix:[a-z0-9_:]+|\bup\b", bare))
    known = series_labels()
    unknown = {name for name in series if name not in known and name not in recorded and name not in FOREIGN}
    if unknown:
        return unknown
    labels = (
        TARGET_LABELS
        | {label for name in series for label in known.get(name, ())}
        | ({"source", "stage"} if any(":" in n for n in series) else set())
    )
    return used_labels(bare) - labels


def used_labels(bare: str) -> set[str]:
    """Labels in matchers and in by, without, on, group_left."""
    matched = {label for body in re.findall(r"\{([^}]*)\}", bare) for label in re.findall(r"([a-z_]+)\s*(?:=~|!~|!=|=)", body)}
    listed = {
        label
        for body in re.findall(r"\b(?:by|without|on|ignoring|group_left)\s*\(([^)]*)\)", bare)
        for label in re.findall(r"[a-z_]+", body)
    }
    return matched | listed


@cache
def series_labels() -> dict[str, tuple[str, ...]]:
    """Name to labels of each series that a worker or `veltrix admin` exposes."""
    declared = {f"{metric.name}{suffix}": metric.labels for metric in METRICS for suffix in SUFFIXES[metric.kind]}
    registry = CollectorRegistry()
    Catalogue(registry)
    standard = {sample.name: tuple(sample.labels) for family in registry.collect() for sample in family.samples}
    return standard | declared
