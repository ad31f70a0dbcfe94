"""Folding a batch of interactions into user profiles, in arrival order.

    (profile, closed ids, interaction) -> (profile, chunks written or deleted, sequence number)

``BatchFold`` holds the working values of one batch and nothing else: dropping it undoes everything.
Splitting a stream into batches anywhere gives the same numbers, profiles and chunks.
"""

from __future__ import annotations

from app.domain.closed_ids import ClosedIds, ClosedIdsCache
from app.domain.dedupe import (
    CHUNK_BYTES,
    Chunk,
    DedupePolicy,
    Recent,
    chunk_key,
    close_head,
    expire_first,
    in_ids,
    is_expired,
    remember,
)
from app.domain.events import Interaction
from app.domain.profiles import UserProfile, apply

_NOTHING = Recent()


class BatchFold:
    """One batch in progress.

    Args:
        policy: how long ids are remembered.
        stored: profiles of the batch's users, as far as they exist; changed in place, so they must be this batch's own.
        closed: closed ids of those users that have any; changed in place, so they must be this batch's own.
    """

    __slots__ = ("_forgotten", "_policy", "_stored", "chunks", "closed", "profiles")

    def __init__(self, policy: DedupePolicy, stored: dict[str, UserProfile], closed: dict[str, ClosedIds]) -> None:
        self._policy = policy
        self._stored = stored
        self.closed = closed
        #: Profiles to write, by user key.
        self.profiles: dict[str, UserProfile] = {}
        self._forgotten: list[str] = []
        #: Chunks to write, by chunk key; None deletes.
        self.chunks: dict[str, Chunk | None] = {}

    def add(self, interaction: Interaction, received_ms: int, expired_ms: int = -(2**62)) -> int | None:
        """Fold one interaction; its sequence number, or None when it is a duplicate and changed nothing.

        Args:
            expired_ms: a user who was last seen before it (event time) is a new one.
        """
        user_key, digest = interaction.user_key, interaction.digest
        profile = self.profiles.get(user_key) or self._stored.get(user_key)
        if profile is not None and profile.last_seen_ms < expired_ms:
            self.forget(user_key, profile)
            profile = None
        recent = _NOTHING if profile is None else profile.recent
        head = recent.head
        if head.find(digest) >= 0 and in_ids(digest, head):
            return None
        if recent.next != recent.first and digest in self.closed[user_key]:
            return None
        recent = remember(recent, digest)
        if len(recent.head) == CHUNK_BYTES:
            newest_ms = received_ms if profile is None else max(received_ms, profile.received_ms)
            recent = self._close(user_key, recent, newest_ms, received_ms)
        profile = apply(profile, interaction, received_ms, recent)
        self.profiles[user_key] = profile
        return profile.sequence

    def forget(self, user_key: str, profile: UserProfile) -> None:
        """The user is unknown from now on, with all remembered ids. ``profile`` is the newest stored one."""
        if user_key in self.profiles and self.profiles[user_key] is not profile:
            return  # seen in this batch
        self.profiles.pop(user_key, None)
        self._stored.pop(user_key, None)
        self.closed.pop(user_key, None)
        self._forgotten.append(user_key)
        for number in range(profile.recent.first, profile.recent.next):
            self.chunks[chunk_key(user_key, number)] = None

    def written(self) -> dict[str, UserProfile | None]:
        """Profiles to write, by user key; None deletes."""
        return {**dict.fromkeys(self._forgotten), **self.profiles}

    def give_back(self, cache: ClosedIdsCache) -> None:
        """Keep the closed ids in memory for the next batch, under the names of the profiles they now belong to."""
        for user_key, closed in self.closed.items():
            profile = self.profiles.get(user_key) or self._stored[user_key]
            cache.give_back(profile.recent, closed)

    def _close(self, user_key: str, recent: Recent, newest_ms: int, now_ms: int) -> Recent:
        """Close the full head, then let the oldest chunks expire."""
        number = recent.next
        recent, chunk = close_head(recent, newest_ms)
        self.chunks[chunk_key(user_key, number)] = chunk
        closed = self.closed.get(user_key)
        if closed is None:
            closed = self.closed[user_key] = ClosedIds()
        closed.append(chunk)
        while closed.chunks and is_expired(recent, closed.chunks[0], now_ms, self._policy):
            self.chunks[chunk_key(user_key, recent.first)] = None
            recent = expire_first(recent)
            closed.expire_first()
        return recent
