"""Making gateways: the ways out of a facility group that destinations may name."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from archsync.core.audit import AuditAction
from archsync.core.destination import check_name
from archsync.core.settings import parse_settings, setting
from archsync.errors import ConfigurationError
from archsync.ledger import audit
from archsync.ledger import destinations as store
from archsync.ledger.database import Ledger
from archsync.ledger.destinations import Gateway
from archsync.services.destinations import KnownFacilities, unknown_scope

_QUEUE = re.compile(r"[A-Za-z0-9_.-]{1,100}")


def _check_queue(queue: str) -> str | None:
    return None if _QUEUE.fullmatch(queue) else "must be 1 to 100 letters, digits, underscores, dots or hyphens"


@dataclass(frozen=True, slots=True, kw_only=True)
class GatewaySettings:
    """What an administrator says of a gateway."""

    name: str = setting("Short name of the gateway.", example="north_1", check=check_name)
    facility_group: str = setting(
        "The facility group it stands in.", example="north", check=lambda v: None if v else "must not be empty"
    )
    queue: str | None = setting(
        "Airflow queue its worker takes tasks from; empty: the gateway's name.", default=None, check=_check_queue
    )

    def as_gateway(self) -> Gateway:
        """The gateway as the ledger keeps it."""
        return Gateway(self.name, self.facility_group, self.queue or self.name)


def build(values: Mapping[str, Any]) -> GatewaySettings:
    """Check the settings of a new gateway.

    Raises:
        ConfigurationError: a setting is unknown, wrong or missing.
    """
    typed = parse_settings(GatewaySettings, values)
    missing = [name for name in ("name", "facility_group") if typed.get(name) is None]
    if missing:
        needed = f"a gateway needs {' and '.join(missing)}"
        raise ConfigurationError(needed, code="bad-setting", fields=dict.fromkeys(missing, "is needed"))
    return GatewaySettings(**typed)


def create(ledger: Ledger, facilities: KnownFacilities, values: Mapping[str, Any], *, actor: str) -> Gateway:
    """Make a gateway and record who did.

    Raises:
        ConfigurationError: a setting is wrong, the name is taken, or the platform has no such facility group.
    """
    gateway = build(values).as_gateway()
    if problems := unknown_scope(facilities, facility_groups=(gateway.facility_group,)):
        raise ConfigurationError(
            problems[0],
            code="unknown-facility",
            next_step="Name one of these.",
            fields={"facility_group": problems[0]},
        )
    with ledger.transaction():
        store.insert_gateway(ledger, gateway)
        _record(ledger, actor, AuditAction.GATEWAY_CREATE, gateway)
    return gateway


def change(ledger: Ledger, gateway: Gateway, *, actor: str) -> None:
    """Give an existing gateway another facility group or queue and record who did; its name tells which."""
    with ledger.transaction():
        store.update_gateway(ledger, gateway)
        _record(ledger, actor, AuditAction.GATEWAY_SET, gateway)


def _record(ledger: Ledger, actor: str, action: AuditAction, gateway: Gateway) -> None:
    detail = f"facility group {gateway.facility_group}, queue {gateway.queue}"
    audit.record(ledger, actor=actor, action=action, subject=f"gateway {gateway.name}", detail=detail)
