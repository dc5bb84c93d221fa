"""Destinations, gateways and circuit breakers in the ledger."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass, fields
from datetime import datetime
from enum import Enum
from typing import Any

import psycopg

from archsync.core.destination import Destination
from archsync.core.job import JobStatus, JobType
from archsync.core.naming import DagKind, peer_of
from archsync.core.retry import Health
from archsync.core.settings import read_stored
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
    return Destination(**read_stored(Destination, row), destination_id=row["destination_id"])


def _row(destination: Destination) -> dict[str, Any]:
    values = {name: getattr(destination, name) for name in [*_COLUMNS, "destination_id"]}
    return {
        name: value.value if isinstance(value, Enum) else list(value) if isinstance(value, tuple) else value
        for name, value in values.items()
    }


def all_destinations(ledger: Ledger) -> list[Destination]:
    """Every destination, by name."""
    return [_destination(row) for row in ledger.fetch_all(SQL["all"])]


def some(ledger: Ledger, destination_ids: Collection[int]) -> dict[int, Destination]:
    """Some destinations by id; those that there are not are absent."""
    rows = ledger.fetch_all(SQL["some"], {"destination_ids": list(destination_ids)})
    return {row["destination_id"]: _destination(row) for row in rows}


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


def exists(ledger: Ledger, name: str) -> bool:
    """Tell whether there is a destination of that name."""
    return ledger.fetch_one(SQL["get"], {"name": name}) is not None


def duplicate(name: str) -> ConfigurationError:
    """The error that a destination's name is taken."""
    sentence = f"there is a destination {name!r} already"
    return ConfigurationError(sentence, code="duplicate-destination", fields={"name": sentence})


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
            ledger.execute_many(SQL["add_health"], [{**row, "kind": kind.value} for kind in DagKind])
    except psycopg.errors.UniqueViolation:
        raise duplicate(destination.name) from None
    except psycopg.errors.ForeignKeyViolation:
        raise unknown_gateway(destination.gateway) from None
    return get_by_id(ledger, row["destination_id"])


def update(ledger: Ledger, destination: Destination) -> None:
    """Write all settings of an existing destination."""
    try:
        ledger.execute(_UPDATE, _row(destination))
    except psycopg.errors.UniqueViolation:
        raise duplicate(destination.name) from None
    except psycopg.errors.ForeignKeyViolation:
        raise unknown_gateway(destination.gateway) from None


@dataclass(frozen=True, slots=True)
class Use:
    """What ties a destination to the archive that it names; ``holds_instances`` counts what was merely offered, too."""

    holds_instances: bool
    has_jobs: bool
    has_running_jobs: bool


def use(ledger: Ledger, destination_id: int) -> Use:
    """Say what a destination holds and does."""
    wanted = {
        "destination_id": destination_id,
        "job_types": [job_type.value for job_type in JobType],
        "statuses": [status.value for status in JobStatus],
    }
    row = ledger.fetch_one(SQL["use"], wanted)
    assert row is not None, "one row of facts"
    return Use(**row)


def lock(ledger: Ledger, destination_id: int) -> None:
    """Keep everybody else from making jobs for a destination, or changing it, until the transaction ends."""
    ledger.fetch_one(SQL["lock"], {"destination_id": destination_id})


@dataclass(frozen=True, slots=True)
class Forgotten:
    """How much went with a destination."""

    studies: int
    jobs: int


def delete(ledger: Ledger, destination_id: int) -> Forgotten:
    """Delete a destination, its jobs and all that the ledger knows of what it holds; in one transaction."""
    parameters = {"destination_id": destination_id}
    with ledger.transaction():
        ledger.execute(SQL["delete_notes"], parameters)
        ledger.execute(SQL["delete_adt_messages"], parameters)
        ledger.execute(SQL["delete_failures"], parameters)
        ledger.execute(SQL["delete_attempts"], parameters)
        jobs = ledger.execute(SQL["delete_jobs"], parameters)
        studies = ledger.execute(SQL["delete_held_studies"], parameters)
        # Dropping takes a lock on everybody's holdings: last, so that it is held for an instant.
        ledger.execute(f"drop table held_instance_{int(destination_id)}")
        ledger.execute(SQL["delete"], parameters)
    return Forgotten(studies, jobs)


@dataclass(frozen=True, slots=True)
class DestinationHealth:
    """The circuit breaker of a kind's peer, and whether the kind's DAG was last seen paused in Airflow."""

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


def health(
    ledger: Ledger, destination_ids: Collection[int] | None = None
) -> dict[tuple[int, DagKind], DestinationHealth]:
    """The health of destinations (None: of all), by id and kind of job; archive and iocm share a circuit breaker."""
    wanted = {"destination_ids": None if destination_ids is None else list(destination_ids)}
    rows = {(row["destination_id"], DagKind(row["kind"])): row for row in ledger.fetch_all(SQL["health"], wanted)}
    return {
        (destination_id, kind): DestinationHealth(_health(rows[destination_id, peer_of(kind)]), row["is_suspended"])
        for (destination_id, kind), row in rows.items()
    }


def lock_health(ledger: Ledger, destination_id: int, peer: DagKind) -> Health:
    """The circuit breaker of one peer of a destination, locked until the transaction ends."""
    row = ledger.fetch_one(SQL["health_of"], {"destination_id": destination_id, "kind": peer.value})
    assert row is not None, "made with the destination"
    return _health(row)


def set_health(ledger: Ledger, destination_id: int, peer: DagKind, new: Health) -> None:
    """Set the circuit breaker of one peer of a destination."""
    ledger.execute(
        SQL["set_health"],
        {
            "destination_id": destination_id,
            "kind": peer.value,
            "failures": new.failures,
            "down_since": new.down_since,
            "probe_at": new.probe_at,
            "reason_code": new.reason_code,
            "reason": new.reason,
        },
    )


def set_suspended(ledger: Ledger, destination_id: int, kind: DagKind, is_suspended: bool) -> None:
    """Remember whether a destination's DAG was seen paused."""
    ledger.execute(
        SQL["set_suspended"], {"destination_id": destination_id, "kind": kind.value, "is_suspended": is_suspended}
    )


def unknown_gateway(name: str | None) -> ConfigurationError:
    """The error that there is no gateway of that name."""
    sentence = f"there is no gateway {name!r}"
    return ConfigurationError(
        f"gateway: {sentence}",
        code="unknown-gateway",
        next_step="`archsync gateway list` shows them; `archsync gateway create` makes one.",
        fields={"gateway": sentence},
    )


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
        sentence = f"there is a gateway {gateway.name!r} already"
        raise ConfigurationError(sentence, code="duplicate-gateway", fields={"name": sentence})


def update_gateway(ledger: Ledger, gateway: Gateway) -> None:
    """Write facility group and queue of an existing gateway."""
    parameters = {"name": gateway.name, "facility_group": gateway.facility_group, "queue": gateway.queue}
    ledger.execute(SQL["update_gateway"], parameters)


def look_again(ledger: Ledger, destination_id: int, at: datetime, kinds: Iterable[DagKind] = tuple(DagKind)) -> None:
    """Have the dispatcher leave a destination's jobs alone until ``at``; a moment that has passed opens them."""
    ledger.execute(
        SQL["look_again"], {"destination_id": destination_id, "kinds": [kind.value for kind in kinds], "at": at}
    )


def notify_work(ledger: Ledger) -> None:
    """Wake the dispatcher."""
    ledger.fetch_one(SQL["notify_work"])
