"""``veltrix generate --seed-reference``: rows for the visitors and products of the generated traffic."""

from __future__ import annotations

from typing import Any

from sqlalchemy import func, select
from sqlalchemy.exc import SQLAlchemyError

from app.cli.console import CommandError
from app.enrichment.schema import ITEMS, USERS, create_default_schema, seed_reference
from app.enrichment.store import make_engine
from app.settings import Settings


async def seed(settings: Settings, users: int, items: int) -> dict[str, Any]:
    """Make ``users`` and ``items`` where they are missing and fill them; rows that are there stay. Returns how many there are.

    Raises:
        CommandError: the tables are somebody's own, or the database does not take them.
    """
    if settings.reference_file is not None:
        raise CommandError("VELTRIX_REFERENCE_FILE names tables of your own; unset it to fill the ones that come with Veltrix")
    engine = make_engine(settings)
    try:
        await create_default_schema(engine)
        await seed_reference(engine, users, items)
        async with engine.connect() as connection:
            counted = {
                table.name: (await connection.execute(select(func.count()).select_from(table))).scalar_one()
                for table in (USERS, ITEMS)
            }
    except (SQLAlchemyError, OSError) as exc:
        raise CommandError(f"{engine.url} was not filled: {exc}. Check VELTRIX_REFERENCE_URL, its rights and its password") from exc
    finally:
        await engine.dispose()
    return {"url": str(engine.url), **counted}
