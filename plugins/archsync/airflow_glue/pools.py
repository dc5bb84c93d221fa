"""The Airflow pools that bound how many jobs run at the same time: one for each peer of a destination."""

from __future__ import annotations

from collections.abc import Iterable

from airflow.models.pool import Pool
from sqlalchemy.exc import SQLAlchemyError

from archsync.core.destination import Destination
from archsync.core.naming import PEERS, DagKind, pool_name
from archsync.core.waiting import slots
from archsync.errors import StoreUnavailable

_WHAT = {DagKind.ARCHIVE: "Studies and rejection notes", DagKind.ADT: "ADT messages"}


class AirflowUnavailable(StoreUnavailable):
    """Airflow's metadata database does not answer, or has no tables."""

    code = "airflow-database-unavailable"
    next_step = "Run `archsync pools sync` on a machine of the Airflow core; until then the destination's jobs wait."


def sync_pools(destinations: Iterable[Destination]) -> int:
    """Give every destination its pools, with as many slots as it may have jobs running; other pools are left alone.
    Returns how many there are.

    One for images and rejection notes, one for ADT messages where the destination takes them.

    Only where Airflow's metadata database can be reached: on machines of the Airflow core, never in a task.

    Raises:
        AirflowUnavailable: the metadata database can't be used from here.
    """
    wanted = [(destination, peer) for destination in destinations for peer in _peers(destination)]
    try:
        for destination, peer in wanted:
            Pool.create_or_update_pool(
                pool_name(peer, destination.name),
                slots=slots(destination, peer),
                description=f"{_WHAT[peer]} that archsync sends to {destination.name} at the same time",
                include_deferred=False,
            )
    except SQLAlchemyError as exc:
        # The driver's text can name hosts and users; its kind says enough.
        raise AirflowUnavailable(f"Airflow's pools can't be written from here ({type(exc).__name__})") from exc
    return len(wanted)


def _peers(destination: Destination) -> list[DagKind]:
    """The peers of a destination that have a pool."""
    return [peer for peer in PEERS if peer is not DagKind.ADT or destination.adt_host]
