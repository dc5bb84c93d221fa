"""Retry, cancel and move to the front over HTTP: of some jobs, and of all that a filter matches."""

from __future__ import annotations

import pytest

from archsync.core.job import JobStatus
from archsync.ledger import jobs
from archsync.services import job_actions

API = "/archsync/api/v1"


@pytest.fixture
def act(client_of):
    """Sends an action as a role, ``user`` unless told, and gives what came of it."""

    def send(role: str = "user", status: int = 200, **asked):
        answer = client_of(role).post(f"{API}/jobs/actions", json=asked)
        assert answer.status_code == status, answer.text
        return answer.json()

    return send


@pytest.fixture
def failed(add_destination, add_job) -> list[int]:
    """Three failed jobs at vna1."""
    add_destination("vna1")
    return [add_job(status="failed") for _ in range(3)]


def status(ledger, job_id: int) -> JobStatus:
    return jobs.get(ledger, job_id).status


def audit(ledger) -> list[tuple[str, str, str]]:
    rows = ledger.fetch_all("select actor, action, subject from audit_event order by audit_event_id")
    return [(row["actor"], row["action"], row["subject"]) for row in rows]


def test_a_failed_job_is_retried_and_the_audit_names_who_did_it(act, failed, ledger):
    told = act(action="retry", job_ids=failed[:1])

    assert (told["done"], told["skipped"], told["remaining"]) == (1, [], 0)
    assert [status(ledger, i) for i in failed] == [JobStatus.WAITING, JobStatus.FAILED, JobStatus.FAILED]
    assert audit(ledger) == [("user", "job.retry", f"job {failed[0]}")]


def test_retrying_twice_does_nothing_twice_and_says_why(act, failed, ledger):
    act(action="retry", job_ids=failed)
    told = act(action="retry", job_ids=failed)

    assert told["done"] == 0
    assert {(s["job_id"], s["code"]) for s in told["skipped"]} == {(i, "not-retryable") for i in failed}
    assert len(audit(ledger)) == 3


def test_one_that_can_not_be_retried_does_not_keep_back_the_others(act, failed, ledger, add_job):
    waiting = add_job()
    told = act(action="retry", job_ids=[waiting, *failed, 999_999])

    assert told["done"] == 3
    assert [(s["job_id"], s["code"]) for s in told["skipped"]] == [
        (waiting, "not-retryable"),
        (999_999, "unknown-job"),
    ]


def test_a_viewer_may_not_act(act, failed, ledger):
    assert act("viewer", 403, action="retry", job_ids=failed)["code"] == "no-right"
    assert {status(ledger, i) for i in failed} == {JobStatus.FAILED}


def test_a_cancellation_needs_a_reason_and_keeps_it(act, failed, ledger):
    refused = act(status=422, action="cancel", job_ids=failed, reason="  ")
    assert refused["fields"] == {"reason": "must not be empty; say why"}

    act(action="cancel", job_ids=failed[:1], reason="sent by hand")
    job = jobs.get(ledger, failed[0])
    assert (job.status, job.reason, job.decided_by) == (JobStatus.CANCELLED, "Cancelled: sent by hand", "user")


def test_all_that_a_filter_matches_is_counted_first_and_then_retried(act, failed, ledger, add_job, add_destination):
    add_destination("vna2")
    other = add_job("vna2", status="failed")
    wanted = {"destination": ["vna1"], "status": ["failed"]}
    assert act(action="retry", filter=wanted, dry_run=True)["matching"] == 3
    assert audit(ledger) == []

    told = act(action="retry", filter=wanted, expected=3)

    assert (told["done"], told["remaining"], told["next_cursor"]) == (3, 0, None)
    assert {status(ledger, i) for i in failed} == {JobStatus.WAITING}
    assert status(ledger, other) is JobStatus.FAILED


def test_more_than_was_confirmed_is_refused(act, failed, ledger):
    refused = act(status=409, action="retry", filter={"destination": ["vna1"]}, expected=2)

    assert refused["code"] == "more-than-expected"
    assert {status(ledger, i) for i in failed} == {JobStatus.FAILED}


def test_a_filter_without_status_retries_failed_jobs_and_leaves_cancelled_ones(act, failed, ledger, add_job):
    cancelled = add_job(status="cancelled")

    assert act(action="retry", filter={})["done"] == 3
    assert status(ledger, cancelled) is JobStatus.CANCELLED
    assert act(action="retry", filter={"status": ["cancelled"]})["done"] == 1


def test_a_filter_with_statuses_that_the_action_does_not_fit_matches_nothing(act, failed):
    assert act(action="retry", filter={"status": ["succeeded"]}, dry_run=True)["matching"] == 0
    assert act(action="retry", filter={"status": ["succeeded"]})["done"] == 0


def test_many_are_done_batch_by_batch_though_some_are_skipped(act, failed, ledger, add_job, monkeypatch):
    monkeypatch.setattr(job_actions, "BATCH_JOBS", 2)
    # An open job on the same study has taken this one's work over: it is refused, and still matches.
    heir = add_job(study_key="taken")
    stuck = [add_job(study_key="taken", status="cancelled") for _ in range(3)]
    wanted = {"status": ["failed", "cancelled"]}

    done, skipped, cursor = 0, [], None
    for _ in range(10):
        told = act(action="retry", filter=wanted, **({"cursor": cursor} if cursor else {}))
        done += told["done"]
        skipped += [s["job_id"] for s in told["skipped"]]
        cursor = told["next_cursor"]
        assert (cursor is None) == (told["remaining"] == 0)
        if cursor is None:
            break

    assert (done, sorted(skipped)) == (3, stuck)
    assert status(ledger, heir) is JobStatus.WAITING


def test_a_dag_that_the_user_may_not_change_keeps_its_jobs(act, failed, ledger, add_job, add_destination, monkeypatch):
    """The answer of an auth manager with rights for each DAG, as FAB's is; the simple one has none."""
    from airflow.api_fastapi.auth.managers.simple.simple_auth_manager import SimpleAuthManager

    add_destination("vna2")
    other = add_job("vna2", status="failed")
    ask = SimpleAuthManager.is_authorized_dag

    def only_vna2(self, *, method, user, access_entity=None, details=None):
        may = ask(self, method=method, user=user, access_entity=access_entity, details=details)
        return may and (details is None or details.id != "archsync_archive__vna1")

    monkeypatch.setattr(SimpleAuthManager, "is_authorized_dag", only_vna2)
    told = act(action="retry", filter={"status": ["failed"]})

    assert told["done"] == 1
    assert status(ledger, other) is JobStatus.WAITING
    assert {s["code"] for s in told["skipped"]} == {"no-right"}
    assert {status(ledger, i) for i in failed} == {JobStatus.FAILED}


def test_a_waiting_job_moves_to_the_front_and_says_so(act, ledger, add_job, add_destination, admin):
    add_destination("vna1")
    first, second = add_job(), add_job()

    assert act(action="front", job_ids=[second])["done"] == 1
    act(action="front", job_ids=[second])

    shown = {i["job_id"]: i["is_in_front"] for i in admin.get(f"{API}/jobs").json()["items"]}
    assert shown == {first: False, second: True}
    assert audit(ledger) == [("user", "job.front", f"job {second}")]


@pytest.mark.parametrize(
    "asked",
    [
        {"action": "retry"},
        {"action": "retry", "job_ids": [1], "filter": {}},
        {"action": "retry", "job_ids": []},
        {"action": "retry", "job_ids": [0]},
        {"action": "retry", "job_ids": list(range(1, 1002))},
        {"action": "explode", "job_ids": [1]},
        {"action": "retry", "filter": {"colour": "red"}},
    ],
)
def test_a_request_that_is_not_clear_changes_nothing(act, asked, failed, ledger):
    assert act(status=422, **asked)["code"] == "bad-request"
    assert audit(ledger) == []


def test_the_patient_of_a_message_is_shown_to_who_may_see_patients_and_the_audit_tells(
    client_of, ledger, add_destination, add_job
):
    add_destination("vna1", adt_host="127.0.0.1", adt_receiving_application="VNA")
    job_id = add_job(job_type="adt", adt_change="demographics")
    ledger.execute(
        "insert into adt_message (job_id, trigger_event, control_id, encoded, patient_key, patient_id, name)"
        " values (%s, 'A08', 'C1', %s, 'p1', 'MRN1', 'Doe^Jane')",
        [job_id, b"MSH|^~\\&|A|B|C|D|20260504||ADT^A08|C1|P|2.5.1\rPID|1||MRN1^^^CITY||Doe^Jane\r"],
    )
    masked = client_of("viewer").get(f"{API}/jobs/{job_id}").text
    assert "Doe" not in masked
    assert "MRN1" not in masked
    for role in ("viewer", "user"):
        assert client_of(role).post(f"{API}/jobs/{job_id}/message", json={"phi": True}).status_code == 403
    assert client_of("op").post(f"{API}/jobs/{job_id}/message", json={}).status_code == 422
    assert audit(ledger) == []

    (message,) = client_of("op").post(f"{API}/jobs/{job_id}/message", json={"phi": True}).json()["messages"]

    assert "Doe^Jane" in message["text"]
    assert audit(ledger) == [("op", "job.show-phi", f"job {job_id}")]
