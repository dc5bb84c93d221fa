"""``archsync plan``: a dry run."""

from __future__ import annotations

from datetime import UTC, datetime

import psycopg
import pytest

from archsync.ledger import destinations as store
from archsync.ledger import jobs
from archsync.services import planner


@pytest.fixture
def studies(pacs) -> list[str]:
    """Three studies of CITY, NORTH and SOUTH, the last one completed; gives their keys."""
    pacs.fill(2)
    return ["1", "2", pacs.add_volume(facility_id="SOUTH", exam_status="Completed")]


@pytest.fixture
def uids(studies, platform_dsn) -> list[str]:
    with psycopg.connect(platform_dsn) as connection:
        rows = connection.execute("select study_instance_uid from pacs.study order by study_key").fetchall()
    return [uid for (uid,) in rows]


@pytest.fixture
def two_archives(run, pacs) -> None:
    reached = ["--host", "h", "--port", "104", "--settle-s", "0"]
    run("destination", "create", "early", "--ae-title", "A", *reached, "--trigger-status", "Pending")
    run("destination", "create", "region", "--ae-title", "B", *reached, "--facility-groups", "region")


def test_the_plan_says_for_every_study_and_destination_what_and_why(run, uids, two_archives) -> None:
    lines = run("plan").stdout.splitlines()
    assert lines[0] == f"{uids[0]} (CITY, Pending)"
    assert lines[1].startswith("  early: send archive job: 1 image, ")
    assert lines[1].endswith("(due: 1 of 1 instances are missing)")
    assert lines[2] == "  region: nothing to store (out_of_scope: facility CITY is not in scope)"
    assert lines[5] == "  region: nothing to store (not_reached: exam status Pending has not reached Completed)"
    assert lines[6] == f"{uids[2]} (SOUTH, Completed)"
    assert lines[8].startswith("  region: send archive job: ")
    assert lines[-1].startswith("3 studies: 4 new jobs, 0 brought up to date, 0 closed; ")


def test_the_plan_changes_nothing_in_either_database(
    run, uids, two_archives, contents, ledger_dsn, platform_dsn
) -> None:
    before = contents(ledger_dsn), contents(platform_dsn)
    run("plan")
    run("plan", "--json")
    run("plan", "--study", uids[0])
    assert (contents(ledger_dsn), contents(platform_dsn)) == before


def test_planning_for_real_makes_the_jobs_that_the_plan_named(
    run_json, uids, two_archives, ledger, platform_dsn
) -> None:
    from archsync.platformdb.reader import Platform

    foretold = {
        (row["destination"], row["study_instance_uid"], row["job_type"], row["instances"], row["bytes"])
        for row in run_json("plan")
        if row["action"] == "send"
    }
    with Platform.from_dsn(platform_dsn) as platform:
        planner.observe(platform, ledger)
        planner.plan_queued(platform, ledger, now=datetime.now(UTC))
    made = [listed.job for listed in jobs.listing(ledger, jobs.JobFilter())]
    assert foretold == {
        (j.destination, j.study_instance_uid, j.job_type.value, j.instances_total, j.bytes_total) for j in made
    }
    assert {row["rule"] for row in run_json("plan")} == {"covered", "out_of_scope", "not_reached"}


def test_the_plan_of_one_study_and_one_destination_as_json(run_json, uids, studies, two_archives) -> None:
    (row,) = run_json("plan", "--study", uids[2], "--destination", "region")
    assert row["study_key"] == studies[2]
    assert row["job_type"] == "archive"
    assert row["wait_reason"] is None
    assert datetime.fromisoformat(row["not_before"]).utcoffset() is not None


def test_a_study_is_found_by_its_accession_number_which_is_not_repeated(
    run, run_json, uids, two_archives, platform_dsn
):
    with psycopg.connect(platform_dsn) as connection:
        ((accession,),) = connection.execute(
            "select accession_number from pacs.study where study_instance_uid = %s", [uids[1]]
        ).fetchall()
    rows = run_json("plan", "--accession", accession)
    assert {row["study_instance_uid"] for row in rows} == {uids[1]}
    assert accession not in run("plan", "--accession", accession).stdout


def test_a_disabled_destination_and_one_that_is_settling_say_that_their_job_would_wait(run, uids, two_archives) -> None:
    run("destination", "disable", "early")
    run("destination", "set", "region", "settle_s=30")
    output = run("plan", "--study", uids[2]).stdout
    assert ", waits (disabled) (due: " in output
    assert ", waits (settling) until 20" in output


def test_an_unknown_study_or_destination_is_refused(run, two_archives) -> None:
    assert "the platform has no such study" in run("plan", "--study", "1.2.3", status=2).stderr
    assert "there is no destination 'x'" in run("plan", "--destination", "x", status=2).stderr


def test_a_study_that_breaks_the_contract_is_named_and_the_others_are_planned(
    run, run_json, uids, studies, two_archives, platform_dsn
) -> None:
    with psycopg.connect(platform_dsn) as connection:
        connection.execute("alter table pacs.instance disable trigger user")
        connection.execute("update pacs.instance set sop_instance_uid = 'not a uid' where study_key = 1")
    output = run("plan").stdout
    assert f"study_key {studies[0]} can't be read: " in output
    assert "3 studies: 3 new jobs" in output
    assert output.endswith("1 study can't be read; `archsync platform check` says more.\n")
    rows = run_json("plan")
    assert [row["rule"] for row in rows if row["study_key"] == studies[0]] == ["unreadable"]


def test_without_destinations_nothing_would_be_sent(run, run_json, studies, ledger) -> None:
    assert store.all_destinations(ledger) == []
    assert run_json("plan") == []
    assert run("plan").stdout == "There is no destination: nothing would be sent.\n"


def test_no_output_names_a_patient(run, uids, two_archives, platform_dsn) -> None:
    with psycopg.connect(platform_dsn) as connection:
        patients = connection.execute("select name, patient_id from pacs.patient").fetchall()
    output = run("plan").stdout + run("plan", "--json").stdout
    assert patients
    for name, patient_id in patients:
        assert name not in output
        assert f'"{patient_id}"' not in output
