"""The one metrics catalogue: every metric of Veltrix, what it means and what to do when it moves.

Nothing here is written per event or even per unit. The parts of the process keep plain numbers; a ``Source``
turns them into readings when ``/metrics`` is scraped, and ``app.telemetry.exposition`` puts the declared name, kind, labels
and help around them. Labels are bounded: topics, partitions, agents and named reasons; never a key or a text.
"""

from __future__ import annotations

from app.telemetry.metric import Metric

#: 1 ms to 60 s: the goal is p99 below 60 ms, a drain or an outage shows in the upper half.
LATENCY_BUCKETS = (
    0.001, 0.002, 0.003, 0.005, 0.0075, 0.01, 0.015, 0.02, 0.03, 0.05, 0.075, 0.1, 0.15, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0,
)  # fmt: skip
RECORD_BUCKETS = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000)
BYTE_BUCKETS = tuple(1024 * 4**power for power in range(7))
LAG_BUCKETS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0)

# One shape for all: name, kind, meaning, action, then labels, unit, bounds.
# fmt: off
EVENTS = Metric(
    "veltrix_events_total", "counter", "Source records by their one outcome: emitted, duplicate, dead_lettered, retried, dropped.",
    "More dead_lettered: see veltrix_dead_letters_total for the reason.", ("source", "outcome"),
)
CONSUMED = Metric(
    "veltrix_events_consumed_total", "counter", "Source records that became durable with all their effects.",
    "Flat while veltrix_consumer_lag grows: read /readyz and /api/v1/lanes.", ("source",),
)
LATENCY = Metric(
    "veltrix_event_latency_seconds", "histogram",
    "From the record's timestamp to each stage: fetched from Kafka, taken into a micro-batch, decoded, enriched (reference data), computed (state), produced (outputs with the Kafka client), visible (acknowledged; committed), durable (state stored).",
    "The first stage that rises is the slow one. fetched: Kafka, or lag (add workers). taken: this worker is busy. enriched: reference data. computed: the agent. visible: the broker.", ("source", "stage"), "seconds", LATENCY_BUCKETS,
)
OUTPUTS = Metric(
    "veltrix_outputs_total", "counter", "Records published, by topic; dead letters and retries have counters of their own.",
    "Flat while veltrix_events_consumed_total rises: all are duplicates or dead letters, see veltrix_events_total.", ("agent", "topic"),
)
LATE_EVENTS = Metric(
    "veltrix_late_events_total", "counter", "Events that a session or window leaves out because they came too late; all else of them counts.",
    "Rising: raise VELTRIX_WATERMARK_DELAY_MS (waits longer) or VELTRIX_ALLOWED_LATENESS_MS (corrects results).", ("result",),
)
BATCH_RECORDS = Metric(
    "veltrix_batch_records", "histogram", "Records per micro-batch.",
    "Near 1 under lag: VELTRIX_FETCH_MAX_PARTITION_BYTES is too small. At the limit: the worker is draining.", (), "records", RECORD_BUCKETS,
)
BATCH_BYTES = Metric(
    "veltrix_batch_bytes", "histogram", "Source bytes per micro-batch.",
    "Always at VELTRIX_UNIT_MAX_BYTES: events are large, consider raising it.", (), "bytes", BYTE_BUCKETS,
)
LOOP_SECONDS = Metric(
    "veltrix_loop_seconds_total", "counter", "Wall seconds of units per phase: compute, outputs, changelog, store.",
    "outputs or changelog grow: the broker is slow. compute grows: profile the agent.", ("phase",), "seconds",
)
COMPUTE_SECONDS = Metric(
    "veltrix_compute_seconds_total", "counter", "Wall seconds within compute, by what the agent's body does: decode, enrich (reference data), state.",
    "enrich grows: the reference database or its cache. decode: larger events. state: more keys per event.", ("agent", "step"), "seconds",
)
CONSUMER_LAG = Metric(
    "veltrix_consumer_lag", "gauge", "Records in the source partition that are not yet applied.",
    "Growing on all partitions: add workers. On one: a hot key or a stuck lane.", ("source", "partition"),
)
LAG_SECONDS = Metric(
    "veltrix_consumer_lag_seconds", "gauge", "Age of the newest applied record while others wait behind it: how old the results are; 0 without lag.",
    "What users see as delay. Growing: as veltrix_consumer_lag.", ("source", "partition"), "seconds",
)
COMMIT_AGE = Metric(
    "veltrix_commit_age_seconds", "gauge", "Seconds since the partition's offset was last committed.",
    "Far above VELTRIX_COMMIT_INTERVAL_MS with lag: the broker refuses commits, see veltrix_commits_total.", ("source", "partition"), "seconds",
)
COMMITS = Metric(
    "veltrix_commits_total", "counter", "Offset commits by outcome: ok, failed.",
    "Failed commits are harmless (the marker rules) but hint at an overloaded broker or a rebalance.", ("outcome",),
)
COMMIT_SECONDS = Metric(
    "veltrix_commit_duration_seconds", "histogram", "How long an offset commit took.",
    "Rising: the group coordinator's broker is slow.", (), "seconds", LATENCY_BUCKETS,
)
CHANGELOG_RECORDS = Metric(
    "veltrix_changelog_records_total", "counter", "Changelog records written, markers included.",
    "Per event it should be at most 3: more means keys are not folded per batch.", (), "records",
)
CHANGELOG_BYTES = Metric(
    "veltrix_changelog_bytes_total", "counter", "Changelog bytes written before compression.",
    "Above 300 bytes per event: some state value grows without bound.", (), "bytes",
)
STATE_KEYS = Metric(
    "veltrix_state_keys", "gauge", "Keys in the partition, at most: RocksDB counts a rewritten one again until it has merged its files.",
    "Grows with users and with what is not merged yet, which falls back; a jump that stays points at a key that should not be one.", ("agent", "partition"),
)
WAITING_KEYS = Metric(
    "veltrix_waiting_keys", "gauge", "Keys of a view that wait for event time to close something: open sessions, open windows.",
    "Grows without end: the watermark stands still, as with VELTRIX_WATERMARK_IDLE_MS 0 and a source partition without events.", ("agent", "partition", "view"),
)
QUEUED_RECORDS = Metric(
    "veltrix_queued_records", "gauge", "Records fetched and waiting in the lane.",
    "At VELTRIX_LANE_HIGH_WATER: the lane is paused, back-pressure works.", ("agent", "partition"), "records",
)
UNITS_IN_FLIGHT = Metric(
    "veltrix_units_in_flight", "gauge", "Micro-batches between fetch and durable.",
    "At VELTRIX_UNIT_DEPTH all the time: acknowledgements are the limit, not compute.", ("agent", "partition"),
)
LANES_PAUSED = Metric(
    "veltrix_lane_paused", "gauge", "1 while the lane takes no records from Kafka.",
    "Long 1 without veltrix_breaker_open: see veltrix_partition_stalled_seconds and the log of that partition.", ("agent", "partition"),
)
LEDGER_RESIDUE = Metric(
    "veltrix_ledger_residue", "gauge", "Consumed records without an outcome, since the first record ever. Always 0.",
    "Anything else is a lost event: stop, keep the data directory, open an issue.", ("agent", "partition"),
)
LEDGER_CONSUMED = Metric(
    "veltrix_ledger_consumed_total", "counter", "Source records that the lane has consumed, since its first record ever.",
    "Equals the sum of veltrix_ledger_outcomes_total; see veltrix_ledger_residue.", ("agent", "partition"),
)
LEDGER_OUTCOMES = Metric(
    "veltrix_ledger_outcomes_total", "counter",
    "Consumed records by their one outcome, since the lane's first record ever: emitted, duplicate, dead_lettered, retried, dropped.",
    "It moves with the lane from worker to worker: take the maximum over workers, not the sum.", ("agent", "partition", "outcome"),
)
BREAKER_OPEN = Metric(
    "veltrix_breaker_open", "gauge", "1 while the lane's breaker is open or tries a few records: most of its events became dead letters.",
    "Page. Read the reasons in veltrix_dead_letters_total; mend the source or the agent; runbook breaker-open.", ("agent", "partition"),
)
BREAKER_OPENINGS = Metric(
    "veltrix_breaker_openings_total", "counter", "How often the lane's breaker opened since this process started.",
    "Rising while open: each probe fails, the cause is still there.", ("agent", "partition"),
)
STALLED_SECONDS = Metric(
    "veltrix_partition_stalled_seconds", "gauge", "For how long a partition with work has not moved; 0 while it moves or waits by design.",
    "At VELTRIX_STALL_TIMEOUT_MS /livez fails: runbook partition-stalled.", ("source", "partition"), "seconds",
)
END_QUERY_FAILURES = Metric(
    "veltrix_end_offset_query_failures_total", "counter", "Times no broker told the watchdog where the partitions end.",
    "Rising: Kafka is not reachable from here. Stalls are not counted meanwhile.",
)
FENCE_LONGEST = Metric(
    "veltrix_fence_longest_pause_seconds", "gauge", "Longest time this process stood still while it owned partitions.",
    "Near veltrix_fence_limit_seconds: the host freezes it or something blocks the loop; runbook self-fenced.", (), "seconds",
)
FENCE_LIMIT = Metric(
    "veltrix_fence_limit_seconds", "gauge", "Pause after which this process ends itself, with exit code 70.",
    "VELTRIX_KAFKA_SESSION_TIMEOUT_MS less one heartbeat.", (), "seconds",
)
DEAD_LETTERS = Metric(
    "veltrix_dead_letters_total", "counter", "Dead letters by stage and named reason.",
    "Find samples with GET /api/v1/dlq/records?reason=... ; a new reason usually is a new producer release.", ("stage", "reason"),
)
DEAD_LETTERS_WAIT = Metric(
    "veltrix_dead_letter_write_wait_seconds", "gauge", "For how long dead letters or retries have been on their way to Kafka, acknowledged by no broker.",
    "Above a second or two: the broker does not take them, and this partition stands still until it does; runbook dead-letter-writes.", ("agent", "partition"), "seconds",
)
LAST_END = Metric(
    "veltrix_last_end_timestamp_seconds", "gauge",
    "When the last process on this data directory ended itself rather than break a promise, by what Kafka would not take: dead_letters, outputs, changelog, or other.",
    "Recent: its last log line says why. dead_letters: runbook dead-letter-writes; else crash-loop.", ("cause",), "seconds",
)
RETRIES = Metric(
    "veltrix_retries_total", "counter", "Records sent to a retry tier because something did not answer, by stage and named reason.",
    "Rising: that dependency is down or slow; events come through later, see veltrix_retry_waiting.", ("stage", "reason"),
)
RETRY_WAITING = Metric(
    "veltrix_retry_waiting", "gauge", "Records in a retry tier's partition that have not been tried again.",
    "Grows while a dependency is down. Not shrinking after it is back: read /api/v1/lanes for that topic.", ("tier", "partition"), "",
)
HELD_KEYS = Metric(
    "veltrix_held_keys", "gauge", "Keys of which an event has failed and is not dealt with, so that later ones wait (VELTRIX_KEY_ORDER).",
    "Not shrinking: /api/v1/held-keys names the failed events; replay or discard them, runbook dead-letters.", ("agent", "partition"), "",
)
HELD_EVENTS = Metric(
    "veltrix_held_events", "gauge", "Events that wait behind a failed event of their key.",
    "Grows with the traffic of the held keys; each key keeps VELTRIX_KEY_ORDER_MAX_WAITING, further ones are dead letters (too_many_waiting).", ("agent", "partition"), "",
)
HELD_SECONDS = Metric(
    "veltrix_held_oldest_seconds", "gauge", "For how long the key held longest has been held; absent when none is.",
    "Above an hour: somebody has to deal with the dead letter that it waits for.", ("agent", "partition"), "seconds",
)
INDEX_ADDED = Metric(
    "veltrix_dead_letter_index_added_total", "counter", "Dead letters that `veltrix admin` has indexed since it started.",
    "Rises with veltrix_dead_letters_total; all of Kafka's after the index was lost.",
)
INDEX_LAG = Metric(
    "veltrix_dead_letter_index_lag", "gauge", "Records of dead letter queues and their states that are not in the index yet.",
    "Lists and counts are that much behind. Growing: more than about 5,000 dead letters a second, or a slow disk.",
)
INDEX_CONNECTED = Metric(
    "veltrix_dead_letter_index_connected", "gauge", "1 while `veltrix admin` reads its topics.",
    "0: see its /readyz for why. What is shown is as of then.",
)
QUEUE_LETTERS = Metric(
    "veltrix_dead_letter_queue_records", "gauge", "Dead letters by what was done about them: pending, replayed, discarded and so on.",
    "pending grows: `veltrix dlq groups` says which bug; exhausted: replays that failed too often.", ("queue", "status"), "records",
)
QUEUE_OLDEST = Metric(
    "veltrix_dead_letter_oldest_pending_seconds", "gauge", "Age of the oldest dead letter that nobody has dealt with.",
    "Near veltrix_dead_letter_retention_seconds Kafka deletes it. Replay or discard it.", ("queue",), "seconds",
)
QUEUE_RETENTION = Metric(
    "veltrix_dead_letter_retention_seconds", "gauge", "How long our own queues keep a dead letter (VELTRIX_DLQ_RETENTION_MS).",
    "A change takes effect with `veltrix topics apply`.", (), "seconds",
)
DISK_FREE = Metric(
    "veltrix_data_disk_free_bytes", "gauge", "Bytes free for this worker's tables (VELTRIX_DATA_DIR).",
    "At 0 the worker ends. Make room, or let another worker take over: runbook disk-full.", (), "bytes",
)
DISK_SIZE = Metric(
    "veltrix_data_disk_size_bytes", "gauge", "Bytes of the file system of VELTRIX_DATA_DIR.", "As veltrix_data_disk_free_bytes.", (), "bytes",
)
ASSIGNED = Metric(
    "veltrix_assigned_partitions", "gauge", "Partitions this worker owns.",
    "0 for minutes: more workers than partitions, or the group is rebalancing.",
)
REBALANCES = Metric(
    "veltrix_rebalances_total", "counter", "Completed rebalances seen by this worker.",
    "More than a few an hour: workers restart or miss heartbeats (veltrix_loop_lag_seconds).",
)
REBALANCE_SECONDS = Metric(
    "veltrix_rebalance_seconds_total", "counter", "Seconds spent in rebalances.",
    "Long ones: units drain slowly or recovery is long; consider static membership.", (), "seconds",
)
READY = Metric(
    "veltrix_ready", "gauge", "1 when this worker answers /readyz with 200.", "0 for minutes: /readyz says what it waits for.",
)
PHASE = Metric(
    "veltrix_phase", "gauge", "1 for the phase the engine is in.", "Long in joining or recovering: see /readyz.", ("phase",),
)
RECOVERY_ACTIVE = Metric(
    "veltrix_recovery_active", "gauge", "1 while tables are restored from changelogs.", "Long: see the remaining records and their rate.",
)
RECOVERY_REMAINING = Metric(
    "veltrix_recovery_remaining_records", "gauge", "Changelog records still to restore.",
    "Not falling: the broker does not deliver; /livez fails after VELTRIX_STALL_TIMEOUT_MS.", (), "records",
)
RECOVERY_RESTORED = Metric(
    "veltrix_recovery_restored_records_total", "counter", "Changelog records restored, and followed by standbys.", "A jump after each restart: the data directory is lost.", (), "records",
)
RECOVERY_BYTES = Metric(
    "veltrix_recovery_restored_bytes_total", "counter", "Changelog bytes restored.", "As veltrix_recovery_restored_records_total.", (), "bytes",
)
RECOVERY_RATE = Metric(
    "veltrix_recovery_records_per_second", "gauge", "Speed of the current or last restore.", "Below 50000: slow disk or broker.",
)
STANDBY_LAG = Metric(
    "veltrix_standby_lag_records", "gauge", "Changelog records that the warm copy of another worker's table is behind.",
    "Growing: this worker is too busy to follow; a fail-over to it restores that many records first.", ("agent", "partition"), "records",
)
LOOP_LAG = Metric(
    "veltrix_loop_lag_seconds", "histogram", "How late the event loop runs a timer; every 100 ms.",
    "Above 0.1 often: something blocks the loop, run py-spy dump.", (), "seconds", LAG_BUCKETS,
)
REDIS_WRITES = Metric(
    "veltrix_redis_writes_total", "counter", "Units written through to Redis by live lanes.",
    "Flat while events flow: see veltrix_redis_lanes.",
)
REDIS_KEYS = Metric(
    "veltrix_redis_keys_written_total", "counter", "Keys written or deleted in Redis, by whatever way.",
    "Far above events: a catch-up or a rebuild is running.",
)
REDIS_FAILURES = Metric(
    "veltrix_redis_failures_total", "counter", "Calls to Redis, or to Kafka for a catch-up, that failed or timed out.",
    "Rising: Redis is down, slow or refuses the login. The stream goes on; lookups come from local tables.",
)
REDIS_LOSSES = Metric(
    "veltrix_redis_losses_total", "counter", "Times a live lane lost touch with Redis: gap (Redis holds something else), overflow (queue full).",
    "overflow: Redis is slower than the stream, raise VELTRIX_REDIS_QUEUE_UNITS. gap: Redis restarted or evicts keys.", ("reason",),
)
REDIS_SYNCS = Metric(
    "veltrix_redis_syncs_total", "counter", "Lanes brought up to date: catch_up (from the changelog), rebuild (from the table).",
    "rebuild after each restart: Redis keeps no data, switch persistence on or accept the cost.", ("kind",),
)
REDIS_LANES = Metric(
    "veltrix_redis_lanes", "gauge", "Lanes by how their lookups follow the table: live, catching_up, rebuilding, down.",
    "down: see veltrix_redis_failures_total and the log. Long catching_up or rebuilding: Redis or the worker lacks CPU.", ("state",),
)
REDIS_BEHIND = Metric(
    "veltrix_redis_behind_records", "gauge", "Changelog records of the lane that Redis does not cover yet.",
    "Growing: lookups from Redis get older; their freshness stamp says by how much.", ("agent", "partition"), "records",
)
REDIS_REBUILT = Metric(
    "veltrix_redis_rebuilt_ratio", "gauge", "Share of a lane's table that is in Redis again while its lookups are rebuilt; about, and at most 1.",
    "Stands still: see the log of that worker. Too slow or too fast: VELTRIX_REDIS_REBUILD_KEYS_PER_S.", ("agent", "partition"),
)
LOOKUPS_READ = Metric(
    "veltrix_lookups_read_total", "counter",
    "Lookups read here, per key, by what came of it: redis, table, absent, or why nobody here could tell (redis_down, not_covered, not_configured).",
    "redis_down: mend Redis, or the login that this process uses. not_covered: a worker fills Redis again; veltrix_redis_lanes says how far it is.", ("answer",),
)
LOOKUP_READ_SECONDS = Metric(
    "veltrix_lookup_read_seconds", "histogram", "How long reading the keys of one request took, the wait for company (VELTRIX_REDIS_GATHER_MS) included.",
    "Above 10 ms: Redis is slow, or this process lacks CPU; run more of `veltrix serve`.", (), "seconds", LATENCY_BUCKETS,
)
BUILD = Metric(
    "veltrix_build_info", "info", "Build and runtime of this worker.", "Different versions in one group: a rollout is under way.",
    ("app", "version", "python"),
)
REFERENCE_ANSWERS = Metric(
    "veltrix_reference_answers_total", "counter",
    "Reference data given, per key, by where it came from (process, redis, database) or what was the matter (absent, stale, stale_on_error, unavailable).",
    "process falls against the others: raise VELTRIX_REFERENCE_CACHED_ROWS. unavailable rises: the database is away, see veltrix_reference_degraded.", ("answer",),
)
REFERENCE_LOADS = Metric(
    "veltrix_reference_loads_total", "counter", "What the reference cache did for that: queries, failures, refreshes, keys shed by the load budget, ...",
    "failed_query rises: look at the database. shed_key rises: raise VELTRIX_REFERENCE_QUERIES_PER_S, if the database can take it.", ("event",),
)
REFERENCE_ROWS = Metric(
    "veltrix_reference_cached_rows", "gauge", "Rows of a reference table in this process.",
    "At VELTRIX_REFERENCE_CACHED_ROWS with many evictions: raise it, about 1 KiB a row.", ("table",),
)
REFERENCE_DEGRADED = Metric(
    "veltrix_reference_degraded", "gauge", "1 while the breaker of the reference database or of its Redis is open.",
    "Events go on with what is remembered, or as their table's policy says. Mend the service; it is probed by itself.",
)
REFERENCE_CHANGES = Metric(
    "veltrix_reference_changes_total", "counter", "Rows that the topic reference-changes said have changed, and records in it that say nothing (unreadable).",
    "unreadable rises: whoever writes the topic uses another form, see app/enrichment/changes.py.", ("outcome",),
)
# fmt: on

#: Every metric declared above, in this order.
METRICS: tuple[Metric, ...] = tuple(value for value in list(globals().values()) if isinstance(value, Metric))
