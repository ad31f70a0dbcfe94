"""Are wrong results seen?"""

from __future__ import annotations

import pytest

from bench.cases.drain import Sample, drain_numbers, medians, too_short
from bench.cases.latency import latencies
from bench.events import Expected
from bench.host import cpu_model, kafka_version
from bench.schedule import NANOSECOND, Slice
from bench.services import metrics
from bench.verify import Outcome, defects, disagreement, outcome_of

EXPECTED = Expected(events=4, unique=2, duplicates=1, bad=1, users=1, value_bytes=100)


def enriched(message_id: str, sequence: int = 1) -> bytes:
    return f'{{"messageId":"{message_id}","veltrix":{{"sequence":{sequence}}}}}'.encode()


def test_an_exact_outcome_has_no_defects() -> None:
    assert defects("worker", outcome_of([enriched("a"), enriched("b")], dead_letters=1), EXPECTED) == []


@pytest.mark.parametrize(
    ("values", "dead_letters", "words"),
    [
        ([enriched("a")], 1, "1 distinct enriched events, expected 2"),
        ([enriched("a"), enriched("b"), enriched("b")], 1, "1 events were published twice"),
        ([enriched("a"), enriched("b")], 0, "0 dead letters, expected 1"),
    ],
)
def test_each_kind_of_wrong_result_is_named(values: list[bytes], dead_letters: int, words: str) -> None:
    (found,) = defects("worker", outcome_of(values, dead_letters), EXPECTED)

    assert words in found


def test_a_value_without_a_message_id_is_an_error() -> None:
    with pytest.raises(ValueError, match="subsection not found"):
        outcome_of([b"{}"], 0)


def test_the_order_of_events_and_a_repeat_do_not_change_the_digest() -> None:
    one = outcome_of([enriched("a"), enriched("b")], 0)
    other = outcome_of([enriched("b"), enriched("a"), enriched("b")], 0)

    assert one.digest == other.digest


def test_subjects_that_publish_other_bytes_disagree() -> None:
    worker, hand = outcome_of([enriched("a", 1)], 0), outcome_of([enriched("a", 2)], 0)

    assert disagreement({"worker": worker, "hand": worker}) == []
    assert "differ" in disagreement({"worker": worker, "hand": hand})[0]
    assert disagreement({"hand": Outcome(0, 0, 0, 0)}) == []


def test_rates_leave_out_what_was_done_before_the_first_sample() -> None:
    expected = Expected(events=1000, unique=900, duplicates=50, bad=50, users=9, value_bytes=1)
    first, last = Sample(10.0, 90, 1.0, 5.0), Sample(12.0, 900, 2.8, 6.0)
    settled = Sample(12.5, 900, 3.0, 6.5)

    found = drain_numbers(first, last, settled, expected)

    assert found["events_per_second"] == 450  # 900 of the 1000 source events in two seconds
    assert found["events_per_cpu_second"] == 450  # and in two CPU seconds, the commit's included
    assert found["broker_cpu_seconds"] == 1.5


def test_repeats_give_the_median_and_the_spread_of_the_rates() -> None:
    tries = [{"events_per_second": rate, "events_per_cpu_second": 2 * rate, "seconds": 3.0} for rate in (30.0, 10.0, 20.0)]

    assert medians(tries[:1]) == tries[0]
    assert medians(tries) == tries[2] | {
        "events_per_second_min": 10.0,
        "events_per_second_max": 30.0,
        "events_per_cpu_second_min": 20.0,
        "events_per_cpu_second_max": 60.0,
    }


def test_a_drain_that_is_over_at_once_gives_no_rate() -> None:
    assert too_short({"worker": {"seconds": 20.0}}) == []
    assert "hand drained in 0.4 s" in too_short({"worker": {"seconds": 20.0}, "hand": {"seconds": 0.4}})[0]


def test_latency_is_counted_by_intended_time_and_without_warm_up() -> None:
    plan = [Slice("t", 0, 1, 1, warmup=True), Slice("t", 1, 1, 1), Slice("other", 2, 1, 1), Slice("t", 3, 1, 1)]
    arrivals = [(int(second * NANOSECOND), int(second * NANOSECOND) + 5_000) for second in (0.5, 1.0, 1.9, 2.5, 3.5)]

    assert list(latencies(plan, 0, "t", arrivals)) == [[5, 5], [5]]


def test_prometheus_samples_are_summed_over_labels() -> None:
    text = '# HELP x y\nx_total{a="1 2"} 3.0\nx_total{a="2"} 4\ny 1e+06\n'

    assert metrics(text) == {"x_total": 7.0, "y": 1_000_000.0}


def test_the_host_is_described_from_what_is_there() -> None:
    assert cpu_model("processor : 0\nmodel name\t: Some CPU @ 3GHz\n") == "Some CPU @ 3GHz"
    assert cpu_model("processor : 0\n") != ""
    assert kafka_version(["slf4j-api-1.7.36.jar", "kafka_2.13-4.4.0.jar", "kafka-clients-4.4.0.jar"]) == "4.4.0"
    assert kafka_version([]) == "unknown"
