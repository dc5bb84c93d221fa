"""Whose a patient identifier is at an archive, and when another patient may go by it there.

An archive files by identifier. So an image that goes out under one which stands there for another person is theirs from
then on, and a merge into it makes two people one; neither can be taken back. Who had an identifier first keeps it until
a message that the archive acknowledged gives them another. Many archives, dcm4chee-arc among them, keep it even then:
what comes under an identifier that gave way goes to whom it gave way to.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from archsync.core.identity import HeldPatient
from archsync.core.job import AdtChange, JobType, KnownJob
from archsync.core.study import Patient
from archsync.errors import InvalidInput


@dataclass(frozen=True, slots=True)
class Holder:
    """Somebody whom an archive knows by an identifier, or may know by it: ``known.is_introduced`` tells.

    ``survivor``: who stands for them on the platform after merges. ``now``: that one as they are; None: gone.
    ``jobs``: those about them or the survivor there that are not done.
    """

    known: HeldPatient
    survivor: str
    now: Patient | None = field(repr=False)
    jobs: tuple[KnownJob, ...] = ()

    def job_that_frees(self) -> KnownJob | None:
        """The open job by which they lose the identifier there, or by which it turns out that they never had it."""
        return next((job for job in self.jobs if self._frees(job)), None)

    def _frees(self, job: KnownJob) -> bool:
        key = self.known.patient_key
        if not self.known.is_introduced and job.job_type is not JobType.ADT:
            return job.patient_key == key
        if self.survivor != key:
            return job.adt_change is AdtChange.MERGE and job.prior_patient_key == key
        return job.adt_change is AdtChange.IDENTIFIER and job.patient_key == key


@dataclass(frozen=True, slots=True)
class Standing:
    """Who goes by an identifier at an archive.

    ``gave_up``: whose it was until it gave way there, if it stays theirs: how the archive knows them now, by the keys
    of the survivors that they are on the platform. ``is_unsettled``: planning has still to look at some of the
    holders, so a job that frees it may be about to be made.
    """

    holders: tuple[Holder, ...] = ()
    gave_up: Mapping[str, HeldPatient] = field(default_factory=dict)
    is_unsettled: bool = False


#: Codes of jobs that failed for want of an identifier; when one is freed, they are tried again.
WAIT_FOR_IDENTIFIERS = ("identifier-taken", "adt-identifier-taken", "adt-identifier-shared")

Look = Callable[[tuple[str, str]], Standing]
"""Looks up who goes by an identifier: Patient ID and issuer, empty without one."""


class Undecided(Exception):
    """Nothing frees an identifier yet, but planning has still to look at those who have it: ``patient_keys``."""

    def __init__(self, patient_keys: Sequence[str]) -> None:
        super().__init__(*patient_keys)
        self.patient_keys = patient_keys


def find_other_record(patient: Patient, look: Look) -> HeldPatient | None:
    """Another record of the same person, whose an archive takes the patient's identifier for; None: there is none."""
    standing = look(_identifier(patient))
    own = (holder.known for holder in standing.holders if holder.survivor == patient.patient_key)
    return next(own, standing.gave_up.get(patient.patient_key))


def job_before_images(patient: Patient, look: Look) -> int | None:
    """The job that has to be done before an archive gets its first images of a patient; None: they may go.

    ``patient`` is a survivor.

    Raises:
        Undecided: nothing frees the identifier, and its holders are still to be planned.
        InvalidInput: ``identifier-taken`` or ``identifier-retired``: it stands for somebody else there, for good.
    """
    standing = look(_identifier(patient))
    for holder in _others(standing, patient):
        if _has_it_still(holder, patient):
            raise InvalidInput(
                "the patient's identifier belongs to another patient too, at the archive and on the platform",
                code="identifier-taken",
                next_step="Give each patient an identifier of their own on the platform, or merge the two.",
            )
        if (frees := holder.job_that_frees()) is not None:
            return frees.job_id
        if standing.is_unsettled:
            raise Undecided(sorted({holder.known.patient_key, holder.survivor}))
        raise InvalidInput(
            "the archive knows another patient by the patient's identifier, and no open job gives them another",
            code="identifier-taken",
            next_step="See that the archive learns the other patient's new identifier (the destination may have no ADT"
            " receiver, or the message was cancelled); then retry the job.",
        )
    if standing.gave_up.keys() - {patient.patient_key}:
        raise InvalidInput(
            "the patient's identifier was another patient's at the archive, who would get the images",
            code="identifier-retired",
            next_step="Give the patient another identifier on the platform; or have the archive free this one, set"
            " adt_prior_identifier of the destination to freed, and retry the job.",
        )
    return None


def job_before_message(patient: Patient, look: Look) -> int | None:
    """The job that has to take a patient's new identifier from somebody else first; None: it is free.

    Whoever has it is followed: to whom their identifier goes on the platform, who has that one, and so on.

    Raises:
        InvalidInput: ``adt-identifier-taken``: nothing is going to free it; ``adt-identifier-swap``: the identifiers
            go round in a circle.
    """
    first: int | None = None
    passed: set[str] = set()
    wanted = _identifier(patient)
    while True:
        standing = look(wanted)
        if passed and any(holder.known.patient_key == patient.patient_key for holder in standing.holders):
            raise _swap()
        others = _others(standing, patient)
        if not others:
            if first is None and standing.gave_up.keys() - {patient.patient_key}:
                raise _taken("was another patient's at the archive, and stays theirs")
            return first
        holder = others[0]
        key = holder.known.patient_key
        if key in passed:
            raise _swap()
        passed.add(key)
        is_merged = holder.survivor != key
        if not is_merged and (holder.now is None or _identifier(holder.now) == wanted):
            raise _taken("belongs to another patient, there and on the platform")
        frees = holder.job_that_frees()
        if frees is None:
            raise _taken("belongs to another patient there, and no open job gives them another")
        first = frees.job_id if first is None else first
        if is_merged or holder.now is None:
            return first  # a merge takes it away, and gives nobody another
        wanted = _identifier(holder.now)


def check_ends_alone(prior: Patient, patient: Patient, look: Look) -> None:
    """See that an identifier which is about to give way stands for nobody but the patient who gets another.

    Raises:
        InvalidInput: ``adt-identifier-shared``: the archive would take somebody else's studies along.
    """
    if _others(look(_identifier(prior)), patient):
        raise InvalidInput(
            "the identifier that is to give way stands for another patient too, whose studies would go along",
            code="adt-identifier-shared",
            next_step="Separate the two at the archive by hand, then cancel the job.",
        )


def _others(standing: Standing, patient: Patient) -> Sequence[Holder]:
    found = (holder for holder in standing.holders if holder.survivor != patient.patient_key)
    return sorted(found, key=lambda holder: holder.known.patient_key)


def _has_it_still(holder: Holder, patient: Patient) -> bool:
    return holder.now is not None and _identifier(holder.now) == _identifier(patient)


def _identifier(patient: Patient) -> tuple[str, str]:
    return HeldPatient.of(patient).identifier


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
