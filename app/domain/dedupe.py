"""De-duplication by ``messageId`` per user, within a bounded horizon of arrival order.

An id is remembered as an 8-byte digest. The newest ids (the *head*, below 16) live inside the user's profile,
which is rewritten for every event anyway; a full head is *closed* into a chunk that is a value of its own and
never changes. So one more event of a hot user writes at most 15 ids again, however long its history is.

What is remembered (``DedupePolicy``), in ids of one user:

    the last min_ids                      always
    beyond that, up to max_ids            while younger than min_age_ms, in broker time
    beyond that                           never: a repeat that old passes as a new event

Whole chunks expire, and only when a chunk is closed: a silent user forgets nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import msgspec
from xxhash import xxh3_64_digest, xxh3_64_intdigest

CHUNK_IDS: Final = 16
DIGEST_BYTES: Final = 8
CHUNK_VERSION: Final = 1
CHUNK_BYTES: Final = CHUNK_IDS * DIGEST_BYTES


@dataclass(frozen=True, slots=True)
class DedupePolicy:
    """How long ids are remembered. ``max_ids`` is hard: head and chunks together never hold more.

    Raises:
        ValueError: whole chunks cannot keep ``min_ids`` without passing ``max_ids``.
    """

    min_ids: int
    max_ids: int
    min_age_ms: int

    def __post_init__(self) -> None:
        if self.max_chunks * CHUNK_IDS < self.min_ids:
            needed = -(-self.min_ids // CHUNK_IDS) * CHUNK_IDS + CHUNK_IDS - 1
            raise ValueError(f"dedupe max_ids {self.max_ids} is too close to min_ids {self.min_ids}: at least {needed}")

    @property
    def max_chunks(self) -> int:
        """Most closed chunks, so that a head of 15 still fits under ``max_ids``."""
        return max(0, (self.max_ids - CHUNK_IDS + 1) // CHUNK_IDS)


class Chunk(msgspec.Struct, frozen=True, gc=False, array_like=True):
    """16 ids that will not change any more."""

    version: int
    #: No id in it is younger than this (broker time, epoch ms).
    newest_ms: int
    ids: bytes


class Recent(msgspec.Struct, frozen=True, gc=False, array_like=True):
    """What a profile holds of the user's remembered ids; chunks ``first`` up to, not with, ``next`` are closed."""

    head: bytes = b""
    first: int = 0
    next: int = 0
    #: Running hash of all closed chunks: two users or runs with the same one have the same history.
    chain: int = 0

    @property
    def closed_chunks(self) -> int:
        """How many chunks are values of their own."""
        return self.next - self.first


def digest_of(message_id: str) -> bytes:
    """8 bytes that stand for an id. Among 4,096 ids two differing ones meet with probability 5e-13."""
    return xxh3_64_digest(message_id.encode())


def in_ids(digest: bytes, ids: bytes) -> bool:
    """``digest`` is one of the concatenated ``ids`` (and not the end of one and the start of the next)."""
    at = ids.find(digest)
    while at >= 0 and at % DIGEST_BYTES:
        at = ids.find(digest, at + 1)
    return at >= 0


def chunk_key(user_key: str, number: int) -> str:
    """Key of a closed chunk in its view. The number is behind the last slash, so no two users can collide."""
    return f"{user_key}/{number}"


def remember(recent: Recent, digest: bytes) -> Recent:
    """Add one id to the head, which must be closed when it has ``CHUNK_BYTES``."""
    return Recent(recent.head + digest, recent.first, recent.next, recent.chain)


def close_head(recent: Recent, newest_ms: int) -> tuple[Recent, Chunk]:
    """Turn a full head into chunk ``recent.next``; the new head is empty."""
    chunk = Chunk(CHUNK_VERSION, newest_ms, recent.head)
    return Recent(b"", recent.first, recent.next + 1, _link(recent.chain, chunk)), chunk


def is_expired(recent: Recent, oldest: Chunk, now_ms: int, policy: DedupePolicy) -> bool:
    """The oldest closed chunk goes: the hard bound wants it, or it is old and enough ids remain without it."""
    chunks = recent.closed_chunks
    if chunks > policy.max_chunks:
        return True
    remaining = (chunks - 1) * CHUNK_IDS + len(recent.head) // DIGEST_BYTES
    return remaining >= policy.min_ids and oldest.newest_ms < now_ms - policy.min_age_ms


def expire_first(recent: Recent) -> Recent:
    """Forget the oldest closed chunk."""
    return Recent(recent.head, recent.first + 1, recent.next, recent.chain)


def _link(chain: int, chunk: Chunk) -> int:
    return xxh3_64_intdigest(b"%d:%d:%b" % (chain, chunk.newest_ms, chunk.ids))
