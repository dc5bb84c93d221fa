"""The heart: compare what the platform says with what an archive holds, and name the work that closes the difference.

``plan`` is pure and level-triggered. It never looks at an event: a lost, repeated or reordered event can't change what
it returns. A job states an intent ("make study S right at destination D"); what to send is found again from the same
comparison when the job runs, so pending work coalesces and a retry sends only what is missing.

Three kinds of work come out of the one comparison:

- what is desired and not held is *missing*: an archive or dicom job stores it (replacements are no exception);
- what is held and no longer desired is *leftover*: a rejection note withdraws it (``core/withdrawal.py``);
- a patient whom the archive knows differently: ADT messages (``core/identity.py``).

Planning twice plans nothing new: every job remembers the *content digest* it was planned for, and a study whose digest
is already covered by a job that is still open, or that an administrator cancelled, plans no other one.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from enum import StrEnum

from archsync.core.comparison import Desired, Held, HeldInstance
from archsync.core.destination import Destination, Verification
from archsync.core.identity import AdtWork, plan_identity
from archsync.core.job import FAR_FUTURE, JobStatus, JobType, KnownJob, WaitReason
from archsync.core.study import Instance, Priority, has_reached, is_progress
from archsync.core.withdrawal import WithdrawalPlan, former_copies, holds_back_note, plan_withdrawal, waits_for_note


class Rule(StrEnum):
    """Why a study has, or has not, something to be stored at a destination."""

    DUE = "due"
    UP_TO_DATE = "up_to_date"
    OUT_OF_SCOPE = "out_of_scope"
    NOT_REACHED = "not_reached"
    NO_INSTANCES = "no_instances"
    COVERED = "covered"
    CANCELLED = "cancelled"


@dataclass(frozen=True, slots=True)
class Work:
    """What a job is to send as things stand, how urgent it is, and when it may start."""

    priority: Priority
    content_digest: str
    instances: tuple[Instance, ...]
    not_before: datetime
    wait_reason: WaitReason | None

    @property
    def bytes_total(self) -> int:
        """Size of what is to be sent, as far as the platform knows it."""
        return sum(i.size_bytes for i in self.instances)


@dataclass(frozen=True, slots=True)
class StorePlan:
    """What to store of one study at one destination, and the rule and sentence that explain it.

    At most one of ``new_job`` and ``refresh`` is set. ``supersedes``: failed jobs whose intent the new or refreshed
    job takes over. ``closes``: open jobs for which nothing is left to do.
    """

    rule: Rule
    why: str
    new_job: tuple[JobType, Work] | None = None
    refresh: tuple[int, Work] | None = None
    supersedes: tuple[int, ...] = ()
    closes: tuple[int, ...] = ()

    @property
    def changes_nothing(self) -> bool:
        """True when there is nothing to write to the ledger."""
        return not (self.new_job or self.refresh or self.supersedes or self.closes)


@dataclass(frozen=True, slots=True)
class Plan:
    """All work for one study at one destination: what to store, to withdraw, and to say about its patient."""

    store: StorePlan
    withdrawal: WithdrawalPlan
    adt: tuple[AdtWork, ...] = ()


def plan(desired: Desired, held: Held, destination: Destination, *, observed_at: datetime) -> Plan:
    """Name the work that makes ``destination`` hold what the platform says of one study.

    ``observed_at`` is when the platform's state was read: the settle delay counts from it.
    """
    return Plan(
        store=plan_store(desired, held, destination, observed_at=observed_at),
        withdrawal=plan_withdrawal(desired, held, destination, observed_at=observed_at),
        adt=plan_identity(
            desired.study.patient, held.patients, desired.survivors, known=held.patient_jobs, destination=destination
        ),
    )


# What to store


def missing_instances(desired: Desired, held: Held, destination: Destination) -> tuple[Instance, ...]:
    """The instances the platform shows and the archive does not hold in the place the platform gives them.

    An instance whose former copy has to be hidden first (patient safety) is not missing until that is done.
    """
    return tuple(
        i
        for i in desired.instances
        if held.holds(desired.placement_of(i)) is None and not waits_for_note(i, desired, held, destination)
    )


def unverified_instances(desired: Desired, held: Held, destination: Destination) -> tuple[HeldInstance, ...]:
    """The instances that were stored but not yet seen at the archive, where the destination asks for that check."""
    if destination.verification is Verification.NONE:
        return ()
    found = (held.holds(desired.placement_of(i)) for i in desired.instances)
    return tuple(h for h in found if h is not None and not h.is_verified)


def is_due(desired: Desired, held: Held, destination: Destination) -> bool:
    """Tell whether a study may be sent.

    Its exam reached the trigger, it was archived there, it was asked for, or the archive holds an instance of it in
    another place: what an archive once had must not vanish from it because it moved.
    """
    return (
        held.is_archived
        or _is_requested(held)
        or has_reached(desired.study.exam_status, destination.trigger_status)
        or any(former_copies(i, desired, held) for i in desired.instances)
    )


def _is_requested(held: Held) -> bool:
    return any(job.is_requested and not job.status.is_done for job in held.store_jobs)


def gate(desired: Desired, held: Held, destination: Destination) -> WaitReason | None:
    """Why the study must not be sent at all for now: on hold, or its exam went back before it was archived."""
    if desired.study.on_hold:
        return WaitReason.HOLD
    if not is_due(desired, held, destination):
        return WaitReason.EXAM_STATUS
    return None


def plan_store(desired: Desired, held: Held, destination: Destination, *, observed_at: datetime) -> StorePlan:
    """Name the archive or dicom job that stores what is missing."""
    study, jobs = desired.study, held.store_jobs
    closable = tuple(j.job_id for j in jobs if j.status in _AT_REST)
    if not destination.covers(study.facility) and not _is_requested(held):
        return StorePlan(Rule.OUT_OF_SCOPE, f"facility {study.facility.facility_id} is not in scope", closes=closable)
    if not desired.instances:
        return StorePlan(Rule.NO_INSTANCES, "the study has no instances", closes=closable)
    missing = missing_instances(desired, held, destination)
    # Nothing to send may leave something to check: an open job does it, or one for the sake of a note that waits.
    unchecked = unverified_instances(desired, held, destination) if not missing else ()
    if not missing and not (unchecked and (closable or holds_back_note(unchecked, desired, held))):
        return StorePlan(Rule.UP_TO_DATE, "the archive holds every instance", closes=closable)

    if held.archived_at is None and any(job.status is JobStatus.RUNNING for job in jobs):
        # Its first push is under way: what came meanwhile follows it as late images do, also if the exam goes back.
        held = replace(held, archived_at=observed_at)
    digest = study.content_digest()
    failed = tuple(j for j in jobs if j.status is JobStatus.FAILED)
    queued = next((j for j in reversed(jobs) if j.status in _QUEUED), None)
    if queued is not None:
        work = _work(desired, held, destination, missing, digest, first_seen_at=queued.created_at, now=observed_at)
        takes_over = tuple(j.job_id for j in failed if j.job_id < queued.job_id)
        if not takes_over and is_current(queued, work):
            return StorePlan(Rule.COVERED, f"job {queued.job_id} ({queued.status.value}) covers it")
        return StorePlan(
            Rule.COVERED,
            f"job {queued.job_id} is brought up to date",
            refresh=None if is_current(queued, work) else (queued.job_id, work),
            supersedes=takes_over,
        )
    if not is_due(desired, held, destination):
        trigger = destination.trigger_status.value
        if not is_progress(study.exam_status):
            return StorePlan(Rule.NOT_REACHED, f"exam status {study.exam_status} triggers nothing; {trigger} does")
        return StorePlan(Rule.NOT_REACHED, f"exam status {study.exam_status} has not reached {trigger}")
    for job in jobs:
        if job.content_digest in (digest, study.content_digest(with_identifier=True)):
            if job.status is JobStatus.CANCELLED:
                return StorePlan(Rule.CANCELLED, f"job {job.job_id} was cancelled; retry it to send after all")
            return StorePlan(Rule.COVERED, f"job {job.job_id} ({job.status.value}) covers it")
    return StorePlan(
        Rule.DUE,
        f"{len(missing)} of {len(desired.instances)} instances are missing"
        if missing
        else "what was stored has still to be checked",
        new_job=(
            JobType.DICOM if held.is_archived else JobType.ARCHIVE,
            _work(desired, held, destination, missing, digest, first_seen_at=observed_at, now=observed_at),
        ),
        supersedes=tuple(j.job_id for j in failed),
    )


_QUEUED = frozenset({JobStatus.WAITING, JobStatus.READY})
_AT_REST = _QUEUED | {JobStatus.FAILED}
_GATES = frozenset({WaitReason.HOLD, WaitReason.EXAM_STATUS})


def is_current(job: KnownJob, work: Work) -> bool:
    """Tell whether a queued job already says all that ``work`` says; when it may start is compared by its gate.

    The gate's moment is compared too: a job that was put back for another reason shows that one, and is gated still.
    """
    same_gate = (work.wait_reason if work.wait_reason in _GATES else None) == (
        job.wait_reason if job.wait_reason in _GATES else None
    ) and (work.not_before == FAR_FUTURE) == (job.not_before == FAR_FUTURE)
    return job.content_digest == work.content_digest and job.priority == work.priority and same_gate


def _work(
    desired: Desired,
    held: Held,
    destination: Destination,
    missing: tuple[Instance, ...],
    digest: str,
    *,
    first_seen_at: datetime,
    now: datetime,
) -> Work:
    """When the job may start: at once, or after ``settle_s`` of quiet but within ``settle_max_s``, or gated."""
    reason = gate(desired, held, destination)
    if reason is not None:
        not_before = FAR_FUTURE
    elif desired.study.priority is Priority.STAT or destination.settle_s == 0 or _is_requested(held):
        # Such a study is wanted now; images that arrive later follow in a dicom job.
        not_before = now
    else:
        quiet = now + timedelta(seconds=destination.settle_s)
        not_before = min(quiet, first_seen_at + timedelta(seconds=destination.settle_max_s))
        reason = WaitReason.SETTLING
    return Work(desired.study.priority, digest, missing, not_before, reason)
