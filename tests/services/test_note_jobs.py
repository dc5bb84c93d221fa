"""Withdrawing from an archive what left a study, change by change, judged by an archive that honours IHE IOCM."""

from __future__ import annotations

import itertools
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from pydicom import dcmread
from pydicom.dataset import Dataset

from archsync.core.job import Job, JobStatus, JobType, WaitReason
from archsync.core.study import RemovalReason
from archsync.launcher.postgres import free_port
from archsync.ledger import destinations, jobs, plan_queue, rejection_notes
from archsync.ledger.jobs import JobFilter
from archsync.services import job_control, planner
from archsync.services import rejection as rejection_service
from archsync.services.adt import run_adt_job
from archsync.services.archive import STORE_JOBS, run_store_job
from archsync.services.attempt import Ended, Run
from archsync.services.housekeeping import KEEP_DAYS, forget_delivered
from archsync.services.rejection import run_note_job
from archsync.simulate.archive import ChosenStatus, IocmRules, Rudeness, SimulatedArchive
from archsync.simulate.volumes import make_uid

KOS = "1.2.840.10008.5.1.4.1.1.88.59"


class Withdrawals:
    """A site whose archive honours rejection notes, and the running of all that is planned."""

    def __init__(self, site: Any, archive: SimulatedArchive) -> None:
        self.site = site
        self.archive = archive
        self.pacs = site.pacs
        self.runs = itertools.count(1)

    def add_destination(self, **settings: Any) -> None:
        wanted = {"profile": "dcm4chee", "verification": "c-find", **settings}
        self.site.add_destination(self.archive, **wanted)

    def archived(self, instances: int = 3) -> str:
        """A study that the archive has got; gives its key."""
        study_key = self.site.add_study(instances)
        self.settle()
        assert len(self.shown(study_key)) == instances
        return study_key

    def run(self, job_id: int, *, later_s: float = 0.0) -> Ended:
        """Run one attempt of a job of either kind."""
        job = self.site.job(job_id)
        work = run_store_job if job.job_type in STORE_JOBS else run_note_job
        run = Run("a DAG", f"run{next(self.runs)}", 1)
        return work(
            self.site.ledger,
            self.site.platform,
            job_id,
            run,
            clock=lambda: datetime.now(UTC) + timedelta(seconds=later_s),
        )

    def plan(self) -> None:
        self.site.plan()

    def runnable(self) -> list[int]:
        """The jobs whose turn it is, oldest first."""
        return [
            n
            for n in self.site.open_jobs()
            if (job := self.site.job(n)).job_type in (*STORE_JOBS, JobType.KOS)
            and job.status is not JobStatus.FAILED
            and job.wait_reason is not WaitReason.HOLD
            and jobs.blocker(self.site.ledger, n) is None
        ]

    def settle(self, rounds: int = 12) -> list[Ended]:
        """Plan and run until nothing is left that can run; gives how each attempt ended."""
        ended = []
        for _ in range(rounds):
            self.plan()
            waiting = self.runnable()
            if not waiting:
                return ended
            ended.append(self.run(waiting[0]))
        raise AssertionError(f"it never settles: {ended}")

    def shown(self, study_key: str) -> set[str]:
        """What the archive shows of a study, notes left out."""
        return self.images() & self.shown_in(self.site.study_uid(study_key))

    def shown_in(self, study_uid: str) -> set[str]:
        return {uid for uid, shown in self.archive.shown().items() if shown.study_instance_uid == study_uid}

    def images(self) -> set[str]:
        """All images that the archive shows."""
        return {uid for uid in self.archive.shown() if self.archive.stored[uid].sop_class_uid != KOS}

    def notes(self) -> list[Any]:
        """The notes that the archive holds, in the order of their arrival."""
        uids = [a.uid for a in self.archive.arrivals if a.is_kept and a.kind == "note"]
        return [dcmread(self.archive.stored[uid].path) for uid in uids]

    def titles(self) -> set[str]:
        return set(self.archive.rejected.values())

    def job(self, kind: JobType = JobType.KOS) -> Job:
        """The newest job of a kind."""
        listed = jobs.listing(self.site.ledger, JobFilter(job_types=[kind]))
        return listed[0].job

    def kos_job(self) -> int:
        """Plan, and give the kos job that waits."""
        self.plan()
        (job_id,) = [n for n in self.site.open_jobs() if self.site.job(n).job_type is JobType.KOS]
        return job_id

    def is_in_step(self, *study_keys: str) -> bool:
        """Tell whether the archive shows one instance for each that the platform shows in each study, and no others."""
        held = {key: self.site.held(key) for key in study_keys}
        counts = {key: len(self.site.uids(key)) for key in study_keys}
        return set().union(*held.values()) == self.images() and {k: len(v) for k, v in held.items()} == counts


@pytest.fixture
def ws(site, tmp_path, monkeypatch):
    monkeypatch.setattr(rejection_service, "VERIFY_PAUSES_S", (0.01, 0.02))
    archive = SimulatedArchive(tmp_path / "vna", free_port(), ae_title="VNA", iocm=IocmRules())
    archive.start()
    site.archives.insert(0, archive)
    return Withdrawals(site, archive)


# -- removals ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("reason", "title"),
    [
        (RemovalReason.QUALITY, "113001"),
        (RemovalReason.PATIENT_SAFETY, "113037"),
        (RemovalReason.WRONG_WORKLIST_ENTRY, "113038"),
        (RemovalReason.UNSPECIFIED, "113037"),
        (None, "113037"),
    ],
)
def test_removed_images_are_withdrawn_under_the_title_of_their_reason(ws, reason, title):
    ws.add_destination()
    study_key = ws.archived(4)
    before = ws.shown(study_key)
    ws.pacs.remove_instances(study_key, 2, reason=reason)

    (ended,) = ws.settle()

    assert (ended.status, ended.message) == (JobStatus.SUCCEEDED, "2 instances withdrawn.")
    assert set(ws.archive.rejected) == before - set(ws.site.uids(study_key))
    assert ws.titles() == {title}
    assert ws.is_in_step(study_key)
    job, change = ws.job(), ws.job(JobType.IOCM)
    assert (job.instances_done, job.instances_total, job.parent_job_id) == (2, 2, change.job_id)
    assert change.status is JobStatus.SUCCEEDED
    assert ws.settle() == []


def test_a_retention_that_expired_is_told_only_where_the_destination_wants_it(ws):
    ws.add_destination(rejection_titles=("retention_expired=113039",))
    ws.site.add_destination(ws.archive, name="silent", profile="dcm4chee")
    study_key = ws.site.add_study(2)
    ws.settle()
    ws.pacs.remove_study(study_key, reason=RemovalReason.RETENTION_EXPIRED)
    ws.settle()

    assert ws.titles() == {"113039"}
    told = [j.job for j in jobs.listing(ws.site.ledger, JobFilter(job_types=[JobType.IOCM]))]
    assert {(j.destination, j.status, j.reason_code) for j in told} == {
        ("vna", JobStatus.SUCCEEDED, None),
        ("silent", JobStatus.SUPPRESSED, "iocm-retention-disabled"),
    }


@pytest.mark.parametrize("hard", [False, True], ids=["marked", "rows gone"])
@pytest.mark.parametrize("what", ["series", "study"])
def test_a_whole_series_or_study_is_withdrawn_image_by_image(ws, what, hard):
    ws.add_destination()
    study_key = ws.archived(2)
    uid = ws.site.study_uid(study_key)
    ws.site.add_late_images(study_key, 2)
    ws.settle()
    if what == "series":
        ws.pacs.remove_series(study_key, 1, hard=hard)
    else:
        ws.pacs.remove_study(study_key, hard=hard)
        plan_queue.queue(ws.site.ledger, [study_key])  # a row that is gone announces nothing

    ended = ws.settle()

    assert [e.status for e in ended] == [JobStatus.SUCCEEDED]
    assert len(ws.images() & ws.shown_in(uid)) == (2 if what == "series" else 0)
    (note,) = ws.notes()
    assert (note.StudyInstanceUID, note.PatientID) == (uid, "PLANTEDMRN")


def test_reasons_that_differ_make_a_note_each(ws):
    ws.add_destination(quality_modifier="111210")
    study_key = ws.archived(4)
    ws.pacs.remove_instances(study_key, 1, reason=RemovalReason.QUALITY)
    ws.pacs.remove_instances(study_key, 1, reason=RemovalReason.PATIENT_SAFETY)

    (ended,) = ws.settle()

    assert ended.message == "2 instances withdrawn."
    by_title = {note.ConceptNameCodeSequence[0].CodeValue: note for note in ws.notes()}
    assert set(by_title) == {"113001", "113037"}
    assert by_title["113001"].ContentSequence[0].ConceptCodeSequence[0].CodeValue == "111210"
    assert by_title["113037"].ContentSequence[0].RelationshipType == "CONTAINS"
    assert len({note.SeriesInstanceUID for note in ws.notes()}) == 2


def test_many_removals_are_spread_over_notes_of_the_size_the_destination_takes(ws):
    ws.add_destination(max_note_references=2)
    study_key = ws.archived(5)
    ws.pacs.remove_study(study_key)

    (ended,) = ws.settle()

    assert ended.message == "5 instances withdrawn."
    notes = ws.notes()
    assert [len(note.ContentSequence) for note in notes] == [2, 2, 1]
    assert [int(note.InstanceNumber) for note in notes] == [1, 2, 3]
    assert len({note.SeriesInstanceUID for note in notes}) == 1


def test_an_image_removed_before_it_was_ever_sent_is_not_named(ws):
    ws.add_destination()
    study_key = ws.archived(2)
    ws.site.add_late_images(study_key, 1)
    ws.pacs.remove_instances(study_key, 1)

    assert ws.settle() == []
    assert ws.notes() == []
    assert ws.job(JobType.IOCM).reason_code == "iocm-never-archived"


def test_a_removal_taken_back_before_the_note_was_built_sends_nothing(ws):
    ws.add_destination(settle_s=30.0)
    study_key = ws.site.add_study(2)
    ws.plan()
    (job_id,) = ws.site.open_jobs()
    ws.run(job_id)
    ws.plan()
    ws.pacs.remove_instances(study_key, 1)
    job_id = ws.kos_job()
    assert ws.site.job(job_id).wait_reason is WaitReason.SETTLING
    ws.pacs.restore_instances(study_key)
    ws.plan()

    assert ws.site.job(job_id).status is JobStatus.CANCELLED
    assert ws.notes() == []


def test_what_is_shown_again_after_its_withdrawal_goes_out_under_another_uid(ws):
    ws.add_destination()
    study_key = ws.archived(2)
    former = ws.shown(study_key)
    ws.pacs.remove_instances(study_key, 1)
    ws.settle()
    ws.pacs.restore_instances(study_key)

    (ended,) = ws.settle()

    assert (ended.status, ended.message) == (JobStatus.SUCCEEDED, "1 instance sent.")
    assert ws.is_in_step(study_key)
    assert len(ws.shown(study_key) - former) == 1


# -- corrections -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("keep_uids", [True, False], ids=["rows move", "new rows replace them"])
def test_a_split_stores_the_copies_and_then_withdraws_the_originals(ws, keep_uids):
    ws.add_destination()
    study_key = ws.archived(4)
    target = ws.pacs.split_study(study_key, instances=2, keep_uids=keep_uids)

    ended = ws.settle()

    assert all(e.status is JobStatus.SUCCEEDED for e in ended)
    assert ws.is_in_step(study_key, target)
    assert ws.titles() == {"113038"}
    arrivals = [a.uid for a in ws.archive.arrivals if a.is_kept]
    assert ws.archive.stored[arrivals[-1]].sop_class_uid == KOS, "the note goes last"
    change = ws.job(JobType.IOCM)
    steps = [j.job for j in jobs.listing(ws.site.ledger, JobFilter()) if j.job.parent_job_id == change.job_id]
    assert {s.job_type for s in steps} == {JobType.KOS, ws.site.job(min(s.job_id for s in steps)).job_type}
    assert change.status is JobStatus.SUCCEEDED


@pytest.mark.parametrize("delete_source", [False, True], ids=["row stays", "row gone"])
def test_a_merge_of_studies_leaves_nothing_in_the_one_that_gave_way(ws, delete_source):
    ws.add_destination()
    source, target = ws.archived(2), ws.archived(3)
    source_uid = ws.site.study_uid(source)
    ws.pacs.merge_studies(source, target, delete_source=delete_source)

    ended = ws.settle()

    assert all(e.status is JobStatus.SUCCEEDED for e in ended)
    assert not ws.images() & ws.shown_in(source_uid)
    assert ws.is_in_step(target)
    (note,) = ws.notes()
    assert note.StudyInstanceUID == source_uid


@pytest.mark.parametrize("supports_iocm", [True, False])
def test_studies_that_swap_images_come_to_rest(ws, supports_iocm):
    ws.add_destination(supports_iocm=supports_iocm)
    first, second = ws.archived(2), ws.archived(2)
    (one,), (other,) = (
        ws.site.dba("select min(instance_key)::text from pacs.instance where study_key = %s", key)[0]
        for key in (first, second)
    )
    ws.pacs.move_instances(first, second, instances=[one])
    ws.pacs.move_instances(second, first, instances=[other])

    ended = ws.settle()

    assert all(e.status is JobStatus.SUCCEEDED for e in ended)
    assert len(ws.archive.rejected) == (2 if supports_iocm else 0)
    plan_queue.queue(ws.site.ledger, [first])
    report = planner.plan_queued(ws.site.platform, ws.site.ledger, now=datetime.now(UTC))
    assert report.studies == 1


@pytest.mark.parametrize("order", ["replacements_first", "wrong_patient_first"])
def test_a_study_of_the_wrong_patient_is_withdrawn_from_that_patient(ws, order):
    ws.add_destination(note_order=order)
    study_key = ws.archived(2)
    former = ws.shown(study_key)
    study_uid = ws.site.study_uid(study_key)
    right = ws.pacs.new_patient()
    ws.pacs.move_study(study_key, right)

    ended = ws.settle()

    assert all(e.status is JobStatus.SUCCEEDED for e in ended)
    assert set(ws.archive.rejected) == former
    shown = [s for uid, s in ws.archive.shown().items() if uid in ws.images()]
    assert len(shown) == 2
    assert {s.patient_id for s in shown}.isdisjoint({"PLANTEDMRN"})
    (note,) = ws.notes()
    assert (note.StudyInstanceUID, note.PatientID, note.IssuerOfPatientID) == (study_uid, "PLANTEDMRN", "CITYMRN")
    kept = [ws.archive.stored[a.uid].sop_class_uid == KOS for a in ws.archive.arrivals if a.is_kept]
    assert kept.index(True) == (2 if order == "wrong_patient_first" else 4)
    assert ws.settle() == []


@pytest.mark.parametrize("replace", [False, True], ids=["changed in place", "new rows"])
def test_changed_content_takes_the_place_of_the_old(ws, replace):
    ws.add_destination()
    study_key = ws.archived(3)
    former = ws.shown(study_key)
    if replace:
        ws.pacs.replace_instances(study_key, 1, reason=RemovalReason.QUALITY)
    else:
        ws.pacs.change_content(study_key, 1)

    ended = ws.settle()

    assert all(e.status is JobStatus.SUCCEEDED for e in ended)
    assert ws.is_in_step(study_key)
    assert len(former & ws.shown(study_key)) == 2
    assert ws.titles() == {"113001" if replace else "113038"}


def test_patient_safety_hides_the_old_image_before_the_new_one_is_sent(ws):
    ws.add_destination()
    study_key = ws.archived(2)
    ws.pacs.replace_instances(study_key, 1, reason=RemovalReason.PATIENT_SAFETY)

    ended = ws.settle()

    assert all(e.status is JobStatus.SUCCEEDED for e in ended)
    assert ws.is_in_step(study_key)
    kept = [ws.archive.stored[a.uid].sop_class_uid == KOS for a in ws.archive.arrivals if a.is_kept]
    assert kept == [False, False, True, False]


def test_a_split_off_study_that_the_destination_does_not_get_is_withdrawn_without_copies(ws):
    ws.add_destination(facilities=("CITY",))
    study_key = ws.archived(3)
    target = ws.pacs.split_study(study_key, instances=1)
    ws.site.dba("update pacs.study set facility_id = 'NORTH' where study_key = %s", target)

    (ended,) = ws.settle()

    assert ended.message == "1 instance withdrawn."
    assert ws.is_in_step(study_key)


def test_a_note_waits_for_replacements_that_a_failed_job_is_to_bring(ws):
    ws.add_destination()
    study_key = ws.archived(2)
    ws.pacs.split_study(study_key, instances=1)
    ws.archive.behave(Rudeness(answer_every_store=0xA900))
    ws.settle()
    assert ws.notes() == []
    kos = ws.job()
    assert kos.status is JobStatus.WAITING

    ws.archive.behave()
    (failed,) = [n for n in ws.site.open_jobs() if ws.site.job(n).status is JobStatus.FAILED and
                 ws.site.job(n).job_type is not JobType.IOCM]  # fmt: skip
    job_control.retry(ws.site.ledger, failed, actor="admin", now=datetime.now(UTC))
    ended = ws.settle()

    assert all(e.status is JobStatus.SUCCEEDED for e in ended)
    assert len(ws.notes()) == 1


def test_replacements_that_nobody_brings_fail_the_note_once_and_say_where_they_belong(ws):
    ws.add_destination()
    study_key = ws.archived(2)
    target = ws.pacs.split_study(study_key, instances=1)
    ws.plan()
    (store,) = [n for n in ws.site.open_jobs() if ws.site.job(n).job_type in STORE_JOBS]
    job_control.cancel(ws.site.ledger, store, actor="admin", reason="not wanted")

    (ended,) = ws.settle()

    assert (ended.status, ended.code) == (JobStatus.FAILED, "replacement-missing")
    assert ws.site.study_uid(target) in ended.message
    assert ws.notes() == []
    assert ws.settle() == []


# -- holds -------------------------------------------------------------------------------------------------------------


def test_a_study_on_hold_keeps_its_note_back(ws):
    ws.add_destination()
    study_key = ws.archived(2)
    ws.pacs.remove_instances(study_key, 1)
    job_id = ws.kos_job()
    ws.pacs.set_hold(study_key, True)

    ended = ws.run(job_id)

    assert (ended.status, ended.code) == (JobStatus.WAITING, "hold")
    assert ws.notes() == []
    ws.pacs.set_hold(study_key, False)
    (ended,) = ws.settle()
    assert ended.status is JobStatus.SUCCEEDED


# -- answers -----------------------------------------------------------------------------------------------------------


def removed(ws, instances: int = 2, **settings: Any) -> tuple[str, int]:
    """A study of which one image was removed, and its kos job."""
    ws.add_destination(**settings)
    study_key = ws.archived(instances)
    ws.pacs.remove_instances(study_key, 1)
    return study_key, ws.kos_job()


def digests(ws) -> list[str]:
    """Of each note that came, in order, whatever became of it."""
    return [a.digest for a in ws.archive.arrivals if a.kind == "note"]


@pytest.mark.parametrize(
    ("rudeness", "code"),
    [
        (Rudeness(abort_after_stores=0), "outcome-unknown"),
        (Rudeness(lose_answer_of_store=1), "outcome-unknown"),
        (Rudeness(statuses=(ChosenStatus(status=0xA700, nth=1),)), "out-of-resources"),
        (Rudeness(statuses=(ChosenStatus(status=0xA77A, nth=1),)), "study-being-deleted"),
        (Rudeness(statuses=(ChosenStatus(status=0x0110, nth=1),)), "processing-failure"),
    ],
    ids=["aborted", "taken, answer lost", "A700", "A77A", "0110"],
)
def test_a_note_that_was_not_answered_well_is_sent_again_as_it_was(ws, rudeness, code):
    _, job_id = removed(ws)
    ws.archive.behave(rudeness)

    first = ws.run(job_id)
    assert (first.status, first.code) == (JobStatus.RETRYING, code)
    second = ws.run(job_id, later_s=60)

    assert (second.status, second.message) == (JobStatus.SUCCEEDED, "1 instance withdrawn.")
    assert len(digests(ws)) == 2
    assert len(set(digests(ws))) == 1
    assert len(ws.archive.rejected) == 1


@pytest.mark.parametrize(
    ("status", "code"),
    [
        (0xA770, "note-bytes-differ"),
        (0xA773, "class-instance-conflict"),
        (0xA775, "retention-not-allowed"),
        (0xA776, "retention-not-allowed"),
        (0xA77B, "instance-in-other-study"),
        (0xA900, "sop-class-mismatch"),
    ],
)
def test_a_note_that_is_refused_for_good_fails_once_and_is_kept_for_a_retry(ws, status, code):
    _, job_id = removed(ws)
    ws.archive.behave(Rudeness(answer_every_store=status))

    (ended,) = ws.settle()

    assert (ended.status, ended.code) == (JobStatus.FAILED, code)
    assert ws.site.job(job_id).instances_done == 0
    ws.archive.behave()
    job_control.retry(ws.site.ledger, job_id, actor="admin", now=datetime.now(UTC))
    (again,) = ws.settle()
    assert again.status is JobStatus.SUCCEEDED
    assert len(set(digests(ws))) == 1


@pytest.mark.parametrize("status", [0xA771, 0xA777, 0xA778, 0xA779])
def test_a_note_that_can_not_be_sent_again_as_it_is_fails_and_a_retry_builds_another(ws, status):
    _, job_id = removed(ws)
    ws.archive.behave(Rudeness(answer_every_store=status))

    (ended,) = ws.settle()

    assert ended.status is JobStatus.FAILED
    ws.archive.behave()
    job_control.retry(ws.site.ledger, job_id, actor="admin", now=datetime.now(UTC))
    (again,) = ws.settle()
    assert (again.job_id, again.status) == (job_id, JobStatus.SUCCEEDED)
    assert len(set(digests(ws))) == 2


def test_what_the_archive_lost_is_left_out_of_another_note(ws, tmp_path):
    study_key, job_id = removed(ws, 3)
    (lost,) = ws.shown(study_key) - set(ws.site.uids(study_key))
    ws.pacs.remove_instances(study_key, 1)
    forget(ws, lost)

    ended = ws.run(job_id)

    assert (ended.status, ended.message) == (JobStatus.SUCCEEDED, "1 instance withdrawn.")
    assert lost not in ws.archive.rejected
    assert [len(a.names) for a in ws.archive.arrivals if a.kind == "note"] == [2, 1]
    assert ws.is_in_step(study_key)
    assert ws.settle() == []


def test_when_the_archive_lost_all_of_it_the_aim_is_met(ws):
    study_key, job_id = removed(ws)
    (lost,) = ws.shown(study_key) - set(ws.site.uids(study_key))
    forget(ws, lost)

    ended = ws.run(job_id)

    assert (ended.status, ended.code) == (JobStatus.SUCCEEDED, "nothing-to-reject")
    assert lost not in ws.site.held(study_key)
    assert ws.settle() == []


def forget(ws, sop_instance_uid: str) -> None:
    """Have the archive lose an instance."""
    path = ws.archive.stored[sop_instance_uid].path
    port = ws.archive.address[1]
    ws.archive.stop()
    path.unlink()
    ws.archive._bind = ("127.0.0.1", port)
    ws.archive.start()
    assert sop_instance_uid not in ws.archive.stored


def test_an_image_whose_answer_was_lost_is_asked_for_and_withdrawn_if_it_is_there(ws):
    ws.add_destination(verification="none")
    study_key = ws.site.add_study(2)
    ws.plan()
    (store,) = ws.site.open_jobs()
    ws.archive.behave(Rudeness(lose_answer_of_store=2))
    ws.run(store)
    ws.archive.behave()
    (unanswered,) = ws.images() - ws.site.held(study_key)
    ws.site.dba("update pacs.instance set removed_at = now() where sop_instance_uid = %s", unanswered)

    ws.settle()

    assert set(ws.archive.rejected) == {unanswered}
    assert ws.is_in_step(study_key)


def test_an_image_that_never_arrived_is_not_named(ws):
    ws.add_destination(verification="none")
    study_key = ws.site.add_study(2)
    ws.plan()
    (store,) = ws.site.open_jobs()
    ws.archive.behave(Rudeness(abort_after_stores=1))
    ws.run(store)
    ws.archive.behave()
    (never,) = set(ws.site.uids(study_key)) - ws.images()
    ws.site.dba("update pacs.instance set removed_at = now() where sop_instance_uid = %s", never)

    ws.settle()

    assert digests(ws) == []
    assert ws.is_in_step(study_key)
    assert ws.site.open_jobs() == []


def test_what_is_rejected_there_under_another_title_already_counts(ws):
    """Retention outranks all other titles at this archive."""
    ws.add_destination(rejection_titles=("patient_safety=113039",))
    ws.site.add_destination(ws.archive, name="second", profile="dcm4chee", verification="c-find")
    study_key = ws.site.add_study(3)
    ws.settle()
    ws.pacs.remove_instances(study_key, 1, reason=RemovalReason.PATIENT_SAFETY)
    ws.plan()
    kos = {ws.site.job(n).destination: n for n in ws.site.open_jobs() if ws.site.job(n).job_type is JobType.KOS}
    assert ws.run(kos["vna"]).status is JobStatus.SUCCEEDED
    ws.pacs.remove_instances(study_key, 1)

    ended = ws.run(kos["second"])

    assert (ended.status, ended.message) == (JobStatus.SUCCEEDED, "2 instances withdrawn.")
    assert [r for _, r in ws.archive.requests if r == 0xA774] == [0xA774]
    assert len(ws.archive.rejected) == 2


@pytest.mark.parametrize("how", ["context", "status"])
@pytest.mark.parametrize("without", ["suppress", "operator"])
def test_an_archive_that_takes_no_key_objects_ends_it_as_the_destination_says(ws, how, without):
    study_key, _ = removed(ws, without_iocm=without)
    rude = Rudeness(refuse_sop_classes=(KOS,)) if how == "context" else Rudeness(answer_every_store=0x0122)
    ws.archive.behave(rude)

    (ended,) = ws.settle()

    if without == "suppress":
        assert (ended.status, ended.code) == (JobStatus.SUPPRESSED, "iocm-not-supported")
    else:
        assert (ended.status, ended.code) == (JobStatus.FAILED, "notes-not-accepted")
    plan_queue.queue(ws.site.ledger, [study_key])
    assert ws.settle() == []
    assert ws.job(JobType.IOCM).status is ended.status
    # Images go on.
    ws.archive.behave(Rudeness(refuse_sop_classes=(KOS,)))
    ws.site.add_late_images(study_key, 1)
    ws.plan()
    (late,) = [n for n in ws.site.open_jobs() if ws.site.job(n).job_type is JobType.DICOM]
    if without == "suppress":
        assert ws.run(late).status is JobStatus.SUCCEEDED


def test_a_destination_without_iocm_leaves_the_withdrawal_to_an_operator(ws):
    ws.add_destination(supports_iocm=False, without_iocm="operator")
    study_key = ws.archived(3)
    ws.pacs.remove_instances(study_key, 2)

    (ended,) = ws.settle()

    assert (ended.status, ended.code) == (JobStatus.FAILED, "withdraw-by-hand")
    assert f"withdraw 2 instances of study {ws.site.study_uid(study_key)} there by hand" in ended.message
    assert f"archsync jobs cancel {ended.job_id}" in ended.message
    assert digests(ws) == []
    job_control.cancel(ws.site.ledger, ended.job_id, actor="admin", reason="done by hand")
    plan_queue.queue(ws.site.ledger, [study_key])
    assert ws.settle() == []


# -- the check ---------------------------------------------------------------------------------------------------------


def test_an_archive_that_takes_the_note_and_goes_on_showing_fails_the_job(ws, tmp_path):
    with SimulatedArchive(tmp_path / "plain", free_port(), ae_title="PLAIN") as plain:
        ws.site.add_destination(plain, name="plain", supports_iocm=True, verification="c-find")
        study_key = ws.site.add_study(2)
        ws.settle()
        ws.pacs.remove_instances(study_key, 1)

        (ended,) = ws.settle()

        assert (ended.status, ended.code) == (JobStatus.FAILED, "note-not-honoured")
        job = ws.site.job(ended.job_id)
        assert (job.instances_done, job.instances_failed) == (0, 1)
        job_control.retry(ws.site.ledger, job.job_id, actor="admin", now=datetime.now(UTC))
        ws.settle()
        notes = [a for a in plain.arrivals if a.kind == "note"]
        assert len(notes) == 2
        assert len({a.digest for a in notes}) == 1, "sent again as it was"


def test_quality_rejects_may_go_on_showing(ws, tmp_path):
    rules = IocmRules(shows_quality_rejects=True)
    with SimulatedArchive(tmp_path / "lenient", free_port(), ae_title="LENIENT", iocm=rules) as lenient:
        ws.site.add_destination(lenient, name="lenient", profile="dcm4chee", verification="c-find")
        study_key = ws.site.add_study(2)
        ws.settle()
        ws.pacs.remove_instances(study_key, 1, reason=RemovalReason.QUALITY)

        (ended,) = ws.settle()

    assert ended.status is JobStatus.SUCCEEDED
    assert "goes on showing 1 of them, as it may under title 113001" in ended.message


# -- dying in between --------------------------------------------------------------------------------------------------


class _Died(BaseException):
    """Stands for the end of the process."""


@pytest.mark.parametrize(
    ("where", "when"),
    [
        ("build_rejection_note", "before"),
        ("insert", "before"),
        ("claim", "before"),
        ("claim", "after"),
        ("mark_sent", "after"),
        ("store_instances", "after"),
        ("mark_stored", "before"),
        ("mark_stored", "after"),
        ("list_for_check", "before"),
    ],
)
def test_an_attempt_that_dies_loses_and_doubles_nothing(ws, monkeypatch, where, when):
    from archsync.ledger import holdings
    from archsync.services import note_building, note_sending

    study_key, job_id = removed(ws, 3, max_note_references=1)
    ws.pacs.remove_instances(study_key, 1)
    module = {
        "build_rejection_note": note_building,
        "insert": rejection_notes,
        "claim": holdings,
        "mark_sent": rejection_notes,
        "store_instances": note_sending,
        "mark_stored": rejection_notes,
        "list_for_check": rejection_service,
    }[where]
    real = getattr(module, where)

    def die(*args: Any, **kwargs: Any) -> Any:
        if when == "after":
            result = real(*args, **kwargs)
            if where == "store_instances":
                list(result)
        raise _Died

    with monkeypatch.context() as patch:
        patch.setattr(module, where, die)
        with pytest.raises(_Died):
            ws.run(job_id)
    ws.site.ledger.close()
    with_lease_over(ws.site)

    ended = ws.run(job_id, later_s=3600)

    assert ended.status is JobStatus.SUCCEEDED
    assert ws.is_in_step(study_key)
    assert len(ws.notes()) == 2
    assert len(set(digests(ws))) == 2
    job = ws.site.job(job_id)
    assert job.instances_done == job.instances_total == 2
    assert ws.settle() == []


def with_lease_over(site) -> None:
    """The lease of the dead attempt runs out."""
    site.ledger.execute("update job set lease_until = now() - interval '1 second' where status = 'running'")


def test_a_note_that_another_job_built_is_delivered_first_and_as_it_was(ws):
    study_key, job_id = removed(ws, 3)
    ws.archive.behave(Rudeness(answer_every_store=0xA775))
    ws.settle()
    (first,) = rejection_notes.open_notes(ws.site.ledger, ws.site.job(job_id).destination_id, study_key)
    ws.archive.behave()
    ws.pacs.remove_instances(study_key, 1)

    (ended,) = ws.settle()

    assert ended.job_id != job_id
    assert ended.message == "2 instances withdrawn."
    assert ws.notes()[0].SOPInstanceUID == first.sop_instance_uid
    assert len(ws.notes()) == 2
    assert ws.is_in_step(study_key)


def test_the_bytes_of_notes_are_forgotten_in_the_end_and_only_then(ws):
    _, job_id = removed(ws)
    ws.archive.behave(Rudeness(answer_every_store=0xA775))
    ws.settle()
    now = datetime.now(UTC)
    assert rejection_notes.purge(ws.site.ledger, now + timedelta(days=1)) == 0
    ws.archive.behave()
    job_control.retry(ws.site.ledger, job_id, actor="admin", now=datetime.now(UTC))
    ws.settle()

    assert forget_delivered(ws.site.ledger, now=now) == 0
    assert forget_delivered(ws.site.ledger, now=now + timedelta(days=KEEP_DAYS + 1)) == 1
    assert [r.encoded for r in rejection_notes.records(ws.site.ledger, job_id)] == [None]


def test_a_cancelled_job_stops_before_it_sends(ws, monkeypatch):
    _, job_id = removed(ws)
    real = rejection_service.NoteBuilder.build

    def build_and_be_cancelled(*args: Any, **kwargs: Any) -> None:
        real(*args, **kwargs)
        job_control.cancel(ws.site.ledger, job_id, actor="admin", reason="no")

    monkeypatch.setattr(rejection_service.NoteBuilder, "build", build_and_be_cancelled)
    ended = ws.run(job_id)

    assert (ended.status, ended.did_run) == (JobStatus.CANCELLED, False)
    assert digests(ws) == []


# -- patients ----------------------------------------------------------------------------------------------------------


def test_a_note_names_the_patient_as_the_archive_knows_them(ws):
    ws.add_destination()
    study_key = ws.archived(2)
    (patient_key,) = ws.site.dba("select patient_key::text from pacs.study where study_key = %s", study_key)[0]
    ws.pacs.change_mrn(patient_key, "PLANTEDNEW")
    ws.pacs.remove_instances(study_key, 1)

    (ended,) = ws.settle()

    assert ended.status is JobStatus.SUCCEEDED
    (note,) = ws.notes()
    assert (note.PatientID, note.IssuerOfPatientID) == ("PLANTEDMRN", "CITYMRN")
    assert destinations.get(ws.site.ledger, "vna").adt is None


def test_a_note_about_a_patient_whom_a_message_is_to_change_follows_that_message(ws):
    receiver = ws.archive.make_adt_receiver()
    receiver.start()
    try:
        host, port = receiver.address
        adt = {"adt_host": host, "adt_port": port, "adt_receiving_application": "VNA"}
        study_key, kos = removed(ws, **adt)
        ((patient_key,),) = ws.site.dba("select patient_key::text from pacs.study where study_key = %s", study_key)
        ws.pacs.change_mrn(patient_key, "PLANTEDNEW")
        ws.plan()
        ws.archive.behave(Rudeness(statuses=(ChosenStatus(status=0xA778, nth=1),)))

        ended = ws.run(kos)

        assert (ended.status, ended.code) == (JobStatus.CANCELLED, "nothing-to-do")
        ws.plan()
        later = ws.job()
        adt_job = ws.job(JobType.ADT)
        assert later.job_id > adt_job.job_id > kos
        assert jobs.blocker(ws.site.ledger, later.job_id) == adt_job.job_id
        run = Run("a DAG", "adt", 1)
        assert run_adt_job(ws.site.ledger, ws.site.platform, adt_job.job_id, run).status is JobStatus.SUCCEEDED
        assert ws.run(later.job_id).status is JobStatus.SUCCEEDED
    finally:
        receiver.stop()
    (note,) = ws.notes()
    assert note.PatientID == "PLANTEDNEW"
    assert ws.is_in_step(study_key)


# -- what points at withdrawn instances --------------------------------------------------------------------------------

PRESENTATION_STATE = "1.2.840.10008.5.1.4.1.1.11.1"
REPORT = "1.2.840.10008.5.1.4.1.1.88.11"


def add_pointer(ws, study_key: str, references: list[str], sop_class_uid: str = PRESENTATION_STATE) -> str:
    """Put an object that points at others into a study and archive it; gives its SOP Instance UID."""
    model = dcmread(next(ws.site.folder.glob(f"{ws.site.study_uid(study_key)}/*")))
    uid = make_uid(ws.site.folder, "pointer", *references, sop_class_uid)
    for tag in [element.tag for element in model if element.tag.group in (0x0028, 0x7FE0)]:
        del model[tag]
    model.SOPClassUID = model.file_meta.MediaStorageSOPClassUID = sop_class_uid
    model.SOPInstanceUID = model.file_meta.MediaStorageSOPInstanceUID = uid
    model.SeriesInstanceUID = make_uid(uid, "series")
    model.Modality = "PR"
    series = Dataset()
    series.SeriesInstanceUID = make_uid("any")
    series.ReferencedImageSequence = []
    for target in references:
        item = Dataset()
        item.ReferencedSOPClassUID = "1.2.840.10008.5.1.4.1.1.2"
        item.ReferencedSOPInstanceUID = target
        series.ReferencedImageSequence.append(item)
    model.ReferencedSeriesSequence = [series]
    path = ws.site.folder / f"{uid}.dcm"
    model.save_as(path, enforce_file_format=True)
    ws.pacs.add_instances(study_key, [path])
    ended = ws.settle()
    assert uid in ws.archive.stored, ended
    return uid


def references_of(ws, uid: str) -> set[str]:
    (series,) = dcmread(ws.archive.stored[uid].path).ReferencedSeriesSequence
    return {str(item.ReferencedSOPInstanceUID) for item in series.ReferencedImageSequence}


def remove(ws, *uids: str, reason: str = "quality") -> None:
    ws.site.dba(
        "update pacs.instance set removed_at = now(), removal_reason = %s where sop_instance_uid = any(%s)",
        reason, list(uids),
    )  # fmt: skip


def test_what_points_at_withdrawn_images_only_goes_in_the_same_note(ws):
    ws.add_destination()
    study_key = ws.archived(3)
    first, second, _ = ws.site.uids(study_key)
    never_sent = "1.2.3.4"
    pointer = add_pointer(ws, study_key, [first, second, never_sent])
    remove(ws, first, second)

    (ended,) = ws.settle()

    assert ended.message == "3 instances withdrawn."
    (note,) = ws.notes()
    assert set(ws.archive.rejected) == {first, second, pointer}
    assert ws.titles() == {"113001"}
    assert {str(i.ReferencedSOPSequence[0].ReferencedSOPInstanceUID) for i in note.ContentSequence} >= {pointer}
    assert ws.settle() == []


def test_what_went_with_its_images_comes_back_with_them(ws):
    ws.add_destination()
    study_key = ws.archived(3)
    first, second, other = ws.site.uids(study_key)
    pointer = add_pointer(ws, study_key, [first, second])
    remove(ws, first, second)
    ws.settle()
    assert pointer in ws.archive.rejected

    ws.site.dba("update pacs.instance set removed_at = null, removal_reason = null")
    ended = ws.settle()

    assert all(e.status is JobStatus.SUCCEEDED for e in ended), ended
    assert len(ws.shown(study_key)) == 4
    (copy,) = [u for u in ws.shown(study_key) if ws.archive.stored[u].sop_class_uid == PRESENTATION_STATE]
    assert references_of(ws, copy) == ws.shown(study_key) - {copy, other}
    assert not ws.shown(study_key) & {first, second, pointer}, "what was withdrawn never comes back itself"
    assert ws.settle() == []


def test_what_points_at_replaced_images_is_replaced_by_a_copy_that_points_at_the_new_ones(ws):
    ws.add_destination()
    study_key = ws.archived(2)
    changed, kept = sorted(ws.site.uids(study_key))
    pointer = add_pointer(ws, study_key, [changed, kept])
    (instance_key,) = ws.site.dba("select instance_key::text from pacs.instance where sop_instance_uid = %s", changed)[
        0
    ]
    ws.pacs.change_content(study_key, [instance_key])

    ended = ws.settle()

    assert all(e.status is JobStatus.SUCCEEDED for e in ended)
    assert set(ws.archive.rejected) == {changed, pointer}
    (copy,) = [u for u in ws.shown(study_key) if ws.archive.stored[u].sop_class_uid == PRESENTATION_STATE]
    (new,) = ws.shown(study_key) - {kept, copy}
    assert references_of(ws, copy) == {new, kept}
    assert ws.is_in_step(study_key)
    assert ws.settle() == []


def test_what_points_at_withdrawn_and_at_other_images_stays_and_is_named(ws):
    ws.add_destination()
    study_key = ws.archived(2)
    gone, kept = ws.site.uids(study_key)
    pointer = add_pointer(ws, study_key, [gone, kept])
    remove(ws, gone)

    (ended,) = ws.settle()

    assert ended.message == f"1 instance withdrawn. 1 object still points at withdrawn instances: {pointer}."
    assert ws.is_in_step(study_key)
    assert ws.settle() == []


def test_a_report_is_never_withdrawn_for_what_it_points_at(ws):
    ws.add_destination()
    study_key = ws.archived(2)
    gone, _ = ws.site.uids(study_key)
    report = add_pointer(ws, study_key, [gone], REPORT)
    remove(ws, gone)

    (ended,) = ws.settle()

    assert f"still points at withdrawn instances: {report}." in ended.message
    assert set(ws.archive.rejected) == {gone}
    assert report in ws.archive.shown()


def test_what_can_not_be_read_is_left_and_named(ws):
    ws.add_destination()
    study_key = ws.archived(2)
    gone, _ = ws.site.uids(study_key)
    pointer = add_pointer(ws, study_key, [gone])
    (ws.site.folder / f"{pointer}.dcm").unlink()
    remove(ws, gone)

    (ended,) = ws.settle()

    assert ended.status is JobStatus.SUCCEEDED
    assert f"1 object that may point at them can't be read: {pointer}." in ended.message
    assert set(ws.archive.rejected) == {gone}


def test_what_points_at_images_of_a_split_follows_them(ws):
    ws.add_destination()
    study_key = ws.archived(2)
    first, moved = ws.site.uids(study_key)
    add_pointer(ws, study_key, [first, moved])
    (instance_key,) = ws.site.dba("select instance_key::text from pacs.instance where sop_instance_uid = %s", moved)[0]
    target = ws.pacs.split_study(study_key, instances=[instance_key])

    ended = ws.settle()

    assert all(e.status is JobStatus.SUCCEEDED for e in ended)
    assert ws.is_in_step(study_key, target)
    (copy,) = [u for u in ws.shown(study_key) if ws.archive.stored[u].sop_class_uid == PRESENTATION_STATE]
    (new,) = ws.shown(target)
    series = dcmread(ws.archive.stored[copy].path).ReferencedSeriesSequence
    pointed = {str(i.ReferencedSOPInstanceUID) for item in series for i in item.ReferencedImageSequence}
    assert pointed == {first, new}
