"""Tumbling and hopping windows by event time: one declaration each, closed by the watermark.

    WindowSpec("item_activity", 60_000, key=item_of, aggregates={"views": Count(is_view), "revenue": Sum(revenue_of)})
    WindowSpec("add_rate", 600_000, hop_ms=60_000, key=category_of, aggregates={"rate": Ratio(Count(is_add), Count(is_view))})
    WindowSpec("item_5m", 300_000, hop_ms=60_000, also={"item_1m": 60_000}, key=item_of, aggregates=...)

A window is ``[start, end)``, its start a multiple of ``hop_ms`` since the epoch, and exists where it has an event. It is
closed when the watermark is at or past its end. Events are kept in panes, as long as the greatest common divisor of
sizes and hop: an event updates one pane, however many windows overlap there; a window merges its panes when it closes.
Shorter windows of the same key, hop and aggregates (``also``) come from the same panes and cost next to nothing.

While the watermark is less than ``allowed_lateness_ms`` past its end, an event publishes the window again, ``revision``
one higher. After that it is past: its events are late for it, always, so an old event cannot bring it back. An event that
is late for some of its windows counts in the others; only one that is late for all is reported.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from math import gcd
from typing import Any, Final, Generic, TypeVar

import msgspec

from app.domain.aggregates import Aggregate
from app.domain.damage import DamagedState
from app.domain.watermarks import NO_WATERMARK, LatePolicy

E = TypeVar("E")

VERSION: Final = 1
#: Due time of a state with nothing to close.
NEVER: Final = 2**62


@dataclass(frozen=True, slots=True)
class WindowSpec(Generic[E]):
    """One windowed output, or several. Changing a size, the hop or the order of aggregates needs a new name: stored panes do not fit.

    Raises:
        ValueError: a size or hop that is not positive, a hop longer than a size, no aggregates, ``also`` not shorter.
    """

    name: str
    size_ms: int
    #: What a window is of; None leaves the event out.
    key: Callable[[E], str | None]
    aggregates: Mapping[str, Aggregate[E, Any]]
    #: 0: tumbling, the hop is the size.
    hop_ms: int = 0
    allowed_lateness_ms: int = 0
    late: LatePolicy = LatePolicy.DROP
    #: Which events count at all; the others are not even sent.
    where: Callable[[E], bool] | None = None
    #: Few keys with much traffic: every source partition counts for itself (``partials``).
    is_local: bool = False
    #: Shorter windows besides: size by name.
    also: Mapping[str, int] = field(default_factory=dict)
    #: Name and size of every output, this one's first: it is the longest.
    outputs: tuple[tuple[str, int], ...] = field(init=False)
    pane_ms: int = field(init=False)

    def __post_init__(self) -> None:
        hop_ms, others = self.hop_ms or self.size_ms, self.also.values()
        if (
            not 0 < hop_ms <= min(self.size_ms, *others, self.size_ms)
            or not self.aggregates
            or any(o >= self.size_ms for o in others)
        ):
            raise ValueError(f"window {self.name!r} needs 0 < hop_ms <= size_ms, an aggregate, and shorter windows in also")
        object.__setattr__(self, "hop_ms", hop_ms)
        object.__setattr__(self, "outputs", ((self.name, self.size_ms), *self.also.items()))
        object.__setattr__(self, "pane_ms", gcd(self.size_ms, hop_ms, *others))

    def starts(self, time_ms: int, size_ms: int = 0) -> range:
        """Starts of the windows (of one of the sizes, by default the longest) that hold ``time_ms``, earliest first."""
        size_ms = size_ms or self.size_ms
        last_ms = time_ms - time_ms % self.hop_ms
        return range(last_ms - (size_ms - 1 - time_ms % self.hop_ms) // self.hop_ms * self.hop_ms, last_ms + 1, self.hop_ms)

    def max_panes(self, reach_ms: int) -> int:
        """Most panes that one key can have between two closings at the same watermark.

        Args:
            reach_ms: how far ahead of the watermark an event can be (``WatermarkPolicy.reach_ms``).
        """
        return (self.size_ms + self.allowed_lateness_ms + reach_ms) // self.pane_ms + 2


class KeyWindows(msgspec.Struct, gc=False, array_like=True):
    """What is stored of one key: accumulators by start of pane; never changed once stored."""

    version: int = VERSION
    #: From this watermark on, ``WindowFold.close`` has something to do for this key.
    due_ms: int = NEVER
    #: Windows that end at or before it were published, if they had events.
    closed_ms: int = NO_WATERMARK
    panes: dict[int, list[Any]] = {}
    #: Of windows that may be published again: how often they were; by number of the output, then by start.
    revisions: dict[int, dict[int, int]] = {}
    #: Windows with a late event since; by number of the output.
    changed: dict[int, list[int]] = {}


class ClosedWindow(msgspec.Struct, frozen=True, gc=False):
    """One published window, identified by name, key and start; a higher revision replaces a lower one."""

    name: str
    key: str
    start_ms: int
    end_ms: int
    revision: int
    results: dict[str, Any]


class UnreadableWindowsError(DamagedState):
    """Stored windows have a format version that this build does not know.

    Operator action: run a build at least as new as the one that wrote them.
    """

    def __init__(self, version: object) -> None:
        super().__init__(f"stored windows have format version {version}, this build reads up to {VERSION}")
        self.version = version


#: As it is published: a JSON object.
encode_window: Final = msgspec.json.Encoder().encode
_decode: Final = msgspec.msgpack.Decoder(KeyWindows).decode


def decode_windows(raw: bytes) -> KeyWindows:
    """Read a stored value of any known version.

    Raises:
        UnreadableWindowsError: a newer build wrote it.
        msgspec.DecodeError: it is not stored windows at all.
    """
    state = _decode(raw)
    if state.version != VERSION:
        raise UnreadableWindowsError(state.version)
    return state


def lenient(specs: Iterable[WindowSpec[E]], lateness_ms: int, late: LatePolicy) -> list[WindowSpec[E]]:
    """``specs`` with a deployment's policy for late events; a longer lateness of their own stays."""
    return [replace(spec, late=late, allowed_lateness_ms=max(spec.allowed_lateness_ms, lateness_ms)) for spec in specs]


def running_windows(spec: WindowSpec[Any], state: KeyWindows) -> dict[str, list[dict[str, Any]]]:
    """What the windows of a key hold so far, by output, the latest first; closed ones that are kept are among them."""
    return {name: _running(spec, state, size_ms) for name, size_ms in spec.outputs}


def _running(spec: WindowSpec[Any], state: KeyWindows, size_ms: int) -> list[dict[str, Any]]:
    starts = {start_ms for pane_ms in state.panes for start_ms in spec.starts(pane_ms, size_ms)}
    return [
        {"start_ms": start_ms, "end_ms": start_ms + size_ms, "results": results_of(spec, state.panes, start_ms, size_ms)}
        for start_ms in sorted(starts, reverse=True)
    ]


def results_of(spec: WindowSpec[Any], panes: Mapping[int, list[Any]], start_ms: int, size_ms: int) -> dict[str, Any]:
    """The results of one window, which has at least one pane."""
    first, *rest = (panes[pane_ms] for pane_ms in range(start_ms, start_ms + size_ms, spec.pane_ms) if pane_ms in panes)
    results = {}
    for at, (name, aggregate) in enumerate(spec.aggregates.items()):
        accumulator = first[at]
        for pane in rest:
            accumulator = aggregate.merge(accumulator, pane[at])
        results[name] = aggregate.result(accumulator)
    return results
