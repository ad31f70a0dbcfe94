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
    with pytest.raises(DeclarationError, match="prefixes"):
        Registry().agent(source="in", views=views)(body)


@pytest.mark.xfail(strict=True, reason="a prefix may begin with another one: a scan of view b'p' then shows keys of view b'pq'")
def test_no_prefix_begins_with_another() -> None:
    views = (struct_view("a", b"p", int), struct_view("b", b"pq", int))
    with pytest.raises(DeclarationError):
        Registry().agent(source="in", views=views)(body)


def test_a_view_keeps_its_values_through_its_own_encoding() -> None:
    assert USERS.decode(USERS.encode(7)) == 7
    assert USERS.raw_key("é") == b"p\xc3\xa9"
