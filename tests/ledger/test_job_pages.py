"""Pages of jobs: whatever the filter, what comes out is what a plain query says, in its order, page by page."""

from __future__ import annotations

import random
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from archsync.core.destination import Destination
from archsync.core.job import JobStatus, JobType
from archsync.ledger import destinations, job_pages
from archsync.ledger.destinations import Gateway
from archsync.ledger.job_pages import JobFilter

NOON = datetime(2026, 5, 4, 12, tzinfo=UTC)
NAMES = ["vna1", "vna2", "vna3"]
GATEWAYS = ["north", "south"]
FACILITIES = ["CITY", "NORTH", None]


@pytest.fixture
def crowd(ledger):
    """Three hundred jobs of all kinds, many made at the same moment, behind two gateways."""
    dice = random.Random(7)
    for name in GATEWAYS:
        destinations.insert_gateway(ledger, Gateway(name, "all", name))
    for name, gateway in zip(NAMES, [*GATEWAYS, None], strict=True):
        destinations.insert(
            ledger, Destination(name=name, called_ae_title=name.upper(), host="h", port=104, gateway=gateway)
        )
    done = [s for s in JobStatus if s not in (JobStatus.WAITING, JobStatus.READY)]
    for number in range(300):
        ledger.execute(
            "insert into job (job_type, status, destination_id, priority, patient_key, study_key, study_instance_uid,"
            " facility_id, created_at) select %s, %s, destination_id, 2, 'p', %s, %s, %s, %s from destination"
            " where name = %s",
            [
                dice.choice(list(JobType)).value,
                dice.choice(done).value if number % 3 else dice.choice(list(JobStatus)).value,
                f"s{number}",
                f"1.2.{number // 4}",
                dice.choice(FACILITIES),
                NOON + timedelta(minutes=dice.randrange(40)),
                dice.choice(NAMES),
            ],
        )
    return ledger


def random_filter(dice: random.Random) -> JobFilter:
    """A filter that names each thing or not."""

    def some(values, most: int) -> list:
        return dice.sample(list(values), dice.randint(0, most)) if dice.random() < 0.5 else []

    moments = sorted(NOON + timedelta(minutes=dice.randrange(40)) for _ in range(2))
    return JobFilter(
        job_types=some(JobType, 3),
        statuses=some(JobStatus, 4),
        destinations=some(NAMES, 2),
        gateways=some(GATEWAYS, 2),
        facilities=some(["CITY", "NORTH", "NOWHERE"], 2),
        since=moments[0] if dice.random() < 0.3 else None,
        until=moments[1] if dice.random() < 0.3 else None,
        study_instance_uid=f"1.2.{dice.randrange(80)}" if dice.random() < 0.2 else None,
        job_ids=dice.sample(range(1, 320), 60) if dice.random() < 0.2 else [],
        limit=dice.choice([1, 7, 50]),
    )


def plainly(ledger, wanted: JobFilter) -> list[tuple[int, str]]:
    """Number and status of the jobs that match, newest first, by one query that reads every job."""
    rows = ledger.fetch_all(
        "select j.job_id, j.status from job j join destination d using (destination_id)"
        " where (%(types)s::text[] = '{}' or job_type = any(%(types)s))"
        " and (%(statuses)s::text[] = '{}' or j.status = any(%(statuses)s))"
        " and (%(names)s::text[] = '{}' or d.name = any(%(names)s))"
        " and (%(gateways)s::text[] = '{}' or d.gateway = any(%(gateways)s))"
        " and (%(facilities)s::text[] = '{}' or facility_id = any(%(facilities)s))"
        " and (%(job_ids)s::bigint[] = '{}' or job_id = any(%(job_ids)s))"
        " and (%(study)s::text is null or study_instance_uid = %(study)s)"
        " and (%(since)s::timestamptz is null or j.created_at >= %(since)s)"
        " and (%(until)s::timestamptz is null or j.created_at < %(until)s)"
        " order by j.created_at desc, job_id desc",
        {
            "types": [t.value for t in wanted.job_types],
            "statuses": [s.value for s in wanted.statuses],
            "names": list(wanted.destinations),
            "gateways": list(wanted.gateways),
            "facilities": list(wanted.facilities),
            "job_ids": list(wanted.job_ids),
            "study": wanted.study_instance_uid,
            "since": wanted.since,
            "until": wanted.until,
        },
    )
    return [(row["job_id"], row["status"]) for row in rows]


def test_every_filter_finds_page_by_page_what_a_plain_query_finds(crowd):
    dice = random.Random(11)
    lengths = []
    for _ in range(150):
        wanted = random_filter(dice)
        expected = [job_id for job_id, _ in plainly(crowd, wanted)]
        found: list[int] = []
        while page := job_pages.find(crowd, wanted):
            found += page
            made = crowd.fetch_one("select created_at from job where job_id = %s", [page[-1]])
            wanted = replace(wanted, before=(made["created_at"], page[-1]))
        assert found == expected, wanted
        lengths.append(len(expected))
    assert max(lengths) > 100
    assert 0 in lengths


def test_every_count_is_that_of_a_plain_query_up_to_the_cap(crowd):
    dice = random.Random(12)
    for _ in range(150):
        wanted = random_filter(dice)
        statuses = [status for _, status in plainly(crowd, wanted)]
        asked = wanted.statuses or list(JobStatus)
        assert job_pages.count(crowd, wanted, cap=5) == {s: min(5, statuses.count(s)) for s in asked}, wanted


def test_a_page_before_a_job_by_number_goes_on_where_that_job_stands(crowd):
    everything = job_pages.find(crowd, JobFilter(limit=1000))

    for place in (0, 57, len(everything) - 1):
        assert job_pages.find(crowd, JobFilter(before_job_id=everything[place], limit=1000)) == everything[place + 1 :]
    assert job_pages.find(crowd, JobFilter(before_job_id=0)) == []


def test_the_facilities_are_those_that_jobs_are_of(crowd):
    assert job_pages.facilities(crowd) == ["CITY", "NORTH"]
