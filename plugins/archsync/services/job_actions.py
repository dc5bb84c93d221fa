"""What an administrator does to many jobs at once: to those named, or to all that a filter matches, a batch at a time.

Each job is its own transaction: what one refuses does not undo the others, and asking again goes on with the rest.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from enum import StrEnum

from archsync.core.job import UNDONE, Job, JobStatus
from archsync.core.settings import wrong_setting
from archsync.errors import InvalidInput
from archsync.ledger import job_pages, jobs
from archsync.ledger.database import Ledger
from archsync.ledger.job_pages import JobFilter, Place
from archsync.services import job_control

#: At most this many jobs in one batch, and not for much longer than this many seconds.
BATCH_JOBS = 1000
BATCH_SECONDS = 8.0
#: How many matching jobs are counted at most.
COUNT_CAP = 1_000_000


class JobAction(StrEnum):
    """What may be done to a job."""

    RETRY = "retry"
    CANCEL = "cancel"
    FRONT = "front"


#: The statuses in which a job may be asked to, and those that a filter without a status of its own means.
_MAY = {
    JobAction.RETRY: frozenset({JobStatus.FAILED, JobStatus.RETRYING, JobStatus.CANCELLED, JobStatus.SUPPRESSED}),
    JobAction.CANCEL: UNDONE,
    JobAction.FRONT: frozenset({JobStatus.WAITING}),
}
_MEANT = {**_MAY, JobAction.RETRY: frozenset({JobStatus.FAILED})}


def may(action: JobAction, job: Job) -> bool:
    """Tell whether a job's status allows an action. What else may stand against it, only trying tells."""
    return job.status in _MAY[action]


@dataclass(frozen=True, slots=True)
class Skipped:
    """A job to which an action was not done, and why."""

    job_id: int
    code: str
    detail: str


@dataclass(slots=True)
class Acted:
    """What became of a batch; ``resume`` is where the next one goes on, None: nothing is left."""

    done: list[int] = field(default_factory=list)
    skipped: list[Skipped] = field(default_factory=list)
    resume: Place | None = None


#: Says why somebody may not do it to a job, or None.
Objection = Callable[[Job], Skipped | None]


def check_reason(action: JobAction, reason: str) -> str:
    """The reason without blanks around it.

    Raises:
        ConfigurationError: a cancellation has none.
    """
    if action is JobAction.CANCEL and not reason.strip():
        raise wrong_setting("reason", "must not be empty; say why")
    return reason.strip()


def act_on(
    ledger: Ledger,
    action: JobAction,
    job_ids: Sequence[int],
    *,
    actor: str,
    reason: str,
    now: datetime,
    object_to: Objection = lambda _: None,
) -> Acted:
    """Do something to some jobs. Those it can't be done to are skipped, each with why."""
    acted = Acted()
    for job_id in job_ids:
        try:
            job = jobs.get(ledger, job_id)
            if (objection := object_to(job)) is not None:
                acted.skipped.append(objection)
                continue
            if action is JobAction.RETRY:
                job_control.retry(ledger, job_id, actor=actor, now=now)
            elif action is JobAction.CANCEL:
                job_control.cancel(ledger, job_id, actor=actor, reason=reason)
            else:
                job_control.move_to_front(ledger, job_id, actor=actor, together=job_ids)
            acted.done.append(job_id)
        except InvalidInput as exc:
            acted.skipped.append(Skipped(job_id, exc.code, exc.message))
    return acted


def matching(ledger: Ledger, action: JobAction, wanted: JobFilter) -> int:
    """How many of the jobs that match an action would be tried on, counted up to ``COUNT_CAP``."""
    narrowed = _narrow(action, wanted)
    if not narrowed.statuses:
        return 0
    return sum(job_pages.count(ledger, narrowed, cap=COUNT_CAP).values())


def act_on_matching(
    ledger: Ledger,
    action: JobAction,
    wanted: JobFilter,
    *,
    actor: str,
    reason: str,
    now: datetime,
    object_to: Objection = lambda _: None,
) -> Acted:
    """Do something to the next batch of the jobs that match, newest first, from ``wanted.before`` on."""
    acted = Acted()
    narrowed = replace(_narrow(action, wanted), limit=BATCH_JOBS)
    if not narrowed.statuses:
        return acted
    until = time.monotonic() + BATCH_SECONDS
    job_ids = job_pages.find(ledger, narrowed)
    seen = 0
    while seen < len(job_ids) and time.monotonic() < until:
        part = job_ids[seen : seen + 50]
        for item in jobs.listed(ledger, part):
            acted.resume = (item.job.created_at, item.job.job_id)
        some = act_on(ledger, action, part, actor=actor, reason=reason, now=now, object_to=object_to)
        acted.done += some.done
        acted.skipped += some.skipped
        seen += len(part)
    if seen == len(job_ids) < BATCH_JOBS:
        acted.resume = None
    return acted


def _narrow(action: JobAction, wanted: JobFilter) -> JobFilter:
    statuses: Collection[JobStatus] = _MAY[action] & set(wanted.statuses) if wanted.statuses else _MEANT[action]
    return replace(wanted, statuses=sorted(statuses), before_job_id=None)
