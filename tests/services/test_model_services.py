"""Random histories against the real services: a real ledger and platform, and archives behind real sockets.

The model test (``tests/pure/test_model.py``) tries the rules in thousands of histories; this one tries that the
services carry them out, in dozens: what happens to studies and patients is random, and so are the faults: refused,
aborted and lost C-STOREs, lost and negative ACKs, a ledger that goes away in the middle of an attempt, and changes of
the platform in the middle of one. When faults stop, each archive has to show what the platform shows.
"""

from __future__ import annotations

import hashlib
import itertools
import random
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import psycopg
import pytest
from pydicom import dcmread
from pydicom.dataset import Dataset

from archsync.core.adt import PriorIdentifier
from archsync.core.job import Job, JobStatus, JobType
from archsync.core.study import RemovalReason
from archsync.errors import InvalidInput, LedgerUnavailable
from archsync.launcher.postgres import free_port
from archsync.ledger import jobs, plan_queue
from archsync.ledger.database import Ledger
from archsync.ledger.jobs import JobFilter
from archsync.services import archive as archive_service
from archsync.services import job_control, planner
from archsync.services import rejection as rejection_service
from archsync.services.adt import run_adt_job
from archsync.services.archive import run_store_job
from archsync.services.attempt import Ended, Run
from archsync.services.rejection import run_note_job
from archsync.simulate.adt_receiver import AdtScript, Hangup, Reply, SimulatedAdtReceiver
from archsync.simulate.archive import ArrivalKind, ChosenStatus, IocmRules, Rudeness, SimulatedArchive
from archsync.simulate.volumes import DemoPatient, VolumeStudy, make_uid, write_volume

#: The later ones once found faults.
SEEDS = (*range(50), 104, 146, 157, 180, 302)

#: Histories with objects that point at images; 1006 once found a fault.
POINTING_SEEDS = (1000, 1003, 1006, 1009)

#: Kinds of destination: settings, whether its archive honours notes, whether it is told of patients.
KINDS: dict[str, tuple[dict[str, Any], bool, bool]] = {
    "plain": ({}, True, True),
    "checked": ({"verification": "c-find"}, True, True),
    "cautious": ({"note_order": "wrong_patient_first"}, True, True),
    "patient": ({"note_order": "replacements_first", "verification": "c-find"}, True, True),
    "small": ({"max_note_references": 1}, True, True),
    "deaf": ({}, True, False),
    "freeing": ({"adt_prior_identifier": PriorIdentifier.FREED}, True, True),
    "noteless": ({"profile": "generic"}, False, True),
}
COMMON = {
    "profile": "dcm4chee",
    "rejection_titles": ("retention_expired=113039",),
    "trigger_status": "Pending",
    # Faults are to be met job by job; the circuit breaker has tests of its own.
    "breaker_threshold": 1000,
    "max_attempts": 4,
}
REASONS = [None, *RemovalReason]
#: Failures that an operator sets right on the platform.
FOR_WANT_OF_AN_IDENTIFIER = (
    "identifier-taken",
    "identifier-retired",
    "adt-identifier-taken",
    "adt-identifier-swap",
    "adt-merge-unclear",
)


class Violation(AssertionError):
    """An invariant does not hold."""


# -- faults ------------------------------------------------------------------------------------------------------------


class InterruptedLedger(Ledger):
    """A ledger connection to which something happens before one of its statements."""

    def __init__(self, dsn: str, *, before: int, do: Callable[[InterruptedLedger], None]) -> None:
        super().__init__(dsn)
        self._left = before
        self._do = do

    def fetch_all(self, *args: Any) -> Any:
        self._count()
        return super().fetch_all(*args)

    def fetch_one(self, *args: Any) -> Any:
        self._count()
        return super().fetch_one(*args)

    def execute(self, *args: Any) -> int:
        self._count()
        return super().execute(*args)

    def _count(self) -> None:
        self._left -= 1
        if self._left == 0:
            self._do(self)

    def lose_connection(self) -> None:
        """Have PostgreSQL end the connection, as it does when it restarts."""
        backend = self._open().info.backend_pid
        with psycopg.connect(self._dsn, autocommit=True) as other:
            other.execute("select pg_terminate_backend(%s)", [backend])


def rude_archive(dice: random.Random) -> Rudeness:
    nth = dice.randint(1, 3)
    return dice.choice(
        [
            Rudeness(lose_answer_of_store=nth),
            Rudeness(abort_after_stores=nth - 1),
            Rudeness(statuses=(ChosenStatus(status=0xA700, nth=nth),)),
            Rudeness(statuses=(ChosenStatus(status=0xC000, nth=nth),)),
            Rudeness(refuse_associations=1),
        ]
    )


def rude_receiver(dice: random.Random) -> AdtScript:
    reply = dice.choice(
        [
            Reply(is_applied=True, hangup=Hangup.BEFORE_ACK),
            Reply(is_applied=True, hangup=Hangup.DURING_ACK, pieces=2),
            Reply(is_applied=False, hangup=Hangup.BEFORE_ACK),
            Reply(is_applied=True, control_id="ANOTHER"),
            Reply(ack_code="AE", error_code="207"),
            Reply(ack_code="AR", error_code="206"),
        ]
    )
    return AdtScript(replies=(reply,))


# -- the world ---------------------------------------------------------------------------------------------------------


@dataclass
class Peer:
    """A destination with its archive."""

    name: str
    archive: SimulatedArchive
    receiver: SimulatedAdtReceiver | None
    honours_notes: bool


class World:
    """A platform to which things happen, and the work that follows from it."""

    #: Let segmentations come that point at images.
    has_pointers = False

    def __init__(self, site: Any, peers: Sequence[Peer], dice: random.Random) -> None:
        self.site = site
        self.peers = {peer.name: peer for peer in peers}
        self.dice = dice
        self.story: list[str] = [f"destinations: {', '.join(self.peers)}"]
        self.tries: Counter[int] = Counter()
        self.volumes = 0
        self.is_to_look_at_all = False
        self.numbers = itertools.count(1)
        self.former: set[str] = set()

    def tell(self, text: str) -> None:
        self.story.append(text)

    # what the platform does

    def rows(self, query: str, *parameters: Any) -> list[str]:
        return [str(row[0]) for row in self.site.dba(query, *parameters)]

    def studies(self) -> list[str]:
        return self.rows("select study_key from pacs.study order by study_key")

    def study(self) -> str:
        return self.dice.choice(self.studies())

    def images(self, study_key: str) -> list[str]:
        """Some of the images that a study shows."""
        found = self.rows(
            "select instance_key from pacs.instance where study_key = %s and removed_at is null order by instance_key",
            study_key,
        )
        return sorted(self.dice.sample(found, self.dice.randint(1, len(found)))) if found else []

    def patient(self) -> str:
        return self.dice.choice(
            self.rows("select patient_key from pacs.patient where merged_into_patient_key is null order by patient_key")
        )

    def add_study(self) -> None:
        self.volumes += 1
        patient = self.somebody()
        uid = make_uid(self.site.folder, "model", self.volumes)
        volume = VolumeStudy(uid, f"PLANTED{self.volumes}", datetime(2026, 1, 5, tzinfo=UTC), "CT", patient)
        count = self.dice.randint(1, 3)
        files = list(write_volume(self.site.folder / uid, volume, modality="CT", slices=count, matrix=8))
        key = self.site.pacs.add_study(
            files, exam_status="Completed", patient=patient, accession_number=f"PLANTED{self.volumes}"
        )
        ((patient_key,),) = self.site.dba("select patient_key from pacs.study where study_key = %s", key)
        self.tell(f"study {key} of patient key {patient_key} with {count} images")

    def somebody(self) -> DemoPatient:
        """A patient who is on the platform, as they are there now, or a new one."""
        rows = self.site.dba(
            "select patient_id, issuer_of_patient_id, name, birth_date, sex from pacs.patient"
            " where merged_into_patient_key is null order by patient_key"
        )
        if len(rows) >= 3:
            return DemoPatient(*self.dice.choice(rows))
        number = next(self.numbers)
        return DemoPatient(f"PLANTEDMRN{number}", "CITYMRN", f"Plantedname{number}^Secret", date(1950, 1, 2), "F")

    def change(self) -> None:
        """Let one change befall the platform, whichever is possible."""
        changes = [
            self.add_study,
            self._late_images,
            self._remove,
            self._remove,
            self._remove_study,
            self._restore,
            self._split,
            self._split,
            self._move,
            self._merge_studies,
            self._move_study,
            self._move_study,
            self._change_content,
            self._replace,
            self._correct_name,
            self._change_mrn,
            self._reuse_mrn,
            self._merge_patients,
            self._hold,
            self._exam,
        ]
        if self.has_pointers:
            changes = [
                *[self._point, self._replace] * 3,
                *[self._split, self._move] * 2,
                self._remove,
                self._restore,
                self._change_content,
                self._move_study,
                self._hold,
            ]
        try:
            self.dice.choice(changes)()
        except InvalidInput as exc:
            self.tell(f"(not possible: {exc.code})")

    def _point(self) -> None:
        key = self.study()
        chosen = self.images(key)
        if chosen:
            uid = self.add_pointer(key, chosen)
            self.tell(f"{uid} of study {key} points at {chosen}")

    def add_pointer(self, study_key: str, instance_keys: list[str]) -> str:
        """Put a segmentation that points at instances into their study; by its pixels it is told from others."""
        rows = self.site.dba(
            "select sop_instance_uid, sop_class_uid, location from pacs.instance where instance_key::text = any(%s)",
            instance_keys,
        )
        self.volumes += 1
        ((study_uid,),) = self.site.dba("select study_instance_uid from pacs.study where study_key = %s", study_key)
        pointer = dcmread(_path(rows[0][2]))
        uid = make_uid(self.site.folder, "pointer", self.volumes)
        pointer.SOPInstanceUID = pointer.file_meta.MediaStorageSOPInstanceUID = uid
        pointer.SOPClassUID = pointer.file_meta.MediaStorageSOPClassUID = SEGMENTATION
        pointer.SeriesInstanceUID, pointer.StudyInstanceUID = make_uid(uid, "series"), study_uid
        pointer.PixelData = hashlib.shake_128(uid.encode()).digest(len(pointer.PixelData))
        pointer.SourceImageSequence = []
        for target, sop_class_uid, _ in rows:
            item = Dataset()
            item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID = sop_class_uid, target
            pointer.SourceImageSequence.append(item)
        path = self.site.folder / f"{uid}.dcm"
        pointer.save_as(path, enforce_file_format=True)
        self.site.pacs.add_instances(study_key, [path])
        return uid

    def _late_images(self) -> None:
        key = self.study()
        self.site.pacs.add_late_series(key, slices=1)
        self.tell(f"late images in study {key}")

    def _remove(self) -> None:
        key = self.study()
        chosen, reason, hard = self.images(key), self.dice.choice(REASONS), self.dice.random() < 0.2
        if chosen:
            self.site.pacs.remove_instances(key, chosen, reason=reason, hard=hard)
            self.tell(f"images {chosen} of study {key} are {'deleted' if hard else 'removed'} ({reason})")

    def _remove_study(self) -> None:
        key, reason, hard = self.study(), self.dice.choice(REASONS), self.dice.random() < 0.5
        if len(self.studies()) > 2:
            self.site.pacs.remove_study(key, reason=reason, hard=hard)
            self.is_to_look_at_all |= hard
            self.tell(f"study {key} is {'deleted' if hard else 'removed'} ({reason})")

    def _restore(self) -> None:
        key = self.study()
        self.tell(f"images {list(self.site.pacs.restore_instances(key))} of study {key} are shown again")

    def _split(self) -> None:
        key, keeps = self.study(), self.dice.random() < 0.7
        chosen = self.images(key)
        patient = self.patient() if self.dice.random() < 0.3 else None
        if chosen and len(self.studies()) < 6:
            new = self.site.pacs.split_study(key, instances=chosen, keep_uids=keeps, patient_key=patient)
            how = "" if keeps else " with UIDs of the platform's"
            self.tell(f"images {chosen} are split from study {key} into {new}, patient {patient or 'the same'}{how}")

    def _move(self) -> None:
        source, target, keeps = self.study(), self.study(), self.dice.random() < 0.7
        chosen = self.images(source)
        if chosen and source != target:
            self.site.pacs.move_instances(source, target, instances=chosen, keep_uids=keeps)
            self.tell(f"images {chosen} move from study {source} to {target}{'' if keeps else ' with new UIDs'}")

    def _merge_studies(self) -> None:
        source, target, is_deleted = self.study(), self.study(), self.dice.random() < 0.5
        if source != target:
            self.site.pacs.merge_studies(source, target, delete_source=is_deleted)
            self.is_to_look_at_all |= is_deleted
            self.tell(f"study {source} is merged into {target}{' and deleted' if is_deleted else ''}")

    def _move_study(self) -> None:
        key, patient = self.study(), self.patient()
        self.site.pacs.move_study(key, patient)
        self.tell(f"study {key} is now of patient key {patient}")

    def _change_content(self) -> None:
        key = self.study()
        chosen = self.images(key)
        if chosen:
            self.site.pacs.change_content(key, chosen)
            self.tell(f"images {chosen} of study {key} have new content")

    def _replace(self) -> None:
        key, reason = self.study(), self.dice.choice(list(RemovalReason))
        chosen = self.images(key)
        if chosen:
            self.site.pacs.replace_instances(key, chosen, reason=reason)
            self.tell(f"images {chosen} of study {key} are replaced by the platform ({reason})")

    def _correct_name(self) -> None:
        key = self.patient()
        self.site.pacs.correct_name(key, f"Plantedname^Secret^{self.dice.randint(1, 99)}")
        self.tell(f"patient key {key} gets another name")

    def _change_mrn(self) -> None:
        key = self.patient()
        self.former |= {self.mrn(key)}
        self.site.pacs.change_mrn(key, f"PLANTEDMRN{next(self.numbers)}")
        self.tell(f"patient key {key} gets another identifier")

    def mrn(self, patient_key: str) -> str:
        ((found,),) = self.site.dba("select patient_id from pacs.patient where patient_key = %s", patient_key)
        return found

    def _reuse_mrn(self) -> None:
        """Another patient gets an identifier that somebody had."""
        free = sorted(self.former - set(self.rows("select patient_id from pacs.patient")))
        if free:
            key, mrn = self.patient(), self.dice.choice(free)
            self.former |= {self.mrn(key)}
            self.site.pacs.change_mrn(key, mrn)
            self.tell(f"patient key {key} gets the used identifier {mrn}")

    def _merge_patients(self) -> None:
        prior, survivor, repoint = self.patient(), self.patient(), self.dice.random() < 0.5
        if prior != survivor:
            self.site.pacs.merge_patients(prior, survivor, repoint_studies=repoint)
            self.tell(f"patient key {prior} gives way to {survivor}")

    def _hold(self) -> None:
        key, is_held = self.study(), self.dice.random() < 0.5
        self.site.pacs.set_hold(key, is_held)
        self.tell(f"study {key} is {'held' if is_held else 'released'}")

    def _exam(self) -> None:
        key, status = self.study(), self.dice.choice(["Pending", "Completed", "Cancelled"])
        self.site.pacs.set_status(key, status)
        self.tell(f"study {key} is {status}")

    # what we do

    def plan(self) -> int:
        """Plan what changed; gives the number of jobs made."""
        planner.observe(self.site.platform, self.site.ledger)
        made = planner.plan_queued(self.site.platform, self.site.ledger, now=datetime.now(UTC)).jobs_made
        self.tell(f"    {made} jobs planned")
        return made

    def plan_all(self) -> int:
        """Plan every study that was ever seen, whether anything changed or not."""
        with psycopg.connect(self.site.ledger_dsn) as connection:
            known = connection.execute(
                "select study_key from placed_series union select study_key from job where study_key is not null"
            ).fetchall()
        plan_queue.queue(self.site.ledger, sorted({*self.studies(), *(key for (key,) in known)}))
        return planner.plan_queued(self.site.platform, self.site.ledger, now=datetime.now(UTC)).jobs_made

    def all_jobs(self) -> list[Job]:
        return [item.job for item in reversed(jobs.listing(self.site.ledger, JobFilter(limit=10_000)))]

    def in_hand(self) -> list[Job]:
        """Jobs that a run may begin, or begin again because it died."""
        begun = (JobStatus.READY, JobStatus.RUNNING, JobStatus.RETRYING)
        return [j for j in self.all_jobs() if j.status in begun and j.job_type is not JobType.IOCM]

    def work(self, *, is_faulty: bool) -> None:
        """Hand out what is due, and run an attempt of one job in hand."""
        self.site.hand_out()
        found = self.in_hand()
        if found:
            self.attempt(self.dice.choice(found), is_faulty=is_faulty)

    def attempt(self, job: Job, *, is_faulty: bool) -> Ended | None:
        with self.misfortune(job) if is_faulty else self.calm() as (ledger, what):
            self.tries[job.job_id] += 1
            run = Run("a DAG", f"run of {job.job_id}", self.tries[job.job_id])
            function = {JobType.KOS: run_note_job, JobType.ADT: run_adt_job}.get(job.job_type, run_store_job)
            about = f"job {job.job_id} ({job.job_type} of {job.study_key or job.patient_key} at {job.destination})"
            try:
                ended = function(ledger, self.site.platform, job.job_id, run)
            except LedgerUnavailable:
                self.tell(f"    {about}{what}: dies")
                return None
        self.tell(f"    {about}{what}: {ended.status} {ended.code}")
        return ended

    @contextmanager
    def calm(self) -> Iterator[tuple[Ledger, str]]:
        yield self.site.ledger, ""

    @contextmanager
    def misfortune(self, job: Job) -> Iterator[tuple[Ledger, str]]:
        """Something goes wrong during an attempt."""
        peer = self.peers[job.destination]
        kind = self.dice.choice(["peer", "peer", "ledger", "platform"])
        if kind == "peer" and job.job_type is JobType.ADT and peer.receiver is not None:
            script = rude_receiver(self.dice)
            peer.receiver.behave(script)
            yield self.site.ledger, f", receiver {_shown(script.replies[0])}"
            peer.receiver.behave()
        elif kind == "peer":
            rudeness = rude_archive(self.dice)
            peer.archive.behave(rudeness)
            yield self.site.ledger, f", archive {_shown(rudeness)}"
            peer.archive.behave()
        else:
            do = InterruptedLedger.lose_connection if kind == "ledger" else lambda _: self.change()
            number = self.dice.randint(2, 45)
            with InterruptedLedger(self.site.ledger_dsn, before=number, do=do) as ledger:
                yield ledger, f", {kind} at statement {number}"

    # the end

    def drain(self) -> None:
        """Faults stop, holds are lifted, exams end; then everything runs until nothing is left to do."""
        self.tell("faults stop")
        for key in self.studies():
            self.site.pacs.set_hold(key, False)
            self.site.pacs.set_status(key, "Completed")
        if self.is_to_look_at_all:
            # Of a study whose row is gone too, nothing says that it changed: the nightly look at everything finds it.
            self.plan_all()
        retried: Counter[int] = Counter()
        for _ in range(60):
            self.plan()
            self.retry_failed(retried)
            self.site.hand_out()
            found = self.in_hand()
            for job in found:
                self.attempt(job, is_faulty=False)
            if not found and all(job.status.is_done for job in self.all_jobs()):
                return
        raise Violation(f"the queues do not drain: {[_line(j) for j in self.all_jobs() if not j.status.is_done]}")

    def retry_failed(self, retried: Counter[int]) -> None:
        for job in self.all_jobs():
            is_held_back = jobs.blocker(self.site.ledger, job.job_id) is not None
            if job.status is not JobStatus.FAILED or job.job_type is JobType.IOCM or is_held_back:
                continue
            if job.reason_code in FOR_WANT_OF_AN_IDENTIFIER:
                self.give_fresh_identifier(job)
            retried[job.job_id] += 1
            if retried[job.job_id] > 3:
                raise Violation(f"it fails again and again: {_line(job)}")
            job_control.retry(self.site.ledger, job.job_id, actor="somebody", now=datetime.now(UTC))

    def give_fresh_identifier(self, job: Job) -> None:
        """What an operator does on the platform about a job that fails for want of an identifier."""
        (patient,) = self.site.platform.resolve_survivors([job.patient_key]).values()
        if job.study_key is not None:
            for study in self.site.platform.fetch_studies([job.study_key]).studies:
                patient = study.patient.patient_key
        self.site.pacs.change_mrn(patient, f"PLANTEDMRN{next(self.numbers)}")
        self.tell(f"patient key {patient} gets an identifier that nobody had, for job {job.job_id}")

    # the laws

    def check(self) -> None:
        for peer in self.peers.values():
            self.check_arrivals(peer)
            self.check_claims(peer)

    def check_arrivals(self, peer: Peer) -> None:
        """What came to an archive, by its own log."""
        rejected: set[str] = set()
        kept: set[str] = set()
        digests: dict[str, str] = {}
        for arrival in peer.archive.arrivals:
            about = f"{arrival.kind} {arrival.uid} at {peer.name}"
            if (
                arrival.kind is not ArrivalKind.IMAGE
                and digests.setdefault(arrival.uid, arrival.digest) != arrival.digest
            ):
                raise Violation(f"resends are identical: {about}")
            match arrival.kind:
                case ArrivalKind.IMAGE:
                    if arrival.uid in rejected:
                        raise Violation(f"no rejected UID is sent again: {about}")
                    if arrival.status in ("A771", "A773", "A778", "A77B"):
                        raise Violation(f"an image is answered {arrival.status}: {about}")
                    if arrival.is_kept:
                        kept.add(arrival.uid)
                case ArrivalKind.NOTE:
                    if not kept.issuperset(arrival.names):
                        raise Violation(f"no note before its images: {about}")
                    if arrival.status in ("A770", "A771", "A772", "A773", "A774", "A778"):
                        raise Violation(f"a note is answered {arrival.status}: {about}")
                    if arrival.is_kept:
                        rejected.update(arrival.names)
                case ArrivalKind.ADT:
                    if arrival.trigger == "A08" and arrival.status == "AR 204":
                        raise Violation(f"A40 goes before A08: {about}")

    def check_claims(self, peer: Peer) -> None:
        """The ledger is never ahead of the archive."""
        with psycopg.connect(self.site.ledger_dsn) as connection:
            claimed = connection.execute(
                "select p.sop_instance_uid, n.stored_at is not null from held_instance h join destination d using"
                " (destination_id) join placement p using (placement_id) left join rejection_note n"
                " on n.note_id = h.rejected_by where d.name = %s and h.stored_at is not null",
                [peer.name],
            ).fetchall()
        stored, rejected = peer.archive.stored, peer.archive.rejected
        for uid, is_hidden in claimed:
            if uid not in stored or (is_hidden and peer.honours_notes and uid not in rejected):
                raise Violation(f"the ledger is ahead of {peer.name}: {uid}")

    def check_end(self) -> None:
        """Each archive shows what the platform shows, as far as its settings allow."""
        for peer in self.peers.values():
            told = peer.receiver is not None
            wanted, shown = self.desired(with_patients=told), self.shown(peer, with_patients=told)
            if peer.honours_notes and wanted != shown:
                raise Violation(
                    f"{peer.name} is not in step:\n"
                    + "\n".join(f"lacks {study}" for study in wanted - shown)
                    + "\n"
                    + "\n".join(f"shows {study}" for study in shown - wanted)
                )
            if not peer.honours_notes and (lacking := _images(wanted) - _images(shown)):
                raise Violation(f"{peer.name} lacks {lacking.total()} images")
            if peer.honours_notes and self.has_pointers:
                self.check_pointers(peer)
        if made := self.plan_all():
            raise Violation(f"looking at everything again makes {made} jobs: {_line(self.all_jobs()[-1])}")

    def check_pointers(self, peer: Peer) -> None:
        """No object points at what is hidden while something stands for that, nor is one hidden that could point at it.

        Where the object left the study of what it points at, nobody looks.
        """
        shown, stored = peer.archive.shown(), peer.archive.stored
        here = {_pixels(stored[uid].path): uid for uid in shown if stored[uid].sop_class_uid == SEGMENTATION}
        rows = {key: row for key, *row in self.site.dba(
            "select instance_key::text, replaces_instance_key::text, removed_at is null, sop_class_uid,"
            " study_key::text, location from pacs.instance"
        )}  # fmt: skip
        with psycopg.connect(self.site.ledger_dsn) as connection:
            placed = connection.execute(
                "select p.sop_instance_uid, p.instance_key, s.study_key from placement p"
                " join placed_series s using (placed_series_id)"
            ).fetchall()
        key_of = {uid: key for uid, key, _ in placed}
        places = defaultdict(set)
        for _, key, study_key in placed:
            places[key].add(study_key)
        replaced = defaultdict(list)
        for key, (former, *_) in rows.items():
            replaced[former].append(key)

        def standing(key: str) -> list[str]:
            """The rows that stand for one, by the platform."""
            is_shown = key in rows and rows[key][1]
            return [key] if is_shown else [last for following in replaced[key] for last in standing(following)]

        for key, (_, is_shown, sop_class_uid, study_key, location) in rows.items():
            is_corrected = any(rows[later][1] for later in replaced[key])
            if sop_class_uid != SEGMENTATION or not is_shown or places[key] != {study_key} or is_corrected:
                continue
            file = dcmread(_path(location))
            uid = here.get(_pixels(_path(location)))
            names = {str(i.ReferencedSOPInstanceUID) for i in file.SourceImageSequence}
            led_to = {
                found[0]
                for former in names
                if former in key_of
                and study_key in places[key_of[former]]
                and len(found := standing(key_of[former])) == 1
                and rows.get(key_of[former], rows[found[0]])[2] == rows[found[0]][2]
            }
            led_to -= {k for k in led_to if rows[k][2] == SEGMENTATION}
            about = f"segmentation {key} of study {study_key} at {peer.name}"
            if uid is None:
                if led_to:
                    raise Violation(f"{about} is hidden, and {led_to} stand for what it points at")
                continue
            pointed = [str(i.ReferencedSOPInstanceUID) for i in dcmread(stored[uid].path).SourceImageSequence]
            if lost := led_to - {key_of[u] for u in pointed if u in shown}:
                raise Violation(f"{about} does not point at {lost}, which stand for what it pointed at")

    def desired(self, *, with_patients: bool) -> Counter[tuple[Any, ...]]:
        """The platform's studies: whose they are, and their images by their pixels."""
        studies: dict[str, list[str]] = defaultdict(list)
        for study_key, location in self.site.dba(
            "select study_key::text, location from pacs.instance where removed_at is null and sop_class_uid <> %s",
            SEGMENTATION,
        ):
            studies[study_key].append(_pixels(_path(location)))
        found: Counter[tuple[Any, ...]] = Counter()
        for study in self.site.platform.fetch_studies(sorted(studies)).studies:
            patient = study.patient
            who = (
                (patient.patient_id, patient.issuer_of_patient_id or "", patient.name, patient.birth_date, patient.sex)
                if with_patients
                else ()
            )
            found[(who, tuple(sorted(studies[study.study_key])))] += 1
        return found

    def shown(self, peer: Peer, *, with_patients: bool) -> Counter[tuple[Any, ...]]:
        """What queries find at an archive, the same way."""
        studies: dict[str, list[str]] = defaultdict(list)
        who: dict[str, tuple[Any, ...]] = {}
        stored = peer.archive.stored
        for uid, instance in peer.archive.shown().items():
            if stored[uid].sop_class_uid in (KEY_OBJECT_SELECTION, SEGMENTATION):
                continue
            studies[instance.study_instance_uid].append(_pixels(stored[uid].path))
            birth_date = datetime.strptime(instance.birth_date, "%Y%m%d").date() if instance.birth_date else None  # noqa: DTZ007
            who[instance.study_instance_uid] = (
                (instance.patient_id, instance.issuer, instance.name, birth_date, instance.sex) if with_patients else ()
            )
        return Counter((who[uid], tuple(sorted(images))) for uid, images in studies.items())


KEY_OBJECT_SELECTION = "1.2.840.10008.5.1.4.1.1.88.59"
SEGMENTATION = "1.2.840.10008.5.1.4.1.1.66.4"


def _path(location: str) -> Path:
    return Path(unquote(urlsplit(location).path))


def _pixels(path: Path) -> str:
    return hashlib.sha256(dcmread(path).PixelData).hexdigest()[:16]


def _images(studies: Counter[tuple[Any, ...]]) -> Counter[str]:
    return Counter(pixels for (_, images), times in studies.items() for pixels in images * times)


def _sizes(studies: Counter[tuple[Any, ...]]) -> list[int]:
    return sorted(len(images) for _, images in studies.elements())


def _shown(value: object) -> str:
    """A dataclass by what differs from its defaults."""
    return repr(
        {
            name: getattr(value, name)
            for name in type(value).__dataclass_fields__
            if getattr(value, name) != type(value).__dataclass_fields__[name].default
        }
    )


def _line(job: Job) -> str:
    return f"job {job.job_id} ({job.job_type} at {job.destination}) {job.status} {job.reason_code}: {job.reason}"


# -- the tests ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def world(
    site: Any, tmp_path: Path, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> Iterator[World]:
    """A platform with one or two destinations, chosen by the seed."""
    for service in (archive_service, rejection_service):
        monkeypatch.setattr(service, "VERIFY_PAUSES_S", (0.01, 0.02))
    dice = random.Random(request.param)
    with ExitStack() as stack:
        peers = []
        for name in dice.sample(sorted(KINDS), dice.choice((1, 2))):
            settings, honours_notes, is_told = KINDS[name]
            archive = SimulatedArchive(
                tmp_path / name,
                free_port(),
                ae_title=name.upper(),
                iocm=IocmRules() if honours_notes else None,
                frees_identifiers=settings.get("adt_prior_identifier") is PriorIdentifier.FREED,
            )
            archive.start()
            site.archives.append(archive)
            receiver = stack.enter_context(archive.make_adt_receiver()) if is_told else None
            adt: dict[str, Any] = {}
            if receiver is not None:
                adt = {
                    "adt_host": "127.0.0.1",
                    "adt_port": receiver.address[1],
                    "adt_receiving_application": "VNA",
                    "adt_ack_timeout_s": 2.0,
                }
            site.add_destination(archive, name=name, **{**COMMON, **adt, **settings})
            peers.append(Peer(name, archive, receiver, honours_notes))
        yield World(site, peers, dice)


@pytest.mark.parametrize("world", SEEDS, indirect=True)
def test_archives_are_in_step_once_faults_stop(world: World) -> None:
    """Invariants 1 to 8 of the design, by a random history."""
    live_through(world)


@pytest.mark.parametrize("world", POINTING_SEEDS, indirect=True)
def test_what_points_at_images_is_in_step_with_them(world: World) -> None:
    world.has_pointers = True
    world.add_study()
    for key in world.studies():
        world.add_pointer(key, world.images(key))
    world.drain()
    live_through(world)


def live_through(world: World) -> None:
    try:
        for _ in range(2):
            world.add_study()
        for _ in range(world.dice.randint(15, 45)):
            what = world.dice.random()
            if what < 0.3:
                world.change()
            elif what < 0.5:
                world.plan()
            else:
                world.work(is_faulty=world.dice.random() < 0.4)
            world.check()
        world.drain()
        world.check()
        world.check_end()
    except AssertionError as exc:
        told = "\n".join(world.story)
        pytest.fail(f"{exc}\n{told}", pytrace=False)
    assert_nothing_personal(world.site.ledger_dsn)


#: Where the ledger keeps who a patient is: what archives were told, and the notes and messages themselves.
PAYLOAD = {"held_patient": "*", "adt_message": "*", "retired_identifier": "*", "rejection_note": "encoded"}


def assert_nothing_personal(ledger_dsn: str) -> None:
    """No column outside payloads shows a patient; the fixture of the site looks through the logs."""
    with psycopg.connect(ledger_dsn) as connection:
        columns = connection.execute(
            "select table_name, column_name from information_schema.columns where table_schema = 'public'"
        ).fetchall()
        assert {table for table, _ in columns} >= {*PAYLOAD, "job", "job_attempt", "placement", "held_instance"}
        for table, column in columns:
            if PAYLOAD.get(table) in ("*", column):
                continue
            shown = connection.execute(
                f'select count(*) from "{table}" where "{column}"::text ilike any(%s)',
                [["%planted%", "%secret%", "%1950-01-0%"]],
            ).fetchone()
            assert shown == (0,), f"{table}.{column} shows a patient"
