"""One line a second of each kind, and how many there were."""

from __future__ import annotations

import logging

from app.settings import load_settings
from app.telemetry.logs import logging_config
from app.telemetry.repeats import FewRepeats


class Lines:
    """A filter with a clock that the test moves."""

    def __init__(self) -> None:
        self.now = 100.0
        self._filter = FewRepeats(("aiokafka",), 1.0, lambda: self.now)

    def log(self, message: str, *args: object, name: str = "aiokafka.conn") -> str | None:
        """The line as it is written; None when it is left out."""
        record = logging.LogRecord(name, logging.ERROR, "f.py", 1, message, args, None)
        return record.getMessage() if self._filter.filter(record) else None


def test_the_same_template_is_written_once_an_interval_with_a_count() -> None:
    lines = Lines()
    assert [lines.log("Unable connect to node %d", n) for n in range(3)] == ["Unable connect to node 0", None, None]
    lines.now += 1.0
    assert lines.log("Unable connect to node %d", 3) == "Unable connect to node 3 [2 more like this were left out]"
    lines.now += 1.0
    assert lines.log("Unable connect to node %d", 4) == "Unable connect to node 4"


def test_another_kind_of_line_is_not_a_repeat() -> None:
    lines = Lines()
    assert lines.log("one") == "one"
    assert lines.log("two") == "two"
    assert lines.log("one", name="aiokafka.client") == "one"


def test_lines_of_our_own_always_pass() -> None:
    lines = Lines()
    assert [lines.log("commit_failed", name="app.engine.in_loop") for _ in range(3)] == ["commit_failed"] * 3


def test_the_handler_of_a_worker_has_it() -> None:
    config = logging_config(load_settings())
    assert config["handlers"]["stderr"]["filters"] == ["few_repeats"]
    assert config["filters"]["few_repeats"]["()"] is FewRepeats
