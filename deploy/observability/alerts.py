"""Every alert: when it fires, whom it calls, what it says, which runbook helps. Each has a test that it fires and one that it does not.

``page`` wakes a person: users notice, or will within the hour. ``ticket`` waits for working hours.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, Literal

from deploy.observability.slo import BURN_RATES, Objective, Slo

Severity = Literal["page", "ticket"]
#: The job names of the scrape configurations.
WORKERS: Final = 'job="veltrix-worker"'


@dataclass(frozen=True, slots=True)
class Alert:
    """One alerting rule. ``lasting``: how long ``expr`` must hold before it fires, Prometheus's duration."""

    name: str
    expr: str
    lasting: str
    severity: Severity
    summary: str
    runbook: str


# fmt: off
ALERTS: Final = (
    Alert("VeltrixWorkerDown", f"up{{{WORKERS}}} == 0", "2m", "page",
        "Worker {{ $labels.instance }} does not answer.", "crash-loop"),
    Alert("VeltrixWorkerRestarts", f"changes(process_start_time_seconds{{{WORKERS}}}[15m]) > 2", "0m", "page",
        "Worker {{ $labels.instance }} has started {{ $value }} times in 15 minutes: its log says why it ends, as when a dead letter cannot be written.", "crash-loop"),
    Alert("VeltrixNotReady", "max_over_time(veltrix_ready[10m]) == 0", "0m", "page",
        "Worker {{ $labels.instance }} has not been ready for 10 minutes; /readyz says what it waits for.", "recovery"),
    Alert("VeltrixConsumerStalled", "veltrix_partition_stalled_seconds > 60", "0m", "page",
        "{{ $labels.source }}-{{ $labels.partition }} has work and has not moved for {{ $value | humanizeDuration }}.", "partition-stalled"),
    Alert("VeltrixResultsLate", "max by (source) (veltrix_consumer_lag_seconds) > 60", "5m", "page",
        "Results of {{ $labels.source }} are {{ $value | humanizeDuration }} old.", "lag"),
    Alert("VeltrixLagGrows", "sum by (source) (veltrix_consumer_lag) > 10000 and sum by (source) (deriv(veltrix_consumer_lag[10m])) > 0", "10m", "ticket",
        "{{ $labels.source }} is {{ $value }} records behind and falls further behind.", "lag"),
    Alert("VeltrixKafkaUnreachable", "increase(veltrix_end_offset_query_failures_total[5m]) > 2", "1m", "page",
        "No broker answers worker {{ $labels.instance }}.", "kafka-unreachable"),
    Alert("VeltrixCommitsFail", 'increase(veltrix_commits_total{outcome="failed"}[10m]) > 10', "0m", "ticket",
        "Offset commits of {{ $labels.instance }} fail: the broker is overloaded, or the group keeps rebalancing.", "kafka-unreachable"),
    Alert("VeltrixBreakerOpen", "max by (agent, partition) (veltrix_breaker_open) == 1", "0m", "page",
        "Most events of {{ $labels.agent }}-{{ $labels.partition }} became dead letters, so that it has stopped.", "breaker-open"),
    Alert("VeltrixDeadLettersRefused", 'time() - max by (instance) (veltrix_last_end_timestamp_seconds{cause="dead_letters"}) < 900', "0m", "page",
        "Kafka does not take the dead letters of {{ $labels.instance }}, so that it ended itself {{ $value | humanizeDuration }} ago rather than lose one.", "dead-letter-writes"),
    Alert("VeltrixDeadLettersNotWritten", "max by (agent, partition) (veltrix_dead_letter_write_wait_seconds) > 10", "0m", "page",
        "{{ $labels.agent }}-{{ $labels.partition }} stands still: for {{ $value | humanizeDuration }} no broker has acknowledged its dead letters.", "dead-letter-writes"),
    Alert("VeltrixDeadLetterRate", "sum(rate(veltrix_dead_letters_total[5m])) > 1 and sum(rate(veltrix_dead_letters_total[5m])) > 5 * sum(rate(veltrix_dead_letters_total[1h] offset 5m))", "2m", "ticket",
        "{{ $value | humanize }} dead letters a second, five times what there were before: a producer's release?", "dead-letters"),
    Alert("VeltrixDeadLetterIndexBehind", "veltrix_dead_letter_index_lag > 50000 or veltrix_dead_letter_index_connected == 0", "10m", "ticket",
        "The dead letter index does not follow: lists and counts are old. The letters themselves are safe in Kafka.", "dead-letters"),
    Alert("VeltrixDeadLettersExpire", "max by (queue) (veltrix_dead_letter_oldest_pending_seconds) > scalar(max(veltrix_dead_letter_retention_seconds)) / 2", "1h", "ticket",
        "The oldest dead letter of {{ $labels.queue }} is {{ $value | humanizeDuration }} old and nobody has dealt with it; Kafka deletes it at the retention.", "dead-letters"),
    Alert("VeltrixRetriesWait", 'sum(veltrix_retry_waiting) > 0 and sum(increase(veltrix_retries_total{reason!="waits_behind"}[30m])) > 100', "30m", "ticket",
        "{{ $value }} events wait in retry tiers and more keep coming: a dependency is down.", "reference-data"),
    Alert("VeltrixKeysHeld", "max by (agent, partition) (veltrix_held_oldest_seconds) > 3600", "10m", "ticket",
        "Events of {{ $labels.agent }}-{{ $labels.partition }} have waited for {{ $value | humanizeDuration }} behind a failed event of their key.", "dead-letters"),
    Alert("VeltrixLedgerResidue", "max by (agent, partition) (veltrix_ledger_residue) != 0", "0m", "page",
        "{{ $labels.agent }}-{{ $labels.partition }}: {{ $value }} events were consumed and have no outcome. This must never happen.", "ledger-residue"),
    Alert("VeltrixRecoveryLong", "min_over_time(veltrix_recovery_active[10m]) == 1", "0m", "ticket",
        "Worker {{ $labels.instance }} has been restoring its tables for 10 minutes.", "recovery"),
    Alert("VeltrixStandbyBehind", "min_over_time(veltrix_standby_lag_records[10m]) > 100000", "0m", "ticket",
        "The warm copy of {{ $labels.agent }}-{{ $labels.partition }} is {{ $value }} records behind: a fail-over restores them first.", "recovery"),
    Alert("VeltrixRebalances", "increase(veltrix_rebalances_total[1h]) > 10", "0m", "ticket",
        "Worker {{ $labels.instance }} went through {{ $value | humanize }} rebalances in an hour.", "rebalances"),
    Alert("VeltrixFreezes", "veltrix_fence_longest_pause_seconds > 0.5 * veltrix_fence_limit_seconds", "0m", "ticket",
        "Worker {{ $labels.instance }} stood still for {{ $value | humanizeDuration }} while it owned partitions.", "self-fenced"),
    Alert("VeltrixLoopBlocked", "histogram_quantile(0.99, sum by (instance, le) (rate(veltrix_loop_lag_seconds_bucket[10m]))) > 0.25", "10m", "ticket",
        "The event loop of {{ $labels.instance }} is late by {{ $value | humanizeDuration }} (p99): something blocks it, or it lacks CPU.", "lag"),
    Alert("VeltrixRedisDown", 'sum by (instance) (veltrix_redis_lanes{state="down"}) > 0', "2m", "ticket",
        "Redis does not take the lookups of {{ $labels.instance }}. The stream goes on; lookups come from the tables of that worker.", "redis"),
    Alert("VeltrixReferenceDown", "veltrix_reference_degraded == 1", "2m", "ticket",
        "The reference database, or its Redis, does not answer {{ $labels.instance }}.", "reference-data"),
    Alert("VeltrixCacheMisses",
        'sum(rate(veltrix_reference_answers_total{answer=~"process|redis"}[10m])) / sum(rate(veltrix_reference_answers_total[10m])) < 0.9'
        " and sum(rate(veltrix_reference_answers_total[10m])) > 10", "10m", "ticket",
        "Only {{ $value | humanizePercentage }} of the reference data comes from the caches: the database carries the rest.", "reference-data"),
    Alert("VeltrixHotPartition",
        "max by (source) (sum by (source, partition) (deriv(veltrix_consumer_lag[10m]))) > 10"
        " and min by (source) (sum by (source, partition) (veltrix_consumer_lag)) < 100", "10m", "ticket",
        "One partition of {{ $labels.source }} falls behind by {{ $value | humanize }} records a second while another keeps up: a hot key?", "hot-partition"),
    Alert("VeltrixDiskFills", "predict_linear(veltrix_data_disk_free_bytes[1h], 4 * 3600) < 0 and veltrix_data_disk_free_bytes / veltrix_data_disk_size_bytes < 0.5", "10m", "page",
        "The disk of {{ $labels.instance }} will be full within 4 hours.", "disk-full"),
    Alert("VeltrixDiskNearlyFull", "veltrix_data_disk_free_bytes / veltrix_data_disk_size_bytes < 0.1", "5m", "ticket",
        "{{ $value | humanizePercentage }} of the disk of {{ $labels.instance }} is free.", "disk-full"),
)
# fmt: on


def burn_alerts(slo: Slo) -> Iterator[Alert]:
    """Two alerts an objective: one that pages, one that writes a ticket."""
    for objective in slo.objective:
        for severity, suffix in (("page", "Fast"), ("ticket", "Slowly")):
            name = "".join(part.title() for part in objective.name.split("_"))
            yield Alert(
                f"VeltrixBudget{name}Burns{suffix}",
                _burns(objective, severity),
                "2m" if severity == "page" else "15m",
                "page" if severity == "page" else "ticket",
                f"{{{{ $value | humanizePercentage }}}} of events miss the objective: {objective.sentence}.",
                "slo-burn",
            )


def _burns(objective: Objective, severity: str) -> str:
    return " or ".join(
        f"({objective.recorded(rate.long)} > {rate.times:g} * {objective.budget:g}"
        f" and {objective.recorded(rate.short)} > {rate.times:g} * {objective.budget:g})"
        for rate in BURN_RATES
        if rate.severity == severity
    )
