"""The note that a process leaves when it ends itself."""

from __future__ import annotations

from pathlib import Path

import pytest
from aiokafka.errors import MessageSizeTooLargeError, TopicAuthorizationFailedError

from app.engine.last_end import last_end, noting
from app.engine.producing import SendFailed
from app.settings import Settings
from app.topics import AGENTS, all_topics, changelog_of, dead_letters_of, retry_tiers
from tests.engine.support import FakeFatal

REFUSED = MessageSizeTooLargeError()
SETTINGS = Settings(app_id="shop")


@pytest.mark.parametrize(
    ("topic", "cause"),
    [
        *[(dead_letters_of("shop", source), "dead_letters") for source in set(AGENTS.values())],
        *[(tier.topic, "dead_letters") for tier in retry_tiers(SETTINGS, "interactions")],
        *[(changelog_of("shop", agent), "changelog") for agent in AGENTS],
        ("interactions-enriched", "outputs"),
        ("user-sessions", "outputs"),
    ],
)
def test_the_note_says_what_kafka_would_not_take(tmp_path: Path, topic: str, cause: str) -> None:
    ended = FakeFatal()
    noting(tmp_path, ended)("lane x cannot go on", SendFailed(topic, REFUSED))
    found = last_end(tmp_path)
    assert found is not None
    assert (found.cause, found.reason) == (cause, "lane x cannot go on")
    assert ended.reasons == ["lane x cannot go on"]


@pytest.mark.parametrize("exc", [None, ValueError("something else")])
def test_any_other_end_is_other(tmp_path: Path, exc: Exception | None) -> None:
    noting(tmp_path, FakeFatal())("stood still for 12 s", exc)
    found = last_end(tmp_path)
    assert found is not None
    assert found.cause == "other"


def test_no_note_no_end(tmp_path: Path) -> None:
    assert last_end(tmp_path) is None


@pytest.mark.parametrize("written", [b"", b"{", b'{"at_s": 1}', b'{"at_s": 1, "cause": "moon", "reason": ""}'])
def test_a_note_that_cannot_be_read_does_not_stop_a_start(tmp_path: Path, written: bytes) -> None:
    (tmp_path / "last-end.json").write_bytes(written)
    assert last_end(tmp_path) is None


def test_a_disk_that_takes_no_note_does_not_keep_the_process_alive(tmp_path: Path) -> None:
    ended = FakeFatal()
    noting(tmp_path / "gone", ended)("disk full", OSError(28, "No space left on device"))
    assert ended.reasons == ["disk full"]


@pytest.mark.parametrize(
    ("exc", "advice"),
    [
        (MessageSizeTooLargeError(), "veltrix topics apply"),
        (TopicAuthorizationFailedError(), "allow this worker's user"),
        (RuntimeError("odd"), "the broker's log"),
    ],
)
def test_a_refusal_names_topic_reason_and_what_to_do(exc: Exception, advice: str) -> None:
    said = str(SendFailed("dlq.shop.interactions", exc))
    assert all(part in said for part in ("dlq.shop.interactions", type(exc).__name__, advice))


def test_every_topic_of_dead_letters_is_known_as_one() -> None:
    """The two prefixes are what ``app.topics`` makes, none of whose other topics has them."""
    written_by_admin = {"dlq.shop.state", "dlq.shop.audit"}
    named = {topic.name for topic in all_topics(SETTINGS) if topic.name.startswith(("dlq.", "retry."))}
    queues = {dead_letters_of("shop", source) for source in AGENTS.values()}
    assert named - written_by_admin == queues | {tier.topic for tier in retry_tiers(SETTINGS, "interactions")}
