"""One job with all that belongs to it, as the command line and the pages show it."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING

from archsync.core.job import Job, JobStatus, JobType
from archsync.ledger import jobs, rejection_notes
from archsync.ledger.database import Ledger
from archsync.ledger.jobs import ListedJob
from archsync.ledger.rejection_notes import NoteRecord
from archsync.services import adt
from archsync.services.adt import DescribedMessage
from archsync.services.dispatch import ExplainedJob
from archsync.services.dispatch import explain as explain_jobs

if TYPE_CHECKING:
    from archsync.messages.note_contents import NamedSeries


@dataclass(frozen=True, slots=True)
class DescribedNote:
    """A rejection note. ``series`` is what it names; None once its bytes were purged."""

    record: NoteRecord
    series: tuple[NamedSeries, ...] | None


@dataclass(frozen=True, slots=True)
class DescribedJob:
    """A job, the change it is a step of, its own steps, what it depends on, and what it sent to be withdrawn or told.

    ``blocker`` is the job that holds it back now.
    """

    explained: ExplainedJob
    blocker: Job | None
    parent: Job | None
    steps: tuple[ExplainedJob, ...]
    dependencies: tuple[Job, ...]
    notes: tuple[DescribedNote, ...]
    messages: tuple[DescribedMessage, ...]

    @property
    def job(self) -> Job:
        """The job itself."""
        return self.explained.job


def describe_job(
    ledger: Ledger, job_id: int, *, now: datetime, phi: bool = False, actor: str | None = None
) -> DescribedJob:
    """Look at one job. ``phi``: ADT messages as they were sent, with the patient; that is audited with ``actor``.

    Raises:
        InvalidInput: there is no such job.
    """
    job = jobs.get(ledger, job_id)
    steps = jobs.steps(ledger, job_id) if job.job_type is JobType.IOCM else []
    listed = [ListedJob(j, _blocker(ledger, j)) for j in (job, *steps)]
    explained, *explained_steps = explain_jobs(ledger, listed, now=now)
    return DescribedJob(
        explained=explained,
        blocker=jobs.get(ledger, explained.blocked_by) if explained.blocked_by is not None else None,
        parent=jobs.get(ledger, job.parent_job_id) if job.parent_job_id is not None else None,
        steps=tuple(explained_steps),
        dependencies=tuple(jobs.dependencies(ledger, job_id)),
        notes=tuple(_describe(n) for j in (job, *steps) for n in rejection_notes.records(ledger, j.job_id)),
        messages=tuple(adt.describe(ledger, job_id, phi=phi, actor=actor)) if job.job_type is JobType.ADT else (),
    )


def _blocker(ledger: Ledger, job: Job) -> int | None:
    return jobs.blocker(ledger, job.job_id) if job.status is JobStatus.WAITING else None


def _describe(record: NoteRecord) -> DescribedNote:
    # pydicom takes a quarter of a second that jobs without notes do not need.
    from archsync.messages.note_contents import read_evidence

    return DescribedNote(record, None if record.encoded is None else tuple(read_evidence(record.encoded)))
