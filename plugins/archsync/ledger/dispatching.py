"""What the dispatcher asks the ledger: which jobs are due, which to hand out, which got lost in Airflow's hands.

Every question is asked per destination and kind of job. An iocm job is never handed out: its steps are.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from archsync.core.job import Job, JobType
from archsync.core.naming import DagKind, dag_kind, peer_of
from archsync.core.waiting import LOW_WATER_PER_SLOT
from archsync.ledger.database import Ledger
from archsync.ledger.jobs import from_row
from archsync.ledger.queries import load

SQL = load("dispatching")

#: A job handed to Airflow for which no run began after this long was lost on the way, in seconds.
LOST_AFTER_S = 60
#: How long a job that was just handed to Airflow is let pass by less urgent ones, in seconds.
FRESH_S = 15
#: How long a job may be overdue in Airflow's hands before the sweeper asks Airflow about it, in seconds.
GRACE_S = 90

#: The types of job that have runs.
_RUN_TYPES = tuple(t for t in JobType if t is not JobType.IOCM)
#: The same for SQL, side by side: type, kind of DAG, peer.
_KINDS = {
    "job_types": [t.value for t in _RUN_TYPES],
    "kinds": [dag_kind(t).value for t in _RUN_TYPES],
    "peers": [peer_of(dag_kind(t)).value for t in _RUN_TYPES],
}


@dataclass(frozen=True, slots=True)
class DueJobs:
    """What is due: how urgent the most urgent one is, and how many in Airflow's hands are no less urgent."""

    urgency: int
    handed_out: int


def most_urgent_due(ledger: Ledger) -> dict[tuple[int, DagKind], DueJobs]:
    """Destination and kind, where there are due jobs whose lane is free → what is most urgent there."""
    return {
        (row["destination_id"], DagKind(row["kind"])): DueJobs(row["urgency"], row["handed_out"])
        for row in ledger.fetch_all(SQL["most_urgent_due"], _KINDS)
    }


def claim_due(ledger: Ledger, destination_id: int, kind: DagKind, urgency: int, limit: int) -> list[int]:
    """Mark up to ``limit`` due jobs of one urgency as ready and return them: oldest first, never past their lane."""
    rows = ledger.fetch_all(
        SQL["claim_due"],
        {
            "destination_id": destination_id,
            "job_types": [t.value for t in _RUN_TYPES if dag_kind(t) is kind],
            "urgency": urgency,
            "limit": limit,
        },
    )
    return sorted(row["job_id"] for row in rows)


def work_is_waiting(ledger: Ledger) -> bool:
    """Tell whether the dispatcher would find something to do."""
    row = ledger.fetch_one(
        SQL["work_is_waiting"], {**_KINDS, "low_water": LOW_WATER_PER_SLOT, "lost_after_s": LOST_AFTER_S}
    )
    return bool(row and row["waiting"])


def more_urgent(ledger: Ledger, job: Job) -> int | None:
    """A more urgent job for the same peer, which a job about to start has to let pass."""
    peer = peer_of(dag_kind(job.job_type))
    types = [t for t in _RUN_TYPES if peer_of(dag_kind(t)) is peer]
    row = ledger.fetch_one(
        SQL["more_urgent"],
        {
            "destination_id": job.destination_id,
            "job_types": [t.value for t in types],
            "kinds": [dag_kind(t).value for t in types],
            "urgency": job.urgency,
            "fresh_s": FRESH_S,
        },
    )
    return row["job_id"] if row else None


def next_wake(ledger: Ledger) -> datetime | None:
    """When something falls due by the clock alone."""
    row = ledger.fetch_one(SQL["next_wake"])
    return row["at"] if row else None


def record_run_seen(ledger: Ledger, job_id: int, *, dag_id: str, run_id: str) -> None:
    """Airflow began a run for a job it was handed."""
    ledger.execute(SQL["seen_run"], {"job_id": job_id, "dag_id": dag_id, "run_id": run_id})


def requeue_unseen(ledger: Ledger) -> int:
    """Put back jobs that were handed to Airflow and never got a run; returns how many."""
    return len(ledger.fetch_all(SQL["unseen_ready"], {"lost_after_s": LOST_AFTER_S}))


def overdue_in_hand(ledger: Ledger) -> list[Job]:
    """Jobs in Airflow's hands whose lease or next attempt is overdue: ask Airflow what became of them."""
    return [from_row(row) for row in ledger.fetch_all(SQL["overdue_in_hand"], {"grace_s": GRACE_S})]
