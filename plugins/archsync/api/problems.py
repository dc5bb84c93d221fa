"""What went wrong, as problem details (RFC 9457): a stable code, a sentence, what to do."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel, Field
from starlette.exceptions import HTTPException

from archsync.api.links import troubleshooting_url
from archsync.errors import (
    ArchsyncError,
    ConfigurationError,
    InvalidInput,
    OutcomeUnknown,
    PeerRefused,
    PeerUnavailable,
    StoreUnavailable,
)

log = logging.getLogger(__name__)

MEDIA_TYPE = "application/problem+json"


class Problem(BaseModel):
    """Why a request was not answered as wished."""

    type: str = Field(description="Where the code is explained.")
    title: str
    status: int
    code: str = Field(description="Stable: programs may rely on it.", examples=["unknown-job"])
    detail: str = Field(description="A sentence for an administrator.")
    next_step: str | None = Field(default=None, description="What to do about it.")
    fields: dict[str, str] | None = Field(default=None, description="Which fields of the request are wrong, and why.")


#: Codes whose status their class does not tell.
_BY_CODE = {
    "unknown-job": HTTPStatus.NOT_FOUND,
    "unknown-study": HTTPStatus.NOT_FOUND,
    "unknown-destination": HTTPStatus.NOT_FOUND,
    "not-retryable": HTTPStatus.CONFLICT,
    "not-cancellable": HTTPStatus.CONFLICT,
    "identity-locked": HTTPStatus.CONFLICT,
    "destination-in-use": HTTPStatus.CONFLICT,
    "destination-busy": HTTPStatus.CONFLICT,
    "duplicate-destination": HTTPStatus.CONFLICT,
    "duplicate-gateway": HTTPStatus.CONFLICT,
    "nothing-to-do": HTTPStatus.CONFLICT,
    "too-many-tests": HTTPStatus.TOO_MANY_REQUESTS,
    "not-movable": HTTPStatus.CONFLICT,
    "more-than-expected": HTTPStatus.CONFLICT,
    # The site's own set-up, not the request, is at fault.
    "connection-missing": HTTPStatus.SERVICE_UNAVAILABLE,
    "connection-malformed": HTTPStatus.SERVICE_UNAVAILABLE,
    "ledger-not-migrated": HTTPStatus.SERVICE_UNAVAILABLE,
    "ledger-permission": HTTPStatus.SERVICE_UNAVAILABLE,
    "ledger-too-new": HTTPStatus.SERVICE_UNAVAILABLE,
    "platform-contract": HTTPStatus.SERVICE_UNAVAILABLE,
    "platform-row": HTTPStatus.SERVICE_UNAVAILABLE,
}

_BY_CLASS: tuple[tuple[type[ArchsyncError], HTTPStatus], ...] = (
    (StoreUnavailable, HTTPStatus.SERVICE_UNAVAILABLE),
    (PeerUnavailable, HTTPStatus.BAD_GATEWAY),
    (OutcomeUnknown, HTTPStatus.BAD_GATEWAY),
    (PeerRefused, HTTPStatus.BAD_GATEWAY),
    (ConfigurationError, HTTPStatus.UNPROCESSABLE_ENTITY),
    (InvalidInput, HTTPStatus.UNPROCESSABLE_ENTITY),
)


@dataclass(frozen=True, slots=True)
class _Refusal:
    code: str
    detail: str
    next_step: str | None = None


#: What the framework and the guard refuse.
_REFUSALS = {
    HTTPStatus.UNAUTHORIZED: _Refusal(
        code="not-logged-in", detail="You are not logged in, or no longer.", next_step="Log in to Airflow."
    ),
    HTTPStatus.FORBIDDEN: _Refusal(
        code="no-right",
        detail="Your role in Airflow does not allow this.",
        next_step="Ask an administrator of Airflow for a role that does.",
    ),
    HTTPStatus.NOT_FOUND: _Refusal(code="unknown-address", detail="There is nothing at this address."),
    HTTPStatus.METHOD_NOT_ALLOWED: _Refusal(code="unknown-address", detail="This address does not take this method."),
    HTTPStatus.UNPROCESSABLE_ENTITY: _Refusal(
        code="bad-request", detail="The request's body is no JSON.", next_step="Send JSON in UTF-8."
    ),
    HTTPStatus.UNSUPPORTED_MEDIA_TYPE: _Refusal(
        code="json-only",
        detail="What changes something has to be sent as JSON.",
        next_step="Send the header Content-Type: application/json.",
    ),
}


def status_of(error: ArchsyncError) -> HTTPStatus:
    """The HTTP status of one of our errors."""
    if error.code in _BY_CODE:
        return _BY_CODE[error.code]
    return next((status for kind, status in _BY_CLASS if isinstance(error, kind)), HTTPStatus.INTERNAL_SERVER_ERROR)


def install(app: FastAPI) -> None:
    """Have every refusal and every error of the app answered with a problem."""
    app.add_exception_handler(ArchsyncError, _on_our_error)
    app.add_exception_handler(HTTPException, _on_refusal)
    app.add_exception_handler(RequestValidationError, _on_invalid)
    app.add_exception_handler(Exception, _on_fault)


def _answer(
    request: Request,
    status: HTTPStatus,
    code: str,
    detail: str,
    next_step: str | None = None,
    *,
    fields: dict[str, str] | None = None,
    headers: dict[str, str] | None = None,
) -> JSONResponse:
    problem = Problem(
        type=troubleshooting_url(request, code),
        title=status.phrase,
        status=status,
        code=code,
        detail=detail,
        next_step=next_step,
        fields=fields,
    )
    content: dict[str, Any] = problem.model_dump(exclude_none=True)
    headers = {"Cache-Control": "no-store", **(headers or {})}
    return JSONResponse(content, status, headers=headers, media_type=MEDIA_TYPE)


def _on_our_error(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, ArchsyncError)
    fields = dict(error.fields) if isinstance(error, ConfigurationError) else None
    return _answer(request, status_of(error), error.code, error.message, error.next_step, fields=fields or None)


def _on_refusal(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, HTTPException)
    status = HTTPStatus(error.status_code)
    if status is HTTPStatus.BAD_REQUEST:  # a body that is no text at all; one that is no JSON comes as invalid
        status = HTTPStatus.UNPROCESSABLE_ENTITY
    refusal = _REFUSALS.get(status) or _Refusal(code="bad-request", detail=f"{status.phrase}.")
    headers = dict(error.headers or {})
    if status is HTTPStatus.UNAUTHORIZED:
        headers["WWW-Authenticate"] = "Bearer"
    return _answer(request, status, refusal.code, refusal.detail, refusal.next_step, headers=headers)


def _on_invalid(request: Request, error: Exception) -> JSONResponse:
    """A request that does not fit the model. What was sent is not quoted: it may be a patient's."""
    assert isinstance(error, RequestValidationError)
    fields = {".".join(map(str, e["loc"][1:])) or str(e["loc"][0]): str(e["msg"]) for e in error.errors()}
    named = ", ".join(fields)
    return _answer(
        request,
        HTTPStatus.UNPROCESSABLE_ENTITY,
        "bad-request",
        f"The request is not understood: {named}.",
        "Correct the fields named.",
        fields=fields,
    )


def _on_fault(request: Request, error: Exception) -> JSONResponse:
    """A fault of ours: named by its kind alone, since its text may quote a patient."""
    log.error("%s %s: internal error (%s)", request.method, request.scope.get("route"), type(error).__name__)
    detail = f"archsync failed to answer ({type(error).__name__})."
    return _answer(request, HTTPStatus.INTERNAL_SERVER_ERROR, ArchsyncError.code, detail, ArchsyncError.next_step)
