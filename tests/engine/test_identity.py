"""A topic that was deleted and made again is recognised; one that was compacted, truncated or never stamped is not accused."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest

from app.engine.api import RESET_KEY
from app.engine.identity import (
    ChangelogRecreated,
    ChangelogShrank,
    SourceRecreated,
    StateLost,
    WrongTopic,
    check_end,
    check_not_lost,
    recreated,
    stamp_changelog,
    stamp_sources,
    watch,
)
from app.engine.marker import (
    CHANGELOG_ID_KEY,
    MARKER_KEY,
    REPAIR_KEY,
    SOURCE_IDS_KEY,
    Marker,
    decode_keys,
    decode_topic_ids,
    encode_keys,
    encode_marker,
)
from app.engine.store import PartitionStore
from tests.engine.support import CHANGELOG, SOURCE, FakeFatal, open_store
from tests.fakes import FakeRecord

OLD, NEW = bytes(range(16)), bytes(range(16, 32))


@pytest.fixture
def store(tmp_path: Path) -> Iterator[PartitionStore]:
    """An empty table."""
    opened = open_store(tmp_path)
    yield opened
    opened.close()


def applied(store: PartitionStore, offset: int = 7) -> None:
    """Something of the source is applied, up to changelog offset 3."""
    store.apply({b"k": b"v", MARKER_KEY: encode_marker(Marker({SOURCE: offset}))}, 3)


# -- the changelog ------------------------------------------------------------------------------------


def test_a_new_table_takes_the_id_and_stays_empty(store: PartitionStore) -> None:
    stamp_changelog(store, CHANGELOG, 0, {CHANGELOG: OLD})
    assert (store.get(CHANGELOG_ID_KEY), store.changelog_offset()) == (OLD, -1)


def test_a_table_of_an_earlier_release_takes_the_id_and_keeps_its_offset(store: PartitionStore) -> None:
    applied(store)
    stamp_changelog(store, CHANGELOG, 0, {CHANGELOG: OLD})
    assert (store.get(CHANGELOG_ID_KEY), store.changelog_offset(), store.get(b"k")) == (OLD, 3, b"v")


def test_the_same_id_is_no_news(store: PartitionStore) -> None:
    for _ in range(2):
        stamp_changelog(store, CHANGELOG, 0, {CHANGELOG: OLD})


def test_another_id_refuses_and_says_what_to_do(store: PartitionStore) -> None:
    stamp_changelog(store, CHANGELOG, 4, {CHANGELOG: OLD})
    with pytest.raises(
        ChangelogRecreated, match=r"changelog\[4\] was re-created.*delete the workers' data directories.*veltrix reset"
    ):
        stamp_changelog(store, CHANGELOG, 4, {CHANGELOG: NEW})
    assert store.get(CHANGELOG_ID_KEY) == OLD, "the evidence stays"


def test_a_broker_without_ids_refuses_nothing_and_stamps_nothing(store: PartitionStore) -> None:
    stamp_changelog(store, CHANGELOG, 0, {})
    stamp_sources(store, 0, {})
    assert (store.get(CHANGELOG_ID_KEY), store.get(SOURCE_IDS_KEY)) == (None, None)
    stamp_changelog(store, CHANGELOG, 0, {CHANGELOG: OLD})
    stamp_changelog(store, CHANGELOG, 0, {})


def test_a_reset_forgets_the_ids(store: PartitionStore) -> None:
    applied(store)
    stamp_changelog(store, CHANGELOG, 0, {CHANGELOG: OLD})
    stamp_sources(store, 0, {SOURCE: OLD})
    store.restore([FakeRecord(b"epoch", RESET_KEY, 9)], 10)
    stamp_sources(store, 0, {SOURCE: NEW})
    assert decode_topic_ids(store.get(SOURCE_IDS_KEY)) == {SOURCE: NEW}


# -- its end ------------------------------------------------------------------------------------------


def test_a_table_may_hold_its_changelog_to_the_end_but_no_more() -> None:
    check_end(CHANGELOG, 0, applied=-1, end=0)
    check_end(CHANGELOG, 0, applied=9, end=10)
    with pytest.raises(ChangelogShrank, match="ends at 10 but the table on disk holds it up to 10"):
        check_end(CHANGELOG, 0, applied=10, end=10)


def test_a_commit_without_any_state_is_a_loss() -> None:
    with pytest.raises(StateLost, match=r"committed up to 7, but its table is empty"):
        check_not_lost(SOURCE, 0, committed=7, begin=0, changelog_offset=-1)


@pytest.mark.parametrize(("committed", "begin", "changelog_offset"), [(-1, 0, -1), (0, 0, -1), (7, 7, -1), (7, 0, 0)])
def test_no_commit_or_some_state_is_no_loss(committed: int, begin: int, changelog_offset: int) -> None:
    check_not_lost(SOURCE, 0, committed, begin, changelog_offset)


# -- sources ------------------------------------------------------------------------------------------


def test_the_ids_of_sources_are_kept_and_queued_for_the_changelog(store: PartitionStore) -> None:
    applied(store)
    store.apply({REPAIR_KEY: encode_keys([b"k"])}, 3)
    stamp_sources(store, 0, {SOURCE: OLD})
    assert decode_topic_ids(store.get(SOURCE_IDS_KEY)) == {SOURCE: OLD}
    assert decode_keys(store.get(REPAIR_KEY)) == {b"k", SOURCE_IDS_KEY}
    assert store.changelog_offset() == 3


def test_known_ids_are_not_written_again(store: PartitionStore) -> None:
    stamp_sources(store, 0, {SOURCE: OLD})
    store.apply({REPAIR_KEY: None}, -1)
    stamp_sources(store, 0, {SOURCE: OLD})
    assert store.get(REPAIR_KEY) is None


def test_a_second_source_joins_the_first(store: PartitionStore) -> None:
    stamp_sources(store, 0, {SOURCE: OLD})
    stamp_sources(store, 0, {"retry": NEW})
    assert decode_topic_ids(store.get(SOURCE_IDS_KEY)) == {SOURCE: OLD, "retry": NEW}


def test_a_recreated_source_refuses_even_when_it_is_longer_than_what_is_applied(store: PartitionStore) -> None:
    applied(store)
    stamp_sources(store, 2, {SOURCE: OLD})
    with pytest.raises(SourceRecreated, match=r"source\[2\] was re-created.*veltrix reset --to-earliest"):
        stamp_sources(store, 2, {SOURCE: NEW})


def test_a_recreated_source_of_which_nothing_is_applied_is_just_the_source(store: PartitionStore) -> None:
    stamp_sources(store, 0, {SOURCE: OLD})
    stamp_sources(store, 0, {SOURCE: NEW})
    assert decode_topic_ids(store.get(SOURCE_IDS_KEY)) == {SOURCE: NEW}


def test_every_refusal_separates_the_fact_from_the_cure() -> None:
    for exc in (
        ChangelogRecreated("t", 1, OLD, NEW),
        ChangelogShrank("t", 1, 9, 3),
        SourceRecreated("t", 1, OLD, NEW),
        StateLost("t", 1, 4),
    ):
        assert isinstance(exc, WrongTopic)
        assert str(exc) == f"{exc.fact}. {exc.mend}"
        assert "veltrix reset" in exc.mend


# -- while a worker runs ------------------------------------------------------------------------------


def test_only_a_changed_id_is_a_recreation() -> None:
    assert recreated({"a": OLD, "b": OLD, "gone": OLD}, {"a": OLD, "b": NEW, "new": NEW}) == ["b"]
    assert recreated({}, {"a": NEW}) == []


async def test_a_topic_recreated_under_a_worker_ends_it() -> None:
    answers = [{}, {"a": OLD}, {"a": NEW}]
    fatal = FakeFatal()

    async def fetch() -> dict[str, bytes]:
        return answers.pop(0)

    await asyncio.wait_for(watch(lambda: {"a": OLD}, fetch, fatal, interval_s=0), 1)

    assert (answers, len(fatal.reasons)) == ([], 1)
    assert "a was re-created" in fatal.reasons[0]
