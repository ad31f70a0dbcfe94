"""Header values: what is written is read again; what is not ours is None."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.dead_letters import headers as h


@given(st.integers(0, 4_102_444_800_000))
def test_a_moment_survives_its_text(epoch_ms: int) -> None:
    assert h.parse_rfc3339(h.rfc3339(epoch_ms).encode()) == epoch_ms


@pytest.mark.parametrize("raw", [None, b"", b"yesterday", b"2023-11-14T22:13:20", b"\xff"])
def test_a_text_that_is_no_moment_is_none(raw: bytes | None) -> None:
    assert h.parse_rfc3339(raw) is None


@pytest.mark.parametrize(
    ("raw", "number"), [(b"12", 12), (b" 7 ", 7), (b"-1", -1), (b"", None), (None, None), (b"1e3", None), (b"9" * 99, None)]
)
def test_a_number_is_decimal(raw: bytes | None, number: int | None) -> None:
    assert h.parse_int(raw) == number


@given(st.text(), st.integers(0, 30))
def test_a_clipped_text_is_utf8_within_its_limit(text: str, limit: int) -> None:
    for clipped in (h.clip(text, limit), h.clip_start(text, limit)):
        assert len(clipped) <= limit or limit == 0
        assert clipped.decode(errors="strict") in text.encode(errors="replace").decode()


@pytest.mark.parametrize("raw", [None, b"", b"nonsense", b"{}", b'[{"at":1}]', b"\xff"])
def test_attempts_of_others_are_none(raw: bytes | None) -> None:
    assert h.decode_attempts(raw) == []


def test_attempts_survive_their_text() -> None:
    attempts = [h.Attempt("2023-11-14T22:13:20.123Z", "decode", 'odd "name"')]

    assert h.decode_attempts(h.encode_attempts(attempts)) == attempts
