"""Errors as RFC 9457 problem details: every answer that is not a success has the same shape.

``{"type", "title", "status", "detail", "instance", ...}`` as ``application/problem+json``. A handler raises
``Problem``; what FastAPI and Starlette raise themselves (404, 405, 422, 500) is translated here.
"""

from __future__ import annotations

from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request
from fastapi.encoders import jsonable_encoder
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

MEDIA_TYPE = "application/problem+json"
TYPE_PREFIX = "urn:veltrix:problem:"
#: Also on answers made outside the middleware stack (500), hence here.
SECURITY_HEADERS = {
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "no-referrer",
    "cross-origin-resource-policy": "same-origin",
    "cache-control": "no-store",
    "content-security-policy": "default-src 'none'; frame-ancestors 'none'",
}


#: For ``FastAPI(responses=...)``: what every answer that is no success looks like.
RESPONSES: dict[int | str, dict[str, Any]] = {
    "default": {
        "description": "It did not succeed (RFC 9457)",
        "content": {
            MEDIA_TYPE: {
                "schema": {
                    "type": "object",
                    "required": ["type", "title", "status", "detail", "instance"],
                    "properties": {
                        "type": {"type": "string", "description": "Stable: what programs go by"},
                        "title": {"type": "string"},
                        "status": {"type": "integer"},
                        "detail": {"type": "string", "description": "For people: what to do"},
                        "instance": {"type": "string"},
                    },
                },
                "example": {
                    "type": TYPE_PREFIX + "unknown-record",
                    "title": "Unknown record",
                    "status": 404,
                    "detail": "there is no such record",
                    "instance": "/api/v1/dlq/records/dlq.veltrix.interactions:3:1042",
                },
            }
        },
    }
}


class Problem(Exception):
    """An expected failure of a request. ``kind`` is stable and names it for programs; ``extra`` becomes members."""

    def __init__(
        self,
        status: int,
        kind: str,
        detail: str,
        extra: Mapping[str, Any] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(detail)
        self.status, self.kind, self.detail = status, kind, detail
        self.extra, self.headers = dict(extra or {}), dict(headers or {})

    def response(self, instance: str) -> JSONResponse:
        """The answer for the request path ``instance``."""
        title = self.kind.replace("-", " ").capitalize()
        body = {"type": TYPE_PREFIX + self.kind, "title": title, "status": self.status, "detail": self.detail, "instance": instance}
        return JSONResponse(body | self.extra, self.status, SECURITY_HEADERS | self.headers, MEDIA_TYPE)


def install(app: FastAPI) -> None:
    """Translate every kind of failure of ``app``."""
    app.add_exception_handler(Problem, _problem)
    app.add_exception_handler(HTTPException, _http)
    app.add_exception_handler(RequestValidationError, _validation)
    app.add_exception_handler(Exception, _unexpected)


async def _problem(request: Request, exc: Exception) -> JSONResponse:
    assert isinstance(exc, Problem)
    return exc.response(request.url.path)


async def _http(request: Request, exc: Exception) -> JSONResponse:
    assert isinstance(exc, HTTPException)
    phrase = HTTPStatus(exc.status_code).phrase
    details = {404: f"Nothing is served at {request.url.path}.", 405: f"{request.method} is not allowed here."}
    detail = details.get(exc.status_code, exc.detail)
    return Problem(exc.status_code, phrase.lower().replace(" ", "-"), detail, headers=exc.headers).response(request.url.path)


async def _validation(request: Request, exc: Exception) -> JSONResponse:
    assert isinstance(exc, RequestValidationError)
    errors = [{"at": ".".join(map(str, error["loc"])), "message": error["msg"]} for error in jsonable_encoder(exc.errors())]
    detail = "; ".join(f"{error['at']}: {error['message']}" for error in errors)
    return Problem(422, "invalid-request", detail, {"errors": errors}).response(request.url.path)


async def _unexpected(request: Request, _exc: Exception) -> JSONResponse:
    """The server logs the exception with its trace (uvicorn does, after this answer); the client learns nothing of it."""
    return Problem(500, "internal-error", "The request failed; the log of this worker says why.").response(request.url.path)
