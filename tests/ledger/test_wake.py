"""When the dispatcher is woken, and by what: the questions the trigger asks, and the notifications."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from threading import Thread

import psycopg
import pytest

from archsync.core.job import JobStatus, JobType
from archsync.core.naming import DagKind
from archsync.core.study import Priority
from archsync.errors import InvalidInput
from archsync.ledger import destinations, dispatching, jobs, plan_queue
from archsync.ledger.database import Ledger


@pytest.fixture
def heard(ledger_dsn: str) -> Iterator[Callable[[], int]]:
    """How many notifications came since the last call."""
    with psycopg.connect(ledger_dsn, autocommit=True) as listener:
        listener.execute("listen archsync_work")

        def count() -> int:
            # What was committed before this is delivered with the answer to any query.
            listener.execute("select 1")
            return len(list(listener.notifies(timeout=0)))

        yield count


def test_nothing_to_do_is_said_so(ledger, destination):
    assert not dispatching.work_is_waiting(ledger)


def test_a_study_to_look_at_is_work(ledger):
    plan_queue.queue(ledger, ["s1"])

    assert dispatching.work_is_waiting(ledger)


@pytest.mark.parametrize(
    ("change", "is_work"),
    [
        ("update job set not_before = not_before", True),
        ("update job set not_before = now() + interval '1 hour'", False),
        ("update destination set enabled = false", False),
        ("update destination_health set look_again_at = now() + interval '1 hour'", False),
        ("update destination_health set down_since = now(), probe_at = now() + interval '1 hour'", False),
        ("update destination_health set down_since = now(), probe_at = now()", True),
        ("update job set status = 'ready', dispatched_at = now()", False),
        ("update job set status = 'ready', dispatched_at = now() - interval '10 minutes'", True),
        ("update job set status = 'ready', run_id = 'r', dispatched_at = now() - interval '10 minutes'", False),
        ("update job set status = 'failed'", False),
    ],
)
def test_a_due_job_is_work_unless_something_closes_its_destination(ledger, destination, add_job, sql, change, is_work):
    add_job()
    sql(change)

    assert dispatching.work_is_waiting(ledger) is is_work


DOWN = "update destination_health set down_since = now(), probe_at = 'infinity'"


@pytest.mark.parametrize(
    ("job_type", "change", "is_work"),
    [
        ("kos", "update destination_health set look_again_at = now() + interval '1 hour' where kind = 'iocm'", False),
        ("kos", "update destination_health set look_again_at = now() + interval '1 hour' where kind <> 'iocm'", True),
        # One DICOM peer, one circuit breaker: that of the row of kind archive.
        (
            "kos",
            "update destination_health set down_since = now(), probe_at = 'infinity' where kind = 'archive'",
            False,
        ),
        ("kos", f"{DOWN} where kind = 'adt'", True),
        ("adt", f"{DOWN} where kind = 'adt'", False),
        ("adt", f"{DOWN} where kind = 'archive'", True),
        # It has no run: its steps have.
        ("iocm", "", False),
    ],
)
def test_what_closes_one_kind_of_job_leaves_the_others_open(ledger, add_job, sql, job_type, change, is_work):
    sql("update job set job_type = %s where job_id = %s", job_type, add_job())
    if change:
        sql(change)

    assert dispatching.work_is_waiting(ledger) is is_work


def test_a_full_quota_of_images_does_not_hold_up_notes_as_urgent_but_less_urgent_ones(
    ledger, destination, add_job, make_study, sql
):
    for n in range(destination.concurrency * 4):
        sql("update job set status = 'ready', dispatched_at = now() where job_id = %s", add_job(make_study(f"s{n}")))
    note = add_job(make_study("s50"))
    sql("update job set job_type = 'kos' where job_id = %s", note)
    assert dispatching.work_is_waiting(ledger)

    add_job(make_study("s51"), priority=Priority.STAT)
    for n in range(52, 52 + destination.concurrency * 4):
        stat = add_job(make_study(f"s{n}"), priority=Priority.STAT)
        sql("update job set status = 'ready', dispatched_at = now() where job_id = %s", stat)
    assert not dispatching.work_is_waiting(ledger)


def test_an_iocm_job_never_counts_as_due_or_lost(ledger, destination, add_job, sql):
    job_id = add_job(not_before=datetime.now(UTC) + timedelta(hours=1))
    sql("update job set job_type = 'iocm' where job_id = %s", job_id)
    assert dispatching.next_wake(ledger) is None
    sql("update job set not_before = now()")
    assert dispatching.most_urgent_due(ledger) == {}
    for kind in DagKind:
        assert dispatching.claim_due(ledger, destination.destination_id, kind, Priority.ROUTINE, 9) == []
    sql("update job set status = 'retrying', updated_at = now() - interval '1 day'")
    assert dispatching.overdue_in_hand(ledger) == []


def test_a_job_behind_another_in_its_lane_is_no_work(ledger, add_job, sql):
    sql("update job set status = 'failed' where job_id = %s", add_job())
    add_job(job_type=JobType.DICOM)

    assert not dispatching.work_is_waiting(ledger)


def test_a_cancelled_job_that_is_retried_waits_for_a_later_one_that_runs(ledger, add_job, make_study, sql):
    cancelled = add_job()
    sql("update job set status = 'cancelled' where job_id = %s", cancelled)
    later = add_job(job_type=JobType.DICOM)
    other = add_job(make_study("s2"))
    sql("update job set status = 'running' where job_id = any(%s)", [later, other])
    sql("update job set status = 'waiting' where job_id = %s", cancelled)

    assert jobs.blocker(ledger, cancelled) == later
    sql("update job set status = 'retrying' where job_id = %s", later)
    assert jobs.blocker(ledger, cancelled) is None
    assert jobs.blocker(ledger, later) == cancelled


@pytest.mark.parametrize(
    ("in_hand", "priority", "is_work"),
    [
        (3, Priority.ROUTINE, True),
        (4, Priority.ROUTINE, False),
        (4, Priority.STAT, True),
    ],
)
def test_more_is_handed_out_when_slots_run_low_or_something_urgent_comes(
    ledger, destination, add_job, make_study, sql, in_hand, priority, is_work
):
    assert destination.concurrency == 2
    for n in range(in_hand):
        job_id = add_job(make_study(f"s{n}"))
        sql("update job set status = 'running' where job_id = %s", job_id)
    add_job(make_study("s9"), priority=priority)

    assert dispatching.work_is_waiting(ledger) is is_work


def test_a_destination_that_is_down_gets_one_job(ledger, destination, add_job, make_study, sql):
    sql("update destination_health set down_since = now(), probe_at = now()")
    sql("update job set status = 'ready', dispatched_at = now() where job_id = %s", add_job(make_study("s1")))
    add_job(make_study("s2"))

    assert not dispatching.work_is_waiting(ledger)


def test_the_next_wake_is_the_earliest_moment_something_falls_due(ledger, destination, add_job, make_study, sql):
    assert dispatching.next_wake(ledger) is None
    now = datetime.now(UTC)
    hours = [now + timedelta(hours=n) for n in range(5)]

    destinations.look_again(ledger, destination.destination_id, hours[4])
    assert dispatching.next_wake(ledger) == hours[4]
    sql("update destination_health set down_since = now(), probe_at = %s", hours[3])
    assert dispatching.next_wake(ledger) == hours[3]
    add_job(make_study("s1"), not_before=hours[2])
    assert dispatching.next_wake(ledger) == hours[2]
    add_job(make_study("s2"), not_before=hours[1])
    assert dispatching.next_wake(ledger) == hours[1]
    sql("update job set status = 'cancelled'")
    sql("update destination_health set down_since = null, look_again_at = now()")
    assert dispatching.next_wake(ledger) is None


# -- notifications -----------------------------------------------------------------------------------------------------


def test_a_new_job_and_a_study_to_look_at_notify_once_a_statement(ledger, add_job, heard):
    add_job()
    assert heard() == 1
    plan_queue.queue(ledger, [f"s{n}" for n in range(100)])
    assert heard() == 1


def test_a_transaction_notifies_once_and_only_if_it_commits(ledger, add_job, make_study, heard):
    def give_up() -> None:
        with ledger.transaction():
            add_job(make_study("s1"))
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        give_up()
    assert heard() == 0

    with ledger.transaction():
        add_job(make_study("s1"))
        add_job(make_study("s2"))
    assert heard() == 1


@pytest.mark.parametrize(
    ("status", "notifies"),
    [
        (JobStatus.WAITING, True),
        (JobStatus.RUNNING, False),
        (JobStatus.RETRYING, False),
        (JobStatus.SUCCEEDED, True),
        (JobStatus.FAILED, True),
        (JobStatus.SUPPRESSED, True),
        (JobStatus.CANCELLED, True),
    ],
)
def test_a_job_that_makes_room_notifies(ledger, add_job, heard, status, notifies):
    job_id = add_job()
    jobs.begin_attempt(ledger, job_id, dag_id="d", run_id="r", try_number=1)
    heard()

    jobs.move(ledger, job_id, status)

    assert heard() == int(notifies)


def test_progress_and_claims_do_not_notify(ledger, destination, add_job, heard):
    job_id = add_job()
    heard()
    dispatching.claim_due(ledger, destination.destination_id, DagKind.ARCHIVE, Priority.ROUTINE, 1)
    attempt_id = jobs.begin_attempt(ledger, job_id, dag_id="d", run_id="r", try_number=1)
    jobs.report(ledger, job_id, attempt_id, instances=1, size_bytes=1)

    assert heard() == 0


# -- the planner's queue -----------------------------------------------------------------------------------------------


def test_the_watermark_moves_with_the_studies_it_stands_for(ledger):
    assert plan_queue.read_position(ledger) == (None, 0)
    plan_queue.advance(ledger, "w1", ["s1", "s2", "s1"], resets=0)

    assert plan_queue.read_position(ledger) == ("w1", 0)
    with ledger.transaction():
        assert sorted(plan_queue.take(ledger, 10)) == ["s1", "s2"]


def test_a_reset_while_the_platform_is_read_is_not_lost(ledger):
    for watermark in ("w1", "w2"):
        _, resets = plan_queue.read_position(ledger)
        plan_queue.reset_watermark(ledger)
        plan_queue.advance(ledger, watermark, ["s1"], resets=resets)
        assert plan_queue.watermark(ledger) is None, "the next look reads all"
        plan_queue.advance(ledger, watermark, [], resets=resets + 1)
        assert plan_queue.watermark(ledger) == watermark


def test_a_planner_that_dies_gives_its_studies_back(ledger, ledger_dsn):
    plan_queue.queue(ledger, ["s1"])

    def die() -> None:
        with ledger.transaction():
            plan_queue.take(ledger, 1)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        die()

    with ledger.transaction():
        assert plan_queue.take(ledger, 1) == ["s1"]


def test_two_planners_take_different_studies(ledger, ledger_dsn):
    plan_queue.queue(ledger, ["s1", "s2"])
    with Ledger(ledger_dsn) as other, other.transaction(), ledger.transaction():
        assert sorted(plan_queue.take(other, 1) + plan_queue.take(ledger, 2)) == ["s1", "s2"]


def test_a_study_that_changes_while_it_is_planned_is_looked_at_again(ledger, ledger_dsn, sql):
    plan_queue.queue(ledger, ["s1"])
    with Ledger(ledger_dsn) as other:
        change = Thread(target=plan_queue.queue, args=(other, ["s1"]))
        with ledger.transaction():
            plan_queue.take(ledger, 1)
            change.start()
            _wait_until_blocked(sql)
        change.join(timeout=20)

    with ledger.transaction():
        assert plan_queue.take(ledger, 1) == ["s1"]


def _wait_until_blocked(sql: Callable[..., list[tuple]]) -> None:
    """Wait until a session of this database waits for another's lock."""
    for _ in range(10_000):
        if sql("select 1 from pg_stat_activity where datname = current_database() and wait_event_type = 'Lock'"):
            return
    raise AssertionError("the other session went past a study that is being planned")


def test_studies_that_cannot_be_read_are_shown_until_they_can(ledger):
    plan_queue.record_problem(ledger, "s1", InvalidInput("study_key s1: broken", code="bad-row"))
    plan_queue.record_problem(ledger, "s1", InvalidInput("study_key s1: broken otherwise", code="bad-row"))

    (problem,) = plan_queue.problems(ledger)
    assert (problem.study_key, problem.code, problem.message) == ("s1", "bad-row", "study_key s1: broken otherwise")
    plan_queue.clear_problems(ledger, ["s1"])
    assert plan_queue.problems(ledger) == []
