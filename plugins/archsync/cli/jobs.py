"""``archsync jobs``."""

from __future__ import annotations

import re
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from typing import Any

import click

from archsync.cli.access import Site, pass_site
from archsync.cli.output import (
    count,
    json_option,
    moment,
    plain,
    size,
    write_facts,
    write_json,
    write_json_object,
    write_table,
)
from archsync.core.job import JobStatus, JobType, WaitReason
from archsync.errors import ConfigurationError
from archsync.ledger import destinations as destination_store
from archsync.ledger import jobs as store
from archsync.ledger.jobs import JobFilter, ListedJob
from archsync.services import advice, job_control
from archsync.services.dispatch import ExplainedJob, explain

_AGO = re.compile(r"(\d{1,5})([mhd])")
_UNITS = {"m": "minutes", "h": "hours", "d": "days"}


class Moment(click.ParamType[datetime]):
    """A moment as text: ``2026-05-04``, ``2026-05-04T10:30`` (UTC, or with an offset), or ``90m``, ``12h``, ``7d``."""

    name = "moment"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> datetime:
        if isinstance(value, datetime):
            return value
        if match := _AGO.fullmatch(value):
            return datetime.now(UTC) - timedelta(**{_UNITS[match[2]]: int(match[1])})
        try:
            parsed = datetime.fromisoformat(value)
        except ValueError:
            self.fail(f"{value!r} is no moment; write 2026-05-04, 2026-05-04T10:30 or 12h (m, h, d ago).", param, ctx)
        return parsed if parsed.tzinfo else parsed.replace(tzinfo=UTC)


@click.group()
def jobs() -> None:
    """Jobs: what is sent, was sent or waits."""


@jobs.command("list")
@click.option("--type", "types", multiple=True, type=click.Choice([t.value for t in JobType]), help="Repeatable.")
@click.option(
    "--status", "statuses", multiple=True, type=click.Choice([s.value for s in JobStatus]), help="Repeatable."
)
@click.option("--destination", "names", multiple=True, metavar="NAME", help="Repeatable.")
@click.option("--date", type=click.DateTime(["%Y-%m-%d"]), help="Made on this day (UTC).")
@click.option("--since", type=Moment(), help="Made then or later: 2026-05-04, 2026-05-04T10:30, or 90m, 12h, 7d ago.")
@click.option("--until", type=Moment(), help="Made before then.")
@click.option("--study", "study_instance_uid", metavar="UID", help="On this Study Instance UID.")
@click.option("--before", "before_job_id", type=int, metavar="JOB", help="Older than this job: the next page.")
@click.option("--limit", type=click.IntRange(1, 10_000), default=50, show_default=True, help="At most this many.")
@json_option
@pass_site
def list_jobs(
    site: Site,
    types: tuple[str, ...],
    statuses: tuple[str, ...],
    names: tuple[str, ...],
    date: datetime | None,
    since: datetime | None,
    until: datetime | None,
    study_instance_uid: str | None,
    before_job_id: int | None,
    limit: int,
    as_json: bool,
) -> None:
    """List jobs, newest first, each with what it waits for or why it failed."""
    if date is not None:
        if since or until:
            raise click.UsageError("--date can't be used with --since or --until.")
        since = date.replace(tzinfo=UTC)
        until = since + timedelta(days=1)
    wanted = JobFilter(
        job_types=[JobType(t) for t in types],
        statuses=[JobStatus(s) for s in statuses],
        destinations=names,
        since=since,
        until=until,
        study_instance_uid=study_instance_uid,
        before_job_id=before_job_id,
        limit=limit,
    )
    with site.open_ledger() as ledger:
        for name in names:
            destination_store.get(ledger, name)
        found = explain(ledger, store.listing(ledger, wanted), now=datetime.now(UTC))
    if as_json:
        write_json(map(_as_json, found))
        return
    write_table(
        ("JOB", "TYPE", "STATUS", "DESTINATION", "PRIORITY", "IMAGES", "MADE", "STUDY"),
        [
            (
                item.job.job_id,
                item.job.job_type.value,
                _status(item),
                item.job.destination,
                item.job.priority.name,
                f"{item.job.instances_done}/{item.job.instances_total}",
                moment(item.job.created_at),
                item.job.study_instance_uid,
            )
            for item in found
        ],
        empty="No job matches.",
    )
    if len(found) == limit:
        click.echo(f"There may be more: --before {found[-1].job.job_id} shows the next ones.")


@jobs.command()
@click.argument("job_id", type=int, metavar="JOB")
@json_option
@pass_site
def show(site: Site, job_id: int, as_json: bool) -> None:
    """Show one job: why it is as it is, what to do, its attempts, and each image that was not stored."""
    with site.open_ledger() as ledger:
        listed = ListedJob(store.get(ledger, job_id), store.blocker(ledger, job_id))
        item = explain(ledger, [listed], now=datetime.now(UTC))[0]
        attempts = store.attempts(ledger, job_id)
        failures = store.failures(ledger, job_id)
    if as_json:
        attempts_json = [{k: v for k, v in asdict(a).items() if k != "job_id"} for a in attempts]
        write_json_object({**_as_json(item), "attempt_list": attempts_json, "failures": [asdict(f) for f in failures]})
        return
    job = item.job
    write_facts(
        [
            ("job", job.job_id),
            ("type", job.job_type.value),
            ("status", _status(item)),
            ("reason", f"{job.reason} [{job.reason_code}]" if job.reason_code else job.reason),
            ("next step", _next_step(item)),
            ("destination", job.destination),
            ("study", job.study_instance_uid),
            ("facility", job.facility_id),
            ("priority", job.priority.name),
            ("images", f"{job.instances_done} of {job.instances_total}, {job.instances_failed} not stored"),
            ("bytes", f"{size(job.bytes_done)} of {size(job.bytes_total)}"),
            ("made", moment(job.created_at)),
            (
                "may start",
                moment(job.not_before) if job.status is JobStatus.WAITING and job.not_before.year < 9999 else "",
            ),
            ("started", moment(job.started_at)),
            ("next attempt", moment(job.next_attempt_at)),
            ("finished", moment(job.finished_at)),
            ("attempts counted", job.attempts),
            ("asked for by", job.requested_by),
            ("decided by", job.decided_by),
            ("taken over by", f"job {job.superseded_by}" if job.superseded_by else None),
            ("Airflow", f"DAG {job.dag_id}, run {job.run_id}, try {job.try_number}" if job.run_id else None),
        ]
    )
    if attempts:
        click.echo()
        write_table(
            ("TRY", "STARTED", "ENDED", "OUTCOME", "STORED", "REASON"),
            [
                (a.try_number, moment(a.started_at), moment(a.finished_at), a.outcome, a.instances_done, _reason(a))
                for a in attempts
            ],
            empty="",
        )
    if failures:
        click.echo()
        write_table(
            ("SOP INSTANCE UID", "STATUS", "CODE", "MESSAGE"),
            [(f.sop_instance_uid, _hexadecimal(f.store_status), f.code, f.message) for f in failures],
            empty="",
        )
        if len(failures) < job.instances_failed:
            click.echo(f"The first {len(failures)} of {job.instances_failed} are shown.")


@jobs.command()
@click.argument("job_ids", type=int, metavar="JOB...", nargs=-1, required=True)
@pass_site
def retry(site: Site, job_ids: tuple[int, ...]) -> None:
    """Start failed, cancelled or suppressed jobs afresh, or retry now those that wait for their next attempt."""
    with site.open_ledger() as ledger, ledger.transaction():
        for job_id in job_ids:
            job_control.retry(ledger, job_id, actor=site.actor, now=datetime.now(UTC))
    click.echo(f"{count(len(job_ids), 'job')} will be tried again.")


@jobs.command()
@click.argument("job_ids", type=int, metavar="JOB...", nargs=-1, required=True)
@click.option("--reason", required=True, help="Why: shown with the job, and audited.")
@pass_site
def cancel(site: Site, job_ids: tuple[int, ...], reason: str) -> None:
    """End jobs that are not done. What they would have sent is sent again only when asked for, or when it changes."""
    if not reason.strip():
        raise ConfigurationError("--reason: must not be empty", code="bad-setting", next_step="Say why.")
    with site.open_ledger() as ledger, ledger.transaction():
        for job_id in job_ids:
            job_control.cancel(ledger, job_id, actor=site.actor, reason=reason.strip())
    click.echo(f"{count(len(job_ids), 'job')} cancelled.")


def _status(item: ExplainedJob) -> str:
    if item.wait_reason is WaitReason.LANE:
        return f"waiting (job {item.blocked_by} first)"
    if item.wait_reason is not None:
        return f"waiting ({item.wait_reason.value.replace('_', ' ')})"
    if item.job.status in (JobStatus.FAILED, JobStatus.RETRYING) and item.job.reason_code:
        return f"{item.job.status.value} ({item.job.reason_code})"
    return item.job.status.value


def _next_step(item: ExplainedJob) -> str:
    return advice.next_step(item.job, wait_reason=item.wait_reason, blocked_by=item.blocked_by)


def _reason(attempt: store.Attempt) -> str:
    return f"{attempt.reason or ''} [{attempt.reason_code}]" if attempt.reason_code else attempt.reason or ""


def _hexadecimal(store_status: int | None) -> str:
    return "" if store_status is None else f"{store_status:04X}"


def _as_json(item: ExplainedJob) -> dict[str, Any]:
    """A job for programs. The platform's key of the patient stays out."""
    job = item.job
    return {
        "job_id": job.job_id,
        "job_type": job.job_type.value,
        "status": job.status.value,
        "wait_reason": plain(item.wait_reason),
        "blocked_by": item.blocked_by,
        "reason_code": job.reason_code,
        "reason": job.reason,
        "next_step": _next_step(item),
        "destination": job.destination,
        "study_instance_uid": job.study_instance_uid,
        "study_key": job.study_key,
        "facility_id": job.facility_id,
        "priority": job.priority.name,
        "instances_total": job.instances_total,
        "instances_done": job.instances_done,
        "instances_failed": job.instances_failed,
        "bytes_total": job.bytes_total,
        "bytes_done": job.bytes_done,
        "attempts": job.attempts,
        "created_at": job.created_at,
        "not_before": job.not_before,
        "started_at": job.started_at,
        "next_attempt_at": job.next_attempt_at,
        "finished_at": job.finished_at,
        "requested_by": job.requested_by,
        "decided_by": job.decided_by,
        "superseded_by": job.superseded_by,
        "dag_id": job.dag_id,
        "run_id": job.run_id,
        "try_number": job.try_number,
    }
