"""Whether a job may be handed to Airflow now, and if not, why: the same rules for the dispatcher and the listings."""

from __future__ import annotations

from datetime import datetime

from archsync.core.destination import Destination
from archsync.core.job import JobStatus, JobType, WaitReason
from archsync.core.naming import DagKind, peer_of
from archsync.core.retry import Health

#: Jobs in Airflow's hands, as a multiple of the destination's concurrency: enough that a slot never
#: idles, few enough that a STAT study that comes later overtakes nearly all.
HANDED_OUT_PER_SLOT = 4
#: The dispatcher is woken to hand out more when fewer than this many per slot are left: a wake-up serves several jobs.
LOW_WATER_PER_SLOT = 2


def next_opening(destination: Destination, kind: DagKind, now: datetime) -> datetime:
    """The moment from ``now`` on at which jobs of a kind may be sent; the send window does not hold back ADT."""
    return now if kind is DagKind.ADT else destination.next_opening(now)


def destination_gate(
    destination: Destination, kind: DagKind, health: Health, *, is_suspended: bool, now: datetime
) -> WaitReason | None:
    """Why a destination takes no job of a kind now, or None. One that is down but due for a probe takes a job."""
    if not destination.enabled:
        return WaitReason.DISABLED
    if is_suspended:
        return WaitReason.SUSPENDED
    if next_opening(destination, kind, now) > now:
        return WaitReason.SEND_WINDOW
    if health.is_down and not health.may_probe(now):
        return WaitReason.DESTINATION_DOWN
    return None


def slots(destination: Destination, kind: DagKind) -> int:
    """How many jobs may run at the same time: images and rejection notes share theirs, ADT messages have their own."""
    return destination.adt_concurrency if peer_of(kind) is DagKind.ADT else destination.concurrency


def quota(destination: Destination, kind: DagKind, health: Health, *, handed_out: int) -> int:
    """How many more jobs of a kind may be handed out; a destination that is down gets a single one, which probes it."""
    wanted = 1 if health.is_down else slots(destination, kind) * HANDED_OUT_PER_SLOT
    return max(0, wanted - handed_out)


def blocks(earlier: JobType, later: JobType, *, same_study: bool) -> bool:
    """Tell whether an earlier undone job of the same lane (destination and patient) holds back a later one.

    A later job that runs already holds back an earlier one likewise, which an administrator took back into the lane.
    Different studies of a patient go in parallel; an ADT waits for all earlier, and all later wait for it. An iocm job
    is only the parent of its steps. The function ``blocked_by`` in the ledger says the same in SQL.
    """
    if JobType.IOCM in (earlier, later):
        return False
    return same_study or JobType.ADT in (earlier, later)


def wait_reason(
    *,
    status: JobStatus,
    stored: WaitReason | None,
    not_before: datetime,
    gate: WaitReason | None,
    blocked_by: int | None,
    now: datetime,
) -> WaitReason | None:
    """Why a waiting job waits, from its own facts, its lane and its destination's gate, the most telling one first."""
    if status is not JobStatus.WAITING:
        return None
    if stored in (WaitReason.HOLD, WaitReason.EXAM_STATUS):
        return stored
    if blocked_by is not None:
        return WaitReason.LANE
    if gate is not None:
        return gate
    if not_before > now:
        return stored or WaitReason.SETTLING
    return WaitReason.QUEUE
