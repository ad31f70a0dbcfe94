"""Agents are declared without an app; a wrong declaration is named."""

from __future__ import annotations

import pytest

from app.engine.api import Batch, Effects, View, struct_view
from app.engine.declare import DeclarationError, Registry
from app.settings import Settings

USERS = struct_view("users", b"p", int)


async def body(batch: Batch[None]) -> Effects:
    """First line.

    More.
    """
    return batch.effects()


def test_a_declaration_holds_what_its_file_says_and_leaves_the_body_as_it_is() -> None:
    registry = Registry()
    assert registry.agent(source="in", views=(USERS,), setup=lambda settings: settings.app_id)(body) is body
    (declared,) = registry
    assert (declared.name, declared.source, declared.body, declared.views, declared.help) == (
        "body",
        "in",
        body,
        (USERS,),
        "First line.",
    )
    assert declared.setup(Settings(app_id="x")) == "x"


def test_without_a_setup_the_context_is_nothing() -> None:
    registry = Registry()
    registry.agent(source="in")(body)
    (declared,) = registry
    assert declared.setup(Settings()) is None


def test_a_name_is_declared_once() -> None:
    registry = Registry()
    registry.agent(source="in")(body)
    with pytest.raises(DeclarationError, match="body is declared twice"):
        registry.agent(source="other")(body)
    assert [declared.source for declared in registry] == ["in"]


@pytest.mark.parametrize("prefixes", [(b"p", b"p"), (b"",), (b"\0x",), (b"p", b"\0veltrix")])
def test_view_prefixes_are_distinct_not_empty_and_not_the_engines(prefixes: tuple[bytes, ...]) -> None:
    views: tuple[View[int], ...] = tuple(struct_view(f"v{n}", prefix, int) for n, prefix in enumerate(prefixes))
    with pytest.raises(DeclarationError, match="prefix"):
        Registry().agent(source="in", views=views)(body)


@pytest.mark.parametrize("prefixes", [(b"p", b"pq"), (b"pq", b"a", b"p"), (b"a", b"pa", b"p", b"pb")])
def test_no_prefix_begins_with_another_or_a_scan_would_mix_two_views(prefixes: tuple[bytes, ...]) -> None:
    views: tuple[View[int], ...] = tuple(struct_view(f"v{n}", prefix, int) for n, prefix in enumerate(prefixes))
    with pytest.raises(DeclarationError, match="begin with another"):
        Registry().agent(source="in", views=views)(body)


def test_a_view_keeps_its_values_through_its_own_encoding() -> None:
    assert USERS.decode(USERS.encode(7)) == 7
    assert USERS.raw_key("é") == b"p\xc3\xa9"
