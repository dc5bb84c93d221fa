"""What the command line says of changes after archiving: planned, while they wait, and when they are told."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import pytest

from archsync.core.job import JobStatus, JobType
from archsync.core.study import RemovalReason
from archsync.launcher.postgres import free_port
from archsync.ledger import destinations, jobs, rejection_notes
from archsync.ledger.jobs import JobFilter
from archsync.platformdb.reader import Platform
from archsync.services import housekeeping, planner
from archsync.services.adt import run_adt_job
from archsync.services.archive import run_store_job
from archsync.services.attempt import Run
from archsync.services.rejection import run_note_job
from archsync.simulate.archive import IocmRules, SimulatedArchive
from archsync.simulate.volumes import DemoPatient, VolumeStudy, make_uid, write_volume

PATIENT = DemoPatient("PLANTEDMRN", "CITYMRN", "Plantedname^Secret", date(1950, 1, 2), "F")
PERSONAL = re.compile("PLANTED|Plantedname|Secret|1950-?01-?02")
RUNNERS = {JobType.ADT: run_adt_job, JobType.KOS: run_note_job}


class Hospital:
    """A platform, an archive that honours notes and takes ADT messages, and the jobs between them."""

    def __init__(self, pacs, platform: Platform, ledger, folder: Path) -> None:
        self.pacs = pacs
        self.platform = platform
        self.ledger = ledger
        self.folder = folder
        self.studies = 0
        self.runs = 0

    def add_study(self, instances: int = 3) -> str:
        """A completed study; gives its key."""
        self.studies += 1
        uid = make_uid(self.folder, self.studies)
        study = VolumeStudy(uid, "PLANTEDACC", datetime(2026, 1, 5, tzinfo=UTC), "CT", PATIENT)
        files = list(write_volume(self.folder / uid, study, modality="CT", slices=instances, matrix=8))
        return self.pacs.add_study(
            files, exam_status="Completed", patient=PATIENT, accession_number=f"PLANTEDACC{self.studies}"
        )

    def uid(self, study_key: str) -> str:
        return self.platform.fetch_studies([study_key]).studies[0].study_instance_uid

    def patient_key(self, study_key: str) -> str:
        return self.platform.fetch_studies([study_key]).studies[0].patient.patient_key

    def plan(self) -> list[int]:
        """Look at the platform and plan; gives the jobs that are not done, without parents."""
        planner.observe(self.platform, self.ledger)
        planner.plan_queued(self.platform, self.ledger, now=datetime.now(UTC))
        listed = jobs.listing(self.ledger, JobFilter())
        return sorted(i.job.job_id for i in listed if not i.job.status.is_done and i.job.job_type is not JobType.IOCM)

    def run(self, job_id: int) -> JobStatus:
        self.runs += 1
        job = jobs.get(self.ledger, job_id)
        work = RUNNERS.get(job.job_type, run_store_job)
        return work(self.ledger, self.platform, job_id, Run("a DAG", f"run{self.runs}", 1)).status

    def settle(self) -> None:
        """Plan and run, lanes kept, until nothing is left to do."""
        while due := [j for j in self.plan() if jobs.blocker(self.ledger, j) is None]:
            for job_id in due:
                assert self.run(job_id) in (JobStatus.SUCCEEDED, JobStatus.CANCELLED)

    def only(self, job_type: JobType) -> int:
        """The number of the only job of a type."""
        (listed,) = jobs.listing(self.ledger, JobFilter(job_types=[job_type]))
        return listed.job.job_id


@pytest.fixture
def hospital(pacs, platform_dsn: str, ledger, tmp_path: Path, run) -> Iterator[Hospital]:
    archive = SimulatedArchive(tmp_path / "archive", free_port(), ae_title="VNA1", iocm=IocmRules())
    archive.start()
    host, port = archive.address
    try:
        with archive.make_adt_receiver() as receiver, Platform.from_dsn(platform_dsn) as platform:
            run(
                *("destination", "create", "vna1", "--ae-title", "VNA1", "--host", host, "--port", str(port)),
                *("--settle-s", "0", "--profile", "dcm4chee", "--adt-host", "127.0.0.1"),
                *("--adt-port", str(receiver.address[1]), "--adt-receiving-application", "VNA"),
            )
            yield Hospital(pacs, platform, ledger, tmp_path / "pacs")
    finally:
        archive.stop()


@pytest.fixture
def said(run) -> Callable[[str], list[str]]:
    """What ``archsync plan`` says of a study at vna1."""

    def read(uid: str) -> list[str]:
        lines = run("plan", "--study", uid).stdout.splitlines()
        return [line.removeprefix("  vna1: ") for line in lines if line.startswith("  vna1: ")]

    return read


# -- plan --------------------------------------------------------------------------------------------------------------


def test_removed_instances_are_rejected_under_the_title_of_their_reason(hospital, said, run_json) -> None:
    key = hospital.add_study()
    hospital.settle()
    hospital.pacs.remove_instances(key, 2, reason=RemovalReason.QUALITY)
    uid = hospital.uid(key)
    assert said(uid) == [
        "nothing to store (up_to_date: the archive holds every instance)",
        f"reject 2 instances of study {uid} as 113001 at vna1, because they were removed on the platform (quality)",
    ]
    (row,) = run_json("plan", "--study", uid)
    assert row["sentences"] == said(uid)
    assert (row["withdrawal"]["action"], row["withdrawal"]["instances"]) == ("withdraw", 2)
    (change,) = row["withdrawal"]["changes"]
    assert (change["title"], change["reason"], change["rule"]) == ("113001", "quality", None)
    hospital.plan()
    assert said(uid)[1].endswith(" (job 3 (waiting) covers it)")
    assert hospital.only(JobType.KOS) == 3


def test_a_split_is_rejected_where_it_was_and_first_stored_where_it_is(hospital, said, run_json) -> None:
    key = hospital.add_study(4)
    hospital.settle()
    target_key = hospital.pacs.split_study(key, instances=1)
    uid, target = hospital.uid(key), hospital.uid(target_key)
    assert said(uid)[1] == (
        f"reject 1 instance of study {uid} as 113038 at vna1, because it moved to study {target};"
        " first store 1 replacement"
    )
    (stored,) = said(target)
    assert stored.startswith("send archive job: 1 image, a replacement, ")
    (row,) = run_json("plan", "--study", uid)
    assert row["withdrawal"]["waits_for_study_keys"] == [target_key]
    assert row["withdrawal"]["changes"][0]["moved_to"] == [target]


def test_what_a_rule_keeps_back_is_said_with_the_rule(hospital, said, run, run_json) -> None:
    key = hospital.add_study()
    hospital.settle()
    run("destination", "set", "vna1", "supports_iocm=false")
    hospital.pacs.remove_instances(key, 1)
    uid = hospital.uid(key)
    assert said(uid)[1] == (
        f"leave 1 instance of study {uid} at vna1, though it was removed on the platform: Destination vna1 takes no"
        " rejection notes (supports_iocm): it goes on showing them. [iocm-not-supported]"
    )
    hospital.plan()
    assert said(uid)[1].endswith("[iocm-not-supported]"), "it is said for as long as it is so"
    (job,) = run_json("jobs", "list", "--type", "iocm")
    assert (job["status"], job["reason_code"]) == ("suppressed", "iocm-not-supported")
    assert "suppressed (iocm-not-supported)" in run("jobs", "list", "--type", "iocm").stdout


def test_where_no_note_can_be_sent_and_that_is_not_kept_quiet_an_operator_is_named(hospital, said, run) -> None:
    key = hospital.add_study()
    hospital.settle()
    run("destination", "set", "vna1", "supports_iocm=false", "without_iocm=operator")
    hospital.pacs.remove_instances(key, 1)
    assert said(hospital.uid(key))[1].startswith("have an operator withdraw 1 instance of study ")


def test_the_note_goes_first_where_the_harm_is_in_being_seen(hospital, said, run) -> None:
    key = hospital.add_study()
    hospital.settle()
    run("destination", "set", "vna1", "note_order=wrong_patient_first")
    hospital.pacs.move_study(key, hospital.pacs.new_patient())
    uid = hospital.uid(key)
    assert said(uid)[-1] == (
        f"reject 3 instances of study {uid} as 113038 at vna1, because the study is another patient's now;"
        " only then store 3 replacements"
    )


def test_a_patient_is_told_of_without_being_named(hospital, said, run_json) -> None:
    key = hospital.add_study()
    hospital.settle()
    patient_key = hospital.patient_key(key)
    hospital.pacs.change_mrn(patient_key, "PLANTEDNEW")
    hospital.pacs.correct_name(patient_key, "Plantedname^Other")
    uid = hospital.uid(key)
    assert said(uid)[0] == (
        f"tell vna1 that the patient of study {uid} has another identifier (A40),"
        " then that the patient has another name (A08)"
    )
    messages = run_json("plan", "--study", uid)[0]["messages"]
    assert [(m["change"], m["trigger_event"], m["rule"], m["job_id"]) for m in messages] == [
        ("identifier", "A40", None, None),
        ("demographics", "A08", None, None),
    ]
    hospital.plan()
    assert "(A40, job 2 waiting)" in said(uid)[0]


def test_a_patient_whom_nobody_is_told_of_is_said_with_the_rule(hospital, said, run) -> None:
    key = hospital.add_study()
    hospital.settle()
    run("destination", "set", "vna1", "adt_host=")
    hospital.pacs.correct_name(hospital.patient_key(key), "Plantedname^Other")
    (told, _) = said(hospital.uid(key))
    assert told.startswith("do not tell vna1 that the patient of study ")
    assert told.endswith("[adt-not-configured]")


def test_the_last_line_counts_a_message_once_for_all_studies_of_the_patient(hospital, run) -> None:
    keys = [hospital.add_study(), hospital.add_study()]
    hospital.settle()
    hospital.pacs.correct_name(hospital.patient_key(keys[0]), "Plantedname^Other")
    hospital.pacs.remove_instances(keys[0], 1)
    assert run("plan").stdout.splitlines()[-1].startswith("2 studies: 2 new jobs, 0 brought up to date, 0 closed; ")
    run("destination", "set", "vna1", "adt_host=", "supports_iocm=false")
    last = run("plan").stdout.splitlines()[-1]
    assert last.startswith("2 studies: 0 new jobs, 0 brought up to date, 0 closed, 2 suppressed by a rule; ")


# -- jobs --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("keep_uids", [True, False])
def test_a_change_is_shown_with_its_steps_and_what_its_note_waits_for(hospital, run, run_json, keep_uids) -> None:
    key = hospital.add_study(4)
    hospital.settle()
    hospital.pacs.split_study(key, instances=1, keep_uids=keep_uids)
    store, kos = hospital.plan()
    parent = hospital.only(JobType.IOCM)
    shown = run_json("jobs", "show", str(parent))
    assert [(s["job_id"], s["job_type"]) for s in shown["steps"]] == [(store, "archive"), (kos, "kos")]
    assert shown["steps"][1]["blocked_by"] == store
    output = run("jobs", "show", str(parent)).stdout
    assert f"waiting (job {store} first)" in output
    step = run("jobs", "show", str(kos)).stdout
    assert f"step of           job {parent}, iocm, waiting\n" in step
    assert f"waits for         job {store}, archive, waiting\n" in step
    assert f"blocked by        job {store}, archive, waiting\n" in step
    assert run_json("jobs", "show", str(kos))["depends_on"] == [store]
    assert {row["parent_job_id"] for row in run_json("jobs", "list", "--status", "waiting")} == {None, parent}


def test_the_note_is_shown_series_by_series_before_and_after_it_was_purged(hospital, run, run_json, ledger) -> None:
    key = hospital.add_study(5)
    hospital.settle()
    hospital.pacs.remove_instances(key, 4, reason=RemovalReason.QUALITY)
    hospital.settle()
    kos, parent = hospital.only(JobType.KOS), hospital.only(JobType.IOCM)
    output = run("jobs", "show", str(kos)).stdout
    assert "title           113001 (Rejected for Quality Reasons)\n" in output
    assert f"names           4 instances of study {hospital.uid(key)}\n" in output
    assert re.search(r"scope, part +1, 1\n", output)
    assert re.search(r"stored +20.* \(status 0000\)\n", output)
    assert re.search(r"  series [0-9.]+: 4 instances: [0-9.]+, [0-9.]+, [0-9.]+ and 1 more\n", output)
    assert "rejection note" in run("jobs", "show", str(parent)).stdout
    (note,) = run_json("jobs", "show", str(kos))["notes"]
    assert note["series"][0]["instances"] == 4
    assert note["title"] == "113001"
    assert housekeeping.forget_delivered(ledger, now=datetime.now(UTC) + timedelta(days=40)) == 1
    assert "Its content is no longer kept.\n" in run("jobs", "show", str(kos)).stdout
    assert run_json("jobs", "show", str(kos))["notes"][0]["series"] is None


def test_a_message_is_masked_unless_somebody_asks_for_the_patient_and_that_is_recorded(
    hospital, run, run_json, audit
) -> None:
    key = hospital.add_study()
    hospital.settle()
    hospital.pacs.correct_name(hospital.patient_key(key), "Plantedname^Other")
    hospital.settle()
    job_id = hospital.only(JobType.ADT)
    assert "adt (demographics)" in run("jobs", "list").stdout
    before = len(audit())
    output = run("jobs", "show", str(job_id)).stdout
    assert "  PID|" in output
    assert re.search(r"acknowledged +20.* \(AA\)\n", output)
    assert not PERSONAL.search(output + run("jobs", "show", str(job_id), "--json").stdout)
    assert len(audit()) == before
    whole = run("--actor", "grace", "jobs", "show", str(job_id), "--phi").stdout
    assert "Plantedname^Other" in whole
    assert audit()[-1][:3] == ("grace", "job.show-phi", f"job {job_id}")
    assert "Plantedname^Other" in run_json("jobs", "show", str(job_id), "--phi")["messages"][0]["text"]


def test_cancelling_and_retrying_a_change_works_on_its_steps(hospital, run, run_json, ledger) -> None:
    key = hospital.add_study()
    hospital.settle()
    hospital.pacs.remove_instances(key, 1)
    (kos,) = hospital.plan()
    parent = str(hospital.only(JobType.IOCM))
    run("jobs", "cancel", parent, "--reason", "not yet")
    assert [jobs.get(ledger, j).status for j in (kos, int(parent))] == [JobStatus.CANCELLED] * 2
    assert hospital.plan() == []
    assert (
        f"job {kos} was cancelled; retry it to withdraw after all" in run("plan", "--study", hospital.uid(key)).stdout
    )
    run("jobs", "retry", parent)
    assert run_json("jobs", "show", parent)["status"] == "waiting"
    hospital.settle()
    assert jobs.get(ledger, int(parent)).status is JobStatus.SUCCEEDED


# -- held --------------------------------------------------------------------------------------------------------------


def test_held_says_which_note_withdrew_what_and_when(hospital, run, run_json, ledger) -> None:
    kept, key = hospital.add_study(), hospital.add_study()
    hospital.settle()
    hospital.pacs.remove_instances(key, 1, reason=RemovalReason.QUALITY)
    hospital.settle()
    (note,) = rejection_notes.records(ledger, [hospital.only(JobType.KOS)])
    assert {s["study_key"]: s["rejected"] for s in run_json("held", "--destination", "vna1")} == {kept: 0, key: 1}
    assert [s["study_key"] for s in run_json("held", "--destination", "vna1", "--rejected")] == [key]
    of_study = ("held", "--destination", "vna1", "--study", hospital.uid(key))
    assert len(run_json(*of_study)) == 3
    (instance,) = run_json(*of_study, "--rejected")
    assert (instance["rejected_by"], instance["rejected_as"]) == (note.sop_instance_uid, "113001")
    assert f"113001  {note.sop_instance_uid}" in run(*of_study).stdout
    assert run("held", "--destination", "vna1", "--study", hospital.uid(kept), "--rejected").stdout == (
        "No rejection note withdrew anything at vna1 of this study that archsync knows of.\n"
    )


def test_nothing_names_the_patient(hospital, run) -> None:
    key = hospital.add_study()
    hospital.settle()
    hospital.pacs.change_mrn(hospital.patient_key(key), "PLANTEDNEW")
    hospital.pacs.remove_instances(key, 1)
    hospital.plan()
    shown = [run("plan").stdout, run("plan", "--json").stdout, run("jobs", "list", "--json").stdout]
    hospital.settle()
    for listed in jobs.listing(hospital.ledger, JobFilter()):
        shown += [run("jobs", "show", str(listed.job.job_id), *more).stdout for more in ((), ("--json",))]
    assert destinations.get(hospital.ledger, "vna1").adt
    assert not PERSONAL.search("".join(shown))
