"""``archsync push``."""

from __future__ import annotations

from datetime import UTC, datetime

import click

from archsync.cli.access import Site, pass_site
from archsync.services import studies


@click.command()
@click.argument("study_instance_uid", metavar="UID")
@click.option("--destination", "names", multiple=True, required=True, metavar="NAME", help="Where to; repeatable.")
@click.option("--missing-only", is_flag=True, help="Only what the archive did not acknowledge.")
@pass_site
def push(site: Site, study_instance_uid: str, names: tuple[str, ...], missing_only: bool) -> None:
    """Send the study with this Study Instance UID now, all of it, whatever triggers and scopes of destinations say.

    What an archive acknowledged before is sent again, too. Asking twice asks once.
    """
    with site.open_ledger() as ledger, site.open_platform() as platform:
        pushed = studies.push(
            platform,
            ledger,
            study_instance_uid,
            names,
            again=not missing_only,
            actor=site.actor,
            now=datetime.now(UTC),
        )
    for item in pushed:
        click.echo(item.sentence)
