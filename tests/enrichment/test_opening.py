"""Opening the reference cache: from settings alone, with a database that is away, and never on a wrong declaration."""

from __future__ import annotations

import asyncio
import shutil
import threading
from pathlib import Path

import pytest

from app.enrichment.api import Known, ReferenceConfigError, ReferenceSchemaError, Unavailable
from app.enrichment.opening import open_reference
from app.enrichment.schema import create_default_schema, seed_reference
from app.enrichment.store import make_engine
from app.settings import Settings, load_settings


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return load_settings(reference_url=f"sqlite:///{tmp_path}/var/reference.sqlite", reference_timeout_ms=2000)


async def seed(settings: Settings) -> None:
    engine = make_engine(settings)
    await create_default_schema(engine)
    await seed_reference(engine, 10, 10)
    await engine.dispose()


async def test_the_database_that_comes_along_is_made_and_empty(settings: Settings) -> None:
    cache = await open_reference(settings, None)
    answers = await cache.get_many("users", ["user-000001"])
    await cache.aclose()

    assert [answer.found for answer in answers.values() if isinstance(answer, Known)] == [False]


async def test_what_was_seeded_is_found_by_the_ids_of_generated_traffic(settings: Settings) -> None:
    await seed(settings)
    cache = await open_reference(settings, None)
    users = await cache.get_many("users", ["user-000005", "user-000010"])
    items = await cache.get_many("items", ["p000003"])
    await cache.aclose()

    assert [answer.found for answer in users.values() if isinstance(answer, Known)] == [True, False]
    answer = items["p000003"]
    assert isinstance(answer, Known)
    assert answer.raw == b'{"title":"Music no. 3","category":"music","price":158.99}'


async def test_a_declaration_that_the_database_does_not_fit_is_no_start(settings: Settings, tmp_path: Path) -> None:
    await seed(settings)
    file = tmp_path / "my.toml"
    file.write_text('[[reference]]\nname="users"\ntable="users"\nkey="user_id"\ncolumns=["plam"]\n')

    with pytest.raises(ReferenceSchemaError, match=r"has no column plam \(it has: user_id, plan"):
        await open_reference(settings.model_copy(update={"reference_file": file}), None)


async def test_a_database_that_is_away_is_no_reason_not_to_start(settings: Settings, tmp_path: Path) -> None:
    file = tmp_path / "my.toml"
    file.write_text('[[reference]]\nname="users"\ntable="users"\nkey="user_id"\ncolumns=["plan"]\n')
    folder = tmp_path / "var"
    folder.mkdir()
    (folder / "reference.sqlite").write_text("This is no database yet. " * 100)
    cache = await open_reference(settings.model_copy(update={"reference_file": file}), None)
    assert await cache.get_many("users", ["user-000005"]) == {"user-000005": Unavailable("database_down")}
    await seed(load_settings(reference_url=f"sqlite:///{tmp_path}/seeded"))
    shutil.copyfile(tmp_path / "seeded", folder / "reference.sqlite")
    answer = (await cache.get_many("users", ["user-000005"]))["user-000005"]
    await cache.aclose()

    assert isinstance(answer, Known)
    assert answer.value == {"plan": "plus"}


async def test_a_place_that_cannot_hold_a_database_names_the_setting(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for url in (f"sqlite:///{tmp_path}/file/reference.sqlite", f"sqlite:///{tmp_path}"):
        with pytest.raises(ReferenceConfigError, match=r"cannot be made \(.*\): correct VELTRIX_REFERENCE_URL"):
            await open_reference(load_settings(reference_url=url), None)
    # The thread of a connection that failed says good-bye to the event loop: it must not be closed by then.
    for thread in threading.enumerate():
        if "_connection_worker_thread" in thread.name:
            await asyncio.to_thread(thread.join)
