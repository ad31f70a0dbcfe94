"""Every knob of Veltrix, with its unit, its default and the reason for it.

Sources, strongest first: environment variables ``VELTRIX_<NAME>``, files named by
``VELTRIX_<NAME>_FILE`` (secrets), the profile ``profiles/<VELTRIX_PROFILE>.toml``, the defaults below.
An environment variable that starts with ``VELTRIX_`` and names no setting is an error: a typing
mistake must not silently leave a default in force.
"""

from __future__ import annotations

import difflib
import os
import re
import tomllib
from pathlib import Path
from typing import Any, Final, Literal

from pydantic import Field, SecretStr, ValidationError, model_validator
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

ENV_PREFIX = "VELTRIX_"
LOOPBACK = ("127.0.0.1", "localhost", "::1")
#: Read by tools around the worker (Makefile, demo), not settings of the worker itself.
TOOL_VARIABLES = frozenset({"VELTRIX_PROFILE", "VELTRIX_PROFILE_DIR"})


class SettingsError(Exception):
    """A setting is unknown, missing or wrong. The message says which and what to do; start again after that."""


#: What comes from there is believed: HTTPS, or this host.
_SAFE_URL: Final = r"^(https://.+|http://(127\.0\.0\.1|localhost|\[::1\])([:/].*)?)?$"


class Settings(BaseSettings):
    """The whole configuration of one process. Frozen: read once at start."""

    model_config = SettingsConfigDict(env_prefix=ENV_PREFIX, extra="forbid", frozen=True)

    # -- identity ---------------------------------------------------------------------------------
    app_id: str = Field("veltrix", pattern=r"^[a-z][a-z0-9-]{0,60}$", description="Consumer group and prefix of changelog topics")
    app_version: str = Field("dev", description="Build id, written into dead letters and /readyz")
    worker_id: str = Field("", description="Stable name of this worker; empty: host name and sidecar port")
    data_dir: Path = Field(Path("var/worker"), description="Directory of RocksDB; one per worker, never shared")

    # -- Kafka ------------------------------------------------------------------------------------
    kafka_bootstrap: str = Field("127.0.0.1:9092", description="Comma-separated host:port list")
    kafka_security_protocol: Literal["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"] = "PLAINTEXT"
    kafka_sasl_mechanism: Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"] = "SCRAM-SHA-512"
    kafka_sasl_username: str = ""
    kafka_sasl_password: SecretStr = SecretStr("")
    kafka_ssl_ca_file: Path | None = Field(None, description="CA bundle; the system's when absent")
    kafka_ssl_cert_file: Path | None = Field(None, description="Client certificate for mutual TLS")
    kafka_ssl_key_file: Path | None = None
    kafka_allow_sasl_plaintext: bool = Field(False, description="SASL without TLS sends the password in clear: tests only")
    kafka_session_timeout_ms: int = Field(10_000, ge=6_000, description="A killed worker's partitions wait this long")
    kafka_heartbeat_interval_ms: int = Field(1_000, ge=100, description="Also how soon a member notices a rebalance")
    kafka_request_timeout_ms: int = Field(
        20_000, ge=10_000, description="A connection whose other end is gone without a word is given up after this"
    )
    fetch_max_wait_ms: int = Field(30, ge=1, description="A resumed partition waits for the long poll in flight: keep 20-50")
    fetch_max_partition_bytes: int = Field(256 * 1024, ge=64 * 1024, description="About one unit of work per response")
    group_instance_id: str = Field("", pattern=r"^[a-zA-Z0-9._-]{0,249}$", description="Static membership; empty: dynamic")

    # -- topics -----------------------------------------------------------------------------------
    partitions: int = Field(10, ge=1, le=1000, description="Of the source and everything co-partitioned; a change is a migration")
    replication_factor: int = Field(1, ge=1, description="3 in production")
    min_insync_replicas: int = Field(1, ge=1, description="2 in production")
    dlq_retention_ms: int = Field(30 * 86_400_000, description="How long dead letters stay")

    # -- events -----------------------------------------------------------------------------------
    max_event_bytes: int = Field(32 * 1024, ge=256, description="Segment's limit for one event")
    max_id_chars: int = Field(512, ge=16, description="userId, anonymousId, messageId")
    max_age_ms: int = Field(7 * 86_400_000, description="Event time at most this far before the record's broker time")
    max_ahead_ms: int = Field(300_000, description="Event time at most this far after the record's broker time")
    dedupe_min_ids: int = Field(1024, ge=16, description="A user's last ids always remembered")
    dedupe_max_ids: int = Field(4096, ge=16, description="Hard bound of remembered ids per user")
    dedupe_min_age_ms: int = Field(86_400_000, description="Between both bounds an id is kept this long (broker time)")

    # -- event time: sessions and windows (ADR 0008) ------------------------------------------------
    sessions_enabled: bool = Field(True, description="Sessions per user, to the topic `sessions`")
    windows_enabled: bool = Field(True, description="Windows per item and event name, by way of `item-activity`, to `item-windows`")
    watermark_delay_ms: int = Field(30_000, ge=0, description="Events may be out of order by this much and still be on time")
    watermark_lead_ms: int = Field(
        0, ge=0, description="An event from the future moves the watermark at most this far past its broker time"
    )
    watermark_idle_ms: int = Field(
        60_000, ge=0, description="A partition that is read to its end and silent for this long holds nobody back; 0: for ever"
    )
    session_gap_ms: int = Field(1_800_000, ge=1000, description="Silence that ends a session")
    session_max_length_ms: int = Field(
        86_400_000, ge=2000, description="No session is as long; none shorter than half of it is cut"
    )
    allowed_lateness_ms: int = Field(0, ge=0, description="Closed sessions and windows are corrected (`revision`) for this long")
    late_policy: Literal["drop", "dead_letter"] = Field(
        "drop", description="Events later than that: counted, or also parked (`late`)"
    )
    user_expiry_ms: int = Field(
        30 * 86_400_000, ge=86_400_000, description="A user who is away for longer, by event time, is forgotten"
    )

    # -- engine -----------------------------------------------------------------------------------
    unit_max_records: int = Field(1000, ge=1, description="Largest micro-batch; 10-15 ms of compute under drain")
    unit_max_bytes: int = Field(512 * 1024, ge=1024, description="Largest micro-batch in source bytes")
    unit_depth: int = Field(3, ge=1, le=8, description="Units per partition whose outputs wait for their acknowledgement")
    settle_interval_ms: int = Field(
        50, ge=0, le=1000, description="Units with few records share a changelog batch for this long; outputs do not wait for it"
    )
    lane_high_water: int = Field(6000, ge=1, description="Pause fetching a partition at this many queued records")
    lane_low_water: int = Field(3000, ge=0, description="... and resume here")
    commit_interval_ms: int = Field(300, ge=20, description="Source offsets; the marker makes them only a hint")
    produce_max_batch_bytes: int = Field(1_000_000, ge=16_384, description="Largest RecordBatch; the broker's limit is 1 MiB")
    hot_values: int = Field(40_000, ge=0, description="Decoded state values kept in memory, all partitions of an agent together")
    drain_timeout_ms: int = Field(20_000, description="Longest wait for units in flight at a stop or rebalance, then exit")
    stall_timeout_ms: int = Field(120_000, description="/livez fails when a partition with lag does not move for this long")

    crash_attempts: int = Field(3, ge=2, description="A record that ended the process this often while being processed is parked")
    standby_replicas: int = Field(0, ge=0, description="Warm copies of each table on other workers: fail-over without a restore")

    # -- guarantee --------------------------------------------------------------------------------
    processing_guarantee: Literal["at_least_once", "exactly_once"] = Field(
        "at_least_once", description="Of outputs for a read_committed reader; state is exact in both"
    )
    transaction_groups: int = Field(
        4,
        ge=1,
        le=64,
        description="exactly_once: partitions share G transactional ids (partition % G); workers <= G; fixed for life",
    )
    transaction_interval_ms: int = Field(
        50, ge=1, le=5000, description="exactly_once: one transaction per group and interval; 20 for latency, 100 for throughput"
    )
    transaction_timeout_ms: int = Field(
        10_000,
        ge=1000,
        description="exactly_once: the broker aborts what a dead worker left open after this (a successor does at once)",
    )

    # -- breaker: most events of a source fail, so its partition pauses instead of flooding the dead letters --------
    breaker_enabled: bool = True
    breaker_window_ms: int = Field(60_000, ge=1000, description="Sliding window of outcomes")
    breaker_min_events: int = Field(200, ge=1, description="Fewer outcomes in the window never open it")
    breaker_ratio: float = Field(0.5, gt=0, le=1, description="Opens above this share of dead letters")
    breaker_probe_ms: int = Field(60_000, ge=100, description="Open for this long, then one small batch is tried")

    # -- RocksDB: budget per partition = 2 x write buffer + its share of the block cache -----------
    rocksdb_write_buffer_bytes: int = Field(16 * 1024**2, ge=1024**2, description="Of one partition; up to two of them")
    rocksdb_memtables_bytes: int = Field(
        128 * 1024**2, ge=4 * 1024**2, description="All write buffers together: above it a partition flushes early"
    )
    rocksdb_block_cache_bytes: int = Field(64 * 1024**2, ge=1024**2, description="One cache shared by all partitions")
    rocksdb_max_open_files: int = Field(256, ge=32)

    # -- Redis (hot lookups) ----------------------------------------------------------------------
    redis_url: str = Field("redis://127.0.0.1:6379/0", description="redis:// or rediss://; empty: lookups from tables only")
    redis_username: str = ""
    redis_password: SecretStr = SecretStr("")
    redis_ssl_ca_file: Path | None = None
    redis_timeout_ms: int = Field(250, ge=10, description="For one call of the sidecar")
    redis_gather_ms: float = Field(2, ge=0, le=50, description="Lookups that come within this time share one call; more saves CPU")
    redis_rebuild_keys_per_s: int = Field(
        20_000, ge=100, description="Filling an empty Redis from the tables, per worker: neither the stream nor Redis shall feel it"
    )
    redis_queue_units: int = Field(64, ge=1, description="Units waiting for Redis per partition; more: catch up from the changelog")

    # -- reference data (enrichment) --------------------------------------------------------------
    enrichment_enabled: bool = Field(False, description="Events get the rows of the declared tables; fill or name those first")
    reference_file: Path | None = Field(
        None, description="TOML of the tables; absent: users and items, app/enrichment/default.toml"
    )
    reference_url: str = Field("sqlite:///var/reference.sqlite", description="sqlite:///path or postgresql://user@host/database")
    reference_password: SecretStr = SecretStr("")
    reference_timeout_ms: int = Field(500, ge=10, description="One query; the lookups of a batch wait for it")
    reference_redis_timeout_ms: int = Field(50, ge=5, description="One call; Redis is here to save a query of a few ms")
    reference_queries_per_s: float = Field(100, gt=0, description="Load budget toward the database, per worker")
    reference_concurrency: int = Field(4, ge=1, le=64, description="Queries at one time, and connections, per worker")
    reference_cached_rows: int = Field(50_000, ge=1, description="Rows per table in the process cache; about 1 KiB each")

    # -- retries: what a dependency that does not answer holds up waits here, not in the stream (ADR 0012) -----------
    retry_delays: str = Field(
        "5s,1m,10m",
        pattern=r"^([1-9][0-9]*(ms|s|m|h)(,[1-9][0-9]*(ms|s|m|h))*)?$",
        description="One topic per delay; the last repeats; empty: transient failures are dead letters at once",
    )
    retry_max_attempts: int = Field(50, ge=1, description="Then the record is a dead letter (retries_exhausted)")
    retry_give_up_ms: int = Field(86_400_000, ge=1000, description="... or when its first failure is this long ago")
    key_order: bool = Field(
        False, description="Later events of a key wait behind one that has failed, until it passes or is discarded (ADR 0015)"
    )
    key_order_max_waiting: int = Field(1000, ge=2, le=10_000, description="... so many per key; further ones are dead letters")

    # -- dead letters -----------------------------------------------------------------------------
    dlq_extra_topics: str = Field(
        "", description="Other teams' dead letter topics, comma-separated: `veltrix admin` indexes them, and changes nothing there"
    )
    dlq_masked_fields: str = Field(
        "*",
        description="What of values those without the role payload-reader do not see: *, or JSON paths like context.ip,properties.products.*.name",
    )
    dlq_replay_max_per_s: float = Field(1_000, gt=0, description="The fastest that a replay may be asked to be")
    dlq_stacktraces: bool = Field(True, description="Write the last 8 KiB of the trace into a header")

    # -- sidecar ----------------------------------------------------------------------------------
    sidecar_host: str = Field("127.0.0.1", description="Loopback unless told otherwise")
    sidecar_port: int = Field(8080, ge=0, le=65535)
    serve_port: int = Field(8090, ge=0, le=65535, description="Of `veltrix serve`, on the same host as a sidecar would be")
    sidecar_allow_remote: bool = Field(False, description="Accept a non-loopback bind although only dead letters know a log-in")

    admin_port: int = Field(8091, ge=0, le=65535, description="Of `veltrix admin`, on the same host as a sidecar would be")
    admin_tokens_file: Path | None = Field(
        None, description="Who may use it: <name> <role>[,<role>] <sha256> a line; needed beyond loopback (`veltrix dlq token`)"
    )
    admin_oidc_issuer: str = Field("", pattern=_SAFE_URL, description="Identity provider whose tokens are taken, too")
    admin_oidc_audience: str = Field("", description="What its tokens for us have as `aud`")
    admin_oidc_jwks_url: str = Field(
        "", pattern=_SAFE_URL, description="Where its public keys are; empty: as its discovery document says"
    )
    admin_oidc_roles_claim: str = Field("roles", description="Where its tokens list our roles, dotted: realm_access.roles")
    admin_requests_per_s: float = Field(
        50, gt=0, description="Of one caller, where a log-in is needed; two seconds of them at once"
    )
    admin_token: SecretStr = Field(SecretStr(""), description="With which `veltrix dlq` asks")
    admin_url: str = Field("", description="Where `veltrix dlq` finds it; empty: this host, admin_port")
    admin_dir: Path = Field(
        Path("var/admin"), description="The index of dead letters; one per `veltrix admin`, built again if lost"
    )

    # -- traces (ADR 0014) ------------------------------------------------------------------------
    otlp_endpoint: str = Field(
        "", pattern=r"^(https?://.+)?$", description="Where spans go: OTLP over HTTP, http://127.0.0.1:4318; empty: none are made"
    )
    trace_ratio: float = Field(0.01, ge=0, le=1, description="Records without a trace context of which a trace is begun")
    trace_max_per_s: float = Field(
        20, ge=1, description="Records that one worker puts into traces, those that producers want there included"
    )

    # -- logs -------------------------------------------------------------------------------------
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    log_format: Literal["auto", "console", "json"] = Field("auto", description="auto: console on a terminal, else JSON (ECS)")

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        return init_settings, env_settings, _SecretFiles(settings_cls), _Profile(settings_cls)

    @model_validator(mode="after")
    def _check_combinations(self) -> Settings:
        if self.lane_low_water >= self.lane_high_water:
            raise ValueError("lane_low_water must be below lane_high_water")
        if self.session_max_length_ms < 2 * self.session_gap_ms:
            raise ValueError("session_max_length_ms must be at least twice session_gap_ms")
        needed = -(-self.dedupe_min_ids // 16) * 16 + 15
        if self.dedupe_max_ids < needed:
            raise ValueError(f"dedupe_max_ids must be at least {needed} for this dedupe_min_ids (ids are kept in chunks of 16)")
        if self.kafka_security_protocol == "SASL_PLAINTEXT" and not self.kafka_allow_sasl_plaintext:
            raise ValueError(
                "SASL_PLAINTEXT sends the password in clear: use SASL_SSL, or VELTRIX_KAFKA_ALLOW_SASL_PLAINTEXT=true in a test"
            )
        if self.key_order and not self.retry_delays:
            raise ValueError("key_order needs retry_delays: what waits behind a failed event waits in the retry tiers")
        if self.admin_oidc_issuer and not self.admin_oidc_audience:
            raise ValueError("admin_oidc_issuer needs admin_oidc_audience: without it tokens for other services would be taken")
        if self.sidecar_host not in LOOPBACK and not self.sidecar_allow_remote:
            raise ValueError(
                f"sidecar_host {self.sidecar_host} is not loopback and lookups, metrics and the breaker know no log-in: set VELTRIX_SIDECAR_ALLOW_REMOTE=true behind a proxy or in a pod"
            )
        return self


class _SecretFiles(PydanticBaseSettingsSource):
    """``VELTRIX_<NAME>_FILE=/run/secrets/x`` gives the setting ``<name>`` the stripped content of that file."""

    def get_field_value(self, field: FieldInfo, field_name: str) -> tuple[Any, str, bool]:
        path = os.environ.get(f"{ENV_PREFIX}{field_name.upper()}_FILE")
        if path is None or field_name.endswith("_file"):
            return None, field_name, False
        try:
            return Path(path).read_text(encoding="utf-8").strip(), field_name, False
        except OSError as exc:
            raise SettingsError(f"{ENV_PREFIX}{field_name.upper()}_FILE={path} cannot be read: {exc.strerror}") from exc

    def __call__(self) -> dict[str, Any]:
        found = {name: self.get_field_value(field, name)[0] for name, field in self.settings_cls.model_fields.items()}
        return {name: value for name, value in found.items() if value is not None}


class _Profile(PydanticBaseSettingsSource):
    """``VELTRIX_PROFILE=latency`` reads ``profiles/latency.toml`` (flat ``name = value`` pairs)."""

    def get_field_value(self, field: FieldInfo, field_name: str) -> tuple[Any, str, bool]:  # pragma: no cover
        raise NotImplementedError("profiles are read whole, in __call__")

    def __call__(self) -> dict[str, Any]:
        name = os.environ.get("VELTRIX_PROFILE")
        if not name:
            return {}
        folder = Path(os.environ.get("VELTRIX_PROFILE_DIR", "profiles"))
        path = folder / f"{name}.toml"
        try:
            return tomllib.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError as exc:
            known = ", ".join(sorted(p.stem for p in folder.glob("*.toml"))) or "none"
            raise SettingsError(f"VELTRIX_PROFILE={name}: {path} does not exist (known: {known})") from exc
        except tomllib.TOMLDecodeError as exc:
            raise SettingsError(f"{path}: {exc}") from exc


#: How alike two names must be for one to be taken for the other, of 1.
CLOSE: Final = 0.7


def load_settings(**overrides: Any) -> Settings:
    """Read settings; ``overrides`` win over every other source (tests, tools).

    Raises:
        SettingsError: an unknown name or a wrong value, with what to do.
    """
    _refuse_unknown_variables()
    try:
        return Settings(**overrides)
    except ValidationError as exc:
        lines = [f"  {_said(error)}" for error in exc.errors(include_input=False)]
        raise SettingsError("Wrong settings:\n" + "\n".join(lines)) from None


def _said(error: ErrorDetails) -> str:
    """What is wrong, in the names of variables; settings that do not go together are named by the message itself."""
    message, place = error["msg"].removeprefix("Value error, "), error["loc"]
    if not place:
        names = "|".join(name for name in Settings.model_fields if "_" in name)
        return re.sub(rf"\b({names})\b", lambda found: f"{ENV_PREFIX}{found[0]}".upper(), message)
    return ".".join([f"{ENV_PREFIX}{place[0]}".upper(), *map(str, place[1:])]) + f": {message}"


def _refuse_unknown_variables() -> None:
    known = {f"{ENV_PREFIX}{name.upper()}" for name in Settings.model_fields}
    known |= {f"{name}_FILE" for name in known} | TOOL_VARIABLES
    unknown = sorted(v for v in os.environ if v.startswith(ENV_PREFIX) and v not in known)
    if unknown:
        # Without the prefix: it alone would make any two names alike.
        names = [name.removeprefix(ENV_PREFIX) for name in known]
        close = difflib.get_close_matches(unknown[0].removeprefix(ENV_PREFIX), names, 1, CLOSE)
        hint = f" Did you mean {ENV_PREFIX}{close[0]}?" if close else " `veltrix settings` lists the names."
        raise SettingsError(f"Unknown setting {', '.join(unknown)}.{hint}")
