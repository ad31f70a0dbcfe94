"""What the dashboards show: every panel, its queries, and what to do when it moves. ``dashboards.py`` draws them.

``needs`` names a part that a deployment may not have (enrichment, standbys, `veltrix admin`): the panel is empty without it.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final, Literal

from deploy.observability.slo import Objective, Slo

Needs = Literal["", "enrichment", "standby", "admin", "lookups asked", "dead letters", "retries"]


@dataclass(frozen=True, slots=True)
class Query:
    """PromQL, and Grafana's legend with ``{{labels}}``."""

    expr: str
    legend: str = ""


@dataclass(frozen=True, slots=True)
class Panel:
    """One panel. ``unit``: Grafana's name of it. ``stat``: one number instead of a graph; ``limits``: where it turns amber and red."""

    title: str
    action: str
    unit: str
    queries: tuple[Query, ...]
    stat: bool = False
    limits: tuple[float, float] | None = None
    needs: Needs = ""


@dataclass(frozen=True, slots=True)
class Board:
    """One dashboard."""

    uid: str
    title: str
    description: str
    rows: dict[str, tuple[Panel, ...]] = field(default_factory=dict)


#: Not the recorded series: exemplars belong to the histogram.
_P99_BY_STAGE: Final = (
    'histogram_quantile(0.99, sum by (stage, le) (rate(veltrix_event_latency_seconds_bucket{source="interactions"}[5m])))'
)


def _graph(title: str, action: str, unit: str, *queries: tuple[str, str], needs: Needs = "") -> Panel:
    return Panel(title, action, unit, tuple(Query(*query) for query in queries), needs=needs)


def _stat(title: str, action: str, unit: str, expr: str, limits: tuple[float, float] | None = None) -> Panel:
    return Panel(title, action, unit, (Query(expr),), stat=True, limits=limits)


def _budget(objective: Objective) -> Panel:
    return _graph(
        f"Burn rate: {objective.name.replace('_', ' ')}",
        f"{objective.sentence}. 1 spends the budget exactly; 14.4 for an hour pages. Runbook slo-burn.", "none",
        *[(f"{objective.recorded(window)} / {objective.budget:g}", window) for window in ("5m", "1h", "6h")],
    )  # fmt: skip


_PER_INSTANCE: Final = "{{instance}}"
_LANE: Final = "{{agent}}-{{partition}}"


# fmt: off
def overview(slo: Slo) -> Board:
    """The one to open first."""
    return Board("veltrix-overview", "Veltrix / Overview", "Is it well, and if not, where to look: rate, errors, duration, and the objectives.", {
        "Now": (
            _stat("Events a second", "Far below usual: is the source quiet (fetched), or do workers stand still (lag)?", "cps", 'sum(veltrix:events_consumed:rate1m{source="interactions"})'),
            _stat("Results are old by", "Runbook lag.", "s", "max(veltrix_consumer_lag_seconds)", (10, 60)),
            _stat("p99, timestamp to visible", "Runbook lag: which stage rises first?", "s", 'veltrix:event_latency_seconds:p99_5m{source="interactions",stage="visible"}', (0.1, 1)),
            _stat("Dead letters a second", "Runbook dead-letters.", "cps", "sum(rate(veltrix_dead_letters_total[5m])) or vector(0)", (1, 10)),
            _stat("Workers ready", "Fewer than you run: /readyz of the others, runbook recovery.", "none", "sum(veltrix_ready)"),
            _stat("Events without an outcome", "Anything but 0: runbook ledger-residue.", "none", "max(veltrix_ledger_residue)", (0.5, 1)),
        ),
        "Objectives": tuple(_budget(objective) for objective in slo.objective),
        "Rate, errors, duration": (
            _graph("Events by outcome", "dead_lettered or retried rise: dashboard Dead letters.", "cps", ("sum by (outcome) (rate(veltrix_events_total[1m]))", "{{outcome}}")),
            _graph("Latency by stage, p99", "The first stage that rises is the slow one. A dot is an event with a trace: click it. Runbook lag.", "s", (_P99_BY_STAGE, "{{stage}}")),
            _graph("Waiting in Kafka", "All partitions: more workers. One: runbook hot-partition.", "short", ("sum by (source) (veltrix_consumer_lag)", "{{source}}")),
            _graph("Firing alerts", "Each one's annotation names its runbook.", "none", ('count by (alertname) (ALERTS{alertstate="firing"}) or vector(0)', "{{alertname}}")),
        ),
    })


PIPELINE: Final = Board("veltrix-pipeline", "Veltrix / Pipeline", "Partitions, stages, phases: where time and events go.", {
    "Partitions": (
        _graph("Events by partition", "One far above the others: runbook hot-partition.", "cps", ('sum by (partition) (rate(veltrix_ledger_consumed_total{agent="process_interactions"}[1m]))', "{{partition}}")),
        _graph("Lag by partition", "One grows: hot-partition. All grow: more workers.", "short", ("sum by (source, partition) (veltrix_consumer_lag)", "{{source}}-{{partition}}")),
        _graph("Stands still", "Above 60 s pages: runbook partition-stalled.", "s", ("max by (source, partition) (veltrix_partition_stalled_seconds)", "{{source}}-{{partition}}")),
        _graph("Held back", "1 for long: breaker open (runbook breaker-open), or back-pressure.", "none", ("max by (agent, partition) (veltrix_lane_paused)", _LANE), ("max by (agent, partition) (veltrix_breaker_open)", _LANE + " breaker")),
    ),
    "Stages": (
        _graph("Median by stage", "As the p99 on Overview; a median that rises is load, a p99 alone is pauses.", "s", ('veltrix:event_latency_seconds:p50_5m{source="interactions"}', "{{stage}}")),
        _graph("Seconds by phase", "outputs or changelog: the broker. compute: the agent. store: the disk.", "percentunit", ("sum by (phase) (rate(veltrix_loop_seconds_total[1m]))", "{{phase}}")),
        _graph("Compute by step", "enrich: reference data. decode: larger events. state: more keys an event.", "percentunit", ("sum by (agent, step) (rate(veltrix_compute_seconds_total[1m]))", "{{agent}} {{step}}")),
        _graph("Outputs by topic", "Flat while events come: duplicates or dead letters.", "cps", ("sum by (topic) (rate(veltrix_outputs_total[1m]))", "{{topic}}")),
    ),
    "Batches": (
        _graph("Records a batch, median", "Near 1 under lag: VELTRIX_FETCH_MAX_PARTITION_BYTES is too small.", "short", ("histogram_quantile(0.5, sum by (le) (rate(veltrix_batch_records_bucket[5m])))", "p50"), ("histogram_quantile(0.99, sum by (le) (rate(veltrix_batch_records_bucket[5m])))", "p99")),
        _graph("In flight and queued", "In flight always at VELTRIX_UNIT_DEPTH: acknowledgements are the limit.", "short", ("sum(veltrix_units_in_flight)", "batches in flight"), ("sum(veltrix_queued_records)", "records queued")),
    ),
})

STATE: Final = Board("veltrix-state", "Veltrix / State and recovery", "Tables, changelogs, restores, rebalances, disks.", {
    "Tables": (
        _graph("Keys", "A jump: a key that should not be one.", "short", ("sum by (agent) (veltrix_state_keys)", "{{agent}}")),
        _graph("Waiting for event time", "Grows without end: the watermark stands still (VELTRIX_WATERMARK_IDLE_MS).", "short", ("sum by (view) (veltrix_waiting_keys)", "{{view}}")),
        _graph("Changelog", "More than 3 records an event: keys are not folded per batch.", "cps", ("sum(rate(veltrix_changelog_records_total[1m]))", "records")),
        _graph("Disk free", "Runbook disk-full.", "percentunit", ("veltrix_data_disk_free_bytes / veltrix_data_disk_size_bytes", _PER_INSTANCE)),
    ),
    "Recovery": (
        _graph("Still to restore", "Not falling: runbook recovery.", "short", ("veltrix_recovery_remaining_records", _PER_INSTANCE)),
        _graph("Restored", "A jump after each restart: the data directory is lost.", "cps", ("rate(veltrix_recovery_restored_records_total[1m])", _PER_INSTANCE)),
        _graph("Rebalances", "More than one a worker that comes or goes: runbook rebalances.", "none", ("increase(veltrix_rebalances_total[10m])", _PER_INSTANCE)),
        _graph("Standbys behind", "Growing: their worker is too busy to follow.", "short", ("max by (agent, partition) (veltrix_standby_lag_records)", _LANE), needs="standby"),
    ),
})

SERVICES: Final = Board("veltrix-services", "Veltrix / Kafka, Redis, database", "What Veltrix stands on.", {
    "Kafka": (
        _graph("Offset commits", "failed: harmless unless it stays; runbook kafka-unreachable.", "cps", ("sum by (outcome) (rate(veltrix_commits_total[1m]))", "{{outcome}}")),
        _graph("Commit duration, p99", "Rising: the coordinator's broker is slow.", "s", ("histogram_quantile(0.99, sum by (le) (rate(veltrix_commit_duration_seconds_bucket[5m])))", "p99")),
        _graph("Broker does not answer", "Anything: runbook kafka-unreachable.", "none", ("increase(veltrix_end_offset_query_failures_total[5m])", _PER_INSTANCE)),
    ),
    "Redis": (
        _graph("Lanes by state", "down, or long rebuilding: runbook redis.", "none", ("sum by (state) (veltrix_redis_lanes)", "{{state}}")),
        _graph("Behind the tables", "Growing: Redis is slower than the stream.", "short", ("sum(veltrix_redis_behind_records)", "records")),
        _graph("Lookups by answer", "redis_down or not_covered: runbook redis.", "cps", ("sum by (answer) (rate(veltrix_lookups_read_total[1m]))", "{{answer}}"), needs="lookups asked"),
    ),
    "Reference data": (
        _graph("Answers", "unavailable, stale_on_error: runbook reference-data.", "cps", ("sum by (answer) (rate(veltrix_reference_answers_total[1m]))", "{{answer}}"), needs="enrichment"),
        _graph("Work of the cache", "failed_query: the database. shed_key: the load budget.", "cps", ("sum by (event) (rate(veltrix_reference_loads_total[1m]))", "{{event}}"), needs="enrichment"),
        _graph("Rows in memory", "At VELTRIX_REFERENCE_CACHED_ROWS: raise it.", "short", ("sum by (table) (veltrix_reference_cached_rows)", "{{table}}"), needs="enrichment"),
    ),
})

DEAD_LETTERS: Final = Board("veltrix-dead-letters", "Veltrix / Dead letters", "What failed, why, and what waits to be tried again.", {
    "Failures": (
        _graph("By reason", "A new reason usually is a new producer release: `veltrix dlq groups`.", "cps", ("sum by (stage, reason) (rate(veltrix_dead_letters_total[5m]))", "{{stage}} {{reason}}"), needs="dead letters"),
        _graph("Share of events", "Above 0.1 % the objective is missed.", "percentunit", ('sum(rate(veltrix_events_total{source="interactions",outcome="dead_lettered"}[5m])) / sum(rate(veltrix_events_consumed_total{source="interactions"}[5m]))', "dead lettered")),
        _graph("On their way to Kafka for", "Above a second or two: runbook dead-letter-writes.", "s", ("max by (agent, partition) (veltrix_dead_letter_write_wait_seconds)", _LANE)),
        _graph("Breakers opened", "Any: runbook breaker-open.", "none", ("sum by (agent) (increase(veltrix_breaker_openings_total[10m]))", "{{agent}}")),
    ),
    "Retries": (
        _graph("Sent to a tier", "That dependency is down or slow.", "cps", ("sum by (stage, reason) (rate(veltrix_retries_total[5m]))", "{{stage}} {{reason}}"), needs="retries"),
        _graph("Waiting", "Not shrinking after the dependency is back: /api/v1/lanes.", "short", ("sum by (tier) (veltrix_retry_waiting)", "{{tier}}")),
        _graph("Waiting behind a failed event of their key", "/api/v1/held-keys names those events: replay or discard them.", "short", ("sum by (agent) (veltrix_held_events)", "{{agent}} events"), ("sum by (agent) (veltrix_held_keys)", "{{agent}} keys")),
    ),
    "Index": (
        _graph("Letters by what was done about them", "pending grows: `veltrix dlq groups` says which bug.", "short", ("sum by (queue, status) (veltrix_dead_letter_queue_records)", "{{queue}} {{status}}"), needs="admin"),
        _graph("Oldest that nobody dealt with", "Near the retention Kafka deletes it. Runbook dead-letters.", "s", ("max by (queue) (veltrix_dead_letter_oldest_pending_seconds)", "{{queue}}"), needs="admin"),
        _graph("Not indexed yet", "Lists and counts of `veltrix admin` are that much behind.", "short", ("veltrix_dead_letter_index_lag", _PER_INSTANCE), needs="admin"),
        _graph("Connected", "0: /readyz of `veltrix admin` says why.", "none", ("veltrix_dead_letter_index_connected", _PER_INSTANCE), needs="admin"),
    ),
})

RUNTIME: Final = Board("veltrix-runtime", "Veltrix / Python runtime", "CPU, memory, event loop, garbage collector.", {
    "Process": (
        _graph("CPU", "Near 1: the worker is full, add one.", "percentunit", ("rate(process_cpu_seconds_total[1m])", _PER_INSTANCE)),
        _graph("Memory", "Grows without end: open an issue with the table sizes.", "bytes", ("process_resident_memory_bytes", _PER_INSTANCE)),
        _graph("Open files", "Near the limit: raise it (RocksDB keeps files open).", "short", ("process_open_fds / process_max_fds", _PER_INSTANCE)),
        _graph("Restarts", "Any: runbook crash-loop.", "none", ('changes(process_start_time_seconds{job="veltrix-worker"}[10m])', _PER_INSTANCE)),
    ),
    "Event loop": (
        _graph("Late by, p99", "Above 0.1 s: something blocks it, `py-spy dump`.", "s", ("histogram_quantile(0.99, sum by (instance, le) (rate(veltrix_loop_lag_seconds_bucket[5m])))", _PER_INSTANCE)),
        _graph("Longest pause", "Near the limit the worker ends itself: runbook self-fenced.", "s", ("veltrix_fence_longest_pause_seconds", _PER_INSTANCE), ("min(veltrix_fence_limit_seconds)", "limit")),
        _graph("Collections", "Generation 2 often: something makes cycles.", "cps", ("sum by (generation) (rate(python_gc_collections_total[5m]))", "{{generation}}")),
    ),
})
# fmt: on


def boards(slo: Slo) -> tuple[Board, ...]:
    """All dashboards."""
    return (overview(slo), PIPELINE, STATE, SERVICES, DEAD_LETTERS, RUNTIME)
