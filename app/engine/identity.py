"""Is a topic still the one that the local state came from?

A topic that was deleted and made again under its old name looks like the old one with other records: a table would
mix two histories, or skip every event of the new source as applied. Kafka gives each topic an id when it is made;
each RocksDB keeps the id of its changelog, and, in the changelog too, those of the sources whose offsets its marker
holds. Without ids (an old broker, a table of an earlier release) nothing is refused here, and what is there is
stamped. A changelog that was compacted, truncated at its start or emptied keeps its id.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import Final, Protocol
from uuid import UUID

from app.engine.marker import (
    CHANGELOG_ID_KEY,
    MARKER_KEY,
    REPAIR_KEY,
    SOURCE_IDS_KEY,
    decode_keys,
    decode_marker,
    decode_topic_ids,
    encode_keys,
    encode_topic_ids,
)

#: Topic to Kafka's id of it, 16 bytes.
TopicIds = Mapping[str, bytes]

REBUILD: Final = (
    "Stop all workers. Bring the old topic back if you can; else delete the workers' data directories and run "
    "`veltrix reset --to-earliest --yes`: state is built again from what the source still holds."
)
RESET: Final = (
    "If the new topic is meant to be read from its start, stop all workers and run `veltrix reset --to-earliest --yes`; "
    "else bring the old topic back."
)
#: How often a running worker looks whether its topics are still the same, seconds.
WATCH_INTERVAL_S: Final = 10.0


class WrongTopic(Exception):
    """Local state and a topic do not belong together. ``mend`` says what an operator does."""

    def __init__(self, topic: str, partition: int, fact: str, mend: str) -> None:
        self.topic, self.partition = topic, partition
        self.fact, self.mend = f"{topic}[{partition}] {fact}", mend
        super().__init__(f"{self.fact}. {mend}")


class ChangelogRecreated(WrongTopic):
    """The changelog topic was deleted and made again: what the table holds on disk is no prefix of it any more.

    Operator action: bring the old topic back; else stop all workers, delete their data directories and run
    ``veltrix reset --to-earliest --yes``.
    """

    def __init__(self, topic: str, partition: int, known: bytes, found: bytes) -> None:
        fact = f"was re-created: the table on disk belongs to topic id {UUID(bytes=known)}, the broker has {UUID(bytes=found)}"
        super().__init__(topic, partition, fact, REBUILD)


class ChangelogShrank(WrongTopic):
    """The table holds changelog offsets that the topic has not: brokers lost acknowledged records, or it was re-created.

    Operator action: as for :class:`ChangelogRecreated`.
    """

    def __init__(self, topic: str, partition: int, applied: int, end: int) -> None:
        fact = (
            f"ends at {end} but the table on disk holds it up to {applied}: the brokers lost acknowledged records "
            "(unclean leader election), or the topic was re-created"
        )
        super().__init__(topic, partition, fact, REBUILD)


class SourceRecreated(WrongTopic):
    """A source topic was deleted and made again under a table that has applied offsets of the old one.

    Operator action: if the new topic is meant to be read from its start, stop all workers and run
    ``veltrix reset --to-earliest --yes``; if not, bring the old topic back.
    """

    def __init__(self, topic: str, partition: int, known: bytes, found: bytes) -> None:
        fact = f"was re-created: offsets of topic id {UUID(bytes=known)} are applied, the broker has {UUID(bytes=found)}"
        super().__init__(topic, partition, fact, RESET)


class SourceShrank(WrongTopic):
    """The table has applied source offsets that the topic does not have: it was deleted and created again.

    Operator action: as for :class:`SourceRecreated`.
    """

    def __init__(self, topic: str, partition: int, applied: int, end: int) -> None:
        super().__init__(
            topic, partition, f"ends at {end} but offsets up to {applied} are applied: the topic was re-created", RESET
        )


class StateLost(WrongTopic):
    """The group has committed offsets of a source, but disk and changelog are empty: every unit writes both before a commit.

    Operator action: bring the changelog back, or stop all workers and run ``veltrix reset --to-earliest --yes``.
    """

    def __init__(self, topic: str, partition: int, committed: int) -> None:
        fact = (
            f"is committed up to {committed}, but its table is empty on disk and in the changelog: the changelog was "
            "deleted or re-created"
        )
        super().__init__(topic, partition, fact, REBUILD)


class Table(Protocol):
    """What is needed of a store here; :class:`app.engine.store.PartitionStore` has it."""

    def get(self, key: bytes) -> bytes | None: ...

    def apply(self, writes: Mapping[bytes, bytes | None], changelog_offset: int) -> None: ...

    def changelog_offset(self) -> int: ...


def check_changelog(known: bytes | None, topic: str, partition: int, ids: TopicIds) -> None:
    """``known``: what the table holds under CHANGELOG_ID_KEY.

    Raises:
        ChangelogRecreated: the topic has another id now.
    """
    found = ids.get(topic)
    if known is not None and found is not None and known != found:
        raise ChangelogRecreated(topic, partition, known, found)


def check_sources(known: TopicIds, applied: Mapping[str, int], partition: int, ids: TopicIds) -> None:
    """``known``: the table's SOURCE_IDS_KEY; ``applied``: its marker's next offset per topic.

    Raises:
        SourceRecreated: a topic of which something is applied has another id now.
    """
    for topic, old in known.items():
        found = ids.get(topic)
        if found is not None and found != old and applied.get(topic, 0) > 0:
            raise SourceRecreated(topic, partition, old, found)


def check_end(topic: str, partition: int, applied: int, end: int) -> None:
    """``applied``: last changelog offset in the table; ``end``: the topic's next one.

    Raises:
        ChangelogShrank: the table has more than the topic.
    """
    if applied >= end:
        raise ChangelogShrank(topic, partition, applied, end)


def check_source_end(topic: str, partition: int, applied: int, end: int) -> None:
    """``applied``: next source offset to apply; ``end``: the topic's next one.

    Raises:
        SourceShrank: the table has applied more than the topic has.
    """
    if applied > end:
        raise SourceShrank(topic, partition, applied, end)


def check_not_lost(topic: str, partition: int, committed: int, begin: int, changelog_offset: int) -> None:
    """After recovery. ``committed``: the group's offset, -1 for none; ``changelog_offset``: -1 for an empty table.

    Raises:
        StateLost: something was committed, and no state of it is left.
    """
    if changelog_offset < 0 and committed > begin:
        raise StateLost(topic, partition, committed)


def stamp_changelog(table: Table, topic: str, partition: int, ids: TopicIds) -> None:
    """Check the table's changelog id; write it where it is missing. While no lane runs on the table.

    Raises:
        ChangelogRecreated: the topic has another id now.
    """
    known = table.get(CHANGELOG_ID_KEY)
    check_changelog(known, topic, partition, ids)
    if known is None and topic in ids:
        table.apply({CHANGELOG_ID_KEY: ids[topic]}, table.changelog_offset())


def stamp_sources(table: Table, partition: int, sources: TopicIds) -> None:
    """Check the ids of the table's sources, all in ``sources``; write those that are new. After recovery, before the lane opens.

    Raises:
        SourceRecreated: a topic of which something is applied has another id now.
    """
    known = decode_topic_ids(table.get(SOURCE_IDS_KEY))
    check_sources(known, decode_marker(table.get(MARKER_KEY)).next_offsets, partition, sources)
    stamped = known | dict(sources)
    if stamped == known:
        return
    # As a repair, so that the lane writes it to the changelog as well: a successor starts from there.
    repairs = encode_keys(decode_keys(table.get(REPAIR_KEY)) | {SOURCE_IDS_KEY})
    table.apply({SOURCE_IDS_KEY: encode_topic_ids(stamped), REPAIR_KEY: repairs}, table.changelog_offset())


def recreated(known: TopicIds, found: TopicIds) -> list[str]:
    """Topics whose id changed. One that is missing now is not among them: there is nothing to mix it up with."""
    return sorted(topic for topic, topic_id in known.items() if found.get(topic, topic_id) != topic_id)


async def watch(
    known: Callable[[], TopicIds],
    fetch: Callable[[], Awaitable[TopicIds]],
    fatal: Callable[[str, BaseException | None], None],
    interval_s: float = WATCH_INTERVAL_S,
) -> None:
    """End the process when a topic is re-created under it. Its next start says in full what to do.

    Without this the consumer would find its offset out of range, begin at the new topic's start, and the lane would
    skip all of it as applied.
    """
    while True:
        await asyncio.sleep(interval_s)
        if topics := recreated(known(), await fetch()):
            fatal(f"{', '.join(topics)} was re-created under this worker: nothing more may be applied", None)
            return
