"""The queue and the jobs, run one step at a time: a crash, a lost answer or another job may come between any two."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Generator, Sequence
from dataclasses import replace

from archsync.core import adt_statement, identifiers, identity, placing, waiting, withdrawal
from archsync.core.adt_statement import find_statement
from archsync.core.comparison import Desired, Held
from archsync.core.destination import Verification
from archsync.core.destination_iocm import NoteOrder
from archsync.core.identity import HeldPatient
from archsync.core.job import FAR_FUTURE, AdtChange, JobStatus, JobType, WaitReason, may_become
from archsync.core.placing import Bound, Placed
from archsync.core.planning import gate, missing_instances, unverified_instances
from archsync.core.rejection import NoteIdentity, RejectionTitle
from archsync.core.study import Instance, RemovalReason
from archsync.errors import InvalidInput
from archsync.services.archive import IDENTIFIER_PAUSE
from archsync.simulate.adt_registry import Refusal
from model.archive import Image, Message, Note, key_of
from model.ledger import STORE, HeldRow, Job, LedgerModel, MessageRow, NoteRow, Site, Steps
from model.violation import Violation

MAX_ATTEMPTS = 4


class Fault:
    """What befalls one exchange with an archive."""

    NONE, REFUSED, BUSY, ABORTED, ANSWER_LOST = range(5)


class Runner(LedgerModel):
    """Runs the ledger's jobs one step at a time, as the services do."""

    def __init__(self, *args) -> None:
        super().__init__(*args)
        self.left: list[tuple[Job, Steps, str]] = []
        self.has_lost_job = False

    # -- the queue ---------------------------------------------------------------------------------------------------

    def blocker(self, job: Job) -> Job | None:
        """The earliest undone job that holds this one back, as the function ``blocked_by`` of the ledger says."""
        return next((j for j in self.jobs if not j.status.is_done and self.holds_back(j, job)), None)

    def holds_back(self, earlier: Job, job: Job) -> bool:
        if earlier.job_id in job.depends_on:
            return True
        if earlier.site is not job.site or earlier is job:
            return False
        if earlier.job_id > job.job_id and earlier.status is not JobStatus.RUNNING:
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
        job.steps, job.is_begun, job.about_to = run(job), False, ""
        self.tell(f"{job} runs")
        self.step(job, Fault.NONE)

    def step(self, job: Job, fault: int) -> None:
        """Let a job that is under way do its next step."""
        assert job.steps is not None
        try:
            job.about_to = job.steps.send(fault if job.is_begun else None)
            job.is_begun = True
        except StopIteration:
            job.steps = None

    def leave(self, job: Job) -> None:
        """Its process stands still until the lease is over; another attempt may take over."""
        assert job.steps is not None
        self.left.append((job, job.steps, job.about_to))
        job.steps = None
        self.tell(f"{job} stands still")

    def wake(self, number: int, fault: int) -> None:
        """A process that stood still does what it was about to, beside the one that took over; then it notices."""
        job, steps, about_to = self.left.pop(number % len(self.left))
        # Later its association has timed out. Before what can't be taken back it asks the ledger whose the job is.
        if job.steps is not None and about_to.startswith("send ") and job.job_type in STORE:
            self.finish_last_step(job, steps, fault)
        steps.close()

    def finish_last_step(self, job: Job, steps: Steps, fault: int) -> None:
        self.tell(f"{job} does its last step for a process that has lost it")
        self.has_lost_job = True
        try:
            steps.send(fault)
        except StopIteration:
            pass
        finally:
            self.has_lost_job = False

    def cancel(self, job: Job, fault: int) -> None:
        """An administrator ends a job; what sends for it stops after the instance it is at."""
        steps, job.steps = job.steps, None
        self.move(job, JobStatus.CANCELLED, reason_code="cancelled")
        self.tell(f"{job} is cancelled")
        if steps is not None:
            if job.is_begun and job.about_to.startswith("send ") and job.job_type in STORE:
                self.finish_last_step(job, steps, fault)
            steps.close()

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

    def try_again(self, job: Job) -> None:
        if job.status is JobStatus.FAILED:
            self.move(job, JobStatus.WAITING, wait_reason=WaitReason.QUEUE, not_before=self.now)

    def look_again(self, job: Job) -> None:
        if job.study_key is not None:
            self.queue.add(job.study_key)
        else:
            self.queue |= {p.study_key for p in self.placements if p.patient_key in job.patient_keys}

    def look_at_all(self, job: Job) -> None:
        """As ``services/adt.py``: whoever the patient is by now, there may be more to tell of them."""
        survivors = self.platform.survivors()
        survivor = survivors[job.patient_key]
        self.queue |= {p.study_key for p in self.placements if survivors[p.patient_key] == survivor}
        self.queue |= {key for key, s in self.platform.studies.items() if survivors[s.patient.patient_key] == survivor}

    def conclude(self, job: Job, status: JobStatus, code: str = "", **values) -> None:
        if self.has_lost_job:
            return
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
        if self.has_moved(site, desired, held, missing):
            self.tell(f"{job} compares again")
            yield from self.run_store(job)
            return
        if missing and not self.may_introduce(job, desired):
            return
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

    def has_moved(self, site: Site, desired: Desired, held: Held, missing: Sequence[Instance]) -> bool:
        """As ``services/placing.py``: whether another job placed or offered them since they were compared."""
        keys = {i.instance_key for i in missing}
        placed = [p for p in self.placements if p.instance_key in keys]
        known, latest = desired.latest, {p.instance_key: p.placement_id for p in placed}
        offered = {p.placement_id for p in placed if p.placement_id in site.held}
        return bool(offered - held.instances.keys()) or any(
            key not in known or known[key].placement_id != latest[key] for key in latest
        )

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

    def known_as(self, site: Site, desired: Desired) -> HeldPatient | None:
        patient, survivors = desired.study.patient, self.platform.survivors()
        keys = {patient.patient_key, survivors[patient.patient_key], *self.filed(desired.study.study_key).values()}
        held = {key: site.patients[key] for key in keys if key in site.patients}
        known = identity.known_as(patient.patient_key, held, survivors)
        return known or identifiers.find_other_record(patient, self.look(site))

    def may_introduce(self, job: Job, desired: Desired) -> bool:
        """As ``services/placing.py``: whether nobody else goes by the patient's identifier there; else the job ends."""
        site = job.site
        if desired.study_uid in site.filed or self.known_as(site, desired) is not None:
            return True
        look = self.look(site, looked_before=job.reason_code == WaitReason.IDENTIFIER.value)
        try:
            before = identifiers.job_before_images(desired.study.patient, look)
        except identifiers.Undecided as undecided:
            self.queue |= {p.study_key for p in self.placements if p.patient_key in undecided.patient_keys}
            self.conclude(
                job,
                JobStatus.WAITING,
                "identifier",
                wait_reason=WaitReason.IDENTIFIER,
                not_before=self.now + IDENTIFIER_PAUSE,
            )
            return False
        except InvalidInput as exc:
            job.content_digest = desired.study.content_digest(with_identifier=True)
            self.conclude(job, JobStatus.FAILED, exc.code)
            return False
        if before is not None:
            self.wait_for(job, before, "identifier")
        return before is None

    def wait_for(self, job: Job, other: int, code: str) -> None:
        """A job waits for earlier ones only; behind a later one it is planned anew."""
        if other > job.job_id:
            if job.job_type is JobType.ADT:
                self.look_at_all(job)
            self.conclude(job, JobStatus.CANCELLED, "nothing-to-do")
            return
        job.depends_on.add(other)
        self.conclude(job, JobStatus.WAITING, code, wait_reason=WaitReason.LANE)

    def as_known(self, site: Site, desired: Desired, study_uid: str) -> HeldPatient:
        """As ``services/placing.py``: the patient that images of a study go out with."""
        if study_uid in site.filed:
            return replace(self.follow(site, site.filed[study_uid]), is_introduced=True)
        known = self.known_as(site, desired)
        if known is None:
            known = HeldPatient.of(desired.study.patient)
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
        self.drop_late_notes(job)
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
            x
            for x in withdrawal.find_leftovers(desired, held, destination)
            if x.may_go and withdrawal.rule_against(x, destination) is None
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
        withdrawn = withdrawal.find_withdrawn(*again, destination) if again is not None else ()
        gone = {item.held.placed.instance_key for item in [*found, *withdrawn]}
        self.queue |= {s.study.study_key for item in [*found, *withdrawn] for s in item.successors}
        if again is not None:
            rows = again[0].related.values()
            self.queue |= {r.study.study_key for r in rows if gone & set(withdrawal.lineage(r.instance, again[0]))}
        self.conclude(job, JobStatus.SUCCEEDED)

    def drop_late_notes(self, job: Job) -> None:
        """The archive refuses a note under an identifier that it has forgotten since (A778): it is built anew."""
        site = job.site
        for note_id, row in list(site.notes.items()):
            if row.study_key != job.study_key or row.is_taken:
                continue
            owner = site.archive.owner[row.note.study_instance_uid]
            if not site.archive.registry.is_same(owner, key_of(row.note.patient)):
                self.tell(f"note {row.note.uid} is late and is built anew")
                for held in site.held.values():
                    held.note_id = None if held.note_id == note_id else held.note_id
                row.is_taken = row.is_dropped = True

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
            self.look_at_all(job)
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
        try:
            if statement.brings_identifier:
                before = identifiers.job_before_message(patient, self.look(site))
                if before is not None:
                    self.wait_for(job, before, "lane")
                    return
            if statement.prior is not None:
                identifiers.check_ends_alone(statement.prior, patient, self.look(site))
        except InvalidInput as exc:
            self.conclude(job, JobStatus.FAILED, exc.code)
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
        is_retired = row.known_after.identifier in site.retired
        if refusal is not None and not (was_unanswered and row.message.trigger == "A40" and not is_retired):
            row.is_in_doubt = False
            if not (is_retired and row.message.trigger == "A40"):
                self.refused(job, row, refusal)
            self.conclude(job, JobStatus.FAILED, "adt-merge-unclear")
            return False
        row.is_told, row.is_in_doubt = True, False
        self.record_told(job, row)
        self.look_at_all(job)
        if row.job is job:
            self.conclude(job, JobStatus.SUCCEEDED)
        return True

    def refused(self, job: Job, row: MessageRow, refusal: Refusal) -> None:
        law = "A40 before A08" if row.message.trigger == "A08" else "merges are accepted"
        raise Violation(law, f"{row.message.trigger} of {job.patient_key} is answered {refusal.args}")

    def record_told(self, job: Job, row: MessageRow) -> None:
        site, known = job.site, row.known_after
        site.patients[known.patient_key] = replace(known, merged_into=None, is_introduced=True)
        site.retired.pop(known.identifier, None)
        if row.message.prior is not None:
            ended = HeldPatient.of(row.message.prior).identifier
            site.retired[ended] = row.prior_patient_key or known.patient_key
            for other in self.jobs:
                if other.site is site and other.reason_code in identifiers.WAIT_FOR_IDENTIFIERS:
                    self.try_again(other)
        if row.prior_patient_key is not None and row.prior_patient_key in site.patients:
            prior = site.patients[row.prior_patient_key]
            site.patients[row.prior_patient_key] = replace(prior, merged_into=known.patient_key)
