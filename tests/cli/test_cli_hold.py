"""``archsync hold``."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from archsync.core.job import JobStatus
from archsync.ledger import jobs, plan_queue
from archsync.platformdb.reader import Platform
from archsync.services import planner


@pytest.fixture
def uid(pacs, platform_dsn, run) -> str:
    """A completed study that is to go to vna1 at once."""
    key = pacs.add_volume(exam_status="Completed")
    run("destination", "create", "vna1", "--ae-title", "VNA1", "--host", "h", "--port", "104", "--settle-s", "0")
    with Platform.from_dsn(platform_dsn) as platform:
        return platform.fetch_studies([key]).studies[0].study_instance_uid


def test_a_study_is_held_back_listed_and_released_and_both_are_recorded(run, run_json, audit, ledger, uid) -> None:
    held = run("--actor", "grace", "hold", "add", uid, "--reason", " legal hold ").stdout
    assert held == f"Study {uid} is held back.\n"
    (row,) = run_json("hold", "list")
    assert (row["study_instance_uid"], row["held_by"], row["reason"]) == (uid, "grace", "legal hold")
    lines = run("hold", "list").stdout.splitlines()
    assert lines[0].split() == ["STUDY", "SINCE", "BY", "REASON"]
    assert lines[1].startswith(uid)
    assert run("hold", "remove", uid).stdout == f"Study {uid} is released.\n"
    assert run("hold", "list").stdout == "No study is held back here.\n"
    assert [entry[1:] for entry in audit()[-2:]] == [
        ("hold.add", f"study {uid}", "legal hold"),
        ("hold.remove", f"study {uid}", ""),
    ]
    assert plan_queue.take(ledger, 10), "it is looked at again"


def test_a_study_is_pushed_now_and_asked_for_once(run, run_json, audit, uid) -> None:
    assert run("--actor", "grace", "push", uid, "--destination", "vna1").stdout == "Job 1 brings it to vna1.\n"
    assert run_json("jobs", "show", "1")["requested_by"] == "grace"
    assert run("push", uid, "--destination", "vna1", "--missing-only").stdout == "Job 1 brings it to vna1.\n"
    assert ("grace", "study.push", f"study {uid}", "all: Job 1 brings it to vna1.") in audit()
    assert "there is no destination 'vna9'" in run("push", uid, "--destination", "vna9", status=2).stderr
    assert "no study" in run("push", "1.2.3", "--destination", "vna1", status=2).stderr


def test_what_is_held_back_waits_and_says_so(run, run_json, ledger, platform_dsn, uid) -> None:
    run("hold", "add", uid, "--reason", "legal hold")
    assert ", waits (hold) (due: " in run("plan", "--study", uid).stdout
    with Platform.from_dsn(platform_dsn) as platform:
        planner.observe(platform, ledger)
        planner.plan_queued(platform, ledger, now=datetime.now(UTC))
        shown = run_json("jobs", "show", "1")
        assert (shown["status"], shown["wait_reason"]) == ("waiting", "hold")
        run("hold", "remove", uid)
        planner.plan_queued(platform, ledger, now=datetime.now(UTC))
    assert jobs.get(ledger, 1).status is JobStatus.WAITING
    assert run_json("jobs", "show", "1")["wait_reason"] == "queue"


def test_holding_twice_keeps_the_first_and_releasing_what_is_not_held_says_so(run, run_json, uid) -> None:
    run("hold", "add", uid, "--reason", "first")
    assert "already; nothing was changed" in run("hold", "add", uid, "--reason", "second").stdout
    assert [row["reason"] for row in run_json("hold", "list")] == ["first"]
    run("hold", "remove", uid)
    assert "was not held back here; nothing was changed" in run("hold", "remove", uid).stdout


def test_a_hold_needs_a_reason_and_a_study_of_the_platform(run, uid) -> None:
    assert "reason: must not be empty; say why" in run("hold", "add", uid, "--reason", " ", status=2).stderr
    assert "Missing option '--reason'" in run("hold", "add", uid, status=2).stderr
    assert (
        "the platform has no study with Study Instance UID 1.2.3"
        in run("hold", "add", "1.2.3", "--reason", "x", status=2).stderr
    )
