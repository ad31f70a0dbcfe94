"""The declared metrics as a Prometheus client's collector: names, kinds, labels and help around the numbers of the sources."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from prometheus_client import CollectorRegistry, GCCollector, PlatformCollector, ProcessCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, InfoMetricFamily
from prometheus_client.core import Metric as Family
from prometheus_client.registry import Collector

from app.telemetry.catalogue import METRICS
from app.telemetry.histogram import Histogram
from app.telemetry.metric import Metric, Source


class Catalogue(Collector):
    """All declared metrics on one registry, with the standard process, GC and platform metrics.

    Raises:
        ValueError: the registry already holds one of the names.
    """

    def __init__(self, registry: CollectorRegistry) -> None:
        self.registry = registry
        self._sources: list[Source] = []
        registry.register(self)
        ProcessCollector(registry=registry)
        GCCollector(registry=registry)
        PlatformCollector(registry=registry)

    def add(self, source: Source) -> None:
        """Ask ``source`` for its numbers at each scrape."""
        self._sources.append(source)

    def describe(self) -> Iterable[Family]:
        """Names for the registry's collision check, without asking the sources."""
        return [_family(metric) for metric in METRICS]

    def collect(self) -> Iterable[Family]:
        """Every declared family, with the samples of all sources. KeyError: a source reads an undeclared metric."""
        families = {metric.name: _family(metric) for metric in METRICS}
        for source in self._sources:
            for metric, labels, value in source.readings():
                _add(families[metric.name], labels, value)
        return families.values()


def _family(metric: Metric) -> Family:
    match metric.kind:
        case "counter":
            return CounterMetricFamily(metric.name, metric.help, labels=metric.labels, unit=metric.unit)
        case "gauge":
            return GaugeMetricFamily(metric.name, metric.help, labels=metric.labels, unit=metric.unit)
        case "histogram":
            return HistogramMetricFamily(metric.name, metric.help, labels=metric.labels, unit=metric.unit)
        case "info":
            return InfoMetricFamily(metric.name.removesuffix("_info"), metric.help, labels=())


def _add(family: Family, labels: tuple[str, ...], value: float | Histogram | Mapping[str, str]) -> None:
    if isinstance(family, HistogramMetricFamily) and isinstance(value, Histogram):
        family.add_metric(labels, value.buckets_with_exemplars(), value.total)
    elif isinstance(family, InfoMetricFamily) and isinstance(value, Mapping):
        family.add_metric(labels, dict(value))
    elif isinstance(family, (CounterMetricFamily, GaugeMetricFamily)) and isinstance(value, (int, float)):
        family.add_metric(labels, value)
    else:
        raise TypeError(f"{family.name}: a {type(value).__name__} is no reading of a {family.type}")
