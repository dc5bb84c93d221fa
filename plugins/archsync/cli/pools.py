"""``archsync pools``, and what the other commands do to keep pools in step."""

from __future__ import annotations

from collections.abc import Sequence

import click

from archsync.cli.access import Site, airflow, airflow_is_configured, pass_site
from archsync.cli.output import count
from archsync.core.destination import Destination
from archsync.errors import ArchsyncError, ConfigurationError
from archsync.ledger import destinations as store

_HOW = "Run `archsync pools sync` on a machine of the Airflow core."


@click.group()
def pools() -> None:
    """Airflow's pools: each destination has one with as many slots as its concurrency, and one for ADT messages."""


@pools.command()
@pass_site
def sync(site: Site) -> None:
    """Make and correct the pools in Airflow's metadata database. Run it on a machine of the Airflow core."""
    if not airflow_is_configured():
        raise ConfigurationError("Airflow is not configured here", code="airflow-not-configured", next_step=_HOW)
    with site.open_ledger() as ledger:
        found = store.all_destinations(ledger)
    click.echo(f"{count(_write(found), 'pool')} in step.")


def sync_or_say(destinations: Sequence[Destination]) -> None:
    """Bring pools in step after a change, or say on stderr where it has to be done: the change itself stands."""
    if not airflow_is_configured():
        click.echo(f"Airflow is not configured here: its pools were not changed. {_HOW}", err=True)
        return
    try:
        _write(destinations)
    except ArchsyncError as exc:
        click.echo(f"{exc.message}. {exc.next_step}", err=True)


def _write(destinations: Sequence[Destination]) -> int:
    with airflow():
        from archsync.airflow_glue.pools import sync_pools

        return sync_pools(destinations)
