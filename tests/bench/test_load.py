"""Stamps, templates and the files between the benchmark's processes."""

from __future__ import annotations

from array import array
from itertools import islice
from pathlib import Path

import pytest

from app.domain.enriched import enrich
from app.domain.routing import partition_of
from bench import reader
from bench.events import Expected, clean_clicks, clicks, only_partition, read_events, templates, write_events
from bench.load import SLOT, load_templates, read_stamp, stamp
from bench.reader import Arrivals

START_MS = 1_700_000_000_000


def test_the_stamp_survives_enrichment(tmp_path: Path) -> None:
    write_events(tmp_path / "t.bin", templates(clean_clicks(3, START_MS), SLOT))
    _, head, tail = load_templates(tmp_path / "t.bin")[0]

    value = enrich(head + stamp(42, 123_456_789) + tail, sequence=1, received_ms=2, has_member=False)

    assert read_stamp(value) == (42, 123_456_789)


def test_an_event_without_a_stamp_is_an_error() -> None:
    with pytest.raises(ValueError, match="subsection not found"):
        read_stamp(b'{"messageId":"other"}')


def test_events_come_back_from_their_file_in_order(tmp_path: Path) -> None:
    made = list(clicks(500, START_MS))

    write_events(tmp_path / "e.bin", iter(made))

    assert list(read_events(tmp_path / "e.bin")) == [(click.key, click.value) for click in made]


def test_expectations_add_up_and_are_known_for_a_first_part(tmp_path: Path) -> None:
    expected = write_events(tmp_path / "e.bin", clicks(3000, START_MS), marks=[1000])

    assert set(expected) == {1000, 3000}
    for count, part in expected.items():
        assert part.events == count == part.unique + part.duplicates + part.bad
        assert 0 < part.bad < part.events * 0.02
        assert 0 < part.duplicates < part.events * 0.03
    assert expected[1000].users < expected[3000].users


def test_the_expectation_of_a_first_part_is_that_of_a_shorter_run(tmp_path: Path) -> None:
    long = write_events(tmp_path / "long.bin", clicks(2000, START_MS), marks=[700])
    short = write_events(tmp_path / "short.bin", clicks(700, START_MS))

    assert long[700] == short[700]


def test_clean_traffic_has_neither_duplicates_nor_defects(tmp_path: Path) -> None:
    expected = write_events(tmp_path / "c.bin", clean_clicks(2000, START_MS, users=1))[2000]

    assert expected == Expected(2000, 2000, 0, 0, users=1, value_bytes=expected.value_bytes)


def test_the_hot_case_meets_one_partition_only() -> None:
    hot = list(islice(only_partition(clean_clicks(5000, START_MS), 3, 10), 50))

    assert len(hot) == 50
    assert {partition_of(click.key, 10) for click in hot} == {3}


def test_arrivals_count_an_event_once_and_keep_its_first_time(tmp_path: Path) -> None:
    found = Arrivals()
    found.add(1, 100, 150)
    found.add(2, 110, 160)
    found.add(1, 100, 900)
    reader.save(tmp_path / "a.bin", found.times)

    assert found.repeats == 1
    assert reader.load(tmp_path / "a.bin") == [(100, 150), (110, 160)]


def test_no_arrivals_make_an_empty_file(tmp_path: Path) -> None:
    reader.save(tmp_path / "a.bin", array("q"))

    assert reader.load(tmp_path / "a.bin") == []
