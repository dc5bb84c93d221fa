"""Who may do what: four rights, each mapped to a permission of Airflow, asked for before a request is read.

    router = guarded_router("jobs")

    @router.get("/jobs", dependencies=[needs(Right.READ)])
    def list_jobs(...): ...

A route of a guarded router that declares no right, or two, can't be made.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from enum import StrEnum
from http import HTTPStatus
from typing import Annotated, Any

from airflow.api_fastapi.app import get_auth_manager
from airflow.api_fastapi.auth.managers.models.base_user import BaseUser
from airflow.api_fastapi.auth.managers.models.resource_details import DagAccessEntity, DagDetails
from airflow.api_fastapi.core_api.security import bearer_scheme, get_user
from fastapi import APIRouter, Depends, HTTPException, Request, Response, Security
from fastapi.concurrency import run_in_threadpool
from fastapi.routing import APIRoute


class Right(StrEnum):
    """What a user may do here. ``docs/access.md`` says which roles of Airflow have it."""

    READ = "read"
    """See jobs, destinations and studies, without patients: who may see DAG runs."""
    OPERATE = "operate"
    """Retry, cancel, move to the front, hold, plan, push: who may change DAG runs."""
    CONFIGURE = "configure"
    """Make and change destinations and gateways, read the audit trail: who may change connections."""
    PATIENT_DATA = "patient_data"
    """See patients: who may read connections, and so could open the platform's database."""


def is_granted(user: BaseUser, right: Right, *, dag_id: str | None = None) -> bool:
    """Ask Airflow whether a user has a right; with ``dag_id``, on the runs of that DAG. May read Airflow's database."""
    manager = get_auth_manager()
    if right in (Right.READ, Right.OPERATE):
        return manager.is_authorized_dag(
            method="GET" if right is Right.READ else "PUT",
            access_entity=DagAccessEntity.RUN,
            details=None if dag_id is None else DagDetails(id=dag_id, team_name=_team(dag_id)),
            user=user,
        )
    return manager.is_authorized_connection(method="PUT" if right is Right.CONFIGURE else "GET", user=user)


def _team(dag_id: str) -> str | None:
    from airflow.models.dag import DagModel

    return DagModel.get_team_name(dag_id)


@dataclass(frozen=True)
class Needs:
    """The mark on a route that says which right it asks for; :class:`GuardedRoute` does the asking."""

    right: Right

    def __call__(self, _credentials: Annotated[Any, Security(bearer_scheme)]) -> None:
        """Nothing is left to do here; the signature puts the way to authenticate into the OpenAPI document."""


def needs(right: Right) -> Any:
    """The dependency by which a route declares its right."""
    return Depends(Needs(right))


_CHANGING = frozenset({"POST", "PUT", "PATCH", "DELETE"})


class GuardedRoute(APIRoute):
    """A route that lets nobody past who lacks its right, before it reads anything else of the request.

    What changes something takes JSON only: a form of a foreign page can't send that, and Airflow's cookie is all that
    authenticates a browser.
    """

    def __init__(self, path: str, endpoint: Callable[..., Any], **settings: Any) -> None:
        super().__init__(path, endpoint, **settings)
        rights = [d.dependency.right for d in self.dependencies if isinstance(d.dependency, Needs)]
        if len(rights) != 1:
            raise TypeError(f"{self.methods} {path} has to declare exactly one right, not {len(rights)}")
        self.right: Right = rights[0]

    def get_route_handler(self) -> Callable[[Request], Awaitable[Response]]:  # type: ignore[override]  # any awaitable
        """Put the guard before the handler."""
        handle = super().get_route_handler()

        async def guarded(request: Request) -> Response:
            user = await get_user(request, None, await bearer_scheme(request))
            if not await run_in_threadpool(is_granted, user, self.right):
                raise HTTPException(HTTPStatus.FORBIDDEN)
            if request.method in _CHANGING and not _is_json(request):
                raise HTTPException(HTTPStatus.UNSUPPORTED_MEDIA_TYPE)
            request.state.archsync_user = user
            response = await handle(request)
            response.headers.setdefault("Cache-Control", "no-store")
            response.headers["X-Content-Type-Options"] = "nosniff"
            return response

        return guarded


def _is_json(request: Request) -> bool:
    return request.headers.get("content-type", "").partition(";")[0].strip().lower() == "application/json"


def guarded_router(subject: str) -> APIRouter:
    """A router whose routes are guarded; ``subject`` groups them in the API's document."""
    return APIRouter(route_class=GuardedRoute, tags=[subject])


def _current_user(request: Request) -> BaseUser:
    return request.state.archsync_user


CurrentUser = Annotated[BaseUser, Depends(_current_user)]
"""Who asks."""


def _actor(user: CurrentUser) -> str:
    return user.get_name()


Actor = Annotated[str, Depends(_actor)]
"""The name of who asks, for the audit."""

__all__ = ["Actor", "CurrentUser", "GuardedRoute", "Right", "guarded_router", "is_granted", "needs"]
