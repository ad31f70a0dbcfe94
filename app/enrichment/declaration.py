"""Which reference tables there are: a TOML file, checked as a whole before anything starts."""

from __future__ import annotations

import difflib
import hashlib
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from app.enrichment.api import ReferenceConfigError

DEFAULT_FILE: Final = Path(__file__).with_name("default.toml")
DAY_S: Final = 86_400
Policy = Literal["pass", "retry"]
Column = Annotated[str, Field(min_length=1, max_length=63)]
Scalar = str | int | float | bool | None


class ReferenceTable(BaseModel):
    """One declared table. Frozen; two with the same name never exist."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    name: str = Field(pattern=r"^[a-z][a-z0-9_]{0,40}$", description="In metrics, Redis keys and reference-changes")
    table: str = Field(pattern=r"^[^.\s]+(\.[^.\s]+)?$", description="In the database: table or schema.table")
    key: Column = Field(description="Unique column of text or integers")
    columns: tuple[Column, ...] = Field(min_length=1, strict=False)
    match: Literal["user", "item"] | None = Field(
        None, description="Events are joined by userId or by each product_id; absent: by nothing"
    )
    ttl_s: float = Field(600, gt=0, le=30 * DAY_S, description="A row is fresh for this long")
    negative_ttl_s: float = Field(60, ge=0, le=DAY_S, description="An absent row is believed for this long")
    stale_while_revalidate_s: float = Field(120, ge=0, le=DAY_S, description="After its ttl a row is given and fetched anew")
    stale_if_error_s: float = Field(3600, ge=0, le=30 * DAY_S, description="After its ttl it is given while the database is down")
    ttl_jitter: float = Field(0.1, ge=0, le=0.5, description="Up to this share of the ttl is taken off, by key")
    policy: Policy = Field("pass", description="What the caller does with an event when nobody can tell")
    default: dict[str, Scalar] = Field(default_factory=dict, description="Columns of a row that does not exist; others: null")

    @field_validator("columns")
    @classmethod
    def _columns_are_distinct(cls, columns: tuple[str, ...]) -> tuple[str, ...]:
        if twice := sorted({column for column in columns if columns.count(column) > 1}):
            raise ValueError(f"{', '.join(twice)} is listed twice: remove one of them")
        return columns

    @model_validator(mode="after")
    def _default_fits(self) -> ReferenceTable:
        for column in self.default:
            if column not in self.columns:
                close = difflib.get_close_matches(column, self.columns, 1)
                hint = f" Did you mean {close[0]}?" if close else ""
                raise ValueError(f"default names the unknown column {column!r}: add it to columns or remove it.{hint}")
        return self

    @property
    def default_row(self) -> dict[str, Any]:
        """What stands for a row that does not exist: every column, in the order of their declaration."""
        return {column: self.default.get(column) for column in self.columns}

    @property
    def fingerprint(self) -> str:
        """Changes when what a cached row means changes: then entries of another version are not seen any more."""
        meaning = "\0".join((self.table, self.key, *self.columns))
        return hashlib.sha256(meaning.encode()).hexdigest()[:8]


class _Declaration(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)

    reference: list[ReferenceTable] = Field(min_length=1)

    @model_validator(mode="after")
    def _names_are_distinct(self) -> _Declaration:
        names = [table.name for table in self.reference]
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise ValueError(f"the name {', '.join(twice)} is given to two tables: rename one of them")
        return self


def load_declaration(path: Path | None = None) -> dict[str, ReferenceTable]:
    """Reference tables by name, from ``path`` or the file that comes with Veltrix.

    Raises:
        ReferenceConfigError: it cannot be read, or something in it is wrong; says where and what to do.
    """
    path = path or DEFAULT_FILE
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as exc:
        raise ReferenceConfigError(
            f"{path} cannot be read ({exc.strerror}): correct VELTRIX_REFERENCE_FILE, or unset it for users and items"
        ) from exc
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as exc:
        raise ReferenceConfigError(f"{path} is not TOML: {exc}. Compare it with {DEFAULT_FILE}") from exc
    return parse_declaration(content, str(path))


def parse_declaration(content: Mapping[str, Any], source: str) -> dict[str, ReferenceTable]:
    """Check what a file (``source``, for messages) says.

    Raises:
        ReferenceConfigError: all that is wrong, each with its place and cure.
    """
    try:
        declared = _Declaration.model_validate(content)
    except ValidationError as exc:
        lines = [_line(error["loc"], error["msg"], error["type"], content) for error in exc.errors(include_url=False)]
        raise ReferenceConfigError(f"{source}: wrong reference tables:\n" + "\n".join(lines)) from None
    return {table.name: table for table in declared.reference}


def _line(loc: tuple[int | str, ...], message: str, kind: str, content: Mapping[str, Any]) -> str:
    where = ".".join(str(part) for part in loc) or "file"
    if len(loc) > 1 and isinstance(loc[1], int):
        table = content["reference"][loc[1]]
        name = table.get("name") if isinstance(table, Mapping) else None
        where = f"{'.'.join(map(str, loc[2:])) or 'table'} of {name or f'reference number {loc[1] + 1}'}"
    advice = {"missing": "add it", "literal_error": "choose one of them"}.get(kind)
    if kind == "extra_forbidden":
        advice = _unknown(str(loc[-1]), nested=len(loc) > 1)
    return f"  {where}: {message.removeprefix('Value error, ')}" + (f": {advice}" if advice else "")


def _unknown(name: str, nested: bool) -> str:
    known = list((ReferenceTable if nested else _Declaration).model_fields)
    close = difflib.get_close_matches(name, known, 1)
    return f"did you mean {close[0]}?" if close else f"remove it; known are {', '.join(known)}"
