"""Logs: valid ECS, one shape for ours and the libraries', no secrets."""

from __future__ import annotations

import json
import logging
import warnings
from collections.abc import Iterator
from typing import Any

import pytest
import structlog
from mode.utils.logging import setup_logging

from app.settings import Settings, load_settings
from app.telemetry.logs import configure_logging, logging_config

SECRET = 's3cr"et-väl'


@pytest.fixture(autouse=True)
def restored_logging() -> Iterator[None]:
    """Leave root handlers and structlog as they were: pytest's capture lives there."""
    root, handlers, level = logging.root, list(logging.root.handlers), logging.root.level
    names = ("aiokafka", "faust", "mode", "uvicorn")
    levels = {name: logging.getLogger(name).level for name in names}
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
    for name, before in levels.items():
        logging.getLogger(name).setLevel(before)
    logging.captureWarnings(False)
    structlog.reset_defaults()


def settings(**changes: Any) -> Settings:
    return load_settings(**({"log_format": "json", "app_version": "1.2.3", "worker_id": "w1"} | changes))


def lines(capsys: pytest.CaptureFixture[str]) -> list[dict[str, Any]]:
    """Every line on standard error, which must be one JSON object each."""
    return [json.loads(line) for line in capsys.readouterr().err.splitlines()]


def test_an_event_of_ours_is_one_line_of_ecs(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging(settings())
    structlog.get_logger("app.engine").warning("commit_failed", partition=3, offsets=[1, 2], key=b"abc")

    (line,) = lines(capsys)
    assert line.pop("@timestamp").endswith("Z")
    assert line == {
        "log.level": "warning",
        "log.logger": "app.engine",
        "message": "commit_failed",
        "event.action": "commit_failed",
        "event.dataset": "veltrix.log",
        "ecs.version": "8.17.0",
        "service.name": "veltrix",
        "service.version": "1.2.3",
        "service.node.name": "w1",
        "veltrix.partition": 3,
        "veltrix.offsets": [1, 2],
        "veltrix.key": "<3 bytes>",
    }


def test_a_library_record_has_the_same_fields(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging(settings())
    logging.getLogger("aiokafka.consumer").warning("Heartbeat failed for %s", "veltrix")

    (line,) = lines(capsys)
    assert line["message"] == "Heartbeat failed for veltrix"
    assert line["log.level"] == "warning"
    assert line["log.logger"] == "aiokafka.consumer"
    assert line["service.name"] == "veltrix"
    assert "event.action" not in line


def raise_and_log(how: str) -> None:
    try:
        raise ValueError("bad thing")
    except ValueError as exc:
        match how:
            case "structlog":
                structlog.get_logger("a").exception("unit_failed")
            case "instance":
                structlog.get_logger("a").error("unit_failed", exc_info=exc)
            case "stdlib":
                logging.getLogger("a").exception("unit_failed")


@pytest.mark.parametrize("how", ["structlog", "instance", "stdlib"])
def test_an_exception_becomes_error_fields(capsys: pytest.CaptureFixture[str], how: str) -> None:
    configure_logging(settings())
    raise_and_log(how)

    (line,) = lines(capsys)
    assert line["error.type"] == "ValueError"
    assert line["error.message"] == "bad thing"
    assert line["error.stack_trace"].startswith("Traceback")
    assert "raise_and_log" in line["error.stack_trace"]
    assert not [name for name in line if "exc_info" in name]


def test_an_exception_that_is_not_one_adds_no_error(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging(settings())
    structlog.get_logger("a").error("odd", exc_info=True)

    (line,) = lines(capsys)
    assert not [name for name in line if name.startswith("error.")]


def test_bound_context_is_on_every_line(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging(settings())
    with structlog.contextvars.bound_contextvars(topic="interactions"):
        structlog.get_logger("a").info("one")
        logging.getLogger("b").info("two")

    assert [line["veltrix.topic"] for line in lines(capsys)] == ["interactions"] * 2


@pytest.mark.parametrize("value", [float("nan"), 2**80, {1: {2}}, object(), "\ud800", {"a": b"x"}, float("inf")])
def test_any_value_gives_valid_json(capsys: pytest.CaptureFixture[str], value: Any) -> None:
    configure_logging(settings())
    structlog.get_logger("a").info("odd_value", value=value)

    (line,) = lines(capsys)
    assert "veltrix.value" in line


@pytest.mark.parametrize("log_format", ["json", "console"])
def test_secrets_never_leave(capsys: pytest.CaptureFixture[str], log_format: str) -> None:
    configure_logging(
        settings(
            log_format=log_format,
            kafka_sasl_password=SECRET,
            redis_url="redis://app:url-pass%21@cache:6379/0",
            reference_url="postgresql://app:db-url-pass@db/shop",
            reference_password="db-pass",
            admin_token="admin-tok",
        )
    )
    log = structlog.get_logger("a")
    log.info("by_value", note=f"using {SECRET}", nested={"deep": [SECRET]}, thing=ValueError(SECRET))
    log.info("by_name", password="hunter2", headers={"Authorization": "Bearer hunter2"})
    logging.getLogger("redis").warning("cannot reach redis://app:url-pass%%21@cache and kafka://u:hunter2@host%s", "")
    logging.getLogger("b").warning("plain url-pass! here, from %s", {"sasl_plain_password": SECRET})
    log.info("refused", reason='password "db-pass" or db-url-pass for user app', caller="asked with admin-tok")
    try:
        raise RuntimeError(f"login with {SECRET} refused")
    except RuntimeError:
        log.exception("login_failed")

    text = capsys.readouterr().err
    assert text.count("\n") >= 5
    for secret in (SECRET, json.dumps(SECRET)[1:-1], "hunter2", "url-pass!", "url-pass%21", "db-url-pass", "db-pass", "admin-tok"):
        assert secret not in text


def test_a_secret_that_is_a_common_word_keeps_the_line_readable(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging(settings(redis_password="veltrix"))
    structlog.get_logger("a").info("started", partition=1)

    (line,) = lines(capsys)
    assert line["service.name"] == "veltrix"
    assert line["veltrix.partition"] == 1


def test_levels_hold_and_noise_is_limited(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging(settings())
    structlog.get_logger("a").debug("hidden")
    for name in ("aiokafka.conn", "faust.worker", "mode.services", "uvicorn.error"):
        logging.getLogger(name).info("chatter")
        logging.getLogger(name).error("trouble")

    assert [line["message"] for line in lines(capsys)] == ["trouble"] * 4


def test_an_error_level_is_not_lowered_for_libraries(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging(settings(log_level="error"))
    logging.getLogger("aiokafka").warning("hidden")

    assert lines(capsys) == []


def test_warnings_are_logged(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging(settings())
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        logging.captureWarnings(True)
        warnings.warn("old thing", DeprecationWarning, stacklevel=1)
        logging.captureWarnings(False)

    (line,) = lines(capsys)
    assert line["log.logger"] == "py.warnings"
    assert "old thing" in line["message"]


def test_a_terminal_gets_readable_lines(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    configure_logging(settings(log_format="console"))
    raise_and_log("structlog")

    text = capsys.readouterr().err
    assert "unit_failed" in text
    assert "ValueError: bad thing" in text
    assert not text.startswith("{")


def test_auto_means_json_when_nobody_watches(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging(settings(log_format="auto"))
    structlog.get_logger("a").info("started")

    assert lines(capsys)[0]["message"] == "started"


def test_a_worker_start_of_faust_keeps_our_logs(capsys: pytest.CaptureFixture[str]) -> None:
    """Faust calls this with the app's ``logging_config`` setting: ours must come out the same afterwards."""
    configure_logging(settings())
    setup_logging(loglevel="WARN", logfile=None, loghandlers=[], logging_config=dict(logging_config(settings())))
    structlog.get_logger("app.worker").info("worker_started")
    logging.getLogger("faust.app").warning("careful")

    assert [line["message"] for line in lines(capsys)] == ["worker_started", "careful"]
