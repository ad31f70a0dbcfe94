"""Exceptions in words: groups stay together, payload text stays out."""

from __future__ import annotations

import pytest

from app.dead_letters.trace import describe, fingerprint, qualified_name, shape_of


class GeoError(Exception):
    """An error with a module."""


def fail(kind: type[Exception], text: str) -> Exception:
    try:
        raise kind(text)
    except kind as exc:
        return exc


def fail_elsewhere(kind: type[Exception], text: str) -> Exception:
    try:
        raise kind(text)
    except kind as exc:
        return exc


def wrapped() -> Exception:
    try:
        try:
            raise KeyError("jane@example.org")
        except KeyError as cause:
            raise GeoError("for jane@example.org") from cause
    except GeoError as exc:
        return exc


def test_the_text_of_an_exception_is_no_part_of_it() -> None:
    one, two = fail(GeoError, "one"), fail(GeoError, "two")

    assert describe(one) == describe(two)
    assert shape_of(one) == shape_of(two)


def test_class_and_place_tell_failures_apart() -> None:
    shapes = {shape_of(fail(GeoError, "x")), shape_of(fail(ValueError, "x")), shape_of(fail_elsewhere(GeoError, "x"))}

    assert len(shapes) == 3
    assert describe(fail(GeoError, "x")).frame == "dead_letters/test_trace.py:fail"


def test_a_cause_is_in_the_trace_before_what_it_led_to() -> None:
    text = describe(wrapped()).stacktrace.decode()

    assert text.index("KeyError\n") < text.index("The above led to") < text.index("GeoError\n")


def test_a_circle_of_causes_ends() -> None:
    one, two = GeoError("1"), GeoError("2")
    one.__cause__, two.__cause__ = two, one

    assert describe(one).name.endswith("GeoError")
    assert len(shape_of(one)) == 2


def test_an_exception_that_was_never_raised_has_no_frame() -> None:
    assert describe(GeoError("x")).frame == ""


def test_a_deep_trace_keeps_its_end_within_8_kib() -> None:
    def dive(depth: int) -> None:
        if depth == 0:
            raise GeoError("bottom")
        dive(depth - 1)

    with pytest.raises(GeoError) as caught:
        dive(300)
    trace = describe(caught.value).stacktrace

    assert len(trace) <= 8192
    assert trace.decode().rstrip().endswith("GeoError")


def test_names_are_qualified_except_builtins() -> None:
    assert qualified_name(KeyError) == "KeyError"
    assert qualified_name(GeoError) == f"{__name__}.GeoError"


def test_a_fingerprint_is_16_hex_digits_of_stage_class_and_place() -> None:
    prints = {
        fingerprint(*parts) for parts in (("a", "b", "c"), ("x", "b", "c"), ("a", "x", "c"), ("a", "b", "x"), ("a", "bc", ""))
    }

    assert len(prints) == 5
    assert all(len(value) == 16 and int(value, 16) >= 0 for value in prints)
