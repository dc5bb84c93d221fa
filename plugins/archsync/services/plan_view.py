"""What planning would do, row by row: one for each study and destination, in sentences and in plain values."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from datetime import datetime
from enum import Enum
from typing import Any

from archsync.core.comparison import Desired, Held
from archsync.core.destination import Destination
from archsync.core.job import FAR_FUTURE, JobType
from archsync.core.naming import DagKind
from archsync.core.planning import Plan, Work
from archsync.core.waiting import destination_gate
from archsync.core.withdrawal import NoteWork
from archsync.core.wording import Gates, explain_messages, explain_withdrawals, say_plan, why_it_waits
from archsync.errors import InvalidInput
from archsync.ledger import destinations as store
from archsync.ledger.database import Ledger
from archsync.ledger.destinations import DestinationHealth
from archsync.platformdb.reader import Platform
from archsync.services.planner import PlannedStudy, dry_run


@dataclass(frozen=True, slots=True)
class PlannedRow:
    """What is planned for one study at one destination, and why the destination takes no jobs now, by their kind."""

    planned: PlannedStudy
    gates: Gates

    @property
    def facts(self) -> tuple[Plan, Desired, Held, Destination]:
        """What sentences are made from, in the order in which :mod:`archsync.core.wording` takes it."""
        return self.planned.plan, self.planned.desired, self.planned.held, self.planned.destination

    @property
    def sentences(self) -> list[str]:
        """All that is planned, in an administrator's words."""
        return say_plan(*self.facts, self.gates)


@dataclass(frozen=True, slots=True)
class UnreadableStudy:
    """A study whose rows break the platform's contract."""

    study_key: str
    why: str


def rows(
    platform: Platform,
    ledger: Ledger,
    batches: Iterable[tuple[str, ...]],
    name: str | None = None,
    *,
    clock: Callable[[], datetime],
) -> Iterator[PlannedRow | UnreadableStudy]:
    """One row for each study and destination, study by study; a study that can't be read has one row of its own.

    ``name``: for this destination only.
    """
    health = store.health(ledger)
    for study_keys in batches:
        now = clock()
        rejected: dict[str, InvalidInput] = {}
        by_study: dict[str, list[PlannedStudy]] = {}
        for planned in dry_run(platform, ledger, study_keys, now=now, on_rejected=rejected.__setitem__):
            by_study.setdefault(planned.study.study_key, []).append(planned)
        for key in study_keys:
            if error := rejected.get(key):
                yield UnreadableStudy(key, error.message)
            for planned in by_study.get(key, ()):
                if name in (None, planned.destination.name):
                    yield PlannedRow(planned, _gates(planned, health, now))


def _gates(planned: PlannedStudy, health: Mapping[tuple[int, DagKind], DestinationHealth], now: datetime) -> Gates:
    known = {kind: health[planned.destination_id, kind] for kind in DagKind}
    return {
        kind: destination_gate(planned.destination, kind, state.health, is_suspended=state.is_suspended, now=now)
        for kind, state in known.items()
    }


def as_plain(row: PlannedRow | UnreadableStudy) -> dict[str, Any]:
    """A row in plain values, with its sentences, as programs get it: by ``--json`` and from the pages' API."""
    if isinstance(row, UnreadableStudy):
        return {"study_key": row.study_key, "rule": "unreadable", "why": row.why}
    study, outcome = row.planned.study, row.planned.plan.store
    action, job_id, job_type, work = store_action(row.planned)
    return {
        "study_key": study.study_key,
        "study_instance_uid": study.study_instance_uid,
        "facility_id": study.facility.facility_id,
        "exam_status": study.exam_status,
        "destination": row.planned.destination.name,
        "rule": outcome.rule.value,
        "why": outcome.why,
        "action": action,
        "job_id": job_id,
        "job_type": _word(job_type),
        "priority": work.priority.name if work else None,
        "instances": len(work.instances) if work else 0,
        "bytes": work.bytes_total if work else 0,
        **_start(work, DagKind.ARCHIVE, row),
        "supersedes": list(outcome.supersedes),
        "closes": list(outcome.closes),
        "withdrawal": _withdrawal_as_json(row),
        "messages": [
            {
                **asdict(m),
                "change": m.change.value,
                "rule": m.rule.code if m.rule else None,
                "why": m.rule.why if m.rule else None,
                "job_status": _word(m.job_status),
            }
            for m in explain_messages(*row.facts)
        ],
        "sentences": row.sentences,
    }


def store_action(planned: PlannedStudy) -> tuple[str, int | None, JobType | None, Work | None]:
    """What would happen: ``send`` (a new job), ``update`` (a queued one), ``close`` (open ones) or ``none``."""
    outcome = planned.plan.store
    if outcome.new_job is not None:
        job_type, work = outcome.new_job
        return "send", None, job_type, work
    if outcome.refresh is not None:
        job_id, work = outcome.refresh
        job_type = next(job.job_type for job in planned.held.jobs if job.job_id == job_id)
        return "update", job_id, job_type, work
    return ("close" if outcome.closes else "none"), None, None, None


def _withdrawal_as_json(row: PlannedRow) -> dict[str, Any]:
    """The change as a whole: ``withdraw`` (a new job), ``update`` (a queued one), ``close`` (open ones) or ``none``."""
    outcome = row.planned.plan.withdrawal
    job_id, work = outcome.refresh or (None, outcome.new_job)
    action = "update" if outcome.refresh else "withdraw" if work else "close" if outcome.closes else "none"
    return {
        "action": action,
        "why": outcome.why,
        "job_id": job_id,
        "instances": work.instances if work else 0,
        **_start(work, DagKind.IOCM, row),
        "waits_for_study_keys": sorted(work.waits_for) if work else [],
        "supersedes": list(outcome.supersedes),
        "closes": list(outcome.closes),
        "suppressed": [{"rule": r.code, "why": r.why, "instances": number} for r, _, number in outcome.suppressed],
        "changes": [
            {
                **asdict(w),
                "reason": w.reason.value,
                "title": _word(w.title),
                "rule": w.rule.code if w.rule else None,
                "why": w.rule.why if w.rule else None,
                "sentence": w.sentence,
            }
            for w in explain_withdrawals(*row.facts)
        ],
    }


def _start(work: Work | NoteWork | None, kind: DagKind, row: PlannedRow) -> dict[str, Any]:
    return {
        "not_before": work.not_before if work and work.not_before < FAR_FUTURE else None,
        "wait_reason": _word(why_it_waits(work, kind, row.gates)),
    }


def _word(value: Any) -> Any:
    """An enum's member as its word; anything else as it is."""
    return value.value if isinstance(value, Enum) else value
