"""``archsync plan``."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, datetime
from typing import Any

import click

from archsync.cli.access import Site, pass_site
from archsync.cli.output import count, json_option, moment, plain, size, write_json
from archsync.core.job import JobType
from archsync.core.naming import DagKind
from archsync.core.planning import FAR_FUTURE, Work
from archsync.core.waiting import destination_gate
from archsync.errors import InvalidInput
from archsync.ledger import destinations as store
from archsync.ledger.database import Ledger
from archsync.ledger.destinations import DestinationHealth
from archsync.platformdb.reader import Platform
from archsync.services.planner import BATCH, PlannedStudy, dry_run


@click.command()
@click.option("--study", "study_instance_uid", metavar="UID", help="Only this Study Instance UID.")
@click.option("--accession", "accession_number", metavar="NUMBER", help="Only studies of this accession number.")
@click.option("--destination", "name", metavar="NAME", help="Only for this destination.")
@json_option
@pass_site
def plan(
    site: Site, study_instance_uid: str | None, accession_number: str | None, name: str | None, as_json: bool
) -> None:
    """Say what would be sent where, and why, as things stand on the platform now. Changes nothing.

    Without --study or --accession every study is compared.
    """
    with site.open_ledger() as ledger, site.open_platform() as source:
        if name is not None:
            store.get(ledger, name)
        elif not as_json and not store.all_destinations(ledger):
            click.echo("There is no destination: nothing would be sent.")
            return
        batches = _batches(source, study_instance_uid, accession_number)
        rows = _rows(source, ledger, batches, name)
        if as_json:
            write_json(rows)
        else:
            _write(rows)


def _batches(
    source: Platform, study_instance_uid: str | None, accession_number: str | None
) -> Iterable[tuple[str, ...]]:
    if study_instance_uid is None and accession_number is None:
        return source.walk_study_keys(BATCH)
    found = source.find_study_keys(study_instance_uid=study_instance_uid, accession_number=accession_number)
    if not found:
        raise InvalidInput(
            "the platform has no such study", code="unknown-study", next_step="Check the number, and the view `study`."
        )
    return [found]


def _rows(
    source: Platform, ledger: Ledger, batches: Iterable[tuple[str, ...]], name: str | None
) -> Iterator[dict[str, Any]]:
    """One row for each study and destination, study by study; a study that can't be read has one row of its own."""
    health = store.health(ledger)
    for study_keys in batches:
        now = datetime.now(UTC)
        rejected: dict[str, InvalidInput] = {}
        by_study: dict[str, list[PlannedStudy]] = {}
        for planned in dry_run(source, ledger, study_keys, now=now, on_rejected=rejected.__setitem__):
            by_study.setdefault(planned.study.study_key, []).append(planned)
        for key in study_keys:
            if error := rejected.get(key):
                yield {"study_key": key, "rule": "unreadable", "why": error.message}
            for planned in by_study.get(key, ()):
                if name in (None, planned.destination.name):
                    yield _row(planned, health, now)


def _row(
    planned: PlannedStudy, health: Mapping[tuple[int, DagKind], DestinationHealth], now: datetime
) -> dict[str, Any]:
    study, destination, outcome = planned.study, planned.destination, planned.plan
    action, job_id, job_type, work = _action(planned)
    known = health[destination.destination_id or 0, DagKind.ARCHIVE]
    gate = destination_gate(destination, DagKind.ARCHIVE, known.health, is_suspended=known.is_suspended, now=now)
    return {
        "study_key": study.study_key,
        "study_instance_uid": study.study_instance_uid,
        "facility_id": study.facility.facility_id,
        "exam_status": study.exam_status,
        "destination": destination.name,
        "rule": outcome.rule.value,
        "why": outcome.why,
        "action": action,
        "job_id": job_id,
        "job_type": plain(job_type),
        "priority": work.priority.name if work else None,
        "instances": len(work.instances) if work else 0,
        "bytes": work.bytes_total if work else 0,
        "not_before": work.not_before if work and work.not_before < FAR_FUTURE else None,
        "wait_reason": plain(work.wait_reason or gate) if work else None,
        "supersedes": list(outcome.supersedes),
        "closes": list(outcome.closes),
    }


def _action(planned: PlannedStudy) -> tuple[str, int | None, JobType | None, Work | None]:
    """What would happen: ``send`` (a new job), ``update`` (a queued one), ``close`` (open ones) or ``none``."""
    outcome = planned.plan
    if outcome.new_job is not None:
        job_type, work = outcome.new_job
        return "send", None, job_type, work
    if outcome.refresh is not None:
        job_id, work = outcome.refresh
        job_type = next(job.job_type for job in planned.held.jobs if job.job_id == job_id)
        return "update", job_id, job_type, work
    return ("close" if outcome.closes else "none"), None, None, None


def _write(rows: Iterable[Mapping[str, Any]]) -> None:
    studies = 0
    last = None
    totals: Counter[str] = Counter()
    for row in rows:
        if row["study_key"] != last:
            last = row["study_key"]
            studies += 1
            _write_study(row)
        if row["rule"] == "unreadable":
            totals["unreadable"] += 1
            continue
        totals[row["action"]] += 1
        totals["instances"] += row["instances"]
        totals["bytes"] += row["bytes"]
        click.echo(f"  {row['destination']}: {_sentence(row)} ({row['rule']}: {row['why']})")
    made = f"{count(totals['send'], 'new job')}, {totals['update']} brought up to date, {totals['close']} closed"
    click.echo(
        f"{count(studies, 'study', 'studies')}: {made}; {count(totals['instances'], 'image')}, {size(totals['bytes'])}."
    )
    if totals["unreadable"]:
        click.echo(
            f"{count(totals['unreadable'], 'study', 'studies')} can't be read; `archsync platform check` says more."
        )


def _write_study(row: Mapping[str, Any]) -> None:
    if row["rule"] == "unreadable":
        click.echo(f"study_key {row['study_key']} can't be read: {row['why']}")
    else:
        click.echo(f"{row['study_instance_uid']} ({row['facility_id']}, {row['exam_status']})")


def _sentence(row: Mapping[str, Any]) -> str:
    if row["action"] == "none":
        return "nothing"
    if row["action"] == "close":
        return f"close job {', '.join(map(str, row['closes']))}"
    what = f"{count(row['instances'], 'image')}, {size(row['bytes'])}, {row['priority']}"
    job = f"job {row['job_id']}" if row["job_id"] else f"{row['job_type']} job"
    when = f", waits ({row['wait_reason'].replace('_', ' ')})" if row["wait_reason"] else ""
    until = f" until {moment(row['not_before'])}" if row["wait_reason"] == "settling" else ""
    return f"{'send' if row['action'] == 'send' else 'update'} {job}: {what}{when}{until}"
