"""Gateways: list and make."""

from __future__ import annotations

from datetime import datetime
from http import HTTPStatus

from fastapi import Request, Response
from pydantic import BaseModel

from archsync.api.access import Actor, Right, guarded_router, needs
from archsync.api.fields import Text
from archsync.api.models_destinations import Body
from archsync.api.pages import UNCHANGED, revalidated
from archsync.api.sites import LedgerDep, PlatformDep
from archsync.ledger import destinations as store
from archsync.ledger.destinations import Gateway
from archsync.services import gateways

router = guarded_router("gateways")


class GatewayOut(BaseModel):
    """A gateway, and the destinations that are reached through it."""

    name: str
    facility_group: str
    queue: str
    state: str
    last_heartbeat_at: datetime | None
    version: str | None
    destinations: list[str]

    @classmethod
    def of(cls, gateway: Gateway, destinations: list[str]) -> GatewayOut:
        """As the ledger has it."""
        return cls(
            name=gateway.name,
            facility_group=gateway.facility_group,
            queue=gateway.queue,
            state=gateway.state,
            last_heartbeat_at=gateway.last_heartbeat_at,
            version=gateway.version,
            destinations=destinations,
        )


class GatewaysOut(BaseModel):
    """All gateways, by name."""

    items: list[GatewayOut]
    next_cursor: None = None


class GatewayIn(Body):
    """A new gateway. ``queue``: the Airflow queue of its worker, its name if not given."""

    name: Text | None = None
    facility_group: Text | None = None
    queue: Text | None = None


@router.get("/gateways", dependencies=[needs(Right.READ)], response_model=GatewaysOut, responses=UNCHANGED)
def list_gateways(request: Request, ledger: LedgerDep) -> Response:
    """List the gateways, by name, with their destinations."""
    behind: dict[str, list[str]] = {}
    for destination in store.all_destinations(ledger):
        if destination.gateway is not None:
            behind.setdefault(destination.gateway, []).append(destination.name)
    found = store.gateways(ledger)
    listed = GatewaysOut(items=[GatewayOut.of(gateway, behind.get(gateway.name, [])) for gateway in found])
    return revalidated(request, listed)


@router.post(
    "/gateways",
    status_code=HTTPStatus.CREATED,
    dependencies=[needs(Right.CONFIGURE)],
    responses={409: {"description": "The name is taken."}},
)
def create_gateway(body: GatewayIn, ledger: LedgerDep, platform: PlatformDep, actor: Actor) -> GatewayOut:
    """Make a gateway."""
    settings = {name: value for name, value in body.model_dump().items() if value not in (None, "")}
    made = gateways.create(ledger, platform.fetch_facilities, settings, actor=actor)
    return GatewayOut.of(made, [])
