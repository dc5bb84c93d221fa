"""Jobs over HTTP: listing, filtering, counting, looking, exporting, finding."""

from __future__ import annotations

import csv
import io
from datetime import UTC, datetime, timedelta

import psycopg
import pytest

from archsync.core.job import JobStatus, JobType
from archsync.ledger import jobs

API = "/archsync/api/v1"


def ids(answer) -> list[int]:
    assert answer.status_code == 200, answer.text
    return [item["job_id"] for item in answer.json()["items"]]


@pytest.fixture
def three(add_destination, add_job) -> list[int]:
    """A failed job at vna1, a waiting one at vna2, a succeeded one at vna1; oldest first."""
    add_destination("vna1")
    add_destination("vna2")
    return [
        add_job("vna1", status="failed", reason="The archive refused it.", reason_code="refused-permanently"),
        add_job("vna2", facility_id="SOUTH"),
        add_job("vna1", status="succeeded"),
    ]


def test_jobs_are_listed_newest_first_with_what_an_administrator_wants_to_know(admin, three):
    items = admin.get(f"{API}/jobs").json()["items"]

    assert [item["job_id"] for item in items] == three[::-1]
    failed = items[-1]
    assert failed["type"] == "archive"
    assert failed["status"] == "failed"
    assert failed["about"].startswith("3 images of study ")
    assert failed["reason"] == "The archive refused it."
    assert failed["troubleshooting_url"] == "/archsync/docs/troubleshooting#refused-permanently"
    assert failed["can"] == {"retry": True, "cancel": True, "front": False}
    waiting = items[1]
    assert (waiting["wait_reason"], waiting["reason"]) == (
        "queue",
        "Its turn has not come; the destination works on other jobs.",
    )


def test_filters_narrow_the_list_and_several_values_of_one_mean_any(admin, three):
    failed, waiting, succeeded = three

    def listed(query: str) -> list[int]:
        return ids(admin.get(f"{API}/jobs?{query}"))

    assert listed("status=failed") == [failed]
    assert listed("status=failed&status=waiting") == [waiting, failed]
    assert listed("destination=vna1") == [succeeded, failed]
    assert listed("destination=vna1&status=failed&type=archive") == [failed]
    assert listed("facility=SOUTH") == [waiting]
    assert listed("facility=SOUTH&destination=vna1") == []
    assert listed("type=kos") == []
    assert listed(f"job={waiting}") == [waiting]
    assert listed(f"job={waiting}&status=failed") == []
    assert listed("since=1h") == three[::-1]
    assert listed("until=1h") == []
    assert listed("gateway=nowhere") == []


def test_a_study_lists_its_jobs(admin, three, ledger):
    uid = jobs.get(ledger, three[1]).study_instance_uid

    assert ids(admin.get(f"{API}/jobs", params={"study": uid})) == [three[1]]


@pytest.mark.parametrize("query", ["", "destination=vna1&destination=vna2", "facility=CITY", "status=waiting"])
def test_pages_follow_each_other_without_gap_or_repetition(admin, add_destination, add_job, ledger, query):
    add_destination("vna1")
    add_destination("vna2")
    made = [add_job(f"vna{1 + n % 2}", facility_id="CITY") for n in range(7)]
    # Made in one transaction, as planning does: all at the same moment.
    ledger.execute("update job set created_at = '2026-05-04T10:00Z' where job_id = any(%s)", [made[2:6]])
    expected = ids(admin.get(f"{API}/jobs?{query}"))
    assert sorted(expected) == made

    seen: list[int] = []
    cursor = ""
    while True:
        page = admin.get(f"{API}/jobs?{query}&limit=2{cursor}").json()
        seen += [item["job_id"] for item in page["items"]]
        if page["next_cursor"] is None:
            break
        cursor = f"&cursor={page['next_cursor']}"
    assert seen == expected


def test_an_unchanged_page_is_answered_with_304_until_something_changes(admin, three, ledger):
    first = admin.get(f"{API}/jobs")
    again = admin.get(f"{API}/jobs", headers={"If-None-Match": first.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")

    jobs.move(ledger, three[0], JobStatus.CANCELLED, reason="Cancelled: enough", decided_by="me")

    changed = admin.get(f"{API}/jobs", headers={"If-None-Match": first.headers["etag"]})
    assert changed.status_code == 200
    assert changed.headers["etag"] != first.headers["etag"]


def test_counts_are_of_all_statuses_whatever_status_is_filtered_by(admin, three):
    counted = admin.get(f"{API}/jobs/counts?status=failed").json()

    assert counted["capped_at"] == 1000
    assert set(counted["counts"]) == {s.value for s in JobStatus}
    assert {s: n for s, n in counted["counts"].items() if n} == {"failed": 1, "waiting": 1, "succeeded": 1}
    at_vna2 = admin.get(f"{API}/jobs/counts?destination=vna2").json()["counts"]
    assert {s: n for s, n in at_vna2.items() if n} == {"waiting": 1}
    south = admin.get(f"{API}/jobs/counts?facility=SOUTH&destination=vna2&destination=vna1").json()["counts"]
    assert {s: n for s, n in south.items() if n} == {"waiting": 1}


def test_a_job_shows_its_attempts_with_peer_answer_and_links_to_its_log(admin, three, ledger):
    job_id = three[1]
    attempt = jobs.begin_attempt(
        ledger, job_id, dag_id="archsync_archive__vna2", run_id="run +1", try_number=3, peer="VNA2 at 127.0.0.1:9"
    )
    jobs.finish_attempt(ledger, attempt, outcome=JobStatus.FAILED, reason_code="out-of-resources", status_code="A700")

    job = admin.get(f"{API}/jobs/{job_id}").json()

    (tried,) = job["attempt_list"]
    assert (tried["try_number"], tried["peer"], tried["status_code"]) == (3, "VNA2 at 127.0.0.1:9", "A700")
    assert "resources" in tried["comment"].lower() or "room" in tried["comment"].lower()
    assert tried["logs_url"] == "/dags/archsync_archive__vna2/runs/run%20%2B1/tasks/archive?try_number=3"
    assert job["run_url"] == "/dags/archsync_archive__vna2/runs/run%20%2B1"


def test_a_job_names_what_it_waits_for_and_what_waits_for_it(admin, add_destination, add_job):
    add_destination("vna1")
    first = add_job("vna1", study_key="s1", status="failed")
    second = add_job("vna1", study_key="s1", job_type="kos")

    shown = admin.get(f"{API}/jobs/{second}").json()
    assert (shown["blocked_by"], shown["blocker"]["job_id"], shown["wait_reason"]) == (first, first, "lane")
    assert [job["job_id"] for job in admin.get(f"{API}/jobs/{first}").json()["blocks"]] == [second]


def test_a_change_shows_its_steps_and_a_step_its_change(admin, add_destination, add_job):
    add_destination("vna1")
    change = add_job("vna1", job_type="iocm")
    step = add_job("vna1", job_type="kos", parent_job_id=change)

    assert [job["job_id"] for job in admin.get(f"{API}/jobs/{change}").json()["steps"]] == [step]
    assert admin.get(f"{API}/jobs/{step}").json()["parent"]["job_id"] == change


def test_the_job_of_an_airflow_run_is_found(admin, three, ledger):
    jobs.begin_attempt(ledger, three[1], dag_id="archsync_archive__vna2", run_id="run1", try_number=1)
    run = {"dag_id": "archsync_archive__vna2", "run_id": "run1"}

    assert admin.get(f"{API}/jobs/by-run", params=run).json()["job_id"] == three[1]
    unknown = admin.get(f"{API}/jobs/by-run", params={**run, "run_id": "other"})
    assert (unknown.status_code, unknown.json()["code"]) == (404, "unknown-job")


def test_a_job_that_is_not_there_is_a_problem_with_a_code(admin, ledger):
    answer = admin.get(f"{API}/jobs/4711")

    assert (answer.status_code, answer.headers["content-type"]) == (404, "application/problem+json")
    assert answer.json()["code"] == "unknown-job"
    assert answer.json()["detail"] == "there is no job 4711"


@pytest.mark.parametrize(
    ("query", "field"),
    [("status=lost", "status.0"), ("since=yesterday", "since"), ("colour=red", "colour"), ("limit=0", "limit")],
)
def test_a_filter_that_is_not_understood_names_the_field(admin, ledger, query, field):
    answer = admin.get(f"{API}/jobs?{query}")

    assert answer.status_code == 422
    assert list(answer.json()["fields"]) == [field]


def test_a_cursor_of_somebody_elses_making_is_refused(admin, ledger):
    for cursor in ("x", "e30", "WyIyMDI2IiwgMV0"):
        answer = admin.get(f"{API}/jobs?cursor={cursor}")
        assert (answer.status_code, answer.json()["code"]) == (422, "bad-cursor")


def test_the_filtered_list_is_exported_as_csv_whatever_its_length(admin, add_destination, add_job):
    add_destination("vna1")
    made = [add_job("vna1") for _ in range(205)]
    failed = add_job("vna1", status="failed", reason='It said "no", twice')

    text = admin.get(f"{API}/jobs.csv").text
    rows = list(csv.DictReader(io.StringIO(text)))
    assert [int(row["job_id"]) for row in rows] == [failed, *reversed(made)]
    assert rows[0]["reason"] == 'It said "no", twice'
    only_failed = admin.get(f"{API}/jobs.csv?status=failed")
    assert len(only_failed.text.splitlines()) == 2
    assert only_failed.headers["content-type"].startswith("text/csv")


def test_instances_of_a_job_are_those_of_its_study_with_what_became_of_them(admin, pacs, add_destination, planned):
    add_destination("vna1")
    job_id = planned()
    page = admin.get(f"{API}/jobs/{job_id}/instances?limit=1").json()

    assert (page["total"], page["is_complete"]) == (2, True)
    assert page["items"][0]["status"] == "waiting"
    rest = admin.get(f"{API}/jobs/{job_id}/instances?cursor={page['next_cursor']}").json()
    assert (len(rest["items"]), rest["next_cursor"]) == (1, None)
    assert rest["items"][0]["sop_instance_uid"] > page["items"][0]["sop_instance_uid"]


def test_a_number_or_a_study_uid_or_an_accession_number_finds_jobs_and_studies(
    admin, platform_connection, add_destination, planned
):
    add_destination("vna1")
    job_id = planned()
    with psycopg.connect(platform_connection) as connection:
        connection.execute("update pacs.study set accession_number = 'ACC-1'")

    def find(text: str):
        answer = admin.post(f"{API}/search", json={"text": text})
        assert answer.status_code == 200, answer.text
        return answer.json()

    uid = admin.get(f"{API}/jobs/{job_id}").json()["study_instance_uid"]
    assert find(str(job_id))["jobs"] == [job_id]
    assert [s["study_instance_uid"] for s in find(uid)["studies"]] == [uid]
    found = find("ACC-1")
    assert [s["study_instance_uid"] for s in found["studies"]] == [uid]
    assert "ACC-1" not in str(found)
    assert find("nothing like it") == {"jobs": [], "studies": [], "is_complete": True}


def test_while_the_platform_is_away_the_search_says_so_and_finds_what_the_ledger_knows(admin, three, monkeypatch):
    monkeypatch.setenv("AIRFLOW_CONN_ARCHSYNC_PLATFORM", "postgres://nobody@127.0.0.1:1/none")

    found = admin.post(f"{API}/search", json={"text": str(three[0])}).json()
    assert (found["jobs"], found["is_complete"]) == ([three[0]], False)
    filters = admin.get(f"{API}/filters").json()
    assert [f["value"] for f in filters["facilities"]] == ["CITY", "SOUTH"]


def test_the_filter_bar_offers_what_there_is(admin, pacs, add_destination):
    add_destination("vna1", enabled=False)

    offered = admin.get(f"{API}/filters").json()

    assert [t["value"] for t in offered["types"]] == [t.value for t in JobType]
    assert [s["value"] for s in offered["statuses"]] == [s.value for s in JobStatus]
    assert offered["destinations"] == [{"name": "vna1", "label": "vna1", "enabled": False}]
    assert {f["value"] for f in offered["facilities"]} == {"CITY", "NORTH", "SOUTH"}


def test_a_ledger_that_is_away_is_a_503_with_what_to_do(admin, monkeypatch):
    monkeypatch.setenv("AIRFLOW_CONN_ARCHSYNC_LEDGER", "postgres://nobody@127.0.0.1:1/none")

    answer = admin.get(f"{API}/jobs")

    assert (answer.status_code, answer.json()["code"]) == (503, "ledger-unavailable")
    assert answer.json()["next_step"]


def test_a_ledger_connection_that_is_not_defined_is_a_503_too(admin, monkeypatch):
    monkeypatch.delenv("AIRFLOW_CONN_ARCHSYNC_LEDGER")

    answer = admin.get(f"{API}/jobs")

    assert (answer.status_code, answer.json()["code"]) == (503, "connection-missing")


def test_moments_are_utc_and_lie_where_they_should(admin, three):
    made_at = datetime.fromisoformat(admin.get(f"{API}/jobs").json()["items"][0]["created_at"])

    assert made_at.utcoffset() == timedelta(0)
    assert abs(datetime.now(UTC) - made_at) < timedelta(minutes=5)
