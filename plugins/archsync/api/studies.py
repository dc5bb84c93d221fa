"""One study: what the platform says, what each archive holds, and what may be done about it."""

from __future__ import annotations

from datetime import date, datetime
from typing import Annotated, Any, Literal

from fastapi import Path, Request, Response
from pydantic import BaseModel, Field

from archsync.api.access import Actor, Right, guarded_router, needs
from archsync.api.fields import Name, Uid
from archsync.api.job_views import jobs_out
from archsync.api.models_destinations import Body, Reason
from archsync.api.models_jobs import JobOut
from archsync.api.pages import UNCHANGED, revalidated
from archsync.api.sites import LedgerDep, Now, PlatformDep
from archsync.ledger import jobs
from archsync.ledger.database import Ledger
from archsync.ledger.job_pages import JobFilter
from archsync.ledger.jobs import ListedJob
from archsync.services import hold as holds
from archsync.services import plan_view, studies
from archsync.services.dispatch import explain
from archsync.services.plan_view import PlannedRow, UnreadableStudy
from archsync.services.studies import ArchiveView, StudyView

router = guarded_router("studies")

StudyUid = Annotated[Uid, Path(description="The Study Instance UID.")]

#: The newest jobs of a study that are shown with it; the list of jobs has all.
MOST_JOBS = 50

_NO_STUDY: dict[int | str, dict[str, Any]] = {404: {"description": "Neither platform nor ledger has such a study."}}


class ArchivedSeries(BaseModel):
    """A series as an archive knows it."""

    series_instance_uid: str
    study_instance_uid: str
    instances: int
    rejected: int


class ArchiveOut(BaseModel):
    """One study at one destination."""

    destination: str
    rule: str = Field(description="Why it has, or has not, something to be stored there.")
    why: str
    study_instance_uid: str | None = Field(description="The study's UID there.")
    archived_at: datetime | None = Field(description="When all of it was there for the first time.")
    held: int
    unanswered: int = Field(description="Sent without an answer: it may or may not have them.")
    rejected: int = Field(description="Withdrawn there by rejection notes.")
    rejecting: int = Field(description="Named by notes that it has not taken yet.")
    missing: int
    unverified: int
    to_withdraw: int
    is_in_step: bool
    differences: list[str] = Field(description="What is to be done there, and why; empty when it is in step.")
    series: list[ArchivedSeries]
    adt_jobs: list[int] = Field(description="Jobs that tell it of the study's patient.")

    @classmethod
    def of(cls, found: ArchiveView) -> ArchiveOut:
        """As the services see it."""
        return cls(
            destination=found.destination,
            rule=found.rule.value,
            why=found.why,
            study_instance_uid=found.study_instance_uid,
            archived_at=found.archived_at,
            held=found.held,
            unanswered=found.unanswered,
            rejected=found.rejected,
            rejecting=found.rejecting,
            missing=found.missing,
            unverified=found.unverified,
            to_withdraw=found.to_withdraw,
            is_in_step=found.is_in_step,
            differences=[] if found.is_in_step else list(found.sentences),
            series=[
                ArchivedSeries(
                    series_instance_uid=series.series_instance_uid,
                    study_instance_uid=series.study_instance_uid,
                    instances=series.instances,
                    rejected=series.rejected,
                )
                for series in found.series
            ],
            adt_jobs=list(found.adt_job_ids),
        )


class HoldOut(BaseModel):
    """Who holds a study back, and why."""

    by: Literal["administrator", "platform"]
    held_by: str | None
    held_at: datetime | None
    reason: str | None


class StudyOut(BaseModel):
    """One study, without its patient. What the platform says is null where its rows can't be used."""

    study_key: str
    study_instance_uid: str
    is_on_platform: bool
    problem: str | None = Field(description="Why its rows on the platform can't be used.")
    exam_status: str | None
    facility: str | None
    priority: str | None
    on_hold: bool
    holds: list[HoldOut]
    instances: int | None
    archives: list[ArchiveOut]
    jobs: list[JobOut] = Field(description="Its newest jobs, and those that tell archives of its patient.")


class PatientIn(Body):
    """``phi`` true: the answer is to name the patient, which is audited."""

    phi: Literal[True]


class PatientOut(BaseModel):
    """Whose study it is."""

    name: str
    patient_id: str
    issuer_of_patient_id: str | None
    birth_date: date | None
    sex: str | None
    accession_number: str | None


class Nothing(Body):
    """An empty object."""


class HoldIn(Body):
    """Why the study is held back; shown, and audited. No patient data."""

    reason: Reason


class HeldOut(BaseModel):
    """Whether the request changed anything."""

    changed: bool


class SentencesOut(BaseModel):
    """What would be done at a destination."""

    destination: str
    sentences: list[str]


class PlanOut(BaseModel):
    """What planning would do, destination by destination."""

    archives: list[SentencesOut]
    problem: str | None = Field(description="Why the study can't be planned.")


class PlannedOut(BaseModel):
    """What planning did."""

    jobs_made: int
    jobs_refreshed: int
    problem: str | None


class PushIn(Body):
    """Where to; ``again`` false: only what is missing there."""

    destinations: list[Name] = Field(min_length=1, max_length=1000)
    again: bool = True


class PushOut(BaseModel):
    """The jobs that bring it there, and the same in words."""

    jobs: list[int]
    sentences: list[str]


@router.get(
    "/studies/{study_uid}", dependencies=[needs(Right.READ)], response_model=StudyOut, responses=_NO_STUDY | UNCHANGED
)
def read_study(study_uid: StudyUid, request: Request, ledger: LedgerDep, platform: PlatformDep, now: Now) -> Response:
    """Say what the platform has of a study, what each archive holds, and how they differ."""
    found = studies.describe_study(platform, ledger, study_uid, now=now)
    study = found.study
    held = []
    if found.hold is not None:
        hold = found.hold
        held.append(HoldOut(by="administrator", held_by=hold.held_by, held_at=hold.held_at, reason=hold.reason))
    elif study is not None and study.on_hold:
        held.append(HoldOut(by="platform", held_by=None, held_at=None, reason="The platform holds it back."))
    is_known = study is not None and found.is_on_platform
    answer = StudyOut(
        study_key=found.study_key,
        study_instance_uid=found.study_instance_uid,
        is_on_platform=found.is_on_platform,
        problem=found.problem,
        exam_status=study.exam_status if study and is_known else None,
        facility=study.facility.facility_id if study and is_known else None,
        priority=study.priority.name if study and is_known else None,
        on_hold=bool(held),
        holds=held,
        instances=len(study.present_instances) if study else None,
        archives=[ArchiveOut.of(archive) for archive in found.archives],
        jobs=jobs_out(request, explain(ledger, _jobs_of(ledger, found), now=now)),
    )
    return revalidated(request, answer)


def _jobs_of(ledger: Ledger, found: StudyView) -> list[ListedJob]:
    """The newest jobs of a study, with those that tell archives of its patient, newest first."""
    own = jobs.listing(ledger, JobFilter(study_instance_uid=found.study_instance_uid, limit=MOST_JOBS))
    adt_job_ids = sorted({job_id for archive in found.archives for job_id in archive.adt_job_ids})[-MOST_JOBS:]
    told = jobs.listing(ledger, JobFilter(job_ids=adt_job_ids, limit=MOST_JOBS)) if adt_job_ids else []
    return sorted([*own, *told], key=lambda listed: listed.job.job_id, reverse=True)


@router.post("/studies/{study_uid}/patient", dependencies=[needs(Right.PATIENT_DATA)], responses=_NO_STUDY)
def read_patient(
    study_uid: StudyUid,
    body: PatientIn,  # noqa: ARG001  (its content is checked by its being there)
    ledger: LedgerDep,
    platform: PlatformDep,
    actor: Actor,
) -> PatientOut:
    """Say whose study it is; that is audited."""
    patient, study = studies.find_patient(platform, ledger, study_uid, actor=actor)
    return PatientOut(
        name=patient.name,
        patient_id=patient.patient_id,
        issuer_of_patient_id=patient.issuer_of_patient_id,
        birth_date=patient.birth_date,
        sex=patient.sex,
        accession_number=study.accession_number,
    )


@router.post("/studies/{study_uid}/plan", dependencies=[needs(Right.OPERATE)], responses=_NO_STUDY)
def preview_plan(
    study_uid: StudyUid,
    body: Nothing,  # noqa: ARG001
    ledger: LedgerDep,
    platform: PlatformDep,
    now: Now,
) -> PlanOut:
    """Say what planning would do for a study at every destination. Writes nothing."""
    study_key = studies.find_key(platform, ledger, study_uid)
    rows = list(plan_view.rows(platform, ledger, [(study_key,)], clock=lambda: now))
    return PlanOut(
        archives=[
            SentencesOut(destination=row.planned.destination.name, sentences=row.sentences)
            for row in rows
            if isinstance(row, PlannedRow)
        ],
        problem=next((row.why for row in rows if isinstance(row, UnreadableStudy)), None),
    )


@router.post("/studies/{study_uid}/plan-now", dependencies=[needs(Right.OPERATE)], responses=_NO_STUDY)
def plan_study_now(
    study_uid: StudyUid,
    body: Nothing,  # noqa: ARG001
    ledger: LedgerDep,
    platform: PlatformDep,
    actor: Actor,
    now: Now,
) -> PlannedOut:
    """Plan a study at every destination at once, instead of when its turn comes."""
    report = studies.plan_now(platform, ledger, study_uid, actor=actor, now=now)
    problem = (
        "Its rows on the platform can't be used; `archsync platform check` says more." if report.problems else None
    )
    return PlannedOut(jobs_made=report.jobs_made, jobs_refreshed=report.jobs_refreshed, problem=problem)


@router.post("/studies/{study_uid}/push", dependencies=[needs(Right.OPERATE)], responses=_NO_STUDY)
def push_study(
    study_uid: StudyUid, body: PushIn, ledger: LedgerDep, platform: PlatformDep, actor: Actor, now: Now
) -> PushOut:
    """Have a study sent to some destinations now, whatever their triggers and scopes say."""
    pushed = studies.push(platform, ledger, study_uid, body.destinations, again=body.again, actor=actor, now=now)
    return PushOut(
        jobs=[item.job_id for item in pushed if item.job_id is not None],
        sentences=[item.sentence for item in pushed],
    )


@router.post("/studies/{study_uid}/hold", dependencies=[needs(Right.OPERATE)], responses=_NO_STUDY)
def hold_study(study_uid: StudyUid, body: HoldIn, ledger: LedgerDep, platform: PlatformDep, actor: Actor) -> HeldOut:
    """Hold a study back everywhere: what runs stops at its next image, its changes queue up."""
    is_new = holds.add(platform, ledger, study_instance_uid=study_uid, actor=actor, reason=body.reason)
    return HeldOut(changed=is_new)


@router.post("/studies/{study_uid}/release", dependencies=[needs(Right.OPERATE)], responses=_NO_STUDY)
def release_study(
    study_uid: StudyUid,
    body: Nothing,  # noqa: ARG001
    ledger: LedgerDep,
    actor: Actor,
) -> HeldOut:
    """Release a study: what queued up is sent, unless the platform holds it, too."""
    return HeldOut(changed=holds.remove(ledger, study_instance_uid=study_uid, actor=actor))
