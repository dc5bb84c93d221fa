"""How far archiving is, destination by destination: the platform compared with the ledger, read only."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime

from archsync.core.destination import Verification
from archsync.core.job import JobStatus
from archsync.core.planning import is_due, missing_instances, unverified_instances
from archsync.ledger import jobs, overview
from archsync.ledger.database import Ledger
from archsync.ledger.jobs import JobFilter
from archsync.platformdb.reader import Platform
from archsync.services import planner
from archsync.services.planner import PlannedStudy

_MAX_JOBS = 10_000
_TABLE_HEADER = ("DESTINATION", "STUDIES DUE", "ARCHIVED", "CHECKED BY", "INSTANCES", "SIZE", "RETRIED", "FAILED JOBS")


@dataclass(slots=True)
class Progress:
    """One destination: the studies that are due there, and what has become of them."""

    destination: str
    is_checked: bool
    """Whether the archive is asked, after sending, what it holds."""
    due: int = 0
    archived: int = 0
    """Due studies whose every instance is there, and was found there if the destination is checked."""
    instances: int = 0
    size_bytes: int = 0
    jobs: Counter[JobStatus] = field(default_factory=Counter)
    retried: int = 0
    """Jobs with an attempt that the archive turned down."""
    failures: list[str] = field(default_factory=list)
    """Failed and retrying jobs, each with its reason."""
    missing: list[str] = field(default_factory=list)
    """Due studies that are not archived yet, by Study Instance UID."""

    @property
    def is_complete(self) -> bool:
        """True when all that is due is archived and no job is left."""
        return self.archived == self.due and not any(count for status, count in self.jobs.items() if not status.is_done)

    @property
    def is_stuck(self) -> bool:
        """True when something failed and nothing else is under way."""
        at_work = [s for s, count in self.jobs.items() if count and not s.is_done and s is not JobStatus.FAILED]
        return self.jobs[JobStatus.FAILED] > 0 and not at_work


def measure(platform: Platform, ledger: Ledger) -> list[Progress]:
    """Compare all studies with what every destination holds."""
    keys = [key for batch in platform.walk_study_keys() for key in batch]
    progress: dict[str, Progress] = {}
    for planned in planner.dry_run(platform, ledger, keys, now=datetime.now(UTC)):
        destination = planned.destination
        entry = progress.setdefault(
            destination.name, Progress(destination.name, destination.verification is not Verification.NONE)
        )
        _count_study(entry, planned)
    for counted in overview.counts(ledger):
        if counted.destination in progress:
            progress[counted.destination].jobs[counted.status] += counted.jobs
    for listed in jobs.listing(ledger, JobFilter(limit=_MAX_JOBS)):
        job = listed.job
        entry = progress[job.destination]
        entry.retried += job.attempts > 0
        if job.status in (JobStatus.FAILED, JobStatus.RETRYING):
            entry.failures.append(f"job {job.job_id} {job.status} (study {job.study_instance_uid}): {job.reason}")
    return list(progress.values())


def _count_study(entry: Progress, planned: PlannedStudy) -> None:
    desired, held, study, destination = planned.desired, planned.held, planned.study, planned.destination
    held_here = [i for i in desired.instances if held.holds(desired.placement_of(i))]
    entry.instances += len(held_here)
    entry.size_bytes += sum(i.size_bytes for i in held_here)
    if not destination.covers(study.facility) or not desired.instances or study.on_hold:
        return
    if not is_due(desired, held, destination):
        return
    entry.due += 1
    if missing_instances(desired, held, destination) or unverified_instances(desired, held, destination):
        entry.missing.append(study.study_instance_uid)
    else:
        entry.archived += 1


def format_line(progress: Sequence[Progress]) -> str:
    """One line: how far every destination is."""
    parts = []
    for entry in progress:
        states = (JobStatus.RUNNING, JobStatus.RETRYING, JobStatus.FAILED)
        jobs_text = ", ".join(f"{entry.jobs[s]} {s}" for s in states if entry.jobs[s])
        parts.append(
            f"{entry.destination}: {entry.archived} of {entry.due} studies, {entry.instances} instances"
            + (f" ({jobs_text})" if jobs_text else "")
        )
    return " · ".join(parts)


def format_table(progress: Iterable[Progress]) -> str:
    """The table of the end: a line per destination, then the failures with their reasons."""
    entries = list(progress)
    rows = [_TABLE_HEADER, *(_table_row(entry) for entry in entries)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    for entry in entries:
        lines += [f"{entry.destination}: {failure}" for failure in entry.failures]
        lines += [f"{entry.destination}: study {uid} is due and not archived" for uid in entry.missing]
    return "\n".join(lines)


def _table_row(entry: Progress) -> tuple[str, ...]:
    return (
        entry.destination,
        str(entry.due),
        str(entry.archived),
        "C-FIND" if entry.is_checked else "nobody",
        str(entry.instances),
        f"{entry.size_bytes / 1e6:.1f} MB",
        str(entry.retried),
        str(entry.jobs[JobStatus.FAILED]),
    )
