"""Histories: destinations, all that may happen to them, and the laws that hold when it ends."""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from datetime import timedelta

from archsync.core.adt import PriorIdentifier
from archsync.core.destination import Destination, Verification
from archsync.core.destination_iocm import NoteOrder, WithoutIocm
from archsync.core.job import JobStatus, WaitReason
from archsync.core.profiles import ArchiveProfile
from archsync.core.study import ExamStatus, Facility, Instance, RemovalReason, Study
from model.archive import Archive, Image, key_of
from model.ledger import Job, Site
from model.platform import PlatformModel
from model.runner import Fault, Runner
from model.violation import Violation

CITY = Facility("CITY", "City Hospital", "metro")
SOUTH = Facility("SOUTH", "South Clinic", "region")

SITES: dict[str, Callable[[], tuple[Destination, Archive]]] = {}


def site(
    name: str,
    *,
    honours_notes: bool = True,
    creates_patients: bool = False,
    frees_identifiers: bool = False,
    **values,
) -> None:
    """Describe a kind of destination that histories may have."""
    facts = {"adt_host": "adt.example", "adt_receiving_application": "ARCHIVE", "settle_s": 0.0}
    facts["profile"] = ArchiveProfile.DCM4CHEE if honours_notes else ArchiveProfile.GENERIC

    def make() -> tuple[Destination, Archive]:
        destination = Destination(
            name=name, called_ae_title="ARCHIVE", host="vna.example", port=104, **{**facts, **values}
        )
        return destination, Archive(
            honours_notes=honours_notes, creates_patients=creates_patients, frees_identifiers=frees_identifiers
        )

    SITES[name] = make


site("plain")
site("checked", verification=Verification.C_FIND, settle_s=30.0)
site("cautious", note_order=NoteOrder.WRONG_PATIENT_FIRST)
site("patient", note_order=NoteOrder.REPLACEMENTS_FIRST, trigger_status=ExamStatus.INFLIGHT, creates_patients=True)
site("city", facilities=("CITY",), verification=Verification.C_FIND, note_order=NoteOrder.WRONG_PATIENT_FIRST)
site("forgetful", rejection_titles=("retention_expired=113039", "quality=none"))
site("noteless", honours_notes=False)
site("by-hand", honours_notes=False, without_iocm=WithoutIocm.OPERATOR)
site("freeing", frees_identifiers=True, adt_prior_identifier=PriorIdentifier.FREED)
site("deaf", adt_host=None, adt_receiving_application=None)

#: Jobs that an operator sets right on the platform.
FOR_WANT_OF_AN_IDENTIFIER = (
    "identifier-taken",
    "identifier-retired",
    "adt-identifier-taken",
    "adt-identifier-swap",
    "adt-merge-unclear",
)

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

    def __init__(self, setup: int, runner: type[Runner] = Runner) -> None:
        dice = random.Random(setup)
        names = dice.sample(sorted(SITES), dice.choice((1, 1, 2, 3)))
        self.story: list[str] = [f"destinations: {', '.join(names)}"]
        self.platform = PlatformModel(self.story)
        self.runner = runner(self.platform, [Site(*SITES[name]()) for name in names], self.story)
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
        self.platform.remove(self.images(a, b), pick([None, *RemovalReason], b), self.runner.now)

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
            self.platform.replace_images(chosen, target, reason, self.runner.now)
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
            self.platform.replace_images(chosen, chosen[0].study_key, reason, self.runner.now)

    def do_correct_name(self, a: int, b: int) -> None:
        key = self.survivor(a)
        self.platform.change_patient(key, "gets another name", name=f"Name{b % 3}^{key}")

    def do_change_mrn(self, a: int, b: int) -> None:
        key = self.survivor(a)
        number = next(self.platform._numbers)
        self.platform.change_patient(key, "gets another identifier", patient_id=f"MRN{number}")

    def do_reuse_mrn(self, a: int, b: int) -> None:
        """An identifier that somebody had goes to another patient, new or not; maybe back to whose it was."""
        free = self.platform.free_identifiers()
        if not free:
            return
        if b % 3:
            key = self.platform.add_patient(pick(free, a))
            self.platform.add_study(key, CITY, ExamStatus.COMPLETED, 1 + b % 2)
        else:
            key = self.survivor(b // 3)
            self.platform.change_patient(key, "gets a used identifier", patient_id=pick(free, a))

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
        self.runner.observe()
        planned: set[str] = set()
        for _ in range(10):  # planning one study may have others looked at
            planned |= self.runner.queue
            self.runner.plan_queued()
            if not self.runner.queue:
                break
        self.runner.queue |= planned
        if self.runner.plan_queued():
            raise Violation("planning twice plans nothing new", f"studies {sorted(planned)}")

    def do_plan_one(self, a: int, b: int) -> None:
        """Also where nobody said that anything changed: a repeated event."""
        key = self.study(a)
        if key:
            self.runner.queue.add(key)
            self.runner.plan_queued()

    def do_lose_events(self, a: int, b: int) -> None:
        self.platform.changed.clear()
        self.has_lost_events = True

    def do_hand_out(self, a: int, b: int) -> None:
        self.runner.hand_out()

    def do_start(self, a: int, b: int) -> None:
        """Also one that is under way: a run may come twice."""
        found = self.runner.startable() + self.runner.under_way()
        if found:
            self.runner.start(pick(found, a))

    def do_step(self, a: int, b: int) -> None:
        found = self.runner.under_way()
        if found:
            self.runner.step(pick(found, a), b % 24 if b % 24 <= Fault.ANSWER_LOST else Fault.NONE)

    def do_crash(self, a: int, b: int) -> None:
        found = self.runner.under_way()
        if found:
            self.runner.crash(pick(found, a))

    def do_leave(self, a: int, b: int) -> None:
        found = self.runner.under_way()
        if found:
            self.runner.leave(pick(found, a))

    def do_wake(self, a: int, b: int) -> None:
        if self.runner.left:
            self.runner.wake(a, b % 8 if b % 8 <= Fault.ANSWER_LOST else Fault.NONE)

    def do_cancel(self, a: int, b: int) -> None:
        """An administrator cancels a job, and at the end of the history takes that back.

        Not one whose message may have been applied: what the archive knows then is for the administrator to find out.
        """
        in_doubt = {m.job.job_id for at in self.runner.sites for m in at.messages if m.is_in_doubt}
        found = [j for j in self.runner.jobs if not j.status.is_done and j.job_id not in in_doubt]
        if found:
            self.runner.cancel(pick(found, a), b % 8 if b % 8 <= Fault.ANSWER_LOST else Fault.NONE)

    def take_back_cancellations(self) -> None:
        """As ``archsync jobs retry`` does, which leaves alone what another job has taken over."""
        for job in self.runner.jobs:
            if job.is_cancelled_by_hand and job.reason_code == "cancelled" and not self.runner.heirs(job):
                self.runner.tell(f"{job} is taken back")
                self.runner.move(job, JobStatus.WAITING, wait_reason=WaitReason.QUEUE, not_before=self.runner.now)

    def do_retry(self, a: int, b: int) -> None:
        self.retry(lambda found: [pick(found, a)] if found else [])

    def retry(self, choose: Callable[[list[Job]], list[Job]]) -> None:
        """An administrator tries failed jobs again, or does by hand what is left to people."""
        for job in choose([j for j in self.runner.jobs if j.status is JobStatus.FAILED]):
            if job.reason_code == "iocm-operator":
                self.runner.tell(f"{job} is done by hand")
                job.status = JobStatus.CANCELLED
                continue
            if job.reason_code in FOR_WANT_OF_AN_IDENTIFIER:
                self.give_fresh_identifier(job)
            self.runner.try_again(job)

    def give_fresh_identifier(self, job: Job) -> None:
        study = self.platform.read(job.study_key) if job.study_key else None
        key = self.platform.survivor(study.patient.patient_key if study else job.patient_key)
        number = next(self.platform._numbers)
        self.platform.change_patient(key, "gets an identifier that nobody had", patient_id=f"MRN{number}")

    # running it

    def run(self, events: Iterable[Event]) -> None:
        for name, a, b in events:
            self.runner.now += timedelta(seconds=1 + (b % 7 == 0) * 40)
            getattr(self, f"do_{name}")(a, b)
            self.check_claims()
        self.drain()
        for at in self.runner.sites:
            self.check_archive(at)
        self.look_at_everything()
        self.drain()
        self.check_end()

    def look_at_everything(self) -> None:
        """The nightly comparison: it finds what no event told of, say of patients of whom an archive shows nothing."""
        self.runner.queue |= {*self.platform.studies, *(p.study_key for p in self.runner.placements)}
        self.runner.queue |= {j.study_key for j in self.runner.jobs if j.study_key and not j.status.is_done}

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
            self.runner.now += timedelta(seconds=1000)
            self.take_back_cancellations()
            self.retry(lambda found: [j for j in found if self.runner.blocker(j) is None])
            self.runner.hand_out()
            for job in self.runner.startable():
                self.runner.start(job)
            while under_way := self.runner.under_way():
                self.runner.step(under_way[0], Fault.NONE)
            self.check_claims()
            if not self.runner.queue and all(j.status.is_done for j in self.runner.jobs):
                return
        undone = "; ".join(f"{j} {j.status.value} {j.reason_code}" for j in self.runner.jobs if not j.status.is_done)
        raise Violation("the queues drain", undone or f"planning goes on: {sorted(self.runner.queue)}")

    # the laws

    def check_claims(self) -> None:
        law = "the ledger is never ahead of the archive"
        placed = {p.placement_id: p.uids.sop_instance_uid for p in self.runner.placements}
        for at in self.runner.sites:
            for n, row in at.held.items():
                if row.is_stored and placed[n] not in at.archive.kept:
                    raise Violation(law, f"{placed[n]} is not at {at.destination.name}")
            for note in at.notes.values():
                if (
                    note.is_taken
                    and not note.is_dropped
                    and not {u.sop_instance_uid for u in note.note.names} <= at.archive.hidden
                ):
                    raise Violation(law, f"note {note.note.uid} is not taken at {at.destination.name}")

    def check_end(self) -> None:
        for at in self.runner.sites:
            self.check_archive(at)
        jobs = len(self.runner.jobs)
        self.look_at_everything()
        self.runner.plan_queued()
        if len(self.runner.jobs) != jobs:
            raise Violation("looking at everything again finds nothing new", str(self.runner.jobs[-1]))

    def check_archive(self, at: Site) -> None:
        shown = at.archive.shown
        name = at.destination.name
        patients: dict[str, str] = {}
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
            owners = {at.archive.patient_of(image.uids.study_instance_uid)[0] for _, image in found}
            for owner in owners:
                if patients.setdefault(owner, study.patient.patient_key) != study.patient.patient_key:
                    raise Violation("no two patients are one at an archive", f"{study_key} at {name}")
        for uid, image in shown.items():
            if not self.may_stay(image, at):
                raise Violation("what is not desired is hidden", f"image {image.content} as {uid} at {name}")

    def is_current(self, image: Image, i: Instance, study: Study, at: Site) -> bool:
        """Whether it says what the platform says: content, study and, where archives are told, patient."""
        if image.content != (i.instance_key, i.content_version):
            return False
        placed = next(p for p in self.runner.placements if p.uids == image.uids)
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
