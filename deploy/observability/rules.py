"""``prometheus/rules.yml``: recording rules of the objectives, and all alerts."""

from __future__ import annotations

from typing import Any, Final

from deploy.observability.alerts import ALERTS, Alert, burn_alerts
from deploy.observability.slo import WINDOWS, Slo

_QUANTILE: Final = "histogram_quantile({}, sum by (source, stage, le) (rate(veltrix_event_latency_seconds_bucket[5m])))"
#: Further series that panels and people ask for often.
RECORDED: Final = {
    "veltrix:events_consumed:rate1m": "sum by (source) (rate(veltrix_events_consumed_total[1m]))",
    "veltrix:event_latency_seconds:p50_5m": _QUANTILE.format(0.5),
    "veltrix:event_latency_seconds:p99_5m": _QUANTILE.format(0.99),
}


def rules(slo: Slo) -> dict[str, Any]:
    """The content of the file."""
    recording = [
        {"record": objective.recorded(window), "expr": objective.error_ratio(window)}
        for objective in slo.objective
        for window in WINDOWS
    ]
    common = [{"record": name, "expr": expr} for name, expr in RECORDED.items()]
    alerts = [_rule(alert, slo.runbooks) for alert in (*burn_alerts(slo), *ALERTS)]
    return {
        "groups": [
            {"name": "veltrix-slo", "interval": "30s", "rules": recording},
            {"name": "veltrix-common", "interval": "15s", "rules": common},
            {"name": "veltrix-alerts", "interval": "15s", "rules": alerts},
        ]
    }


def _rule(alert: Alert, runbooks: str) -> dict[str, Any]:
    return {
        "alert": alert.name,
        "expr": alert.expr,
        "for": alert.lasting,
        "labels": {"severity": alert.severity},
        "annotations": {"summary": alert.summary, "runbook": f"{runbooks}/{alert.runbook}.md"},
    }
