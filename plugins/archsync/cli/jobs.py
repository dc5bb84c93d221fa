"""``archsync jobs``."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import click

from archsync.cli.access import Site, pass_site
from archsync.cli.job_view import as_json as job_as_json
from archsync.cli.job_view import details_as_json, images, say_status, say_type, write_job
from archsync.cli.moments import Moment
from archsync.cli.output import count, json_option, moment, write_json, write_json_object, write_table
from archsync.core.job import JobStatus, JobType
from archsync.errors import ConfigurationError
from archsync.ledger import destinations as destination_store
from archsync.ledger import jobs as store
from archsync.ledger.jobs import JobFilter
from archsync.services import job_control
from archsync.services.dispatch import explain
from archsync.services.explain import describe_job


@click.group()
def jobs() -> None:
    """Jobs: what is sent, was sent or waits."""


@jobs.command("list")
@click.option("--type", "types", multiple=True, type=click.Choice([t.value for t in JobType]), help="Repeatable.")
@click.option(
    "--status", "statuses", multiple=True, type=click.Choice([s.value for s in JobStatus]), help="Repeatable."
)
@click.option("--destination", "names", multiple=True, metavar="NAME", help="Repeatable.")
@click.option("--gateway", "gateways", multiple=True, metavar="NAME", help="At the destinations behind it; repeatable.")
@click.option("--facility", "facilities", multiple=True, metavar="ID", help="Of this facility; repeatable.")
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
    gateways: tuple[str, ...],
    facilities: tuple[str, ...],
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
        gateways=gateways,
        facilities=facilities,
        since=since,
        until=until,
        study_instance_uid=study_instance_uid,
        before_job_id=before_job_id,
        limit=limit,
    )
    with site.open_ledger() as ledger:
        for name in names:
            destination_store.get(ledger, name)
        if gateways:
            known = {gateway.name for gateway in destination_store.gateways(ledger)}
            for name in gateways:
                if name not in known:
                    raise destination_store.unknown_gateway(name)
        found = explain(ledger, store.listing(ledger, wanted), now=datetime.now(UTC))
    if as_json:
        write_json(map(job_as_json, found))
        return
    write_table(
        ("JOB", "TYPE", "STATUS", "DESTINATION", "PRIORITY", "IMAGES", "MADE", "STUDY"),
        [
            (
                item.job.job_id,
                say_type(item.job),
                say_status(item),
                item.job.destination,
                item.job.priority.name,
                images(item.job),
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
@click.option("--phi", is_flag=True, help="Show ADT messages with the patient, as they were sent; this is audited.")
@json_option
@pass_site
def show(site: Site, job_id: int, phi: bool, as_json: bool) -> None:
    """Show one job: why it is as it is, what to do, its attempts and steps, and what it sent besides images."""
    with site.open_ledger() as ledger:
        found = describe_job(ledger, job_id, now=datetime.now(UTC), phi=phi, actor=site.actor)
        attempts = store.attempts(ledger, job_id)
        failures = store.failures(ledger, job_id)
    if as_json:
        write_json_object(details_as_json(found, attempts, failures))
    else:
        write_job(found, attempts, failures)


@jobs.command()
@click.argument("job_ids", type=int, metavar="JOB...", nargs=-1, required=True)
@pass_site
def retry(site: Site, job_ids: tuple[int, ...]) -> None:
    """Start failed or cancelled jobs afresh (of a change its steps), or now those that wait for their next attempt."""
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


@jobs.command()
@click.argument("job_ids", type=int, metavar="JOB...", nargs=-1, required=True)
@pass_site
def front(site: Site, job_ids: tuple[int, ...]) -> None:
    """Have waiting jobs go before all others of their destination, with the jobs that hold them back."""
    with site.open_ledger() as ledger, ledger.transaction():
        for job_id in job_ids:
            job_control.move_to_front(ledger, job_id, actor=site.actor, together=job_ids)
    click.echo(f"{count(len(job_ids), 'job')} {'is' if len(job_ids) == 1 else 'are'} in front.")
