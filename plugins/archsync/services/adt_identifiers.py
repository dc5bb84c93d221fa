"""Whether an archive may be given a new identifier for a patient: it must be nobody else's there, or become free."""

from __future__ import annotations

from archsync.core.job import AdtChange, KnownJob
from archsync.core.placing import root
from archsync.core.study import Patient
from archsync.errors import InvalidInput
from archsync.ledger import patients, planned_jobs
from archsync.ledger.database import Ledger
from archsync.platformdb.reader import Platform


def job_that_frees(ledger: Ledger, platform: Platform, patient: Patient, *, destination_id: int) -> int | None:
    """The job that has to take the patient's new identifier from somebody else there first; None: it is free.

    An A40 into an identifier that stands for another person would make two people one, for good. So whoever has it is
    followed: to whom their identifier goes on the platform, who has that one, and so on.

    Raises:
        InvalidInput: ``adt-identifier-taken``: nothing is going to free it; ``adt-identifier-swap``: the identifiers
            go round in a circle.
    """
    wanted = (patient.patient_id, patient.issuer_of_patient_id)
    first: int | None = None
    passed: set[str] = set()
    while True:
        found = patients.holders(ledger, destination_id, *wanted)
        if passed and patient.patient_key in found:
            raise _swap()
        survivors = platform.resolve_survivors(found) if found else {}
        others = sorted(key for key in found if root(key, survivors) != patient.patient_key)
        if not others:
            return first
        holder = others[0]
        if holder in passed:
            raise _swap()
        passed.add(holder)
        survivor = root(holder, survivors)
        now = platform.fetch_patients([holder]).get(holder)
        if survivor == holder and (now is None or (now.patient_id, now.issuer_of_patient_id) == wanted):
            raise _taken("belongs to another patient, there and on the platform")
        frees = _job_about(ledger, destination_id, holder, survivor)
        if frees is None:
            raise _taken("belongs to another patient there, and no open job gives them another")
        first = frees.job_id if first is None else first
        if survivor != holder or now is None:
            return first  # a merge takes it away, and gives nobody another
        wanted = (now.patient_id, now.issuer_of_patient_id)


def _job_about(ledger: Ledger, destination_id: int, holder: str, survivor: str) -> KnownJob | None:
    """The open job by which a patient loses the identifier they have there."""
    known = planned_jobs.known_patient_jobs(ledger, [destination_id], [holder, survivor]).get(destination_id, [])
    is_merged = survivor != holder
    return next(
        (
            job
            for job in known
            if not job.status.is_done
            and (
                (job.adt_change is AdtChange.MERGE and job.prior_patient_key == holder)
                if is_merged
                else (job.adt_change is AdtChange.IDENTIFIER and job.patient_key == holder)
            )
        ),
        None,
    )


def _taken(how: str) -> InvalidInput:
    return InvalidInput(
        f"the patient's new identifier {how}",
        code="adt-identifier-taken",
        next_step="See whose the identifier is, on the platform and at the archive; then retry, or cancel the job.",
    )


def _swap() -> InvalidInput:
    return InvalidInput(
        "patients exchange their identifiers: no sequence of merges can say that without making them one person",
        code="adt-identifier-swap",
        next_step="Correct the patients at the archive by hand, then cancel the jobs.",
    )
