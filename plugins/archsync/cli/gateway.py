"""``archsync gateway``."""

from __future__ import annotations

import click

from archsync.cli.access import Site, pass_site
from archsync.cli.output import json_option, moment, write_json, write_table
from archsync.ledger import destinations as store
from archsync.services import gateways


@click.group()
def gateway() -> None:
    """Gateways: ways out of a facility group."""


@gateway.command()
@click.argument("name")
@click.option("--facility-group", required=True, help="The facility group it stands in.")
@click.option("--queue", help="Airflow queue its worker takes tasks from; else the gateway's name.")
@pass_site
def create(site: Site, name: str, facility_group: str, queue: str | None) -> None:
    """Make the gateway NAME."""
    values = {"name": name, "facility_group": facility_group, "queue": queue}
    with site.open_ledger() as ledger:
        made = gateways.create(ledger, site.fetch_facilities, values, actor=site.actor)
    click.echo(f"Gateway {made.name} made: facility group {made.facility_group}, queue {made.queue}.")


@gateway.command("list")
@json_option
@pass_site
def list_gateways(site: Site, as_json: bool) -> None:
    """List the gateways."""
    with site.open_ledger() as ledger:
        found = store.gateways(ledger)
    if as_json:
        write_json(
            {
                "name": g.name,
                "facility_group": g.facility_group,
                "queue": g.queue,
                "state": g.state,
                "last_heartbeat_at": g.last_heartbeat_at,
                "version": g.version,
            }
            for g in found
        )
        return
    write_table(
        ("NAME", "FACILITY GROUP", "QUEUE", "STATE", "LAST HEARTBEAT"),
        [(g.name, g.facility_group, g.queue, g.state, moment(g.last_heartbeat_at)) for g in found],
        empty="There is no gateway.",
    )
