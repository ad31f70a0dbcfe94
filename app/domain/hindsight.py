"""What an event that comes late would still change: which results count it, which are corrected by it, which stay as they are.

Pure arithmetic of the rules in ``windows`` and ``sessions``. It does not know what is stored: a session that was kept open by
others may still take an event that this calls left out.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Literal, NamedTuple

from app.domain.activities import Activity
from app.domain.sessions import SessionPolicy
from app.domain.windows import WindowSpec

#: ``open``: counted as if it had come in time. ``revised``: the result was published, and is again. ``left_out``: it stays as it is.
Fate = Literal["open", "revised", "left_out"]


class Touched(NamedTuple):
    """One result that an event belongs to. Times are UTC epoch ms; of a session, the gap from the event on."""

    result: str
    start_ms: int
    end_ms: int
    fate: Fate


def windows_of(activities: Iterable[Activity], specs: Iterable[WindowSpec[Activity]], watermark_ms: int) -> Iterator[Touched]:
    """Every window that counts one of ``activities``, which are those of one event; each once."""
    seen = tuple(activities)
    for spec in specs:
        wanted = [one for one in seen if spec.key(one) is not None and (spec.where is None or spec.where(one))]
        for time_ms in {one.time_ms for one in wanted}:
            for name, size_ms in spec.outputs:
                for start_ms in spec.starts(time_ms, size_ms):
                    end_ms = start_ms + size_ms
                    yield Touched(name, start_ms, end_ms, _fate(end_ms, spec.allowed_lateness_ms, watermark_ms))


def session_of(time_ms: int, policy: SessionPolicy, watermark_ms: int) -> Touched:
    """The session that the event would begin or belong to."""
    end_ms = time_ms + policy.gap_ms
    return Touched("sessions", time_ms, end_ms, _fate(end_ms, policy.allowed_lateness_ms, watermark_ms))


def _fate(end_ms: int, lateness_ms: int, watermark_ms: int) -> Fate:
    if end_ms > watermark_ms:
        return "open"
    return "revised" if end_ms + lateness_ms > watermark_ms else "left_out"
