"""The jobs that planning makes, brings up to date and closes, and what it has to know of earlier ones."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from datetime import datetime
from typing import Any

from archsync.core.identity import AdtWork, Suppressed
from archsync.core.job import AdtChange, JobStatus, JobType, KnownJob, WaitReason
from archsync.core.planning import Work
from archsync.core.study import Priority, Study
from archsync.core.withdrawal import NoteWork
from archsync.ledger.database import Ledger, Row
from archsync.ledger.queries import load

SQL = load("planned_jobs")


def insert_store(
    ledger: Ledger,
    job_type: JobType,
    destination_id: int,
    study: Study,
    work: Work,
    *,
    requested_by: str | None = None,
    prior_patient_key: str | None = None,
) -> int | None:
    """Make a waiting store job; None when another one is queued for this study and destination already."""
    row = ledger.fetch_one(
        SQL["insert_queued"],
        {
            "job_type": job_type.value,
            "destination_id": destination_id,
            **_subject(study),
            "prior_patient_key": prior_patient_key,
            "requested_by": requested_by,
            **_work(work),
        },
    )
    return row["job_id"] if row else None


def insert_change(ledger: Ledger, destination_id: int, study: Study, work: NoteWork) -> tuple[int, int]:
    """Make the job for a change as a whole and its step that delivers the notes; returns both numbers."""
    parent = _insert(ledger, JobType.IOCM, destination_id, study, **_note(work))
    step = _insert(ledger, JobType.KOS, destination_id, study, parent_job_id=parent, **_note(work))
    return parent, step


def insert_adt(ledger: Ledger, destination_id: int, study: Study, work: AdtWork, *, now: datetime) -> int:
    """Make the job for a message about a study's patient, or the record that a rule keeps it back."""
    return _insert(
        ledger,
        JobType.ADT,
        destination_id,
        study,
        patient_key=work.patient_key,
        prior_patient_key=work.prior_patient_key,
        study_key=None,
        study_instance_uid=None,
        content_digest=work.content_digest,
        adt_change=work.change.value,
        not_before=now,
        **(_rule(work.suppressed) if work.suppressed else {}),
    )


def insert_suppressed(
    ledger: Ledger, destination_id: int, study: Study, rule: Suppressed, digest: str, instances: int, *, now: datetime
) -> int:
    """Record that a rule keeps back the withdrawal of some instances."""
    return _insert(
        ledger,
        JobType.IOCM,
        destination_id,
        study,
        content_digest=digest,
        instances_total=instances,
        not_before=now,
        **_rule(rule),
    )


def _insert(ledger: Ledger, job_type: JobType, destination_id: int, study: Study, **values: Any) -> int:
    row = ledger.fetch_one(
        SQL["insert_job"],
        {
            "job_type": job_type.value,
            "status": JobStatus.WAITING.value,
            "destination_id": destination_id,
            "priority": int(study.priority),
            "prior_patient_key": None,
            "parent_job_id": None,
            "adt_change": None,
            "wait_reason": None,
            "instances_total": 0,
            "reason_code": None,
            "reason": None,
            **_subject(study),
            **values,
        },
    )
    assert row is not None, "insert … returning gives a row"
    return int(row["job_id"])


def _subject(study: Study) -> dict[str, Any]:
    return {
        "patient_key": study.patient.patient_key,
        "study_key": study.study_key,
        "study_instance_uid": study.study_instance_uid,
        # A study that the platform no longer has came from somewhere, and nobody can say from where.
        "facility_id": study.facility.facility_id or None,
    }


def _work(work: Work) -> dict[str, Any]:
    return {
        "priority": int(work.priority),
        "content_digest": work.content_digest,
        "wait_reason": work.wait_reason.value if work.wait_reason else None,
        "not_before": work.not_before,
        "instances_total": len(work.instances),
        "bytes_total": work.bytes_total,
    }


def _note(work: NoteWork) -> dict[str, Any]:
    return {
        "priority": int(work.priority),
        "prior_patient_key": work.prior_patient_key,
        "content_digest": work.content_digest,
        "wait_reason": work.wait_reason.value if work.wait_reason else None,
        "not_before": work.not_before,
        "instances_total": work.instances,
    }


def _rule(rule: Suppressed) -> dict[str, Any]:
    return {"status": JobStatus.SUPPRESSED.value, "reason_code": rule.code, "reason": rule.why}


def depend(ledger: Ledger, job_id: int, depends_on: Collection[int]) -> None:
    """Have a job wait until others are done."""
    if depends_on:
        ledger.execute(SQL["depend"], {"job_id": job_id, "depends_on": list(depends_on)})


def adopt(ledger: Ledger, parent_job_id: int, job_ids: Collection[int]) -> None:
    """Make store jobs steps of a change, unless they are steps of another."""
    if job_ids:
        ledger.execute(SQL["adopt"], {"parent_job_id": parent_job_id, "job_ids": list(job_ids)})


def refresh_store(ledger: Ledger, job_id: int, work: Work) -> None:
    """Bring a queued store job up to date with what its study needs now."""
    ledger.execute(SQL["refresh_queued"], {"job_id": job_id, **_work(work)})


def refresh_note(ledger: Ledger, job_id: int, work: NoteWork) -> None:
    """Bring a queued kos job up to date with what is to be withdrawn now."""
    ledger.execute(SQL["refresh_queued"], {"job_id": job_id, "bytes_total": 0, **_note(work)})


def supersede_failed(ledger: Ledger, job_ids: Sequence[int], *, by: int) -> None:
    """Close failed jobs whose intent another job takes over."""
    ledger.execute(SQL["supersede_failed"], {"job_ids": list(job_ids), "by": by})


def close_idle(ledger: Ledger, job_ids: Sequence[int], *, reason: str) -> None:
    """Close open jobs, none of them running, for which nothing is left to do."""
    ledger.execute(SQL["close_idle"], {"job_ids": list(job_ids), "reason": reason})


def undone_store_jobs(ledger: Ledger, destination_id: int, study_keys: Collection[str]) -> dict[str, list[int]]:
    """The open jobs that store something of some studies, by study key."""
    found: dict[str, list[int]] = {}
    wanted = {"destination_id": destination_id, "study_keys": list(study_keys)}
    for row in ledger.fetch_all(SQL["undone_store_jobs"], wanted):
        found.setdefault(row["study_key"], []).append(row["job_id"])
    return found


def known_jobs(
    ledger: Ledger, destination_ids: Collection[int], study_keys: Collection[str]
) -> dict[tuple[int, str], list[KnownJob]]:
    """What planning has to know of earlier jobs, by destination id and study key."""
    rows = ledger.fetch_all(
        SQL["known_jobs"], {"destination_ids": list(destination_ids), "study_keys": list(study_keys)}
    )
    found: dict[tuple[int, str], list[KnownJob]] = {}
    for row in rows:
        found.setdefault((row["destination_id"], row["study_key"]), []).append(_known(row))
    return found


def known_patient_jobs(
    ledger: Ledger, destination_ids: Collection[int], patient_keys: Collection[str]
) -> dict[int, list[KnownJob]]:
    """What planning has to know of earlier ADT jobs, by destination id."""
    rows: Iterable[Row] = ledger.fetch_all(
        SQL["known_patient_jobs"], {"destination_ids": list(destination_ids), "patient_keys": list(patient_keys)}
    )
    found: dict[int, list[KnownJob]] = {}
    for row in rows:
        found.setdefault(row["destination_id"], []).append(_known(row))
    return found


def open_store_jobs(ledger: Ledger, destination_id: int, patient_keys: Collection[str]) -> list[KnownJob]:
    """The open jobs that store something of patients at a destination."""
    wanted = {"destination_id": destination_id, "patient_keys": list(patient_keys)}
    return [_known(row) for row in ledger.fetch_all(SQL["open_store_jobs"], wanted)]


def _known(row: Row) -> KnownJob:
    return KnownJob(
        job_id=row["job_id"],
        job_type=JobType(row["job_type"]),
        status=JobStatus(row["status"]),
        content_digest=row["content_digest"],
        priority=Priority(row["priority"]),
        wait_reason=WaitReason(row["wait_reason"]) if row["wait_reason"] else None,
        not_before=row["not_before"],
        created_at=row["created_at"],
        requested_by=row["requested_by"],
        adt_change=AdtChange(row["adt_change"]) if row["adt_change"] else None,
        patient_key=row["patient_key"],
        prior_patient_key=row["prior_patient_key"],
    )
