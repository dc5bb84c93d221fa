"""From changes on the platform to jobs in the ledger, and the same as a dry run."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime

from archsync.core.destination import Destination
from archsync.core.job import JobStatus
from archsync.core.planning import Held, Plan, Rule, plan, unverified_instances
from archsync.core.study import Study
from archsync.errors import InvalidInput
from archsync.ledger import destinations, holdings, jobs, plan_queue
from archsync.ledger.database import Ledger
from archsync.platformdb.reader import Platform

#: Studies planned in one transaction.
BATCH = 100

#: Study keys queued at once when all studies are to be looked at.
FULL_READ_BATCH = 1_000


@dataclass(frozen=True, slots=True)
class PlannedStudy:
    """The plan for one study at one destination."""

    study: Study
    destination: Destination
    held: Held
    plan: Plan


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


def _plan_batch(platform: Platform, ledger: Ledger, study_keys: Sequence[str], *, now: datetime) -> PlanningReport:
    batch = platform.fetch_studies(study_keys)
    for study_key, error in batch.rejected.items():
        plan_queue.record_problem(ledger, study_key, error)
    plan_queue.clear_problems(ledger, [study.study_key for study in batch.studies] + list(batch.missing))
    if batch.missing:
        _close_vanished(ledger, batch.missing)
    made = refreshed = 0
    for planned in _compare(ledger, batch.studies, now=now):
        new, updated = _write(ledger, planned)
        made += new
        refreshed += updated
    return PlanningReport(len(study_keys), made, refreshed, len(batch.rejected))


def _close_vanished(ledger: Ledger, study_keys: Sequence[str]) -> None:
    """Close the jobs of studies that the platform no longer has; one that runs finds that out by itself."""
    for destination in destinations.all_destinations(ledger):
        assert destination.destination_id is not None, "read from the ledger"
        for known in jobs.known_jobs(ledger, destination.destination_id, study_keys).values():
            job_ids = [job.job_id for job in known]
            jobs.close_idle(ledger, job_ids, reason="Nothing is left to do: the platform no longer has the study.")


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
    found: list[PlannedStudy] = []
    for start in range(0, len(study_keys), BATCH):
        batch = platform.fetch_studies(study_keys[start : start + BATCH])
        if on_rejected is not None:
            for study_key, error in batch.rejected.items():
                on_rejected(study_key, error)
        found.extend(_compare(ledger, batch.studies, now=now))
    return found


def _compare(ledger: Ledger, studies: Sequence[Study], *, now: datetime) -> list[PlannedStudy]:
    found = []
    for destination in destinations.all_destinations(ledger):
        held = held_at(ledger, destination, [study.study_key for study in studies])
        for study in studies:
            known = held[study.study_key]
            found.append(PlannedStudy(study, destination, known, plan(study, known, destination, observed_at=now)))
    return found


def held_at(ledger: Ledger, destination: Destination, study_keys: Sequence[str]) -> dict[str, Held]:
    """What the ledger knows of some studies at one destination, for every key asked."""
    destination_id = destination.destination_id
    assert destination_id is not None, "read from the ledger"
    instances = holdings.of_studies(ledger, destination_id, study_keys)
    archived = holdings.archived_studies(ledger, destination_id, study_keys)
    known = jobs.known_jobs(ledger, destination_id, study_keys)
    return {
        key: Held(is_archived=key in archived, instances=instances.get(key, {}), jobs=tuple(known.get(key, ())))
        for key in study_keys
    }


def _completes(planned: PlannedStudy) -> bool:
    """Tell whether a study turns out to be archived without its job: what it could not send left the platform."""
    held = planned.held
    return (
        planned.plan.rule is Rule.UP_TO_DATE
        and not held.is_archived
        and not any(job.status in (JobStatus.RUNNING, JobStatus.RETRYING) for job in held.jobs)
        and not unverified_instances(planned.study, held, planned.destination)
    )


def _write(ledger: Ledger, planned: PlannedStudy) -> tuple[int, int]:
    """Write a plan to the ledger; returns the number of jobs made and refreshed."""
    outcome = planned.plan
    if _completes(planned):
        assert planned.destination.destination_id is not None, "read from the ledger"
        holdings.set_archived(ledger, planned.destination.destination_id, planned.study.study_key)
    if outcome.changes_nothing:
        return 0, 0
    if outcome.closes:
        jobs.close_idle(ledger, outcome.closes, reason=f"Nothing is left to do: {outcome.why}.")
    successor: int | None = None
    made = 0
    if outcome.new_job is not None:
        job_type, work = outcome.new_job
        assert planned.destination.destination_id is not None, "read from the ledger"
        # A request for the study stands until all of it is there, whichever job brings it.
        requested_by = next((job.requested_by for job in planned.held.jobs if job.is_requested), None)
        successor = jobs.insert_queued(
            ledger, job_type, planned.destination.destination_id, planned.study, work, requested_by=requested_by
        )
        made = int(successor is not None)
    elif outcome.refresh is not None:
        successor, work = outcome.refresh
        jobs.refresh_queued(ledger, successor, work)
    if outcome.supersedes:
        successor = successor or max(j.job_id for j in planned.held.jobs)
        jobs.supersede_failed(ledger, outcome.supersedes, by=successor)
    return made, int(outcome.refresh is not None)
