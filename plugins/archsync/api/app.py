"""The application behind ``/archsync``: the API under ``/api/v1``, the pages' files under ``/static``."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI, Request
from fastapi.openapi.utils import get_openapi
from fastapi.routing import APIRoute

from archsync.api import (
    audit,
    destinations,
    finding,
    gateways,
    holds,
    job_actions,
    jobs,
    manual,
    me,
    overview,
    problems,
    static,
    studies,
)
from archsync.api.access import GuardedRoute, Right, guarded_router, needs

API = "/api/v1"

#: One router a subject, all below ``/archsync/api/v1``.
ROUTERS = (
    me.router,
    jobs.router,
    job_actions.router,
    finding.router,
    destinations.router,
    gateways.router,
    studies.router,
    holds.router,
    overview.router,
    audit.router,
)

_DOC = """Everything the pages of archsync do. Authenticate as for Airflow's own API: the cookie of a browser that is
logged in, or `Authorization: Bearer` with a token of `POST /auth/token`. Times are ISO 8601 in UTC. Lists
come in pages: pass `next_cursor` as `cursor`. Errors are problem details (RFC 9457) with a stable `code`.
What changes something takes JSON only. No answer names a patient, unless asked to by `phi` in the body of a
request that needs the right *patient data*."""


def create_app() -> FastAPI:
    """Build the application; every route declares its right."""
    app = FastAPI(title="archsync", version="1", description=_DOC, docs_url=None, redoc_url=None, openapi_url=None)
    problems.install(app)
    for router in ROUTERS:
        app.include_router(router, prefix=API)
    app.include_router(_document_router(app), prefix=API)
    app.include_router(static.router)
    app.include_router(manual.router)
    return app


def _document_router(app: FastAPI) -> Any:
    router = guarded_router("document")

    @router.get("/openapi.json", dependencies=[needs(Right.READ)], include_in_schema=False)
    def read_document(request: Request) -> dict[str, Any]:
        """The API in OpenAPI's words."""
        return {**document(app), "servers": [{"url": request.scope.get("root_path", "")}]}

    return router


def document(app: FastAPI) -> dict[str, Any]:
    """The OpenAPI document: FastAPI's, with the rights and the refusals that every route has."""
    if app.openapi_schema is None:
        schema = get_openapi(
            title=app.title, version=app.version, description=app.description, routes=app.routes, tags=None
        )
        schema["components"]["schemas"]["Problem"] = problems.Problem.model_json_schema()
        for path, method, route in guarded_operations(app):
            if route.include_in_schema:
                _add_refusals(schema["paths"][path][method], method, route)
        schema["components"]["schemas"].pop("HTTPValidationError", None)
        schema["components"]["schemas"].pop("ValidationError", None)
        app.openapi_schema = schema
    return app.openapi_schema


def guarded_operations(app: FastAPI) -> list[tuple[str, str, GuardedRoute]]:
    """Every operation: path, method in small letters, route.

    Raises:
        TypeError: a route is not guarded.
    """
    found = []
    for route in app.routes:
        if not isinstance(route, APIRoute) or not isinstance(route, GuardedRoute):
            raise TypeError(f"{getattr(route, 'path', route)} asks for no right")
        found += [(route.path_format, method.lower(), route) for method in sorted(route.methods)]
    return found


_EVERYWHERE = {"401": "Not logged in.", "403": "Without the right.", "503": "The ledger or platform does not answer."}


def _add_refusals(operation: dict[str, Any], method: str, route: GuardedRoute) -> None:
    operation["x-right"] = route.right.value
    responses = operation["responses"]
    wanted = dict(_EVERYWHERE)
    if method != "get":
        wanted["415"] = "Not JSON."
    if "422" in responses:
        wanted["422"] = "The request is not understood, or a setting in it is wrong."
    for status, description in wanted.items():
        responses.setdefault(status, {})["description"] = description
    for status, response in responses.items():
        if status >= "400":
            response["content"] = {problems.MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}}}
