"""One job with all that belongs to it, as the command line and the pages show it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING

from archsync.core.job import Job, JobStatus, JobType
from archsync.ledger import jobs, rejection_notes
from archsync.ledger.database import Ledger
from archsync.ledger.rejection_notes import NoteRecord
from archsync.services.dispatch import ExplainedJob
from archsync.services.dispatch import explain as explain_jobs
from archsync.services.message_view import DescribedMessage, describe_messages

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

    ``blocker`` is the job that holds it back now; ``blocks`` are those that it holds back.
    """

    explained: ExplainedJob
    blocker: ExplainedJob | None
    parent: ExplainedJob | None
    steps: tuple[ExplainedJob, ...]
    dependencies: tuple[ExplainedJob, ...]
    blocks: tuple[ExplainedJob, ...]
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
    related = jobs.related(ledger, job)
    blocker = jobs.blocker(ledger, job_id) if job.status is JobStatus.WAITING else None
    near = [
        job_id,
        *filter(None, (blocker, job.parent_job_id)),
        *related.steps,
        *related.dependencies,
        *related.blocked,
    ]
    listed = jobs.listed(ledger, list(dict.fromkeys(near)))
    by_id = {item.job.job_id: item for item in explain_jobs(ledger, listed, now=now)}

    def explained(job_ids: Iterable[int]) -> tuple[ExplainedJob, ...]:
        return tuple(by_id[i] for i in job_ids if i in by_id)

    return DescribedJob(
        explained=by_id[job_id],
        blocker=by_id.get(blocker or 0),
        parent=by_id.get(job.parent_job_id or 0),
        steps=explained(related.steps),
        dependencies=explained(related.dependencies),
        blocks=explained(related.blocked),
        notes=tuple(map(_describe, rejection_notes.records(ledger, [job_id, *related.steps]))),
        messages=tuple(describe_messages(ledger, job_id, phi=phi, actor=actor)) if job.job_type is JobType.ADT else (),
    )


def _describe(record: NoteRecord) -> DescribedNote:
    # pydicom takes a quarter of a second that jobs without notes do not need.
    from archsync.messages.note_contents import read_evidence

    return DescribedNote(record, None if record.encoded is None else tuple(read_evidence(record.encoded)))
