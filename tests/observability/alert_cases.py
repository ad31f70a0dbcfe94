"""For each alert: series under which it must fire, and near ones under which it must not. promtool's notation, one value a minute."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

W: Final = 'job="veltrix-worker",instance="w1"'


@dataclass(frozen=True, slots=True)
class Case:
    """``fires`` and ``silent``: series by values, one each ``step`` minutes. Looked at after ``at`` minutes."""

    fires: dict[str, str]
    silent: dict[str, str]
    at: int = 15
    step: int = 1


def _gauge(name: str, fires: str, silent: str, labels: str = W, at: int = 15) -> Case:
    series = f"{name}{{{labels}}}"
    return Case({series: fires}, {series: silent}, at)


def _latency(good_per_minute: int, all_per_minute: int, minutes: int) -> dict[str, str]:
    of = f'source="interactions",stage="visible",{W}'
    return {
        f'veltrix_event_latency_seconds_bucket{{{of},le="0.1"}}': f"0+{good_per_minute}x{minutes}",
        f"veltrix_event_latency_seconds_count{{{of}}}": f"0+{all_per_minute}x{minutes}",
    }


def _dead(dead_per_minute: int, all_per_minute: int, minutes: int) -> dict[str, str]:
    return {
        f'veltrix_events_total{{source="interactions",outcome="dead_lettered",{W}}}': f"0+{dead_per_minute}x{minutes}",
        f'veltrix_events_consumed_total{{source="interactions",{W}}}': f"0+{all_per_minute}x{minutes}",
    }


def _cache(hits: int, misses: int) -> dict[str, str]:
    return {
        f'veltrix_reference_answers_total{{answer="process",{W}}}': f"0+{hits}x40",
        f'veltrix_reference_answers_total{{answer="database",{W}}}': f"0+{misses}x40",
    }


def _lags(first: str, second: str) -> dict[str, str]:
    both = (first, second)
    return {f'veltrix_consumer_lag{{source="interactions",partition="{n}",{W}}}': values for n, values in enumerate(both)}


def _disk(free: str) -> dict[str, str]:
    return {f"veltrix_data_disk_free_bytes{{{W}}}": free, f"veltrix_data_disk_size_bytes{{{W}}}": "1000x90"}


LANE: Final = f'agent="process_interactions",partition="3",{W}'
SOURCE: Final = f'source="interactions",partition="3",{W}'
DAY: Final = 1440

CASES: Final[dict[str, Case]] = {
    # 20 % too slow is 20 times the budget; 1 % is what the objective allows.
    "VeltrixBudgetLatencyBurnsFast": Case(_latency(800, 1000, 90), _latency(990, 1000, 90), 80),
    "VeltrixBudgetLatencyBurnsSlowly": Case(_latency(960, 1000, 2 * DAY // 5), _latency(995, 1000, 2 * DAY // 5), DAY + 60, step=5),
    "VeltrixBudgetDeadLettersBurnsFast": Case(_dead(20, 1000, 90), _dead(1, 1000, 90), 80),
    "VeltrixBudgetDeadLettersBurnsSlowly": Case(_dead(4, 1000, 2 * DAY // 5), _dead(0, 1000, 2 * DAY // 5), DAY + 60, step=5),
    "VeltrixWorkerDown": _gauge("up", "1x4 0x20", "1x4 0x0 1x20"),
    "VeltrixWorkerRestarts": _gauge("process_start_time_seconds", "100x3 200x3 300x3 400x20", "100x5 200x30"),
    "VeltrixNotReady": _gauge("veltrix_ready", "0x20", "0x8 1x20"),
    "VeltrixConsumerStalled": _gauge("veltrix_partition_stalled_seconds", "0 30 90x20", "0x10 30 0x20", SOURCE),
    "VeltrixResultsLate": _gauge("veltrix_consumer_lag_seconds", "100x20", "100x3 0x20", SOURCE),
    "VeltrixLagGrows": _gauge("veltrix_consumer_lag", "20000+500x40", "40000-500x40", SOURCE, at=30),
    "VeltrixKafkaUnreachable": _gauge("veltrix_end_offset_query_failures_total", "0+2x20", "0x5 1x20"),
    "VeltrixCommitsFail": _gauge("veltrix_commits_total", "0+3x20", "0x5 1x20", f'outcome="failed",{W}'),
    "VeltrixBreakerOpen": _gauge("veltrix_breaker_open", "0x10 1x10", "0x20", LANE),
    "VeltrixDeadLettersRefused": _gauge(  # looked at after 900 seconds of a clock that begins at 0
        "veltrix_last_end_timestamp_seconds", "300x20", "-100x20", f'cause="dead_letters",{W}'
    ),
    "VeltrixDeadLettersNotWritten": _gauge("veltrix_dead_letter_write_wait_seconds", "0x10 30x10", "0x10 8x10", LANE),
    "VeltrixDeadLetterRate": _gauge(
        "veltrix_dead_letters_total", "0x60 0+600x30", "0+60x120", f'stage="decode",reason="invalid_json",{W}', at=66
    ),
    "VeltrixDeadLetterIndexBehind": _gauge(
        "veltrix_dead_letter_index_lag", "60000x30", "60000x5 10x30", 'job="veltrix-admin"', at=20
    ),
    "VeltrixDeadLettersExpire": Case(
        {
            'veltrix_dead_letter_oldest_pending_seconds{queue="dlq.veltrix.interactions",job="veltrix-admin"}': "1400000+60x90",
            'veltrix_dead_letter_retention_seconds{job="veltrix-admin"}': "2592000x90",
        },
        {
            'veltrix_dead_letter_oldest_pending_seconds{queue="dlq.veltrix.interactions",job="veltrix-admin"}': "1000000+60x90",
            'veltrix_dead_letter_retention_seconds{job="veltrix-admin"}': "2592000x90",
        },
        at=80,
    ),
    "VeltrixRetriesWait": Case(
        {
            f'veltrix_retry_waiting{{tier="t",partition="0",{W}}}': "50x120",
            f'veltrix_retries_total{{stage="enrich",{W}}}': "0+10x120",
        },
        {
            f'veltrix_retry_waiting{{tier="t",partition="0",{W}}}': "50x120",
            f'veltrix_retries_total{{stage="enrich",{W}}}': "50x120",
            f'veltrix_retries_total{{stage="aggregate",reason="waits_behind",{W}}}': "0+10x120",
        },
        at=70,
    ),
    "VeltrixKeysHeld": _gauge("veltrix_held_oldest_seconds", "4000+60x30", "0+60x30", LANE),
    "VeltrixLedgerResidue": _gauge("veltrix_ledger_residue", "0x10 1x10", "0x20", LANE),
    "VeltrixRecoveryLong": _gauge("veltrix_recovery_active", "1x20", "1x8 0x20"),
    "VeltrixStandbyBehind": _gauge("veltrix_standby_lag_records", "200000x20", "200000x8 100x20", LANE),
    "VeltrixRebalances": _gauge("veltrix_rebalances_total", "0+1x60", "0x30 3x60", at=55),
    "VeltrixFreezes": Case(
        {f"veltrix_fence_longest_pause_seconds{{{W}}}": "5x20", f"veltrix_fence_limit_seconds{{{W}}}": "7x20"},
        {f"veltrix_fence_longest_pause_seconds{{{W}}}": "1x20", f"veltrix_fence_limit_seconds{{{W}}}": "7x20"},
    ),
    "VeltrixLoopBlocked": Case(
        {
            f'veltrix_loop_lag_seconds_bucket{{le="0.25",{W}}}': "0+10x40",
            f'veltrix_loop_lag_seconds_bucket{{le="0.5",{W}}}': "0+20x40",
            f'veltrix_loop_lag_seconds_bucket{{le="+Inf",{W}}}': "0+20x40",
        },
        {
            f'veltrix_loop_lag_seconds_bucket{{le="0.01",{W}}}': "0+600x40",
            f'veltrix_loop_lag_seconds_bucket{{le="0.5",{W}}}': "0+600x40",
            f'veltrix_loop_lag_seconds_bucket{{le="+Inf",{W}}}': "0+600x40",
        },
        at=30,
    ),
    "VeltrixRedisDown": _gauge("veltrix_redis_lanes", "4x20", "0x20", f'state="down",{W}'),
    "VeltrixReferenceDown": _gauge("veltrix_reference_degraded", "1x20", "0x5 1x0 0x20"),
    "VeltrixCacheMisses": Case(_cache(600, 600), _cache(1190, 10), at=30),
    "VeltrixHotPartition": Case(_lags("0+6000x40", "10x40"), _lags("0+6000x40", "0+6000x40"), at=30),
    "VeltrixDiskFills": Case(_disk("490-5x90"), _disk("490x90"), at=80),
    "VeltrixDiskNearlyFull": Case(_disk("50x90"), _disk("200x90"), at=80),
}
