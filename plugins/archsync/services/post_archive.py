"""Changes after archiving, asked about explicitly: is this study still right there, and make it so now."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from enum import StrEnum

from archsync.core.identity import differences
from archsync.core.job import JobStatus, KnownJob
from archsync.core.planning import missing_instances
from archsync.core.withdrawal import find_leftovers, find_under_way, rule_against
from archsync.errors import InvalidInput
from archsync.ledger import destinations, jobs, plan_queue
from archsync.ledger.database import Ledger
from archsync.platformdb.reader import Platform
from archsync.services.comparison import Compared, compare
from archsync.services.planner import plan_now


class ChangeKind(StrEnum):
    """In what an archive differs from the platform."""

    MISSING = "missing"
    """Instances of a study that was archived are not there: late, shown again, moved or changed."""
    TO_WITHDRAW = "to_withdraw"
    """Instances are there that no longer belong to the study."""
    PATIENT = "patient"
    """The patient is known there with another identifier, name, birth date or sex."""


def find_changes(
    platform: Platform, ledger: Ledger, *, study_instance_uid: str, destination: str | None = None
) -> Mapping[str, Mapping[ChangeKind, int]]:
    """Count what differs of a study, by destination; one that never got anything of it does not differ.

    What a destination's rules keep from it is no difference.

    Raises:
        InvalidInput: the platform's rows of the study can't be used, or nobody knows such a study.
        ConfigurationError: there is no such destination.
    """
    targets = None if destination is None else [destinations.get(ledger, destination)]
    found = compare(platform, ledger, _study_keys(platform, ledger, study_instance_uid), targets)
    for error in found.rejected.values():
        raise error
    changes: dict[str, dict[ChangeKind, int]] = {}
    for compared in found.compared:
        counts = {kind: number for kind, number in _count(compared).items() if number}
        if counts:
            total = changes.setdefault(compared.destination.name, {})
            for kind, number in counts.items():
                total[kind] = total.get(kind, 0) + number
    return changes


def _count(compared: Compared) -> dict[ChangeKind, int]:
    desired, held, destination = compared.desired, compared.held, compared.destination
    leftovers = find_leftovers(desired, held, destination)
    to_withdraw = sum(rule_against(leftover, destination) is None for leftover in leftovers)
    is_there = held.is_archived or bool(held.instances)
    is_in_scope = destination.covers(desired.study.facility)
    return {
        ChangeKind.MISSING: len(missing_instances(desired, held, destination)) if is_there and is_in_scope else 0,
        ChangeKind.TO_WITHDRAW: to_withdraw + len(find_under_way(desired, held)),
        ChangeKind.PATIENT: len(differences(desired.study.patient, held.patients, desired.survivors))
        if destination.adt is not None
        else 0,
    }


def request_withdrawal(
    platform: Platform, ledger: Ledger, *, destination: str, study_instance_uid: str, requested_by: str, now: datetime
) -> int | None:
    """Find or make the kos job that withdraws what no longer belongs to a study, due now; None: nothing is to go.

    A job that is open is taken, not doubled; one that failed starts afresh.

    Raises:
        InvalidInput: nobody knows such a study.
        ConfigurationError: there is no such destination.
    """
    target = destinations.get(ledger, destination)
    study_keys = _study_keys(platform, ledger, study_instance_uid)
    with ledger.transaction():
        plan_now(platform, ledger, study_keys, now=now)
        job = _open_job(compare(platform, ledger, study_keys, [target]).compared)
        if job is None:
            return None
        if job.status is JobStatus.FAILED:
            jobs.move(ledger, job.job_id, JobStatus.WAITING, not_before=now, reset_attempts=True)
        jobs.request_now(ledger, job.job_id, requested_by=requested_by)
        return job.job_id


def _open_job(found: tuple[Compared, ...]) -> KnownJob | None:
    undone = [job for compared in found for job in compared.held.note_jobs if not job.status.is_done]
    return undone[0] if undone else None


def _study_keys(platform: Platform, ledger: Ledger, study_instance_uid: str) -> list[str]:
    """The study on the platform and, as it may have left it, those that archives got under this UID."""
    keys = {*platform.find_study_keys(study_instance_uid=study_instance_uid)}
    keys |= {*plan_queue.sent_as(ledger, study_instance_uid)}
    if not keys:
        raise InvalidInput(
            f"neither the platform nor an archive has a study {study_instance_uid}", code="unknown-study"
        )
    return sorted(keys)
