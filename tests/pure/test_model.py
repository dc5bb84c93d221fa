"""The model test: random histories of a platform × random faults; once faults stop, every archive holds the truth.

The rules under test are the real ones of ``core``. Around them stands a small ledger in memory, which keeps what the
real one keeps and runs jobs one step at a time, so that a crash, a lost answer or another job may come between any two.
The archives judge by the receiver's own rules (``simulate``), which share nothing with the sender.

A history is a list of numbers: any part of it is a history too. So one that fails is cut down to what it needs, and its
story is told together with its seed.
"""

from __future__ import annotations

import hashlib
import itertools
import random
from collections import defaultdict
from collections.abc import Callable, Generator, Iterable, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, date, datetime, timedelta
from typing import NamedTuple

import pytest

from archsync.core import adt_statement, comparison, identity, placing, planning, uid_map, waiting, withdrawal
from archsync.core.adt_statement import find_statement
from archsync.core.comparison import Desired, Held, HeldInstance, Related
from archsync.core.destination import Destination, Verification
from archsync.core.destination_iocm import NoteOrder, WithoutIocm
from archsync.core.identity import HeldPatient
from archsync.core.job import FAR_FUTURE, AdtChange, JobStatus, JobType, KnownJob, WaitReason, may_become
from archsync.core.placing import Bound, Placed
from archsync.core.planning import Rule, gate, missing_instances, plan, unverified_instances
from archsync.core.profiles import ArchiveProfile
from archsync.core.rejection import NoteIdentity, RejectionTitle
from archsync.core.study import ExamStatus, Facility, Instance, Patient, Priority, RemovalReason, Study
from archsync.core.uid_map import InstanceUids
from archsync.core.withdrawal import find_leftovers, find_withdrawn, rule_against
from archsync.simulate.adt_registry import ParsedMessage, PatientRegistry, Refusal, RegisteredPatient
from archsync.simulate.iocm import Arrival, IocmRules

NOON = datetime(2026, 3, 2, 12, tzinfo=UTC)
CITY = Facility("CITY", "City Hospital", "metro")
SOUTH = Facility("SOUTH", "South Clinic", "region")
CT = "1.2.840.10008.5.1.4.1.1.2"
KOS = "1.2.840.10008.5.1.4.1.1.88.59"
EXPLICIT_LE = "1.2.840.10008.1.2.1"
SUCCESS = 0x0000


class Violation(AssertionError):
    """An invariant does not hold. ``law`` names it: a shorter history counts if it breaks the same one."""

    def __init__(self, law: str, detail: str) -> None:
        super().__init__(f"{law}: {detail}")
        self.law = law


# -- the archive -------------------------------------------------------------------------------------------------------


class Header(dict):
    """A data set as far as the receiver's rules look at one."""

    __getattr__ = dict.__getitem__


class Image(NamedTuple):
    """A C-STORE request of an image. ``content`` is what a radiologist would recognise it by."""

    uids: InstanceUids
    patient: HeldPatient
    content: tuple[str, int]

    @property
    def digest(self) -> bytes:
        said = (self.uids, self.content, self.patient.identifier, self.patient.demographics)
        return hashlib.blake2b(repr(said).encode(), digest_size=16).digest()


class Note(NamedTuple):
    """A rejection note as encoded: what it says and when it was built."""

    uid: str
    title: RejectionTitle
    study_instance_uid: str
    patient: HeldPatient
    names: tuple[InstanceUids, ...]
    built_at: datetime


class Message(NamedTuple):
    """An ADT message as encoded."""

    control_id: str
    trigger: str
    patient: Patient
    prior: Patient | None


def key_of(patient: Patient | HeldPatient) -> str:
    return f"{patient.patient_id}^{patient.issuer_of_patient_id}"


class Archive:
    """An archive that judges what comes by the receiver's rules, and remembers what it was sent."""

    def __init__(self, *, honours_notes: bool, creates_patients: bool) -> None:
        self.rules = IocmRules() if honours_notes else None
        self.registry = PatientRegistry()
        self.creates_patients = creates_patients
        self.owner: dict[str, str] = {}
        self.kept: dict[str, Image] = {}
        self.hidden: set[str] = set()
        self.sent_notes: dict[str, Note] = {}
        self.sent_messages: dict[str, Message] = {}

    @property
    def shown(self) -> dict[str, Image]:
        return {uid: image for uid, image in self.kept.items() if uid not in self.hidden}

    def store(self, image: Image) -> None:
        uid = image.uids.sop_instance_uid
        if uid in self.hidden:
            raise Violation("no rejected UID is sent again", uid)
        if uid in self.kept and self.kept[uid].content != image.content:
            raise Violation("no UID names two contents", uid)
        for other in self.kept.values():
            same_series = other.uids.series_instance_uid == image.uids.series_instance_uid
            if same_series and other.uids.study_instance_uid != image.uids.study_instance_uid:
                raise Violation("a series lies in one study", image.uids.series_instance_uid)
        header = Header(
            StudyInstanceUID=image.uids.study_instance_uid, SeriesInstanceUID=image.uids.series_instance_uid
        )
        self._receive(Arrival(header, CT, uid, EXPLICIT_LE, image.digest), image.patient)
        self.kept[uid] = image

    def take_note(self, note: Note) -> None:
        if self.sent_notes.setdefault(note.uid, note) != note:
            raise Violation("resends are identical", f"note {note.uid}")
        for uids in note.names:
            if uids.sop_instance_uid not in self.kept:
                raise Violation("no note before its images", f"{uids.sop_instance_uid} is named and not here")
        series: dict[str, list[Header]] = defaultdict(list)
        for uids in note.names:
            reference = Header(ReferencedSOPClassUID=CT, ReferencedSOPInstanceUID=uids.sop_instance_uid)
            series[uids.series_instance_uid].append(reference)
        evidence = Header(
            StudyInstanceUID=note.study_instance_uid,
            ReferencedSeriesSequence=[
                Header(SeriesInstanceUID=uid, ReferencedSOPSequence=references) for uid, references in series.items()
            ],
        )
        header = Header(
            StudyInstanceUID=note.study_instance_uid,
            SeriesInstanceUID=f"{note.uid}.1",
            ConceptNameCodeSequence=[Header(CodingSchemeDesignator="DCM", CodeValue=note.title.value)],
            CurrentRequestedProcedureEvidenceSequence=[evidence],
        )
        digest = hashlib.blake2b(repr(note).encode(), digest_size=16).digest()
        self.hidden |= self._receive(Arrival(header, KOS, note.uid, EXPLICIT_LE, digest), note.patient)

    def _receive(self, arrival: Arrival, patient: HeldPatient) -> frozenset[str]:
        """Judge and admit; gives what is hidden by it."""
        study_uid = arrival.place[0]
        owner = self.owner.get(study_uid)
        is_other = owner is not None and not self.registry.is_same(owner, key_of(patient))
        hidden: frozenset[str] = frozenset()
        if self.rules is not None:
            verdict = self.rules.judge(arrival, is_other_patient=is_other)
            if verdict.status != SUCCESS:
                laws = {0xA770: "resends are identical", 0xA778: "images and notes name the study's patient"}
                law = laws.get(verdict.status, "what is sent is accepted")
                raise Violation(law, f"{arrival.sop_instance_uid} is answered {verdict.status:04X}")
            if verdict.is_kept:
                hidden = self.rules.admit(arrival).hidden
        elif is_other:
            raise Violation("images and notes name the study's patient", arrival.sop_instance_uid)
        if owner is None:
            birth_date = patient.birth_date.strftime("%Y%m%d") if patient.birth_date else ""
            known = RegisteredPatient(birth_date=birth_date, sex=patient.sex or "", dicom_name=patient.name)
            self.owner[study_uid] = self.registry.admit(key_of(patient), known)
        return hidden

    def take_message(self, message: Message) -> Refusal | None:
        if self.sent_messages.setdefault(message.control_id, message) != message:
            raise Violation("resends are identical", f"message {message.control_id}")
        if message.prior is not None and key_of(message.prior) == key_of(message.patient):
            raise Violation("nobody gives way to themselves", message.control_id)
        parsed = ParsedMessage(message.control_id, message.trigger, "2.5.1", "", _segments(message))
        try:
            self.registry.take(parsed, creates_patients=self.creates_patients)
        except Refusal as refusal:
            return refusal
        return None

    def patient_of(self, study_instance_uid: str) -> tuple[str, str]:
        """``id^issuer`` and name, as a query finds them."""
        key, patient = self.registry.current(self.owner[study_instance_uid])
        return key, patient.dicom_name


def _segments(message: Message) -> dict[str, list[str]]:
    patient, prior = message.patient, message.prior
    birth_date = patient.birth_date.strftime("%Y%m%d") if patient.birth_date else '""'
    pid = ["PID", "", "", _cx(patient), "", patient.name, "", birth_date, patient.sex or '""']
    return {"PID": pid, **({"MRG": ["MRG", _cx(prior)]} if prior else {})}


def _cx(patient: Patient) -> str:
    return f"{patient.patient_id}^^^{patient.issuer_of_patient_id}"


# -- the platform ------------------------------------------------------------------------------------------------------


class PlatformModel:
    """The platform's rows, and which studies changed."""

    def __init__(self, story: list[str]) -> None:
        self.story = story
        self.patients: dict[str, Patient] = {}
        self.studies: dict[str, Study] = {}
        self.instances: dict[str, Instance] = {}
        self.changed: set[str] = set()
        self._numbers = itertools.count(1)

    # reading

    def survivor(self, patient_key: str) -> str:
        while (following := self.patients[patient_key].merged_into_patient_key) is not None:
            patient_key = following
        return patient_key

    def survivors(self) -> dict[str, str]:
        return {key: self.survivor(key) for key in self.patients}

    def read(self, study_key: str) -> Study | None:
        study = self.studies.get(study_key)
        if study is None:
            return None
        instances = tuple(i for i in self.instances.values() if i.study_key == study_key)
        return replace(study, patient=self.patients[self.survivor(study.patient.patient_key)], instances=instances)

    def present(self, study_key: str | None = None) -> list[Instance]:
        return [
            i
            for i in self.instances.values()
            if i.removed_at is None and (study_key is None or i.study_key == study_key)
        ]

    # writing

    def _touch(self, *study_keys: str) -> None:
        self.changed.update(study_keys)

    def _touch_patient(self, patient_key: str) -> None:
        survivor = self.survivor(patient_key)
        self._touch(*(k for k, s in self.studies.items() if self.survivor(s.patient.patient_key) == survivor))

    def _tell(self, text: str) -> None:
        self.story.append(f"platform: {text}")

    def add_patient(self) -> str:
        number = next(self._numbers)
        key = f"p{number}"
        self.patients[key] = Patient(key, f"MRN{number}", "CITY", f"Name{number}^Given", date(1950, 1, 2), "F")
        return key

    def add_study(self, patient_key: str, facility: Facility, exam_status: str, instances: int) -> str:
        number = next(self._numbers)
        key = f"s{number}"
        patient = self.patients[self.survivor(patient_key)]
        self.studies[key] = Study(key, f"1.2.{number}", patient, facility, exam_status)
        self._tell(f"study {key} of patient {patient.patient_key} at {facility.facility_id}, {exam_status}")
        self.add_images(key, instances)
        return key

    def add_images(self, study_key: str, count: int, **values) -> list[Instance]:
        made = []
        for _ in range(count):
            number = next(self._numbers)
            uid = self.studies[study_key].study_instance_uid
            facts = {"series_instance_uid": f"{uid}.1", "location": "file:///x", "size_bytes": 1, **values}
            instance = Instance(
                instance_key=f"i{number}",
                study_key=study_key,
                series_number=1,
                modality="CT",
                sop_instance_uid=f"{uid}.1.{number}",
                sop_class_uid=CT,
                transfer_syntax_uid=EXPLICIT_LE,
                instance_number=1,
                **facts,
            )
            self.instances[instance.instance_key] = instance
            made.append(instance)
        self._touch(study_key)
        self._tell(f"images {', '.join(i.instance_key for i in made)} arrive in {study_key}")
        return made

    def update(self, instance: Instance, text: str, **values) -> None:
        changed = replace(instance, **values)
        self.instances[instance.instance_key] = changed
        self._touch(instance.study_key, changed.study_key)
        self._tell(f"image {instance.instance_key} {text}")

    def remove(self, chosen: Sequence[Instance], reason: RemovalReason | None, now: datetime) -> None:
        for i in chosen:
            self.update(
                i, f"is removed ({reason.value if reason else 'no reason'})", removed_at=now, removal_reason=reason
            )

    def delete(self, chosen: Sequence[Instance]) -> None:
        for i in chosen:
            del self.instances[i.instance_key]
            for other in list(self.instances.values()):
                if other.replaces_instance_key == i.instance_key:
                    self.update(other, "replaces nothing any more", replaces_instance_key=None)
            self._touch(i.study_key)
            self._tell(f"row of image {i.instance_key} is deleted")

    def restore(self, chosen: Sequence[Instance]) -> None:
        for i in chosen:
            self.update(i, "is shown again", removed_at=None, removal_reason=None)

    def delete_study(self, study_key: str) -> None:
        self.delete([i for i in self.instances.values() if i.study_key == study_key])
        del self.studies[study_key]
        self._touch(study_key)
        self._tell(f"study {study_key} is deleted")

    def move(self, chosen: Sequence[Instance], target_key: str) -> None:
        for i in chosen:
            self.update(i, f"moves from {i.study_key} to {target_key}", study_key=target_key)

    def replace_images(self, chosen: Sequence[Instance], target_key: str, reason: RemovalReason, now: datetime) -> None:
        self.remove(chosen, reason, now)
        for i in chosen:
            (new,) = self.add_images(target_key, 1, replaces_instance_key=i.instance_key)
            self._tell(f"image {new.instance_key} takes the place of {i.instance_key}")

    def change_study(self, study_key: str, text: str, **values) -> None:
        self.studies[study_key] = replace(self.studies[study_key], **values)
        self._touch(study_key)
        self._tell(f"study {study_key} {text}")

    def change_patient(self, patient_key: str, text: str, **values) -> None:
        self.patients[patient_key] = replace(self.patients[patient_key], **values)
        self._touch_patient(patient_key)
        self._tell(f"patient {patient_key} {text}")

    def merge(self, prior_key: str, survivor_key: str, *, repoint: bool) -> None:
        self.change_patient(prior_key, f"gives way to {survivor_key}", merged_into_patient_key=survivor_key)
        for key, study in self.studies.items():
            if repoint and study.patient.patient_key == prior_key:
                self.studies[key] = replace(study, patient=self.patients[survivor_key])


# -- the ledger --------------------------------------------------------------------------------------------------------


@dataclass
class Job:
    """A job as the ledger keeps it."""

    job_id: int
    job_type: JobType
    site: Site
    study_key: str | None
    patient_key: str
    content_digest: str
    created_at: datetime
    not_before: datetime
    status: JobStatus = JobStatus.WAITING
    priority: Priority = Priority.ROUTINE
    wait_reason: WaitReason | None = None
    prior_patient_key: str | None = None
    adt_change: AdtChange | None = None
    depends_on: set[int] = field(default_factory=set)
    reason_code: str | None = None
    attempts: int = 0
    steps: Steps | None = None
    is_begun: bool = False
    is_superseded: bool = False

    def known(self) -> KnownJob:
        return KnownJob(
            self.job_id,
            self.job_type,
            self.status,
            self.content_digest,
            self.priority,
            self.wait_reason,
            self.not_before,
            self.created_at,
            adt_change=self.adt_change,
            patient_key=self.patient_key,
            prior_patient_key=self.prior_patient_key,
        )

    @property
    def is_cancelled_by_hand(self) -> bool:
        is_ours = self.is_superseded or self.reason_code == "nothing-to-do"
        return self.status is JobStatus.CANCELLED and not is_ours

    @property
    def patient_keys(self) -> set[str]:
        return {self.patient_key} | ({self.prior_patient_key} if self.prior_patient_key else set())

    def __str__(self) -> str:
        about = self.study_key or f"{self.adt_change} of {self.patient_key}"
        return f"job {self.job_id} ({self.job_type.value} of {about} at {self.site.destination.name})"


@dataclass
class HeldRow:
    """One placement at one archive."""

    is_stored: bool = False
    is_verified: bool = False
    note_id: int | None = None


@dataclass
class NoteRow:
    """A rejection note that was built."""

    note: Note
    study_key: str
    placement_ids: tuple[int, ...]
    copies: tuple[tuple[InstanceUids, frozenset[str]], ...]
    """What had to be stored before: each named instance with the keys of those that take its place."""
    is_taken: bool = False


@dataclass
class MessageRow:
    """A message that was built."""

    message: Message
    job: Job
    known_after: HeldPatient
    prior_patient_key: str | None
    is_in_doubt: bool = False
    is_told: bool = False
    is_refused: bool = False


@dataclass
class Site:
    """A destination, what the ledger keeps of it, and the archive itself."""

    destination: Destination
    archive: Archive
    held: dict[int, HeldRow] = field(default_factory=dict)
    patients: dict[str, HeldPatient] = field(default_factory=dict)
    filed: dict[str, str] = field(default_factory=dict)
    archived: dict[str, datetime] = field(default_factory=dict)
    notes: dict[int, NoteRow] = field(default_factory=dict)
    messages: list[MessageRow] = field(default_factory=list)


class Fault:
    """What befalls one exchange with an archive."""

    NONE, REFUSED, BUSY, ABORTED, ANSWER_LOST = range(5)


Steps = Generator[str, int, None]
"""A job under way: gives what it is about to do, takes the fault that befalls it."""

MAX_ATTEMPTS = 4


class LedgerModel:
    """What the ledger keeps, and the services that work on it, reduced to what they decide."""

    def __init__(self, platform: PlatformModel, sites: Sequence[Site], story: list[str]) -> None:
        self.platform = platform
        self.sites = list(sites)
        self.story = story
        self.now = NOON
        self.queue: set[str] = set()
        self.placements: list[Placed] = []
        self.jobs: list[Job] = []

    def tell(self, text: str) -> None:
        self.story.append(f"    {text}")

    # -- both sides of the comparison --------------------------------------------------------------------------------

    def burnt(self) -> set[int]:
        return {n for site in self.sites for n, row in site.held.items() if row.note_id is not None}

    def latest(self) -> dict[str, Placed]:
        burnt = self.burnt()
        last = {p.instance_key: p for p in self.placements}
        return {key: replace(p, is_burnt=p.placement_id in burnt) for key, p in last.items()}

    def read(self, study_key: str) -> Study | None:
        """A study of the platform, or what is known of one that is gone and held somewhere."""
        study = self.platform.read(study_key)
        if study is not None:
            return study
        placed = [p for p in self.placements if p.study_key == study_key]
        held = [p for p in placed if any(p.placement_id in site.held for site in self.sites)]
        if not held:
            return None
        patient = self.platform.patients[self.platform.survivor(held[-1].patient_key)]
        nowhere = Facility("", "", "")
        return Study(study_key, held[-1].uids.study_instance_uid, patient, nowhere, "", Priority.ROUTINE)

    def compare(self, study_key: str, site: Site) -> tuple[Desired, Held] | None:
        study = self.read(study_key)
        if study is None:
            return None
        survivors = self.platform.survivors()
        own = {i.instance_key for i in study.instances}
        replacements: dict[str, tuple[str, ...]] = {}
        related = {}
        others = {key: other for key in self.platform.studies if (other := self.platform.read(key)) is not None}
        for i in self.platform.instances.values():
            if i.replaces_instance_key is not None:
                replacements[i.replaces_instance_key] = (
                    *replacements.get(i.replaces_instance_key, ()),
                    i.instance_key,
                )
            if i.instance_key not in own:
                related[i.instance_key] = Related(others[i.study_key], i)
        desired = Desired(
            study,
            self.latest(),
            survivors,
            related,
            replacements,
            filed=self.filed(study_key),
            filed_elsewhere={key: self.filed(key) for key in others},
        )
        filed = {study.patient.patient_key} | {p.patient_key for p in self.placements if p.study_key == study_key}
        filed |= {key for key, survivor in survivors.items() if survivor == study.patient.patient_key}
        return desired, Held(
            archived_at=site.archived.get(study_key),
            instances=self.held_instances(site),
            jobs=self.known_jobs(site, study_key),
            patients={key: site.patients[key] for key in filed if key in site.patients},
            patient_jobs=tuple(
                j.known()
                for j in self.jobs
                if j.site is site
                and j.job_type is JobType.ADT
                and j.patient_key in filed
                and (not j.status.is_done or j.status is JobStatus.SUPPRESSED)
            ),
        )

    def held_instances(self, site: Site) -> dict[int, HeldInstance]:
        placed = {p.placement_id: p for p in self.placements}
        burnt = self.burnt()
        return {
            n: HeldInstance(
                replace(placed[n], is_burnt=n in burnt),
                row.is_stored,
                row.is_verified,
                row.note_id,
                row.note_id is not None and site.notes[row.note_id].is_taken,
            )
            for n, row in site.held.items()
        }

    def known_jobs(self, site: Site, study_key: str) -> tuple[KnownJob, ...]:
        """As the ledger's query: what is not done, what a rule suppressed, and the latest if somebody cancelled it."""
        mine = [j for j in self.jobs if j.site is site and j.study_key == study_key]
        latest = {j.job_type is JobType.KOS: j for j in mine if j.job_type is not JobType.IOCM}
        return tuple(
            j.known()
            for j in mine
            if not j.status.is_done
            or j.status is JobStatus.SUPPRESSED
            or (j.is_cancelled_by_hand and latest[j.job_type is JobType.KOS] is j)
        )

    # -- planning ----------------------------------------------------------------------------------------------------

    def observe(self) -> None:
        self.queue |= self.platform.changed
        self.platform.changed.clear()

    def plan_queued(self) -> int:
        """Plan all queued studies in one transaction; gives the number of jobs made."""
        study_keys, self.queue = sorted(self.queue), set()
        planned = []
        for study_key in study_keys:
            for site in self.sites:
                compared = self.compare(study_key, site)
                if compared is not None:
                    planned.append((site, *compared, self.plan(*compared, site)))
                else:
                    self.close([j.job_id for j in self.jobs if j.study_key == study_key])
        before = len(self.jobs)
        seen = set()
        for site, _, _, outcome in planned:
            for work in outcome.adt:
                key = (site.destination.name, work.change, work.patient_key, work.prior_patient_key)
                if key not in seen:
                    seen.add(key)
                    self.insert_adt(site, work)
        for site, desired, held, outcome in planned:
            self.write_store(site, desired, held, outcome.store)
        here = set(study_keys)
        for site in self.sites:
            wanted = {
                key
                for at, _, _, outcome in planned
                if at is site and outcome.withdrawal.new_job
                for key in outcome.withdrawal.new_job.waits_for
            }
            for study_key in sorted(wanted - here):
                compared = self.compare(study_key, site)
                if compared is not None:
                    self.write_store(site, *compared, self.plan(*compared, site).store)
        for site, desired, _, outcome in planned:
            self.write_withdrawal(site, desired.study, outcome.withdrawal)
        return len(self.jobs) - before

    def plan(self, desired: Desired, held: Held, site: Site) -> planning.Plan:
        return plan(desired, held, site.destination, observed_at=self.now)

    def insert(self, job_type: JobType, site: Site, study: Study | None, work, **values) -> Job:
        job = Job(
            len(self.jobs) + 1,
            job_type,
            site,
            study.study_key if study else None,
            study.patient.patient_key if study else work.patient_key,
            content_digest=getattr(work, "content_digest", ""),
            created_at=self.now,
            not_before=getattr(work, "not_before", self.now),
        )
        for name, value in {"wait_reason": getattr(work, "wait_reason", None), **values}.items():
            setattr(job, name, value)
        self.jobs.append(job)
        self.tell(f"planned: {job}{f' {job.status.value}' if job.status.is_done else ''}")
        return job

    def insert_adt(self, site: Site, work: identity.AdtWork) -> None:
        job = self.insert(
            JobType.ADT,
            site,
            None,
            work,
            adt_change=work.change,
            prior_patient_key=work.prior_patient_key,
            status=JobStatus.SUPPRESSED if work.suppressed else JobStatus.WAITING,
        )
        self.supersede(work.supersedes, job)

    def write_store(self, site: Site, desired: Desired, held: Held, outcome: planning.StorePlan) -> None:
        study = desired.study
        busy = (JobStatus.RUNNING, JobStatus.RETRYING)
        if (
            outcome.rule is Rule.UP_TO_DATE
            and not held.is_archived
            and not any(j.status in busy for j in held.store_jobs)
            and not unverified_instances(desired, held, site.destination)
        ):
            site.archived.setdefault(study.study_key, self.now)
        self.close(outcome.closes)
        successor = None
        if outcome.new_job is not None:
            job_type, work = outcome.new_job
            if not self.queued_store(site, study.study_key):
                successor = self.insert(job_type, site, study, work, priority=work.priority)
        elif outcome.refresh is not None:
            successor = self.refresh(*outcome.refresh)
        if outcome.supersedes:
            last = max(j.job_id for j in held.store_jobs)
            self.supersede(outcome.supersedes, successor or self.job(last))

    def write_withdrawal(self, site: Site, study: Study, outcome: withdrawal.WithdrawalPlan) -> None:
        for rule, digest, _ in outcome.suppressed:
            job = self.insert(JobType.IOCM, site, study, None, status=JobStatus.SUPPRESSED, reason_code=rule.code)
            job.content_digest = digest
        self.close(outcome.closes)
        if outcome.refresh is not None:
            self.refresh(*outcome.refresh)
        if outcome.new_job is None:
            return
        work = outcome.new_job
        job = self.insert(
            JobType.KOS, site, study, work, priority=work.priority, prior_patient_key=work.prior_patient_key
        )
        job.depends_on = {
            j.job_id
            for j in self.jobs
            if j.site is site and j.study_key in work.waits_for and j.job_type in STORE and not j.status.is_done
        }
        self.supersede(outcome.supersedes, job)

    def queued_store(self, site: Site, study_key: str) -> list[Job]:
        return [
            j
            for j in self.jobs
            if j.site is site and j.study_key == study_key and j.job_type in STORE and j.status in QUEUED
        ]

    def job(self, job_id: int) -> Job:
        return self.jobs[job_id - 1]

    def refresh(self, job_id: int, work) -> Job:
        job = self.job(job_id)
        job.content_digest, job.priority = work.content_digest, work.priority
        job.not_before, job.wait_reason = work.not_before, work.wait_reason
        return job

    def close(self, job_ids: Iterable[int]) -> None:
        for job in map(self.job, job_ids):
            if job.status in (*QUEUED, JobStatus.FAILED):
                job.status, job.reason_code = JobStatus.CANCELLED, "nothing-to-do"
                self.tell(f"closed: {job}")

    def supersede(self, job_ids: Iterable[int], by: Job) -> None:
        for job in map(self.job, job_ids):
            if job.status is JobStatus.FAILED:
                job.status, job.is_superseded = JobStatus.CANCELLED, True
                self.tell(f"{by} takes over from job {job.job_id}")

    # -- the queue ---------------------------------------------------------------------------------------------------

    def blocker(self, job: Job) -> Job | None:
        """The earliest undone job that holds this one back, as the function ``blocked_by`` of the ledger says."""
        return next((j for j in self.jobs if not j.status.is_done and self.holds_back(j, job)), None)

    def holds_back(self, earlier: Job, job: Job) -> bool:
        if earlier.job_id in job.depends_on:
            return True
        if earlier.site is not job.site or earlier.job_id >= job.job_id:
            return False
        same_study = job.study_key is not None and earlier.study_key == job.study_key
        same_lane = same_study or bool(earlier.patient_keys & job.patient_keys)
        return same_lane and waiting.blocks(earlier.job_type, job.job_type, same_study=same_study)

    def due(self) -> list[Job]:
        return [
            j for j in self.jobs if j.status is JobStatus.WAITING and j.not_before <= self.now and not self.blocker(j)
        ]

    def hand_out(self) -> None:
        for job in self.due():
            self.move(job, JobStatus.READY, wait_reason=None)

    def startable(self) -> list[Job]:
        """Jobs that a run may begin: handed out, to be retried, or left behind by a process that died."""
        return [
            j
            for j in self.jobs
            if j.status in (JobStatus.READY, JobStatus.RETRYING) or (j.status is JobStatus.RUNNING and j.steps is None)
        ]

    def under_way(self) -> list[Job]:
        return [j for j in self.jobs if j.steps is not None]

    def start(self, job: Job) -> None:
        """Begin an attempt, as ``services/taking.py`` does; a job that may not run goes back to the queue."""
        if job.status.is_done or job.steps is not None:
            return
        if (blocker := self.blocker(job)) is not None:
            self.tell(f"{job} has to wait for job {blocker.job_id}")
            self.move(job, JobStatus.WAITING, wait_reason=WaitReason.LANE)
            return
        self.move(job, JobStatus.RUNNING, wait_reason=None)
        self.check_lane(job)
        run = {JobType.KOS: self.run_notes, JobType.ADT: self.run_adt}.get(job.job_type, self.run_store)
        job.steps, job.is_begun = run(job), False
        self.tell(f"{job} runs")
        self.step(job, Fault.NONE)

    def step(self, job: Job, fault: int) -> None:
        """Let a job that is under way do its next step."""
        assert job.steps is not None
        try:
            if job.is_begun:
                job.steps.send(fault)
            else:
                job.is_begun = True
                next(job.steps)
        except StopIteration:
            job.steps = None

    def crash(self, job: Job) -> None:
        assert job.steps is not None
        job.steps.close()
        job.steps = None
        self.tell(f"{job} dies")

    def check_lane(self, job: Job) -> None:
        for other in self.jobs:
            if other is job or other.site is not job.site or other.status is not JobStatus.RUNNING:
                continue
            same_study = job.study_key is not None and other.study_key == job.study_key
            about_patient = JobType.ADT in (job.job_type, other.job_type) and other.patient_keys & job.patient_keys
            if same_study or about_patient:
                raise Violation("one in flight in a lane", f"{other} and {job}")

    def move(self, job: Job, status: JobStatus, **values) -> None:
        assert may_become(job.status, status), (str(job), job.status, status)
        if status is JobStatus.WAITING and job.job_type in STORE:
            for later in self.queued_store(job.site, job.study_key or ""):
                if later is not job:
                    later.status, later.is_superseded = JobStatus.CANCELLED, True
                    job.priority = min(job.priority, later.priority)
        job.status = status
        for name, value in values.items():
            setattr(job, name, value)

    def look_again(self, job: Job) -> None:
        if job.study_key is not None:
            self.queue.add(job.study_key)
        else:
            self.queue |= {p.study_key for p in self.placements if p.patient_key in job.patient_keys}

    def conclude(self, job: Job, status: JobStatus, code: str = "", **values) -> None:
        if status is JobStatus.FAILED or status.is_done or "not_before" in values:
            self.look_again(job)
        if status is JobStatus.RETRYING:
            job.attempts += 1
            if job.attempts >= MAX_ATTEMPTS:
                status, job.attempts = JobStatus.FAILED, 0
                self.look_again(job)
        self.tell(f"{job} {status.value} {code}")
        self.move(job, status, reason_code=code, **values)

    # -- archive and dicom jobs --------------------------------------------------------------------------------------

    def run_store(self, job: Job) -> Steps:
        site, destination = job.site, job.site.destination
        compared = self.compare(job.study_key or "", site)
        if compared is None or not compared[0].instances:
            self.conclude(job, JobStatus.CANCELLED, "nothing-to-do")
            return
        desired, held = compared
        if (why := gate(desired, held, destination)) is not None:
            self.conclude(job, JobStatus.WAITING, why.value, wait_reason=why, not_before=FAR_FUTURE)
            return
        missing = missing_instances(desired, held, destination)
        job.content_digest = desired.study.content_digest()
        yield "offer"
        placed = self.offer(site, desired, missing)
        uids = {p.uids.study_instance_uid for p in placed.values()}
        patient = self.as_known(site, desired, next(iter(uids))) if missing else None
        assert len(uids) <= 1, "a study is in one piece"
        failure = None
        for instance in missing:
            placement = placed[instance.instance_key]
            fault = yield f"send {instance.instance_key}"
            if fault in (Fault.REFUSED, Fault.BUSY):
                failure = JobStatus.FAILED if fault == Fault.REFUSED else (failure or JobStatus.RETRYING)
                self.tell(f"{instance.instance_key} is not stored at {destination.name}")
                continue
            if fault == Fault.ABORTED:
                failure = failure or JobStatus.RETRYING
                break
            self.send_image(site, Image(placement.uids, patient, (instance.instance_key, instance.content_version)))
            if fault == Fault.ANSWER_LOST:
                self.answer_lost(site, placement)
                failure = failure or JobStatus.RETRYING
                break
            yield "record what was acknowledged"
            site.held[placement.placement_id].is_stored = True
            site.held[placement.placement_id].is_verified = False
            self.acknowledged(site, placement)
        if failure is not None:
            self.conclude(job, failure, "not-stored")
            return
        if destination.verification is Verification.C_FIND:
            yield "ask the archive"
            again = self.compare(job.study_key or "", site)
            unseen = () if again is None else unverified_instances(*again, destination)
            for h in unseen:
                if h.placed.uids.sop_instance_uid in site.archive.shown:
                    site.held[h.placed.placement_id].is_verified = True
                else:
                    raise Violation("the ledger is never ahead of the archive", h.placed.uids.sop_instance_uid)
        yield "conclude"
        site.archived.setdefault(job.study_key or "", self.now)
        self.conclude(job, JobStatus.SUCCEEDED)

    def offer(self, site: Site, desired: Desired, missing: Sequence[Instance]) -> dict[str, Placed]:
        """As ``services/placing.py``: one transaction that fixes the UIDs and says what is about to be sent."""
        latest = self.latest()
        current = Desired(desired.study, latest, desired.survivors, filed=self.filed(desired.study.study_key))
        unplaced = [i for i in missing if current.placement_of(i) is None]
        firsts = list(reversed(self.placements))
        bound = Bound(
            patient_of_study={p.uids.study_instance_uid: p.patient_key for p in firsts},
            study_of_series={p.uids.series_instance_uid: p.uids.study_instance_uid for p in firsts},
            used_sop_uids=frozenset(p.uids.sop_instance_uid for p in firsts),
        )
        for new in self.place(current, unplaced, bound):
            i, study = new.instance, desired.study
            self.placements.append(
                Placed(
                    len(self.placements) + 1,
                    new.placement_no,
                    i.instance_key,
                    i.content_version,
                    study.study_key,
                    study.patient.patient_key,
                    new.uids,
                    i.series_instance_uid,
                    i.sop_instance_uid,
                    i.sop_class_uid,
                    self.now,
                )
            )
            self.tell(f"{i.instance_key} goes out as {new.uids.sop_instance_uid}")
        latest = self.latest()
        for i in missing:
            site.held.setdefault(latest[i.instance_key].placement_id, HeldRow())
        return {i.instance_key: latest[i.instance_key] for i in missing}

    def place(self, current: Desired, unplaced: Sequence[Instance], bound: Bound) -> list[placing.NewPlacement]:
        return placing.place(
            current.study,
            unplaced,
            current.latest,
            bound,
            self.platform.survivors(),
            study_uid=current.study_uid,
        )

    def filed(self, study_key: str) -> dict[str, str]:
        return placing.first_filed(p for p in self.placements if p.study_key == study_key)

    def as_known(self, site: Site, desired: Desired, study_uid: str) -> HeldPatient:
        """As ``services/placing.py``: the patient that images of a study go out with."""
        if study_uid in site.filed:
            return replace(self.follow(site, site.filed[study_uid]), is_introduced=True)
        patient, survivors = desired.study.patient, self.platform.survivors()
        keys = {patient.patient_key, survivors[patient.patient_key], *self.filed(desired.study.study_key).values()}
        held = {key: site.patients[key] for key in keys if key in site.patients}
        known = identity.known_as(patient.patient_key, held, survivors)
        if known is None:
            known = HeldPatient.of(patient)
            site.patients[known.patient_key] = replace(known, is_introduced=False)
        site.filed[study_uid] = known.patient_key
        return replace(known, is_introduced=True)

    def follow(self, site: Site, patient_key: str) -> HeldPatient:
        known, passed = site.patients[patient_key], {patient_key}
        while known.merged_into in site.patients and known.merged_into not in passed:
            passed.add(known.merged_into)
            known = site.patients[known.merged_into]
        return known

    def acknowledged(self, site: Site, placed: Placed) -> None:
        key = site.filed[placed.uids.study_instance_uid]
        site.patients[key] = replace(site.patients[key], is_introduced=True)

    def send_image(self, site: Site, image: Image) -> None:
        uid = image.uids.sop_instance_uid
        for other in self.sites:
            if uid in other.archive.kept and other.archive.kept[uid].content != image.content:
                raise Violation("no UID names two contents", uid)
        self.tell(f"image {image.content} goes to {site.destination.name} as {uid}, patient {key_of(image.patient)}")
        self.check_note_first(site, image)
        there = site.archive.kept.get(uid)
        if there is not None and there.patient != image.patient and uid not in site.archive.hidden:
            # Its first answer was lost, and the patient changed since: A770, and it is there.
            self.tell(f"{uid} is there already, as it was sent first")
            return
        site.archive.store(image)

    def check_note_first(self, site: Site, image: Image) -> None:
        """Where a wrong patient shows, the copy under the right one comes after the note."""
        iocm = site.destination.iocm
        if iocm.note_order is not NoteOrder.WRONG_PATIENT_FIRST or not iocm.supports_iocm:
            return
        patients = {p.uids: self.platform.survivor(p.patient_key) for p in self.placements}
        for other in site.archive.shown.values():
            if other.content[0] == image.content[0] and patients[other.uids] != patients[image.uids]:
                raise Violation("the note before the copy where a wrong patient shows", str(image.content))

    def answer_lost(self, site: Site, placement: Placed) -> None:
        """Nobody knows whether it was stored: nothing may be claimed."""

    # -- kos jobs ----------------------------------------------------------------------------------------------------

    def run_notes(self, job: Job) -> Steps:
        site, destination = job.site, job.site.destination
        compared = self.compare(job.study_key or "", site)
        if compared is None:
            self.conclude(job, JobStatus.CANCELLED, "nothing-to-do")
            return
        desired, held = compared
        if desired.study.on_hold:
            self.conclude(job, JobStatus.WAITING, "hold", wait_reason=WaitReason.HOLD, not_before=FAR_FUTURE)
            return
        if not destination.iocm.supports_iocm:
            self.conclude(job, JobStatus.FAILED, "iocm-operator")
            return
        leaving = [
            x for x in find_leftovers(desired, held, destination) if x.may_go and rule_against(x, destination) is None
        ]
        found = list(leaving)
        yield "ask the archive"
        for item in found:
            row = site.held[item.held.placed.placement_id]
            if not row.is_stored:
                # Offered, and nobody knows whether it arrived: the archive does.
                if item.held.placed.uids.sop_instance_uid in site.archive.shown:
                    row.is_stored = row.is_verified = True
                    self.acknowledged(site, item.held.placed)
                else:
                    del site.held[item.held.placed.placement_id]
                    leaving.remove(item)
        job.content_digest = self.note_digest(desired, site) or job.content_digest
        self.build_notes(job, desired, site, leaving)
        open_notes = [n for n in site.notes.values() if n.study_key == job.study_key and not n.is_taken]
        for row in open_notes:
            fault = yield f"send note {row.note.uid}"
            if fault == Fault.REFUSED:
                self.conclude(job, JobStatus.FAILED, "note-refused")
                return
            if fault in (Fault.BUSY, Fault.ABORTED):
                self.conclude(job, JobStatus.RETRYING, "note-not-stored")
                return
            self.send_note(site, row)
            if fault == Fault.ANSWER_LOST:
                self.conclude(job, JobStatus.RETRYING, "note-unknown")
                return
            yield "record the note"
            row.is_taken = True
        yield "conclude"
        # Whatever takes the place of what is hidden now may have waited for it, wherever that moved meanwhile.
        again = self.compare(job.study_key or "", site)
        withdrawn = find_withdrawn(*again, destination) if again is not None else ()
        self.queue |= {s.study.study_key for item in [*found, *withdrawn] for s in item.successors}
        self.conclude(job, JobStatus.SUCCEEDED)

    def note_digest(self, desired: Desired, site: Site) -> str | None:
        """What the job is about now, so that it covers just that if it fails."""
        compared = self.compare(desired.study.study_key, site)
        if compared is None:
            return None
        work = withdrawal.plan_withdrawal(
            compared[0], replace(compared[1], jobs=()), site.destination, observed_at=self.now
        ).new_job
        return work.content_digest if work else None

    def build_notes(self, job: Job, desired: Desired, site: Site, leaving: Sequence[withdrawal.Leftover]) -> None:
        """One note for each title and study as sent, written down with what it names before it is first sent."""
        groups: dict[tuple[RejectionTitle, str], list[withdrawal.Leftover]] = defaultdict(list)
        for item in leaving:
            assert item.title is not None
            groups[item.title, item.held.placed.uids.study_instance_uid].append(item)
        for part, ((title, study_uid), found) in enumerate(sorted(groups.items(), key=lambda g: g[0])):
            note_id = len(site.notes) + 1
            name = NoteIdentity(f"{job.job_id}.{note_id}", site.destination.name, part=part + 1)
            note = Note(
                name.sop_instance_uid,
                title,
                study_uid,
                self.filed_under(site, study_uid),
                tuple(item.held.placed.uids for item in found),
                self.now,
            )
            copies = tuple(
                (item.held.placed.uids, frozenset(s.instance.instance_key for s in item.successors))
                for item in found
                if item.successors and not self.may_go_first(site, item)
            )
            ids = tuple(item.held.placed.placement_id for item in found)
            site.notes[note_id] = NoteRow(note, desired.study.study_key, ids, copies)
            for placement_id in ids:
                site.held[placement_id].note_id = note_id
            self.tell(f"note {note.uid} ({title.value}) is built for {', '.join(str(n) for n in ids)}")

    def filed_under(self, site: Site, study_uid: str) -> HeldPatient:
        """As ``services/note_building.py``: whose a study is at the archive."""
        return self.follow(site, site.filed[study_uid])

    @staticmethod
    def may_go_first(site: Site, item: withdrawal.Leftover) -> bool:
        """Whether the setting lets the note go first, said apart from the rule that is tested."""
        order = site.destination.note_order
        if order is NoteOrder.REPLACEMENTS_FIRST:
            return False
        return item.reason is RemovalReason.PATIENT_SAFETY or order is NoteOrder.WRONG_PATIENT_FIRST

    def send_note(self, site: Site, row: NoteRow) -> None:
        named = {uids.sop_instance_uid for uids in row.note.names}
        for uids, keys in row.copies:
            here = {image.content[0] for uid, image in site.archive.kept.items() if uid not in named}
            if not keys <= here:
                raise Violation("replacements before the note", f"{uids.sop_instance_uid} has none at the archive")
        self.tell(f"note {row.note.uid} goes to {site.destination.name}")
        site.archive.take_note(row.note)

    # -- adt jobs ----------------------------------------------------------------------------------------------------

    def run_adt(self, job: Job) -> Steps:
        site = job.site
        while (doubtful := next((m for m in site.messages if self._concerns(m, job)), None)) is not None:
            fault = yield f"send {doubtful.message.control_id} again"
            ended = yield from self._exchange(job, doubtful, fault)
            if not ended:
                return
            if doubtful.job is job:
                return
        survivors = self.platform.survivors()
        if survivors[job.patient_key] != job.patient_key:
            survivor = survivors[job.patient_key]
            self.queue |= {p.study_key for p in self.placements if survivors[p.patient_key] == survivor}
            self.conclude(job, JobStatus.CANCELLED, "nothing-to-do")
            return
        if job.adt_change is AdtChange.DEMOGRAPHICS and self._identity_job(job) is not None:
            self.conclude(job, JobStatus.CANCELLED, "nothing-to-do")
            return
        held = {key: site.patients[key] for key in job.patient_keys if key in site.patients}
        assert job.adt_change is not None
        patient = self.platform.patients[job.patient_key]
        statement = find_statement(job.adt_change, patient, held, survivors, prior_patient_key=job.prior_patient_key)
        if statement is None:
            self.conclude(job, JobStatus.CANCELLED, "nothing-to-do")
            return
        if statement.prior is not None and key_of(statement.prior) == key_of(statement.patient):
            # To the receiver they are one already.
            known = MessageRow(
                Message("", "", statement.patient, None), job, statement.known_after, job.prior_patient_key
            )
            self.record_told(job, known)
            self.conclude(job, JobStatus.CANCELLED, "nothing-to-do")
            return
        row = self.build_message(job, statement)
        fault = yield f"send {row.message.control_id}"
        yield from self._exchange(job, row, fault)

    @staticmethod
    def _concerns(row: MessageRow, job: Job) -> bool:
        return row.is_in_doubt and not row.is_told and bool(row.job.patient_keys & job.patient_keys)

    def _identity_job(self, job: Job) -> Job | None:
        of_identity = (AdtChange.IDENTIFIER, AdtChange.MERGE)
        return next(
            (
                j
                for j in self.jobs
                if j.site is job.site
                and j is not job
                and j.adt_change in of_identity
                and j.patient_key == job.patient_key
                and not j.status.is_done
            ),
            None,
        )

    def build_message(self, job: Job, statement: adt_statement.Statement) -> MessageRow:
        trigger = "A08" if statement.prior is None else "A40"
        last = next((m for m in reversed(job.site.messages) if m.job is job and not m.is_told), None)
        message = Message("", trigger, statement.patient, statement.prior)
        if last is not None and last.message._replace(control_id="") == message:
            return last
        message = message._replace(control_id=f"{job.job_id}.{len(job.site.messages)}")
        prior_key = job.prior_patient_key
        row = MessageRow(message, job, statement.known_after, prior_key)
        job.site.messages.append(row)
        return row

    def _exchange(self, job: Job, row: MessageRow, fault: int) -> Generator[str, int, bool]:
        """Send a message; gives whether it was answered. Concludes the job if it was its own, or was not answered."""
        site = job.site
        if fault in (Fault.BUSY, Fault.ABORTED):
            self.conclude(job, JobStatus.RETRYING, "adt-not-sent")
            return False
        if fault == Fault.REFUSED and not row.is_in_doubt:
            self.conclude(job, JobStatus.FAILED, "adt-refused")
            return False
        self.tell(
            f"ADT {row.message.trigger} {row.message.control_id} for {job.patient_key} goes to {site.destination.name}"
        )
        was_unanswered, row.is_in_doubt = row.is_in_doubt, True
        refusal = site.archive.take_message(row.message)
        if fault == Fault.ANSWER_LOST:
            self.conclude(job, JobStatus.RETRYING, "adt-unknown")
            return False
        yield "record the answer"
        if refusal is not None and not (was_unanswered and row.message.trigger == "A40"):
            row.is_in_doubt = False
            self.refused(job, row, refusal)
            self.conclude(job, JobStatus.FAILED, "adt-refused")
            return False
        row.is_told, row.is_in_doubt = True, False
        self.record_told(job, row)
        self.look_again(job)
        if row.job is job:
            self.conclude(job, JobStatus.SUCCEEDED)
        return True

    def refused(self, job: Job, row: MessageRow, refusal: Refusal) -> None:
        law = "A40 before A08" if row.message.trigger == "A08" else "merges are accepted"
        raise Violation(law, f"{row.message.trigger} of {job.patient_key} is answered {refusal.args}")

    def record_told(self, job: Job, row: MessageRow) -> None:
        site, known = job.site, row.known_after
        site.patients[known.patient_key] = replace(known, merged_into=None, is_introduced=True)
        if row.prior_patient_key is not None and row.prior_patient_key in site.patients:
            prior = site.patients[row.prior_patient_key]
            site.patients[row.prior_patient_key] = replace(prior, merged_into=known.patient_key)


STORE = (JobType.ARCHIVE, JobType.DICOM)
QUEUED = (JobStatus.WAITING, JobStatus.READY)


# -- histories ---------------------------------------------------------------------------------------------------------

SITES: dict[str, Callable[[], tuple[Destination, Archive]]] = {}


def site(name: str, *, honours_notes: bool = True, creates_patients: bool = False, **values) -> None:
    """Describe a kind of destination that histories may have."""
    facts = {"adt_host": "adt.example", "adt_receiving_application": "ARCHIVE", "settle_s": 0.0}
    facts["profile"] = ArchiveProfile.DCM4CHEE if honours_notes else ArchiveProfile.GENERIC

    def make() -> tuple[Destination, Archive]:
        destination = Destination(
            name=name, called_ae_title="ARCHIVE", host="vna.example", port=104, **{**facts, **values}
        )
        return destination, Archive(honours_notes=honours_notes, creates_patients=creates_patients)

    SITES[name] = make


site("plain")
site("checked", verification=Verification.C_FIND, settle_s=30.0)
site("cautious", note_order=NoteOrder.WRONG_PATIENT_FIRST)
site("patient", note_order=NoteOrder.REPLACEMENTS_FIRST, trigger_status=ExamStatus.INFLIGHT, creates_patients=True)
site("city", facilities=("CITY",), verification=Verification.C_FIND, note_order=NoteOrder.WRONG_PATIENT_FIRST)
site("forgetful", rejection_titles=("retention_expired=113039", "quality=none"))
site("noteless", honours_notes=False)
site("by-hand", honours_notes=False, without_iocm=WithoutIocm.OPERATOR)
site("deaf", adt_host=None, adt_receiving_application=None)

Event = tuple[str, int, int]
"""What happens, and two numbers that choose to what."""


def pick(found: Sequence, number: int):
    """One of some things, chosen by a number."""
    return found[number % len(found)]


def pick_some(found: Sequence, number: int) -> list:
    """At least one of some things, chosen by the bits of a number; all of them for a number that asks for it."""
    if number % 5 == 0:
        return list(found)
    return [f for n, f in enumerate(found) if number >> n & 1] or [pick(found, number)]


class History:
    """A platform, a ledger and some archives, and all that may happen to them."""

    def __init__(self, setup: int, ledger: type[LedgerModel] = LedgerModel) -> None:
        dice = random.Random(setup)
        names = dice.sample(sorted(SITES), dice.choice((1, 1, 2, 3)))
        self.story: list[str] = [f"destinations: {', '.join(names)}"]
        self.platform = PlatformModel(self.story)
        self.ledger = ledger(self.platform, [Site(*SITES[name]()) for name in names], self.story)
        for _ in range(3):
            self.platform.add_patient()
        self.has_lost_events = False

    # what the platform does

    def study(self, number: int) -> str | None:
        return pick(sorted(self.platform.studies), number) if self.platform.studies else None

    def images(self, one: int, other: int) -> list[Instance]:
        """Some present images of a study."""
        studies = sorted({i.study_key for i in self.platform.present()})
        return pick_some(self.platform.present(pick(studies, one)), other) if studies else []

    def survivor(self, number: int) -> str:
        alive = [key for key, p in self.platform.patients.items() if p.merged_into_patient_key is None]
        return pick(alive, number)

    def do_add_study(self, a: int, b: int) -> None:
        if len(self.platform.studies) < 5:
            status = pick([ExamStatus.COMPLETED, ExamStatus.COMPLETED, ExamStatus.PENDING], b)
            self.platform.add_study(self.survivor(a), pick([CITY, CITY, SOUTH], b // 3), status, 1 + b % 3)

    def do_late_images(self, a: int, b: int) -> None:
        key = self.study(a)
        if key:
            values = {"series_instance_uid": f"{self.platform.studies[key].study_instance_uid}.{1 + b % 2}"}
            self.platform.add_images(key, 1 + b % 2, **values)

    def do_remove(self, a: int, b: int) -> None:
        self.platform.remove(self.images(a, b), pick([None, *RemovalReason], b), self.ledger.now)

    def do_restore(self, a: int, b: int) -> None:
        removed = [i for i in self.platform.instances.values() if i.removed_at is not None]
        if removed:
            self.platform.restore(pick_some(removed, b))

    def do_delete(self, a: int, b: int) -> None:
        self.platform.delete(self.images(a, b))

    def do_delete_study(self, a: int, b: int) -> None:
        key = self.study(a)
        if key:
            self.platform.delete_study(key)

    def do_split(self, a: int, b: int) -> None:
        chosen = self.images(a, b)
        if chosen and len(self.platform.studies) < 6:
            old = self.platform.studies[chosen[0].study_key]
            patient = self.survivor(b) if b % 4 == 0 else old.patient.patient_key
            target = self.platform.add_study(patient, old.facility, old.exam_status, 0)
            self.bring(chosen, target, b)

    def bring(self, chosen: list[Instance], target: str, b: int) -> None:
        if b % 3 == 0:
            reason = RemovalReason.WRONG_WORKLIST_ENTRY
            self.platform.replace_images(chosen, target, reason, self.ledger.now)
        else:
            self.platform.move(chosen, target)

    def do_move(self, a: int, b: int) -> None:
        chosen, target = self.images(a, b), self.study(b)
        if chosen and target and target != chosen[0].study_key:
            self.bring(chosen, target, a)

    def do_merge_studies(self, a: int, b: int) -> None:
        source, target = self.study(a), self.study(b)
        if source and target and source != target:
            self.bring(self.platform.present(source), target, a // 7)

    def do_change_series(self, a: int, b: int) -> None:
        for i in self.images(a, b):
            uid = self.platform.studies[i.study_key].study_instance_uid
            self.platform.update(i, "moves to another series", series_instance_uid=f"{uid}.{1 + b % 3}")

    def do_move_study(self, a: int, b: int) -> None:
        key = self.study(a)
        if key:
            patient = self.platform.patients[self.survivor(b)]
            self.platform.change_study(key, f"is now of {patient.patient_key}", patient=patient)

    def do_change_content(self, a: int, b: int) -> None:
        for i in self.images(a, b):
            self.platform.update(i, "has new content", content_version=i.content_version + 1)

    def do_replace(self, a: int, b: int) -> None:
        chosen = self.images(a, b)
        if chosen:
            reason = pick(list(RemovalReason), b)
            self.platform.replace_images(chosen, chosen[0].study_key, reason, self.ledger.now)

    def do_correct_name(self, a: int, b: int) -> None:
        key = self.survivor(a)
        self.platform.change_patient(key, "gets another name", name=f"Name{b % 3}^{key}")

    def do_change_mrn(self, a: int, b: int) -> None:
        key = self.survivor(a)
        number = next(self.platform._numbers)
        self.platform.change_patient(key, "gets another identifier", patient_id=f"MRN{number}")

    def do_merge_patients(self, a: int, b: int) -> None:
        prior, survivor = self.survivor(a), self.survivor(b)
        if prior != survivor:
            self.platform.merge(prior, survivor, repoint=b % 2 == 0)
            self.platform.add_patient()

    def do_hold(self, a: int, b: int) -> None:
        key = self.study(a)
        if key:
            self.platform.change_study(key, "is held" if b % 2 else "is released", on_hold=b % 2 == 1)

    def do_exam(self, a: int, b: int) -> None:
        key = self.study(a)
        if key:
            status = pick([*ExamStatus, "Cancelled"], b)
            self.platform.change_study(key, f"is {status}", exam_status=status)

    # what we do

    def do_plan(self, a: int, b: int) -> None:
        self.ledger.observe()
        planned = set(self.ledger.queue)
        self.ledger.plan_queued()
        self.ledger.queue |= planned
        if self.ledger.plan_queued():
            raise Violation("planning twice plans nothing new", f"studies {sorted(planned)}")

    def do_plan_one(self, a: int, b: int) -> None:
        """Also where nobody said that anything changed: a repeated event."""
        key = self.study(a)
        if key:
            self.ledger.queue.add(key)
            self.ledger.plan_queued()

    def do_lose_events(self, a: int, b: int) -> None:
        self.platform.changed.clear()
        self.has_lost_events = True

    def do_hand_out(self, a: int, b: int) -> None:
        self.ledger.hand_out()

    def do_start(self, a: int, b: int) -> None:
        """Also one that is under way: a run may come twice."""
        found = self.ledger.startable() + self.ledger.under_way()
        if found:
            self.ledger.start(pick(found, a))

    def do_step(self, a: int, b: int) -> None:
        found = self.ledger.under_way()
        if found:
            self.ledger.step(pick(found, a), b % 24 if b % 24 <= Fault.ANSWER_LOST else Fault.NONE)

    def do_crash(self, a: int, b: int) -> None:
        found = self.ledger.under_way()
        if found:
            self.ledger.crash(pick(found, a))

    def do_retry(self, a: int, b: int) -> None:
        self.retry(lambda found: [pick(found, a)] if found else [])

    def retry(self, choose: Callable[[list[Job]], list[Job]]) -> None:
        """An administrator tries failed jobs again, or does by hand what is left to people."""
        for job in choose([j for j in self.ledger.jobs if j.status is JobStatus.FAILED]):
            if job.reason_code == "iocm-operator":
                self.ledger.tell(f"{job} is done by hand")
                job.status = JobStatus.CANCELLED
            else:
                self.ledger.move(job, JobStatus.WAITING, wait_reason=WaitReason.QUEUE, not_before=self.ledger.now)

    # running it

    def run(self, events: Iterable[Event]) -> None:
        for name, a, b in events:
            self.ledger.now += timedelta(seconds=1 + (b % 7 == 0) * 40)
            getattr(self, f"do_{name}")(a, b)
            self.check_claims()
        self.drain()
        for at in self.ledger.sites:
            self.check_archive(at)
        self.look_at_everything()
        self.drain()
        self.check_end()

    def look_at_everything(self) -> None:
        """The nightly comparison: it finds what no event told of, say of patients of whom an archive shows nothing."""
        self.ledger.queue |= {*self.platform.studies, *(p.study_key for p in self.ledger.placements)}

    def drain(self) -> None:
        """Faults stop, holds are lifted, exams end; then everything runs until nothing is left to do."""
        for key, study in sorted(self.platform.studies.items()):
            if study.on_hold or study.exam_status != ExamStatus.COMPLETED:
                self.platform.change_study(
                    key, "is completed and not on hold", on_hold=False, exam_status=ExamStatus.COMPLETED
                )
        if self.has_lost_events:
            self.look_at_everything()
        for _ in range(40):
            self.do_plan(0, 0)
            self.ledger.now += timedelta(seconds=1000)
            self.retry(lambda found: [j for j in found if self.ledger.blocker(j) is None])
            self.ledger.hand_out()
            for job in self.ledger.startable():
                self.ledger.start(job)
            while under_way := self.ledger.under_way():
                self.ledger.step(under_way[0], Fault.NONE)
            self.check_claims()
            if not self.ledger.queue and all(j.status.is_done for j in self.ledger.jobs):
                return
        undone = "; ".join(f"{j} {j.status.value} {j.reason_code}" for j in self.ledger.jobs if not j.status.is_done)
        raise Violation("the queues drain", undone or f"planning goes on: {sorted(self.ledger.queue)}")

    # the laws

    def check_claims(self) -> None:
        law = "the ledger is never ahead of the archive"
        placed = {p.placement_id: p.uids.sop_instance_uid for p in self.ledger.placements}
        for at in self.ledger.sites:
            for n, row in at.held.items():
                if row.is_stored and placed[n] not in at.archive.kept:
                    raise Violation(law, f"{placed[n]} is not at {at.destination.name}")
            for note in at.notes.values():
                if note.is_taken and not {u.sop_instance_uid for u in note.note.names} <= at.archive.hidden:
                    raise Violation(law, f"note {note.note.uid} is not taken at {at.destination.name}")

    def check_end(self) -> None:
        for at in self.ledger.sites:
            self.check_archive(at)
        jobs = len(self.ledger.jobs)
        self.look_at_everything()
        self.ledger.plan_queued()
        if len(self.ledger.jobs) != jobs:
            raise Violation("looking at everything again finds nothing new", str(self.ledger.jobs[-1]))

    def check_archive(self, at: Site) -> None:
        shown = at.archive.shown
        name = at.destination.name
        for study_key in self.platform.studies:
            study = self.platform.read(study_key)
            assert study is not None
            found = []
            for i in study.present_instances if at.destination.covers(study.facility) else ():
                mine = [image for image in shown.values() if image.content[0] == i.instance_key]
                current = [image for image in mine if self.is_current(image, i, study, at)]
                if not current:
                    raise Violation("what is desired is held", f"image {i.instance_key} of {study_key} at {name}")
                found.append((i, current[-1]))
                shown = {uid: image for uid, image in shown.items() if image is not current[-1]}
            self.check_study(study, found, at)
        for uid, image in shown.items():
            if not self.may_stay(image, at):
                raise Violation("what is not desired is hidden", f"image {image.content} as {uid} at {name}")

    def is_current(self, image: Image, i: Instance, study: Study, at: Site) -> bool:
        """Whether it says what the platform says: content, study and, where archives are told, patient."""
        if image.content != (i.instance_key, i.content_version):
            return False
        placed = next(p for p in self.ledger.placements if p.uids == image.uids)
        if placed.study_key != study.study_key or placed.source_series_instance_uid != i.series_instance_uid:
            return False
        key, dicom_name = at.archive.patient_of(image.uids.study_instance_uid)
        return at.destination.adt is None or (key, dicom_name) == (key_of(study.patient), study.patient.name)

    def check_study(self, study: Study, found: list[tuple[Instance, Image]], at: Site) -> None:
        """A study and a series of the platform are one at the archive too."""
        studies = {image.uids.study_instance_uid for _, image in found}
        if len(studies) > 1:
            raise Violation(
                "a study is in one piece", f"{study.study_key} is {sorted(studies)} at {at.destination.name}"
            )
        series: dict[str, set[str]] = defaultdict(set)
        for i, image in found:
            series[i.series_instance_uid].add(image.uids.series_instance_uid)
        if torn := [uid for uid, uids in series.items() if len(uids) > 1]:
            raise Violation("a series is in one piece", f"{torn[0]} of {study.study_key} at {at.destination.name}")

    def may_stay(self, image: Image, at: Site) -> bool:
        """Whether a setting lets an archive go on showing what the platform does not show (there) any more."""
        if not at.destination.iocm.supports_iocm:
            return True
        row = self.platform.instances.get(image.content[0])
        reason = row.removal_reason if row is not None and row.removed_at is not None else None
        return reason is not None and at.destination.iocm.titles[reason] is None


CHANGES = {
    "add_study": 6,
    "late_images": 4,
    "remove": 6,
    "restore": 3,
    "delete": 1,
    "delete_study": 1,
    "split": 4,
    "move": 4,
    "merge_studies": 2,
    "change_series": 2,
    "move_study": 4,
    "change_content": 3,
    "replace": 3,
    "correct_name": 3,
    "change_mrn": 3,
    "merge_patients": 3,
    "hold": 3,
    "exam": 2,
}
WORK = {"plan": 30, "plan_one": 2, "lose_events": 1, "hand_out": 25, "start": 30, "step": 90, "crash": 4, "retry": 6}
NAMES = [name for weights in (CHANGES, WORK) for name, weight in weights.items() for _ in range(weight)]


def make_events(seed: int) -> list[Event]:
    dice = random.Random(seed)
    begin: list[Event] = [("add_study", dice.getrandbits(16), dice.getrandbits(16)) for _ in range(2)]
    if dice.random() < 0.7:
        # Most changes matter only where something was archived before.
        begin += [("plan", 0, 0), ("hand_out", 0, 0), *[("start", 0, 0)] * 6, *[("step", 0, 5)] * 60]
    length = dice.randrange(10, 90)
    return begin + [(dice.choice(NAMES), dice.getrandbits(16), dice.getrandbits(16)) for _ in range(length)]


@dataclass
class Failure:
    """A history that breaks a law, cut down to what it needs."""

    seed: int
    violation: Violation
    events: list[Event]
    story: list[str]

    def __str__(self) -> str:
        told = "\n".join(self.story)
        return f"{self.violation}\nseed {self.seed}, {len(self.events)} events:\n{told}"


def try_history(seed: int, events: Sequence[Event], ledger: type[LedgerModel]) -> tuple[Violation | None, list[str]]:
    history = History(seed, ledger)
    try:
        history.run(events)
    except Violation as violation:
        return violation, history.story
    return None, history.story


def find_failure(seeds: Iterable[int], ledger: type[LedgerModel] = LedgerModel) -> Failure | None:
    """The first history among some that breaks a law."""
    for seed in seeds:
        events = make_events(seed)
        violation, story = try_history(seed, events, ledger)
        if violation is not None:
            return cut(Failure(seed, violation, events, story), ledger)
    return None


def cut(failure: Failure, ledger: type[LedgerModel]) -> Failure:
    """Leave out events as long as the same law is broken."""
    size = len(failure.events)
    while size := size // 2:
        start = 0
        while start < len(failure.events):
            events = failure.events[:start] + failure.events[start + size :]
            violation, story = try_history(failure.seed, events, ledger)
            if violation is not None and violation.law == failure.violation.law:
                failure = Failure(failure.seed, violation, events, story)
            else:
                start += size
    return failure


HISTORIES = 4000
BATCHES = 8


@pytest.mark.parametrize("batch", range(BATCHES))
def test_every_archive_holds_the_truth_once_faults_stop(batch):
    """Invariants 1 to 7 of the design, in random histories."""
    failure = find_failure(range(batch, HISTORIES, BATCHES))

    assert failure is None, f"\n{failure}"


# -- broken on purpose -------------------------------------------------------------------------------------------------


class NoLanes(LedgerModel):
    """Jobs don't wait for earlier ones."""

    def holds_back(self, earlier: Job, job: Job) -> bool:
        return False

    def check_lane(self, job: Job) -> None:
        """Let its consequences tell."""


class NoAdtLane(LedgerModel):
    """Images don't wait for messages about their patient, nor messages for each other."""

    def holds_back(self, earlier: Job, job: Job) -> bool:
        return JobType.ADT not in (earlier.job_type, job.job_type) and super().holds_back(earlier, job)

    def check_lane(self, job: Job) -> None:
        """Let its consequences tell."""


class RebuiltNotes(LedgerModel):
    """A note whose answer was lost is built anew instead of being kept."""

    def send_note(self, site: Site, row: NoteRow) -> None:
        if row.note.uid in {n.uid for n in self.sent_notes}:
            row.note = row.note._replace(built_at=self.now)
        self.sent_notes.append(row.note)
        super().send_note(site, row)

    @property
    def sent_notes(self) -> list[Note]:
        return self.__dict__.setdefault("_sent_notes", [])


class OfferedIsStored(LedgerModel):
    """What was offered counts as stored as soon as one answer is lost."""

    def answer_lost(self, site: Site, placement: Placed) -> None:
        for row in site.held.values():
            row.is_stored = True


class NothingOffered(LedgerModel):
    """What was sent and not acknowledged is forgotten."""

    def answer_lost(self, site: Site, placement: Placed) -> None:
        del site.held[placement.placement_id]


class EventDriven(LedgerModel):
    """What a job did not see is not looked at again when it ended."""

    def look_again(self, job: Job) -> None:
        """Trust that some event will come."""


def _burnt_uids_come_back(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(comparison, "is_in_place", lambda placed, *args, **values: _in_place(placed, *args, **values))


def _in_place(placed: Placed, *args, **values) -> bool:
    return placing.is_in_place(replace(placed, is_burnt=False), *args, **values)


def _minted_uids_do_not_tell_placements_apart(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(placing, "Placement", lambda key, version, number: uid_map.Placement(key, 1, 1))


def _copies_keep_their_uids(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(comparison, "is_in_place", lambda placed, *args, **values: not placed.is_burnt)


def _notes_before_replacements(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(withdrawal.Leftover, "may_go", property(lambda item: item.title is not None))


def _moved_instances_stay_where_they_were(patch: pytest.MonkeyPatch) -> None:
    whole = withdrawal.find_leftovers

    def find_only_removed(*args):
        return tuple(item for item in whole(*args) if not item.successors)

    patch.setattr(withdrawal, "find_leftovers", find_only_removed)
    patch.setitem(globals(), "find_leftovers", find_only_removed)


def _images_overtake_their_identifier(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(identity, "known_as", lambda *args: None)
    patch.setattr(LedgerModel, "follow", lambda self, site, key: HeldPatient.of(self.platform.patients[key]))


def _note_first_is_forgotten(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(planning, "waits_for_note", lambda *args: False)


def _planning_repeats_itself(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(planning, "is_current", lambda job, work: False)
    patch.setattr(withdrawal, "_covers", lambda job, digest: False)


def _series_lie_in_two_studies(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(placing, "series_uid_in", lambda uid, **values: uid)


BROKEN_LEDGERS = [NoLanes, NoAdtLane, RebuiltNotes, OfferedIsStored, NothingOffered, EventDriven]
BROKEN_RULES = [
    _burnt_uids_come_back,
    _minted_uids_do_not_tell_placements_apart,
    _copies_keep_their_uids,
    _notes_before_replacements,
    _moved_instances_stay_where_they_were,
    _images_overtake_their_identifier,
    _note_first_is_forgotten,
    _planning_repeats_itself,
    _series_lie_in_two_studies,
]
#: Histories within which a broken variant has to be found out.
ENOUGH = 1500


def is_caught(seed: int, ledger: type[LedgerModel]) -> bool:
    try:
        return try_history(seed, make_events(seed), ledger)[0] is not None
    except KeyError:
        return True  # it does what the model has no books for


@pytest.mark.parametrize("ledger", BROKEN_LEDGERS)
def test_a_broken_runner_is_caught(ledger):
    assert any(is_caught(seed, ledger) for seed in range(ENOUGH)), ledger.__doc__


@pytest.mark.parametrize("break_it", BROKEN_RULES)
def test_a_broken_rule_is_caught(break_it, monkeypatch):
    break_it(monkeypatch)
    assert any(is_caught(seed, LedgerModel) for seed in range(ENOUGH))
