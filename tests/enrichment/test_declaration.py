"""A declaration is taken whole or refused with what to do about it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from app.enrichment.api import ReferenceConfigError
from app.enrichment.declaration import ReferenceTable, load_declaration, parse_declaration

GOOD: dict[str, Any] = {"name": "users", "table": "users", "key": "user_id", "columns": ["plan", "country"]}


def refusal(*tables: Any) -> str:
    with pytest.raises(ReferenceConfigError) as caught:
        parse_declaration({"reference": list(tables)}, "x.toml")
    return str(caught.value)


def test_without_a_file_there_are_users_and_items() -> None:
    declared = load_declaration()

    assert {name: table.columns for name, table in declared.items()} == {
        "users": ("plan", "country", "signup_date"),
        "items": ("title", "category", "price"),
    }
    assert declared["users"].default_row == {"plan": "unknown", "country": None, "signup_date": None}


def test_a_file_is_read(tmp_path: Path) -> None:
    (tmp_path / "my.toml").write_text('[[reference]]\nname="a"\ntable="s.t"\nkey="k"\ncolumns=["c"]\nttl_s=5\npolicy="retry"\n')

    table = load_declaration(tmp_path / "my.toml")["a"]

    assert (table.table, table.ttl_s, table.policy) == ("s.t", 5, "retry")


def test_a_default_row_has_every_column_in_order() -> None:
    table = parse_declaration({"reference": [GOOD | {"default": {"country": "?"}}]}, "x")["users"]

    assert list(table.default_row.items()) == [("plan", None), ("country", "?")]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"default": {"plam": "x"}},
            "of users: default names the unknown column 'plam': add it to columns or remove it. Did you mean plan?",
        ),
        ({"columns": ["plan", "plan"]}, "columns of users: plan is listed twice: remove one of them"),
        ({"columns": []}, "columns of users: Tuple should have at least 1 item"),
        ({"policy": "drop"}, "policy of users: Input should be 'pass' or 'retry': choose one of them"),
        ({"tll_s": 5}, "tll_s of users: Extra inputs are not permitted: did you mean ttl_s?"),
        ({"zzz": 5}, "zzz of users: Extra inputs are not permitted: remove it; known are name, table"),
        ({"ttl_s": 0}, "ttl_s of users: Input should be greater than 0"),
        ({"ttl_s": "10m"}, "ttl_s of users: Input should be a valid number"),
        ({"name": "Users!"}, "name of Users!: String should match pattern"),
        ({"table": "a.b.c"}, "table of users: String should match pattern"),
    ],
)
def test_a_wrong_field_is_named_with_its_table_and_cure(change: dict[str, Any], message: str) -> None:
    assert message in refusal(GOOD | change)


def test_a_missing_field_is_named() -> None:
    assert "key of users: Field required: add it" in refusal({name: value for name, value in GOOD.items() if name != "key"})
    assert "name of reference number 2: Field required: add it" in refusal(GOOD, {k: v for k, v in GOOD.items() if k != "name"})


def test_a_name_is_given_once() -> None:
    assert "the name users is given to two tables: rename one of them" in refusal(GOOD, GOOD | {"table": "other"})


def test_all_that_is_wrong_is_said_at_once() -> None:
    message = refusal(GOOD | {"ttl_s": 0}, GOOD | {"name": "items", "policy": "x"})

    assert "ttl_s of users" in message
    assert "policy of items" in message


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("reference = 1", "reference: Input should be a valid list"),
        ("reference = [1]", "table of reference number 1: Input should be a valid"),
        ("", "reference: Field required: add it"),
        ("[[referense]]", "did you mean reference?"),
        ("[[", "is not TOML"),
    ],
)
def test_a_file_that_is_no_declaration_says_where(tmp_path: Path, content: str, message: str) -> None:
    (tmp_path / "my.toml").write_text(content)

    with pytest.raises(ReferenceConfigError) as caught:
        load_declaration(tmp_path / "my.toml")

    assert str(tmp_path / "my.toml") in str(caught.value)
    assert message in str(caught.value)


def test_a_file_that_is_not_there_names_the_setting(tmp_path: Path) -> None:
    with pytest.raises(ReferenceConfigError, match=r"No such file.*: correct VELTRIX_REFERENCE_FILE, or unset it"):
        load_declaration(tmp_path / "none.toml")


def test_the_fingerprint_follows_what_a_row_means_and_nothing_else() -> None:
    base = ReferenceTable.model_validate(GOOD | {"columns": ("plan", "country")})

    assert base.fingerprint == base.model_copy(update={"ttl_s": 1, "name": "other"}).fingerprint
    for change in ({"columns": ("plan",)}, {"columns": ("country", "plan")}, {"table": "x"}, {"key": "x"}):
        assert base.model_copy(update=change).fingerprint != base.fingerprint
