"""Telling the reference cache by hand that rows have changed."""

from __future__ import annotations

from typing import Annotated, Protocol

import structlog
from aiokafka.errors import KafkaError
from fastapi import APIRouter
from pydantic import BaseModel, Field

from app.enrichment.api import UnknownReference
from app.kafka_clients import KafkaConnectError
from app.sidecar.problems import Problem

log = structlog.get_logger(__name__)

MOST_KEYS = 1000


class References(Protocol):
    """Who forgets rows, here and on the other workers."""

    async def invalidate(self, table: str, keys: list[str]) -> None:
        """See :class:`app.reference_service.ReferenceService`."""
        ...


class NoReferences:
    """A worker that joins nothing: no table is declared."""

    async def invalidate(self, table: str, keys: list[str]) -> None:
        """See :class:`References`."""
        raise UnknownReference(table, ())


class InvalidateRequest(BaseModel):
    """Rows that have changed in the reference database."""

    table: str = Field(min_length=1, max_length=64, examples=["users"])
    keys: list[Annotated[str, Field(min_length=1, max_length=512)]] = Field(min_length=1, max_length=MOST_KEYS, examples=[["42"]])


class InvalidateAnswer(BaseModel):
    """They are read anew when they are next needed: here from now on, on other workers within a second."""

    table: str
    keys: int


def references_router(references: References) -> APIRouter:
    """``/cache``."""
    router = APIRouter(prefix="/cache", tags=["reference data"])

    @router.post("/invalidate")
    async def invalidate(request: InvalidateRequest) -> InvalidateAnswer:
        """Forget these rows everywhere. Tell it after the change is committed: an earlier read would cache the old row again."""
        try:
            await references.invalidate(request.table, request.keys)
        except UnknownReference as exc:
            raise Problem(404, "unknown-reference", str(exc)) from exc
        except (KafkaError, KafkaConnectError) as exc:
            detail = f"This worker has forgotten them; the others could not be told: {exc}. Send it again."
            raise Problem(503, "kafka-unavailable", detail, headers={"retry-after": "1"}) from exc
        log.info("reference_rows_invalidated", table=request.table, keys=len(request.keys))
        return InvalidateAnswer(table=request.table, keys=len(request.keys))

    return router
