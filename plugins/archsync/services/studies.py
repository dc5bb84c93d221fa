"""One study: what the platform says of it, what each archive holds, how they differ, and what may be done about it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from archsync.core.audit import AuditAction
from archsync.core.comparison import HeldInstance
from archsync.core.destination import Destination
from archsync.core.planning import Rule, missing_instances, unverified_instances
from archsync.core.study import Patient, Study
from archsync.core.withdrawal import find_under_way, rule_against
from archsync.core.wording import explain_messages
from archsync.errors import InvalidInput
from archsync.ledger import audit, destinations, holdings, holds, plan_queue
from archsync.ledger.database import Ledger
from archsync.ledger.holds import StudyHold
from archsync.platformdb.reader import Platform
from archsync.services import plan_view, planner
from archsync.services.comparison import compare_one
from archsync.services.plan_view import PlannedRow, UnreadableStudy
from archsync.services.planner import PlanningReport
from archsync.services.request import find_study, request_study


def find_keys(
    platform: Platform, *, study_instance_uid: str | None = None, accession_number: str | None = None
) -> tuple[str, ...]:
    """The keys of the studies with a Study Instance UID, an accession number, or both; at least one.

    Raises:
        InvalidInput: the platform has none.
    """
    found = platform.find_study_keys(study_instance_uid=study_instance_uid, accession_number=accession_number)
    if not found:
        raise InvalidInput(
            "the platform has no such study", code="unknown-study", next_step="Check the number, and the view `study`."
        )
    return found


@dataclass(frozen=True, slots=True)
class HeldSeries:
    """A series as an archive knows it: what it holds of it, and what of that rejection notes withdrew."""

    series_instance_uid: str
    study_instance_uid: str
    instances: int
    rejected: int


@dataclass(frozen=True, slots=True)
class ArchiveView:
    """One study at one destination.

    ``held`` instances are shown there; ``unanswered`` were sent without an answer, so that it may or may not have them;
    ``rejected`` were withdrawn by notes it took, ``rejecting`` are named by notes it has not taken yet. ``missing`` are
    due there; ``unverified`` were stored and not seen there yet; ``to_withdraw`` it should not show any more.
    """

    destination: str
    rule: Rule
    why: str
    archived_at: datetime | None
    study_instance_uid: str | None
    held: int
    unanswered: int
    rejected: int
    rejecting: int
    missing: int
    unverified: int
    to_withdraw: int
    is_in_step: bool
    sentences: tuple[str, ...]
    series: tuple[HeldSeries, ...]
    adt_job_ids: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class StudyView:
    """One study. ``study`` is None where its rows on the platform can't be used: ``problem`` says why.

    ``is_on_platform`` False: only archives have it any more, and what is said of it is what the ledger knows.
    """

    study_key: str
    study_instance_uid: str
    study: Study | None
    problem: str | None
    is_on_platform: bool
    hold: StudyHold | None
    archives: tuple[ArchiveView, ...]


def describe_study(platform: Platform, ledger: Ledger, study_instance_uid: str, *, now: datetime) -> StudyView:
    """Compare one study with every destination. Writes nothing.

    Raises:
        InvalidInput: neither the platform nor the ledger has it (``unknown-study``), or several studies have the UID.
    """
    study_key, is_on_platform = _find(platform, ledger, study_instance_uid)
    found = list(plan_view.rows(platform, ledger, [(study_key,)], clock=lambda: now))
    problem = next((row.why for row in found if isinstance(row, UnreadableStudy)), None)
    planned = [row for row in found if isinstance(row, PlannedRow)]
    study = planned[0].planned.study if planned else None
    if study is None and problem is None and is_on_platform:
        # Without a destination nothing is compared; the platform's side is there all the same.
        study = next(iter(platform.fetch_studies([study_key]).studies), None)
    return StudyView(
        study_key=study_key,
        study_instance_uid=study.study_instance_uid if study else study_instance_uid,
        study=study,
        problem=problem,
        is_on_platform=is_on_platform,
        hold=holds.get(ledger, study_key),
        archives=tuple(map(_at_archive, planned)),
    )


def find_key(platform: Platform, ledger: Ledger, study_instance_uid: str) -> str:
    """The key of the one study with a UID, on the platform or, where that has none, at archives.

    Raises:
        InvalidInput: neither has it (``unknown-study``), or several studies have the UID.
    """
    return _find(platform, ledger, study_instance_uid)[0]


def _find(platform: Platform, ledger: Ledger, study_instance_uid: str) -> tuple[str, bool]:
    """The key of a study, and whether the platform has it: by the platform's UID, else by one it has at an archive."""
    found = platform.find_study_keys(study_instance_uid=study_instance_uid)
    missing: set[str] = set()
    if not found:
        keys = holdings.study_keys(ledger, study_instance_uid)
        missing = set(platform.fetch_studies(keys).missing)
        found = tuple(key for key in keys if key not in missing) or tuple(keys)
    if len(found) != 1:
        what = "no study" if not found else f"{len(found)} studies"
        raise InvalidInput(
            f"the platform has {what} with Study Instance UID {study_instance_uid}",
            code="unknown-study",
            next_step="Check the number, and the view `study`.",
        )
    return found[0], found[0] not in missing


def _at_archive(row: PlannedRow) -> ArchiveView:
    plan, desired, held, destination = row.facts
    here = [h for h in held.instances.values() if h.placed.study_key == desired.study.study_key]
    rejecting = find_under_way(desired, held)
    is_due = plan.store.rule not in (Rule.OUT_OF_SCOPE, Rule.NOT_REACHED)
    missing = len(missing_instances(desired, held, destination)) if is_due else 0
    unverified = len(unverified_instances(desired, held, destination))
    to_withdraw = sum(rule_against(leftover, destination) is None for leftover in plan.withdrawal.leftovers)
    to_tell = any(message.rule is None for message in explain_messages(*row.facts))
    return ArchiveView(
        destination=destination.name,
        rule=plan.store.rule,
        why=plan.store.why,
        archived_at=held.archived_at,
        study_instance_uid=next((h.placed.uids.study_instance_uid for h in reversed(here)), None),
        held=sum(h.is_stored and h.rejected_by is None for h in here),
        unanswered=sum(not h.is_stored for h in here),
        rejected=sum(h.is_hidden for h in here),
        rejecting=len(rejecting),
        missing=missing,
        unverified=unverified,
        to_withdraw=to_withdraw,
        is_in_step=not (missing or unverified or to_withdraw or rejecting or to_tell),
        sentences=tuple(row.sentences),
        series=_series(here),
        adt_job_ids=tuple(job.job_id for job in held.patient_jobs),
    )


def _series(here: Sequence[HeldInstance]) -> tuple[HeldSeries, ...]:
    """What an archive has of each series, by UID."""
    found: dict[tuple[str, str], list[HeldInstance]] = {}
    for h in here:
        if h.is_stored:
            uids = h.placed.uids
            found.setdefault((uids.series_instance_uid, uids.study_instance_uid), []).append(h)
    return tuple(
        HeldSeries(series, study, sum(h.rejected_by is None for h in held), sum(h.is_hidden for h in held))
        for (series, study), held in sorted(found.items())
    )


# What may be done


def find_patient(platform: Platform, ledger: Ledger, study_instance_uid: str, *, actor: str) -> tuple[Patient, Study]:
    """Read whose study it is; that is audited.

    Raises:
        InvalidInput: the platform has no such study, or its rows can't be used.
    """
    study_key = find_key(platform, ledger, study_instance_uid)
    batch = platform.fetch_studies([study_key])
    for error in batch.rejected.values():
        raise error
    if not batch.studies:
        raise InvalidInput(
            f"the platform no longer has study {study_instance_uid}, and so not its patient", code="unknown-study"
        )
    study = batch.studies[0]
    subject = f"study {study.study_instance_uid}"
    audit.record(ledger, actor=actor, action=AuditAction.PATIENT_SHOWN, subject=subject)
    return study.patient, study


def plan_now(
    platform: Platform, ledger: Ledger, study_instance_uid: str, *, actor: str, now: datetime
) -> PlanningReport:
    """Plan one study at once at every destination, and record who asked for it.

    Raises:
        InvalidInput: neither the platform nor the ledger has it (``unknown-study``).
    """
    study_key = find_key(platform, ledger, study_instance_uid)
    report = planner.plan_now(platform, ledger, [study_key], now=now)
    subject = f"study {study_instance_uid}"
    audit.record(
        ledger, actor=actor, action=AuditAction.STUDY_PLAN, subject=subject, detail=f"{report.jobs_made} jobs made"
    )
    return report


@dataclass(frozen=True, slots=True)
class Pushed:
    """What came of asking for a study at a destination; ``job_id`` None: all of it is there already."""

    destination: str
    job_id: int | None

    @property
    def sentence(self) -> str:
        """The same in words."""
        if self.job_id is None:
            return f"{self.destination} holds all of it already."
        return f"Job {self.job_id} brings it to {self.destination}."


def push(
    platform: Platform,
    ledger: Ledger,
    study_instance_uid: str,
    names: Sequence[str],
    *,
    again: bool,
    actor: str,
    now: datetime,
) -> list[Pushed]:
    """Have a study sent to some destinations now, whatever their triggers and scopes say; to all of them or to none.

    ``again``: all of it, also what they acknowledged; else what is missing. Asking twice asks once.

    Raises:
        InvalidInput: the platform has no such study, or nothing of it.
        ConfigurationError: there is no such destination.
    """
    study_key = find_study(platform, study_instance_uid)
    pushed = []
    with ledger.transaction():
        for name in dict.fromkeys(names):
            if again:
                _doubt(platform, ledger, study_key, destinations.get(ledger, name))
            job_id = request_study(
                platform,
                ledger,
                destination=name,
                study_instance_uid=study_instance_uid,
                requested_by=actor,
                now=now,
            )
            done = Pushed(name, job_id)
            subject = f"study {study_instance_uid}"
            detail = f"{'all' if again else 'what is missing'}: {done.sentence}"
            audit.record(ledger, actor=actor, action=AuditAction.STUDY_PUSH, subject=subject, detail=detail)
            pushed.append(done)
        # A job that runs has made up its mind what to send; the rest follows it.
        plan_queue.queue(ledger, [study_key])
        destinations.notify_work(ledger)
    return pushed


def _doubt(platform: Platform, ledger: Ledger, study_key: str, target: Destination) -> None:
    """Have what an archive acknowledged of a study count as missing there; what it may show is still known."""
    compared = compare_one(platform, ledger, study_key, target)
    if compared is None or target.destination_id is None:
        return
    held = (compared.held.holds(compared.desired.placement_of(i)) for i in compared.desired.instances)
    placement_ids = [h.placed.placement_id for h in held if h is not None]
    holdings.doubt(ledger, target.destination_id, placement_ids)
