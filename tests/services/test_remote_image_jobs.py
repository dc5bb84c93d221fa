"""Jobs about studies whose images are on a web server: what an image that can't be had does to the job."""

from __future__ import annotations

import pytest

from archsync.core.job import JobStatus
from archsync.core.naming import DagKind
from archsync.ledger import destinations, jobs
from archsync.net.remote import copying
from archsync.services.check_result import Level
from archsync.services.platform_check import check_platform
from archsync.simulate.image_server import ImageRudeness, SimulatedImageServer


@pytest.fixture
def web(site, tmp_path, monkeypatch):
    """A web server with the platform's files; locations hold a patient's name, as real ones do."""
    monkeypatch.setattr(copying, "PAUSES_S", (0.0, 0.01, 0.01))
    folder = tmp_path / "pacs"
    with SimulatedImageServer(folder) as server:
        yield server


def move_to_web(site, web, kind="files"):
    """Have the platform give the locations of all images as URLs."""
    prefix = (site.folder).as_uri()
    url = web.url("", kind=kind)
    site.dba("update pacs.instance set location = replace(location, %s, %s) || '?name=Plantedname'", f"{prefix}/", url)
    ((count,),) = site.dba("select count(*) from pacs.instance where location like %s", f"{url}%")
    assert count


@pytest.fixture
def planned(site, web):
    def plan(instances=3, **destination):
        site.add_destination(**destination)
        study_key = site.add_study(instances)
        move_to_web(site, web)
        (job_id,) = site.plan()
        return study_key, job_id

    return plan


def test_a_study_goes_from_the_web_server_to_the_archive_and_into_the_ledger(site, web, planned):
    study_key, job_id = planned(4, verification="c-find")
    ended = site.run(job_id)
    assert (ended.status, ended.message) == (JobStatus.SUCCEEDED, "4 instances sent.")
    assert site.has_all(study_key)
    assert len(web.requests) == 4


def test_an_image_that_is_gone_fails_by_name_and_the_rest_is_stored(site, web, planned):
    study_key, job_id = planned(4)
    lost = site.uids(study_key)[1]
    (path,) = site.folder.rglob(f"{lost}.dcm")
    path.unlink()
    ended = site.run(job_id)
    assert (ended.status, ended.code) == (JobStatus.FAILED, "file-missing")
    assert lost in ended.message
    assert site.held(study_key) == set(site.uids(study_key)) - {lost}


def test_a_source_that_is_down_costs_an_attempt_and_says_nothing_against_the_archive(site, web, planned):
    study_key, job_id = planned(6, max_attempts=3)
    web.behave(ImageRudeness(status=503))

    ended = site.run(job_id)

    assert (ended.status, ended.code) == (JobStatus.RETRYING, "image-source-unavailable")
    assert site.job(job_id).attempts == 1
    destination_id = destinations.get(site.ledger, "vna").destination_id
    assert not destinations.health(site.ledger)[destination_id, DagKind.ARCHIVE].health.is_down
    assert site.sent() == []

    web.behave(ImageRudeness(times=0))
    assert site.run(job_id, try_number=2).status is JobStatus.SUCCEEDED
    assert site.has_all(study_key)


def test_a_source_that_stays_down_ends_the_job_after_its_attempts(site, web, planned):
    _, job_id = planned(2, max_attempts=2)
    web.behave(ImageRudeness(status=503))
    assert site.run(job_id).status is JobStatus.RETRYING
    ended = site.run(job_id, try_number=2)
    assert (ended.status, ended.code) == (JobStatus.FAILED, "image-source-unavailable")
    assert len(jobs.attempts(site.ledger, job_id)) == 2


def test_the_check_of_the_platform_looks_at_images_on_web_servers(site, web, planned):
    study_key, _ = planned(3)

    def findings():
        return {(r.column, r.message) for r in check_platform(site.platform) if r.level in (Level.ERROR, Level.WARNING)}

    assert findings() == set()
    lost = site.uids(study_key)[0]
    (path,) = site.folder.rglob(f"{lost}.dcm")
    path.unlink()
    ((column, message),) = findings()
    assert column == "location"
    assert message.startswith("1 of the 3 newest files can't be read from here")

    web.requests.clear()
    web.behave(ImageRudeness(status=503))
    ((column, message),) = findings()
    assert column == "location"
    assert "its source answered with HTTP status 503" in message
    assert len(web.requests) == 1, "where one can't be had, the others would only take as long"
