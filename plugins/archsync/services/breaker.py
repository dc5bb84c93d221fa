"""A destination's circuit breaker: failures to connect open it, one job at a time probes, an answer closes it."""

from __future__ import annotations

from datetime import datetime, timedelta

from archsync.core.destination import Destination
from archsync.core.retry import HEALTHY, Health, after_connection_failure
from archsync.errors import ArchsyncError, DestinationMisconfigured, PeerUnavailable
from archsync.ledger import destinations
from archsync.ledger.database import Ledger


def record_failure(ledger: Ledger, destination: Destination, error: ArchsyncError, now: datetime) -> Health:
    """Count a failed connection; the breaker opens at the destination's threshold."""
    destination_id = _id(destination)
    with ledger.transaction():
        health = after_connection_failure(destinations.lock_health(ledger, destination_id), destination, error, now)
        destinations.set_health(ledger, destination_id, health)
    return health


def record_answer(ledger: Ledger, destination: Destination) -> None:
    """The destination answered: close the breaker; its jobs, which wait, become due by that."""
    destination_id = _id(destination)
    with ledger.transaction():
        if destinations.lock_health(ledger, destination_id) != HEALTHY:
            destinations.set_health(ledger, destination_id, HEALTHY)


def take_probe(ledger: Ledger, destination: Destination, now: datetime) -> bool | None:
    """Ask the breaker: None, it is closed; True, this job is the one that probes; False, wait.

    Taking the probe moves the next one away, so that of several jobs one probes.
    """
    destination_id = _id(destination)
    with ledger.transaction():
        health = destinations.lock_health(ledger, destination_id)
        if not health.is_down:
            return None
        if not health.may_probe(now):
            return False
        taken = Health(
            failures=health.failures,
            down_since=health.down_since,
            probe_at=now + timedelta(seconds=destination.connect_timeout_s + destination.acse_timeout_s),
            reason_code=health.reason_code,
            reason=health.reason,
        )
        destinations.set_health(ledger, destination_id, taken)
        return True


def concerns_connection(error: ArchsyncError) -> bool:
    """Tell whether an error is about reaching the destination as such, rather than about one study."""
    return isinstance(error, DestinationMisconfigured) or (
        isinstance(error, PeerUnavailable) and not error.reached_peer
    )


def _id(destination: Destination) -> int:
    assert destination.destination_id is not None, "read from the ledger"
    return destination.destination_id
