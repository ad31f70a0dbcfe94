"""Check of ``veltrix doctor`` for the reference database."""

from __future__ import annotations

from app.cli.checkup import Check, fail, ok, warn
from app.enrichment.api import ReferenceConfigError, ReferenceSchemaError, StoreUnavailable
from app.enrichment.declaration import load_declaration
from app.enrichment.store import SqlReferenceStore, make_engine
from app.settings import Settings

NAME = "reference data"


async def check_reference(settings: Settings) -> Check:
    """The declaration is right, the database answers and has what is declared."""
    if not settings.enrichment_enabled:
        return ok(NAME, "not used (VELTRIX_ENRICHMENT_ENABLED is off)")
    try:
        tables = load_declaration(settings.reference_file)
        engine = make_engine(settings)
    except ReferenceConfigError as exc:
        return fail(NAME, str(exc), "correct the declaration or the setting; a worker does not start with it")
    store = SqlReferenceStore(engine, settings.reference_timeout_ms / 1000)
    joined = ", ".join(f"{table.name} by {table.match or 'nothing'}" for table in tables.values())
    try:
        await store.check(tables.values())
    except ReferenceSchemaError as exc:
        if engine.dialect.name == "sqlite" and settings.reference_file is None:
            return ok(NAME, f"{engine.url}: a worker will make the tables; `veltrix generate --seed-reference` fills them")
        return fail(NAME, str(exc), "make the tables, or correct the declaration; a worker does not start without them")
    except StoreUnavailable as exc:
        return warn(
            NAME, str(exc), "events go on as the policy of their table says; start the database, check VELTRIX_REFERENCE_URL"
        )
    finally:
        await store.aclose()
    return ok(NAME, f"{engine.url}: {joined}")
