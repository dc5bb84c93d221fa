"""``archsync plan``."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from datetime import UTC, datetime

import click

from archsync.cli.access import Site, pass_site
from archsync.cli.output import count, json_option, size, write_json
from archsync.ledger import destinations as store
from archsync.platformdb.reader import Platform
from archsync.services.plan_view import PlannedRow, UnreadableStudy, as_plain, rows, store_action
from archsync.services.planner import BATCH
from archsync.services.studies import find_keys


@click.command()
@click.option("--study", "study_instance_uid", metavar="UID", help="Only this Study Instance UID.")
@click.option("--accession", "accession_number", metavar="NUMBER", help="Only studies of this accession number.")
@click.option("--destination", "name", metavar="NAME", help="Only for this destination.")
@json_option
@pass_site
def plan(
    site: Site, study_instance_uid: str | None, accession_number: str | None, name: str | None, as_json: bool
) -> None:
    """Say what would be sent, withdrawn and told where, and why, as things stand on the platform. Changes nothing.

    Without --study or --accession every study is compared.
    """
    with site.open_ledger() as ledger, site.open_platform() as source:
        if name is not None:
            store.get(ledger, name)
        elif not as_json and not store.all_destinations(ledger):
            click.echo("There is no destination: nothing would be sent.")
            return
        batches = _batches(source, study_instance_uid, accession_number)
        planned = rows(source, ledger, batches, name, clock=lambda: datetime.now(UTC))
        if as_json:
            write_json(map(as_plain, planned))
        else:
            _write(planned)


def _batches(
    source: Platform, study_instance_uid: str | None, accession_number: str | None
) -> Iterable[tuple[str, ...]]:
    if study_instance_uid is None and accession_number is None:
        return source.walk_study_keys(BATCH)
    return [find_keys(source, study_instance_uid=study_instance_uid, accession_number=accession_number)]


def _write(planned: Iterable[PlannedRow | UnreadableStudy]) -> None:
    last = None
    totals: Counter[str] = Counter()
    patients: set[tuple[object, ...]] = set()
    untold: set[tuple[object, ...]] = set()
    for row in planned:
        if isinstance(row, UnreadableStudy):
            totals.update(studies=1, unreadable=1)
            click.echo(f"study_key {row.study_key} can't be read: {row.why}")
            continue
        study, outcome = row.planned.study, row.planned.plan
        if study.study_key != last:
            last = study.study_key
            totals["studies"] += 1
            click.echo(f"{study.study_instance_uid} ({study.facility.facility_id}, {study.exam_status})")
        for sentence in row.sentences:
            click.echo(f"  {row.planned.destination.name}: {sentence}")
        _, _, _, work = store_action(row.planned)
        changes = (outcome.store, outcome.withdrawal)
        totals.update(
            new=sum(part.new_job is not None for part in changes),
            refreshed=sum(part.refresh is not None for part in changes),
            closed=sum(bool(part.closes) for part in changes),
            kept_back=len(outcome.withdrawal.suppressed),
            instances=len(work.instances) if work else 0,
            bytes=work.bytes_total if work else 0,
        )
        for w in outcome.adt:
            # One message, however many studies of a patient show the difference.
            message = (row.planned.destination_id, w.change, w.patient_key, w.prior_patient_key)
            (patients if w.suppressed is None else untold).add(message)
    made = (
        f"{count(totals['new'] + len(patients), 'new job')}, {totals['refreshed']} brought up to date,"
        f" {totals['closed']} closed"
    )
    if kept_back := totals["kept_back"] + len(untold):
        made += f", {kept_back} suppressed by a rule"
    sent = f"{count(totals['instances'], 'image')}, {size(totals['bytes'])}"
    click.echo(f"{count(totals['studies'], 'study', 'studies')}: {made}; {sent}.")
    if totals["unreadable"]:
        click.echo(
            f"{count(totals['unreadable'], 'study', 'studies')} can't be read; `archsync platform check` says more."
        )
