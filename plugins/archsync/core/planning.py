"""The heart: compare what the platform says with what an archive holds, and name the work that closes the difference.

``plan`` is pure and level-triggered. It never looks at an event: a lost, repeated or reordered event can't change what
it returns. A job states an intent ("make study S right at destination D"); the instances to send are found again from
the same comparison when the job runs, so pending work coalesces and a retry sends only what is missing.

Planning twice plans nothing new: every job remembers the *content digest* it was planned for, and a study whose digest
is already covered by a job that is still open, or that an administrator cancelled, plans no other one.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from enum import StrEnum

from archsync.core.destination import Destination, Verification
from archsync.core.job import JobStatus, JobType, WaitReason
from archsync.core.study import Instance, Priority, Study, has_reached


@dataclass(frozen=True, slots=True)
class HeldInstance:
    """One instance as an archive provably holds it."""

    instance_key: str
    sop_instance_uid: str
    content_version: int
    is_verified: bool = False
    is_rejected: bool = False


@dataclass(frozen=True, slots=True)
class KnownJob:
    """What planning has to know of an earlier job on the same study at the same destination."""

    job_id: int
    job_type: JobType
    status: JobStatus
    content_digest: str | None
    priority: Priority
    wait_reason: WaitReason | None
    not_before: datetime
    created_at: datetime
    requested_by: str | None = None
    """Somebody asked for it explicitly: it is due at once, whatever trigger status, scope and settle delay say."""

    @property
    def is_requested(self) -> bool:
        """Tell whether somebody asked for it explicitly."""
        return self.requested_by is not None


@dataclass(frozen=True, slots=True)
class Held:
    """What the ledger knows of one study at one destination.

    ``is_archived``: an archive job once brought the whole study there. ``jobs``, oldest first: those that are not done
    and, if it is the latest of all, the one that an administrator cancelled.
    """

    is_archived: bool = False
    instances: Mapping[str, HeldInstance] = field(default_factory=dict)
    jobs: tuple[KnownJob, ...] = ()


class Rule(StrEnum):
    """Why a study has, or has not, work at a destination."""

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
class Plan:
    """What to do for one study at one destination, and the rule and sentence that explain it.

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


#: "Not before" this moment means: until planning says otherwise (the study is on hold, or its exam was reopened).
FAR_FUTURE = datetime(9999, 1, 1, tzinfo=UTC)


def missing_instances(desired: Study, held: Held) -> tuple[Instance, ...]:
    """The instances the platform shows and the archive does not hold.

    An instance that was rejected at the archive is never sent there again (design, invariant 2). One whose content
    changed in place is not missing: it needs a replacement under a new UID, since no UID may name two contents.
    """
    return tuple(i for i in desired.present_instances if i.instance_key not in held.instances)


def unverified_instances(desired: Study, held: Held, destination: Destination) -> tuple[Instance, ...]:
    """The instances that were stored but not yet seen at the archive, where the destination asks for that check."""
    if destination.verification is Verification.NONE:
        return ()
    return tuple(
        i
        for i in desired.present_instances
        if (known := held.instances.get(i.instance_key)) and not (known.is_verified or known.is_rejected)
    )


def is_due(desired: Study, held: Held, destination: Destination) -> bool:
    """Tell whether a study may be sent: its exam reached the trigger, it was archived there, or it was asked for."""
    return held.is_archived or _is_requested(held) or has_reached(desired.exam_status, destination.trigger_status)


def _is_requested(held: Held) -> bool:
    return any(job.is_requested and not job.status.is_done for job in held.jobs)


def gate(desired: Study, held: Held, destination: Destination) -> WaitReason | None:
    """Why the study must not be sent at all for now: on hold, or its exam went back before it was archived."""
    if desired.on_hold:
        return WaitReason.HOLD
    if not is_due(desired, held, destination):
        return WaitReason.EXAM_STATUS
    return None


def plan(desired: Study, held: Held, destination: Destination, *, observed_at: datetime) -> Plan:
    """Name the work that makes ``destination`` hold what the platform says of one study.

    ``observed_at`` is when the platform's state was read: the settle delay counts from it. Archive and dicom jobs.
    """
    closable = tuple(j.job_id for j in held.jobs if j.status in _AT_REST)
    if not destination.covers(desired.facility) and not _is_requested(held):
        return Plan(Rule.OUT_OF_SCOPE, f"facility {desired.facility.facility_id} is not in scope", closes=closable)
    if not desired.present_instances:
        return Plan(Rule.NO_INSTANCES, "the study has no instances", closes=closable)
    missing = missing_instances(desired, held)
    # Nothing to send may still leave something to check: an open job has to do it.
    if not missing and not (closable and unverified_instances(desired, held, destination)):
        return Plan(Rule.UP_TO_DATE, "the archive holds every instance", closes=closable)

    if any(job.status is JobStatus.RUNNING for job in held.jobs):
        # Its first push is under way: what came meanwhile follows it as late images do, also if the exam goes back.
        held = replace(held, is_archived=True)
    digest = desired.content_digest()
    failed = tuple(j for j in held.jobs if j.status is JobStatus.FAILED)
    queued = next((j for j in reversed(held.jobs) if j.status in _QUEUED), None)
    if queued is not None:
        work = _work(desired, held, destination, missing, digest, first_seen_at=queued.created_at, now=observed_at)
        takes_over = tuple(j.job_id for j in failed if j.job_id < queued.job_id)
        if not takes_over and _is_current(queued, work):
            return Plan(Rule.COVERED, f"job {queued.job_id} ({queued.status.value}) covers it")
        return Plan(
            Rule.COVERED,
            f"job {queued.job_id} is brought up to date",
            refresh=None if _is_current(queued, work) else (queued.job_id, work),
            supersedes=takes_over,
        )
    if not is_due(desired, held, destination):
        trigger = destination.trigger_status.value
        return Plan(Rule.NOT_REACHED, f"exam status {desired.exam_status} has not reached {trigger}")
    for job in held.jobs:
        if job.content_digest == digest:
            if job.status is JobStatus.CANCELLED:
                return Plan(Rule.CANCELLED, f"job {job.job_id} was cancelled; retry it to send after all")
            return Plan(Rule.COVERED, f"job {job.job_id} ({job.status.value}) covers it")
    return Plan(
        Rule.DUE,
        f"{len(missing)} of {len(desired.present_instances)} instances are missing"
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


def _is_current(job: KnownJob, work: Work) -> bool:
    """Tell whether a queued job already says all that ``work`` says; when it may start is compared by its gate.

    The gate's moment is compared too: a job that was put back for another reason shows that one, and is gated still.
    """
    same_gate = (work.wait_reason if work.wait_reason in _GATES else None) == (
        job.wait_reason if job.wait_reason in _GATES else None
    ) and (work.not_before == FAR_FUTURE) == (job.not_before == FAR_FUTURE)
    return job.content_digest == work.content_digest and job.priority == work.priority and same_gate


def _work(
    desired: Study,
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
    elif desired.priority is Priority.STAT or destination.settle_s == 0 or _is_requested(held):
        # Such a study is wanted now; images that arrive later follow in a dicom job.
        not_before = now
    else:
        quiet = now + timedelta(seconds=destination.settle_s)
        not_before = min(quiet, first_seen_at + timedelta(seconds=destination.settle_max_s))
        reason = WaitReason.SETTLING
    return Work(desired.priority, digest, missing, not_before, reason)
