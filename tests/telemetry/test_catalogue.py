"""The catalogue: declared well, complete on the wire, bounded in labels."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.openmetrics.exposition import generate_latest as generate_openmetrics
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_text

from app.settings import Settings
from app.telemetry.catalogue import CONSUMED, LATENCY, METRICS
from app.telemetry.engine import BuildInfo, EngineMetrics
from app.telemetry.exposition import Catalogue
from app.telemetry.loop_lag import LoopLagMonitor
from app.telemetry.metric import Metric, Reading
from app.telemetry.pipeline import PipelineMetrics
from tests.telemetry.fakes import FakeEngine, unit


@pytest.fixture
def catalogue() -> Catalogue:
    """One with every source, after one unit."""
    catalogue = Catalogue(CollectorRegistry())
    pipeline = PipelineMetrics(catalogue)
    EngineMetrics(catalogue, FakeEngine())
    BuildInfo(catalogue, "veltrix", "1.2.3")
    LoopLagMonitor(catalogue)
    pipeline.unit_done(unit())
    return catalogue


@pytest.mark.parametrize("metric", METRICS, ids=lambda metric: metric.name)
def test_a_declaration_follows_the_conventions(metric: Metric) -> None:
    assert metric.name.startswith("veltrix_")
    assert metric.name.endswith("_total") == (metric.kind == "counter")
    assert metric.name.removesuffix("_total").endswith(metric.unit)
    for ending in ("seconds", "bytes", "records"):
        assert not metric.name.removesuffix("_total").endswith(ending) or metric.unit == ending
    assert (metric.kind == "histogram") == bool(metric.bounds)
    assert metric.meaning.endswith(".")
    assert metric.action.endswith(".")


def test_names_are_declared_once() -> None:
    names = [metric.name for metric in METRICS]

    assert len(set(names)) == len(names) > 30


def test_help_texts_name_settings_and_metrics_that_exist() -> None:
    settings = {f"VELTRIX_{name.upper()}" for name in Settings.model_fields}
    metrics = {metric.name for metric in METRICS}

    for metric in METRICS:
        assert set(re.findall(r"VELTRIX_[A-Z_]+", metric.help)) <= settings
        assert set(re.findall(r"veltrix_[a-z_]+", metric.help)) <= metrics


def test_every_declared_metric_is_exposed_with_its_help_and_type(catalogue: Catalogue) -> None:
    families = {family.name: family for family in parse_text(generate_latest(catalogue.registry).decode())}

    for metric in METRICS:
        family = families[metric.name if metric.kind != "counter" else metric.name.removesuffix("_total")]
        assert family.documentation == metric.help
        assert family.type == {"info": "gauge"}.get(metric.kind, metric.kind)


def test_the_exposition_is_valid_openmetrics(catalogue: Catalogue) -> None:
    text = generate_openmetrics(catalogue.registry).decode()  # type: ignore[no-untyped-call]

    families = {family.name: family for family in parse_openmetrics(text)}  # type: ignore[no-untyped-call]
    assert families["veltrix_events"].type == "counter"
    assert families["veltrix_event_latency_seconds"].unit == "seconds"
    assert families["veltrix_build"].samples[0].labels["version"] == "1.2.3"


def test_samples_carry_the_declared_labels(catalogue: Catalogue) -> None:
    declared = {metric.name.removesuffix("_total").removesuffix("_info"): set(metric.labels) for metric in METRICS}

    seen = 0
    for family in catalogue.collect():
        for sample in family.samples:
            assert set(sample.labels) - {"le"} == declared[family.name]
            seen += 1
    assert seen > 100


def test_process_metrics_are_there(catalogue: Catalogue) -> None:
    text = generate_latest(catalogue.registry).decode()

    assert "process_resident_memory_bytes" in text
    assert "python_gc_collections_total" in text
    assert "python_info" in text


def test_the_global_registry_is_left_alone(catalogue: Catalogue) -> None:
    from prometheus_client import REGISTRY

    assert not [family.name for family in REGISTRY.collect() if family.name.startswith("veltrix_")]


def test_a_second_catalogue_on_one_registry_is_refused(catalogue: Catalogue) -> None:
    with pytest.raises(ValueError, match="Duplicated timeseries"):
        Catalogue(catalogue.registry)


class Misreading:
    """A source with a mistake in it."""

    def __init__(self, reading: Reading) -> None:
        self.reading = reading

    def readings(self) -> Iterator[Reading]:
        yield self.reading


def test_an_undeclared_metric_is_an_error(catalogue: Catalogue) -> None:
    catalogue.add(Misreading((Metric("veltrix_made_up", "gauge", "A.", "B."), (), 1.0)))

    with pytest.raises(KeyError, match="veltrix_made_up"):
        catalogue.collect()


@pytest.mark.parametrize("reading", [(LATENCY, ("visible",), 1.0), (CONSUMED, ("x",), {"a": "b"})])
def test_a_value_of_the_wrong_kind_is_an_error(catalogue: Catalogue, reading: Reading) -> None:
    catalogue.add(Misreading(reading))

    with pytest.raises(TypeError, match="is no reading of"):
        catalogue.collect()
