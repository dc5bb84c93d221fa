"""Destinations, gateways and circuit breakers in the ledger."""

from __future__ import annotations

from dataclasses import dataclass, fields
from datetime import datetime
from enum import Enum
from typing import Any

import psycopg

from archsync.core.destination import Destination, Verification
from archsync.core.retry import Health
from archsync.core.study import ExamStatus
from archsync.errors import ConfigurationError
from archsync.ledger.database import Ledger, Row
from archsync.ledger.queries import load

SQL = load("destinations")

_COLUMNS = [f.name for f in fields(Destination) if f.name != "destination_id"]
# Column names are the field names of a dataclass of ours.
_INSERT = "insert into destination ({}) values ({}) returning destination_id".format(  # noqa: S608
    ", ".join(_COLUMNS), ", ".join(f"%({c})s" for c in _COLUMNS)
)
_UPDATE = "update destination set {}, updated_at = now() where destination_id = %(destination_id)s".format(  # noqa: S608
    ", ".join(f"{c} = %({c})s" for c in _COLUMNS)
)


@dataclass(frozen=True, slots=True)
class Gateway:
    """An on-premises way out: the Airflow queue its worker takes tasks from."""

    name: str
    facility_group: str
    queue: str
    state: str = "pending"
    last_heartbeat_at: datetime | None = None
    version: str | None = None


def _destination(row: Row) -> Destination:
    values = {name: row[name] for name in [*_COLUMNS, "destination_id"]}
    values["trigger_status"] = ExamStatus(row["trigger_status"])
    values["verification"] = Verification(row["verification"])
    values["facilities"] = tuple(row["facilities"])
    values["facility_groups"] = tuple(row["facility_groups"])
    return Destination(**values)


def _row(destination: Destination) -> dict[str, Any]:
    values = {name: getattr(destination, name) for name in [*_COLUMNS, "destination_id"]}
    return {
        name: value.value if isinstance(value, Enum) else list(value) if isinstance(value, tuple) else value
        for name, value in values.items()
    }


def all_destinations(ledger: Ledger) -> list[Destination]:
    """Every destination, by name."""
    return [_destination(row) for row in ledger.fetch_all(SQL["all"])]


def queues(ledger: Ledger) -> dict[str, str | None]:
    """Destination name → the Airflow queue of its gateway, None for local ones."""
    return {row["name"]: row["queue"] for row in ledger.fetch_all(SQL["all"])}


def get(ledger: Ledger, name: str) -> Destination:
    """Read one destination by name.

    Raises:
        ConfigurationError: there is none of that name.
    """
    row = ledger.fetch_one(SQL["get"], {"name": name})
    if row is None:
        known = ", ".join(d.name for d in all_destinations(ledger)) or "none yet"
        raise ConfigurationError(f"there is no destination {name!r} (known: {known})", code="unknown-destination")
    return _destination(row)


def get_by_id(ledger: Ledger, destination_id: int) -> Destination:
    """Read one destination by id."""
    row = ledger.fetch_one(SQL["get_by_id"], {"destination_id": destination_id})
    if row is None:
        raise ConfigurationError(f"there is no destination number {destination_id}", code="unknown-destination")
    return _destination(row)


def insert(ledger: Ledger, destination: Destination) -> Destination:
    """Make a destination, with its health and the partitions for what it will hold.

    Raises:
        ConfigurationError: the name is taken, or the gateway does not exist.
    """
    try:
        with ledger.transaction():
            row = ledger.fetch_one(_INSERT, _row(destination))
            assert row is not None, "insert … returning gives a row"
            ledger.fetch_one(SQL["add_holdings"], row)
            ledger.execute(SQL["add_health"], row)
    except psycopg.errors.UniqueViolation:
        raise ConfigurationError(
            f"there is a destination {destination.name!r} already", code="duplicate-destination"
        ) from None
    except psycopg.errors.ForeignKeyViolation:
        raise ConfigurationError(
            f"gateway: there is no gateway {destination.gateway!r}",
            code="unknown-gateway",
            next_step="`archsync gateway list` shows them; `archsync gateway create` makes one.",
        ) from None
    return get_by_id(ledger, row["destination_id"])


def update(ledger: Ledger, destination: Destination) -> None:
    """Write all settings of an existing destination."""
    try:
        ledger.execute(_UPDATE, _row(destination))
    except psycopg.errors.UniqueViolation:
        raise ConfigurationError(
            f"there is a destination {destination.name!r} already", code="duplicate-destination"
        ) from None
    except psycopg.errors.ForeignKeyViolation:
        raise ConfigurationError(
            f"gateway: there is no gateway {destination.gateway!r}", code="unknown-gateway"
        ) from None


@dataclass(frozen=True, slots=True)
class DestinationHealth:
    """A destination's circuit breaker, and whether its DAG was last seen paused in Airflow."""

    health: Health
    is_suspended: bool


def _health(row: Row) -> Health:
    return Health(
        failures=row["failures"],
        down_since=row["down_since"],
        probe_at=row["probe_at"],
        reason_code=row["reason_code"],
        reason=row["reason"],
    )


def health(ledger: Ledger) -> dict[int, DestinationHealth]:
    """The health of every destination, by id."""
    return {
        row["destination_id"]: DestinationHealth(_health(row), row["is_suspended"])
        for row in ledger.fetch_all(SQL["health"])
    }


def lock_health(ledger: Ledger, destination_id: int) -> Health:
    """The circuit breaker of one destination, locked until the transaction ends."""
    row = ledger.fetch_one(SQL["health_of"], {"destination_id": destination_id})
    assert row is not None, "made with the destination"
    return _health(row)


def set_health(ledger: Ledger, destination_id: int, new: Health) -> None:
    """Set the circuit breaker of a destination."""
    ledger.execute(
        SQL["set_health"],
        {
            "destination_id": destination_id,
            "failures": new.failures,
            "down_since": new.down_since,
            "probe_at": new.probe_at,
            "reason_code": new.reason_code,
            "reason": new.reason,
        },
    )


def set_suspended(ledger: Ledger, destination_id: int, is_suspended: bool) -> None:
    """Remember whether the destination's DAG was seen paused."""
    ledger.execute(SQL["set_suspended"], {"destination_id": destination_id, "is_suspended": is_suspended})


def gateways(ledger: Ledger) -> list[Gateway]:
    """Every gateway, by name."""
    names = [f.name for f in fields(Gateway)]
    return [Gateway(**{n: row[n] for n in names}) for row in ledger.fetch_all(SQL["gateways"])]


def insert_gateway(ledger: Ledger, gateway: Gateway) -> None:
    """Make a gateway.

    Raises:
        ConfigurationError: the name is taken.
    """
    parameters = {"name": gateway.name, "facility_group": gateway.facility_group, "queue": gateway.queue}
    if ledger.fetch_one(SQL["insert_gateway"], parameters) is None:
        raise ConfigurationError(f"there is a gateway {gateway.name!r} already", code="duplicate-gateway")


def update_gateway(ledger: Ledger, gateway: Gateway) -> None:
    """Write facility group and queue of an existing gateway."""
    parameters = {"name": gateway.name, "facility_group": gateway.facility_group, "queue": gateway.queue}
    ledger.execute(SQL["update_gateway"], parameters)


def audit(ledger: Ledger, *, actor: str, action: str, subject: str, detail: str = "") -> None:
    """Record who did what."""
    ledger.execute(SQL["audit"], {"actor": actor, "action": action, "subject": subject, "detail": detail})


def look_again(ledger: Ledger, destination_id: int, at: datetime) -> None:
    """Have the dispatcher leave a destination alone until ``at``; a moment that has passed opens it."""
    ledger.execute(SQL["look_again"], {"destination_id": destination_id, "at": at})


def notify_work(ledger: Ledger) -> None:
    """Wake the dispatcher."""
    ledger.fetch_one(SQL["notify_work"])
