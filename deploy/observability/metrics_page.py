"""``docs/metrics.md``: the catalogue as a page."""

from __future__ import annotations

from app.telemetry.catalogue import METRICS
from app.telemetry.metric import Metric

HEAD = """# Metrics

Every metric of `/metrics`, from the catalogue `app/telemetry/catalogue.py`, which is the one place to change them; `make observability`
writes this page. Beside them come the standard `process_*` and `python_*` series, and `http_*` of the sidecar's own requests.
Counters start at 0 with the process. Labels are bounded: topics, partitions, agents and named reasons, never a key or a text.

| Metric | Kind | Labels | What it is | When it moves |
|---|---|---|---|---|
"""


def metrics_page() -> str:
    """The page's text."""
    return HEAD + "".join(_row(metric) for metric in METRICS)


def _row(metric: Metric) -> str:
    labels = ", ".join(f"`{label}`" for label in metric.labels)
    return f"| `{metric.name}` | {metric.kind} | {labels} | {metric.meaning} | {metric.action} |\n"
