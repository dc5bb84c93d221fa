"""A study through the API: what the platform says, what archives hold, what may be done; and no name shows."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, date, datetime
from pathlib import Path

import psycopg
import pytest

from archsync.core.job import JobStatus
from archsync.core.study import RemovalReason
from archsync.ledger import destinations, jobs
from archsync.platformdb.reader import Platform
from archsync.services import planner
from archsync.services.archive import run_store_job
from archsync.services.attempt import Run
from archsync.simulate.archive import SimulatedArchive
from archsync.simulate.volumes import DemoPatient, VolumeStudy, make_uid, write_volume

API = "/archsync/api/v1"
PATIENT = DemoPatient("PLANTEDMRN", "CITYMRN", "Plantedname^Secret", date(1950, 1, 2), "F")
PERSONAL = re.compile("PLANTED|Plantedname|Secret|1950-?01-?02")


class Site:
    """A platform, an archive behind a real socket, and the jobs between them."""

    def __init__(self, pacs, platform: Platform, ledger, archive: SimulatedArchive, folder: Path) -> None:
        self.pacs, self.platform, self.ledger, self.archive, self.folder = pacs, platform, ledger, archive, folder
        self.studies = self.runs = 0

    def add_study(self, instances: int = 3, exam_status: str = "Completed") -> tuple[str, str]:
        """A study on the platform; gives its key and UID."""
        self.studies += 1
        uid = make_uid(self.folder, self.studies)
        volume = VolumeStudy(uid, "PLANTEDACC", datetime(2026, 1, 5, tzinfo=UTC), "CT", PATIENT)
        files = list(write_volume(self.folder / uid, volume, modality="CT", slices=instances, matrix=8))
        accession = f"PLANTEDACC{self.studies}"
        return self.pacs.add_study(files, exam_status=exam_status, patient=PATIENT, accession_number=accession), uid

    def plan(self) -> None:
        planner.observe(self.platform, self.ledger)
        planner.plan_queued(self.platform, self.ledger, now=datetime.now(UTC))

    def run(self, job_id: int) -> JobStatus:
        self.runs += 1
        run = Run("archsync_archive__vna", f"run{self.runs}", 1)
        return run_store_job(self.ledger, self.platform, job_id, run).status


@pytest.fixture
def site(pacs, platform_dsn: str, ledger, add_destination, tmp_path: Path) -> Iterator[Site]:
    """A site with the destination ``vna``, which holds nothing yet."""
    with SimulatedArchive(tmp_path / "archive") as archive, Platform.from_dsn(platform_dsn) as platform:
        host, port = archive.address
        add_destination("vna", called_ae_title=archive.ae_title, host=host, port=port)
        yield Site(pacs, platform, ledger, archive, tmp_path / "images")


@pytest.fixture
def archived(site: Site) -> tuple[str, str]:
    """A study of three images that the archive holds."""
    key, uid = site.add_study()
    site.plan()
    (listed,) = jobs.listed(site.ledger, [1])
    assert site.run(listed.job.job_id) is JobStatus.SUCCEEDED
    return key, uid


def test_an_archived_study_shows_both_sides_in_step(admin, archived) -> None:
    key, uid = archived
    answer = admin.get(f"{API}/studies/{uid}")
    study = answer.json()
    assert (study["study_key"], study["exam_status"], study["instances"]) == (key, "Completed", 3)
    assert (study["facility"], study["priority"], study["on_hold"]) == ("CITY", "ROUTINE", False)
    (archive,) = study["archives"]
    assert (archive["destination"], archive["held"], archive["missing"], archive["rejected"]) == ("vna", 3, 0, 0)
    assert archive["archived_at"] is not None
    assert archive["is_in_step"]
    assert archive["differences"] == []
    assert [series["instances"] for series in archive["series"]] == [3]
    assert [(job["type"], job["status"]) for job in study["jobs"]] == [("archive", "succeeded")]
    assert not PERSONAL.search(answer.text)
    same = admin.get(f"{API}/studies/{uid}", headers={"If-None-Match": answer.headers["ETag"]})
    assert same.status_code == 304


def test_what_left_the_platform_is_a_difference(admin, site, archived, add_destination) -> None:
    key, uid = archived
    site.pacs.remove_instances(key, 1, reason=RemovalReason.QUALITY)
    destinations.update(site.ledger, _with_notes(site.ledger))
    add_destination("elsewhere", facilities=("NORTH",))
    answer = admin.get(f"{API}/studies/{uid}")
    here, vna = answer.json()["archives"]
    assert (here["destination"], here["rule"], here["is_in_step"], here["missing"]) == (
        "elsewhere",
        "out_of_scope",
        True,
        0,
    )
    assert (vna["held"], vna["to_withdraw"], vna["is_in_step"]) == (3, 1, False)
    assert any("removed on the platform (quality)" in sentence for sentence in vna["differences"])
    assert not PERSONAL.search(answer.text)


def _with_notes(ledger):
    return replace(destinations.get(ledger, "vna"), supports_iocm=True)


def test_a_study_that_only_an_archive_has_is_found_by_its_uid_there(admin, site, archived, platform_dsn) -> None:
    key, uid = archived
    with psycopg.connect(platform_dsn, autocommit=True) as connection:
        connection.execute("delete from pacs.instance where study_key = %s", [key])
        connection.execute("delete from pacs.study where study_key = %s", [key])
    study = admin.get(f"{API}/studies/{uid}").json()
    assert (study["study_key"], study["is_on_platform"], study["exam_status"]) == (key, False, None)
    assert study["archives"][0]["held"] == 3


def test_an_unknown_study_is_not_found_and_a_uid_is_a_uid(admin, pacs) -> None:
    assert admin.get(f"{API}/studies/1.2.3").json()["code"] == "unknown-study"
    assert admin.get(f"{API}/studies/1.2.3").status_code == 404
    assert admin.get(f"{API}/studies/PLANTEDACC1").status_code == 422


def test_the_patient_is_shown_to_who_may_see_patients_and_asks_and_that_is_audited(
    client_of, site, archived, ledger
) -> None:
    _, uid = archived
    address = f"{API}/studies/{uid}/patient"
    assert client_of("user").post(address, json={"phi": True}).status_code == 403
    assert client_of("op").post(address, json={"phi": False}).status_code == 422
    assert client_of("op").post(address, json={}).status_code == 422
    count = "select count(*) as n from audit_event where action = 'patient.shown'"
    assert ledger.fetch_one(count)["n"] == 0
    assert client_of("op").post(address, json={"phi": True}).json() == {
        "name": "Plantedname^Secret",
        "patient_id": "PLANTEDMRN",
        "issuer_of_patient_id": "CITYMRN",
        "birth_date": "1950-01-02",
        "sex": "F",
        "accession_number": "PLANTEDACC1",
    }
    row = ledger.fetch_one("select actor, subject, detail from audit_event where action = 'patient.shown'")
    assert row == {"actor": "op", "subject": f"study {uid}", "detail": ""}


def test_a_plan_is_shown_before_it_is_made(client_of, site, ledger) -> None:
    _, uid = site.add_study()
    user = client_of("user")
    preview = user.post(f"{API}/studies/{uid}/plan", json={}).json()
    assert [archive["destination"] for archive in preview["archives"]] == ["vna"]
    assert preview["archives"][0]["sentences"][0].startswith("send archive job: 3 images")
    assert ledger.fetch_one("select count(*) as n from job")["n"] == 0
    assert user.post(f"{API}/studies/{uid}/plan-now", json={}).json() == {
        "jobs_made": 1,
        "jobs_refreshed": 0,
        "problem": None,
    }
    assert user.post(f"{API}/studies/{uid}/plan-now", json={}).json()["jobs_made"] == 0
    assert client_of("viewer").post(f"{API}/studies/{uid}/plan-now", json={}).status_code == 403


def test_push_again_sends_all_of_a_study_once_more(client_of, site, archived, ledger) -> None:
    _, uid = archived
    user = client_of("user")
    first = {sop for sop, _ in site.archive.requests}
    missing_only = user.post(f"{API}/studies/{uid}/push", json={"destinations": ["vna"], "again": False}).json()
    assert missing_only == {"jobs": [], "sentences": ["vna holds all of it already."]}
    pushed = user.post(f"{API}/studies/{uid}/push", json={"destinations": ["vna"]}).json()
    (job_id,) = pushed["jobs"]
    assert pushed["sentences"] == [f"Job {job_id} brings it to vna."]
    archive = user.get(f"{API}/studies/{uid}").json()["archives"][0]
    assert (archive["held"], archive["unanswered"], archive["missing"]) == (0, 3, 3)
    assert user.post(f"{API}/studies/{uid}/push", json={"destinations": ["vna"]}).json()["jobs"] == [job_id]
    assert site.run(job_id) is JobStatus.SUCCEEDED
    assert [sop for sop, _ in site.archive.requests][3:] == [sop for sop, _ in site.archive.requests][:3]
    assert {sop for sop, _ in site.archive.requests} == first
    site.plan()
    assert user.get(f"{API}/studies/{uid}").json()["archives"][0]["is_in_step"]
    rows = ledger.fetch_all("select actor, detail from audit_event where action = 'study.push'")
    assert {row["actor"] for row in rows} == {"user"}


def test_a_push_is_for_all_the_destinations_named_or_for_none(client_of, site, archived, ledger) -> None:
    _, uid = archived
    answer = client_of("user").post(f"{API}/studies/{uid}/push", json={"destinations": ["vna", "none"]})
    assert (answer.status_code, answer.json()["code"]) == (404, "unknown-destination")
    assert ledger.fetch_one("select count(*) as n from job")["n"] == 1
    assert acknowledged(ledger) == 3


def acknowledged(ledger) -> int:
    return ledger.fetch_one("select count(stored_at) as n from held_instance")["n"]


def test_a_study_is_held_listed_and_released(client_of, site, ledger) -> None:
    user = client_of("user")
    uids = [site.add_study(1)[1] for _ in range(3)]
    for uid in uids:
        held = user.post(f"{API}/studies/{uid}/hold", json={"reason": " being corrected "})
        assert held.json() == {"changed": True}
    assert user.post(f"{API}/studies/{uids[0]}/hold", json={"reason": "again"}).json() == {"changed": False}
    assert user.post(f"{API}/studies/{uids[0]}/hold", json={"reason": "  "}).status_code == 422
    study = user.get(f"{API}/studies/{uids[0]}").json()
    assert study["on_hold"]
    assert [(h["by"], h["held_by"], h["reason"]) for h in study["holds"]] == [
        ("administrator", "user", "being corrected")
    ]
    first = user.get(f"{API}/holds?limit=2").json()
    second = user.get(f"{API}/holds", params={"limit": 2, "cursor": first["next_cursor"]}).json()
    listed = [item["study_instance_uid"] for item in first["items"] + second["items"]]
    assert (listed, second["next_cursor"]) == (uids[::-1], None)
    assert user.get(f"{API}/holds?cursor=x").json()["code"] == "bad-cursor"
    assert client_of("viewer").post(f"{API}/studies/{uids[0]}/release", json={}).status_code == 403
    assert user.post(f"{API}/studies/{uids[0]}/release", json={}).json() == {"changed": True}
    assert user.post(f"{API}/studies/{uids[0]}/release", json={}).json() == {"changed": False}
    actions = ledger.fetch_all("select action from audit_event order by audit_event_id")
    assert [row["action"] for row in actions] == ["hold.add"] * 3 + ["hold.remove"]


def test_the_platforms_own_hold_is_told_from_an_administrators(admin, site) -> None:
    key, uid = site.add_study(1)
    site.pacs.set_hold(key, True)
    study = admin.get(f"{API}/studies/{uid}").json()
    assert study["on_hold"]
    assert [hold["by"] for hold in study["holds"]] == ["platform"]
