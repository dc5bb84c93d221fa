"""Which jobs go to Airflow now, and what became of those that went."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from archsync.core.destination import Destination
from archsync.core.job import FAR_FUTURE, Job, JobStatus, WaitReason
from archsync.core.naming import PEERS, DagKind, dag_kind, peer_of
from archsync.core.retry import Health
from archsync.core.waiting import destination_gate, quota, wait_reason
from archsync.ledger import destinations, dispatching, jobs
from archsync.ledger.database import Ledger
from archsync.ledger.jobs import ListedJob


@dataclass(frozen=True, slots=True)
class HandedOut:
    """A job to start in Airflow: the DAG's kind and destination, the job's number."""

    kind: DagKind
    destination: str
    job_id: int


#: Tells whether a destination's DAG is paused in Airflow; None: Airflow does not know the DAG (yet).
IsPaused = Callable[[DagKind, str], bool | None]

#: What Airflow says of a DAG run: its state ("running", "success", …), or None when it has no such run.
RunState = Callable[[str, str], str | None]


def hand_out(ledger: Ledger, *, now: datetime, is_paused: IsPaused) -> list[HandedOut]:
    """Mark due jobs as ready, within the quota of each destination and kind, and return them: STAT first, lanes kept.

    Airflow starts the runs of one call in any order, so a call hands out one urgency per peer of a destination; less
    urgent jobs follow with the next call. Those that are out already do not use up the quota of more urgent ones.
    """
    handed: list[HandedOut] = []
    due = dispatching.most_urgent_due(ledger)
    health = destinations.health(ledger)
    for destination in destinations.all_destinations(ledger):
        destination_id = destination.destination_id or 0
        for peer in PEERS:
            open_kinds = {
                kind: due[destination_id, kind]
                for kind in DagKind
                if peer_of(kind) is peer
                and (destination_id, kind) in due
                and _is_open(ledger, destination, kind, health[destination_id, kind].health, is_paused, now)
            }
            for kind, wanted in open_kinds.items():
                if wanted.urgency > min(other.urgency for other in open_kinds.values()):
                    continue
                free = quota(destination, kind, health[destination_id, kind].health, handed_out=wanted.handed_out)
                if free:
                    claimed = dispatching.claim_due(ledger, destination_id, kind, wanted.urgency, free)
                    handed.extend(HandedOut(kind, destination.name, job_id) for job_id in claimed)
    return handed


def _is_open(
    ledger: Ledger, destination: Destination, kind: DagKind, health: Health, is_paused: IsPaused, now: datetime
) -> bool:
    """Tell whether a destination takes jobs of a kind now; if not, note when the dispatcher is to look again."""
    destination_id = destination.destination_id or 0
    paused = is_paused(kind, destination.name)
    destinations.set_suspended(ledger, destination_id, kind, bool(paused))
    closed = destination_gate(destination, kind, health, is_suspended=paused is not False, now=now)
    if closed is not None:
        destinations.look_again(ledger, destination_id, _look_again_at(destination, closed, now), [kind])
    return closed is None


#: How often a destination whose DAG is paused, or not known to Airflow yet, is looked at, in seconds.
PAUSED_POLL_S = 10.0


def _look_again_at(destination: Destination, closed: WaitReason, now: datetime) -> datetime:
    """When a closed destination may be open again; enabling it, or its breaker, says so without being asked."""
    if closed is WaitReason.SEND_WINDOW:
        return destination.next_opening(now)
    if closed is WaitReason.SUSPENDED:
        return now + timedelta(seconds=PAUSED_POLL_S)
    return FAR_FUTURE if closed is WaitReason.DISABLED else now


_RUN_IS_OVER = frozenset({"success", "failed"})


def sweep(ledger: Ledger, *, run_state: RunState) -> int:
    """Find jobs whose run was lost and put them back; returns how many.

    A key that never became a run (claiming a row and emitting its key are not one transaction); a run that ended, or
    was deleted, while the ledger still has its job in hand (the process died, the scheduler with it). A job whose run
    Airflow still has is left to Airflow.
    """
    put_back = dispatching.requeue_unseen(ledger)
    for job in dispatching.overdue_in_hand(ledger):
        state = run_state(job.dag_id, job.run_id) if job.dag_id and job.run_id else None
        if state is None or state in _RUN_IS_OVER:
            put_back += jobs.move(
                ledger,
                job.job_id,
                JobStatus.WAITING,
                attempt_id=job.attempt_id,  # asking takes a moment: an attempt that began meanwhile keeps the job
                wait_reason=WaitReason.QUEUE,
                reason_code="run-lost",
                reason="Its run in Airflow ended without a word; it is started again.",
            )
    return put_back


@dataclass(frozen=True, slots=True)
class ExplainedJob:
    """A job with why it waits, what holds it back and which gateway it goes through, as listings show it."""

    job: Job
    wait_reason: WaitReason | None
    blocked_by: int | None
    gateway: str | None


def explain(ledger: Ledger, listed: Sequence[ListedJob], *, now: datetime) -> list[ExplainedJob]:
    """Say of each waiting job why it waits, as things stand now."""
    waiting = {item.job.destination_id for item in listed if item.job.status is JobStatus.WAITING}
    by_id = destinations.some(ledger, waiting) if waiting else {}
    health = destinations.health(ledger, waiting) if waiting else {}
    explained = []
    for item in listed:
        why = None
        destination = by_id.get(item.job.destination_id)
        if item.job.status is JobStatus.WAITING and destination is not None:
            kind = dag_kind(item.job.job_type)
            state = health[item.job.destination_id, kind]
            why = wait_reason(
                status=item.job.status,
                stored=item.job.wait_reason,
                not_before=item.job.not_before,
                gate=destination_gate(destination, kind, state.health, is_suspended=state.is_suspended, now=now),
                blocked_by=item.blocked_by,
                now=now,
            )
        explained.append(ExplainedJob(item.job, why, item.blocked_by, item.gateway))
    return explained
