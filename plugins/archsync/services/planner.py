"""From changes on the platform to jobs in the ledger, and the same as a dry run."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime

from archsync.core.comparison import Desired, Held
from archsync.core.destination import Destination
from archsync.core.job import JobStatus
from archsync.core.planning import Plan, Rule, StorePlan, plan, unverified_instances
from archsync.core.study import Study
from archsync.core.withdrawal import WithdrawalPlan, former_copies
from archsync.errors import InvalidInput
from archsync.ledger import destinations, holdings, plan_queue, planned_jobs
from archsync.ledger.database import Ledger
from archsync.platformdb.reader import Platform
from archsync.services.comparison import compare

#: Studies planned in one transaction.
BATCH = 100

#: Study keys queued at once when all studies are to be looked at.
FULL_READ_BATCH = 1_000


@dataclass(frozen=True, slots=True)
class PlannedStudy:
    """The plan for one study at one destination, and what it was made from."""

    desired: Desired
    held: Held
    destination: Destination
    plan: Plan

    @property
    def study(self) -> Study:
        """The study, as the platform has it."""
        return self.desired.study

    @property
    def destination_id(self) -> int:
        """The destination's number in the ledger."""
        assert self.destination.destination_id is not None, "read from the ledger"
        return self.destination.destination_id


@dataclass(frozen=True, slots=True)
class PlanningReport:
    """Counts of one planning run."""

    studies: int = 0
    jobs_made: int = 0
    jobs_refreshed: int = 0
    problems: int = 0

    def __add__(self, other: PlanningReport) -> PlanningReport:
        return PlanningReport(
            self.studies + other.studies,
            self.jobs_made + other.jobs_made,
            self.jobs_refreshed + other.jobs_refreshed,
            self.problems + other.problems,
        )


def observe(platform: Platform, ledger: Ledger) -> int:
    """Queue the studies that changed on the platform since the last look; returns how many.

    The watermark moves only once they are queued: a crash in between reads them again, and planning twice plans nothing
    new. Where changes can't be told one by one (the first look, a restored database), all studies are queued.
    A reset that comes while this reads (a new destination) stands: the next look reads all.
    """
    watermark, resets = plan_queue.read_position(ledger)
    changes = platform.fetch_changes(watermark)
    seen = 0
    if changes.is_full:
        for study_keys in platform.walk_study_keys(FULL_READ_BATCH):
            plan_queue.queue(ledger, study_keys)
            seen += len(study_keys)
    plan_queue.advance(ledger, changes.watermark, changes.study_keys, resets=resets)
    return seen + len(changes.study_keys)


def plan_queued(platform: Platform, ledger: Ledger, *, now: datetime, max_studies: int = 1_000) -> PlanningReport:
    """Plan queued studies, batch by batch, each batch in one transaction with the jobs it makes."""
    report = PlanningReport()
    while report.studies < max_studies:
        with ledger.transaction():
            study_keys = plan_queue.take(ledger, min(BATCH, max_studies - report.studies))
            if not study_keys:
                break
            report += _plan_batch(platform, ledger, study_keys, now=now)
    return report


def plan_now(platform: Platform, ledger: Ledger, study_keys: Sequence[str], *, now: datetime) -> PlanningReport:
    """Plan some studies at once, whether they are queued or not."""
    with ledger.transaction():
        plan_queue.take_these(ledger, study_keys)
        return _plan_batch(platform, ledger, study_keys, now=now)


def _plan_batch(platform: Platform, ledger: Ledger, study_keys: Sequence[str], *, now: datetime) -> PlanningReport:
    found = compare(platform, ledger, study_keys)
    for study_key, error in found.rejected.items():
        plan_queue.record_problem(ledger, study_key, error)
    plan_queue.clear_problems(ledger, [key for key in study_keys if key not in found.rejected])
    if found.vanished:
        _close_vanished(ledger, found.vanished)
    planned = [
        PlannedStudy(c.desired, c.held, c.destination, plan(c.desired, c.held, c.destination, observed_at=now))
        for c in found.compared
    ]
    made, refreshed = _write(platform, ledger, planned, now=now)
    if former := _former_studies(planned) - set(study_keys):
        # Where the row is gone: others announce their changes, and two that swap instances would never rest. But a new
        # job for what was kept elsewhere by a rule, or was not shown any more, may be the first that it hears of it.
        plan_queue.queue(ledger, platform.fetch_studies(sorted(former)).missing)
        plan_queue.queue(ledger, sorted(_former_studies(p for p in planned if p.plan.store.new_job) - set(study_keys)))
    return PlanningReport(len(study_keys), made, refreshed, len(found.rejected))


def _former_studies(planned: Iterable[PlannedStudy]) -> set[str]:
    """The studies that instances came from and under which an archive still has them.

    One that was merged into another and deleted has no row left that could say that it changed.
    """
    return {
        copy.placed.study_key
        for item in planned
        for instance in item.desired.instances
        for copy in former_copies(instance, item.desired, item.held)
        if copy.rejected_by is None and copy.placed.study_key != item.study.study_key
    }


def _close_vanished(ledger: Ledger, study_keys: Sequence[str]) -> None:
    """Close the jobs of studies that nobody has any more; one that runs finds that out by itself."""
    target_ids = [d.destination_id for d in destinations.all_destinations(ledger) if d.destination_id is not None]
    for known in planned_jobs.known_jobs(ledger, target_ids, study_keys).values():
        job_ids = [job.job_id for job in known]
        reason = "Nothing is left to do: the platform no longer has the study."
        planned_jobs.close_idle(ledger, job_ids, reason=reason)


def dry_run(
    platform: Platform,
    ledger: Ledger,
    study_keys: Sequence[str],
    *,
    now: datetime,
    on_rejected: Callable[[str, InvalidInput], None] | None = None,
) -> list[PlannedStudy]:
    """What planning would do for these studies, at every destination; writes nothing.

    ``on_rejected`` is called with the key of each study that can't be read, and why.
    """
    planned: list[PlannedStudy] = []
    for start in range(0, len(study_keys), BATCH):
        found = compare(platform, ledger, study_keys[start : start + BATCH])
        if on_rejected is not None:
            for study_key, error in found.rejected.items():
                on_rejected(study_key, error)
        for c in found.compared:
            outcome = plan(c.desired, c.held, c.destination, observed_at=now)
            planned.append(PlannedStudy(c.desired, c.held, c.destination, outcome))
    return planned


# Writing plans


def _write(platform: Platform, ledger: Ledger, planned: Sequence[PlannedStudy], *, now: datetime) -> tuple[int, int]:
    """Write plans to the ledger; returns the number of jobs made and refreshed.

    Messages about patients come first, so that images with a new identity wait for them; then what is stored, so that
    a rejection note can wait for its replacements.
    """
    made = write_adt(ledger, planned, now=now)
    refreshed = 0
    for item in planned:
        new, updated = _write_store(ledger, item)
        made += new
        refreshed += updated
    made += _plan_targets(platform, ledger, planned, now=now)
    for item in planned:
        made += _write_withdrawal(ledger, item, now=now)
    return made, refreshed


def write_adt(ledger: Ledger, planned: Iterable[PlannedStudy], *, now: datetime) -> int:
    """Make the jobs for messages about patients: one, however many studies of a patient show the same difference."""
    seen: set[tuple[int, str, str, str | None]] = set()
    for item in planned:
        for work in item.plan.adt:
            key = (item.destination_id, work.change.value, work.patient_key, work.prior_patient_key)
            if key in seen:
                continue
            seen.add(key)
            job_id = planned_jobs.insert_adt(ledger, item.destination_id, item.study, work, now=now)
            planned_jobs.supersede_failed(ledger, work.supersedes, by=job_id)
    return len(seen)


def _completes(planned: PlannedStudy) -> bool:
    """Tell whether a study turns out to be archived without its job: what it could not send left the platform."""
    held = planned.held
    return (
        planned.plan.store.rule is Rule.UP_TO_DATE
        and not held.is_archived
        and not any(job.status in (JobStatus.RUNNING, JobStatus.RETRYING) for job in held.store_jobs)
        and not unverified_instances(planned.desired, held, planned.destination)
    )


def _write_store(ledger: Ledger, planned: PlannedStudy) -> tuple[int, int]:
    outcome: StorePlan = planned.plan.store
    if _completes(planned):
        holdings.set_archived(ledger, planned.destination_id, planned.study.study_key)
    if outcome.changes_nothing:
        return 0, 0
    if outcome.closes:
        planned_jobs.close_idle(ledger, outcome.closes, reason=f"Nothing is left to do: {outcome.why}.")
    successor: int | None = None
    made = 0
    if outcome.new_job is not None:
        job_type, work = outcome.new_job
        # A request for the study stands until all of it is there, whichever job brings it.
        requested_by = next((job.requested_by for job in planned.held.store_jobs if job.is_requested), None)
        successor = planned_jobs.insert_store(
            ledger, job_type, planned.destination_id, planned.study, work, requested_by=requested_by
        )
        made = int(successor is not None)
    elif outcome.refresh is not None:
        successor, work = outcome.refresh
        planned_jobs.refresh_store(ledger, successor, work)
    if outcome.supersedes:
        successor = successor or max(j.job_id for j in planned.held.store_jobs)
        planned_jobs.supersede_failed(ledger, outcome.supersedes, by=successor)
    return made, int(outcome.refresh is not None)


def _plan_targets(platform: Platform, ledger: Ledger, planned: Sequence[PlannedStudy], *, now: datetime) -> int:
    """Plan the studies in which replacements belong now, so that the notes which wait for them can name the jobs."""
    here = {item.study.study_key for item in planned}
    wanted = {key for p in planned if p.plan.withdrawal.new_job for key in p.plan.withdrawal.new_job.waits_for} - here
    made = 0
    if wanted:
        for c in compare(platform, ledger, sorted(wanted)).compared:
            target = PlannedStudy(
                c.desired, c.held, c.destination, plan(c.desired, c.held, c.destination, observed_at=now)
            )
            made += _write_store(ledger, target)[0]
    return made


def _write_withdrawal(ledger: Ledger, planned: PlannedStudy, *, now: datetime) -> int:
    outcome: WithdrawalPlan = planned.plan.withdrawal
    for rule, digest, instances in outcome.suppressed:
        planned_jobs.insert_suppressed(ledger, planned.destination_id, planned.study, rule, digest, instances, now=now)
    made = len(outcome.suppressed)
    if outcome.closes:
        planned_jobs.close_idle(ledger, outcome.closes, reason=f"Nothing is left to do: {outcome.why}.")
    if outcome.refresh is not None:
        planned_jobs.refresh_note(ledger, *outcome.refresh)
    if outcome.new_job is None:
        return made
    work = outcome.new_job
    parent, step = planned_jobs.insert_change(ledger, planned.destination_id, planned.study, work)
    stores = planned_jobs.undone_store_jobs(ledger, planned.destination_id, work.waits_for)
    first = [job_id for found in stores.values() for job_id in found]
    planned_jobs.depend(ledger, step, first)
    planned_jobs.adopt(ledger, parent, first)
    planned_jobs.supersede_failed(ledger, outcome.supersedes, by=step)
    return made + 1
