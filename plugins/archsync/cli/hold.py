"""``archsync hold``."""

from __future__ import annotations

from dataclasses import asdict

import click

from archsync.cli.access import Site, pass_site
from archsync.cli.output import json_option, moment, write_json, write_table
from archsync.services import hold as service


@click.group()
def hold() -> None:
    """Studies that are held back: nothing of them is sent anywhere until they are released."""


@hold.command()
@click.argument("study_instance_uid", metavar="UID")
@click.option("--reason", required=True, help="Why: shown in the list, and audited.")
@pass_site
def add(site: Site, study_instance_uid: str, reason: str) -> None:
    """Hold the study with this Study Instance UID back. What runs stops at its next image; its changes queue up."""
    with site.open_ledger() as ledger, site.open_platform() as platform:
        is_new = service.add(platform, ledger, study_instance_uid=study_instance_uid, actor=site.actor, reason=reason)
    click.echo(f"Study {study_instance_uid} is held back{'' if is_new else ' already; nothing was changed'}.")


@hold.command()
@click.argument("study_instance_uid", metavar="UID")
@pass_site
def remove(site: Site, study_instance_uid: str) -> None:
    """Release the study with this Study Instance UID: what queued up is sent, unless the platform holds it too."""
    with site.open_ledger() as ledger:
        was_held = service.remove(ledger, study_instance_uid=study_instance_uid, actor=site.actor)
    click.echo(
        f"Study {study_instance_uid} is released."
        if was_held
        else f"Study {study_instance_uid} was not held back here; nothing was changed."
    )


@hold.command("list")
@json_option
@pass_site
def list_holds(site: Site, as_json: bool) -> None:
    """List the studies that are held back here, newest first. Those that the platform holds are not among them."""
    with site.open_ledger() as ledger:
        found = service.listing(ledger)
    if as_json:
        write_json(map(asdict, found))
        return
    write_table(
        ("STUDY", "SINCE", "BY", "REASON"),
        [(h.study_instance_uid, moment(h.held_at), h.held_by, h.reason) for h in found],
        empty="No study is held back here.",
    )
