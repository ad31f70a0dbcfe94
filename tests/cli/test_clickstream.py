"""Generated traffic: reproducible, with the stated shares, and wrong exactly where it says so."""

from __future__ import annotations

import json
from collections import Counter, defaultdict

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.cli.clickstream import BAD_KINDS, RESEND_WINDOW, Click, Clickstream, Zipf
from app.domain.codec import Limits
from app.domain.errors import Reason, Rejection
from app.domain.routing import partition_of
from app.domain.validation import classify
from app.settings import Settings

START_MS = 1_700_000_000_000
PARTITIONS = 10
N = 20_000


class _Record:
    headers = ()

    def __init__(self, click: Click, at_ms: int) -> None:
        self.key, self.value, self.timestamp = click.key, click.value, at_ms
        self.partition = partition_of(click.key, PARTITIONS)


@pytest.fixture(scope="module")
def limits() -> Limits:
    defaults = Settings()
    return Limits(
        defaults.max_event_bytes, defaults.max_id_chars, defaults.max_age_ms, defaults.max_ahead_ms, partitions=PARTITIONS
    )


@pytest.fixture(scope="module")
def clicks() -> list[Click]:
    return list(Clickstream(seed=7, run_tag="t").events(N, START_MS))


@given(seed=st.integers(0, 2**32), users=st.integers(1, 50), items=st.integers(1, 50))
@settings(max_examples=20, deadline=None)
def test_the_same_seed_gives_the_same_bytes(seed: int, users: int, items: int) -> None:
    first = list(Clickstream(seed, users, items, concurrent_sessions=5).events(200, START_MS))

    assert first == list(Clickstream(seed, users, items, concurrent_sessions=5).events(200, START_MS))


def test_another_seed_gives_other_events() -> None:
    assert list(Clickstream(1).events(50, START_MS)) != list(Clickstream(2).events(50, START_MS))


def test_another_run_tag_gives_other_message_ids() -> None:
    one, two = (
        {json.loads(click.value)["messageId"] for click in Clickstream(1, run_tag=tag, bad_share=0).events(500, START_MS)}
        for tag in ("a", "b")
    )

    assert not one & two


def test_the_stated_shares_hold(clicks: list[Click]) -> None:
    kinds = Counter(click.kind for click in clicks)
    anonymous = sum(click.key.startswith(b"anon-") for click in clicks)

    assert kinds["duplicate"] / N == pytest.approx(0.01, rel=0.25)
    assert sum(kinds[bad] for bad in BAD_KINDS) / N == pytest.approx(0.005, rel=0.4)
    assert anonymous / N == pytest.approx(0.2, rel=0.15)
    assert kinds.total() == N
    assert set(kinds) == {"valid", "duplicate", *BAD_KINDS}


def test_what_is_called_valid_passes_validation_and_every_bad_kind_fails_for_its_reason(
    clicks: list[Click], limits: Limits
) -> None:
    expected: dict[str, Reason] = {kind: reason for kind, reason in BAD_KINDS.items()}  # noqa: C416  widens the type of the key
    for index, click in enumerate(clicks):
        verdict = classify(_Record(click, START_MS + index), limits)
        reason = verdict.reason if isinstance(verdict, Rejection) else None

        assert reason == expected.get(click.kind), click


def test_a_duplicate_repeats_an_earlier_valid_event_of_the_window(clicks: list[Click]) -> None:
    seen: list[tuple[bytes, bytes]] = []
    for click in clicks:
        if click.kind == "duplicate":
            assert (click.key, click.value) in seen[-RESEND_WINDOW:]
        elif click.kind == "valid":
            seen.append((click.key, click.value))


def test_valid_events_have_distinct_message_ids(clicks: list[Click]) -> None:
    ids = [json.loads(click.value)["messageId"] for click in clicks if click.kind == "valid"]

    assert len(set(ids)) == len(ids)


def test_the_key_is_the_user_id_else_the_anonymous_id(clicks: list[Click]) -> None:
    for click in clicks:
        if click.kind == "valid":
            event = json.loads(click.value)
            assert click.key.decode() == event.get("userId", event["anonymousId"])


def test_the_total_of_an_order_is_the_sum_of_its_products(clicks: list[Click]) -> None:
    events = [json.loads(click.value) for click in clicks if click.kind == "valid"]
    orders = [event["properties"] for event in events if event.get("event") == "Order Completed"]

    assert len(orders) > N / 200
    for order in orders:
        assert order["products"]
        assert order["total"] == pytest.approx(sum(product["price"] for product in order["products"]))


def test_a_funnel_without_bad_events_is_complete() -> None:
    steps: dict[str, list[str]] = defaultdict(list)
    for click in Clickstream(3, bad_share=0, duplicate_share=0, concurrent_sessions=20).events(5_000, START_MS):
        event = json.loads(click.value)
        steps[event["context"]["session"]].append(event.get("event", event["type"]))

    for path in steps.values():
        assert path[0] == "page"
        if "Order Completed" in path:
            assert path[-2:] == ["Checkout Started", "Order Completed"]
        if "Checkout Started" in path:
            assert "Product Added" in path[: path.index("Checkout Started")]
    assert any("Order Completed" in path for path in steps.values())


def test_anonymous_visitors_are_never_identified() -> None:
    for click in Clickstream(5, anonymous_share=1.0, bad_share=0).events(3_000, START_MS):
        event = json.loads(click.value)
        assert "userId" not in event
        assert event["type"] != "identify"


def test_event_time_is_the_time_that_was_asked_for() -> None:
    stream = Clickstream(1, bad_share=0, duplicate_share=0)

    times = [json.loads(click.value)["timestamp"] for click in stream.events(3, START_MS, interval_ms=500.0)]

    assert times == ["2023-11-14T22:13:20.000Z", "2023-11-14T22:13:20.500Z", "2023-11-14T22:13:21.000Z"]


@given(n=st.integers(1, 500), exponent=st.floats(0, 2), uniform=st.floats(0, 1, exclude_max=True))
def test_a_zipf_rank_is_in_range(n: int, exponent: float, uniform: float) -> None:
    assert 0 <= Zipf(n, exponent).rank(uniform) < n


def test_the_busiest_visitors_are_the_first_ranks() -> None:
    keys = Counter(click.key[5:] for click in Clickstream(1, anonymous_share=0).events(30_000, START_MS))

    assert keys[b"000000"] > keys[b"000009"] > keys[b"000999"]


@pytest.mark.parametrize(("duplicates", "bad", "anonymous"), [(0.0, -0.1, 0.2), (0.6, 0.6, 0.2), (0.1, 0.1, 1.5)])
def test_impossible_shares_are_refused(duplicates: float, bad: float, anonymous: float) -> None:
    with pytest.raises(ValueError, match="shares"):
        Clickstream(1, duplicate_share=duplicates, bad_share=bad, anonymous_share=anonymous)
