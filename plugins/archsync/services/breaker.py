"""A destination's circuit breakers: failures to connect open one, one job at a time probes, an answer closes it.

There is one per peer (:func:`archsync.core.naming.peer_of`): images and rejection notes go to the same DICOM archive,
ADT messages to another port, often of another machine. One outage is one incident, and stops nothing else.
"""

from __future__ import annotations

from datetime import datetime, timedelta

from archsync.core.destination import Destination
from archsync.core.naming import DagKind, peer_of
from archsync.core.retry import HEALTHY, Health, after_connection_failure
from archsync.errors import ArchsyncError, DestinationMisconfigured, PeerUnavailable
from archsync.ledger import destinations
from archsync.ledger.database import Ledger


def record_failure(
    ledger: Ledger, destination: Destination, kind: DagKind, error: ArchsyncError, now: datetime
) -> Health:
    """Count a failed connection; the breaker opens at the destination's threshold."""
    destination_id = _id(destination)
    with ledger.transaction():
        before = destinations.lock_health(ledger, destination_id, peer_of(kind))
        health = after_connection_failure(before, destination, error, now)
        destinations.set_health(ledger, destination_id, peer_of(kind), health)
    return health


def record_answer(ledger: Ledger, destination: Destination, kind: DagKind) -> None:
    """The peer answered: close the breaker; its jobs, which wait, become due by that."""
    destination_id = _id(destination)
    with ledger.transaction():
        if destinations.lock_health(ledger, destination_id, peer_of(kind)) != HEALTHY:
            destinations.set_health(ledger, destination_id, peer_of(kind), HEALTHY)


def take_probe(ledger: Ledger, destination: Destination, kind: DagKind, now: datetime) -> bool | None:
    """Ask the breaker: None, it is closed; True, this job is the one that probes; False, wait.

    Taking the probe moves the next one away, so that of several jobs one probes.
    """
    destination_id = _id(destination)
    with ledger.transaction():
        health = destinations.lock_health(ledger, destination_id, peer_of(kind))
        if not health.is_down:
            return None
        if not health.may_probe(now):
            return False
        taken = Health(
            failures=health.failures,
            down_since=health.down_since,
            probe_at=now + timedelta(seconds=_probe_s(destination, kind)),
            reason_code=health.reason_code,
            reason=health.reason,
        )
        destinations.set_health(ledger, destination_id, peer_of(kind), taken)
        return True


def health(ledger: Ledger, destination: Destination, kind: DagKind) -> Health:
    """The breaker as it stands."""
    return destinations.health(ledger)[_id(destination), kind].health


def concerns_connection(error: ArchsyncError) -> bool:
    """Tell whether an error is about reaching the destination as such, rather than about one study."""
    return isinstance(error, DestinationMisconfigured) or (
        isinstance(error, PeerUnavailable) and not error.reached_peer
    )


def _probe_s(destination: Destination, kind: DagKind) -> float:
    """How long it takes at most until a probe has shown something, in seconds."""
    if peer_of(kind) is DagKind.ADT:
        return destination.adt_connect_timeout_s + destination.adt_ack_timeout_s
    return destination.connect_timeout_s + destination.acse_timeout_s


def _id(destination: Destination) -> int:
    assert destination.destination_id is not None, "read from the ledger"
    return destination.destination_id
