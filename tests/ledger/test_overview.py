"""Counts and rates over all jobs: right, capped, and answered by indexes however many jobs there are."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta

import pytest

from archsync.core.job import JobStatus, JobType
from archsync.ledger import destinations, overview

NOW = datetime(2026, 5, 4, 12, 30, tzinfo=UTC)


@pytest.fixture
def add_jobs(sql):
    """Makes n jobs of one kind at a destination, all made and, if so, ended at the same moment."""

    def add(destination, n: int, job_type="archive", status="waiting", *, made_at=NOW, ended_at=None, first: int = 0):
        sql(
            "insert into job (job_type, status, destination_id, priority, patient_key, study_key, created_at,"
            " finished_at) select %s, %s, %s, 2, 'p' || n, 's' || n, %s, %s from generate_series(%s::int, %s) n",
            job_type,
            status,
            destination.destination_id,
            made_at,
            ended_at,
            first,
            first + n - 1,
        )

    return add


def test_jobs_are_counted_per_destination_type_and_status_with_the_oldest(ledger, add_destination, add_jobs):
    vna, cloud = add_destination("vna"), add_destination("cloud")
    add_destination("idle")
    add_jobs(vna, 3)
    add_jobs(vna, 1, made_at=NOW - timedelta(hours=3), first=10)
    add_jobs(vna, 2, status="failed", first=20)
    add_jobs(cloud, 1, "adt", "succeeded", ended_at=NOW)
    found = {(c.destination, c.job_type, c.status): (c.jobs, c.oldest_at) for c in overview.counts(ledger)}
    assert found == {
        ("vna", JobType.ARCHIVE, JobStatus.WAITING): (4, NOW - timedelta(hours=3)),
        ("vna", JobType.ARCHIVE, JobStatus.FAILED): (2, NOW),
        ("cloud", JobType.ADT, JobStatus.SUCCEEDED): (1, NOW),
    }
    assert [c.status for c in overview.counts(ledger, [JobStatus.FAILED])] == [JobStatus.FAILED]
    assert overview.answered(ledger) == {(cloud.destination_id, JobType.ADT)}


def test_a_backlog_is_counted_up_to_a_bound(ledger, destination, add_jobs, monkeypatch):
    monkeypatch.setattr(overview, "MOST", 5)
    add_jobs(destination, 6)
    assert [c.jobs for c in overview.counts(ledger)] == [5]


def test_what_ended_is_told_by_the_hour_and_by_destination(ledger, sql, add_destination, add_jobs):
    vna, cloud = add_destination("vna"), add_destination("cloud")
    hour = NOW.replace(minute=0)
    add_jobs(vna, 2, status="succeeded", made_at=NOW - timedelta(hours=2), ended_at=NOW)
    add_jobs(vna, 1, status="failed", made_at=NOW, ended_at=NOW - timedelta(hours=1), first=10)
    add_jobs(cloud, 1, status="succeeded", made_at=NOW - timedelta(days=9), ended_at=NOW - timedelta(days=8), first=20)
    since = NOW - timedelta(days=2)
    assert overview.finished_per_hour(ledger, since) == {
        (hour, JobStatus.SUCCEEDED): 2,
        (hour - timedelta(hours=1), JobStatus.FAILED): 1,
    }
    assert overview.made_per_hour(ledger, since) == {hour: 1, hour - timedelta(hours=2): 2}
    sql(
        "insert into job_attempt (job_id, dag_id, run_id, try_number, finished_at, instances_done, bytes_done)"
        " select job_id, 'd', 'r', 1, finished_at, 7, 70 from job where destination_id = %s",
        vna.destination_id,
    )
    assert overview.throughput(ledger, since) == {
        vna.destination_id: overview.Throughput(succeeded=2, failed=1, instances=21, size_bytes=210)
    }
    assert overview.throughput(ledger, NOW - timedelta(minutes=5))[vna.destination_id].instances == 14


def test_what_a_destination_holds_is_counted_until_it_is_estimated(ledger, sql, add_destination):
    vna, cloud = add_destination("vna").destination_id, add_destination("cloud").destination_id
    sql("insert into held_instance (destination_id, placement_id) select %s, generate_series(1, 30)", vna)
    assert overview.holding(ledger) == {vna: overview.Holding(30), cloud: overview.Holding(0)}
    sql(f"analyze held_instance_{vna}")
    assert overview.holding(ledger) == {vna: overview.Holding(30, is_estimate=True), cloud: overview.Holding(0)}


def test_use_tells_jobs_of_every_type_and_status(ledger, add_destination, add_jobs):
    vna, cloud = add_destination("vna"), add_destination("cloud")
    add_jobs(vna, 1, "adt", "suppressed", ended_at=NOW)
    assert destinations.use(ledger, vna.destination_id).has_jobs
    assert not destinations.use(ledger, cloud.destination_id).has_jobs


@pytest.mark.parametrize(
    ("module", "statement", "parameters"),
    [
        (overview, "counts", {"job_types": ["archive"], "statuses": ["waiting", "failed"], "most": 10_000}),
        (overview, "answered", {"job_types": ["archive", "adt"]}),
        (overview, "finished_since", {"since": NOW - timedelta(hours=1)}),
        (overview, "sent_since", {"since": NOW - timedelta(hours=1)}),
        (overview, "sending", {}),
        (overview, "finished_per_hour", {"since": NOW - timedelta(days=2)}),
        (overview, "made_per_hour", {"since": NOW - timedelta(days=2)}),
        (destinations, "use", {"destination_id": 99, "job_types": ["archive"], "statuses": ["waiting", "failed"]}),
    ],
)
def test_no_question_reads_all_jobs(ledger, sql, destination, add_jobs, module, statement, parameters):
    add_jobs(destination, 20_000, status="succeeded", made_at=NOW - timedelta(days=9), ended_at=NOW - timedelta(days=9))
    add_jobs(destination, 50, first=30_000)
    sql(
        "insert into job_attempt (job_id, dag_id, run_id, try_number, finished_at, instances_done, bytes_done)"
        " select job_id, 'd', 'r', 1, finished_at, 7, 70 from job where finished_at is not null"
    )
    sql("analyze job, job_attempt")
    row = ledger.fetch_one(f"explain (format json) {module.SQL[statement]}", parameters)
    plan = row["QUERY PLAN"]
    found = []

    def walk(node: dict) -> None:
        found.append((node["Node Type"], node.get("Relation Name")))
        for child in node.get("Plans", []):
            walk(child)

    walk((json.loads(plan) if isinstance(plan, str) else plan)[0]["Plan"])
    assert not {("Seq Scan", "job"), ("Seq Scan", "job_attempt")} & set(found), found
