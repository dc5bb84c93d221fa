"""``archsync held``."""

from __future__ import annotations

from dataclasses import asdict

import click

from archsync.cli.access import Site, pass_site
from archsync.cli.output import json_option, moment, write_json, write_table
from archsync.ledger import destinations as destination_store
from archsync.ledger import holdings


@click.command()
@click.option("--destination", "name", required=True, metavar="NAME", help="The archive asked about.")
@click.option("--study", "study_instance_uid", metavar="UID", help="Instance by instance, of this Study Instance UID.")
@click.option("--rejected", "rejected_only", is_flag=True, help="Only what a rejection note withdrew.")
@click.option(
    "--limit", type=click.IntRange(1, 100_000), default=100, show_default=True, help="At most this many studies."
)
@json_option
@pass_site
def held(site: Site, name: str, study_instance_uid: str | None, rejected_only: bool, limit: int, as_json: bool) -> None:
    """Say what an archive holds: what it acknowledged, what of it was seen there by a query, what it is to hide."""
    nothing = f"{name} holds nothing" if not rejected_only else f"No rejection note withdrew anything at {name}"
    with site.open_ledger() as ledger:
        destination_id = destination_store.get(ledger, name).destination_id
        assert destination_id is not None, "read from the ledger"
        if study_instance_uid is not None:
            instances = holdings.instances_of_study(ledger, destination_id, study_instance_uid)
            _write_instances([i for i in instances if i.rejected_at or not rejected_only], nothing, as_json)
        else:
            studies, following = holdings.listing(ledger, destination_id, rejected_only=rejected_only, limit=limit)
            _write_studies(studies, nothing, as_json, is_cut=following is not None)


def _write_studies(found: list[holdings.HeldStudy], nothing: str, as_json: bool, *, is_cut: bool) -> None:
    if as_json:
        write_json(map(asdict, found))
        return
    write_table(
        ("STUDY", "SERIES", "IMAGES", "VERIFIED", "REJECTED", "LAST STORED"),
        [
            (s.study_instance_uid, s.series, s.instances, s.verified, s.rejected, moment(s.last_stored_at))
            for s in found
        ],
        empty=f"{nothing} that archsync knows of.",
    )
    if is_cut:
        click.echo("There are more: --limit shows them.")


def _write_instances(found: list[holdings.HeldInstanceDetail], nothing: str, as_json: bool) -> None:
    if as_json:
        write_json(map(asdict, found))
        return
    write_table(
        ("SERIES", "INSTANCE", "STATUS", "STORED", "VERIFIED", "REJECTED", "AS", "NOTE"),
        [
            (
                i.series_instance_uid,
                i.sop_instance_uid,
                "" if i.store_status is None else f"{i.store_status:04X}",
                moment(i.stored_at),
                moment(i.verified_at),
                moment(i.rejected_at) or ("under way" if i.rejected_by else ""),
                i.rejected_as,
                i.rejected_by,
            )
            for i in found
        ],
        empty=f"{nothing} of this study that archsync knows of.",
    )
