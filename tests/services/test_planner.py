"""From changes on the platform to jobs in the ledger, whatever happens in between."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from archsync.core.job import JobStatus, JobType, WaitReason
from archsync.core.planning import Rule
from archsync.core.study import Priority
from archsync.ledger import destinations, jobs, plan_queue, planned_jobs
from archsync.ledger.jobs import JobFilter
from archsync.services import job_control, planner


def everything(site) -> list[tuple]:
    """All that planning writes, without the moments."""
    return [
        (j.job.job_id, j.job.status, j.job.content_digest, j.job.priority, j.job.not_before, j.job.wait_reason)
        for j in jobs.listing(site.ledger, JobFilter())
    ]


def test_the_first_look_reads_everything_and_the_next_only_what_changed(site):
    site.add_destination()
    keys = [site.add_study() for _ in range(3)]

    assert planner.observe(site.platform, site.ledger) == 3
    report = planner.plan_queued(site.platform, site.ledger, now=datetime.now(UTC))
    assert (report.studies, report.jobs_made) == (3, 3)
    assert planner.observe(site.platform, site.ledger) == 0

    site.pacs.set_status(keys[1], "Cancelled")
    assert planner.observe(site.platform, site.ledger) == 1
    report = planner.plan_queued(site.platform, site.ledger, now=datetime.now(UTC))
    assert (report.studies, report.jobs_made, report.jobs_refreshed) == (1, 0, 1)


def test_planning_everything_again_writes_nothing(site):
    site.add_destination()
    keys = [site.add_study(priority=priority) for priority in Priority]
    site.plan()
    before = everything(site)

    for _ in range(2):
        plan_queue.reset_watermark(site.ledger)
        site.plan()
        plan_queue.queue(site.ledger, [*keys, keys[0]])
        site.plan()

    assert everything(site) == before


@pytest.mark.parametrize("where", ["before planning", "in mid-planning"])
def test_a_planner_that_dies_after_observing_loses_nothing(site, monkeypatch, where):
    site.add_destination()
    site.add_study()
    planner.observe(site.platform, site.ledger)
    if where == "in mid-planning":
        with monkeypatch.context() as patch:
            patch.setattr(planned_jobs, "insert_store", _die)
            with pytest.raises(SystemExit):
                planner.plan_queued(site.platform, site.ledger, now=datetime.now(UTC))
    site.ledger.close()

    assert len(site.plan()) == 1


def test_a_planner_that_dies_while_it_observes_reads_again(site, monkeypatch):
    site.add_destination()
    site.add_study()
    with monkeypatch.context() as patch:
        patch.setattr(plan_queue, "advance", _die)
        with pytest.raises(SystemExit):
            planner.observe(site.platform, site.ledger)

    assert len(site.plan()) == 1


def _die(*_: object, **__: object) -> None:
    raise SystemExit


def test_a_destination_made_while_the_platform_is_read_gets_its_studies(site, monkeypatch):
    site.add_destination(name="first")
    site.add_study()
    walk = site.platform.walk_study_keys

    def walk_and_be_overtaken(batch_size: int):
        yield from walk(batch_size)
        planner.plan_queued(site.platform, site.ledger, now=datetime.now(UTC))
        site.add_destination(name="second")
        plan_queue.reset_watermark(site.ledger)

    with monkeypatch.context() as patch:
        patch.setattr(site.platform, "walk_study_keys", walk_and_be_overtaken)
        planner.observe(site.platform, site.ledger)
    site.plan()

    assert {site.job(job_id).destination for job_id in site.open_jobs()} == {"first", "second"}


def test_each_destination_has_its_own_trigger_and_scope(site):
    site.add_destination(name="early", trigger_status="Pending")
    site.add_destination(name="late")
    site.add_destination(name="south", facilities=("SOUTH",), trigger_status="Pending")
    site.add_study(exam_status="Pending", facility_id="CITY")

    assert [site.job(n).destination for n in site.plan()] == ["early"]


def test_a_study_that_breaks_the_contract_is_shown_and_the_others_go_on(site):
    site.add_destination()
    bad, good = site.add_study(), site.add_study()
    site.dba("update pacs.instance set sop_instance_uid = 'no uid' where study_key = %s and instance_number = 1", bad)

    (job_id,) = site.plan()

    assert site.job(job_id).study_key == good
    (problem,) = plan_queue.problems(site.ledger)
    assert problem.study_key == bad
    site.dba("update pacs.instance set sop_instance_uid = '1.2.3' where study_key = %s and instance_number = 1", bad)
    assert len(site.plan()) == 2
    assert plan_queue.problems(site.ledger) == []


def test_a_dry_run_says_what_would_happen_and_writes_nothing(site):
    site.add_destination()
    study_key = site.add_study()

    (planned,) = planner.dry_run(site.platform, site.ledger, [study_key], now=datetime.now(UTC))

    assert (planned.plan.store.rule, planned.destination.name) == (Rule.DUE, "vna")
    assert jobs.listing(site.ledger, JobFilter()) == []
    assert plan_queue.watermark(site.ledger) is None


def test_images_that_keep_arriving_are_one_job_that_starts_within_the_longest_wait(site):
    site.add_destination(settle_s=30.0, settle_max_s=100.0)
    study_key = site.add_study(1)
    began = datetime.now(UTC)
    (job_id,) = site.plan(now=began)
    assert site.job(job_id).wait_reason is WaitReason.SETTLING

    for number in range(1, 5):
        uid = site.study_uid(study_key)
        site.pacs.add_instances(study_key, site.write(uid, 1, series_number=number + 1))
        assert site.plan(now=began + timedelta(seconds=25 * number)) == [job_id]

    job = site.job(job_id)
    assert (job.instances_total, job.not_before) == (5, job.created_at + timedelta(seconds=100))


def test_a_stat_study_is_due_at_once(site):
    site.add_destination(settle_s=30.0, settle_max_s=100.0)
    site.add_study(priority=Priority.STAT)
    (job_id,) = site.plan()

    assert site.hand_out() == [job_id]


def test_a_cancelled_job_stays_cancelled_until_the_study_changes(site):
    site.add_destination()
    study_key = site.add_study()
    (job_id,) = site.plan()
    job_control.cancel(site.ledger, job_id, actor="archsync", reason="not this one")

    plan_queue.queue(site.ledger, [study_key])
    assert site.plan() == []

    site.add_late_images(study_key)
    assert len(site.plan()) == 1


def test_a_failed_job_is_superseded_when_the_study_changes(site):
    site.add_destination()
    study_key = site.add_study()
    (job_id,) = site.plan()
    jobs.begin_attempt(site.ledger, job_id, dag_id="d", run_id="r", try_number=1)
    jobs.move(site.ledger, job_id, JobStatus.FAILED)
    plan_queue.queue(site.ledger, [study_key])
    assert site.plan() == [job_id]

    site.add_late_images(study_key)
    (newer,) = site.plan()

    old = site.job(job_id)
    assert (old.status, old.superseded_by, site.job(newer).job_type) == (JobStatus.CANCELLED, newer, JobType.ARCHIVE)
    assert destinations.get(site.ledger, "vna").destination_id == old.destination_id
