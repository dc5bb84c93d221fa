"""The Airflow pools that bound how many jobs of a destination run at the same time."""

from __future__ import annotations

from collections.abc import Iterable

from airflow.models.pool import Pool
from sqlalchemy.exc import SQLAlchemyError

from archsync.core.destination import Destination
from archsync.core.naming import pool_name
from archsync.errors import StoreUnavailable


class AirflowUnavailable(StoreUnavailable):
    """Airflow's metadata database does not answer, or has no tables."""

    code = "airflow-database-unavailable"
    next_step = "Run `archsync pools sync` on a machine of the Airflow core; until then the destination's jobs wait."


def sync_pools(destinations: Iterable[Destination]) -> None:
    """Give every destination its pool, with as many slots as its concurrency; other pools are left alone.

    Only where Airflow's metadata database can be reached: on machines of the Airflow core, never in a task.

    Raises:
        AirflowUnavailable: the metadata database can't be used from here.
    """
    try:
        for destination in destinations:
            Pool.create_or_update_pool(
                pool_name(destination.name),
                slots=destination.concurrency,
                description=f"Jobs that archsync runs at the same time at {destination.name}",
                include_deferred=False,
            )
    except SQLAlchemyError as exc:
        # The driver's text can name hosts and users; its kind says enough.
        raise AirflowUnavailable(f"Airflow's pools can't be written from here ({type(exc).__name__})") from exc
