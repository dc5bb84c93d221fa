"""``archsync plan``."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any

import click

from archsync.cli.access import Site, pass_site
from archsync.cli.output import count, json_option, plain, size, write_json
from archsync.core.comparison import Desired, Held
from archsync.core.destination import Destination
from archsync.core.job import FAR_FUTURE, JobType
from archsync.core.naming import DagKind
from archsync.core.planning import Plan, Work
from archsync.core.waiting import destination_gate
from archsync.core.withdrawal import NoteWork
from archsync.core.wording import Gates, explain_messages, explain_withdrawals, say_plan, why_it_waits
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
        rows = _rows(source, ledger, batches, name)
        if as_json:
            write_json(map(_as_json, rows))
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


@dataclass(frozen=True, slots=True)
class _Row:
    """What is planned for one study at one destination, and why the destination takes no jobs now, by their kind."""

    planned: PlannedStudy
    gates: Gates

    @property
    def facts(self) -> tuple[Plan, Desired, Held, Destination]:
        return self.planned.plan, self.planned.desired, self.planned.held, self.planned.destination


@dataclass(frozen=True, slots=True)
class _Unreadable:
    """A study whose rows break the platform's contract."""

    study_key: str
    why: str


def _rows(
    source: Platform, ledger: Ledger, batches: Iterable[tuple[str, ...]], name: str | None
) -> Iterator[_Row | _Unreadable]:
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
                yield _Unreadable(key, error.message)
            for planned in by_study.get(key, ()):
                if name in (None, planned.destination.name):
                    yield _Row(planned, _gates(planned, health, now))


def _gates(planned: PlannedStudy, health: Mapping[tuple[int, DagKind], DestinationHealth], now: datetime) -> Gates:
    known = {kind: health[planned.destination_id, kind] for kind in DagKind}
    return {
        kind: destination_gate(planned.destination, kind, state.health, is_suspended=state.is_suspended, now=now)
        for kind, state in known.items()
    }


# For programs


def _as_json(row: _Row | _Unreadable) -> dict[str, Any]:
    if isinstance(row, _Unreadable):
        return {"study_key": row.study_key, "rule": "unreadable", "why": row.why}
    study, outcome = row.planned.study, row.planned.plan.store
    action, job_id, job_type, work = _action(row.planned)
    return {
        "study_key": study.study_key,
        "study_instance_uid": study.study_instance_uid,
        "facility_id": study.facility.facility_id,
        "exam_status": study.exam_status,
        "destination": row.planned.destination.name,
        "rule": outcome.rule.value,
        "why": outcome.why,
        "action": action,
        "job_id": job_id,
        "job_type": plain(job_type),
        "priority": work.priority.name if work else None,
        "instances": len(work.instances) if work else 0,
        "bytes": work.bytes_total if work else 0,
        **_start(work, DagKind.ARCHIVE, row),
        "supersedes": list(outcome.supersedes),
        "closes": list(outcome.closes),
        "withdrawal": _withdrawal_as_json(row),
        "messages": [
            {
                **asdict(m),
                "change": m.change.value,
                "rule": m.rule.code if m.rule else None,
                "why": m.rule.why if m.rule else None,
                "job_status": plain(m.job_status),
            }
            for m in explain_messages(*row.facts)
        ],
        "sentences": say_plan(*row.facts, row.gates),
    }


def _action(planned: PlannedStudy) -> tuple[str, int | None, JobType | None, Work | None]:
    """What would happen: ``send`` (a new job), ``update`` (a queued one), ``close`` (open ones) or ``none``."""
    outcome = planned.plan.store
    if outcome.new_job is not None:
        job_type, work = outcome.new_job
        return "send", None, job_type, work
    if outcome.refresh is not None:
        job_id, work = outcome.refresh
        job_type = next(job.job_type for job in planned.held.jobs if job.job_id == job_id)
        return "update", job_id, job_type, work
    return ("close" if outcome.closes else "none"), None, None, None


def _withdrawal_as_json(row: _Row) -> dict[str, Any]:
    """The change as a whole: ``withdraw`` (a new job), ``update`` (a queued one), ``close`` (open ones) or ``none``."""
    outcome = row.planned.plan.withdrawal
    job_id, work = outcome.refresh or (None, outcome.new_job)
    action = "update" if outcome.refresh else "withdraw" if work else "close" if outcome.closes else "none"
    return {
        "action": action,
        "why": outcome.why,
        "job_id": job_id,
        "instances": work.instances if work else 0,
        **_start(work, DagKind.IOCM, row),
        "waits_for_study_keys": sorted(work.waits_for) if work else [],
        "supersedes": list(outcome.supersedes),
        "closes": list(outcome.closes),
        "suppressed": [{"rule": r.code, "why": r.why, "instances": number} for r, _, number in outcome.suppressed],
        "changes": [
            {
                **asdict(w),
                "reason": w.reason.value,
                "title": plain(w.title),
                "rule": w.rule.code if w.rule else None,
                "why": w.rule.why if w.rule else None,
                "sentence": w.sentence,
            }
            for w in explain_withdrawals(*row.facts)
        ],
    }


def _start(work: Work | NoteWork | None, kind: DagKind, row: _Row) -> dict[str, Any]:
    return {
        "not_before": work.not_before if work and work.not_before < FAR_FUTURE else None,
        "wait_reason": plain(why_it_waits(work, kind, row.gates)),
    }


# For people


def _write(rows: Iterable[_Row | _Unreadable]) -> None:
    last = None
    totals: Counter[str] = Counter()
    patients: set[tuple[object, ...]] = set()
    for row in rows:
        if isinstance(row, _Unreadable):
            totals.update(studies=1, unreadable=1)
            click.echo(f"study_key {row.study_key} can't be read: {row.why}")
            continue
        study, outcome = row.planned.study, row.planned.plan
        if study.study_key != last:
            last = study.study_key
            totals["studies"] += 1
            click.echo(f"{study.study_instance_uid} ({study.facility.facility_id}, {study.exam_status})")
        for sentence in say_plan(*row.facts, row.gates):
            click.echo(f"  {row.planned.destination.name}: {sentence}")
        _, _, _, work = _action(row.planned)
        changes = (outcome.store, outcome.withdrawal)
        totals.update(
            new=sum(part.new_job is not None for part in changes),
            refreshed=sum(part.refresh is not None for part in changes),
            closed=sum(bool(part.closes) for part in changes),
            instances=len(work.instances) if work else 0,
            bytes=work.bytes_total if work else 0,
        )
        patients.update(
            # One message, however many studies of a patient show the difference.
            (row.planned.destination_id, w.change, w.patient_key, w.prior_patient_key)
            for w in outcome.adt
            if w.suppressed is None
        )
    made = (
        f"{count(totals['new'] + len(patients), 'new job')}, {totals['refreshed']} brought up to date,"
        f" {totals['closed']} closed"
    )
    sent = f"{count(totals['instances'], 'image')}, {size(totals['bytes'])}"
    click.echo(f"{count(totals['studies'], 'study', 'studies')}: {made}; {sent}.")
    if totals["unreadable"]:
        click.echo(
            f"{count(totals['unreadable'], 'study', 'studies')} can't be read; `archsync platform check` says more."
        )
