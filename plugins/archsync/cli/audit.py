"""``archsync audit``."""

from __future__ import annotations

from dataclasses import asdict
from datetime import datetime

import click

from archsync.cli.access import Site, pass_site
from archsync.cli.moments import Moment
from archsync.cli.output import json_option, moment, write_json, write_table
from archsync.core.audit import AuditAction
from archsync.ledger import audit as store
from archsync.ledger.audit import AuditFilter


@click.command()
@click.option("--since", type=Moment(), help="Done then or later: 2026-05-04, 2026-05-04T10:30, or 90m, 12h, 7d ago.")
@click.option("--until", type=Moment(), help="Done before then.")
@click.option("--by", "actors", multiple=True, metavar="NAME", help="Done by this user; repeatable.")
@click.option(
    "--action",
    "actions",
    multiple=True,
    type=click.Choice([action.value for action in AuditAction]),
    metavar="ACTION",
    help="What was done, such as destination.override; repeatable.",
)
@click.option("--subject", metavar="TEXT", help="To this: 'job 4711', 'study 1.2.3', 'destination vna1'.")
@click.option("--before", "before_event_id", type=int, metavar="EVENT", help="Older than this entry: the next page.")
@click.option("--limit", type=click.IntRange(1, 10_000), default=50, show_default=True, help="At most this many.")
@json_option
@pass_site
def audit(
    site: Site,
    since: datetime | None,
    until: datetime | None,
    actors: tuple[str, ...],
    actions: tuple[str, ...],
    subject: str | None,
    before_event_id: int | None,
    limit: int,
    as_json: bool,
) -> None:
    """Say who changed what, overrode a lock, retried or cancelled a job, or looked at a patient; newest first."""
    wanted = AuditFilter(
        actors=actors,
        actions=[AuditAction(action) for action in actions],
        subject=subject,
        since=since,
        until=until,
        before_event_id=before_event_id,
        limit=limit,
    )
    with site.open_ledger() as ledger:
        found = store.page(ledger, wanted)
    if as_json:
        write_json(map(asdict, found))
        return
    write_table(
        ("EVENT", "AT", "BY", "ACTION", "SUBJECT", "DETAIL"),
        [(e.event_id, moment(e.at), e.actor, e.action, e.subject, e.detail) for e in found],
        empty="No entry matches.",
    )
    if len(found) == limit:
        click.echo(f"There may be more: --before {found[-1].event_id} shows the next ones.")
